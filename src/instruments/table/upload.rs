//! Uploads, up to their verification.

use super::metric_table;
use crate::{
    CounterFamily, GaugeFamily, HistogramFamily,
    labels::{AppendOutcome, UploadEnding, UploadWay, VerificationOutcome},
};

/// Bounds of the time of a request with bytes, and of a verification, in seconds.
pub const TRANSFER_SECONDS_BOUNDS: &[f64] = &[0.1, 0.5, 1.0, 5.0, 10.0, 30.0, 60.0, 300.0, 1_800.0, 3_600.0];

metric_table! { Upload;
    UPLOADS_OPENED: CounterFamily<UploadWay> = declare(Operation, "streamgate_uploads_opened", "Uploads that were opened, by protocol");
    UPLOADS_ENDED: CounterFamily<UploadEnding> = declare(Operation, "streamgate_uploads_ended", "Uploads that ended, by how")
        used_by(&["StreamGateUploadBurn"]);
    UPLOADS_RESUMED: CounterFamily<()> = declare(Operation, "streamgate_uploads_resumed", "Requests that went on with an upload of which bytes were there");
    UPLOAD_RECEIVED_BYTES: CounterFamily<()> = declare(Operation, "streamgate_upload_received_bytes", "Bytes of uploads that came, whether they were kept or not");
    UPLOAD_WRITERS: GaugeFamily<()> = declare(Operation, "streamgate_upload_writers", "Requests that bring bytes of an upload now");
    UPLOAD_APPENDS: CounterFamily<AppendOutcome> = declare(Request, "streamgate_upload_appends", "Requests that brought bytes of an upload, by how they ended");
    UPLOAD_APPEND_SECONDS: HistogramFamily<()> = declare(Performance, "streamgate_upload_append_seconds", "Time in which a request brought its bytes of an upload")
        with_buckets(TRANSFER_SECONDS_BOUNDS);
    UPLOAD_CHECKSUM_FAILURES: CounterFamily<()> = declare(Operation, "streamgate_upload_checksum_failures", "Requests whose bytes did not have the checksum that they declared");
    UPLOAD_VERIFICATIONS: CounterFamily<VerificationOutcome> = declare(Operation, "streamgate_upload_verifications", "Received files by what their bytes turned out to be");
    UPLOAD_VERIFY_SECONDS: HistogramFamily<()> = declare(Performance, "streamgate_upload_verify_seconds", "Time of reading and probing a received file")
        with_buckets(TRANSFER_SECONDS_BOUNDS);
    UPLOAD_VERIFIED_BYTES: CounterFamily<()> = declare(Operation, "streamgate_upload_verified_bytes", "Bytes of received files that were read to the end");
}
