//! What this crate and those above it count with: the table and the instruments of `src/instruments/`, under one name.

pub use instruments::*;

/// A document of what one part counts.
#[cfg(any(test, feature = "testing"))]
pub fn render_collector(collector: impl Collector) -> String {
    let mut registry = Registry::default();
    registry.register_collector(Box::new(collector));
    render_registry(&registry)
}
