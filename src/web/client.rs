//! Which address a request comes from: one answer for limits, audit and logs.
//!
//! The peer of the connection, unless it is a proxy that the settings trust. Then the one forwarding header that is configured is
//! read from the right, where trusted proxies wrote, and the first address that is no trusted proxy is the client. What lies
//! further left is the client's own text and is never looked at. An entry that is no address ends the walk at the proxy that
//! handed it on: a client that sends nonsense shares the bucket of that proxy, and gains no bucket of its own.
//!
//! Limits: at most [`HOPS_MAX`] entries are read.

use std::{
    convert::Infallible,
    net::{IpAddr, Ipv6Addr, SocketAddr},
    sync::{Arc, Once},
};

use axum::{
    extract::{ConnectInfo, FromRequestParts, Request, State},
    http::{Extensions, HeaderMap, HeaderName, header, request::Parts},
    middleware::Next,
    response::Response,
};
use ipnet::IpNet;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Most entries of a forwarding header that are read; more hops than this are no chain of proxies.
pub const HOPS_MAX: usize = 32;

static X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");

/// The header that the trusted proxies write; the other one is never read.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[schemars(rename = "Field")]
pub enum ForwardingHeader {
    /// `X-Forwarded-For`.
    #[default]
    XForwardedFor,
    /// `Forwarded` (RFC 7239).
    Forwarded,
}

/// Whom to believe about addresses.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct ClientAddressConfig {
    /// Networks of the proxies in front, such as `10.0.0.0/8`, which say who the client is and what it reached: address, scheme,
    /// host, path in front (`X-Forwarded-Prefix`). Empty: the peer is the client.
    #[schemars(with = "Vec<String>")]
    pub trusted_proxies: Vec<IpNet>,
    /// The header that these proxies write.
    pub field: ForwardingHeader,
    /// Bits of an IPv6 address that distinguish clients: 64 is what one subscriber line usually has.
    #[schemars(range(min = 1, max = 128))]
    pub ipv6_prefix_bits: u8,
}

impl Default for ClientAddressConfig {
    fn default() -> Self {
        Self { trusted_proxies: Vec::new(), field: ForwardingHeader::default(), ipv6_prefix_bits: 64 }
    }
}

/// Where a request comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct ClientAddress {
    /// The address.
    pub address: IpAddr,
    /// What distinguishes clients: the address, or the first bits of an IPv6 address.
    pub prefix: IpAddr,
}

impl ClientAddress {
    /// The client of a request that came from `peer` with `headers`.
    pub fn from_peer(config: &ClientAddressConfig, peer: IpAddr, headers: &HeaderMap) -> Self {
        let address = forwarded_address(config, peer.to_canonical(), headers);
        Self { address, prefix: client_prefix(address, config.ipv6_prefix_bits) }
    }

    /// The client that [`identify_client`] found. Without it in front: the peer, or the unspecified address where there is none, as
    /// in tests of a router.
    pub fn from_extensions(extensions: &Extensions, headers: &HeaderMap) -> Self {
        let found = extensions.get::<Self>().copied();
        found.unwrap_or_else(|| {
            Self::from_peer(&ClientAddressConfig::default(), peer_address(extensions), headers)
        })
    }
}

fn peer_address(extensions: &Extensions) -> IpAddr {
    let peer = extensions.get::<ConnectInfo<SocketAddr>>().map(|ConnectInfo(peer)| peer.ip());
    peer.unwrap_or(Ipv6Addr::UNSPECIFIED.into())
}

impl<S: Send + Sync> FromRequestParts<S> for ClientAddress {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Infallible> {
        Ok(Self::from_extensions(&parts.extensions, &parts.headers))
    }
}

/// What [`identify_client`] goes by.
#[derive(Debug, Clone)]
pub struct ClientIdentification {
    /// Whom to believe.
    pub config: ClientAddressConfig,
    /// The address that people reach this by, where the operator named it.
    pub public_url: Option<String>,
}

impl ClientIdentification {
    /// The header of the proxy that a request came through, if that is trusted.
    pub(crate) fn trusted_header(&self, extensions: &Extensions) -> Option<ForwardingHeader> {
        let peer = peer_address(extensions).to_canonical();
        self.config.trusted_proxies.iter().any(|net| net.contains(&peer)).then_some(self.config.field)
    }
}

/// Puts the [`ClientAddress`], and what the public address goes by, among the request's extensions.
pub async fn identify_client(
    State(by): State<Arc<ClientIdentification>>,
    mut request: Request,
    next: Next,
) -> Response {
    let client = ClientAddress::from_peer(&by.config, peer_address(request.extensions()), request.headers());
    request.extensions_mut().insert(client);
    // Few answers hold an address: those work it out.
    request.extensions_mut().insert(by);
    next.run(request).await
}

/// The address that counts as one client.
fn client_prefix(address: IpAddr, ipv6_bits: u8) -> IpAddr {
    match address {
        IpAddr::V4(_) => address,
        IpAddr::V6(v6) => {
            // One household has a whole IPv6 prefix: by address it would have as many shares as it likes.
            let keep = u32::from(ipv6_bits.min(128));
            let mask = u128::MAX.checked_shl(128 - keep).unwrap_or(0);
            Ipv6Addr::from_bits(v6.to_bits() & mask).into()
        }
    }
}

fn forwarded_address(config: &ClientAddressConfig, peer: IpAddr, headers: &HeaderMap) -> IpAddr {
    let trusted = |address: IpAddr| config.trusted_proxies.iter().any(|net| net.contains(&address));
    let mut client = peer;
    if !trusted(peer) {
        if headers.contains_key(&X_FORWARDED_FOR) || headers.contains_key(header::FORWARDED) {
            warn_untrusted_proxy();
        }
        return client;
    }
    let name = match config.field {
        ForwardingHeader::XForwardedFor => &X_FORWARDED_FOR,
        ForwardingHeader::Forwarded => &header::FORWARDED,
    };
    // Several lines of a list are one list (RFC 9110, 5.3); the last line was written last.
    let lines: Vec<&[u8]> = headers.get_all(name).iter().map(header::HeaderValue::as_bytes).collect();
    let entries = lines.iter().rev().flat_map(|line| ReverseListEntries { rest: Some(line) }).take(HOPS_MAX);
    for entry in entries {
        let address = match config.field {
            ForwardingHeader::XForwardedFor => parse_address(entry),
            ForwardingHeader::Forwarded => parse_forwarded_for(entry),
        };
        let Some(address) = address else { return client };
        client = address;
        // From the right: what a trusted proxy added is at the end, all before it may be made up.
        if !trusted(client) {
            return client;
        }
    }
    client
}

/// Warns once, in the log, of a proxy that the settings do not name: all clients behind it count as one.
fn warn_untrusted_proxy() {
    static WARNED: Once = Once::new();
    WARNED.call_once(|| {
        tracing::warn!(
            "a peer sends X-Forwarded-For or Forwarded and is no trusted proxy, so it counts as one client; if it is a proxy of \
             yours, name its network in ingress.client.trusted_proxies"
        );
    });
}

/// The entries of a list from its right end, without empty ones. A comma inside a quoted string separates nothing; seen from the
/// right, an unbalanced quote further left can't hide what a trusted proxy appended.
struct ReverseListEntries<'a> {
    rest: Option<&'a [u8]>,
}

impl<'a> Iterator for ReverseListEntries<'a> {
    type Item = &'a [u8];

    fn next(&mut self) -> Option<&'a [u8]> {
        loop {
            let rest = self.rest.take()?;
            let entry = match find_last_comma(rest) {
                Some(at) => {
                    self.rest = rest.get(..at);
                    rest.get(at + 1..).unwrap_or_default()
                }
                None => rest,
            };
            // RFC 9110, 5.6.1: empty elements count for nothing.
            if !entry.trim_ascii().is_empty() {
                return Some(entry.trim_ascii());
            }
        }
    }
}

/// Where the last comma outside of quotes is.
fn find_last_comma(list: &[u8]) -> Option<usize> {
    let mut quoted = false;
    for (at, byte) in list.iter().enumerate().rev() {
        match byte {
            b'"' if !is_escaped(list, at) => quoted = !quoted,
            b',' if !quoted => return Some(at),
            _ => {}
        }
    }
    None
}

fn is_escaped(list: &[u8], at: usize) -> bool {
    let before = list.get(..at).unwrap_or_default();
    before.iter().rev().take_while(|byte| **byte == b'\\').count() % 2 == 1
}

/// The `for` of one element of `Forwarded`; an obfuscated or unknown one is no address.
fn parse_forwarded_for(element: &[u8]) -> Option<IpAddr> {
    let text = std::str::from_utf8(element).ok()?;
    let mut found = None;
    for pair in text.split(';') {
        let (name, value) = pair.split_once('=')?;
        if name.trim().eq_ignore_ascii_case("for") {
            // Twice in one element says nothing that can be relied on (RFC 7239, 4).
            if found.replace(value.trim()).is_some() {
                return None;
            }
        }
    }
    let value = found?;
    match value.strip_prefix('"') {
        Some(rest) => parse_address(rest.strip_suffix('"')?.as_bytes()),
        // A bare value is a token, which knows no colon and no bracket.
        None => value.parse::<std::net::Ipv4Addr>().ok().map(IpAddr::V4),
    }
}

/// An address as proxies write it: `192.0.2.1`, `192.0.2.1:80`, `2001:db8::1`, `[2001:db8::1]`, `[2001:db8::1]:80`. A zone means
/// something only on the machine that wrote it, so an address with one is none.
fn parse_address(entry: &[u8]) -> Option<IpAddr> {
    let text = std::str::from_utf8(entry).ok()?.trim();
    let parsed = text
        .parse::<IpAddr>()
        .ok()
        .or_else(|| match text.parse::<SocketAddr>().ok()? {
            SocketAddr::V6(with_zone) if with_zone.scope_id() != 0 => None,
            socket => Some(socket.ip()),
        })
        .or_else(|| text.strip_prefix('[')?.strip_suffix(']')?.parse::<Ipv6Addr>().ok().map(IpAddr::V6))?;
    Some(parsed.to_canonical())
}

#[cfg(test)]
#[path = "client_tests.rs"]
mod tests;
