use std::path::Path;

use proptest::prelude::*;
use schemas::{
    document::MediaDocumentRecord,
    envelope::RecordEnvelope,
    gate::{GateRule, MediaGate},
    index_query::{
        EncodeActivityQuery, JobCountsQuery, JobIndexQuery, MediaIndexPage, MediaIndexQuery, ProfileActivity,
        PublicMediaIndexQuery,
    },
    job::{JobPartStatus, JobRecord, JobStatus},
    media::{MediaStatus, Rational, VideoTrack},
    subjects::JobPriority,
};
use tempfile::TempDir;

use super::{asset, audio, document, encode, job, job_id, media_id, technical, video};
use crate::{
    BucketOrigin, IndexBucket, IndexConfig, IndexError, IndexProjection, follow,
    order::ListPosition,
    projection::{IndexChange, IndexEntry, PartRow},
    summarise::summarise_media,
};

const ORIGINS: [BucketOrigin; 3] = [
    BucketOrigin { bucket: IndexBucket::Media, created_at_us: 1, last_sequence: 1_000 },
    BucketOrigin { bucket: IndexBucket::Assets, created_at_us: 2, last_sequence: 1_000 },
    BucketOrigin { bucket: IndexBucket::Jobs, created_at_us: 3, last_sequence: 1_000 },
];

const BYTES_MAX: usize = 1 << 20;

fn open(folder: &Path) -> Result<IndexProjection, IndexError> {
    IndexProjection::open(&IndexConfig { folder: folder.to_owned(), ..IndexConfig::default() }, &ORIGINS)
}

fn fresh() -> (TempDir, IndexProjection) {
    let folder = tempfile::tempdir().unwrap();
    let projection = open(folder.path()).unwrap();
    (folder, projection)
}

fn documents(projection: &IndexProjection, from: u8, to: u8, owner: &str) {
    let steps: Vec<_> = (from..=to)
        .map(|number| IndexEntry {
            sequence: u64::from(number),
            change: IndexChange::Document(
                media_id(number),
                Some(Box::new(document(number, owner, 1_000 + u64::from(number)))),
            ),
        })
        .collect();
    projection.apply_entries(IndexBucket::Media, &steps).unwrap();
}

fn set_asset(projection: &IndexProjection, sequence: u64, number: u8, status: MediaStatus) {
    let change = IndexChange::Asset(media_id(number), Some(Box::new(asset(number, "ann", status))));
    projection.apply_entries(IndexBucket::Assets, &[IndexEntry { sequence, change }]).unwrap();
}

fn set_gate(projection: &IndexProjection, number: u8, gate: Option<MediaGate>) {
    let held = MediaDocumentRecord { gate, ..document(number, "ann", 1_000 + u64::from(number)) };
    let change = IndexChange::Document(media_id(number), Some(Box::new(held)));
    projection.apply_entries(IndexBucket::Media, &[IndexEntry { sequence: 100, change }]).unwrap();
}

fn all() -> MediaIndexQuery {
    MediaIndexQuery { limit: 200, ..MediaIndexQuery::default() }
}

fn titles(page: &MediaIndexPage) -> Vec<&str> {
    page.items.iter().map(|item| item.title.as_str()).collect()
}

#[test]
fn display_size_follows_rotation_and_pixel_aspect() {
    let check = |change: &dyn Fn(&mut VideoTrack), expected: (u32, u32)| {
        let mut track = video(1_920, 1_080);
        change(&mut track);
        let record = schemas::media::MediaRecord {
            technical: Some(technical(vec![track], vec![])),
            ..asset(1, "ann", MediaStatus::Stored)
        };
        let summary = summarise_media(&record).unwrap();
        assert_eq!((summary.width, summary.height), expected);
    };
    check(&|_| {}, (1_920, 1_080));
    check(&|t| t.rotation_degrees = 90, (1_080, 1_920));
    check(&|t| t.rotation_degrees = 180, (1_920, 1_080));
    check(&|t| t.rotation_degrees = 270, (1_080, 1_920));
    check(&|t| (t.width, t.sample_aspect) = (1_440, Rational { num: 4, den: 3 }), (1_920, 1_080));
    check(&|t| (t.width, t.height, t.sample_aspect) = (720, 576, Rational { num: 16, den: 15 }), (768, 576));
    check(
        &|t| (t.width, t.sample_aspect, t.rotation_degrees) = (1_440, Rational { num: 4, den: 3 }, 90),
        (1_080, 1_920),
    );
    check(&|t| t.sample_aspect = Rational { num: 0, den: 1 }, (1_920, 1_080));
    check(&|t| t.sample_aspect = Rational { num: 1, den: 0 }, (1_920, 1_080));
    check(&|t| t.sample_aspect = Rational { num: u32::MAX, den: 1 }, (u32::MAX, 1_080));
}

#[test]
fn summary_names_codecs_languages_and_renditions_once() {
    let mut record = asset(1, "ann", MediaStatus::Stored);
    record.technical = Some(technical(
        vec![video(640, 360)],
        vec![
            audio("aac", Some("eng")),
            audio("ac3", Some("und")),
            audio("aac", None),
            audio("opus", Some("deu")),
        ],
    ));
    let stored = summarise_media(&record).unwrap();
    assert_eq!(stored.frame_rate_milli, 29_970);
    assert_eq!(stored.video_codec.as_deref(), Some("h264"));
    assert_eq!(stored.audio_codecs, ["aac", "ac3", "opus"]);
    assert_eq!(stored.languages, ["eng", "deu"]);
    assert!(stored.renditions.is_empty());

    record.encode =
        Some(encode(&[("a0", 0, 0, 128_000), ("v180", 320, 180, 300_000), ("v360", 640, 360, 800_000)]));
    assert_eq!(summarise_media(&record).unwrap().renditions, ["v360", "v180", "a0"]);
}

#[test]
fn summary_of_audio_alone_and_of_nothing() {
    let mut record = asset(1, "ann", MediaStatus::Stored);
    record.technical = Some(technical(vec![], vec![audio("flac", None)]));
    let found = summarise_media(&record).unwrap();
    assert_eq!((found.width, found.height, found.frame_rate_milli, found.video_codec), (0, 0, 0, None));
    record.technical = None;
    assert_eq!(summarise_media(&record), None);
}

proptest! {
    #[test]
    fn cursors_survive_their_text(time: u64, id: [u8; 16]) {
        let position = ListPosition::new(time, &id);
        prop_assert_eq!(ListPosition::from_cursor(&position.to_cursor()).unwrap(), position);
        prop_assert_eq!(position.id(), id);
    }

    #[test]
    fn text_that_is_no_cursor_is_refused(text in "\\PC{0,60}") {
        if let Ok(position) = ListPosition::from_cursor(&text) {
            prop_assert_eq!(position.to_cursor(), text.to_ascii_lowercase());
        }
    }
}

#[test]
fn pages_go_newest_first_and_meet_without_gap_or_repeat() {
    let (_folder, projection) = fresh();
    documents(&projection, 1, 7, "ann");
    documents(&projection, 8, 9, "ben");
    let mut question = MediaIndexQuery { owner: Some("ann".into()), limit: 3, ..MediaIndexQuery::default() };
    let first = projection.list_media(&question, BYTES_MAX).unwrap();
    assert_eq!(titles(&first), ["clip 7", "clip 6", "clip 5"]);
    assert_eq!(first.revision, 9);

    // What is created between two pages is newer than the cursor and does not move it.
    documents(&projection, 10, 10, "ann");
    question.cursor = first.next;
    let second = projection.list_media(&question, BYTES_MAX).unwrap();
    assert_eq!(titles(&second), ["clip 4", "clip 3", "clip 2"]);
    question.cursor = second.next;
    let third = projection.list_media(&question, BYTES_MAX).unwrap();
    assert_eq!(titles(&third), ["clip 1"]);
    assert_eq!(third.next, None);
    assert_eq!(projection.list_media(&all(), BYTES_MAX).unwrap().items.len(), 10);
}

#[test]
fn named_media_are_listed_as_the_list_has_them() {
    let (_folder, projection) = fresh();
    documents(&projection, 1, 4, "ann");
    documents(&projection, 5, 6, "ben");
    let removed =
        MediaDocumentRecord { removed_at_ms: Some(9_000), is_restorable: true, ..document(4, "ann", 1_004) };
    let change = IndexChange::Document(media_id(4), Some(Box::new(removed)));
    projection.apply_entries(IndexBucket::Media, &[IndexEntry { sequence: 50, change }]).unwrap();
    // Twice the same, one of somebody else, one that is removed, one that there is not.
    let ids: Vec<_> = [1, 3, 3, 2, 5, 4, 99].map(media_id).into();
    let mut question =
        MediaIndexQuery { owner: Some("ann".into()), ids, limit: 2, ..MediaIndexQuery::default() };
    let first = projection.list_media(&question, BYTES_MAX).unwrap();
    assert_eq!(titles(&first), ["clip 3", "clip 2"]);
    let second = MediaIndexQuery { cursor: first.next, ..question.clone() };
    let second = projection.list_media(&second, BYTES_MAX).unwrap();
    assert_eq!((titles(&second), second.next.as_deref()), (vec!["clip 1"], None));
    let everybodys = MediaIndexQuery { owner: None, limit: 200, ..question.clone() };
    assert_eq!(
        titles(&projection.list_media(&everybodys, BYTES_MAX).unwrap()),
        ["clip 5", "clip 3", "clip 2", "clip 1"]
    );
    question.removed = true;
    assert_eq!(titles(&projection.list_media(&question, BYTES_MAX).unwrap()), ["clip 4"]);
    let ready = MediaIndexQuery { removed: false, status: Some(MediaStatus::Ready), ..question };
    assert_eq!(titles(&projection.list_media(&ready, BYTES_MAX).unwrap()), [""; 0]);
}

#[test]
fn a_page_that_ends_exactly_at_the_end_has_no_next() {
    let (_folder, projection) = fresh();
    documents(&projection, 1, 3, "ann");
    let page = projection
        .list_media(&MediaIndexQuery { limit: 3, ..MediaIndexQuery::default() }, BYTES_MAX)
        .unwrap();
    assert_eq!((page.items.len(), page.next), (3, None));
}

#[test]
fn limits_are_cut_and_large_pages_end_early() {
    let (_folder, projection) = fresh();
    documents(&projection, 1, 5, "ann");
    let none = projection
        .list_media(&MediaIndexQuery { limit: 0, ..MediaIndexQuery::default() }, BYTES_MAX)
        .unwrap();
    assert_eq!(none.items.len(), 1);
    let short = projection.list_media(&all(), 1).unwrap();
    assert_eq!(short.items.len(), 1);
    assert!(short.next.is_some());
}

#[test]
fn foreign_cursors_are_refused() {
    let (_folder, projection) = fresh();
    for cursor in ["", "x", "../../etc/passwd", &"0".repeat(38), &"v".repeat(400)] {
        let question = MediaIndexQuery { cursor: Some(cursor.into()), ..all() };
        assert!(matches!(projection.list_media(&question, BYTES_MAX), Err(IndexError::Cursor)), "{cursor}");
    }
}

#[test]
fn document_and_asset_join_in_either_order() {
    let (_one, first) = fresh();
    documents(&first, 1, 1, "ann");
    set_asset(&first, 5, 1, MediaStatus::Ready);
    let (_two, second) = fresh();
    set_asset(&second, 5, 1, MediaStatus::Ready);
    assert_eq!(second.list_media(&all(), BYTES_MAX).unwrap().items[0].title, "");
    documents(&second, 1, 1, "ann");
    assert_eq!(first.dump_rows().unwrap(), second.dump_rows().unwrap());
    let item = first.media_item(media_id(1)).unwrap().unwrap();
    assert_eq!((item.document_revision, item.asset_revision), (1, 5));
    assert_eq!((item.status, item.size_bytes), (MediaStatus::Ready, Some(1_234)));
}

#[test]
fn a_changed_status_moves_a_medium_between_lists() {
    let (_folder, projection) = fresh();
    documents(&projection, 1, 2, "ann");
    let count = |status| {
        let question = MediaIndexQuery { status: Some(status), owner: Some("ann".into()), ..all() };
        projection.list_media(&question, BYTES_MAX).unwrap().items.len()
    };
    assert_eq!(
        (count(MediaStatus::Uploading), count(MediaStatus::Stored), count(MediaStatus::Ready)),
        (2, 0, 0)
    );
    set_asset(&projection, 1, 1, MediaStatus::Stored);
    assert_eq!(
        (count(MediaStatus::Uploading), count(MediaStatus::Stored), count(MediaStatus::Ready)),
        (1, 1, 0)
    );
    set_asset(&projection, 2, 1, MediaStatus::Ready);
    assert_eq!(
        (count(MediaStatus::Uploading), count(MediaStatus::Stored), count(MediaStatus::Ready)),
        (1, 0, 1)
    );
}

#[test]
fn deletions_leave_nothing_behind() {
    let (_folder, projection) = fresh();
    let empty = projection.dump_rows().unwrap();
    documents(&projection, 1, 1, "ann");
    set_asset(&projection, 1, 1, MediaStatus::Stored);
    let gone =
        |bucket, change| projection.apply_entries(bucket, &[IndexEntry { sequence: 9, change }]).unwrap();
    gone(IndexBucket::Media, IndexChange::Document(media_id(1), None));
    assert_eq!(projection.list_media(&all(), BYTES_MAX).unwrap().items[0].title, "");
    gone(IndexBucket::Assets, IndexChange::Asset(media_id(1), None));
    assert!(projection.list_media(&all(), BYTES_MAX).unwrap().items.is_empty());
    let rows = |dump: Vec<crate::ProjectionRow>| dump.into_iter().filter(|row| row.tree != "meta").count();
    assert_eq!(rows(projection.dump_rows().unwrap()), rows(empty));
}

#[test]
fn parts_are_added_up_whatever_comes_first() {
    let (_folder, projection) = fresh();
    let mut sequence = 0;
    let mut apply = |change| {
        sequence += 1;
        projection.apply_entries(IndexBucket::Jobs, &[IndexEntry { sequence, change }]).unwrap();
    };
    let facts = |status, cpu_ms| Some(PartRow { status, cpu_ms, work_ms: 2 * cpu_ms });
    apply(IndexChange::Part(job_id(1), "v0000".into(), facts(JobPartStatus::Claimed, 0)));
    apply(IndexChange::Job(job_id(1), Some(Box::new(job(1, 9, "ann", JobStatus::Active).into()))));
    apply(IndexChange::Part(job_id(1), "v0000".into(), facts(JobPartStatus::Done, 700)));
    apply(IndexChange::Part(job_id(1), "a0".into(), facts(JobPartStatus::Claimed, 50)));
    apply(IndexChange::Part(job_id(1), "v0001".into(), facts(JobPartStatus::Failed, 20)));
    let item = projection.job_item(job_id(1)).unwrap().unwrap();
    assert_eq!((item.parts_total, item.parts_done, item.parts_claimed, item.parts_failed), (4, 1, 1, 1));
    assert_eq!((item.cpu_ms, item.revision), (770, 2));
    apply(IndexChange::Part(job_id(1), "v0001".into(), None));
    assert_eq!(projection.job_item(job_id(1)).unwrap().unwrap().parts_failed, 0);
}

#[test]
fn what_was_encoded_lately_is_added_up_by_profile() {
    let (_folder, projection) = fresh();
    let mut sequence = 0;
    let mut apply = |change| {
        sequence += 1;
        projection.apply_entries(IndexBucket::Jobs, &[IndexEntry { sequence, change }]).unwrap();
    };
    let part = Some(PartRow { status: JobPartStatus::Done, cpu_ms: 4_000, work_ms: 5_005 });
    // Number, owner, status, profile, when it ended. They were made 2,001 ms to 2,006 ms after 1970.
    for (number, owner, status, profile, ended_at_ms) in [
        (1, "ann", JobStatus::Succeeded, "default", Some(9_001)),
        (2, "ann", JobStatus::Succeeded, "default", Some(12_002)),
        (3, "ben", JobStatus::Succeeded, "default", Some(10_003)),
        (4, "ben", JobStatus::Failed, "small", Some(11_000)),
        (5, "ann", JobStatus::Cancelled, "small", Some(13_000)),
        (6, "ann", JobStatus::Active, "small", None),
    ] {
        let mut record = job(number, number, owner, status);
        (record.plan.profile, record.ended_at_ms) = (profile.to_owned(), ended_at_ms);
        apply(IndexChange::Job(record.job_id, Some(Box::new(record.clone().into()))));
        apply(IndexChange::Part(job_id(number), "v0000".into(), part));
        // One that makes no encode is none of them.
        let task = JobRecord { kind: "verify".into(), job_id: job_id(number + 10), ..record };
        apply(IndexChange::Job(task.job_id, Some(Box::new(task.into()))));
    }
    let activity = |owner: Option<&str>, ended_from_ms| {
        let question = EncodeActivityQuery { owner: owner.map(str::to_owned), ended_from_ms };
        projection.encode_activity(&question).unwrap()
    };
    let none = ProfileActivity::default();
    let small = ProfileActivity { profile: "small".into(), failed: 1, cancelled: 1, ..none.clone() };
    let made = |succeeded, (median, p95)| ProfileActivity {
        profile: "default".into(),
        succeeded,
        output_ms: 10_010 * succeeded,
        work_ms: 5_005 * succeeded,
        cpu_ms: 4_000 * succeeded,
        speed: Some(2_000),
        job_ms_median: Some(median),
        job_ms_p95: Some(p95),
        ..none.clone()
    };
    let found = activity(None, 0);
    assert_eq!((found.is_cut, found.revision), (false, 18));
    assert_eq!(found.profiles, [made(3, (8_000, 10_000)), small.clone()]);
    assert_eq!(activity(None, 10_003).profiles, [made(2, (8_000, 10_000)), small]);
    let mine = ProfileActivity { profile: "small".into(), cancelled: 1, ..none };
    assert_eq!(activity(Some("ann"), 9_002).profiles, [made(1, (10_000, 10_000)), mine]);
    assert_eq!(activity(None, 13_001).profiles, []);
    // One that is gone is counted no more.
    apply(IndexChange::Job(job_id(1), None));
    assert_eq!(activity(None, 0).profiles[0].succeeded, 2);
}

#[test]
fn a_list_says_since_when_a_job_is_paused() {
    let (_folder, projection) = fresh();
    let paused = |status| JobRecord { paused_at_ms: Some(77), ..job(1, 1, "ann", status) };
    let ended = JobRecord { ended_at_ms: Some(99), ..paused(JobStatus::Cancelled) };
    for (sequence, record, wanted) in [
        (1, job(1, 1, "ann", JobStatus::Active), None),
        (2, paused(JobStatus::Active), Some(77)),
        (3, ended, None),
    ] {
        let change = IndexChange::Job(record.job_id, Some(Box::new(record.into())));
        projection.apply_entries(IndexBucket::Jobs, &[IndexEntry { sequence, change }]).unwrap();
        assert_eq!(projection.job_item(job_id(1)).unwrap().unwrap().paused_at_ms, wanted, "{sequence}");
    }
}

#[test]
fn jobs_are_listed_by_every_combination_of_filters() {
    let (_folder, projection) = fresh();
    let steps: Vec<_> = [
        job(1, 1, "ann", JobStatus::Succeeded),
        job(2, 1, "ann", JobStatus::Active),
        job(3, 2, "ann", JobStatus::Active),
        job(4, 3, "ben", JobStatus::Active),
    ]
    .into_iter()
    .zip(1..)
    .map(|(record, sequence)| IndexEntry {
        sequence,
        change: IndexChange::Job(record.job_id, Some(Box::new(record.into()))),
    })
    .collect();
    projection.apply_entries(IndexBucket::Jobs, &steps).unwrap();
    let check = |owner: Option<&str>, medium: Option<u8>, status, expected: &[u8]| {
        let question = JobIndexQuery {
            owner: owner.map(str::to_owned),
            media_id: medium.map(media_id),
            status,
            limit: 10,
            ..JobIndexQuery::default()
        };
        let page = projection.list_jobs(&question, BYTES_MAX).unwrap();
        let found: Vec<_> = page.items.iter().map(|item| item.job_id).collect();
        assert_eq!(found, expected.iter().map(|n| job_id(*n)).collect::<Vec<_>>());
    };
    check(None, None, None, &[4, 3, 2, 1]);
    check(Some("ann"), None, None, &[3, 2, 1]);
    check(Some("ann"), Some(1), None, &[2, 1]);
    check(Some("ann"), Some(1), Some(JobStatus::Active), &[2]);
    check(Some("ann"), None, Some(JobStatus::Active), &[3, 2]);
    check(None, None, Some(JobStatus::Active), &[4, 3, 2]);
    check(None, Some(3), Some(JobStatus::Failed), &[]);
    check(Some("ben"), Some(1), None, &[]);
    let counted = |owner: Option<&str>| {
        let question = JobCountsQuery { owner: owner.map(str::to_owned), min_revision: None };
        let counts = projection.count_jobs(&question).unwrap();
        (counts.active, counts.succeeded, counts.failed, counts.cancelled, counts.revision)
    };
    assert_eq!(counted(None), (3, 1, 0, 0, 4));
    assert_eq!(counted(Some("ann")), (2, 1, 0, 0, 4));
    assert_eq!(counted(Some("zoe")), (0, 0, 0, 0, 4));
    // One that ends changes sides.
    let ended = job(2, 1, "ann", JobStatus::Cancelled);
    let change = IndexChange::Job(ended.job_id, Some(Box::new(ended.into())));
    projection.apply_entries(IndexBucket::Jobs, &[IndexEntry { sequence: 5, change }]).unwrap();
    assert_eq!(counted(Some("ann")), (1, 1, 0, 1, 5));
}

#[test]
fn jobs_are_listed_by_kind_priority_code_and_pause_page_by_page() {
    let (_folder, projection) = fresh();
    let active = |number, owner| job(number, number, owner, JobStatus::Active);
    let apply = |sequence, record: JobRecord| {
        let change = IndexChange::Job(record.job_id, Some(Box::new(record.into())));
        projection.apply_entries(IndexBucket::Jobs, &[IndexEntry { sequence, change }]).unwrap();
    };
    let verify = |number, owner| JobRecord { kind: job::VERIFY.into(), ..active(number, owner) };
    let failed = JobRecord { code: Some("store_full".into()), ..job(2, 2, "ann", JobStatus::Failed) };
    apply(1, verify(1, "ann"));
    apply(2, failed);
    apply(3, JobRecord { paused_at_ms: Some(7), ..active(3, "ann") });
    apply(4, JobRecord { paused_at_ms: Some(8), priority: JobPriority::P2, ..verify(4, "ann") });
    apply(5, JobRecord { paused_at_ms: Some(9), ..verify(5, "ben") });
    // Pages of one item each: what lies between two of them is left out, and nothing comes twice.
    let check = |question: JobIndexQuery, expected: &[u8]| {
        let mut question = JobIndexQuery { limit: 1, ..question };
        let mut found = Vec::new();
        loop {
            let page = projection.list_jobs(&question, BYTES_MAX).unwrap();
            found.extend(page.items.iter().map(|item| item.job_id));
            question.cursor = page.next;
            if question.cursor.is_none() {
                break;
            }
        }
        assert_eq!(found, expected.iter().map(|n| job_id(*n)).collect::<Vec<_>>(), "{question:?}");
    };
    let all = JobIndexQuery::default;
    let ann = || JobIndexQuery { owner: Some("ann".into()), ..all() };
    check(JobIndexQuery { kind: Some("verify".into()), ..all() }, &[5, 4, 1]);
    check(JobIndexQuery { kind: Some("verify".into()), ..ann() }, &[4, 1]);
    check(JobIndexQuery { kind: Some("fetch".into()), ..all() }, &[]);
    check(JobIndexQuery { priority: Some(JobPriority::P2), ..all() }, &[4]);
    check(JobIndexQuery { code: Some("store_full".into()), ..ann() }, &[2]);
    check(JobIndexQuery { code: Some("store_full".into()), status: Some(JobStatus::Active), ..all() }, &[]);
    check(JobIndexQuery { paused: Some(true), ..all() }, &[5, 4, 3]);
    check(JobIndexQuery { paused: Some(true), ..ann() }, &[4, 3]);
    check(JobIndexQuery { paused: Some(true), media_id: Some(media_id(3)), ..ann() }, &[3]);
    check(JobIndexQuery { paused: Some(true), status: Some(JobStatus::Failed), ..all() }, &[]);
    check(JobIndexQuery { paused: Some(false), ..all() }, &[2, 1]);
    check(JobIndexQuery { paused: Some(false), status: Some(JobStatus::Active), ..all() }, &[1]);
    check(JobIndexQuery { paused: Some(true), kind: Some("transcode".into()), ..all() }, &[3]);
    let paused = |owner: Option<&str>| {
        let question = JobCountsQuery { owner: owner.map(str::to_owned), min_revision: None };
        let counts = projection.count_jobs(&question).unwrap();
        (counts.active, counts.paused)
    };
    assert_eq!((paused(None), paused(Some("ann")), paused(Some("zoe"))), ((4, 3), (3, 2), (0, 0)));
    // One is resumed, and one ends while it is paused.
    apply(6, active(3, "ann"));
    let ended = JobRecord { status: JobStatus::Cancelled, ended_at_ms: Some(99), ..verify(5, "ben") };
    apply(7, JobRecord { paused_at_ms: Some(9), ..ended });
    check(JobIndexQuery { paused: Some(true), ..all() }, &[4]);
    assert_eq!((paused(None), paused(Some("ben"))), ((3, 1), (0, 0)));
}

#[test]
fn a_folder_belongs_to_one_process() {
    let (folder, projection) = fresh();
    assert!(matches!(open(folder.path()), Err(IndexError::Locked { .. })));
    drop(projection);
    open(folder.path()).unwrap();
}

#[test]
fn a_projection_that_does_not_fit_is_begun_anew() {
    let folder = tempfile::tempdir().unwrap();
    let config = IndexConfig { folder: folder.path().to_owned(), ..IndexConfig::default() };
    let filled = |origins: &[BucketOrigin]| {
        let projection = IndexProjection::open(&config, origins).unwrap();
        let count = projection.list_media(&all(), BYTES_MAX).unwrap().items.len();
        documents(&projection, 1, 3, "ann");
        projection.flush().unwrap();
        count
    };
    assert_eq!(filled(&ORIGINS), 0);
    assert_eq!(filled(&ORIGINS), 3, "an ordinary restart goes on");

    let mut remade = ORIGINS;
    remade[0].created_at_us = 99;
    assert_eq!(filled(&remade), 0, "a bucket made anew");
    assert_eq!(filled(&remade), 3);
    remade[0].last_sequence = 2;
    assert_eq!(filled(&remade), 0, "a bucket restored to an earlier state");
}

#[test]
fn a_damaged_database_is_set_aside() {
    let (folder, projection) = fresh();
    documents(&projection, 1, 3, "ann");
    drop(projection);
    let database = folder.path().join("database");
    std::fs::write(database.join("conf"), b"nonsense").unwrap();
    std::fs::write(database.join("db"), vec![0xff; 4_096]).unwrap();
    let projection = open(folder.path()).unwrap();
    assert_eq!(projection.read_cursor(IndexBucket::Media).unwrap(), 0);
    documents(&projection, 1, 3, "ann");
    drop(projection);
    for _ in 0..2 {
        std::fs::remove_dir_all(&database).unwrap();
        std::fs::write(&database, b"no folder").unwrap();
        let projection = open(folder.path()).unwrap();
        assert!(folder.path().join("set-aside").is_file());
        assert_eq!(projection.read_cursor(IndexBucket::Media).unwrap(), 0);
    }
    let projection = open(folder.path()).unwrap();
    documents(&projection, 1, 3, "ann");
    projection.mark_damaged().unwrap();
    drop(projection);
    let projection = open(folder.path()).unwrap();
    assert!(projection.list_media(&all(), BYTES_MAX).unwrap().items.is_empty(), "a condemned one as well");
    drop(projection);
    assert!(!folder.path().join("condemned").exists());
}

#[test]
fn a_tombstone_is_a_deletion() {
    let value = |record: Vec<u8>| {
        nats::encode_message(
            "test",
            &RecordEnvelope {
                record: record.into(),
                unsent: Vec::new(),
                changed_at_ms: 1,
                expires_at_ms: None,
                trace: None,
            },
        )
        .unwrap()
    };
    let key = media_id(1).to_string();
    let mut document = document(1, "ann", 1);
    let mut asset = asset(1, "ann", MediaStatus::Ready);
    for removed_at_ms in [None, Some(1)] {
        (document.removed_at_ms, asset.removed_at_ms) = (removed_at_ms, removed_at_ms);
        let found = follow::decode_change(
            IndexBucket::Media,
            &key,
            Some(&value(nats::encode_message("test", &document).unwrap())),
        );
        let shown = removed_at_ms.is_none().then(|| Box::new(document.clone()));
        assert_eq!(found.unwrap(), IndexChange::Document(media_id(1), shown));
        let found = follow::decode_change(
            IndexBucket::Assets,
            &key,
            Some(&value(nats::encode_message("test", &asset).unwrap())),
        );
        // That of the stages stays with a document that can be restored, and is in no list without one.
        assert_eq!(found.unwrap(), IndexChange::Asset(media_id(1), Some(Box::new(asset.clone()))));
    }
    let (_folder, projection) = fresh();
    let change = IndexChange::Asset(media_id(1), Some(Box::new(asset)));
    projection.apply_entries(IndexBucket::Assets, &[IndexEntry { sequence: 1, change }]).unwrap();
    assert_eq!(projection.list_media(&all(), BYTES_MAX).unwrap().items, []);
    assert_eq!(projection.media_item(media_id(1)).unwrap(), None);
}

#[test]
fn strangers_are_listed_what_is_public_and_plays() {
    let (_folder, projection) = fresh();
    documents(&projection, 1, 5, "ann");
    for (number, status) in [
        (1, MediaStatus::Ready),
        (2, MediaStatus::Playable),
        (3, MediaStatus::Stored),
        (5, MediaStatus::Ready),
    ] {
        set_asset(&projection, u64::from(number), number, status);
    }
    let question = PublicMediaIndexQuery { cursor: None, limit: 10 };
    let listed = || {
        let page = projection.list_public_media(&question, BYTES_MAX).unwrap();
        page.items.into_iter().map(|item| item.title).collect::<Vec<_>>()
    };
    assert_eq!(listed(), Vec::<String>::new());
    let gate = |rule: Option<GateRule>| {
        Some(MediaGate { epoch: 1, rule, rule_digest: String::new(), changed_at_ms: 1 })
    };
    let not_public = GateRule::Not { rule: Box::new(GateRule::Public {}) };
    for number in [1, 2, 3] {
        set_gate(&projection, number, gate(Some(GateRule::Public {})));
    }
    set_gate(&projection, 4, gate(Some(GateRule::Public {})));
    set_gate(&projection, 5, gate(Some(not_public)));
    assert_eq!(listed(), ["clip 2", "clip 1"]);
    set_asset(&projection, 20, 3, MediaStatus::Playable);
    set_gate(&projection, 2, gate(None));
    set_gate(&projection, 1, None);
    assert_eq!(listed(), ["clip 3"]);
    let unlisted = MediaDocumentRecord {
        gate: gate(Some(GateRule::Public {})),
        is_unlisted: true,
        ..document(3, "ann", 1_003)
    };
    let change = IndexChange::Document(media_id(3), Some(Box::new(unlisted)));
    projection.apply_entries(IndexBucket::Media, &[IndexEntry { sequence: 101, change }]).unwrap();
    assert_eq!(listed(), Vec::<String>::new());
}

#[test]
fn what_can_be_restored_is_listed_apart_by_when_it_was_removed() {
    let (_folder, projection) = fresh();
    documents(&projection, 1, 4, "ann");
    let remove = |number: u8, removed_at_ms: u64| {
        let held = document(number, "ann", 1_000 + u64::from(number)).into_restorable(removed_at_ms);
        let change = IndexChange::Document(media_id(number), Some(Box::new(held)));
        projection.apply_entries(IndexBucket::Media, &[IndexEntry { sequence: 100, change }]).unwrap();
    };
    let list = |removed, owner: Option<&str>| {
        let question = MediaIndexQuery { removed, owner: owner.map(str::to_owned), ..all() };
        let page = projection.list_media(&question, BYTES_MAX).unwrap();
        page.items.iter().map(|item| (item.media_id, item.removed_at_ms)).collect::<Vec<_>>()
    };
    set_asset(&projection, 50, 2, MediaStatus::Ready);
    let mut left = asset(2, "ann", MediaStatus::Ready);
    left.removed_at_ms = Some(9_000);
    let change = IndexChange::Asset(media_id(2), Some(Box::new(left)));
    projection.apply_entries(IndexBucket::Assets, &[IndexEntry { sequence: 51, change }]).unwrap();
    let there = list(false, Some("ann"));
    remove(2, 9_000);
    remove(1, 9_500);
    let removed = [(media_id(1), Some(9_500)), (media_id(2), Some(9_000))];
    assert_eq!(list(true, Some("ann")), removed);
    assert_eq!(list(true, None), removed);
    assert_eq!(
        projection.media_item(media_id(2)).unwrap().unwrap().status,
        MediaStatus::Ready,
        "as it stood"
    );
    assert_eq!(list(true, Some("bob")), []);
    let question = MediaIndexQuery { removed: true, status: Some(MediaStatus::Ready), limit: 1, ..all() };
    let ready = projection.list_media(&question, BYTES_MAX).unwrap();
    assert_eq!(ready.items.iter().map(|item| item.media_id).collect::<Vec<_>>(), [media_id(2)]);
    assert_eq!(list(false, None), there[..2], "removed ones are in no other list");
    // What was restored is where it was; what was removed for good is nowhere.
    set_gate(&projection, 1, None);
    let change = IndexChange::Document(media_id(2), None);
    projection.apply_entries(IndexBucket::Media, &[IndexEntry { sequence: 101, change }]).unwrap();
    assert_eq!(list(true, None), []);
    assert_eq!(list(false, None).len(), 3);
}
