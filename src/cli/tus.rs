//! A tus 1.0 client: opens an upload, sends bytes, and goes on where the server's disk is when something breaks.
//!
//! Limits: [`FAILURES_MAX`] failures in a row without a byte kept; a request that moves no byte for [`STALL_SECONDS_MAX`] is
//! given up; [`PIECE_BYTES_MAX`] of the file are in memory.

use std::{io::SeekFrom, path::PathBuf, time::Duration};

use base64::{Engine, engine::general_purpose::STANDARD};
use bytes::Bytes;
use futures::stream;
use reqwest::{
    Body, Method, RequestBuilder, Response, Url,
    header::{CONTENT_LENGTH, CONTENT_TYPE, LOCATION},
};
use tokio::{
    fs::File,
    io::{AsyncReadExt, AsyncSeekExt},
    sync::watch,
    time::timeout,
};

use super::{
    client::{self, ApiClient, ClientError},
    follow::retry_delay,
};

/// Failures in a row after which an upload is given up; it can still go on later.
pub const FAILURES_MAX: u32 = 8;
/// Longest time without a byte moved, in seconds.
pub const STALL_SECONDS_MAX: u64 = 60;
/// Bytes read at once.
pub const PIECE_BYTES_MAX: usize = 256 * 1024;

const MEDIA_ID: &str = "streamgate-media-id";
const OFFSET: &str = "upload-offset";
const LENGTH: &str = "upload-length";

/// Where the bytes are.
#[derive(Debug, Clone)]
pub enum UploadByteSource {
    /// A file.
    File(PathBuf),
    /// Bytes of this program.
    Static(&'static [u8]),
    /// Bytes of a pipe, which are kept until the server has them.
    Buffered {
        /// Where they lie in the whole.
        start_bytes: u64,
        /// The bytes.
        bytes: Bytes,
        /// Length of the whole, with the last of them.
        length_bytes: Option<u64>,
    },
}

/// An upload as the server has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TusUpload {
    /// Its path on the server, such as `v1/uploads/068p...`.
    pub path: String,
    /// The medium it becomes.
    pub media_id: String,
    /// Bytes that are on the server's disk.
    pub offset_bytes: u64,
}

/// What is said of a file that is uploaded.
#[derive(Debug, Clone, Copy, Default)]
pub struct FileDescription<'a> {
    /// Name of the file.
    pub name: &'a str,
    /// Title of the medium; the name when absent.
    pub title: Option<&'a str>,
    /// What the medium is about.
    pub text: Option<&'a str>,
    /// Media type that is declared.
    pub content_type: Option<&'a str>,
    /// True when everybody may play it.
    pub is_public: bool,
    /// Name of the profile by which it is encoded.
    pub profile: Option<&'a str>,
    /// Priority of its encode.
    pub priority: Option<&'a str>,
    /// True when its encode waits until somebody resumes it.
    pub is_encode_paused: bool,
    /// True for bytes that become no medium of their own (tus 1.0, concatenation).
    pub is_partial: bool,
}

impl FileDescription<'_> {
    /// `Upload-Metadata` (tus 1.0, creation).
    fn to_metadata(self) -> String {
        let visibility = self.is_public.then_some("public");
        let said = [
            ("filename", Some(self.name)),
            ("filetype", self.content_type),
            ("title", self.title),
            ("description", self.text),
            ("visibility", visibility),
            ("profile", self.profile),
            ("priority", self.priority),
            ("encode_paused", self.is_encode_paused.then_some("true")),
        ];
        let pairs = said.into_iter().filter_map(|(name, value)| Some((name, value?)));
        let pairs: Vec<String> =
            pairs.map(|(name, value)| format!("{name} {}", STANDARD.encode(value))).collect();
        pairs.join(",")
    }
}

/// Opens an upload of `length_bytes`, or of a length that is said later. A request whose answer was lost is sent again under its
/// `Idempotency-Key`, so that one upload comes of it.
///
/// # Errors
/// When the server refuses, is not there at the first try, or stays away.
pub async fn create_upload(
    client: &ApiClient,
    length_bytes: Option<u64>,
    file: FileDescription<'_>,
) -> Result<TusUpload, ClientError> {
    let key = format!("\"{:032x}\"", rand::random::<u128>());
    let mut failures = 0;
    loop {
        let error = match request_upload(client, length_bytes, file, &key).await {
            Err(error) if error.is_transient() || is_under_way(&error) => error,
            ended => return ended,
        };
        let is_absent = failures == 0 && matches!(error, ClientError::Unreachable { .. });
        failures += 1;
        if is_absent || failures >= FAILURES_MAX {
            return Err(error);
        }
        tracing::debug!(%error, "asking again");
        tokio::time::sleep(retry_delay(failures, error.as_refusal().and_then(|r| r.retry_after_s))).await;
    }
}

/// True when an earlier request with the same key is still worked on.
fn is_under_way(error: &ClientError) -> bool {
    error.as_refusal().is_some_and(|refusal| refusal.code == "idempotency_in_progress")
}

async fn request_upload(
    client: &ApiClient,
    length_bytes: Option<u64>,
    file: FileDescription<'_>,
    key: &str,
) -> Result<TusUpload, ClientError> {
    let request = tus_request(client, Method::POST, "v1/uploads")
        .header("idempotency-key", key)
        .header("upload-metadata", file.to_metadata());
    let request = if file.is_partial { request.header("upload-concat", "partial") } else { request };
    let request = match length_bytes {
        Some(length_bytes) => request.header(LENGTH, length_bytes),
        None => request.header("upload-defer-length", 1),
    };
    let response = client::with_time_limit(client.send(request)).await?;
    let location = header_text(&response, LOCATION.as_str())?;
    let location = client.base_url().join(location).map_err(|_| unusable_header(LOCATION.as_str()))?;
    let path = upload_path(client.base_url(), &location).ok_or_else(|| unusable_header(LOCATION.as_str()))?;
    Ok(TusUpload { path, media_id: header_text(&response, MEDIA_ID)?.to_owned(), offset_bytes: 0 })
}

/// How far the upload at `path` is.
///
/// # Errors
/// When the server refuses; 404 and 410 mean that it is not there any more.
pub async fn read_upload(client: &ApiClient, path: &str) -> Result<TusUpload, ClientError> {
    let response = client::with_time_limit(client.send(tus_request(client, Method::HEAD, path))).await?;
    Ok(TusUpload {
        path: path.to_owned(),
        media_id: header_text(&response, MEDIA_ID)?.to_owned(),
        offset_bytes: read_offset(&response)?,
    })
}

/// Ends an upload that can't go on, so that it holds no room until it expires.
///
/// # Errors
/// When the server refuses.
pub async fn end_upload(client: &ApiClient, path: &str) -> Result<(), ClientError> {
    client::with_time_limit(client.send(tus_request(client, Method::DELETE, path))).await.map(|_| ())
}

/// Sends what is missing of the first `length_bytes`; `seen` is called with the number of bytes sent so far.
///
/// # Errors
/// When the server refuses, or too many tries kept no byte.
pub async fn send_upload(
    client: &ApiClient,
    upload: &TusUpload,
    source: &UploadByteSource,
    length_bytes: u64,
    seen: impl Fn(u64),
) -> Result<(), ClientError> {
    let mut upload = upload.clone();
    let mut failures = 0;
    while upload.offset_bytes < length_bytes {
        seen(upload.offset_bytes);
        let before = upload.offset_bytes;
        let error = match append_bytes(client, &upload, source, length_bytes, &seen).await {
            Ok(offset_bytes) => {
                upload.offset_bytes = offset_bytes;
                None
            }
            Err(error) if error.is_transient() || contradicts_offset(&error) => {
                // Whatever went wrong, the server knows how far it is; when it does not answer, neither will the next try.
                if let Ok(now) = read_upload(client, &upload.path).await {
                    upload.offset_bytes = now.offset_bytes;
                }
                Some(error)
            }
            Err(error) => return Err(error),
        };
        // Only tries without a byte count: a bad line may cut a long upload often and still move it.
        failures = if upload.offset_bytes > before { 0 } else { failures + 1 };
        let Some(error) = error else {
            if failures >= FAILURES_MAX {
                return Err(ClientError::Strange { reason: "the server takes no more bytes".into() });
            }
            continue;
        };
        if failures >= FAILURES_MAX {
            return Err(error);
        }
        tracing::debug!(%error, offset_bytes = upload.offset_bytes, "going on");
        tokio::time::sleep(retry_delay(failures.max(1), error.as_refusal().and_then(|r| r.retry_after_s)))
            .await;
    }
    seen(length_bytes);
    Ok(())
}

/// 409 means another offset than ours: an answer was lost, or another command sends the same file.
fn contradicts_offset(error: &ClientError) -> bool {
    error.as_refusal().is_some_and(|refusal| refusal.status == 409)
}

/// One request with all that is missing; answers the new offset.
async fn append_bytes(
    client: &ApiClient,
    upload: &TusUpload,
    source: &UploadByteSource,
    length_bytes: u64,
    seen: &impl Fn(u64),
) -> Result<u64, ClientError> {
    let (sent, mut progress) = watch::channel(upload.offset_bytes);
    let left = length_bytes - upload.offset_bytes;
    let body = source
        .open_body(upload.offset_bytes, left, sent)
        .await
        .map_err(|error| ClientError::Unreadable { reason: error.to_string() })?;
    let mut request = tus_request(client, Method::PATCH, &upload.path)
        .header(CONTENT_TYPE, "application/offset+octet-stream")
        .header(OFFSET, upload.offset_bytes)
        .header(CONTENT_LENGTH, left)
        .body(body);
    if let UploadByteSource::Buffered { length_bytes: Some(whole_bytes), .. } = source {
        request = request.header(LENGTH, *whole_bytes);
    }
    let mut sending = std::pin::pin!(client.send(request));
    loop {
        // By progress, not by the whole request: a large file may take hours.
        let moved = timeout(Duration::from_secs(STALL_SECONDS_MAX), progress.changed());
        tokio::select! {
            answer = &mut sending => return read_offset(&answer?),
            moved = moved => match moved {
                Ok(Ok(())) => seen(*progress.borrow_and_update()),
                // All is sent; the answer comes once it is on the server's disk.
                Ok(Err(_)) => return read_offset(&client::with_time_limit(&mut sending).await?),
                Err(_) => return Err(ClientError::Silent { seconds: STALL_SECONDS_MAX }),
            },
        }
    }
}

impl UploadByteSource {
    /// A body of `left` bytes from `from` on; `sent` gets the offset that it has reached and is dropped at the end.
    async fn open_body(&self, from: u64, left: u64, sent: watch::Sender<u64>) -> std::io::Result<Body> {
        match self {
            Self::Static(bytes) => stream_bytes(&Bytes::from_static(bytes), 0, from, sent),
            Self::Buffered { start_bytes, bytes, .. } => stream_bytes(bytes, *start_bytes, from, sent),
            Self::File(path) => {
                let mut file = File::open(path).await?;
                file.seek(SeekFrom::Start(from)).await?;
                let pieces =
                    stream::try_unfold((file.take(left), from, sent), |(mut file, at, sent)| async move {
                        let mut piece = vec![0; PIECE_BYTES_MAX];
                        let count = file.read(&mut piece).await?;
                        piece.truncate(count);
                        let at = advance_progress(&sent, at, count);
                        Ok::<_, std::io::Error>((count > 0).then_some((Bytes::from(piece), (file, at, sent))))
                    });
                Ok(Body::wrap_stream(pieces))
            }
        }
    }
}

/// A body of `bytes`, of which the first lies at `start_bytes`, from `from` on.
fn stream_bytes(
    bytes: &Bytes,
    start_bytes: u64,
    from: u64,
    sent: watch::Sender<u64>,
) -> std::io::Result<Body> {
    let skip = from.checked_sub(start_bytes).and_then(|skip| usize::try_from(skip).ok());
    let skip = skip.filter(|skip| *skip <= bytes.len());
    let rest = skip.map(|skip| bytes.slice(skip..));
    let rest = rest.ok_or_else(|| std::io::Error::other("the server asks for bytes that are gone"))?;
    let pieces = stream::unfold((rest, from, sent), |(mut rest, at, sent)| async move {
        let piece = rest.split_to(rest.len().min(PIECE_BYTES_MAX));
        let at = advance_progress(&sent, at, piece.len());
        (!piece.is_empty()).then_some((Ok::<_, std::io::Error>(piece), (rest, at, sent)))
    });
    Ok(Body::wrap_stream(pieces))
}

fn advance_progress(sent: &watch::Sender<u64>, at: u64, count: usize) -> u64 {
    let at = at.saturating_add(u64::try_from(count).unwrap_or(u64::MAX));
    sent.send_replace(at);
    at
}

fn tus_request(client: &ApiClient, method: Method, path: &str) -> RequestBuilder {
    client.build_request(method, client.build_url(path, &[])).header("tus-resumable", "1.0.0")
}

fn header_text<'r>(response: &'r Response, name: &str) -> Result<&'r str, ClientError> {
    response.headers().get(name).and_then(|value| value.to_str().ok()).ok_or_else(|| unusable_header(name))
}

fn read_offset(response: &Response) -> Result<u64, ClientError> {
    header_text(response, OFFSET)?.parse().map_err(|_| unusable_header(OFFSET))
}

fn unusable_header(name: &str) -> ClientError {
    ClientError::Strange { reason: format!("the answer has no usable {name}") }
}

/// The path of an upload below our address of the server. The server may call itself by another name; the key goes only to
/// the address it was given for.
fn upload_path(base: &Url, location: &Url) -> Option<String> {
    let path = location.path().strip_prefix(base.path()).unwrap_or_else(|| location.path());
    let path = path.trim_start_matches('/');
    let id = path.strip_prefix("v1/uploads/")?;
    let is_plain = !id.is_empty() && id.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_');
    // An answer must not lead the client, and its key, to another path or host.
    is_plain.then(|| path.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_upload_stays_at_the_address_that_was_given() {
        for (base, location, wanted) in [
            ("http://h:1/", "http://h:1/v1/uploads/a1", Some("v1/uploads/a1")),
            ("http://h:1/", "https://media.example.org/v1/uploads/a1", Some("v1/uploads/a1")),
            ("https://h/gate/", "https://h/gate/v1/uploads/a1", Some("v1/uploads/a1")),
            ("http://h:1/", "http://h:1/v1/uploads/", None),
            ("http://h:1/", "http://h:1/v1/uploads/a/b", None),
            ("http://h:1/", "http://h:1/elsewhere", None),
        ] {
            assert_eq!(
                upload_path(&base.parse().unwrap(), &location.parse().unwrap()).as_deref(),
                wanted,
                "{location}"
            );
        }
    }
}
