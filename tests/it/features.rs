//! What a user of the library compiles.

use std::{collections::BTreeSet, process::Command};

/// Of the program, and of nobody else.
const DAEMON: [&str; 9] = [
    "axum",
    "clap",
    "clap_complete",
    "comfy-table",
    "config",
    "opentelemetry-otlp",
    "reqwest",
    "signal-hook-tokio",
    "tracing-subscriber",
];

/// The packages that are compiled with these features.
fn packages(features: &[&str]) -> BTreeSet<String> {
    let tree = Command::new(env!("CARGO"))
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .args(["tree", "--locked", "--offline", "--edges", "normal", "--prefix", "none"])
        .args(features)
        .output()
        .expect("cargo runs");
    assert!(tree.status.success(), "{}", String::from_utf8_lossy(&tree.stderr));
    let tree = String::from_utf8(tree.stdout).expect("names");
    tree.lines().filter_map(|line| line.split(' ').next()).map(str::to_owned).collect()
}

#[test]
fn whoever_wants_locks_on_mysql_compiles_no_daemon() {
    let all = packages(&[]);
    for package in DAEMON {
        assert!(all.contains(package), "the program is made without {package}");
    }
    let library = packages(&["--no-default-features", "--features", "mysql"]);
    assert!(library.contains("sqlx-mysql"));
    for package in DAEMON {
        assert!(!library.contains(package), "the library brings {package}");
    }
    let others = ["kube", "redis", "libsqlite3", "sqlx-sqlite"];
    let unwanted = |name: &&String| others.iter().any(|other| name.starts_with(other));
    assert_eq!(library.iter().find(unwanted), None);
}

#[test]
fn whoever_wants_locks_elsewhere_compiles_no_database() {
    let library = packages(&["--no-default-features"]);
    assert_eq!(library.iter().find(|name| name.starts_with("sqlx")), None);
    let redis = packages(&["--no-default-features", "--features", "redis"]);
    assert!(redis.contains("redis") && !redis.contains("sqlx"));
    let sqlite = packages(&["--no-default-features", "--features", "sqlite"]);
    assert!(sqlite.contains("sqlx-sqlite") && !sqlite.contains("sqlx-mysql"));
}
