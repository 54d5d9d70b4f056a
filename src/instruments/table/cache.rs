//! Values that are kept for a while.

use super::metric_table;
use crate::{CounterFamily, LabelDeclaration, MetricDeclaration, labels::CacheWrite};

const CACHE: LabelDeclaration = LabelDeclaration::fixed(
    "cache",
    &["entries", "metadata", "uploads", "streaming", "segments", "downloads"],
);

metric_table! { Cache;
    CACHE_REQUESTS: MetricDeclaration = counter(Request, "streamgate_cache_requests", "Questions to a cache by whether it had the answer")
        with_labels(&[CACHE, LabelDeclaration::fixed("outcome", &["hit", "miss"])]);
    CACHE_DEPARTURES: MetricDeclaration = counter(Operation, "streamgate_cache_departures", "Answers that left a cache by themselves, by why")
        with_labels(&[CACHE, LabelDeclaration::fixed("reason", &["evicted", "expired"])]);
    CACHE_SIZE_BYTES: MetricDeclaration = gauge(Service, "streamgate_cache_size_bytes", "Bytes of the answers kept now")
        with_labels(&[CACHE]);
    CACHE_ENTRIES: MetricDeclaration = gauge(Service, "streamgate_cache_entries", "Answers kept now")
        with_labels(&[CACHE]);
    CACHE_WRITES: CounterFamily<CacheWrite> = declare(Operation, "streamgate_cache_writes", "Changes of entries of the cache API that were made");
    CACHE_REFUSALS: CounterFamily<()> = declare(Operation, "streamgate_cache_refusals", "Entries of the cache API for which there was no room");
}
