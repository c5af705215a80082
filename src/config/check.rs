//! From settings as written to settings that can be used.
//!
//! **Invariant:** a value that leaves this file is within the limits that the README states.

use std::{collections::BTreeSet, net::SocketAddr, ops::RangeInclusive, time::Duration};

use secrecy::SecretString;
use tracing_subscriber::EnvFilter;

use super::{
    ConfigError, Log, LogFormat, ReplicaSets, Shell, ShellLimits, Store, Surroundings, Worker,
    layers::Origins,
    owner_name,
    settings::{Names, Settings},
};
use crate::{
    domain::{
        drain_contract::PodTerms,
        eligibility::{Backlog, Eligibility},
        id::Owner,
        lease::LeaseTerms,
        pod::{OwnPod, PodProcess},
        retention::Retention,
        retry::Backoff,
        trace::Mode,
    },
    orchestrator::LockConfig,
};

/// A claim transaction holds no more executions than this.
const LARGEST_BATCH: usize = 50;
/// What has just ended is still looked at by whoever waits for it.
const SHORTEST_KEPT: Duration = Duration::from_secs(3600);
const LONGEST_KEPT: Duration = Duration::from_secs(100 * 31_557_600);
const LONGEST: Duration = Duration::from_secs(7 * 24 * 3600);

pub(super) fn worker(
    settings: &Settings,
    origins: &Origins,
    around: &Surroundings,
) -> Result<Worker, ConfigError> {
    let slots = number(origins, "slots", settings.slots, 1..=1000)?;
    let batch = settings.claim.batch.unwrap_or_else(|| slots.min(LARGEST_BATCH));
    Ok(Worker {
        owner: owner(settings, origins, around)?,
        process: process(around)?,
        slots,
        poll_interval: duration(
            origins,
            "poll_interval",
            &settings.poll_interval,
            Duration::from_millis(50)..=Duration::from_secs(60),
        )?,
        terms: terms(settings, origins)?,
        claim_batch: number(origins, "claim.batch", batch, 1..=LARGEST_BATCH)?,
        eligibility: eligibility(settings, origins)?,
        unknown_after: duration(
            origins,
            "claim.unknown_after",
            &settings.claim.unknown_after,
            Duration::ZERO..=LONGEST,
        )?,
        drain_deadline: duration(
            origins,
            "drain_deadline",
            &settings.drain_deadline,
            Duration::ZERO..=LONGEST,
        )?,
        steps_at_once: number(origins, "step.at_once", settings.step.at_once, 1..=1000)?,
        backoff: backoff(settings, origins)?,
        retention: retention(settings, origins)?,
        adopt_orphans: settings.claim.adopt_orphans_of_go_service,
        poison_claims: number(origins, "poison.claims", settings.poison.claims, 1..=1_000_000)?,
    })
}

fn owner(
    settings: &Settings,
    origins: &Origins,
    around: &Surroundings,
) -> Result<Owner, ConfigError> {
    let name = owner_name(settings.name.as_deref(), around);
    Owner::try_new(&name).map_err(|error| ConfigError::Owner {
        error,
        origin: around
            .var("POD_NAME")
            .map(|_| "POD_NAME")
            .or_else(|| origins.name("name"))
            .unwrap_or("this host's name")
            .into(),
    })
}

fn process(around: &Surroundings) -> Result<PodProcess, ConfigError> {
    let uid = around.var("POD_UID").unwrap_or_default();
    PodProcess::try_new(uid).map_err(|error| ConfigError::PodUid { uid: uid.into(), error })
}

fn terms(settings: &Settings, origins: &Origins) -> Result<LeaseTerms, ConfigError> {
    let lock = &settings.lock;
    let ttl = duration(origins, "lock.ttl", &lock.ttl, Duration::ZERO..=LONGEST)?;
    let renew = duration(origins, "lock.renew_every", &lock.renew_every, Duration::ZERO..=LONGEST)?;
    LeaseTerms::try_new(ttl, renew).map_err(|error| ConfigError::Terms {
        error,
        ttl: origins.of("lock.ttl"),
        renew_every: origins.of("lock.renew_every"),
    })
}

/// Where leases are kept, if not in the database.
pub(super) fn leases(
    settings: &Settings,
    origins: &Origins,
    store: &Store,
) -> Result<Option<LockConfig>, ConfigError> {
    let lock = &settings.lock;
    for checked in [lock.redis.check(), lock.etcd.check()] {
        // What does not fit begins with its setting.
        checked.map_err(|why| {
            let (key, problem) = why.split_once(' ').unwrap_or((&why, ""));
            ConfigError::invalid(origins, &format!("lock.{key}"), problem)
        })?;
    }
    let refused = |problem| Err(ConfigError::invalid(origins, "lock.provider", problem));
    match lock.provider.as_str() {
        LockConfig::STORE => return Ok(None),
        LockConfig::MYSQL if matches!(store, Store::MySql(_)) => return Ok(None),
        LockConfig::MYSQL => {
            return refused(format!("is mysql, and the database is {store}; give store"));
        }
        LockConfig::REDIS | LockConfig::ETCD => {}
        other => return refused(format!("is {other:?}; give store, redis or etcd")),
    }
    if settings.claim.one_per_template {
        let problem = "is true, and leases are kept outside the database, where templates have none \
                       (lock.provider); give false, or keep leases in the store";
        return Err(ConfigError::invalid(origins, "claim.one_per_template", problem));
    }
    Ok(Some(LockConfig {
        provider: lock.provider.clone(),
        redis: lock.redis.clone(),
        etcd: lock.etcd.clone(),
        ..LockConfig::default()
    }))
}

fn eligibility(settings: &Settings, origins: &Origins) -> Result<Eligibility, ConfigError> {
    let claim = &settings.claim;
    let names = |names: &Option<Names>| -> BTreeSet<String> {
        names.as_ref().map(Names::to_list).unwrap_or_default().into_iter().collect()
    };
    let (include, exclude) = (names(&claim.include), names(&claim.exclude));
    if let Some(name) = include.intersection(&exclude).next() {
        let problem = format!("names {name:?}, which claim.include names too; take it out of one");
        return Err(ConfigError::invalid(origins, "claim.exclude", problem));
    }
    let backlog = match claim.backlog.as_str() {
        "hold" => Backlog::Hold,
        "run" => Backlog::Run,
        other => {
            let problem = format!("is {other:?}; give hold or run");
            return Err(ConfigError::invalid(origins, "claim.backlog", problem));
        }
    };
    Ok(Eligibility { include, exclude, backlog, one_per_template: claim.one_per_template })
}

fn retention(settings: &Settings, origins: &Origins) -> Result<Retention, ConfigError> {
    let limit = |key: &str, text: &Option<String>| {
        text.as_deref()
            .map(|text| duration(origins, key, text, SHORTEST_KEPT..=LONGEST_KEPT))
            .transpose()
    };
    let written = &settings.retention;
    Ok(Retention {
        success: limit("retention.success", &written.success)?,
        failed: limit("retention.failed", &written.failed)?,
        cancelled: limit("retention.cancelled", &written.cancelled)?,
    })
}

fn backoff(settings: &Settings, origins: &Origins) -> Result<Backoff, ConfigError> {
    let written = &settings.step.backoff;
    let any = || Duration::ZERO..=LONGEST;
    let base = duration(origins, "step.backoff.base", &written.base, any())?;
    let cap = duration(origins, "step.backoff.cap", &written.cap, any())?;
    if cap < base {
        let problem = format!("is {}; it must not be less than step.backoff.base", written.cap);
        return Err(ConfigError::invalid(origins, "step.backoff.cap", problem));
    }
    Ok(Backoff { base, cap })
}

pub(super) fn shell(
    settings: &Settings,
    origins: &Origins,
    around: &Surroundings,
) -> Result<Shell, ConfigError> {
    let minute = Duration::from_secs(60);
    let names = settings.shell.pass_env.as_ref().map(Names::to_list).unwrap_or_default();
    let bad = |name: &&String| name.is_empty() || name.contains(['=', '\0', ' ']);
    if let Some(name) = names.iter().find(bad) {
        let problem = format!("holds {name:?}, which cannot name a variable");
        return Err(ConfigError::invalid(origins, "shell.pass_env", problem));
    }
    let value = |name: String| {
        let value = SecretString::from(around.env.get(&name)?.as_str());
        Some((name, value))
    };
    Ok(Shell {
        grace: duration(origins, "shell.grace", &settings.shell.grace, Duration::ZERO..=minute)?,
        pass_env: names.into_iter().filter_map(value).collect(),
        live_output: settings.shell.live_output,
        limits: limits(settings, origins)?,
    })
}

fn limits(settings: &Settings, origins: &Origins) -> Result<ShellLimits, ConfigError> {
    let limits = &settings.shell.limits;
    let bytes = |key, text: &Option<String>, range| {
        text.as_deref().map(|text| size(origins, key, text, range)).transpose()
    };
    let processes = |count| number(origins, "shell.limits.processes", count, 1..=100_000);
    Ok(ShellLimits {
        memory: bytes("shell.limits.memory", &limits.memory, 16 * MIB..=1024 * GIB)?,
        processes: limits.processes.map(processes).transpose()?,
        file_size: bytes("shell.limits.file_size", &limits.file_size, KIB..=1024 * GIB)?,
    })
}

/// What the pod is given; nothing where nobody said how long it has.
pub(super) fn pod(settings: &Settings, origins: &Origins) -> Result<Option<PodTerms>, ConfigError> {
    let pod = &settings.pod;
    let within = |key, text: &str| duration(origins, key, text, Duration::ZERO..=LONGEST);
    let pre_stop = within("pod.pre_stop", &pod.pre_stop)?;
    let Some(grace) = &pod.termination_grace_period else { return Ok(None) };
    let grace = within("pod.termination_grace_period", grace)?;
    Ok(Some(PodTerms { grace, pre_stop, disruption_budget: pod.disruption_budget }))
}

/// The name of the pod that is marked as busy.
pub(super) fn busy_marks(
    settings: &Settings,
    origins: &Origins,
    around: &Surroundings,
) -> Result<Option<String>, ConfigError> {
    let problem = "is true, and POD_NAME does not say which pod that is; set it from the field \
                   metadata.name, or give false";
    let pod = || needed(origins, around, "POD_NAME", "pod.busy_marks", problem);
    settings.pod.busy_marks.then(pod).transpose()
}

/// The name of the node that is watched.
pub(super) fn cordon_watch(
    settings: &Settings,
    origins: &Origins,
    around: &Surroundings,
) -> Result<Option<String>, ConfigError> {
    let problem = "is true, and NODE_NAME does not say which node that is; set it from the field \
                   spec.nodeName, or give false";
    let node = || needed(origins, around, "NODE_NAME", "pod.cordon_watch", problem);
    settings.pod.cordon_watch.then(node).transpose()
}

/// Which `ReplicaSets` are watched, and which of them is that of this pod.
pub(super) fn rollout_aware(
    settings: &Settings,
    origins: &Origins,
    around: &Surroundings,
) -> Result<Option<ReplicaSets>, ConfigError> {
    let problem = "names labels, and POD_TEMPLATE_HASH does not say which ReplicaSet is that of this pod; \
                   set it from the field metadata.labels['pod-template-hash'], or name none";
    let sets = |labels| {
        let hash = needed(origins, around, "POD_TEMPLATE_HASH", "pod.rollout_aware", problem)?;
        Ok(ReplicaSets { labels, template_hash: hash })
    };
    let labels = settings.pod.rollout_aware.clone().filter(|labels| !labels.is_empty());
    labels.map(sets).transpose()
}

/// What a setting cannot do without, from a variable that the pod's own manifest sets.
fn needed(
    origins: &Origins,
    around: &Surroundings,
    variable: &str,
    key: &str,
    problem: &str,
) -> Result<String, ConfigError> {
    let value = around.var(variable).map(str::to_owned);
    value.ok_or_else(|| ConfigError::invalid(origins, key, problem))
}

/// The pod on which is told what happens to it.
pub(super) fn events(
    settings: &Settings,
    origins: &Origins,
    around: &Surroundings,
) -> Result<Option<OwnPod>, ConfigError> {
    if !settings.pod.events {
        return Ok(None);
    }
    let (Some(name), Some(uid)) = (around.var("POD_NAME"), around.var("POD_UID")) else {
        let problem = "is true, and POD_NAME and POD_UID do not say which pod that is; set them from the \
                       fields metadata.name and metadata.uid, or give false";
        return Err(ConfigError::invalid(origins, "pod.events", problem));
    };
    Ok(Some(OwnPod { name: name.into(), uid: uid.into() }))
}

pub(super) fn admin(
    settings: &Settings,
    origins: &Origins,
    in_pod: bool,
) -> Result<Option<SocketAddr>, ConfigError> {
    let default = if in_pod { "0.0.0.0:9400" } else { "127.0.0.1:9400" };
    let text = settings.admin.listen.as_deref().unwrap_or(default);
    if text == "off" {
        return Ok(None);
    }
    text.replace("localhost:", "127.0.0.1:").parse().map(Some).map_err(|_| {
        let problem = format!(
            "is {text:?}; give an address with a port, such as 127.0.0.1:9400 or [::]:9400, or off"
        );
        ConfigError::invalid(origins, "admin.listen", problem)
    })
}

pub(super) fn log(settings: &Settings, origins: &Origins) -> Result<Log, ConfigError> {
    let format = match settings.log.format.as_str() {
        "auto" => LogFormat::Auto,
        "text" => LogFormat::Text,
        "json" => LogFormat::Json,
        other => {
            let problem = format!("is {other:?}; give auto, text or json");
            return Err(ConfigError::invalid(origins, "log.format", problem));
        }
    };
    if let Some(filter) = &settings.log.filter {
        EnvFilter::builder().parse(filter).map_err(|error| {
            let problem = format!(
                "is {filter:?}, which is no log filter ({error}); give a level such as debug, or \
                 parts such as orchestrator_worker=debug,warn"
            );
            ConfigError::invalid(origins, "log.filter", problem)
        })?;
    }
    Ok(Log { format, filter: settings.log.filter.clone() })
}

pub(super) fn number<N>(
    origins: &Origins,
    key: &str,
    value: N,
    range: RangeInclusive<N>,
) -> Result<N, ConfigError>
where
    N: PartialOrd + std::fmt::Display + Copy,
{
    if range.contains(&value) {
        return Ok(value);
    }
    let problem = format!("is {value}; it must be between {} and {}", range.start(), range.end());
    Err(ConfigError::invalid(origins, key, problem))
}

pub(super) fn duration(
    origins: &Origins,
    key: &str,
    text: &str,
    range: RangeInclusive<Duration>,
) -> Result<Duration, ConfigError> {
    let Ok(value) = humantime::parse_duration(text) else {
        let problem = format!("is {text:?}; give a time with its unit, such as 250ms, 10s or 5m");
        return Err(ConfigError::invalid(origins, key, problem));
    };
    if range.contains(&value) {
        return Ok(value);
    }
    let show = humantime::format_duration;
    let problem = format!(
        "is {text}; it must be between {} and {}",
        show(*range.start()),
        show(*range.end())
    );
    Err(ConfigError::invalid(origins, key, problem))
}

pub(super) const KIB: u64 = 1 << 10;
pub(super) const MIB: u64 = 1 << 20;
pub(super) const GIB: u64 = 1 << 30;

/// A number of bytes.
pub(super) fn size(
    origins: &Origins,
    key: &str,
    text: &str,
    range: RangeInclusive<u64>,
) -> Result<u64, ConfigError> {
    let digits = text.trim_end_matches(|c: char| !c.is_ascii_digit());
    let unit = match text[digits.len()..].trim_start() {
        "" | "B" => Some(1),
        "KiB" => Some(KIB),
        "MiB" => Some(MIB),
        "GiB" => Some(GIB),
        _ => None,
    };
    let bytes = digits.parse().ok().zip(unit).and_then(|(n, unit): (u64, _)| n.checked_mul(unit));
    let Some(bytes) = bytes else {
        let problem = format!("is {text:?}; give a number of bytes, such as 65536, 512KiB or 8MiB");
        return Err(ConfigError::invalid(origins, key, problem));
    };
    if range.contains(&bytes) {
        return Ok(bytes);
    }
    let show = |bytes: &u64| match bytes {
        GIB.. => format!("{}GiB", bytes / GIB),
        MIB.. => format!("{}MiB", bytes / MIB),
        _ => format!("{}KiB", bytes / KIB),
    };
    let problem =
        format!("is {text}; it must be between {} and {}", show(range.start()), show(range.end()));
    Err(ConfigError::invalid(origins, key, problem))
}

pub(super) fn trace_mode(settings: &Settings, origins: &Origins) -> Result<Mode, ConfigError> {
    match settings.trace.mode.as_str() {
        "continuous" => Ok(Mode::Continuous),
        "linked" => Ok(Mode::Linked),
        other => {
            let problem = format!("is {other:?}; give continuous or linked");
            Err(ConfigError::invalid(origins, "trace.mode", problem))
        }
    }
}
