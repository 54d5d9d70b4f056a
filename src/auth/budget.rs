//! How often strangers may have contracts asked: a signature by no key of the account makes us ask a provider, which counts.
//!
//! A question costs its client one unit; one that the account said yes to gives it back. So many clients behind one address can
//! sign in, while signatures that are nobody's use the budget up. Units come back evenly over a minute.
//!
//! Limits: [`Config::contract_asks_per_prefix_per_minute_max`] of each client prefix and replica; [`CLIENTS_MAX`] prefixes have
//! a budget each, newcomers beyond share one.
//!
//! [`Config::contract_asks_per_prefix_per_minute_max`]: super::AuthConfig::contract_asks_per_prefix_per_minute_max

use std::{
    collections::HashMap,
    net::{IpAddr, Ipv6Addr},
    time::Duration,
};

use parking_lot::Mutex;
use tokio::time::Instant;

/// Client prefixes that have a budget each.
const CLIENTS_MAX: usize = 65_536;
const WINDOW: Duration = Duration::from_secs(60);
/// The prefix under which newcomers count when there is no room for more.
const OVERFLOW_PREFIX: IpAddr = IpAddr::V6(Ipv6Addr::UNSPECIFIED);

/// When the budget of each client prefix is whole again.
#[derive(Debug)]
pub(super) struct ContractCallBudget {
    interval: Duration,
    whole_at: Mutex<HashMap<IpAddr, Instant>>,
}

impl ContractCallBudget {
    /// A budget of `count` questions a minute for each client prefix.
    pub(super) fn new(count: u32) -> Self {
        Self { interval: WINDOW / count.max(1), whole_at: Mutex::default() }
    }

    /// Takes one question of `prefix`.
    ///
    /// # Errors
    /// The time after which there is one again.
    pub(super) fn take_call(&self, prefix: IpAddr, now: Instant) -> Result<(), Duration> {
        let mut whole_at = self.whole_at.lock();
        if whole_at.len() >= CLIENTS_MAX && !whole_at.contains_key(&prefix) {
            whole_at.retain(|_, at| *at > now);
        }
        let has_room = whole_at.len() < CLIENTS_MAX || whole_at.contains_key(&prefix);
        let at = whole_at.entry(if has_room { prefix } else { OVERFLOW_PREFIX }).or_insert(now);
        let after = (*at).max(now) + self.interval;
        match after.checked_duration_since(now + WINDOW) {
            Some(wait) if !wait.is_zero() => Err(wait),
            _ => {
                *at = after;
                Ok(())
            }
        }
    }

    /// Gives `prefix` a question back that was taken.
    pub(super) fn refund_call(&self, prefix: IpAddr) {
        let mut whole_at = self.whole_at.lock();
        if let Some(at) = whole_at.get_mut(&prefix) {
            *at = at.checked_sub(self.interval).unwrap_or(*at);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ONE: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(203, 0, 113, 8));
    const TWO: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(203, 0, 113, 9));

    #[test]
    fn a_client_has_so_many_a_minute_and_others_have_theirs() {
        let (budget, now) = (ContractCallBudget::new(3), Instant::now());
        for _ in 0..3 {
            assert_eq!(budget.take_call(ONE, now), Ok(()));
        }
        assert_eq!(budget.take_call(ONE, now), Err(Duration::from_secs(20)));
        assert_eq!(budget.take_call(TWO, now), Ok(()));
        assert_eq!(budget.take_call(ONE, now + Duration::from_secs(19)), Err(Duration::from_secs(1)));
        assert_eq!(budget.take_call(ONE, now + Duration::from_secs(20)), Ok(()));
        let later = now + Duration::from_secs(600);
        assert_eq!(
            (0..9).filter(|_| budget.take_call(ONE, later).is_ok()).count(),
            3,
            "it is never more than whole"
        );
    }

    #[test]
    fn what_an_account_said_yes_to_costs_nothing() {
        let (budget, now) = (ContractCallBudget::new(2), Instant::now());
        for _ in 0..100 {
            assert_eq!(budget.take_call(ONE, now), Ok(()));
            budget.refund_call(ONE);
        }
        assert_eq!((0..9).filter(|_| budget.take_call(ONE, now).is_ok()).count(), 2);
    }

    #[test]
    fn a_flood_of_clients_shares_one_budget() {
        let (budget, now) = (ContractCallBudget::new(2), Instant::now());
        let client = |n: usize| IpAddr::V6(Ipv6Addr::from_bits(n as u128 + 1));
        for n in 0..CLIENTS_MAX {
            assert_eq!(budget.take_call(client(n), now), Ok(()));
        }
        let let_in = (0..100).filter(|n| budget.take_call(client(CLIENTS_MAX + n), now).is_ok()).count();
        assert_eq!(let_in, 2);
        assert_eq!(budget.take_call(client(0), now), Ok(()), "who is known has its own");
        assert_eq!(budget.take_call(client(CLIENTS_MAX), now + WINDOW), Ok(()), "and there is room again");
        assert!(budget.whole_at.lock().len() < 3);
    }
}
