//! The table: every family of every process, by handler.

mod api;
mod auth;
mod cache;
mod gateway;
mod hooks;
mod metadata;
mod monitor;
mod process;
mod streaming;
mod transcoder;
mod upload;
mod worker;

use std::{collections::HashMap, fmt, sync::LazyLock};

use prometheus_client::encoding::DescriptorEncoder;

use crate::{Collector, DeclaredMetric, MetricDeclaration, MetricHandler};

pub use api::*;
pub use auth::*;
pub use cache::*;
pub use gateway::*;
pub use hooks::*;
pub use metadata::*;
pub use monitor::*;
pub use process::*;
pub use streaming::*;
pub use transcoder::*;
pub use upload::*;
pub use worker::*;

/// Defines the families of one handler, and the list of them: the name of the static, its type, how it is made, its category, the name
/// of the family, its help text, and what else there is to say.
macro_rules! metric_table {
    ($handler:ident; $(
        $name:ident: $kind:ty = $make:ident($category:ident, $family:literal, $help:literal $(, $more:expr)*)
            $($with:ident($value:expr))*;
    )*) => {
        $(
            #[doc = concat!($help, ": `", $family, "`.")]
            pub static $name: $kind = <$kind>::$make(
                ($crate::MetricHandler::$handler, $crate::MetricCategory::$category),
                $family,
                $help
                $(, $more)*
            )$(.$with($value))*;
        )*

        /// The families of this file.
        pub(super) static METRICS: &[&dyn $crate::DeclaredMetric] = &[$(&$name),*];
    };
}

use metric_table;

/// Every family.
pub fn all_metrics() -> impl Iterator<Item = &'static dyn DeclaredMetric> {
    let tables = [
        gateway::METRICS,
        api::METRICS,
        upload::METRICS,
        streaming::METRICS,
        metadata::METRICS,
        cache::METRICS,
        auth::METRICS,
        worker::METRICS,
        transcoder::METRICS,
        monitor::METRICS,
        hooks::METRICS,
        process::METRICS,
    ];
    tables.into_iter().flatten().copied()
}

/// What is declared of every family.
pub fn declarations() -> impl Iterator<Item = &'static MetricDeclaration> {
    all_metrics().map(DeclaredMetric::declaration)
}

/// The family of this name, without the `_total` of counters.
pub fn find_declaration(name: &str) -> Option<&'static MetricDeclaration> {
    static BY_NAME: LazyLock<HashMap<&str, &MetricDeclaration>> =
        LazyLock::new(|| declarations().map(|declared| (declared.name, declared)).collect());
    BY_NAME.get(name).copied()
}

/// Has the families of these handlers shown, since a role that counts them runs here.
pub fn show_handlers(handlers: &[MetricHandler]) {
    for metric in all_metrics().filter(|metric| handlers.contains(&metric.declaration().handler)) {
        metric.show();
    }
}

/// Everything in the table that counts by itself.
#[derive(Debug, Clone, Copy, Default)]
pub struct DeclaredFamilies;

impl Collector for DeclaredFamilies {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        all_metrics().try_for_each(|metric| metric.encode_series(&mut encoder))
    }
}

#[cfg(test)]
mod tests;
