//! What a worker looks at once its store is open, before it begins.
//!
//! **Invariant:** a worker that would take the orchestrator's times for others does not begin; of
//! everything else that is not as it should be it says so once, and begins.

use super::{AppError, Stores};
use crate::{
    config::Store,
    domain::doctor::{self, Caution, CautionKind, Circumstances},
    instruments::{ByKind, Instruments},
};

pub async fn look(
    stores: &Stores,
    store: &Store,
    instruments: &Instruments,
) -> Result<(), AppError> {
    let Circumstances { server, orchestrator_ms } = stores.control.circumstances().await?;
    if let Store::MySql(mysql) = store
        && let Some(sentence) = doctor::wrong_zone(orchestrator_ms, &mysql.time_offset)
    {
        return Err(AppError::WrongZone(sentence));
    }
    tell(&doctor::cautions(&server), instruments);
    Ok(())
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
