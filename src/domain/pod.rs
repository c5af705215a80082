//! Which process of which pod holds a lease, as the uid column tells it.
//!
//! **Invariant:** one process is said to come after another only where both held the lock of one
//! volume, which one process holds at a time: then the other is dead.

use std::{fmt, str::FromStr};

/// `ow_owner_uid`: empty outside Kubernetes, else the pod's UID, and behind a slash which
/// [`Life`] where the process holds the lock of its volume. Behind that stands where the lease is kept,
/// if not in the lock table ([`kept_in`]). At most 64 ASCII characters.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PodProcess {
    uid: String,
    life: Option<Life>,
}

/// The pod that this process runs in, as the Kubernetes API knows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OwnPod {
    pub name: String,
    pub uid: String,
}

/// Why a text is no pod's UID.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("it must have at most 38 letters, digits and dashes")]
pub struct PodUidError;

impl PodProcess {
    /// The column holds 64, of which a life takes up to 20 and the name of a provider up to 6.
    const LONGEST_UID: usize = 38;

    /// A process that has proved nothing yet; `uid` is empty outside Kubernetes.
    pub fn try_new(uid: &str) -> Result<Self, PodUidError> {
        let is_plain = uid.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-');
        if uid.len() > Self::LONGEST_UID || !is_plain {
            return Err(PodUidError);
        }
        Ok(Self { uid: uid.into(), life: None })
    }

    #[must_use]
    pub fn with_life(mut self, life: Life) -> Self {
        self.life = Some(life);
        self
    }

    /// The pod's UID; empty outside Kubernetes.
    pub fn uid(&self) -> &str {
        &self.uid
    }

    pub const fn life(&self) -> Option<&Life> {
        self.life.as_ref()
    }

    /// Whether whoever wrote `column` is dead because this process lives.
    pub fn comes_after(&self, column: &str) -> bool {
        let process = column.split('@').next().unwrap_or_default();
        let (Some(own), Some((uid, other))) = (&self.life, process.split_once('/')) else {
            return false;
        };
        !uid.is_empty()
            && uid == self.uid
            && other.parse().is_ok_and(|other| own.comes_after(&other))
    }
}

impl fmt::Display for PodProcess {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.life {
            None => f.write_str(&self.uid),
            Some(life) => write!(f, "{}/{life}", self.uid),
        }
    }
}

/// The UID of the pod of whoever wrote `column`; empty outside Kubernetes.
pub fn pod_of(column: &str) -> &str {
    column.split(['/', '@']).next().unwrap_or_default()
}

/// The same process, its lease kept by this provider in place of the lock table.
pub fn keeping_in(process: &str, provider: &str) -> String {
    format!("{process}@{provider}")
}

/// By which provider the lease of whoever wrote `column` is kept; `None`: in the lock table.
pub fn kept_in(column: &str) -> Option<&str> {
    Some(column.split_once('@')?.1)
}

/// The how-manieth holder of the lock of a volume, written `4f2a91c7.3`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Life {
    volume: u32,
    number: u32,
}

/// A text that names no [`Life`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NoLife;

impl Life {
    /// The first one on a volume, whose mark is drawn at random.
    pub const fn first_on(volume: u32) -> Self {
        Self { volume, number: 1 }
    }

    /// `None` after four thousand million of them.
    pub fn next(&self) -> Option<Self> {
        Some(Self { number: self.number.checked_add(1)?, ..self.clone() })
    }

    /// Counted from 1.
    pub const fn number(&self) -> u32 {
        self.number
    }

    pub const fn comes_after(&self, other: &Self) -> bool {
        self.volume == other.volume && self.number > other.number
    }
}

impl fmt::Display for Life {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:08x}.{}", self.volume, self.number)
    }
}

impl FromStr for Life {
    type Err = NoLife;

    fn from_str(text: &str) -> Result<Self, NoLife> {
        let (volume, number) = text.split_once('.').ok_or(NoLife)?;
        let life = Self {
            volume: u32::from_str_radix(volume, 16).map_err(|_| NoLife)?,
            number: number.parse().map_err(|_| NoLife)?,
        };
        if life.to_string() == text { Ok(life) } else { Err(NoLife) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const UID: &str = "0f6c1e34-55ab-4a3c-9c1d-7d0b5d7c4e21";

    #[test]
    fn only_a_later_life_on_the_same_volume_of_the_same_pod_comes_after() {
        let second = Life::first_on(7).next().expect("a number");
        let own = PodProcess::try_new(UID).expect("a UID").with_life(second);
        assert_eq!(own.to_string(), format!("{UID}/00000007.2"));
        for (column, expected) in [
            (&*format!("{UID}/00000007.1"), true),
            (&format!("{UID}/00000007.2"), false),
            (&format!("{UID}/00000007.3"), false),
            (&format!("{UID}/00000008.1"), false),
            (&format!("{UID}/7.1"), false),
            (&format!("{UID}/00000007.+1"), false),
            (&format!("{UID}/"), false),
            (UID, false),
            ("another/00000007.1", false),
            ("/00000007.1", false),
            ("", false),
        ] {
            assert_eq!(own.comes_after(column), expected, "{column}");
        }
        let unproved = PodProcess::try_new(UID).expect("a UID");
        assert!(!unproved.comes_after(&format!("{UID}/00000007.1")));
        let nowhere = PodProcess::default().with_life(Life::first_on(7).next().expect("a number"));
        assert!(!nowhere.comes_after("/00000007.1"));
    }

    #[test]
    fn what_the_column_cannot_hold_is_no_uid() {
        for good in ["", UID, &"a".repeat(38)] {
            let longest = Life { volume: u32::MAX, number: u32::MAX };
            let process = PodProcess::try_new(good).expect("a UID").with_life(longest);
            assert!(process.to_string().len() <= 64, "{process}");
        }
        for bad in [&*"a".repeat(39), "a/b", "a.b", "ü", "a b", "../x"] {
            assert_eq!(PodProcess::try_new(bad), Err(PodUidError), "{bad}");
        }
    }
}
