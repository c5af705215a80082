//! What etcd's gateway says: numbers of 64 bits as texts, bytes in base64, and nothing where a number is 0.

use base64::{Engine, engine::general_purpose::STANDARD};
use serde::{Deserialize, Deserializer, de::Error};

use super::Holder;
use crate::{
    domain::{id::Owner, lock::LockNonce},
    ports::lock::KeyLease,
};

/// A text as the gateway takes bytes.
pub(super) fn bytes(text: &str) -> String {
    STANDARD.encode(text)
}

fn number<'de, D: Deserializer<'de>, N: std::str::FromStr>(from: D) -> Result<N, D::Error> {
    let text = String::deserialize(from)?;
    text.parse().map_err(|_| D::Error::custom(format!("{text} is no number")))
}

#[derive(Deserialize)]
pub(super) struct Nothing {}

#[derive(Deserialize)]
pub(super) struct Token {
    pub token: String,
}

#[derive(Deserialize)]
pub(super) struct Range {
    #[serde(default)]
    pub kvs: Vec<KeyValue>,
}

#[derive(Clone, Deserialize)]
pub(super) struct KeyValue {
    #[serde(deserialize_with = "number")]
    pub create_revision: u64,
    #[serde(default)]
    value: String,
    /// 0 if there is none.
    #[serde(default, deserialize_with = "number")]
    pub lease: u64,
}

impl KeyValue {
    /// `None` if somebody else has written it.
    pub fn holder(&self) -> Option<Holder> {
        serde_json::from_slice(&STANDARD.decode(&self.value).ok()?).ok()
    }

    pub fn is_of(&self, owner: &Owner, nonce: LockNonce) -> bool {
        let of = |holder: Holder| holder.owner == owner.as_str() && holder.nonce == nonce.get();
        self.holder().is_some_and(of)
    }

    pub fn is_under(&self, lease: &KeyLease) -> bool {
        self.create_revision == lease.fence.0 && self.is_of(&lease.owner, lease.nonce)
    }

    pub fn text(&self) -> String {
        let value = STANDARD.decode(&self.value).unwrap_or_default();
        String::from_utf8_lossy(&value).into_owned()
    }
}

#[derive(Deserialize)]
pub(super) struct Header {
    #[serde(deserialize_with = "number")]
    pub revision: u64,
}

#[derive(Deserialize)]
pub(super) struct Txn {
    pub header: Header,
    #[serde(default)]
    pub succeeded: bool,
    #[serde(default)]
    responses: Vec<Response>,
}

#[derive(Deserialize)]
struct Response {
    response_range: Option<Range>,
    response_delete_range: Option<Deleted>,
}

#[derive(Deserialize)]
struct Deleted {
    #[serde(default)]
    prev_kvs: Vec<KeyValue>,
}

impl Txn {
    pub fn found(&self) -> Option<KeyValue> {
        self.responses.iter().find_map(|it| it.response_range.as_ref()?.kvs.first().cloned())
    }

    pub fn deleted(&self) -> Option<KeyValue> {
        let mut deleted = self.responses.iter().filter_map(|it| it.response_delete_range.as_ref());
        deleted.find_map(|it| it.prev_kvs.first().cloned())
    }
}

#[derive(Deserialize)]
pub(super) struct KeepAlive {
    pub result: Kept,
}

#[derive(Deserialize)]
pub(super) struct Kept {
    /// Seconds; 0 if the lease is gone.
    #[serde(rename = "TTL", default, deserialize_with = "number")]
    pub ttl: u64,
}

#[derive(Deserialize)]
pub(super) struct Left {
    /// Seconds; -1 if the lease is gone.
    #[serde(rename = "TTL", default, deserialize_with = "number")]
    pub ttl: i64,
    #[serde(rename = "grantedTTL", default, deserialize_with = "number")]
    pub granted: u64,
}

/// Why something was not done.
#[derive(Default, Deserialize)]
#[serde(default)]
pub(super) struct Refusal {
    /// A status of gRPC.
    pub code: u32,
    pub message: String,
    error: String,
}

impl Refusal {
    pub fn text(&self) -> &str {
        if self.message.is_empty() { &self.error } else { &self.message }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_left_out_is_nought() {
        let txn: Txn = serde_json::from_str(r#"{"header":{"revision":"7"}}"#).expect("an answer");
        assert!(!txn.succeeded && txn.found().is_none() && txn.deleted().is_none());
        let kept: KeepAlive = serde_json::from_str(r#"{"result":{"ID":"1"}}"#).expect("an answer");
        assert_eq!(kept.result.ttl, 0);
        let left: Left = serde_json::from_str(r#"{"ID":"1","TTL":"-1"}"#).expect("an answer");
        assert_eq!(left.ttl, -1);
    }

    #[test]
    fn a_value_of_somebody_else_is_a_text() {
        let found: KeyValue =
            serde_json::from_str(r#"{"create_revision":"3","value":"bWluZQ=="}"#).expect("a key");
        assert!(found.holder().is_none());
        assert_eq!((found.text().as_str(), found.lease), ("mine", 0));
    }
}
