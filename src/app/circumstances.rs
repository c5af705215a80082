//! What a worker looks at once its store is open, before it begins.
//!
//! **Invariant:** a worker that would take the orchestrator's times for others does not begin; of
//! everything else that is not as it should be it says so once, and begins.

use super::{AppError, Stores};
use crate::{
    config::{Config, Store},
    domain::{
        doctor::{self, Caution, CautionKind, Circumstances},
        drain_contract::{Breach, breaches},
    },
    instruments::{ByKind, Instruments},
};

pub async fn look(
    stores: &Stores,
    config: &Config,
    instruments: &Instruments,
) -> Result<(), AppError> {
    let Circumstances { server, orchestrator_ms, longest_step } =
        stores.control.circumstances().await?;
    if let Store::MySql(mysql) = &config.store
        && let Some(sentence) = doctor::wrong_zone(orchestrator_ms, &mysql.time_offset)
    {
        return Err(AppError::WrongZone(sentence));
    }
    tell(&doctor::cautions(&server), instruments);
    if let Some(terms) = &config.pod {
        let deadline = config.worker.drain_deadline;
        hold_to(&breaches(terms, deadline, longest_step.as_ref()), instruments);
    }
    Ok(())
}

/// The terms of the pod.
fn hold_to(breaches: &[Breach], instruments: &Instruments) {
    instruments.drain_contract_ok.set(i64::from(breaches.is_empty()));
    for Breach { found, repair } in breaches {
        tracing::warn!(event = "drain.contract", repair, "{found}");
    }
}

fn tell(cautions: &[Caution], instruments: &Instruments) {
    for kind in CautionKind::ALL {
        let by = ByKind { kind: kind.as_str() };
        let is_so = cautions.iter().any(|caution| caution.kind == kind);
        instruments.database_warnings.get_or_create(&by).set(i64::from(is_so));
    }
    for Caution { kind, found, repair } in cautions {
        tracing::warn!(event = "database.warning", kind = kind.as_str(), repair, "{found}");
    }
}
