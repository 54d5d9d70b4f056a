//! Copies of ranges of stored objects into parts of multipart uploads, made by an S3 store itself (UploadPartCopy, which
//! `object_store` does not have).
//!
//! Addresses, credentials and the HTTP client are those of `object_store`: each try is signed again, so that it has the
//! credentials of its time. A store that cannot copy is asked again after [`REFUSAL_TTL`].
//!
//! Limits: repeats as of every request (`retries_max`, `retry_timeout_ms`); [`ANSWER_BYTES_MAX`] of an answer are read.

use std::{
    fmt,
    ops::Range,
    sync::Arc,
    time::{Duration, Instant},
};

use futures::TryStreamExt;
use object_store::{
    ClientOptions, Error, RetryConfig,
    aws::{AmazonS3, AmazonS3Builder, AmazonS3ConfigKey},
    client::{HttpClient, HttpConnector, HttpError, HttpRequest, HttpRequestBody, ReqwestConnector},
    path::Path,
    signer::{HeaderName, HeaderValue, Method, SignedUrlOptions, Signer},
};
use parking_lot::Mutex;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};

use crate::part_copy_answer::{CopyVerdict, judge_answer};

/// Time for which a signature holds: as long as S3 lets clocks differ (AWS docs, "Error responses", RequestTimeTooSkewed).
const SIGNATURE_TTL: Duration = Duration::from_secs(15 * 60);

/// Time after which a store that does not copy is asked again.
const REFUSAL_TTL: Duration = Duration::from_secs(60 * 60);

/// Most bytes of an answer that are read.
const ANSWER_BYTES_MAX: usize = 64 * 1024;

/// Characters that stand for themselves in the name of a source: the unreserved ones of RFC 3986, and the slash.
const COPY_SOURCE_ENCODED: &AsciiSet =
    &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~').remove(b'/');

/// A range of an object that becomes a part.
#[derive(Debug)]
pub(crate) struct CopiedPart {
    pub(crate) source: Path,
    pub(crate) range_bytes: Range<u64>,
    pub(crate) target: Path,
    pub(crate) multipart_id: String,
    /// Place of the part, from 0.
    pub(crate) index: usize,
}

/// What came of a copy.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum PartCopyOutcome {
    /// The part is stored, with this entity tag.
    Copied(String),
    /// The store does not make this copy; the bytes have to be sent.
    Refused,
}

/// Makes the clients of a store and keeps the last of them, which is that of its objects: those before it ask for credentials.
#[derive(Debug, Clone, Default)]
pub(crate) struct ClientKeeper {
    made: Arc<Mutex<Option<HttpClient>>>,
}

impl HttpConnector for ClientKeeper {
    fn connect(&self, options: &ClientOptions) -> object_store::Result<HttpClient> {
        let client = ReqwestConnector::default().connect(options)?;
        *self.made.lock() = Some(client.clone());
        Ok(client)
    }
}

/// Asks one S3 bucket for copies.
pub(crate) struct PartCopier {
    s3: Arc<AmazonS3>,
    client: HttpClient,
    bucket: String,
    retry: RetryConfig,
    refused_at: Mutex<Option<Instant>>,
}

impl fmt::Debug for PartCopier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PartCopier").field("bucket", &self.bucket).finish_non_exhaustive()
    }
}

impl PartCopier {
    /// `None` where the settings ask for what a presigned copy can't carry: it would need the key of an object encrypted with one
    /// of the customer's, checksums of each part, the session of a directory bucket, or no signature at all.
    pub(crate) fn new(
        s3: Arc<AmazonS3>,
        settings: &CopySettings,
        clients: &ClientKeeper,
        retry: RetryConfig,
    ) -> Option<Self> {
        let client = clients.made.lock().clone().filter(|_| settings.is_possible)?;
        let bucket = settings.bucket.clone();
        Some(Self { s3, client, bucket, retry, refused_at: Mutex::default() })
    }

    /// False while it is known that the store does not copy.
    pub(crate) fn is_able(&self) -> bool {
        self.refused_at.lock().is_none_or(|at| at.elapsed() >= REFUSAL_TTL)
    }

    /// Asks for a copy, again after a failure that may pass. A store that keeps answering, but never with a copy, may still be read.
    pub(crate) async fn copy_part(&self, part: &CopiedPart) -> Result<PartCopyOutcome, Error> {
        let (begun, mut pause) = (Instant::now(), self.retry.backoff.init_backoff);
        for tried in 0.. {
            let answer = self.send(self.signed_request(part).await?).await;
            let is_answered = answer.is_ok();
            // A repeat replaces the part, so one that may have arrived is repeated too.
            let verdict = answer.map_or_else(
                |error| CopyVerdict::Temporary(error.to_string()),
                |(status, body)| judge_answer(status, body.as_deref()),
            );
            let reason = match verdict {
                CopyVerdict::Copied(entity_tag) => return Ok(PartCopyOutcome::Copied(entity_tag)),
                CopyVerdict::RefusedByStore(reason) => {
                    tracing::info!(reason, "the store does not copy: parts are joined by reading them");
                    *self.refused_at.lock() = Some(Instant::now());
                    return Ok(PartCopyOutcome::Refused);
                }
                CopyVerdict::RefusedHere(reason) => {
                    tracing::info!(reason, object = %part.source, "the store does not copy this: it is read");
                    return Ok(PartCopyOutcome::Refused);
                }
                CopyVerdict::UnknownMultipart => {
                    let path = part.target.to_string();
                    return Err(Error::NotFound { path, source: "NoSuchUpload".into() });
                }
                CopyVerdict::Failed(reason) => return Err(copy_error(&reason)),
                CopyVerdict::Temporary(reason) => reason,
            };
            if tried >= self.retry.max_retries || begun.elapsed() >= self.retry.retry_timeout {
                if is_answered {
                    tracing::info!(reason, object = %part.source, "the store copied nothing in all tries: it is read");
                    return Ok(PartCopyOutcome::Refused);
                }
                return Err(copy_error(&reason));
            }
            tokio::time::sleep(pause).await;
            pause = pause.mul_f64(self.retry.backoff.base).min(self.retry.backoff.max_backoff);
        }
        Err(copy_error("no try is left"))
    }

    async fn signed_request(&self, part: &CopiedPart) -> Result<HttpRequest, Error> {
        let range = format!("bytes={}-{}", part.range_bytes.start, part.range_bytes.end.saturating_sub(1));
        let source = utf8_percent_encode(part.source.as_ref(), COPY_SOURCE_ENCODED);
        let headers =
            [("x-amz-copy-source", format!("{}/{source}", self.bucket)), ("x-amz-copy-source-range", range)];
        // S3 counts parts from one.
        let number = part.index.saturating_add(1).to_string();
        let mut options = SignedUrlOptions::new()
            .with_query([("partNumber", number.as_str()), ("uploadId", &part.multipart_id)]);
        for (name, value) in headers {
            let value = HeaderValue::try_from(value).map_err(|error| copy_error(&error.to_string()))?;
            // AWS asks for a signature over every header of its own, also beside a presigned address.
            options = options.with_signed_header(HeaderName::from_static(name), value);
        }
        let url = self.s3.signed_url_opts(Method::PUT, &part.target, SIGNATURE_TTL, &options).await?;
        let mut request = HttpRequest::new(HttpRequestBody::empty());
        *request.method_mut() = Method::PUT;
        // Without the parser's words: the address holds the signature.
        *request.uri_mut() = url.as_str().parse().map_err(|_| copy_error("no address"))?;
        *request.headers_mut() = options.signed_headers;
        Ok(request)
    }

    /// The status of the answer and its body; `None` when that is too long to be one.
    async fn send(&self, request: HttpRequest) -> Result<(u16, Option<Vec<u8>>), HttpError> {
        let answer = self.client.execute(request).await?;
        let status = answer.status().as_u16();
        let mut pieces = answer.into_body().bytes_stream();
        let mut body = Vec::new();
        while let Some(piece) = pieces.try_next().await? {
            if body.len() + piece.len() > ANSWER_BYTES_MAX {
                return Ok((status, None));
            }
            body.extend_from_slice(&piece);
        }
        Ok((status, Some(body)))
    }
}

/// What of the settings of a store is about copies.
#[derive(Debug)]
pub(crate) struct CopySettings {
    bucket: String,
    is_possible: bool,
}

impl CopySettings {
    /// Reads them before the store is built.
    pub(crate) fn of(builder: &AmazonS3Builder) -> Self {
        let value = |key| builder.get_config_value(&key);
        // The words that `object_store` takes for "no"; what it does not take is refused when the store is built.
        let is_no = |text: &str| matches!(text, "0" | "false" | "off" | "no" | "n");
        let is_set = |key| value(key).is_some_and(|text| !is_no(&text.to_ascii_lowercase()));
        // `object_store` has no other name for this one.
        let customer_key = "aws_sse_customer_key_base64".parse::<AmazonS3ConfigKey>().ok();
        Self {
            bucket: value(AmazonS3ConfigKey::Bucket).unwrap_or_default(),
            is_possible: customer_key.and_then(value).is_none()
                && value(AmazonS3ConfigKey::Checksum).is_none()
                && !is_set(AmazonS3ConfigKey::S3Express)
                && !is_set(AmazonS3ConfigKey::SkipSignature),
        }
    }
}

fn copy_error(reason: &str) -> Error {
    Error::Generic { store: "S3", source: format!("copy of a part: {reason}").into() }
}
