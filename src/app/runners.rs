//! The runners as the configuration wants them.
//!
//! **Invariant:** no step may call what belongs to the worker itself, wherever its configuration
//! says that it is.

use std::net::SocketAddr;

use secrecy::ExposeSecret;

use crate::{
    adapters::runners::{
        Runners,
        func::FuncRegistry,
        http::{HttpRunner, HttpSettings},
        shell::{Limits, ShellSettings},
    },
    config::{Config, Store},
    domain::{
        egress::{Own, Owned, Place},
        pod::Life,
    },
    orchestrator::LockConfig,
};

/// `admin` is where the admin port listens; `life` is this process's own.
pub fn runners(config: &Config, admin: Option<SocketAddr>, life: Option<&Life>) -> Runners {
    let pass = config.shell.pass_env.iter();
    let shell = ShellSettings {
        grace: config.shell.grace,
        live_output: config.shell.live_output,
        limits: Limits {
            memory: config.shell.limits.memory,
            processes: config.shell.limits.processes,
            file_size: config.shell.limits.file_size,
        },
        state_dir: config.state_dir.clone(),
        life: life.cloned(),
        pass_env: pass.map(|(name, value)| (name.clone(), value.expose_secret().into())).collect(),
        ..ShellSettings::default()
    };
    let http = HttpSettings {
        connect_timeout: config.http.connect_timeout,
        most_sent: config.http.most_sent,
        most_read: config.http.most_read,
        policy: config.http.policy.clone(),
        own: own_servers(config, admin),
        ..HttpSettings::default()
    };
    Runners::new(Some(shell), FuncRegistry::default()).with(HttpRunner::new(http))
}

/// Servers that belong to this worker, which its steps may not call.
fn own_servers(config: &Config, admin: Option<SocketAddr>) -> Vec<Own> {
    let mut own = Vec::new();
    if let Some(address) = admin {
        let place = match address.ip() {
            any if any.is_unspecified() => Place::ThisHost,
            one => Place::Address(one),
        };
        own.push(Own { what: Owned::AdminPort, place, port: address.port() });
    }
    if let Store::MySql(mysql) = &config.store {
        let place = Place::of_host(&mysql.host);
        own.push(Own { what: Owned::Database, place, port: mysql.port });
    }
    for (host, port) in config.leases.iter().flat_map(LockConfig::servers) {
        own.push(Own { what: Owned::LockServer, place: Place::of_host(&host), port });
    }
    if let Some((host, port)) = &config.http.api_server {
        own.push(Own { what: Owned::ApiServer, place: Place::of_host(host), port: *port });
    }
    own
}
