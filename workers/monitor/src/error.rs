//! What can go wrong in the monitor.

/// An error of the monitor.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum MonitorError {
    /// The bus failed.
    #[error("the bus failed")]
    Bus(#[from] nats::BusError),
    /// A task of the monitor panicked.
    #[error("a task of the monitor panicked")]
    Panicked,
}
