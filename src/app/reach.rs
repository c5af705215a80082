//! Whether a collector takes connections, and whether a lock server answers.
//!
//! **Invariant:** no span is sent, and no lock taken.

use std::time::Duration;

use tokio::{net::TcpStream, time::timeout};

use crate::{
    config::Config,
    domain::doctor::Export,
    orchestrator::{LockConfig, ProviderRegistry},
    ports::lock::LockError,
};

/// Asks the server that keeps leases for something, if there is one.
pub async fn reach_leases(leases: &LockConfig) -> Result<(), LockError> {
    let provider = ProviderRegistry::default().open(leases).await?;
    provider.close().await;
    Ok(())
}

const PATIENCE: Duration = Duration::from_secs(5);

/// Connects where spans would be sent, if anywhere.
pub async fn reach(config: &Config) -> Export {
    if !config.otlp.enabled {
        return Export::Off;
    }
    let Some((host, port)) = &config.otlp.collector else {
        return Export::Unreached("the OTLP endpoint".into(), "it is not a URL".into());
    };
    let server = format!("{host}:{port}");
    match timeout(PATIENCE, TcpStream::connect((host.as_str(), *port))).await {
        Ok(Ok(_)) => Export::Reached(server),
        Ok(Err(error)) => Export::Unreached(server, error.to_string()),
        Err(_) => Export::Unreached(server, format!("no answer within {PATIENCE:?}")),
    }
}
