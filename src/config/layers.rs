//! The layers of the configuration and how they are laid over each other.
//!
//! **Invariant:** each key of each layer is a known one, and its origin is remembered.

use std::{
    collections::BTreeMap,
    fs, io,
    path::{Path, PathBuf},
};

use config::{
    Config as Merged, ConfigError as MergeError, Environment, File, FileFormat, Map, Source, Value,
    ValueKind,
};

use super::{ConfigError, Surroundings, database, settings::Settings, shown};

/// What the command line says. Keys are those of the file.
#[derive(Clone, Debug, Default)]
pub struct Flags {
    file: Option<PathBuf>,
    layer: Layer,
}

impl Flags {
    /// The configuration file to read, in place of the usual ones.
    #[must_use]
    pub fn with_file(mut self, file: Option<PathBuf>) -> Self {
        self.file = file;
        self
    }

    /// A flag and the key that it stands for; nothing if it was not given.
    #[must_use]
    pub fn with<T: ToString>(mut self, flag: &str, key: &str, value: Option<T>) -> Self {
        if let Some(value) = value {
            self.layer.set(key, flag, value.to_string());
        }
        self
    }
}

/// All layers, merged.
pub(super) struct Layers {
    pub settings: Settings,
    pub origins: Origins,
    pub file: Option<PathBuf>,
}

/// Where each value that is not a default came from.
#[derive(Debug, Default)]
pub(super) struct Origins(BTreeMap<String, String>);

impl Origins {
    /// Goes in brackets behind a key.
    pub fn of(&self, key: &str) -> String {
        self.0.get(key).map_or_else(|| "its default".into(), |origin| format!("from {origin}"))
    }

    /// A flag, a variable or a file; `None` for a default.
    pub fn name(&self, key: &str) -> Option<&str> {
        self.0.get(key).map(String::as_str)
    }
}

/// Values by full key, each with its origin.
#[derive(Clone, Default)]
pub(super) struct Layer(BTreeMap<String, (String, Value)>);

impl std::fmt::Debug for Layer {
    /// Names only: a value may be a secret.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_set().entries(self.0.keys()).finish()
    }
}

impl Layer {
    pub fn set(&mut self, key: &str, origin: &str, value: impl Into<ValueKind>) {
        let value = Value::new(Some(&origin.to_owned()), value);
        self.0.insert(key.into(), (origin.into(), value));
    }

    pub fn has(&self, key: &str) -> bool {
        self.0.contains_key(key)
    }

    fn add(&mut self, prefix: &str, map: Map<String, Value>, origin: &impl Fn(&str) -> String) {
        for (name, value) in map {
            let key = if prefix.is_empty() { name } else { format!("{prefix}.{name}") };
            match value.kind {
                ValueKind::Nil => {}
                ValueKind::Table(table) => self.add(&key, table, origin),
                kind => self.set(&key, &origin(&key), kind),
            }
        }
    }
}

impl Source for Layer {
    fn clone_into_box(&self) -> Box<dyn Source + Send + Sync> {
        Box::new(self.clone())
    }

    fn collect(&self) -> Result<Map<String, Value>, MergeError> {
        Ok(self.0.iter().map(|(key, (_, value))| (key.clone(), value.clone())).collect())
    }
}

const PREFIX: &str = "ORCHESTRATOR_WORKER";

/// Lays all layers over each other.
pub(super) fn load(flags: &Flags, around: &Surroundings) -> Result<Layers, ConfigError> {
    let (file, from_file) = file(flags, around)?;
    let own = environment(around)?;
    let explicit = flags.layer.has("database.url") || own.has("database.url");
    let others = borrowed(around, !explicit)?;
    merge(vec![from_file, others, own, flags.layer.clone()], file)
}

fn file(flags: &Flags, around: &Surroundings) -> Result<(Option<PathBuf>, Layer), ConfigError> {
    let mut layer = Layer::default();
    let Some((path, text)) = read(flags.file.as_deref(), &around.files)? else {
        return Ok((None, layer));
    };
    let syntax = |problem| ConfigError::Syntax { path: shown(&path), problem };
    let map = File::from_str(&text, FileFormat::Yaml).collect().map_err(|error| {
        syntax(match error {
            MergeError::FileParse { cause, .. } => cause.to_string(),
            other => other.to_string(),
        })
    })?;
    layer.add("", map, &|_| shown(&path));
    Ok((Some(path), layer))
}

/// The named file must be there; the usual ones may be missing.
fn read(named: Option<&Path>, usual: &[PathBuf]) -> Result<Option<(PathBuf, String)>, ConfigError> {
    let candidates = named.map_or_else(|| usual.to_vec(), |path| vec![path.to_owned()]);
    for path in candidates {
        match fs::read_to_string(&path) {
            Ok(text) => return Ok(Some((path, text))),
            Err(error) if error.kind() == io::ErrorKind::NotFound && named.is_none() => {}
            Err(error) => {
                return Err(ConfigError::File { path: shown(&path), problem: error.to_string() });
            }
        }
    }
    Ok(None)
}

/// Our own variables: `ORCHESTRATOR_WORKER__LOCK__TTL` is `lock.ttl`.
fn environment(around: &Surroundings) -> Result<Layer, ConfigError> {
    let map = Environment::with_prefix(PREFIX)
        .separator("__")
        .ignore_empty(true)
        .source(Some(around.env.clone().into_iter().collect()))
        .collect()
        .map_err(|error| ConfigError::Invalid {
            key: PREFIX.into(),
            origin: "from the environment".into(),
            problem: error.to_string(),
        })?;
    let mut layer = Layer::default();
    layer.add("", map, &variable);
    Ok(layer)
}

fn variable(key: &str) -> String {
    format!("{PREFIX}__{}", key.to_uppercase().replace('.', "__"))
}

/// Variables with other people's names that are understood too.
fn borrowed(around: &Surroundings, with_database: bool) -> Result<Layer, ConfigError> {
    let mut layer = Layer::default();
    if let Some(filter) = around.var("RUST_LOG") {
        layer.set("log.filter", "RUST_LOG", filter);
    }
    if with_database && let Some((origin, url)) = database::from_environment(around)? {
        layer.set("database.url", origin, url);
    }
    Ok(layer)
}

fn merge(layers: Vec<Layer>, file: Option<PathBuf>) -> Result<Layers, ConfigError> {
    let known = known_keys(&Settings::default());
    let defaults = Merged::try_from(&Settings::default()).expect("plain fields");
    let mut builder = Merged::builder().add_source(defaults);
    let mut origins = Origins::default();
    for layer in layers {
        for (key, (origin, _)) in &layer.0 {
            check_known(key, origin, &known)?;
            origins.0.insert(key.clone(), origin.clone());
        }
        builder = builder.add_source(layer);
    }
    let settings = builder
        .build()
        .and_then(Merged::try_deserialize)
        .map_err(|error| explain(error, &origins))?;
    Ok(Layers { settings, origins, file })
}

fn known_keys(defaults: &Settings) -> Vec<String> {
    fn walk(prefix: &str, value: serde_json::Value, keys: &mut Vec<String>) {
        let serde_json::Value::Object(fields) = value else { return keys.push(prefix.into()) };
        for (name, value) in fields {
            let key = if prefix.is_empty() { name } else { format!("{prefix}.{name}") };
            walk(&key, value, keys);
        }
    }
    let mut keys = Vec::new();
    walk("", serde_json::to_value(defaults).expect("plain fields"), &mut keys);
    keys.sort();
    keys
}

fn check_known(key: &str, origin: &str, known: &[String]) -> Result<(), ConfigError> {
    if known.iter().any(|one| one == key) {
        return Ok(());
    }
    let members = members(key, known);
    if !members.is_empty() {
        return Err(ConfigError::Group {
            key: key.into(),
            origin: format!("from {origin}"),
            members: members.join(", "),
        });
    }
    let nearest = known.iter().min_by_key(|one| distance(key, one)).expect("there are settings");
    let as_written = if origin.starts_with(PREFIX) { variable(nearest) } else { nearest.clone() };
    Err(ConfigError::Unknown {
        key: if origin.starts_with(PREFIX) { origin.into() } else { key.into() },
        origin: if origin.starts_with(PREFIX) {
            "in the environment".into()
        } else {
            format!("in {origin}")
        },
        nearest: as_written,
    })
}

/// What a group holds, other groups as `lock.redis.*`.
fn members(group: &str, known: &[String]) -> Vec<String> {
    let inner = known.iter().filter_map(|one| one.strip_prefix(group)?.strip_prefix('.'));
    let mut members: Vec<String> = inner
        .map(|inner| match inner.split_once('.') {
            Some((name, _)) => format!("{group}.{name}.*"),
            None => format!("{group}.{inner}"),
        })
        .collect();
    members.dedup();
    members
}

/// Of the whole keys, or of their last words if those are nearer: `ttl` is meant for `lock.ttl`.
fn distance(key: &str, known: &str) -> usize {
    let last = |key: &str| key.rsplit('.').next().unwrap_or_default().to_owned();
    let by_word = strsim::damerau_levenshtein(&last(key), &last(known)) + 1;
    strsim::damerau_levenshtein(key, known).min(by_word)
}

fn explain(error: MergeError, origins: &Origins) -> ConfigError {
    let (key, problem) = match error {
        MergeError::Type { unexpected, expected, key, .. } => {
            (key, format!("is {}; give {}", found(&unexpected.to_string()), wanted(expected)))
        }
        MergeError::At { error, key, .. } => (key, format!("cannot be used; {error}")),
        other => (None, format!("cannot be used; {other}")),
    };
    ConfigError::invalid(origins, &key.unwrap_or_else(|| "the configuration".into()), problem)
}

/// The merging crate's words for a value, in those of someone who writes a file.
fn found(unexpected: &str) -> String {
    match unexpected {
        "sequence" => "a list".into(),
        "map" => "a group".into(),
        "unit value" => "nothing".into(),
        text => text.split_once('`').map_or_else(
            || text.trim_start_matches("string ").to_owned(),
            |(_, value)| value.trim_end_matches('`').to_owned(),
        ),
    }
}

fn wanted(expected: &str) -> &str {
    match expected {
        "a boolean" => "true or false",
        "a string" => "one text",
        number if number.contains("integer") => "a whole number, not negative",
        other => other,
    }
}
