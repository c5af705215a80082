//! Which servers an HTTP step may call.
//!
//! **Invariant:** the decision is made on the very address that is then connected to, and on every
//! address that is written within it; a rule that denies is stronger than one that allows, and one
//! that allows a name, which its owner may point anywhere, opens private networks and nothing else.
//!
//! `core::net` holds addresses and no sockets.

mod rule;

use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::fmt;

use ipnet::IpNet;

pub use rule::{Rule, RuleError, plain_name};

/// What an operator has decided.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Policy {
    /// Exceptions from what is refused by default.
    pub allow: Vec<Rule>,
    pub deny: Vec<Rule>,
    /// Refuse private networks too.
    pub deny_private: bool,
    /// This process runs in a pod, whose loopback belongs to its own containers.
    pub in_pod: bool,
}

/// A server that a step wants to call.
#[derive(Clone, Copy, Debug)]
pub struct Target<'a> {
    /// Its name, in lower case; `None` where the URL holds an address.
    pub name: Option<&'a str>,
    pub address: IpAddr,
    pub port: u16,
    /// The address is one of this host.
    pub is_this_host: bool,
}

/// A server that belongs to the worker.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Own {
    pub what: Owned,
    pub place: Place,
    pub port: u16,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Owned {
    AdminPort,
    Database,
    LockServer,
    ApiServer,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// Any address of this host.
    ThisHost,
    Address(IpAddr),
    Name(String),
}

impl Place {
    /// From a name or an address, as a URL or a variable holds it.
    pub fn of_host(host: &str) -> Self {
        host.parse().map_or_else(
            |_| Self::Name(plain_name(&host.to_ascii_lowercase()).to_owned()),
            Self::Address,
        )
    }
}

/// Why a server may not be called. Goes on with a sentence that the server begins.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    #[error("is denied by {0} in http.deny")]
    Denied(String),
    #[error("is not an address of one server")]
    NoServer,
    #[error("is {0}, which no step may call")]
    Own(Owned),
    #[error("is {0}; only an address or a range in http.allow opens it")]
    Special(&'static str),
    #[error("is private, and http.deny_private is set; http.allow makes exceptions")]
    Private,
}

impl fmt::Display for Owned {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::AdminPort => "this worker's own admin port",
            Self::Database => "this worker's own database",
            Self::LockServer => "this worker's own lock server",
            Self::ApiServer => API_SERVER,
        })
    }
}

const API_SERVER: &str = "the Kubernetes API server";

const fn v4(a: u8, b: u8, c: u8, d: u8, length: u8) -> IpNet {
    IpNet::new_assert(IpAddr::V4(Ipv4Addr::new(a, b, c, d)), length)
}

const fn v6(a: u16, b: u16, c: u16, h: u16, length: u8) -> IpNet {
    IpNet::new_assert(IpAddr::V6(Ipv6Addr::new(a, b, c, 0, 0, 0, 0, h)), length)
}

/// "This network" (0.0.0.0 is another way to write loopback), multicast, reserved, broadcast.
const NO_SERVER: [IpNet; 5] = [
    v4(0, 0, 0, 0, 8),
    v4(224, 0, 0, 0, 4),
    v4(240, 0, 0, 0, 4),
    v6(0, 0, 0, 0, 128),
    v6(0xff00, 0, 0, 0, 8),
];

const METADATA: &str = "a cloud's metadata service";
const LINK_LOCAL: &str = "link-local, where clouds serve metadata and credentials";
const LOOPBACK: [IpNet; 2] = [v4(127, 0, 0, 0, 8), v6(0, 0, 0, 1, 128)];

const SPECIAL: [(IpNet, &str); 8] = [
    (v4(169, 254, 0, 0, 16), LINK_LOCAL),
    (v6(0xfe80, 0, 0, 0, 10), LINK_LOCAL),
    // Alibaba, Azure, Oracle, AWS, Google.
    (v4(100, 100, 100, 200, 32), METADATA),
    (v4(168, 63, 129, 16, 32), METADATA),
    (v4(192, 0, 0, 192, 32), METADATA),
    (v6(0xfd00, 0xec2, 0, 0, 32), METADATA),
    (v6(0xfd20, 0xce, 0, 0x254, 128), METADATA),
    // Where in it the address lies that is really called, only its operator knows.
    (v6(0x64, 0xff9b, 1, 0, 48), "behind a translator of this network's own (64:ff9b:1::/48)"),
];

const PRIVATE: [IpNet; 10] = [
    LOOPBACK[0],
    LOOPBACK[1],
    v4(10, 0, 0, 0, 8),
    v4(172, 16, 0, 0, 12),
    v4(192, 168, 0, 0, 16),
    v4(100, 64, 0, 0, 10),
    v4(192, 0, 0, 0, 24),
    v4(198, 18, 0, 0, 15),
    v6(0xfc00, 0, 0, 0, 7),
    v6(0xfec0, 0, 0, 0, 10),
];

/// Decides whether a server may be called. `own` are the worker's own, with names looked up where
/// they have the target's port.
pub fn decide(policy: &Policy, own: &[Own], target: &Target) -> Result<(), Refusal> {
    for face in faces(target.address) {
        let target = Target { address: face, ..*target };
        if let Some(rule) = policy.deny.iter().find(|rule| rule.covers(&target)) {
            return Err(Refusal::Denied(rule.to_string()));
        }
        if holds(&NO_SERVER, face) {
            return Err(Refusal::NoServer);
        }
        let mut special = SPECIAL.iter().find(|(net, _)| net.contains(&face)).map(|(_, why)| *why);
        if policy.in_pod && holds(&LOOPBACK, face) {
            special = Some("loopback, which in a pod is the pod itself");
        }
        match own.iter().find(|own| own.is(&target)).map(|own| own.what) {
            Some(Owned::ApiServer) => special = Some(API_SERVER),
            Some(what) => return Err(Refusal::Own(what)),
            None => {}
        }
        let opened = |rule: &&Rule| rule.names_addresses() && rule.covers(&target);
        if let Some(why) = special
            && !policy.allow.iter().any(|rule| opened(&rule))
        {
            return Err(Refusal::Special(why));
        }
        let is_private = policy.deny_private && holds(&PRIVATE, face);
        if is_private && !policy.allow.iter().any(|rule| rule.covers(&target)) {
            return Err(Refusal::Private);
        }
    }
    Ok(())
}

fn holds(nets: &[IpNet], address: IpAddr) -> bool {
    nets.iter().any(|net| net.contains(&address))
}

/// An address, and those of IPv4 that are written within it: a translator or a tunnel on the way
/// calls them.
pub fn faces(address: IpAddr) -> Vec<IpAddr> {
    let canonical = address.to_canonical();
    let mut faces = vec![canonical];
    let IpAddr::V6(v6) = canonical else { return faces };
    let mut add = |high: u16, low: u16| {
        faces.push(IpAddr::V4(Ipv4Addr::from_bits(u32::from(high) << 16 | u32::from(low))));
    };
    match v6.segments() {
        // Compatible with IPv4 (RFC 4291), but for :: and ::1; NAT64 (RFC 6052).
        [0, 0, 0, 0, 0, 0, high @ 1..=u16::MAX, low] | [0x64, 0xff9b, 0, 0, 0, 0, high, low] => {
            add(high, low);
        }
        // 6to4 (RFC 3056).
        [0x2002, high, low, ..] => add(high, low),
        // Teredo (RFC 4380): its server, and its client, all bits turned over.
        [0x2001, 0, high, low, _, _, client_high, client_low] => {
            add(high, low);
            add(!client_high, !client_low);
        }
        _ => {}
    }
    faces
}

impl Own {
    fn is(&self, target: &Target) -> bool {
        self.port == target.port
            && match &self.place {
                Place::ThisHost => target.is_this_host,
                Place::Address(address) => address.to_canonical() == target.address,
                Place::Name(name) => target.name == Some(name),
            }
    }
}
