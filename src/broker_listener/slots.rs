//! Which connections are taken: so many at once, and so many of one address.
//!
//! Limits: those that [`ConnectionSlots::new`] is given. An IPv6 network of 64 bits, which is what one machine can have, counts as one
//! address.

use std::{
    collections::HashMap,
    net::{IpAddr, Ipv6Addr},
    sync::Arc,
};

use parking_lot::Mutex;

/// Leading bits of an IPv6 address that count.
const NETWORK_BITS: u32 = 64;

/// The connections that are open, by address.
#[derive(Debug)]
pub(super) struct ConnectionSlots {
    connections_max: usize,
    address_connections_max: usize,
    open: Mutex<HashMap<IpAddr, usize>>,
}

/// Room for one connection, until it is dropped.
#[derive(Debug)]
pub(super) struct ConnectionSlot {
    slots: Arc<ConnectionSlots>,
    address: IpAddr,
}

impl ConnectionSlots {
    pub(super) fn new(connections_max: usize, address_connections_max: usize) -> Self {
        Self { connections_max, address_connections_max, open: Mutex::default() }
    }

    /// Room for a connection from `address`, or the setting that leaves none.
    pub(super) fn try_take(self: &Arc<Self>, address: IpAddr) -> Result<ConnectionSlot, &'static str> {
        let address = counted_address(address);
        let mut open = self.open.lock();
        if open.values().sum::<usize>() >= self.connections_max {
            return Err("broker.listener.connections_max");
        }
        let of_address = open.entry(address).or_default();
        if *of_address >= self.address_connections_max {
            return Err("broker.listener.address_connections_max");
        }
        *of_address += 1;
        Ok(ConnectionSlot { slots: Arc::clone(self), address })
    }
}

impl Drop for ConnectionSlot {
    fn drop(&mut self) {
        let mut open = self.slots.open.lock();
        if let Some(count) = open.get_mut(&self.address) {
            *count = count.saturating_sub(1);
            if *count == 0 {
                open.remove(&self.address);
            }
        }
    }
}

fn counted_address(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => {
            IpAddr::V6(Ipv6Addr::from_bits(address.to_bits() & (u128::MAX << (128 - NETWORK_BITS))))
        }
        address @ IpAddr::V4(_) => address,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_address_takes_no_more_than_its_part_and_all_together_no_more_than_there_is() {
        let slots = Arc::new(ConnectionSlots::new(3, 2));
        let take = |address: &str| slots.try_take(address.parse().unwrap());
        let first = take("192.0.2.1").unwrap();
        let _mapped = take("::ffff:192.0.2.1").unwrap();
        assert_eq!(take("192.0.2.1").unwrap_err(), "broker.listener.address_connections_max");
        let network = take("2001:db8::1").unwrap();
        assert_eq!(take("198.51.100.1").unwrap_err(), "broker.listener.connections_max");
        drop(first);
        let _second = take("2001:db8::ffff:1").unwrap();
        drop(network);
        let _third = take("2001:db8::2").unwrap();
        assert_eq!(counted_address("2001:db8::2".parse().unwrap()), "2001:db8::".parse::<IpAddr>().unwrap());
    }
}
