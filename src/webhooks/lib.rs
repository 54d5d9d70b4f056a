//! Webhooks without their IO: which events a hook wants ([`filter`]), what of them is sent next ([`HookQueue`]), when something is tried
//! again ([`RetryPolicy`]), and how deliveries are signed ([`signature`]). No clock: the caller says what time it is.
//!
//! Limits: those of [`schemas::hook`] and of [`RetryPolicy`].

pub mod filter;
mod queue;
mod retry;
pub mod signature;
#[cfg(test)]
mod tests;

pub use queue::{DueDelivery, FailedDelivery, HookQueue, Lane, SkippedEvent, TakeResult};
pub use retry::RetryPolicy;
