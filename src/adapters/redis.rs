//! Locks in Redis or Valkey: one server, or whichever one Sentinel says is the master.
//!
//! A lock is a hash that expires by the server's own clock, which is a wall clock: one that is set
//! forward ends locks early. Replication is asynchronous: a failover may lose a lock that was
//! acknowledged, and only the fence on whatever is written under it stops its former holder then. So
//! may an eviction; `maxmemory-policy` has to be `noeviction`.
//!
//! **Invariant:** each verb is one script, which the server runs whole or not at all. A fence is greater
//! than the last one that the server remembers, and not less than its clock in microseconds, so that
//! fences grow though a failover forgets some.

use std::{
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use async_trait::async_trait;
use redis::{FromRedisValue, Script, ScriptInvocation};
use secrecy::SecretString;

use self::connection::Connections;
use crate::{
    domain::{id::Fence, lock::PlainKey},
    ports::lock::{Acquire, Acquired, Inspected, KeyLease, LockError, LockProvider, Renewed},
};

mod connection;

/// Where the locks are, and how they are called there.
#[derive(Clone, Debug)]
pub struct Settings {
    /// `redis://user:password@host:port/database`, or `rediss://` for TLS.
    pub url: SecretString,
    pub sentinels: Option<Sentinels>,
    /// Certificates in PEM of those who may have signed the servers'; the system's own where it is empty.
    pub ca: Vec<u8>,
    /// A certificate and its key in PEM, where the servers ask for one.
    pub identity: Option<(Vec<u8>, SecretString)>,
    /// Stands before every key.
    pub prefix: String,
    /// For a connection, and for each answer.
    pub timeout: Duration,
}

/// Who is asked for the master. User, password, database and TLS of the master are those of
/// [`Settings::url`], whose host is not used.
#[derive(Clone, Debug)]
pub struct Sentinels {
    /// As [`Settings::url`], without a database.
    pub urls: Vec<SecretString>,
    /// What the sentinels call it.
    pub master: String,
}

impl Settings {
    pub const TIMEOUT: Duration = Duration::from_secs(3);
    pub const PREFIX: &str = "orchestrator:";

    /// Of one server, with the system's certificates.
    pub fn new(url: SecretString) -> Self {
        Self {
            url,
            sentinels: None,
            ca: Vec::new(),
            identity: None,
            prefix: Self::PREFIX.into(),
            timeout: Self::TIMEOUT,
        }
    }
}

/// Returns fence, or owner, fence, age in microseconds and milliseconds left of whoever holds the key.
/// A lock that is asked for again lasts from then on.
const ACQUIRE: &str = "
local held = redis.call('HMGET', KEYS[1], 'owner', 'nonce', 'fence', 'taken')
local time = redis.call('TIME')
local now = tonumber(time[1]) * 1000000 + tonumber(time[2])
if held[1] == ARGV[1] and held[2] == ARGV[2] then
  redis.call('PEXPIRE', KEYS[1], ARGV[3])
  return {held[3]}
end
if held[1] then
  local age = string.format('%.0f', math.max(now - tonumber(held[4]), 0))
  return {held[1], held[3], age, tostring(redis.call('PTTL', KEYS[1]))}
end
local fence = math.max(tonumber(redis.call('GET', KEYS[2]) or 0) + 1, now)
fence = string.format('%.0f', fence)
redis.call('SET', KEYS[2], fence)
redis.call('HSET', KEYS[1], 'owner', ARGV[1], 'nonce', ARGV[2], 'fence', fence,
  'taken', string.format('%.0f', now))
redis.call('PEXPIRE', KEYS[1], ARGV[3])
return {fence}
";

/// Returns whether the lock was there under this lease.
const RENEW: &str = "
local held = redis.call('HMGET', KEYS[1], 'owner', 'nonce', 'fence')
if held[1] ~= ARGV[1] or held[2] ~= ARGV[2] or held[3] ~= ARGV[3] then return 0 end
return redis.call('PEXPIRE', KEYS[1], ARGV[4])
";

/// The same.
const RELEASE: &str = "
local held = redis.call('HMGET', KEYS[1], 'owner', 'nonce', 'fence')
if held[1] ~= ARGV[1] or held[2] ~= ARGV[2] or held[3] ~= ARGV[3] then return 0 end
return redis.call('DEL', KEYS[1])
";

/// Returns nothing, or what [`ACQUIRE`] returns of whoever holds the key.
const INSPECT: &str = "
local held = redis.call('HMGET', KEYS[1], 'owner', 'fence', 'taken')
if not held[1] then return {} end
local time = redis.call('TIME')
local now = tonumber(time[1]) * 1000000 + tonumber(time[2])
local age = string.format('%.0f', math.max(now - tonumber(held[3]), 0))
return {held[1], held[2], age, tostring(redis.call('PTTL', KEYS[1]))}
";

/// A table of locks.
pub struct RedisLocks {
    connections: Connections,
    scripts: Scripts,
    prefix: String,
    is_closed: AtomicBool,
}

struct Scripts {
    acquire: Script,
    renew: Script,
    release: Script,
    inspect: Script,
}

impl RedisLocks {
    /// Connects, so that wrong settings are told at once.
    pub async fn open(settings: Settings) -> Result<Self, LockError> {
        let connections = Connections::new(&settings)?;
        connections.check().await?;
        let scripts = Scripts {
            acquire: Script::new(ACQUIRE),
            renew: Script::new(RENEW),
            release: Script::new(RELEASE),
            inspect: Script::new(INSPECT),
        };
        let is_closed = AtomicBool::new(false);
        Ok(Self { connections, scripts, prefix: settings.prefix, is_closed })
    }

    fn lock(&self, key: &PlainKey) -> String {
        format!("{}lock:{key}", self.prefix)
    }

    fn under<'s>(&self, script: &'s Script, lease: &KeyLease) -> ScriptInvocation<'s> {
        let mut script = script.key(self.lock(&lease.key));
        script.arg(lease.owner.as_str()).arg(lease.nonce.get()).arg(lease.fence.0);
        script
    }

    async fn run<T: FromRedisValue>(&self, script: &ScriptInvocation<'_>) -> Result<T, LockError> {
        if self.is_closed.load(Ordering::Acquire) {
            return Err(LockError::Closed);
        }
        self.connections.run(script).await
    }
}

#[async_trait]
impl LockProvider for RedisLocks {
    async fn acquire(&self, request: &Acquire) -> Result<Acquired, LockError> {
        let Acquire { key, owner, ttl, nonce } = request;
        let mut script = self.scripts.acquire.key(self.lock(key));
        script.key(format!("{}fence", self.prefix));
        script.arg(owner.as_str()).arg(nonce.get()).arg(milliseconds(*ttl));
        let answer: Vec<String> = self.run(&script).await?;
        if let [fence] = &answer[..] {
            let lease = KeyLease {
                key: key.clone(),
                owner: owner.clone(),
                fence: Fence(number(fence)?),
                nonce: *nonce,
            };
            return Ok(Acquired::Ours(lease));
        }
        Ok(Acquired::Theirs(held(answer)?))
    }

    async fn renew(&self, lease: &KeyLease, ttl: Duration) -> Result<Renewed, LockError> {
        let mut script = self.under(&self.scripts.renew, lease);
        let held = self.run(script.arg(milliseconds(ttl))).await?;
        // One that is past its time is gone: the server itself deletes it.
        Ok(if held { Renewed::Held } else { Renewed::Gone })
    }

    async fn release(&self, lease: &KeyLease) -> Result<bool, LockError> {
        self.run(&self.under(&self.scripts.release, lease)).await
    }

    async fn inspect(&self, key: &PlainKey) -> Result<Option<Inspected>, LockError> {
        let answer: Vec<String> = self.run(&self.scripts.inspect.key(self.lock(key))).await?;
        if answer.is_empty() { Ok(None) } else { held(answer).map(Some) }
    }

    async fn close(&self) {
        self.is_closed.store(true, Ordering::Release);
        self.connections.drop_all().await;
    }
}

fn milliseconds(ttl: Duration) -> u64 {
    u64::try_from(ttl.as_millis()).unwrap_or(u64::MAX)
}

fn number(text: &str) -> Result<u64, LockError> {
    text.parse().map_err(|_| strange())
}

fn held(answer: Vec<String>) -> Result<Inspected, LockError> {
    let Ok([owner, fence, age, left]) = <[String; 4]>::try_from(answer) else {
        return Err(strange());
    };
    Ok(Inspected {
        owner,
        fence: Fence(number(&fence)?),
        age: Some(Duration::from_micros(number(&age)?)),
        expires_in: Duration::from_millis(number(&left)?),
    })
}

fn strange() -> LockError {
    LockError::NotReady("the key holds something that is no lock of ours".into())
}
