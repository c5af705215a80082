//! Every setting as it stands, for people and programs.
//!
//! **Invariant:** no password is in it.

use serde::Serialize;
use serde_json::Value;

use super::{Config, ConfigError, Flags, Store, Surroundings, check, database, layers};

/// One setting.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Setting {
    /// As in the file: `lock.ttl`.
    pub key: String,
    /// `None` where nothing is set and there is no default.
    pub value: Option<String>,
    /// A flag, a variable or a file; `None` for a default.
    pub origin: Option<String>,
}

impl Config {
    /// Every setting, sorted by its key.
    pub fn settings(flags: &Flags, around: &Surroundings) -> Result<Vec<Setting>, ConfigError> {
        let layers = layers::load(flags, around)?;
        let store = database::store(&layers, around)?;
        // An address with a password in it is refused here.
        check::leases(&layers.settings, &layers.origins, &store)?;
        let written = serde_json::to_value(&layers.settings).expect("plain fields");
        let mut values = Vec::new();
        flatten("", written, &mut values);
        values.sort();
        let setting = |(key, value): (String, Option<String>)| Setting {
            value: if key == "database.url" {
                value.map(|_| without_password(&store))
            } else {
                value
            },
            origin: layers.origins.name(&key).map(str::to_owned),
            key,
        };
        Ok(values.into_iter().map(setting).collect())
    }
}

fn without_password(store: &Store) -> String {
    store.to_string()
}

fn flatten(key: &str, value: Value, values: &mut Vec<(String, Option<String>)>) {
    let text = match value {
        Value::Object(fields) => {
            for (name, value) in fields {
                let key = if key.is_empty() { name } else { format!("{key}.{name}") };
                flatten(&key, value, values);
            }
            return;
        }
        Value::Null => None,
        Value::String(text) => Some(text),
        Value::Array(items) if items.is_empty() => None,
        Value::Array(items) => {
            let word = |item: &Value| item.as_str().map_or_else(|| item.to_string(), str::to_owned);
            Some(items.iter().map(word).collect::<Vec<_>>().join(", "))
        }
        Value::Bool(_) | Value::Number(_) => Some(value.to_string()),
    };
    values.push((key.to_owned(), text));
}
