//! The parts of a form (RFC 7578), read as its body comes.
//!
//! Limits: [`FIELDS_MAX`] fields before the file, [`FIELD_BYTES_MAX`] each, [`HEAD_BYTES_MAX`] with all their heads; what follows the file is
//! at most [`REST_BYTES_MAX`].

use std::{fmt, pin::Pin, sync::Arc, task};

use axum::body::{Body, Bytes, HttpBody};
use futures::Stream;
use multer::{Field, Multipart};
use parking_lot::Mutex;

use super::super::{metadata::UploadMetadata, refusal::UploadRefusal};

/// The field of the right.
const TOKEN_FIELD: &str = "upload_token";
/// Fields that say something about the file.
const FILE_FIELDS: [&str; 7] =
    ["title", "description", "visibility", "mint_tx", "profile", "priority", "encode_paused"];
/// Most fields before the file.
const FIELDS_MAX: usize = 32;
/// Longest value of a field in bytes.
const FIELD_BYTES_MAX: usize = 8 * 1024;
/// Most bytes of what stands before the file, its heads included: as much of a head is kept in memory until it ends.
const HEAD_BYTES_MAX: usize = 128 * 1024;
/// Most bytes of what follows the file, heads included.
const REST_BYTES_MAX: usize = 64 * 1024;

/// What stands before the file.
#[derive(Debug, Default)]
pub(super) struct FormFields {
    pub(super) token: Option<String>,
    pub(super) metadata: UploadMetadata,
}

/// A form whose body comes as it is read.
pub(super) struct FormParts {
    parts: Multipart<'static>,
    lent: Arc<Mutex<LentBody>>,
}

impl FormParts {
    /// The form in `body`, which is `lent` to it.
    pub(super) fn new(body: Body, boundary: String) -> (Self, Arc<Mutex<LentBody>>) {
        let lent = LentBody { body, left_bytes: Some(HEAD_BYTES_MAX), is_resting: false, was_read: false };
        let lent = Arc::new(Mutex::new(lent));
        let parts = Multipart::new(BodyReader(Arc::clone(&lent)), boundary);
        (Self { parts, lent: Arc::clone(&lent) }, lent)
    }

    async fn next_field(&mut self) -> Result<Option<Field<'static>>, UploadRefusal> {
        self.lent.lock().is_resting = true;
        self.parts.next_field().await.map_err(form_refusal)
    }

    async fn next_chunk(&self, field: &mut Field<'static>) -> Result<Option<Bytes>, UploadRefusal> {
        self.lent.lock().is_resting = true;
        field.chunk().await.map_err(form_refusal)
    }

    /// Reads what stands before the file, up to its first byte.
    pub(super) async fn read_fields(&mut self) -> Result<(FormFields, Field<'static>), UploadRefusal> {
        let mut fields = FormFields::default();
        for _ in 0..=FIELDS_MAX {
            let field = self.next_field().await?;
            let Some(mut field) = field else { return Err(UploadRefusal::Form("it has no file".into())) };
            let name = field.name().unwrap_or_default().to_owned();
            match field.file_name() {
                // What a browser sends when nothing was chosen.
                Some("") => return Err(UploadRefusal::Form("no file was chosen".into())),
                Some(_) => return Ok((fields, field)),
                None if name == "file" => return Ok((fields, field)),
                None => {}
            }
            let text = self.read_text(&mut field, &name).await?;
            if name == TOKEN_FIELD {
                fields.token = Some(text);
            } else if FILE_FIELDS.contains(&name.as_str()) && !text.trim().is_empty() {
                let set = fields.metadata.set(&name, &text);
                set.map_err(|why| UploadRefusal::Form(format!("it {why}")))?;
            }
        }
        Err(UploadRefusal::Form(format!("it has more than {FIELDS_MAX} fields before its file")))
    }

    async fn read_text(&self, field: &mut Field<'static>, name: &str) -> Result<String, UploadRefusal> {
        let mut text = Vec::new();
        while let Some(chunk) = self.next_chunk(field).await? {
            if text.len() + chunk.len() > FIELD_BYTES_MAX {
                let shown: String = name.chars().take(40).collect();
                return Err(UploadRefusal::Form(format!(
                    "the field {shown:?} has more than {FIELD_BYTES_MAX} bytes"
                )));
            }
            text.extend_from_slice(&chunk);
        }
        String::from_utf8(text).map_err(|_| UploadRefusal::Form("a field is not UTF-8".into()))
    }

    /// The bytes of the file. They end well only where the form does, with no other file; else `found` says why.
    pub(super) fn into_file_body(
        self,
        file: Field<'static>,
        found: Arc<Mutex<Option<UploadRefusal>>>,
    ) -> Body {
        self.lent.lock().left_bytes = None;
        let state = (Some(file), self, found);
        let bytes = futures::stream::try_unfold(state, |(file, mut form, found)| async move {
            let Some(mut file) = file else { return Ok(None) };
            if let Some(chunk) = file.chunk().await? {
                return Ok(Some((chunk, (Some(file), form, found))));
            }
            drop(file);
            match form.read_rest().await {
                Ok(()) => Ok::<_, axum::BoxError>(None),
                Err(refusal) => {
                    *found.lock() = Some(refusal);
                    Err("the form goes on where it should end".into())
                }
            }
        });
        Body::from_stream(bytes)
    }

    /// Reads what follows the file: nothing that would say something about it, and no other file.
    async fn read_rest(&mut self) -> Result<(), UploadRefusal> {
        self.lent.lock().left_bytes = Some(REST_BYTES_MAX);
        while let Some(mut field) = self.next_field().await? {
            let name = field.name().unwrap_or_default();
            if field.file_name().is_some_and(|name| !name.is_empty()) {
                return Err(UploadRefusal::Form(
                    "it has more than one file: send each in a form of its own".into(),
                ));
            }
            if FILE_FIELDS.contains(&name) || name == TOKEN_FIELD {
                return Err(UploadRefusal::Form(format!("{name} has to stand before the file")));
            }
            while self.next_chunk(&mut field).await?.is_some() {}
        }
        Ok(())
    }
}

/// A body that is read by parts. Lent, so that what is left of a refused one can be read and dropped.
pub(super) struct LentBody {
    pub(super) body: Body,
    /// Bytes that may still be read; `None` for those of the file, which are limited elsewhere.
    left_bytes: Option<usize>,
    /// The reader of parts takes all that is ready into memory before it looks at what it has. It is made to look first, and gets one
    /// frame at a time.
    is_resting: bool,
    /// True once anything was asked of the body: a client that waits for `100 Continue` has got it then.
    pub(super) was_read: bool,
}

/// Reads a lent body.
struct BodyReader(Arc<Mutex<LentBody>>);

impl Stream for BodyReader {
    type Item = Result<Bytes, axum::BoxError>;

    fn poll_next(self: Pin<&mut Self>, context: &mut task::Context<'_>) -> task::Poll<Option<Self::Item>> {
        let mut lent = self.0.lock();
        if std::mem::take(&mut lent.is_resting) {
            context.waker().wake_by_ref();
            return task::Poll::Pending;
        }
        lent.was_read = true;
        loop {
            if lent.left_bytes == Some(0) {
                return task::Poll::Ready(Some(Err(TooMuch.into())));
            }
            match task::ready!(Pin::new(&mut lent.body).poll_frame(context)) {
                Some(Ok(frame)) => {
                    // Trailers say nothing about a form.
                    let Ok(data) = frame.into_data() else { continue };
                    // A frame may hold the begin of the file, too: only what is asked for behind it is too much.
                    lent.left_bytes = lent.left_bytes.map(|left| left.saturating_sub(data.len()));
                    lent.is_resting = true;
                    return task::Poll::Ready(Some(Ok(data)));
                }
                Some(Err(error)) => return task::Poll::Ready(Some(Err(error.into()))),
                None => return task::Poll::Ready(None),
            }
        }
    }
}

/// More stands around the file than a form may have.
#[derive(Debug)]
struct TooMuch;

impl fmt::Display for TooMuch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("too much stands around the file")
    }
}

impl std::error::Error for TooMuch {}

fn form_refusal(error: multer::Error) -> UploadRefusal {
    match error {
        multer::Error::StreamReadFailed(cause) if cause.is::<TooMuch>() => {
            UploadRefusal::Form(TooMuch.to_string())
        }
        multer::Error::StreamReadFailed(_)
        | multer::Error::IncompleteStream
        | multer::Error::IncompleteHeaders
        | multer::Error::IncompleteFieldData { .. } => UploadRefusal::Cut,
        other => UploadRefusal::Form(other.to_string()),
    }
}
