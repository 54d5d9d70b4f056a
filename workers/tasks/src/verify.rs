//! Kind `verify`: reads all that is stored of a medium, the source and the encode that plays, and compares it with what was written
//! down when it was stored.
//!
//! The source is compared by the size and the SHA-256 of its record; an object of the encode by the checksum that its worker stored
//! beside it. Encodes of versions that stored none are compared by number and size.
//!
//! An object whose sectors a disk can't read is damaged, too. From anything else that a store answers nothing is concluded: the job
//! waits until the store is well.
//!
//! Limits: [`VERIFY_FAULTS_MAX`] faults are named; a medium that is encoded again meanwhile is looked at [`LOOKS_MAX`] times.

use std::{collections::BTreeMap, error::Error, io, time::Duration};

use data_encoding::HEXLOWER;
use futures::{StreamExt, TryStreamExt};
use nats::FailureClass;
use packaging::{CHECKSUMS_BYTES_MAX, ChecksumList};
use schemas::{
    KvRecord as _,
    ids::MediaId,
    job::{VERIFY_FAULTS_MAX, VerifyFault, VerifyReport},
    keys,
    media::{MediaEncode, MediaRecord, MediaSource, MediaStatus},
};
use sha2::{Digest, Sha256};
use store::{Store, StoreError};

use crate::{TasksContext, error::TaskError, progress::TaskProgress};

/// What a disk answers of a sector or a file that it can't give back: EIO, ENODATA, EBADMSG, EUCLEAN and EREMOTEIO (errno(3),
/// Linux).
const DISK_ERRORS: [i32; 5] = [5, 61, 74, 117, 121];

/// How soon the record of a medium is asked for again while the broker is away: what was read need not be read again.
const LOAD_PAUSE: Duration = Duration::from_secs(1);

/// Times that a medium is looked at which is encoded again meanwhile.
const LOOKS_MAX: u32 = 3;

/// What was written down of an object.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct ExpectedObject {
    /// Bytes, where they are known without the store.
    size_bytes: Option<u64>,
    /// SHA-256 in lower-case hex; `None` where there is none.
    sha256: Option<String>,
    /// It was stored when checksums were.
    has_checksum: bool,
}

/// Compares a medium with what was written down of it.
///
/// # Errors
/// [`TaskError::Store`] while the store is away; [`TaskError::MediaGone`] and [`TaskError::NothingStored`] when there is nothing to
/// compare.
pub(crate) async fn verify_medium(
    context: &TasksContext,
    media_id: MediaId,
    progress: &TaskProgress<'_>,
) -> Result<VerifyReport, TaskError> {
    for _ in 0..LOOKS_MAX {
        let medium = load_medium(context, media_id).await?;
        let report = Inspection::new(context, &medium, progress).await?.run().await?;
        // What was replaced or removed meanwhile is no damage.
        if report.faults == 0 || is_unchanged(&medium, &load_medium_again(context, media_id).await?) {
            return Ok(report);
        }
    }
    Err(TaskError::Changing)
}

async fn load_medium(context: &TasksContext, media_id: MediaId) -> Result<MediaRecord, TaskError> {
    let found = context.bus.load_record::<MediaRecord>(&media_id.to_string()).await?;
    found.map(|held| held.record).filter(|medium| !medium.is_removed()).ok_or(TaskError::MediaGone)
}

/// The same after everything was read.
async fn load_medium_again(context: &TasksContext, media_id: MediaId) -> Result<MediaRecord, TaskError> {
    loop {
        match load_medium(context, media_id).await {
            Err(error) if error.class() == FailureClass::Outage => tokio::time::sleep(LOAD_PAUSE).await,
            loaded => return loaded,
        }
    }
}

fn is_unchanged(before: &MediaRecord, now: &MediaRecord) -> bool {
    before.source == now.source
        && before.source_removed_at_ms == now.source_removed_at_ms
        && find_ready_encode(before) == find_ready_encode(now)
}

/// The encode that plays, once it is whole.
fn find_ready_encode(medium: &MediaRecord) -> Option<&MediaEncode> {
    medium.encode.as_ref().filter(|_| medium.status == MediaStatus::Ready)
}

/// One look at everything that is stored of a medium.
struct Inspection<'a> {
    context: &'a TasksContext,
    progress: &'a TaskProgress<'a>,
    /// Folder of the medium.
    folder: String,
    /// By path below it.
    expected: BTreeMap<String, ExpectedObject>,
    /// Sizes of what is stored, by path.
    stored: BTreeMap<String, u64>,
    report: VerifyReport,
    faults: Vec<VerifyFault>,
}

impl<'a> Inspection<'a> {
    async fn new(
        context: &'a TasksContext,
        medium: &MediaRecord,
        progress: &'a TaskProgress<'a>,
    ) -> Result<Self, TaskError> {
        let source = medium.kept_source().ok_or(TaskError::NothingStored)?;
        let mut inspection = Self {
            context,
            progress,
            folder: keys::media_prefix(medium.media_id),
            expected: BTreeMap::new(),
            stored: BTreeMap::new(),
            report: VerifyReport::default(),
            faults: Vec::new(),
        };
        inspection.expect_source(source).await?;
        if let Some(encode) = find_ready_encode(medium) {
            inspection.expect_encode(encode).await?;
            inspection.report.encode = Some(encode.number);
        }
        Ok(inspection)
    }

    fn relative<'k>(&self, key: &'k str) -> &'k str {
        key.strip_prefix(&self.folder).and_then(|path| path.strip_prefix('/')).unwrap_or(key)
    }

    fn note_fault(&mut self, object: &str, code: &str, detail: impl Into<String>) {
        self.report.faults += 1;
        self.faults.push(VerifyFault {
            object: object.to_owned(),
            code: code.to_owned(),
            detail: detail.into(),
        });
    }

    async fn expect_source(&mut self, source: &MediaSource) -> Result<(), TaskError> {
        let path = self.relative(&source.key).to_owned();
        match self.context.store.head(&source.key).await {
            Ok(found) => _ = self.stored.insert(path.clone(), found.size_bytes),
            Err(StoreError::NotFound { .. }) => {}
            Err(error) => return Err(error.into()),
        }
        let (size_bytes, sha256) = (Some(source.size_bytes), Some(source.sha256.clone()));
        self.expected.insert(path, ExpectedObject { size_bytes, sha256, has_checksum: true });
        Ok(())
    }

    async fn expect_encode(&mut self, encode: &MediaEncode) -> Result<(), TaskError> {
        let folder = self.relative(&encode.prefix).to_owned();
        let mut listed = self.context.store.list(&encode.prefix);
        while let Some(object) = listed.try_next().await? {
            self.stored.insert(self.relative(&object.key).to_owned(), object.size_bytes);
        }
        let has_checksum = encode.has_checksums;
        for path in list_objects(encode) {
            let object = ExpectedObject { has_checksum, ..ExpectedObject::default() };
            self.expected.insert(format!("{folder}/{path}"), object);
        }
        if has_checksum {
            let checksums = self.read_checksums(&folder).await?;
            for (path, sha256) in checksums.iter() {
                let object = self.expected.entry(format!("{folder}/{path}")).or_default();
                (object.sha256, object.has_checksum) = (Some(sha256.to_owned()), true);
            }
        }
        // Where there are checksums each object is judged by its own.
        if !has_checksum {
            self.compare_sizes(encode, &folder);
        }
        Ok(())
    }

    /// The checksums that are stored beside an encode.
    async fn read_checksums(&mut self, folder: &str) -> Result<ChecksumList, TaskError> {
        let prefix = format!("{folder}/{}/", keys::CHECKSUMS);
        let paths: Vec<String> =
            self.stored.keys().filter(|path| path.starts_with(&prefix)).cloned().collect();
        let mut all = ChecksumList::default();
        for path in paths {
            let read = self.context.store.get(&format!("{}/{path}", self.folder), CHECKSUMS_BYTES_MAX).await;
            match judge_read(read)? {
                Ok(bytes) => match std::str::from_utf8(&bytes).ok().and_then(ChecksumList::parse) {
                    Some(list) => all.extend(list),
                    None => self.note_fault(&path, "malformed", "this is no list of checksums"),
                },
                Err((code, detail)) => self.note_fault(&path, code, detail),
            }
        }
        Ok(all)
    }

    /// Compares the bytes of each rendition with what its encode says.
    fn compare_sizes(&mut self, encode: &MediaEncode, folder: &str) {
        for rendition in &encode.renditions {
            let segments = (1..=rendition.segment_count).map(|n| keys::segment_path(&rendition.name, n));
            let paths = segments.chain([keys::init_segment_path(&rendition.name)]);
            let sizes = paths.map(|path| self.stored.get(&format!("{folder}/{path}")).copied());
            // What is missing is named by itself.
            let Some(sum_bytes) = sizes.sum::<Option<u64>>() else { continue };
            if sum_bytes != rendition.size_bytes {
                let detail = format!("{sum_bytes} bytes are stored, {} were made", rendition.size_bytes);
                self.note_fault(&format!("{folder}/{}", rendition.name), "size_differs", detail);
            }
        }
    }

    /// Looks at every object.
    async fn run(mut self) -> Result<VerifyReport, TaskError> {
        let expected = std::mem::take(&mut self.expected);
        let sizes = expected.iter().filter(|(_, object)| object.sha256.is_some());
        self.progress.begin(sizes.filter_map(|(path, _)| self.stored.get(path)).sum());
        self.report.objects = u64::try_from(expected.len()).unwrap_or(u64::MAX);
        let mut to_read = Vec::new();
        for (path, object) in expected {
            let Some(size_bytes) = self.stored.get(&path).copied() else {
                self.note_fault(&path, "missing", "it is not in the store");
                continue;
            };
            match object {
                ExpectedObject { size_bytes: Some(wanted_bytes), .. } if wanted_bytes != size_bytes => {
                    let detail = format!("{size_bytes} bytes are stored, {wanted_bytes} were received");
                    self.note_fault(&path, "size_differs", detail);
                }
                ExpectedObject { sha256: Some(sha256), .. } => to_read.push((path, size_bytes, sha256)),
                ExpectedObject { has_checksum: true, .. } => {
                    self.note_fault(&path, "no_checksum", "none of the lists of checksums names it");
                }
                _ if size_bytes == 0 => self.note_fault(&path, "size_differs", "it is empty"),
                _ => self.report.sized_bytes += size_bytes,
            }
        }
        self.read_objects(to_read).await?;
        self.faults.sort_by(|a, b| a.object.cmp(&b.object));
        self.faults.truncate(VERIFY_FAULTS_MAX);
        Ok(VerifyReport { first_faults: self.faults, ..self.report })
    }

    /// Reads objects of these sizes and compares them with these digests.
    async fn read_objects(&mut self, to_read: Vec<(String, u64, String)>) -> Result<(), TaskError> {
        let (store, folder, progress) = (&self.context.store, &self.folder, self.progress);
        let mut reading = futures::stream::iter(to_read)
            .map(|(path, size_bytes, sha256)| async move {
                let read = hash_object(store, &format!("{folder}/{path}"), size_bytes, progress).await;
                Ok::<_, TaskError>((path, size_bytes, (sha256, judge_read(read)?)))
            })
            .buffer_unordered(self.context.config.reads_max.max(1));
        let mut read: Vec<ReadObject> = Vec::new();
        while let Some(object) = reading.try_next().await? {
            read.push(object);
        }
        drop(reading);
        self.check_unreadable(&read).await?;
        for (path, size_bytes, (wanted, found)) in read {
            match found {
                Ok(found) => {
                    self.report.read_bytes += size_bytes;
                    if found != wanted {
                        let detail = format!("its SHA-256 is {found}, {wanted} was written down");
                        self.note_fault(&path, "digest_differs", detail);
                    }
                }
                Err((code, detail)) => self.note_fault(&path, code, detail),
            }
        }
        Ok(())
    }

    /// Looks again where a disk could not read objects: one that went away answers so of every object.
    async fn check_unreadable(&self, read: &[ReadObject]) -> Result<(), TaskError> {
        let is_unreadable = |object: &&ReadObject| matches!(object.2.1, Err((UNREADABLE, _)));
        let unreadable = read.iter().filter(is_unreadable).count();
        if unreadable == 0 {
            return Ok(());
        }
        self.context.store.verify_marker_now().await?;
        self.context.store.probe().await?;
        if unreadable == read.len() && unreadable > 1 {
            return Err(StoreError::unavailable("no object can be read").into());
        }
        Ok(())
    }
}

/// Path, bytes, wanted digest and found one of an object that was read.
type ReadObject = (String, u64, (String, Result<String, ObjectFault>));

/// Code of an object that the disk can't read.
const UNREADABLE: &str = "unreadable";

/// Paths of an encode, below its folder, as far as its record says.
fn list_objects(encode: &MediaEncode) -> Vec<String> {
    let mut paths = Vec::new();
    for rendition in &encode.renditions {
        paths.push(keys::init_segment_path(&rendition.name));
        paths.push(keys::media_playlist_path(&rendition.name));
        paths.extend((1..=rendition.segment_count).map(|number| keys::segment_path(&rendition.name, number)));
    }
    for subtitles in &encode.subtitles {
        paths.push(keys::whole_subtitles_path(&subtitles.name));
        paths.push(keys::media_playlist_path(&subtitles.name));
    }
    if !encode.renditions.is_empty() {
        paths.extend([keys::MULTIVARIANT.to_owned(), keys::MANIFEST.to_owned()]);
    }
    paths.extend(encode.has_poster.then(|| keys::POSTER.to_owned()));
    paths.extend(encode.has_storyboard.then(|| keys::STORYBOARD.to_owned()));
    paths
}

/// Code and text of what is wrong with an object.
type ObjectFault = (&'static str, &'static str);

/// What an answer of the store says about the object that was read.
///
/// # Errors
/// [`TaskError::Store`] when it says nothing: the store is away, slow, or refuses for now.
fn judge_read<T>(read: Result<T, StoreError>) -> Result<Result<T, ObjectFault>, TaskError> {
    Ok(match read {
        Ok(read) => Ok(read),
        Err(StoreError::NotFound { .. }) => Err(("missing", "it is not in the store")),
        Err(StoreError::Damaged(_) | StoreError::Invalid(_)) => {
            Err(("size_differs", "it has another size than it had a moment ago, or than any can have"))
        }
        Err(error) if is_disk_error(&error) => Err((UNREADABLE, "the disk can't read it")),
        Err(error) => return Err(error.into()),
    })
}

fn is_disk_error(error: &StoreError) -> bool {
    let mut cause: Option<&(dyn Error + 'static)> = Some(error);
    while let Some(error) = cause {
        let number = error.downcast_ref::<io::Error>().and_then(io::Error::raw_os_error);
        if number.is_some_and(|number| DISK_ERRORS.contains(&number)) {
            return true;
        }
        cause = error.source();
    }
    false
}

async fn hash_object(
    store: &Store,
    key: &str,
    size_bytes: u64,
    progress: &TaskProgress<'_>,
) -> Result<String, StoreError> {
    let mut hasher = Sha256::new();
    let mut pieces = Box::pin(store.get_stream(key, 0..size_bytes));
    while let Some(piece) = pieces.next().await {
        let piece = piece?;
        let read_bytes = u64::try_from(piece.len()).unwrap_or(u64::MAX);
        // Hashing 4 MiB takes milliseconds, too long for a thread that serves others.
        let hashing = tokio::task::spawn_blocking(move || {
            hasher.update(&piece);
            hasher
        });
        hasher = hashing.await.map_err(StoreError::unavailable)?;
        progress.add(read_bytes).await;
    }
    Ok(HEXLOWER.encode(&hasher.finalize()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_disk_says_that_an_object_is_damaged() {
        let unavailable = |number| StoreError::unavailable(io::Error::from_raw_os_error(number));
        for number in DISK_ERRORS {
            let judged = judge_read::<()>(Err(unavailable(number))).unwrap();
            assert_eq!(judged.unwrap_err().0, "unreadable", "{number}");
        }
        // EACCES, EMFILE, ENOSPC, ESTALE, ETIMEDOUT: of the host, or of the way to it.
        for number in [13, 24, 28, 116, 110] {
            let error = judge_read::<()>(Err(unavailable(number))).unwrap_err();
            assert_eq!(error.class(), FailureClass::Outage, "{number}");
        }
        let slow = StoreError::Slow { size_bytes: 1, deadline_ms: 1 };
        assert_eq!(judge_read::<()>(Err(slow)).unwrap_err().class(), FailureClass::Outage);
        let absent = StoreError::NotFound { key: "k".to_owned() };
        assert_eq!(judge_read::<()>(Err(absent)).unwrap().unwrap_err().0, "missing");
    }
}
