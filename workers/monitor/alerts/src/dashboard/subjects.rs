//! Dashboards that follow one subject through several handlers.

use instruments::{DeclaredMetric, table};

use super::{Dashboard, PanelRow, panel};

type Metrics = &'static [&'static dyn DeclaredMetric];

/// A head, and what stands below it.
type MetricRow = (&'static str, Metrics);

const PIPELINE: &[MetricRow] = &[
    (
        "Uploads",
        &[
            &table::UPLOADS_OPENED,
            &table::UPLOADS_ENDED,
            &table::UPLOAD_RECEIVED_BYTES,
            &table::UPLOAD_VERIFICATIONS,
            &table::UPLOAD_VERIFY_SECONDS,
        ],
    ),
    (
        "Queue",
        &[
            &table::DISPATCH_WAITING_JOBS,
            &table::DISPATCH_QUEUE_PARTS,
            &table::DISPATCH_SLOTS,
            &table::DISPATCH_PARTS,
            &table::DISPATCH_LEADING,
            &table::DISPATCH_WORKERS,
        ],
    ),
    (
        "Stages",
        &[
            &table::STAGE_MESSAGES,
            &table::STAGE_SECONDS,
            &table::STAGE_WAIT_SECONDS,
            &table::STAGE_BUSY,
            &table::DEAD_LETTER_MESSAGES,
        ],
    ),
    (
        "Encodes",
        &[
            &table::ENCODES,
            &table::TRANSCODE_PARTS,
            &table::TRANSCODE_PART_SECONDS,
            &table::TRANSCODE_FAULTS,
            &table::JOB_WALL_SECONDS,
            &table::MEDIA_PLAYABLE_SECONDS,
        ],
    ),
    ("Other jobs", &[&table::TASKS_ENDED, &table::TASK_SECONDS]),
];

const JETSTREAM: &[MetricRow] = &[
    (
        "Broker",
        &[
            &table::BROKER_UP,
            &table::POLLS,
            &table::ADVISORIES,
            &table::BROKER_WRITE_AGE_SECONDS,
            &table::BROKER_WRITE_BROKEN,
            &table::STREAM_UNCONFIRMED_SECONDS,
        ],
    ),
    (
        "Durables",
        &[
            &table::DURABLE_OLDEST_AGE_SECONDS,
            &table::DURABLE_PENDING_MESSAGES,
            &table::DURABLE_UNACKNOWLEDGED_MESSAGES,
            &table::DURABLE_UNACKNOWLEDGED_LIMIT,
            &table::DURABLE_REDELIVERED_MESSAGES,
            &table::DURABLE_WAITING_PULLS,
        ],
    ),
    (
        "Streams and buckets",
        &[
            &table::STREAM_FILL_RATIO,
            &table::STREAM_ROOM_SECONDS,
            &table::STREAM_BYTES,
            &table::STREAM_MESSAGES,
            &table::STREAM_APPENDS,
        ],
    ),
    (
        "Messages",
        &[&table::EVENTS, &table::BUS_MESSAGES, &table::BUS_PAYLOAD_BYTES, &table::DROPPED_MESSAGES],
    ),
];

const GATE: &[MetricRow] = &[
    (
        "Decisions",
        &[
            &table::GATE_DECISIONS,
            &table::GATE_SECONDS,
            &table::GATE_REFUSALS_UNREPORTED,
            &table::PLAYBACK_STARTS,
            &table::PLAYBACK_REFUSALS,
            &table::PLAYBACK_CHECKS,
        ],
    ),
    ("Providers", &[&table::CHAIN_FAULTS, &table::CHAIN_HEAD_LAG_BLOCKS]),
    (
        "Sign-in",
        &[
            &table::SIGN_INS,
            &table::SIGN_IN_DENIALS,
            &table::SESSION_REFRESHES,
            &table::REFRESH_REUSES,
            &table::CREDENTIALS,
        ],
    ),
];

const AUDIT: &[MetricRow] = &[
    (
        "Log",
        &[&table::AUDIT_RECORDS, &table::AUDIT_LAG_SECONDS, &table::AUDIT_LAG_EVENTS, &table::AUDIT_FAULTS],
    ),
    ("What it is made of", &[&table::EVENTS, &table::DEAD_LETTER_MESSAGES]),
];

const CAPACITY: &[MetricRow] = &[
    (
        "Room",
        &[
            &table::CAPACITY_USED_BYTES,
            &table::CAPACITY_LIMIT_BYTES,
            &table::CAPACITY_FULL,
            &table::STREAM_FILL_RATIO,
            &table::STREAM_ROOM_SECONDS,
        ],
    ),
    (
        "Load",
        &[
            &table::LIMIT_REQUESTS,
            &table::LIMIT_KEYS,
            &table::LIMIT_REPLICAS,
            &table::CONNECTIONS_OPEN,
            &table::REQUESTS_IN_FLIGHT,
            &table::UPLOAD_WRITERS,
        ],
    ),
    (
        "Processes",
        &[
            &table::PROCESS_CPU_SECONDS,
            &table::PROCESS_RESIDENT_MEMORY_BYTES,
            &table::PROCESS_OPEN_FDS,
            &table::PROCESS_MAX_FDS,
            &table::PROCESS_THREADS,
            &table::CACHE_SIZE_BYTES,
        ],
    ),
];

/// All of them.
pub(super) fn all() -> [Dashboard; 5] {
    [
        (
            "pipeline",
            "Pipeline",
            "From an upload to what plays: what comes, what waits, and what is made.",
            PIPELINE,
        ),
        (
            "jetstream",
            "JetStream",
            "The broker as the monitors see it: streams, durables and messages.",
            JETSTREAM,
        ),
        (
            "gate",
            "Gate and providers",
            "Decisions about viewers, and the chains that are asked for them.",
            GATE,
        ),
        ("audit", "Audit log", "The log, and how far it is behind.", AUDIT),
        ("capacity", "Capacity", "What is full, or will be.", CAPACITY),
    ]
    .map(|(slug, title, about, rows)| Dashboard {
        slug,
        title: title.into(),
        about: about.into(),
        rows: rows.iter().map(to_row).collect(),
    })
}

fn to_row((title, metrics): &MetricRow) -> PanelRow {
    let panels = metrics.iter().flat_map(|metric| panel::of_metric(metric.declaration())).collect();
    PanelRow { title: (*title).into(), panels }
}
