//! etcd.

use std::{fs, sync::Arc, time::Duration};

use async_trait::async_trait;
use orchestrator_worker::{
    adapters::etcd::{EtcdLocks, Settings},
    conformance,
    orchestrator::{EtcdLockConfig, LockConfig},
    ports::lock::{LockError, LockProvider, Renewed},
};
use serde_json::{Value, json};
use url::Url;
use uuid::Uuid;

use super::{
    a_lock_excludes_and_grows_its_fence, contenders,
    faults::{self, PATIENCE, taken},
    key,
    own::Own,
    wish,
};
use crate::{authority::Authority, proxy::Proxy, servers::etcd_url};

struct Etcd(Settings);

#[async_trait]
impl conformance::Subject for Etcd {
    async fn provider(&self) -> Arc<dyn LockProvider> {
        Arc::new(open(&self.0).await)
    }

    fn tells_age(&self) -> bool {
        false
    }

    fn contenders(&self) -> usize {
        contenders()
    }

    /// A server makes a shorter lease longer.
    fn shortest_ttl(&self) -> Duration {
        Duration::from_secs(2)
    }
}

async fn open(settings: &Settings) -> EtcdLocks {
    EtcdLocks::open(settings.clone()).await.expect("a server")
}

fn at(url: &str) -> Settings {
    of(&[url])
}

fn of(endpoints: &[&str]) -> Settings {
    let endpoints = endpoints.iter().map(|url| url.parse().expect("a URL")).collect();
    Settings { prefix: format!("test-{}:", Uuid::new_v4().simple()), ..Settings::new(endpoints) }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_promise_of_a_lock_provider_is_kept() {
    conformance::check(Etcd(at(&etcd_url()))).await;
}

async fn proxied() -> (EtcdLocks, EtcdLocks, Proxy) {
    let near = at(&etcd_url());
    let server = near.endpoints[0].socket_addrs(|| None).expect("its address")[0];
    let proxy = Proxy::start(server).await;
    let endpoints = vec![Url::parse(&format!("http://{}", proxy.address())).expect("a URL")];
    let far = Settings { endpoints, timeout: PATIENCE, ..near.clone() };
    (open(&near).await, open(&far).await, proxy)
}

faults::stories! { "etcd" }

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_member_is_asked_where_one_cannot_be_reached() {
    let nobody = format!("http://127.0.0.1:{}", crate::debian::free_port());
    let locks = open(&of(&[&nobody, &etcd_url()])).await;
    taken(&locks, &wish(&key("k"), "a")).await;
}

/// A lease of etcd lasts as long as it was made for; a lock may ask for another time at each renewal.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_renewal_may_be_for_longer_than_the_lock_was_taken_for() {
    let locks = open(&at(&etcd_url())).await;
    let mut short = wish(&key("k"), "a");
    short.ttl = Duration::from_secs(30);
    let lease = taken(&locks, &short).await;
    assert_eq!(locks.renew(&lease, Duration::from_secs(300)).await, Ok(Renewed::Held));
    let held = locks.inspect(&short.key).await.expect("an answer").expect("it is held");
    assert_eq!(held.fence, lease.fence);
    assert!(held.expires_in > Duration::from_secs(290), "{held:?}");
    assert_eq!(locks.release(&lease).await, Ok(true));
    assert_eq!(locks.inspect(&short.key).await, Ok(None));
}

const PASSWORD: &str = "correct-horse-battery";

/// An etcd behind TLS.
fn secured(authority: &Authority) -> Own {
    Own::start(
        "ready to serve client requests",
        |folder, _| authority.write_server("localhost", folder),
        |seen, port| {
            [
                "etcd".to_owned(),
                format!("--data-dir={seen}/data"),
                format!("--listen-client-urls=https://127.0.0.1:{port}"),
                format!("--advertise-client-urls=https://127.0.0.1:{port}"),
                "--listen-peer-urls=http://127.0.0.1:0".to_owned(),
                format!("--cert-file={seen}/server.pem"),
                format!("--key-file={seen}/key.pem"),
            ]
            .into()
        },
    )
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_must_prove_its_name_and_its_users_theirs() {
    let (ours, theirs) = (Authority::new("ours"), Authority::new("theirs"));
    let server = tokio::task::block_in_place(|| secured(&ours));
    let ca = fs::read(server.file("ca.pem")).expect("it is there");
    theirs.write(&server.file("theirs.pem"));
    let strange = fs::read(server.file("theirs.pem")).expect("it is there");
    let user = |name: &str, password: &str| Some((name.to_owned(), password.into()));
    let with = |host: &str, ca: &[u8], user| {
        let endpoint = format!("https://{host}:{}", server.port);
        Settings { ca: ca.to_vec(), user, ..at(&endpoint) }
    };
    open(&with("localhost", &ca, None)).await;
    let pem = reqwest::Certificate::from_pem(&ca).expect("a certificate");
    let client = reqwest::Client::builder().tls_certs_only([pem]).build().expect("a client");
    let tell = async |what: &str, asked: Value, token: Option<&str>| -> Value {
        let url = format!("https://localhost:{}/v3/{what}", server.port);
        let mut asked = client.post(url).body(asked.to_string());
        if let Some(token) = token {
            asked = asked.header("Authorization", token);
        }
        let text = asked.send().await.expect("an answer").text().await.expect("a text");
        let told: Value = serde_json::from_str(&text).expect("JSON");
        assert!(told.get("error").is_none(), "{what}: {told}");
        told
    };
    tell("auth/user/add", json!({"name": "root", "password": PASSWORD}), None).await;
    tell("auth/role/add", json!({"name": "root"}), None).await;
    tell("auth/user/grant", json!({"user": "root", "role": "root"}), None).await;
    tell("auth/user/add", json!({"name": "nobody", "password": PASSWORD}), None).await;
    tell("auth/enable", json!({}), None).await;

    let locks = open(&with("localhost", &ca, user("root", PASSWORD))).await;
    let lease = taken(&locks, &wish(&key("k"), "a")).await;
    for (what, settings, is_for_a_person) in [
        ("an authority that we do not know", with("localhost", &strange, None), false),
        ("another name than it proves", with("127.0.0.1", &ca, None), false),
        ("a wrong password", with("localhost", &ca, user("root", "wrong")), true),
        ("no user", with("localhost", &ca, None), true),
        ("one without rights", with("localhost", &ca, user("nobody", PASSWORD)), true),
    ] {
        let refused = EtcdLocks::open(settings).await.err().expect(what);
        assert!(!refused.to_string().contains(PASSWORD), "{what}: {refused}");
        assert_eq!(matches!(refused, LockError::NotReady(_)), is_for_a_person, "{what}: {refused}");
    }
    // Every change of a user makes all tokens void.
    let asked = json!({"name": "root", "password": PASSWORD});
    let token = tell("auth/authenticate", asked, None).await["token"].as_str().map(str::to_owned);
    tell("auth/user/add", json!({"name": "later", "password": "x"}), token.as_deref()).await;
    assert_eq!(locks.renew(&lease, Duration::from_secs(60)).await, Ok(Renewed::Held));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_configuration_is_enough_to_lock_in_it() {
    let config = LockConfig {
        provider: "etcd".into(),
        etcd: EtcdLockConfig {
            endpoints: vec![etcd_url()],
            key_prefix: format!("test-{}:", Uuid::new_v4().simple()),
            ..EtcdLockConfig::default()
        },
        ..LockConfig::default()
    };
    a_lock_excludes_and_grows_its_fence(config).await;
}
