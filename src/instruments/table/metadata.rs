//! Documents of media, lists and searches.

use super::metric_table;
use crate::{
    Counter, CounterFamily, FloatGaugeFamily, HistogramFamily, KeyedFamily, LabelDeclaration,
    labels::{IndexQuestion, IndexedBucket, MetadataRead, MetadataWrite},
};

/// Bounds of the time of a question to the index, and of a batch that it writes, in seconds.
pub const INDEX_SECONDS_BOUNDS: &[f64] = &[0.001, 0.005, 0.01, 0.025, 0.1, 0.25, 1.0, 5.0];

metric_table! { Metadata;
    METADATA_READS: CounterFamily<MetadataRead> = declare(Operation, "streamgate_metadata_reads", "Documents, lists and searches of media that were asked for");
    METADATA_WRITES: CounterFamily<MetadataWrite> = declare(Operation, "streamgate_metadata_writes", "Changes of media that were asked for by their owners and made");
    METADATA_CONFLICTS: CounterFamily<()> = declare(Operation, "streamgate_metadata_conflicts", "Changes of media that were refused, since the medium had changed");
    INDEX_QUESTIONS: CounterFamily<IndexQuestion> = declare(Request, "streamgate_index_questions", "Questions that the index got");
    INDEX_REFUSALS: KeyedFamily<Counter> = declare(Operation, "streamgate_index_refusals", "Questions that the index did not answer, by code",
        &[LabelDeclaration::bounded("code", 16, "codes of refusals")]);
    INDEX_QUESTION_SECONDS: HistogramFamily<IndexQuestion> = declare(Performance, "streamgate_index_question_seconds", "Time from a question to the answer of the index")
        with_buckets(INDEX_SECONDS_BOUNDS);
    INDEX_CHANGES: CounterFamily<IndexedBucket> = declare(Operation, "streamgate_index_changes", "Changes of records that the index took over");
    INDEX_WRITE_SECONDS: HistogramFamily<IndexedBucket> = declare(Performance, "streamgate_index_write_seconds", "Time of writing a batch of changes into the index")
        with_buckets(INDEX_SECONDS_BOUNDS);
    INDEX_LAG_SECONDS: FloatGaugeFamily<IndexedBucket> = declare(Performance, "streamgate_index_lag_seconds", "Age of the last change when the index had taken it over, 0 once no other waits")
        used_by(&["StreamGateIndexBehind"]);
}
