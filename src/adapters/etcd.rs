//! Locks in etcd, through the JSON gateway of its servers.
//!
//! A lock is a key under a lease of etcd's own, which ends with it. Its fence is the revision that made
//! the key: etcd counts one up with every change of anything, and never down, unless a snapshot is
//! restored.
//!
//! **Invariant:** a key is made only where none is, and deleted, or moved to another lease, only while
//! its revision is that of the fence. Leases last for whole seconds, so a time is rounded up: a lock never
//! ends before its holder's deadline.

use std::{
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use async_trait::async_trait;
use secrecy::SecretString;
use serde::{Deserialize, Serialize};
use serde_json::json;
use url::Url;

use self::{
    gateway::Gateway,
    wire::{KeepAlive, KeyValue, Left, Range, Txn, bytes},
};
use crate::{
    domain::{id::Fence, lock::PlainKey},
    ports::lock::{Acquire, Acquired, Inspected, KeyLease, LockError, LockProvider, Renewed},
};

mod gateway;
mod wire;

/// Where the locks are, and how they are called there.
#[derive(Clone, Debug)]
pub struct Settings {
    /// `http://host:2379` or `https://`, of any members; the next one is asked where one does not answer.
    pub endpoints: Vec<Url>,
    pub user: Option<(String, SecretString)>,
    /// Certificates in PEM of those who may have signed the servers'; the system's own where it is empty.
    pub ca: Vec<u8>,
    /// A certificate and its key in PEM, where the servers ask for one. (etcd's gateway takes a user's
    /// name from no certificate.)
    pub identity: Option<(Vec<u8>, SecretString)>,
    /// Stands before every key.
    pub prefix: String,
    /// For each answer.
    pub timeout: Duration,
}

impl Settings {
    pub const TIMEOUT: Duration = Duration::from_secs(3);
    pub const PREFIX: &str = "/orchestrator/locks/";

    /// Without a user, with the system's certificates.
    pub fn new(endpoints: Vec<Url>) -> Self {
        Self {
            endpoints,
            user: None,
            ca: Vec::new(),
            identity: None,
            prefix: Self::PREFIX.into(),
            timeout: Self::TIMEOUT,
        }
    }
}

/// What stands under a key.
#[derive(Serialize, Deserialize)]
struct Holder {
    owner: String,
    nonce: u64,
}

/// A table of locks.
pub struct EtcdLocks {
    gateway: Gateway,
    prefix: String,
    is_closed: AtomicBool,
}

impl EtcdLocks {
    /// Asks a server for something, so that wrong settings are told at once.
    pub async fn open(settings: Settings) -> Result<Self, LockError> {
        let prefix = settings.prefix.clone();
        let locks =
            Self { gateway: Gateway::new(settings)?, prefix, is_closed: AtomicBool::new(false) };
        locks.read(&format!("{}-", locks.prefix)).await?;
        Ok(locks)
    }

    fn named(&self, key: &PlainKey) -> String {
        format!("{}{key}", self.prefix)
    }

    fn check_open(&self) -> Result<(), LockError> {
        if self.is_closed.load(Ordering::Acquire) { Err(LockError::Closed) } else { Ok(()) }
    }

    async fn read(&self, key: &str) -> Result<Option<KeyValue>, LockError> {
        let found: Range = self.gateway.ask("kv/range", &json!({"key": bytes(key)})).await?;
        Ok(found.kvs.into_iter().next())
    }

    /// A lease of this id that lasts so long from now, whether it is there already or not.
    async fn grant(&self, id: u64, ttl: Duration) -> Result<(), LockError> {
        let ttl = seconds(ttl);
        // etcd makes a very short one longer.
        if self.gateway.grant(id, ttl).await? || self.keep_alive(id).await? >= Some(ttl) {
            return Ok(());
        }
        Err(LockError::Unavailable(format!("lease {id} of etcd was there and is gone")))
    }

    /// How many seconds the lease lasts from now on; `None` if it is gone.
    async fn keep_alive(&self, id: u64) -> Result<Option<u64>, LockError> {
        let answer: KeepAlive =
            self.gateway.ask("lease/keepalive", &json!({"ID": id.to_string()})).await?;
        Ok(Some(answer.result.ttl).filter(|ttl| *ttl > 0))
    }

    /// Best effort: what is not revoked ends by itself.
    async fn revoke(&self, id: u64) {
        let asked = json!({"ID": id.to_string()});
        if let Err(error) = self.gateway.ask::<wire::Nothing>("lease/revoke", &asked).await {
            tracing::debug!(%error, "a lease of etcd is left to its end");
        }
    }

    /// Makes `change` if the key was made by `revision` (0: if there is none), else reads it.
    async fn change(
        &self,
        key: &str,
        revision: u64,
        change: serde_json::Value,
    ) -> Result<Txn, LockError> {
        let asked = json!({
            "compare": [{
                "target": "CREATE", "result": "EQUAL", "key": bytes(key),
                "create_revision": revision.to_string(),
            }],
            "success": [change],
            "failure": [{"request_range": {"key": bytes(key)}}],
        });
        self.gateway.ask("kv/txn", &asked).await
    }

    /// Who has a key that was found; for no time any more if it is gone by now.
    async fn seen(&self, found: &KeyValue) -> Result<Inspected, LockError> {
        let asked = json!({"ID": found.lease.to_string()});
        let left: Left = self.gateway.ask("lease/timetolive", &asked).await?;
        // A key without a lease never ends: somebody else has made it.
        let expires_in = match left.ttl {
            _ if found.lease == 0 => Duration::MAX,
            // A part of a second is cut off.
            0.. => Duration::from_secs((left.ttl.unsigned_abs() + 1).min(left.granted)),
            _ => Duration::ZERO,
        };
        let owner = found.holder().map_or_else(|| found.text(), |holder| holder.owner);
        Ok(Inspected { owner, fence: Fence(found.create_revision), age: None, expires_in })
    }

    /// Ours by this very wish, or another's.
    async fn of_whom(&self, request: &Acquire, found: &KeyValue) -> Result<Acquired, LockError> {
        if found.is_of(&request.owner, request.nonce)
            && self.keep_alive(found.lease).await?.is_some()
        {
            return Ok(Acquired::Ours(lease_of(request, found.create_revision)));
        }
        Ok(Acquired::Theirs(self.seen(found).await?))
    }
}

fn lease_of(request: &Acquire, revision: u64) -> KeyLease {
    KeyLease {
        key: request.key.clone(),
        owner: request.owner.clone(),
        fence: Fence(revision),
        nonce: request.nonce,
    }
}

fn seconds(ttl: Duration) -> u64 {
    ttl.as_secs() + u64::from(ttl.subsec_nanos() > 0)
}

#[async_trait]
impl LockProvider for EtcdLocks {
    async fn acquire(&self, request: &Acquire) -> Result<Acquired, LockError> {
        self.check_open()?;
        let key = self.named(&request.key);
        // Whoever waits for a key only reads.
        if let Some(found) = self.read(&key).await? {
            return self.of_whom(request, &found).await;
        }
        // Of the same wish always the same; 0 would leave the number to the server.
        let id = request.nonce.get().max(1);
        self.grant(id, request.ttl).await?;
        let holder =
            Holder { owner: request.owner.as_str().to_owned(), nonce: request.nonce.get() };
        let value = serde_json::to_string(&holder).expect("text and a number");
        let put = json!({"request_put": {
            "key": bytes(&key), "value": bytes(&value), "lease": id.to_string(),
        }});
        let answer = self.change(&key, 0, put).await?;
        if answer.succeeded {
            return Ok(Acquired::Ours(lease_of(request, answer.header.revision)));
        }
        let found = answer.found().ok_or_else(|| {
            LockError::NotReady("etcd says that a key is there, and does not show it".into())
        })?;
        let answer = self.of_whom(request, &found).await?;
        if let Acquired::Theirs(_) = answer {
            self.revoke(id).await;
        }
        Ok(answer)
    }

    async fn renew(&self, lease: &KeyLease, ttl: Duration) -> Result<Renewed, LockError> {
        self.check_open()?;
        let key = self.named(&lease.key);
        let found = self.read(&key).await?;
        let Some(found) = found.filter(|found| found.is_under(lease)) else {
            return Ok(Renewed::Gone);
        };
        match self.keep_alive(found.lease).await? {
            None => Ok(Renewed::Gone),
            Some(left) if left >= seconds(ttl) => Ok(Renewed::Held),
            // A lease of etcd lasts as long as at first: another takes its place.
            Some(_) => {
                let id = rand::random::<u64>() >> 1;
                self.grant(id, ttl).await?;
                let put = json!({"request_put": {
                    "key": bytes(&key), "ignore_value": true, "lease": id.to_string(),
                }});
                let answer = self.change(&key, lease.fence.0, put).await?;
                self.revoke(if answer.succeeded { found.lease } else { id }).await;
                Ok(if answer.succeeded { Renewed::Held } else { Renewed::Gone })
            }
        }
    }

    async fn release(&self, lease: &KeyLease) -> Result<bool, LockError> {
        self.check_open()?;
        let key = self.named(&lease.key);
        if !self.read(&key).await?.is_some_and(|found| found.is_under(lease)) {
            return Ok(false);
        }
        let delete = json!({"request_delete_range": {"key": bytes(&key), "prev_kv": true}});
        let answer = self.change(&key, lease.fence.0, delete).await?;
        if let Some(deleted) = answer.deleted() {
            self.revoke(deleted.lease).await;
        }
        Ok(answer.succeeded)
    }

    async fn inspect(&self, key: &PlainKey) -> Result<Option<Inspected>, LockError> {
        self.check_open()?;
        let Some(found) = self.read(&self.named(key)).await? else { return Ok(None) };
        Ok(Some(self.seen(&found).await?).filter(|held| !held.expires_in.is_zero()))
    }

    async fn close(&self) {
        self.is_closed.store(true, Ordering::Release);
    }
}
