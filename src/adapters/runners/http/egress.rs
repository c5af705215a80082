//! From a URL to the addresses that may be connected to.
//!
//! **Invariant:** what leaves this file was decided on address by address, and nobody asks for a
//! name again before connecting, so that a name that changes its mind cannot slip through. One
//! address that may not be called is enough to refuse a name.

use std::{
    fmt, io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket},
    sync::Arc,
};

use async_trait::async_trait;
use url::{Host, Url};

use super::failure::Failure;
use crate::domain::egress::{Own, Place, Policy, Target, decide, plain_name};

/// More addresses of one name than this are not tried.
const MOST_ADDRESSES: usize = 16;

/// Turns names into addresses.
#[async_trait]
pub trait Resolve: fmt::Debug + Send + Sync + 'static {
    async fn resolve(&self, name: &str) -> io::Result<Vec<IpAddr>>;
}

/// The system's way, search list and hosts file included. A question that nobody waits for any
/// more ends by itself on its thread.
#[derive(Debug)]
pub struct SystemResolver;

#[async_trait]
impl Resolve for SystemResolver {
    async fn resolve(&self, name: &str) -> io::Result<Vec<IpAddr>> {
        Ok(tokio::net::lookup_host((name, 0)).await?.map(|address| address.ip()).collect())
    }
}

/// What decides on addresses.
#[derive(Clone, Debug)]
pub struct Egress {
    pub policy: Policy,
    /// Servers that belong to the worker.
    pub own: Vec<Own>,
    pub resolver: Arc<dyn Resolve>,
}

impl Egress {
    /// The addresses of a URL's server, in the order in which they are to be tried.
    pub async fn addresses(&self, url: &Url) -> Result<Vec<SocketAddr>, Failure> {
        let (server, port) = (server(url), port(url));
        let (name, addresses) = match url.host() {
            Some(Host::Ipv4(address)) => (None, vec![IpAddr::V4(address)]),
            Some(Host::Ipv6(address)) => (None, vec![IpAddr::V6(address)]),
            Some(Host::Domain(name)) => (Some(plain_name(name)), self.look_up(name).await?),
            None => (None, Vec::new()),
        };
        if addresses.is_empty() {
            let host = url.host_str().unwrap_or_default().to_owned();
            return Err(Failure::NoAddress { host });
        }
        let own = self.own_at(port, &server).await?;
        let here = own.iter().any(|own| own.place == Place::ThisHost);
        for address in &addresses {
            let is_this_host = here && is_this_host(*address);
            let target = Target { name, address: *address, port, is_this_host };
            decide(&self.policy, &own, &target).map_err(|refusal| Failure::Refused {
                server: server.clone(),
                address: *address,
                refusal,
            })?;
        }
        let addresses = addresses.into_iter().take(MOST_ADDRESSES);
        Ok(addresses.map(|address| SocketAddr::new(address, port)).collect())
    }

    async fn look_up(&self, name: &str) -> Result<Vec<IpAddr>, Failure> {
        self.resolver
            .resolve(name)
            .await
            .map_err(|source| Failure::Lookup { host: name.to_owned(), source })
    }

    /// The worker's own servers at a port, each also under the addresses of its name.
    async fn own_at(&self, port: u16, server: &str) -> Result<Vec<Own>, Failure> {
        let mut own: Vec<Own> = self.own.iter().filter(|own| own.port == port).cloned().collect();
        for index in 0..own.len() {
            let Own { what, place: Place::Name(host), .. } = &own[index] else { continue };
            let (what, host) = (*what, host.clone());
            let addresses = self.resolver.resolve(&host).await.map_err(|source| {
                Failure::OwnLookup { server: server.to_owned(), what, host, source }
            })?;
            own.extend(addresses.into_iter().map(|address| Own {
                what,
                place: Place::Address(address),
                port,
            }));
        }
        Ok(own)
    }
}

/// Name or address and port, for people. No credentials.
pub fn server(url: &Url) -> String {
    format!("{}:{}", url.host_str().unwrap_or_default(), port(url))
}

fn port(url: &Url) -> u16 {
    url.port_or_known_default().unwrap_or_default()
}

/// Whether an address leads back to this host: the system then chooses the same one to send from.
/// Nothing is sent.
fn is_this_host(address: IpAddr) -> bool {
    let address = address.to_canonical();
    let any: IpAddr = match address {
        IpAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        IpAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    let chosen = || {
        let socket = UdpSocket::bind((any, 0))?;
        socket.connect((address, 9))?;
        socket.local_addr()
    };
    address.is_loopback() || chosen().is_ok_and(|own| own.ip().to_canonical() == address)
}
