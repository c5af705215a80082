//! The entries of `http.allow` and `http.deny`.
//!
//! **Invariant:** a [`Rule`] means what its text says: each address, range and name has one form,
//! whatever notation it was written in.

use core::net::IpAddr;
use std::{fmt, str::FromStr};

use ipnet::{IpNet, Ipv4Net};
use url::Host;

use super::Target;

/// An entry of `http.allow` or `http.deny`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    servers: Servers,
    port: Option<u16>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Servers {
    Any,
    Name(String),
    /// `.example.com`: each name that ends so.
    Below(String),
    Net(IpNet),
}

impl Rule {
    pub(super) fn covers(&self, target: &Target) -> bool {
        self.port.is_none_or(|port| port == target.port)
            && match (&self.servers, target.name) {
                (Servers::Any, _) => true,
                (Servers::Name(own), Some(name)) => own == name,
                (Servers::Below(end), Some(name)) => name.ends_with(end),
                (Servers::Name(_) | Servers::Below(_), None) => false,
                (Servers::Net(net), _) => net.contains(&target.address),
            }
    }

    pub(super) const fn names_addresses(&self) -> bool {
        match self.servers {
            Servers::Net(_) => true,
            Servers::Any | Servers::Name(_) | Servers::Below(_) => false,
        }
    }
}

/// Why a text is no [`Rule`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RuleError {
    #[error("is a URL; give its host alone, with a port if you like")]
    Url,
    #[error("has no port between 1 and 65535 behind its colon")]
    Port,
    #[error("is no range of addresses; give one such as 10.0.0.0/8 or fd00::/8")]
    Range,
    #[error("has bits beyond its length; write {0}")]
    LooseRange(IpNet),
    #[error(
        "is no host; give a name, *.SUFFIX, an address or a range, each with :PORT if you like \
         (an IPv6 address with a port in brackets), or *:PORT"
    )]
    Host,
}

impl FromStr for Rule {
    type Err = RuleError;

    fn from_str(text: &str) -> Result<Self, RuleError> {
        if text.contains("://") {
            return Err(RuleError::Url);
        }
        let (servers, port) = split(text)?;
        let port = port.map(|port| port.parse().ok().filter(|port| *port != 0));
        let port = port.map(|port| port.ok_or(RuleError::Port)).transpose()?;
        Ok(Self { servers: servers.parse()?, port })
    }
}

/// A rule's servers, without brackets, and its port.
fn split(text: &str) -> Result<(&str, Option<&str>), RuleError> {
    if let Some(rest) = text.strip_prefix('[') {
        let (inside, rest) = rest.split_once(']').ok_or(RuleError::Host)?;
        return match rest.strip_prefix(':') {
            Some(port) => Ok((inside, Some(port))),
            None if rest.is_empty() => Ok((inside, None)),
            None => Err(RuleError::Host),
        };
    }
    Ok(match text.split_once(':') {
        // Further colons: an IPv6 address.
        Some((servers, port)) if !port.contains(':') => (servers, Some(port)),
        Some(_) | None => (text, None),
    })
}

impl FromStr for Servers {
    type Err = RuleError;

    fn from_str(text: &str) -> Result<Self, RuleError> {
        if text == "*" {
            return Ok(Self::Any);
        }
        if text.contains('/') {
            let net = text.parse().map(canonical).map_err(|_| RuleError::Range)?;
            let exact = net.trunc();
            return if net == exact {
                Ok(Self::Net(net))
            } else {
                Err(RuleError::LooseRange(exact))
            };
        }
        if let Ok(address) = text.parse::<IpAddr>() {
            return Ok(Self::Net(address.to_canonical().into()));
        }
        let (below, name) = match text.strip_prefix("*.") {
            Some(name) => (true, name),
            None => (false, text),
        };
        match Host::parse(name).map_err(|_| RuleError::Host)? {
            Host::Domain(name) if name.contains('*') || has_empty_label(&name) => {
                Err(RuleError::Host)
            }
            Host::Domain(name) if below => Ok(Self::Below(format!(".{}", plain_name(&name)))),
            Host::Domain(name) => Ok(Self::Name(plain_name(&name).to_owned())),
            Host::Ipv4(_) | Host::Ipv6(_) if below => Err(RuleError::Host),
            Host::Ipv4(address) => Ok(Self::Net(IpAddr::V4(address).into())),
            Host::Ipv6(address) => Ok(Self::Net(IpAddr::V6(address).to_canonical().into())),
        }
    }
}

/// A range of IPv4 addresses that is written as one of IPv6 (`::ffff:10.0.0.0/104`) as itself.
fn canonical(net: IpNet) -> IpNet {
    let IpNet::V6(v6) = net else { return net };
    let length = v6.prefix_len().checked_sub(96);
    let v4 = v6.addr().to_ipv4_mapped().zip(length);
    v4.and_then(|(address, length)| Ipv4Net::new(address, length).ok()).map_or(net, IpNet::V4)
}

fn has_empty_label(name: &str) -> bool {
    plain_name(name).split('.').any(str::is_empty)
}

/// A name without the dot that says that it is complete.
pub fn plain_name(name: &str) -> &str {
    name.strip_suffix('.').unwrap_or(name)
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let servers = match &self.servers {
            Servers::Any => "*".to_owned(),
            Servers::Name(name) => name.clone(),
            Servers::Below(end) => format!("*{end}"),
            Servers::Net(net) if net.prefix_len() == net.max_prefix_len() => net.addr().to_string(),
            Servers::Net(net) => net.to_string(),
        };
        match self.port {
            None => f.write_str(&servers),
            Some(port) if servers.contains(':') => write!(f, "[{servers}]:{port}"),
            Some(port) => write!(f, "{servers}:{port}"),
        }
    }
}
