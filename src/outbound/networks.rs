//! Which addresses are public.
//!
//! The lists follow the registries of special-purpose addresses of IANA (RFC 6890 and its updates). Of IPv6 only 2000::/3 is assigned to
//! be reached from everywhere; an address that carries one of IPv4 is as public as that one where routers translate it (RFC 6052, and
//! mapped addresses), and refused where they tunnel, which is obsolete.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;

/// Why an address is not reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NetworkRule {
    /// The network that it is in.
    pub network: &'static str,
    /// What that is for.
    pub purpose: &'static str,
}

struct V4Rule(Ipv4Addr, u32, NetworkRule);
struct V6Rule(Ipv6Addr, u32, NetworkRule);

const fn v4(a: u8, b: u8, c: u8, bits: u32, network: &'static str, purpose: &'static str) -> V4Rule {
    V4Rule(Ipv4Addr::new(a, b, c, 0), bits, NetworkRule { network, purpose })
}

const fn v6(a: u16, b: u16, bits: u32, network: &'static str, purpose: &'static str) -> V6Rule {
    V6Rule(Ipv6Addr::new(a, b, 0, 0, 0, 0, 0, 0), bits, NetworkRule { network, purpose })
}

const V4_RULES: [V4Rule; 16] = [
    v4(0, 0, 0, 8, "0.0.0.0/8", "this network"),
    v4(10, 0, 0, 8, "10.0.0.0/8", "private use"),
    v4(100, 64, 0, 10, "100.64.0.0/10", "shared by providers"),
    v4(127, 0, 0, 8, "127.0.0.0/8", "this host"),
    // No registry names it: https://learn.microsoft.com/azure/virtual-network/what-is-ip-address-168-63-129-16
    V4Rule(
        Ipv4Addr::new(168, 63, 129, 16),
        32,
        NetworkRule { network: "168.63.129.16/32", purpose: "the platform of Azure" },
    ),
    v4(169, 254, 0, 16, "169.254.0.0/16", "link-local"),
    v4(172, 16, 0, 12, "172.16.0.0/12", "private use"),
    v4(192, 0, 0, 24, "192.0.0.0/24", "protocols"),
    v4(192, 0, 2, 24, "192.0.2.0/24", "documentation"),
    v4(192, 88, 99, 24, "192.88.99.0/24", "relays of 6to4"),
    v4(192, 168, 0, 16, "192.168.0.0/16", "private use"),
    v4(198, 18, 0, 15, "198.18.0.0/15", "benchmarks"),
    v4(198, 51, 100, 24, "198.51.100.0/24", "documentation"),
    v4(203, 0, 113, 24, "203.0.113.0/24", "documentation"),
    v4(224, 0, 0, 4, "224.0.0.0/4", "multicast"),
    v4(240, 0, 0, 4, "240.0.0.0/4", "reserved"),
];

const V6_RULES: [V6Rule; 9] = [
    v6(0x2001, 0, 32, "2001::/32", "tunnels of Teredo"),
    v6(0x2001, 0, 23, "2001::/23", "protocols"),
    v6(0x2001, 0xdb8, 32, "2001:db8::/32", "documentation"),
    v6(0x2002, 0, 16, "2002::/16", "tunnels of 6to4"),
    v6(0x3fff, 0, 20, "3fff::/20", "documentation"),
    v6(0xfc00, 0, 7, "fc00::/7", "private use"),
    v6(0xfe80, 0, 10, "fe80::/10", "link-local"),
    v6(0xfec0, 0, 10, "fec0::/10", "site-local"),
    v6(0xff00, 0, 8, "ff00::/8", "multicast"),
];

const NOT_GLOBAL: NetworkRule = NetworkRule { network: "::/0", purpose: "outside of 2000::/3" };
const UNSPECIFIED: NetworkRule = NetworkRule { network: "::/128", purpose: "no host" };
const LOOPBACK: NetworkRule = NetworkRule { network: "::1/128", purpose: "this host" };

/// Networks that are reached besides public ones.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Networks {
    allowed: Vec<IpNet>,
}

impl Networks {
    /// Lets `allowed` through.
    pub fn new(allowed: Vec<IpNet>) -> Self {
        Self { allowed }
    }

    /// Refuses an address that is neither public nor let through; why.
    ///
    /// # Errors
    /// The network that it is in.
    pub fn check(&self, address: IpAddr) -> Result<(), NetworkRule> {
        let address = address.to_canonical();
        if self.allowed.iter().any(|network| network.contains(&address)) {
            return Ok(());
        }
        match address {
            IpAddr::V4(address) => check_v4(address),
            IpAddr::V6(address) => match embedded_v4(address) {
                Some(embedded) => self.check(embedded.into()),
                None => check_v6(address),
            },
        }
    }
}

fn check_v4(address: Ipv4Addr) -> Result<(), NetworkRule> {
    let found = V4_RULES
        .iter()
        .find(|V4Rule(network, bits, _)| (address.to_bits() ^ network.to_bits()) >> (32 - bits) == 0);
    found.map_or(Ok(()), |V4Rule(_, _, rule)| Err(*rule))
}

fn check_v6(address: Ipv6Addr) -> Result<(), NetworkRule> {
    if address.is_unspecified() {
        return Err(UNSPECIFIED);
    }
    if address.is_loopback() {
        return Err(LOOPBACK);
    }
    let found = V6_RULES
        .iter()
        .find(|V6Rule(network, bits, _)| (address.to_bits() ^ network.to_bits()) >> (128 - bits) == 0);
    match found {
        Some(V6Rule(_, _, rule)) => Err(*rule),
        None if address.to_bits() >> 125 != 1 => Err(NOT_GLOBAL),
        None => Ok(()),
    }
}

/// The address of IPv4 that routers translate one of 64:ff9b::/96 to (RFC 6052): behind such a router every host of IPv4 is called so.
fn embedded_v4(address: Ipv6Addr) -> Option<Ipv4Addr> {
    const PREFIX: u128 = 0x0064_ff9b << 96;
    let bits = address.to_bits();
    (bits & !u128::from(u32::MAX) == PREFIX)
        .then(|| Ipv4Addr::from_bits(u32::try_from(bits & u128::from(u32::MAX)).unwrap_or_default()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn is_reached(networks: &Networks, address: &str) -> bool {
        networks.check(address.parse().unwrap()).is_ok()
    }

    const REFUSED: &str = "0.0.0.0 0.1.2.3 10.0.0.1 10.255.255.255 100.64.0.1 100.127.255.255 127.0.0.1 127.255.255.254 \
        169.254.169.254 172.16.0.1 172.31.255.255 192.0.0.1 192.0.0.170 192.0.2.1 192.88.99.1 192.168.1.1 198.18.0.1 \
        198.19.255.255 198.51.100.7 203.0.113.9 224.0.0.1 239.255.255.255 240.0.0.1 255.255.255.255 :: ::1 ::2 ::127.0.0.1 \
        ::ffff:127.0.0.1 ::ffff:10.1.2.3 ::ffff:0:127.0.0.1 64:ff9b::127.0.0.1 64:ff9b::a00:1 64:ff9b::169.254.169.254 \
        64:ff9b:1::1 100::1 2001::1 2001:0:4136:e378:8000:63bf:3fff:fdd2 2001:2::1 2001:20::1 2001:db8::1 2002:7f00:1::1 \
        2002:a00:1:: 2002:808:808::1 3fff::1 5f00::1 fc00::1 fd12:3456::1 fe80::1 febf::1 fec0::1 feff::1 ff02::1 4000::1";

    const REACHED: &str = "1.1.1.1 9.255.255.255 11.0.0.0 100.63.255.255 100.128.0.0 128.0.0.1 172.15.0.1 172.32.0.1 \
        192.0.1.1 198.17.0.1 198.20.0.1 223.255.255.255 2606:4700::1111 2a00:1450::1 2001:4860:4860::8888 2003::1 \
        ::ffff:8.8.8.8 64:ff9b::8.8.8.8";

    #[test]
    fn nothing_but_public_addresses_is_reached() {
        let networks = Networks::default();
        for (addresses, wanted) in [(REFUSED, false), (REACHED, true)] {
            for address in addresses.split_whitespace() {
                assert_eq!(is_reached(&networks, address), wanted, "{address}");
            }
        }
    }

    #[test]
    fn an_operator_lets_networks_through_in_every_spelling() {
        let networks = Networks::new(vec!["10.0.0.0/8".parse().unwrap(), "fd00::/8".parse().unwrap()]);
        for address in ["10.1.2.3", "::ffff:10.1.2.3", "64:ff9b::10.1.2.3", "fd00::1", "8.8.8.8"] {
            assert!(is_reached(&networks, address), "{address}");
        }
        for address in ["127.0.0.1", "192.168.0.1", "fe80::1", "fc00::1", "::ffff:127.0.0.1"] {
            assert!(!is_reached(&networks, address), "{address}");
        }
    }

    #[test]
    fn the_rule_is_named() {
        let refused = |address: &str| Networks::default().check(address.parse().unwrap()).unwrap_err();
        assert_eq!(refused("::ffff:169.254.169.254").network, "169.254.0.0/16");
        assert_eq!(refused("2001::1").purpose, "tunnels of Teredo");
        assert_eq!(refused("4000::1"), NOT_GLOBAL);
    }
}
