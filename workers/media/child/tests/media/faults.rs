//! Crashes, hangs, cancels, liars, and what the sandbox refuses.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures::future::BoxFuture;
use media::{
    EncodeSpec, FileSource, MediaByteSource, MediaDriver, MediaDriverConfig, MediaErrorCode,
    MediaRetryDecision, MediaTaskError, MediaTaskOutput,
};
use tokio::sync::{Notify, mpsc};
use tokio_util::sync::CancellationToken;

use crate::harness::{Job, SAMPLE, Studio, config, driver, encode_spec, produce, run, rung};

/// A task long enough to be caught in the middle.
fn long_job() -> EncodeSpec {
    let mut spec = encode_spec((25, 1), 100_000, vec![rung(0, 640, 360)]);
    spec.preset = media::EncoderPreset::Slow;
    spec
}

/// The child that was started with this memory limit, which is the mark of a test.
fn find_child(mark: u64) -> Option<u32> {
    let wanted = format!("--memory-bytes-max={mark}");
    std::fs::read_dir("/proc").unwrap().find_map(|entry| {
        let id = entry.unwrap().file_name().to_str()?.parse().ok()?;
        let line = std::fs::read(format!("/proc/{id}/cmdline")).ok()?;
        line.split(|byte| *byte == 0).any(|part| part == wanted.as_bytes()).then_some(id)
    })
}

fn signal(id: u32, name: &str) {
    let sent = std::process::Command::new("kill").args(["-s", name, &id.to_string()]).status().unwrap();
    assert!(sent.success());
}

/// Starts the long task and calls `act` with the child's id once it has shown progress.
async fn interrupt(
    config: MediaDriverConfig,
    cancel: &CancellationToken,
    act: impl FnOnce(u32),
) -> (Result<(), MediaTaskError>, Duration) {
    let mark = config.child_memory_bytes_max;
    let driver = MediaDriver::start(config).await.unwrap();
    let source = Arc::new(FileSource::open(Path::new(SAMPLE)).unwrap());
    let (out, mut produced) = mpsc::channel(4);
    let work = driver.encode_video(source, long_job(), out, cancel);
    let watch = async {
        while let Some(output) = produced.recv().await {
            if matches!(output, MediaTaskOutput::Progress { .. }) {
                break;
            }
        }
        act(find_child(mark).expect("the child runs"));
        let began = Instant::now();
        while produced.recv().await.is_some() {}
        began
    };
    let (ended, began) = tokio::join!(work, watch);
    let took = began.elapsed();
    assert_eq!(find_child(mark), None, "the child is still there");
    (ended.map(|_report| ()), took)
}

#[test]
fn a_killed_child_is_a_crash_to_retry() {
    run(async {
        let config = MediaDriverConfig { child_memory_bytes_max: (1 << 30) + 1, ..config() };
        let (ended, _) = interrupt(config, &CancellationToken::new(), |id| signal(id, "KILL")).await;
        let fault = ended.unwrap_err();
        assert!(matches!(fault, MediaTaskError::Crashed { signal: Some(9), .. }), "{fault:?}");
        assert_eq!(
            (fault.retry_decision(), fault.code()),
            (MediaRetryDecision::Retry, "media_child_crashed")
        );
    });
}

#[test]
fn a_hanging_child_is_killed() {
    run(async {
        let config = MediaDriverConfig {
            child_memory_bytes_max: (1 << 30) + 2,
            wall_seconds_without_progress_max: 2,
            ..config()
        };
        let (ended, took) = interrupt(config, &CancellationToken::new(), |id| signal(id, "STOP")).await;
        assert!(matches!(ended, Err(MediaTaskError::Stalled { seconds: 2 })), "{ended:?}");
        assert!(took < Duration::from_secs(6), "{took:?}");
    });
}

#[test]
fn cancel_takes_less_than_two_seconds() {
    run(async {
        let config = MediaDriverConfig { child_memory_bytes_max: (1 << 30) + 3, ..config() };
        let cancel = CancellationToken::new();
        let (ended, took) = interrupt(config, &cancel, |_id| cancel.cancel()).await;
        assert!(matches!(ended, Err(MediaTaskError::Cancelled)), "{ended:?}");
        assert!(took < Duration::from_secs(2), "{took:?}");
    });
}

#[test]
fn a_slow_source_or_taker_is_not_the_childs_fault() {
    struct Slow(FileSource);
    impl MediaByteSource for Slow {
        fn size_bytes(&self) -> u64 {
            self.0.size_bytes()
        }
        fn read(&self, offset: u64, len: usize) -> BoxFuture<'_, std::io::Result<Bytes>> {
            Box::pin(async move {
                // Slowness is what is tested here: longer than the child's patience, only once.
                if offset == 0 {
                    tokio::time::sleep(Duration::from_millis(2500)).await;
                }
                self.0.read(offset, len).await
            })
        }
    }
    run(async {
        let config = MediaDriverConfig { wall_seconds_without_progress_max: 1, ..config() };
        let driver = MediaDriver::start(config).await.unwrap();
        let source = Arc::new(Slow(FileSource::open(Path::new(SAMPLE)).unwrap()));
        assert!(driver.probe(source, &CancellationToken::new()).await.is_ok());
    });
}

#[test]
fn a_source_that_fails_is_reported_as_such() {
    struct Broken;
    impl MediaByteSource for Broken {
        fn size_bytes(&self) -> u64 {
            1 << 20
        }
        fn read(&self, _offset: u64, _len: usize) -> BoxFuture<'_, std::io::Result<Bytes>> {
            Box::pin(async { Err(std::io::Error::other("gone")) })
        }
    }
    run(async {
        let ended = driver().await.probe(Arc::new(Broken), &CancellationToken::new()).await;
        assert!(matches!(ended, Err(MediaTaskError::Source(_))), "{ended:?}");
    });
}

#[test]
fn nobody_taking_the_output_ends_the_task() {
    run(async {
        let source = Arc::new(FileSource::open(Path::new(SAMPLE)).unwrap());
        let (out, produced) = mpsc::channel(1);
        drop(produced);
        let ended = driver().await.encode_video(source, long_job(), out, &CancellationToken::new()).await;
        assert!(matches!(ended, Err(MediaTaskError::OutputClosed)), "{ended:?}");
    });
}

/// A program that checks itself like the real one and then does something else.
fn liar(studio: &Studio, name: &str, deed: &str) -> PathBuf {
    let script = format!(
        "#!/bin/sh\nif [ \"$1\" = check ]; then exec {} \"$@\"; fi\n{deed}\n",
        env!("CARGO_BIN_EXE_streamgate-media")
    );
    let path = studio.write(name, script.as_bytes());
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
    path
}

#[test]
fn a_lying_child_breaks_the_protocol() {
    run(async {
        let studio = Studio::new();
        let source = || Arc::new(FileSource::open(Path::new(SAMPLE)).unwrap());
        let cancel = CancellationToken::new();
        for (name, deed) in [
            ("large", "printf '\\377\\377\\377\\377'; cat"),
            ("noise", "printf '\\000\\000\\000\\003abc'; cat"),
            // A read past the end: {"read": {"offset": 2^63, "len": 1}}.
            (
                "read",
                "printf '\\000\\000\\000\\036\\201\\244read\\202\\246offset\\317\\200\\0\\0\\0\\0\\0\\0\\0\\243len\\001'; cat",
            ),
        ] {
            let config = MediaDriverConfig { child_path: Some(liar(&studio, name, deed)), ..config() };
            let driver = MediaDriver::start(config).await.unwrap();
            let ended = driver.probe(source(), &cancel).await;
            assert!(matches!(ended, Err(MediaTaskError::Protocol(_))), "{name}: {ended:?}");
        }
        let config = MediaDriverConfig {
            child_path: Some(liar(&studio, "quitter", "echo why >&2; exit 3")),
            ..config()
        };
        let ended = MediaDriver::start(config).await.unwrap().probe(source(), &cancel).await;
        let Err(MediaTaskError::Crashed { signal: None, status: Some(3), detail }) = ended else {
            panic!("{ended:?}")
        };
        assert_eq!(detail, "why");
    });
}

#[test]
fn the_sandbox_refuses_files_network_and_programs() {
    run(async {
        let driver = driver().await;
        let check = driver.self_check();
        assert!(check.sandbox.is_effective(), "{:?}", check.sandbox);
        assert!(check.sandbox.has_seccomp, "{:?}", check.sandbox);
        assert!(check.versions.ffmpeg.chars().any(|c| c.is_ascii_digit()));
        let missing = MediaDriver::start(MediaDriverConfig {
            child_path: Some("/nonexistent/child".into()),
            ..config()
        })
        .await;
        assert!(matches!(missing, Err(MediaTaskError::Spawn { .. })));
    });
}

#[test]
fn memory_is_limited() {
    run(async {
        let studio = Studio::new();
        let path = studio
            .make("a.mp4", "-f lavfi -i testsrc2=size=1920x1080:rate=25 -t 1 -c:v libx264 -preset ultrafast");
        let config = MediaDriverConfig { child_memory_bytes_max: 300 << 20, ..config() };
        let driver = MediaDriver::start(config).await.unwrap();
        let spec = encode_spec((25, 1), 25, vec![rung(0, 1920, 1080)]);
        let fault = produce(&driver, &path, Job::Encode(spec)).await.unwrap_err();
        assert_eq!(fault.retry_decision(), MediaRetryDecision::Retry, "{fault:?}");
    });
}

#[test]
fn a_task_that_does_not_fit_the_file_is_refused() {
    run(async {
        let driver = driver().await;
        let mut spec = encode_spec((25, 1), 25, vec![rung(0, 320, 180)]);
        spec.stream = 7;
        let fault = produce(&driver, Path::new(SAMPLE), Job::Encode(spec.clone())).await.unwrap_err();
        assert!(
            matches!(fault, MediaTaskError::Rejected { code: MediaErrorCode::MediaSpecMismatch, .. }),
            "{fault:?}"
        );
        spec.stream = 0;
        spec.frame_count = 0;
        let fault = produce(&driver, Path::new(SAMPLE), Job::Encode(spec)).await.unwrap_err();
        assert!(matches!(fault, MediaTaskError::Spec(_)), "{fault:?}");
    });
}

#[test]
fn children_die_with_their_driver() {
    run(async {
        let mark = (1 << 30) + 4;
        let driver =
            MediaDriver::start(MediaDriverConfig { child_memory_bytes_max: mark, ..config() }).await.unwrap();
        let source = Arc::new(FileSource::open(Path::new(SAMPLE)).unwrap());
        let (out, mut produced) = mpsc::channel(4);
        let started = Arc::new(Notify::new());
        let cancel = CancellationToken::new();
        {
            let work = driver.encode_video(source, long_job(), out, &cancel);
            tokio::pin!(work);
            tokio::select! {
                _ = &mut work => panic!("the task ended"),
                _ = produced.recv() => started.notify_one(),
            }
            started.notified().await;
            assert!(find_child(mark).is_some());
        }
        let deadline = Instant::now() + Duration::from_secs(5);
        while find_child(mark).is_some() {
            assert!(Instant::now() < deadline, "the child outlived its task");
            tokio::task::yield_now().await;
        }
    });
}

/// The beginning of a film whose index declares so many samples of one byte; their table is made as it is read.
struct Declared {
    head: Vec<u8>,
    size_bytes: u64,
}

impl Declared {
    /// `table_bytes` is the room that the table of sizes has.
    fn new(samples: u32, table_bytes: u64) -> Self {
        let boxed = |kind: &[u8; 4], content: &[u8]| {
            let length = u32::try_from(content.len() + 8).unwrap();
            [&length.to_be_bytes(), kind.as_slice(), content].concat()
        };
        let words = |words: &[u32]| words.iter().flat_map(|word| word.to_be_bytes()).collect::<Vec<u8>>();
        let formats = [
            words(&[0, 1]),
            boxed(b"avc1", &[&[0; 6][..], &[0, 1], &[0; 16], &[1, 64, 0, 180], &[0; 50]].concat()),
        ]
        .concat();
        let tables = [
            boxed(b"stsd", &formats),
            boxed(b"stts", &words(&[0, 1, samples, 1])),
            boxed(b"stsc", &words(&[0, 1, 1, samples, 1])),
            boxed(b"stco", &words(&[0, 1, 8])),
        ]
        .concat();
        let sizes = u32::try_from(20 + table_bytes).unwrap();
        let stsz = [&sizes.to_be_bytes(), &b"stsz"[..], &words(&[0, 0, samples])].concat();
        // Each box holds the next, and the table of sizes is the last of the innermost.
        let mut inside = [tables, stsz].concat();
        let mdhd = boxed(b"mdhd", &words(&[0, 0, 0, 25, samples, 0]));
        let hdlr = boxed(b"hdlr", &[words(&[0, 0]), b"vide".to_vec(), vec![0; 13]].concat());
        let tkhd = boxed(b"tkhd", &[words(&[7, 0, 0, 1, 0, samples]), vec![0; 60]].concat());
        for (kind, before) in [
            (b"stbl", vec![]),
            (b"minf", vec![]),
            (b"mdia", [mdhd, hdlr].concat()),
            (b"trak", tkhd),
            (b"moov", boxed(b"mvhd", &[words(&[0, 0, 0, 25, samples]), vec![0; 80]].concat())),
        ] {
            let length = u32::try_from(before.len() + inside.len() + 8).unwrap() + sizes - 20;
            inside = [&length.to_be_bytes(), kind.as_slice(), &before, &inside].concat();
        }
        let head = [boxed(b"ftyp", b"isom\0\0\x02\0isom"), inside].concat();
        let size_bytes = u64::try_from(head.len()).unwrap() + table_bytes;
        Self { head, size_bytes }
    }
}

impl MediaByteSource for Declared {
    fn size_bytes(&self) -> u64 {
        self.size_bytes
    }

    fn read(&self, offset: u64, len: usize) -> BoxFuture<'_, std::io::Result<Bytes>> {
        let head = u64::try_from(self.head.len()).unwrap();
        let end = (offset + u64::try_from(len).unwrap()).min(self.size_bytes);
        let byte = |at: u64| match usize::try_from(at).ok().and_then(|at| self.head.get(at)) {
            Some(byte) => *byte,
            None => u8::from((at - head) % 4 == 3),
        };
        let bytes: Vec<u8> = (offset..end).map(byte).collect();
        Box::pin(async { Ok(Bytes::from(bytes)) })
    }
}

/// Peak of the resident memory of the child with this mark, until `done`.
async fn peak_bytes(mark: u64, done: &CancellationToken) -> u64 {
    let mut peak = 0;
    while !done.is_cancelled() {
        if let Some(id) = find_child(mark)
            && let Ok(status) = std::fs::read_to_string(format!("/proc/{id}/status"))
        {
            let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
            let kib = line.and_then(|line| line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok());
            peak = peak.max(kib.unwrap_or(0) * 1024);
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    peak
}

#[test]
fn a_film_of_ten_million_table_entries_is_refused_before_they_are_read() {
    run(async {
        for (samples, table_bytes) in [(10_000_000, 40_000_000), (u32::MAX, 1_000)] {
            let source = Arc::new(Declared::new(samples, table_bytes));
            let began = Instant::now();
            let fault = driver().await.probe(source, &CancellationToken::new()).await.unwrap_err();
            let MediaTaskError::Rejected { code: MediaErrorCode::MediaTooManyPackets, .. } = fault else {
                panic!("{fault:?}")
            };
            assert!(began.elapsed() < Duration::from_secs(10), "{:?}", began.elapsed());
        }
    });
}

#[test]
fn as_many_entries_as_are_allowed_are_probed_under_a_gibibyte() {
    run(async {
        let mark = (1 << 30) - 5;
        let mut config = MediaDriverConfig { probe_memory_bytes_max: mark, ..config() };
        // Enough packets to see what each costs.
        config.limits.packets_max = 300_000;
        let samples = u32::try_from(config.limits.table_entries_max - 10).unwrap();
        let driver = MediaDriver::start(config).await.unwrap();
        let source = Arc::new(Declared::new(samples, u64::from(samples) * 4));
        let done = CancellationToken::new();
        let probing = async {
            let probed = driver.probe(source, &CancellationToken::new()).await;
            done.cancel();
            probed
        };
        let (probed, peak) = tokio::join!(probing, peak_bytes(mark, &done));
        println!("{samples} entries: peak {} MiB, {probed:?}", peak >> 20);
        assert!(peak > 0 && peak < 1 << 30, "{peak}");
        let Err(MediaTaskError::Rejected { code: MediaErrorCode::MediaTooManyPackets, .. }) = probed else {
            panic!("{probed:?}")
        };
    });
}

#[test]
fn a_probe_needs_as_much_memory_for_a_large_file_as_for_a_small_one() {
    /// An hour and more of silence as WAVE.
    struct Silence(u32);
    impl MediaByteSource for Silence {
        fn size_bytes(&self) -> u64 {
            u64::from(self.0) + 44
        }
        fn read(&self, offset: u64, len: usize) -> BoxFuture<'_, std::io::Result<Bytes>> {
            let (size, rate) = (self.0.to_le_bytes(), 192_000_u32.to_le_bytes());
            let riff = (self.0 + 36).to_le_bytes();
            let format =
                [&[16, 0, 0, 0, 1, 0, 2, 0][..], &48_000_u32.to_le_bytes(), &rate, &[4, 0, 16, 0]].concat();
            let head = [&b"RIFF"[..], &riff, b"WAVEfmt ", &format, b"data", &size].concat();
            let mut bytes = head[usize::try_from(offset).unwrap().min(head.len())..].to_vec();
            bytes.resize(len.min(usize::try_from(self.size_bytes() - offset).unwrap()), 0);
            Box::pin(async { Ok(Bytes::from(bytes)) })
        }
    }
    run(async {
        let mark = (1 << 30) - 6;
        let driver =
            MediaDriver::start(MediaDriverConfig { probe_memory_bytes_max: mark, ..config() }).await.unwrap();
        let done = CancellationToken::new();
        let probing = async {
            let probed = driver.probe(Arc::new(Silence(400 << 20)), &CancellationToken::new()).await;
            done.cancel();
            probed.unwrap()
        };
        let (probed, peak) = tokio::join!(probing, peak_bytes(mark, &done));
        assert_eq!(probed.size_bytes, (400 << 20) + 44);
        println!("400 MiB: peak {} MiB", peak >> 20);
        assert!(peak > 0 && peak < 120 << 20, "{peak}");
    });
}

#[test]
fn a_child_that_starts_too_many_threads_is_killed() {
    run(async {
        let mark = (1 << 30) + 7;
        let config = MediaDriverConfig { child_memory_bytes_max: mark, threads_max: 1, ..config() };
        let driver = MediaDriver::start(config).await.unwrap();
        let source = Arc::new(FileSource::open(Path::new(SAMPLE)).unwrap());
        let (out, mut produced) = mpsc::channel(4);
        let cancel = CancellationToken::new();
        // It is over before anybody could look for it.
        let taken = async { while produced.recv().await.is_some() {} };
        let (ended, ()) = tokio::join!(driver.encode_video(source, long_job(), out, &cancel), taken);
        assert!(matches!(ended, Err(MediaTaskError::Protocol(_))), "{ended:?}");
        assert_eq!(find_child(mark), None, "the child is still there");
    });
}

#[test]
fn no_child_has_a_capability() {
    run(async {
        let driver = driver().await;
        assert!(driver.self_check().sandbox.has_no_capabilities);
        let mark = (1 << 30) + 8;
        let config = MediaDriverConfig { child_memory_bytes_max: mark, ..config() };
        let cancel = CancellationToken::new();
        let look = |id| {
            let status = std::fs::read_to_string(format!("/proc/{id}/status")).unwrap();
            for set in ["CapInh", "CapPrm", "CapEff", "CapAmb"] {
                assert!(status.contains(&format!("{set}:\t0000000000000000\n")), "{status}");
            }
            assert!(status.contains("NoNewPrivs:\t1\n"), "{status}");
            cancel.cancel();
        };
        let (ended, _) = interrupt(config, &cancel, look).await;
        assert!(matches!(ended, Err(MediaTaskError::Cancelled)), "{ended:?}");
    });
}

#[test]
fn a_probe_that_lacks_memory_is_a_fault_and_no_refusal() {
    run(async {
        let config = MediaDriverConfig { probe_memory_bytes_max: 400 << 20, ..config() };
        let samples = u32::try_from(config.limits.table_entries_max - 10).unwrap();
        let driver = MediaDriver::start(config).await.unwrap();
        let source = Arc::new(Declared::new(samples, u64::from(samples) * 4));
        let fault = driver.probe(source, &CancellationToken::new()).await.unwrap_err();
        assert_eq!(fault.retry_decision(), MediaRetryDecision::Retry, "{fault:?}");
    });
}
