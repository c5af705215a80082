//! The one connection that all verbs of a provider share.
//!
//! **Invariant:** one that may end at a server which is not the master any more, or not at all, is not
//! used again.

use redis::{
    AsyncConnectionConfig, ClientTlsConfig, ConnectionAddr, ConnectionInfo, ErrorKind,
    FromRedisValue, IntoConnectionInfo, RedisConnectionInfo, RedisError, RedisResult,
    ScriptInvocation, ServerErrorKind, TlsCertificates, TlsMode,
    aio::MultiplexedConnection,
    sentinel::{SentinelClient, SentinelClientBuilder, SentinelServerType},
};
use secrecy::ExposeSecret;
use tokio::sync::Mutex;

use super::Settings;
use crate::ports::lock::LockError;

/// Opens connections, and keeps the last one while it is good.
pub(super) struct Connections {
    way: Mutex<Way>,
    terms: AsyncConnectionConfig,
}

struct Way {
    source: Source,
    open: Option<Open>,
    opened: u64,
}

enum Source {
    Server(Box<redis::Client>),
    Sentinels(Box<SentinelClient>),
}

#[derive(Clone)]
struct Open {
    number: u64,
    connection: MultiplexedConnection,
}

impl Connections {
    pub fn new(settings: &Settings) -> Result<Self, LockError> {
        let source = source(settings).map_err(|error| LockError::NotReady(error.to_string()))?;
        let terms = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(settings.timeout))
            .set_response_timeout(Some(settings.timeout));
        Ok(Self { way: Mutex::new(Way { source, open: None, opened: 0 }), terms })
    }

    /// Whether there is a server, and it lets us in.
    pub async fn check(&self) -> Result<(), LockError> {
        let mut open = self.open().await?;
        let pong: RedisResult<String> = redis::cmd("PING").query_async(&mut open.connection).await;
        pong.map(drop).map_err(|error| told(&error, false))
    }

    pub async fn run<T: FromRedisValue>(
        &self,
        script: &ScriptInvocation<'_>,
    ) -> Result<T, LockError> {
        let mut open = self.open().await?;
        match script.invoke_async(&mut open.connection).await {
            Ok(answer) => Ok(answer),
            Err(error) => {
                if is_over(&error) {
                    self.forget(open.number).await;
                }
                Err(told(&error, true))
            }
        }
    }

    pub async fn drop_all(&self) {
        self.way.lock().await.open = None;
    }

    async fn open(&self) -> Result<Open, LockError> {
        let mut way = self.way.lock().await;
        if let Some(open) = &way.open {
            return Ok(open.clone());
        }
        let connection = match &mut way.source {
            Source::Server(server) => {
                server.get_multiplexed_async_connection_with_config(&self.terms).await
            }
            Source::Sentinels(sentinels) => {
                sentinels.get_async_connection_with_config(&self.terms).await
            }
        };
        let connection = connection.map_err(|error| told(&error, false))?;
        way.opened += 1;
        let open = Open { number: way.opened, connection };
        way.open = Some(open.clone());
        Ok(open)
    }

    /// Another call may have opened a new one meanwhile.
    async fn forget(&self, number: u64) {
        let mut way = self.way.lock().await;
        way.open.take_if(|open| open.number == number);
    }
}

fn source(settings: &Settings) -> RedisResult<Source> {
    let info = settings.url.expose_secret().into_connection_info()?;
    let Some(sentinels) = &settings.sentinels else {
        let server = if is_tls(&info) {
            redis::Client::build_with_tls(info, certificates(settings))
        } else {
            redis::Client::open(info)
        };
        return Ok(Source::Server(Box::new(server?)));
    };
    let asked = sentinels.urls.iter().map(|url| url.expose_secret().into_connection_info());
    let asked = asked.collect::<RedisResult<Vec<_>>>()?;
    let addresses = asked.iter().map(|sentinel| sentinel.addr().clone());
    let mut builder =
        SentinelClientBuilder::new(addresses, &sentinels.master, SentinelServerType::Master)?
            .set_client_to_redis_db(info.redis_settings().db());
    if is_tls(&info) {
        builder = builder
            .set_client_to_redis_tls_mode(TlsMode::Secure)
            .set_client_to_redis_certificates(certificates(settings));
    }
    if asked.first().is_some_and(is_tls) {
        builder = builder.set_client_to_sentinel_certificates(certificates(settings));
    }
    if let Some(user) = info.redis_settings().username() {
        builder = builder.set_client_to_redis_username(user);
    }
    if let Some(password) = info.redis_settings().password() {
        builder = builder.set_client_to_redis_password(password);
    }
    // All sentinels have one user.
    let of_first = asked.first().map(ConnectionInfo::redis_settings);
    if let Some(user) = of_first.and_then(RedisConnectionInfo::username) {
        builder = builder.set_client_to_sentinel_username(user);
    }
    if let Some(password) = of_first.and_then(RedisConnectionInfo::password) {
        builder = builder.set_client_to_sentinel_password(password);
    }
    Ok(Source::Sentinels(Box::new(builder.build()?)))
}

fn is_tls(info: &ConnectionInfo) -> bool {
    matches!(info.addr(), ConnectionAddr::TcpTls { .. })
}

fn certificates(settings: &Settings) -> TlsCertificates {
    let client_tls = settings.identity.as_ref().map(|(certificate, key)| ClientTlsConfig {
        client_cert: certificate.clone(),
        client_key: key.expose_secret().as_bytes().to_vec(),
    });
    let root_cert = Some(settings.ca.clone()).filter(|ca| !ca.is_empty());
    TlsCertificates { client_tls, root_cert }
}

/// Whether the connection is not to be used again. After an answer that did not come in time it is
/// closed too: what is in its way is unknown.
fn is_over(error: &RedisError) -> bool {
    use ServerErrorKind::{BusyLoading, MasterDown, ReadOnly};
    let is_elsewhere =
        matches!(error.kind(), ErrorKind::Server(BusyLoading | MasterDown | ReadOnly));
    is_elsewhere || error.is_io_error() || error.is_unrecoverable_error()
}

/// What a server, or its silence, means for the verb. A script that fails has written nothing: its first
/// write is where it would be refused.
fn told(error: &RedisError, sent: bool) -> LockError {
    use ErrorKind::{
        AuthenticationFailed, Client, InvalidClientConfig, Io, Parse, Server, UnexpectedReturnType,
    };
    let text = error.to_string();
    let is_for_a_person = match error.kind() {
        AuthenticationFailed | InvalidClientConfig | UnexpectedReturnType => true,
        Server(kind) => matches!(kind, ServerErrorKind::NoPerm | ServerErrorKind::CrossSlot),
        _ => false,
    } || matches!(error.code(), Some("NOAUTH" | "WRONGPASS" | "WRONGTYPE"));
    match error.kind() {
        _ if is_for_a_person => LockError::NotReady(text),
        Io | Client | Parse if sent => LockError::Unknown(text),
        _ => LockError::Unavailable(text),
    }
}
