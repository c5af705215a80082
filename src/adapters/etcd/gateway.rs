//! Calls of etcd's gateway: which member is asked, who asks, and what a failure means.
//!
//! **Invariant:** a call whose fate is unknown is told as such, and never made again in here. No more calls
//! are under way than a member can answer in time: those of a crowd wait for their turn, and are not sent
//! in vain.

use std::sync::atomic::{AtomicUsize, Ordering};

use reqwest::{Certificate, Client, Identity, StatusCode};
use rustls::crypto::ring;
use secrecy::{ExposeSecret, SecretString};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use tokio::{
    sync::{Mutex, Semaphore},
    time::timeout,
};

use super::{
    Settings,
    wire::{Nothing, Refusal, Token},
};
use crate::ports::lock::LockError;

/// Calls under way at most. Each has a connection of its own.
const AT_ONCE: usize = 64;

pub(super) struct Gateway {
    client: Client,
    turns: Semaphore,
    settings: Settings,
    /// Of [`Settings::endpoints`], which one is asked first.
    first: AtomicUsize,
    /// What the servers know the user by, until they do not.
    token: Mutex<Option<String>>,
}

enum Failure {
    /// It did not reach the server.
    NotSent(String),
    /// It may have.
    NotAnswered(String),
    Refused(StatusCode, Refusal),
}

/// Statuses of gRPC (grpc.io, `statuscodes.md`).
mod status {
    pub const ALREADY_EXISTS: u32 = 6;
    pub const FAILED_PRECONDITION: u32 = 9;
    pub const RESOURCE_EXHAUSTED: u32 = 8;
    pub const UNAUTHENTICATED: u32 = 16;
    pub const PERMISSION_DENIED: u32 = 7;
    pub const INVALID_ARGUMENT: u32 = 3;
    pub const UNIMPLEMENTED: u32 = 12;
}

impl Gateway {
    pub fn new(settings: Settings) -> Result<Self, LockError> {
        // Of a process that has chosen one already, that one is used.
        ring::default_provider().install_default().ok();
        let refused = |error: reqwest::Error| LockError::NotReady(said(&error));
        if settings.endpoints.is_empty() {
            return Err(LockError::NotReady("no endpoint of etcd is given".into()));
        }
        let mut client =
            Client::builder().timeout(settings.timeout).connect_timeout(settings.timeout);
        if !settings.ca.is_empty() {
            let ca = Certificate::from_pem_bundle(&settings.ca).map_err(refused)?;
            client = client.tls_certs_only(ca);
        }
        if let Some(identity) = &settings.identity {
            let (certificate, key) = identity;
            let pem = [&certificate[..], b"\n", key.expose_secret().as_bytes()].concat();
            client = client.identity(Identity::from_pem(&pem).map_err(refused)?);
        }
        let client = client.build().map_err(refused)?;
        let (first, token) = (AtomicUsize::new(0), Mutex::default());
        Ok(Self { client, turns: Semaphore::new(AT_ONCE), settings, first, token })
    }

    /// Makes a lease of this id; `false` if it is there already.
    pub async fn grant(&self, id: u64, seconds: u64) -> Result<bool, LockError> {
        let asked = json!({"ID": id.to_string(), "TTL": seconds.to_string()});
        match self.call::<Nothing>("lease/grant", &asked).await {
            Ok(_) => Ok(true),
            Err(Failure::Refused(_, refusal)) if refusal.is_about_a_lease_that_is_there() => {
                Ok(false)
            }
            Err(failure) => Err(failure.into()),
        }
    }

    pub async fn ask<T: DeserializeOwned>(
        &self,
        what: &str,
        asked: &Value,
    ) -> Result<T, LockError> {
        Ok(self.call(what, asked).await?)
    }

    /// As the user, if there is one; a token that the servers know no more is exchanged once.
    async fn call<T: DeserializeOwned>(&self, what: &str, asked: &Value) -> Result<T, Failure> {
        let Some((name, password)) = &self.settings.user else {
            return self.send(what, asked, None).await;
        };
        let token = self.token(name, password, None).await?;
        match self.send(what, asked, Some(&token)).await {
            Err(Failure::Refused(_, refusal)) if refusal.is_about_the_token() => {
                let token = self.token(name, password, Some(&token)).await?;
                self.send(what, asked, Some(&token)).await
            }
            answer => answer,
        }
    }

    /// Another than `stale`.
    async fn token(
        &self,
        name: &str,
        password: &SecretString,
        stale: Option<&str>,
    ) -> Result<String, Failure> {
        let mut token = self.token.lock().await;
        if let Some(token) = token.as_ref().filter(|token| Some(token.as_str()) != stale) {
            return Ok(token.clone());
        }
        let asked = json!({"name": name, "password": password.expose_secret()});
        let fresh: Token = self.send("auth/authenticate", &asked, None).await?;
        *token = Some(fresh.token.clone());
        Ok(fresh.token)
    }

    /// To one member after the other, until one is reached.
    async fn send<T: DeserializeOwned>(
        &self,
        what: &str,
        asked: &Value,
        token: Option<&str>,
    ) -> Result<T, Failure> {
        let Ok(_turn) = timeout(self.settings.timeout, self.turns.acquire()).await else {
            return Err(Failure::NotSent("too many calls wait for an answer".into()));
        };
        let endpoints = &self.settings.endpoints;
        let first = self.first.load(Ordering::Relaxed);
        let mut answer = Err(Failure::NotSent(String::new()));
        for place in (first..first + endpoints.len()).map(|place| place % endpoints.len()) {
            answer = self.send_to(&endpoints[place], what, asked, token).await;
            match answer {
                Err(Failure::NotSent(_)) => {}
                Err(Failure::NotAnswered(_)) => {
                    self.first.store((place + 1) % endpoints.len(), Ordering::Relaxed);
                    break;
                }
                _ => {
                    self.first.store(place, Ordering::Relaxed);
                    break;
                }
            }
        }
        answer
    }

    async fn send_to<T: DeserializeOwned>(
        &self,
        endpoint: &url::Url,
        what: &str,
        asked: &Value,
        token: Option<&str>,
    ) -> Result<T, Failure> {
        let url = format!("{}/v3/{what}", endpoint.as_str().trim_end_matches('/'));
        let mut request = self.client.post(url).body(asked.to_string());
        if let Some(token) = token {
            request = request.header("Authorization", token);
        }
        let answer = request.send().await.map_err(|error| {
            let why = said(&error);
            if error.is_connect() { Failure::NotSent(why) } else { Failure::NotAnswered(why) }
        })?;
        let status = answer.status();
        let body = answer.bytes().await.map_err(|error| Failure::NotAnswered(said(&error)))?;
        if !status.is_success() {
            return Err(Failure::Refused(
                status,
                serde_json::from_slice(&body).unwrap_or_default(),
            ));
        }
        serde_json::from_slice(&body).map_err(|error| Failure::NotAnswered(error.to_string()))
    }
}

/// An error and its sources, without the address: an endpoint may hold a password.
fn said(error: &reqwest::Error) -> String {
    let mut text = String::new();
    let mut next = std::error::Error::source(error);
    while let Some(source) = next {
        text = if text.is_empty() { source.to_string() } else { format!("{text}: {source}") };
        next = source.source();
    }
    if text.is_empty() && error.is_timeout() {
        return "no answer in time".into();
    }
    text
}

impl Refusal {
    fn is_about_a_lease_that_is_there(&self) -> bool {
        matches!(self.code, status::ALREADY_EXISTS | status::FAILED_PRECONDITION)
            && self.text().contains("lease already exists")
    }

    fn is_about_the_token(&self) -> bool {
        let void = ["invalid auth token", "revision of auth store is old"];
        self.code == status::UNAUTHENTICATED || void.iter().any(|it| self.text().contains(it))
    }
}

impl From<Failure> for LockError {
    fn from(failure: Failure) -> Self {
        match failure {
            Failure::NotSent(why) => Self::Unavailable(why),
            Failure::NotAnswered(why) => Self::Unknown(why),
            Failure::Refused(status, refusal) => {
                let text = format!("{status}: {}", refusal.text());
                match refusal.code {
                    status::PERMISSION_DENIED
                    | status::UNAUTHENTICATED
                    | status::INVALID_ARGUMENT
                    | status::FAILED_PRECONDITION
                    | status::RESOURCE_EXHAUSTED
                    | status::UNIMPLEMENTED => Self::NotReady(text),
                    // No leader, or a change of it: it may be done yet.
                    _ => Self::Unknown(text),
                }
            }
        }
    }
}
