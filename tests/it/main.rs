//! One binary of integration tests, because each further one costs a link.
//!
//! **Invariant:** a test that needs a server stands in a module named after it (`on_mysql`, `on_mariadb`,
//! `on_redis`, `on_etcd`), one that needs a cluster in `on_cluster`, one that needs Jaeger in `on_jaeger`, so that `tests/run` can leave it out by
//! name; none skips itself.

mod admin;
mod architecture;
mod authority;
mod bad_input;
mod commands;
mod config;
mod contract;
mod crash;
mod database_tls;
mod deaths;
mod debian;
mod definitions;
mod doctor;
mod egress;
mod events;
mod examples;
mod features;
mod first_errors;
mod fuzz;
mod graphs;
mod hostile_steps;
mod http;
mod instance;
mod json_shapes;
mod keys;
mod leased;
mod locks;
mod logs;
mod marks;
mod mysql;
mod nemesis;
mod on_cluster;
mod one_per_template;
mod openmetrics;
mod own_server;
mod plan_cost;
mod process;
mod proxy;
mod readme;
mod reload;
mod servers;
mod shell;
mod sqlite;
mod standby;
mod steering;
mod stores;
mod submit;
mod telemetry;
mod tour;
mod traces;
mod watch;
mod worker;
mod workflow_file;
mod workflow_properties;
