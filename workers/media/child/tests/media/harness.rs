//! Starts the driver on the built program, makes input files, and looks at output with the ffmpeg command line.

use std::path::{Path, PathBuf};
use std::process::{Command, Output as Finished};
use std::sync::Arc;
use std::time::Duration;

use media::{
    AudioSpec, ClockMap, EncodeRung, EncodeSpec, EncoderPreset, FileSource, H264Profile, MediaDriver,
    MediaDriverConfig, MediaProbe, MediaRatio, MediaTaskError, MediaTaskOutput, MediaTaskReport, StillsSpec,
};
use tempfile::TempDir;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

pub(crate) const SAMPLE: &str =
    concat!(env!("CARGO_MANIFEST_DIR"), "/../../../tests/e2e/fixtures/bigbuckbunny.mp4");

pub(crate) fn config() -> MediaDriverConfig {
    MediaDriverConfig {
        child_path: Some(env!("CARGO_BIN_EXE_streamgate-media").into()),
        ..MediaDriverConfig::default()
    }
}

pub(crate) async fn driver() -> MediaDriver {
    MediaDriver::start(config()).await.unwrap()
}

pub(crate) fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap()
}

/// Runs a test on a runtime, with a deadline so that a hang is a failure.
pub(crate) fn run(test: impl Future<Output = ()>) {
    let deadline = Duration::from_secs(240);
    runtime().block_on(async { tokio::time::timeout(deadline, test).await.expect("test hangs") });
}

/// A folder for the files of one test.
pub(crate) struct Studio(TempDir);

impl Studio {
    pub(crate) fn new() -> Self {
        Self(TempDir::new().unwrap())
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// Makes a file with the ffmpeg command line; the arguments are split at spaces.
    pub(crate) fn make(&self, name: &str, arguments: &str) -> PathBuf {
        let path = self.path(name);
        let made = ffmpeg(&format!("{arguments} -y {}", path.display()));
        assert!(made.status.success(), "{arguments}: {}", String::from_utf8_lossy(&made.stderr));
        path
    }

    pub(crate) fn write(&self, name: &str, bytes: &[u8]) -> PathBuf {
        let path = self.path(name);
        std::fs::write(&path, bytes).unwrap();
        path
    }
}

pub(crate) fn ffmpeg(arguments: &str) -> Finished {
    Command::new("ffmpeg")
        .args(["-v", "error", "-nostdin"])
        .args(arguments.split_whitespace())
        .output()
        .unwrap()
}

/// The lines that ffprobe prints, empty ones left out.
pub(crate) fn ffprobe(path: &Path, arguments: &str) -> Vec<String> {
    let output = Command::new("ffprobe")
        .args(["-v", "error", "-of", "csv=p=0"])
        .args(arguments.split_whitespace())
        .arg(path)
        .output()
        .unwrap();
    assert!(output.stderr.is_empty(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout).unwrap();
    let lines = text.lines().map(|line| line.trim_end_matches(',').to_owned());
    lines.filter(|line| !line.is_empty()).collect()
}

/// One brightness a frame, in steps that survive lossy coding; it comes again after 25 frames.
pub(crate) const COUNTED: &str = "geq=lum='20+8*mod(N,25)':cb=128:cr=128";

/// Which step of brightness every decoded frame has; any complaint of the decoder fails the test.
pub(crate) fn steps(path: &Path) -> Vec<u8> {
    let output = ffmpeg(&format!(
        "-xerror -err_detect explode -i {} -map 0:v -vsync passthrough -vf scale=2:2:flags=area -pix_fmt yuv420p \
         -f rawvideo -",
        path.display()
    ));
    assert!(output.stderr.is_empty(), "{}", String::from_utf8_lossy(&output.stderr));
    // Four bytes of luma, of which one is enough, and two of chroma.
    output.stdout.chunks_exact(6).map(|picture| (picture[0] - 16) / 8).collect()
}

/// Decodes a file completely and gives the MD5 of every frame; any complaint of the decoder fails the test.
pub(crate) fn frame_hashes(path: &Path, map: &str) -> Vec<String> {
    let output =
        ffmpeg(&format!("-xerror -err_detect explode -i {} -map {map} -f framemd5 -", path.display()));
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(output.stderr.is_empty(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout).unwrap();
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    lines.map(|line| line.rsplit(',').next().unwrap().trim().to_owned()).collect()
}

pub(crate) async fn probe(path: &Path) -> Result<MediaProbe, MediaTaskError> {
    let source = Arc::new(FileSource::open(path).unwrap());
    driver().await.probe(source, &CancellationToken::new()).await
}

/// Everything a task produced.
#[derive(Debug, Default)]
pub(crate) struct Product {
    pub(crate) outputs: Vec<MediaTaskOutput>,
    pub(crate) report: MediaTaskReport,
}

impl Product {
    pub(crate) fn init(&self, wanted: u16) -> Vec<u8> {
        let found = self.outputs.iter().find_map(|output| match output {
            MediaTaskOutput::Init { rendition, bytes } if *rendition == wanted => Some(bytes.to_vec()),
            _ => None,
        });
        found.unwrap()
    }

    /// Number, first tick, ticks, samples and bytes of each segment.
    pub(crate) fn segments(&self, wanted: u16) -> Vec<(u32, u64, u64, u32, Vec<u8>)> {
        let mut found = Vec::new();
        for output in &self.outputs {
            if let MediaTaskOutput::Segment {
                rendition,
                number,
                start_ticks,
                duration_ticks,
                sample_count,
                bytes,
                ..
            } = output
                && *rendition == wanted
            {
                found.push((*number, *start_ticks, *duration_ticks, *sample_count, bytes.to_vec()));
            }
        }
        found
    }

    /// The rendition as one file: init and segments in order.
    pub(crate) fn file(&self, wanted: u16) -> Vec<u8> {
        let mut file = self.init(wanted);
        for (.., bytes) in self.segments(wanted) {
            file.extend_from_slice(&bytes);
        }
        file
    }
}

pub(crate) enum Job {
    Encode(EncodeSpec),
    Audio(AudioSpec),
    Stills(StillsSpec),
}

pub(crate) async fn produce(driver: &MediaDriver, path: &Path, job: Job) -> Result<Product, MediaTaskError> {
    let source = Arc::new(FileSource::open(path).unwrap());
    let cancel = CancellationToken::new();
    let (out, mut produced) = mpsc::channel(4);
    let work = async {
        match job {
            Job::Encode(spec) => driver.encode_video(source, spec, out, &cancel).await,
            Job::Audio(spec) => driver.encode_audio(source, spec, out, &cancel).await,
            Job::Stills(spec) => driver.extract_stills(source, spec, out, &cancel).await,
        }
    };
    let collect = async {
        let mut outputs = Vec::new();
        while let Some(output) = produced.recv().await {
            outputs.push(output);
        }
        outputs
    };
    let (report, outputs) = tokio::join!(work, collect);
    Ok(Product { outputs, report: report? })
}

pub(crate) fn rung(rendition: u16, width: u32, height: u32) -> EncodeRung {
    EncodeRung {
        rendition,
        width,
        height,
        crf: 23.0,
        rate_bits_per_second_max: 2_000_000,
        buffer_bits: 4_000_000,
        profile: H264Profile::High,
        level: 31,
        threads: 1,
    }
}

/// A whole encode of stream 0 from the beginning.
pub(crate) fn encode_spec(rate: (u32, u32), frames: u32, rungs: Vec<EncodeRung>) -> EncodeSpec {
    EncodeSpec {
        stream: 0,
        origin_us: 0,
        frame_rate: MediaRatio::new(rate.0, rate.1),
        start_frame: 0,
        frame_count: frames,
        first_segment: 0,
        segment_frames: 50,
        gop_frames: 50,
        deinterlace: false,
        storyboard: None,
        decode_threads: 2,
        preset: EncoderPreset::Ultrafast,
        rungs,
        clock: ClockMap::default(),
    }
}
