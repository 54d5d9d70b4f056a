//! Names are looked up at every connect, and addresses that are not public left out of what is found.
//!
//! Limits: [`ADDRESSES_MAX`] addresses of a name.

use std::{
    fmt::{self, Debug},
    io,
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

use futures::{FutureExt as _, future::BoxFuture};
use reqwest::dns::{Addrs, Name, Resolve, Resolving};

use crate::networks::{NetworkRule, Networks};

/// Most addresses of a name that are tried.
pub const ADDRESSES_MAX: usize = 16;

/// Says what a name stands for now.
pub trait LookUp: Debug + Send + Sync {
    /// The addresses of `name`, in the order in which they are tried.
    fn look_up(&self, name: String) -> BoxFuture<'static, io::Result<Vec<IpAddr>>>;
}

/// As the system does it.
#[derive(Debug, Clone, Copy, Default)]
pub struct SystemLookUp;

impl LookUp for SystemLookUp {
    fn look_up(&self, name: String) -> BoxFuture<'static, io::Result<Vec<IpAddr>>> {
        async move {
            let found = tokio::net::lookup_host((name.as_str(), 0)).await?;
            Ok(found.map(|address| address.ip()).collect())
        }
        .boxed()
    }
}

/// Why a name leads nowhere; found again among the causes of the client's error.
#[derive(Debug)]
pub(crate) enum ResolveFailure {
    /// None of its addresses may be reached.
    Refused(NetworkRule),
    /// Nobody knows it now.
    NotFound,
}

impl fmt::Display for ResolveFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Refused(_) => "no public address",
            Self::NotFound => "no such name",
        })
    }
}

impl std::error::Error for ResolveFailure {}

/// Looks names up, and lets nothing through that is not public.
#[derive(Debug)]
pub(crate) struct FilteringResolver {
    pub(crate) look_up: Arc<dyn LookUp>,
    pub(crate) networks: Arc<Networks>,
}

impl Resolve for FilteringResolver {
    fn resolve(&self, name: Name) -> Resolving {
        let finding = self.look_up.look_up(name.as_str().to_owned());
        let networks = Arc::clone(&self.networks);
        async move {
            let found = finding.await.map_err(|error| {
                tracing::debug!(%error, "a name was not found");
                ResolveFailure::NotFound
            })?;
            let public = filter_addresses(&networks, found)?;
            Ok(Box::new(public.into_iter().map(|address| SocketAddr::new(address, 0))) as Addrs)
        }
        .boxed()
    }
}

fn filter_addresses(networks: &Networks, found: Vec<IpAddr>) -> Result<Vec<IpAddr>, ResolveFailure> {
    let mut refused = None;
    let mut public = Vec::new();
    for address in found.into_iter().take(ADDRESSES_MAX) {
        match networks.check(address) {
            Ok(()) => public.push(address),
            Err(rule) => {
                refused.get_or_insert(rule);
            }
        }
    }
    match refused {
        Some(rule) if public.is_empty() => Err(ResolveFailure::Refused(rule)),
        None if public.is_empty() => Err(ResolveFailure::NotFound),
        _ => Ok(public),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_several_addresses_the_public_ones_are_left() {
        let networks = Networks::default();
        let filter = |texts: &[&str]| {
            filter_addresses(&networks, texts.iter().map(|text| text.parse().unwrap()).collect())
        };
        let left = filter(&["10.0.0.1", "8.8.8.8", "::1", "2606:4700::1111"]).unwrap();
        assert_eq!(left.iter().map(ToString::to_string).collect::<Vec<_>>(), ["8.8.8.8", "2606:4700::1111"]);
        assert!(
            matches!(filter(&["fe80::1", "10.0.0.1"]), Err(ResolveFailure::Refused(rule)) if rule.network == "fe80::/10")
        );
        assert!(matches!(filter(&[]), Err(ResolveFailure::NotFound)));
    }
}
