//! Which tracks of a file play: each that may be chosen is tried, and a file of which none can be decoded is refused with its code.

use media::{AUDIO_TRACKS_MAX, MediaStreamKind};

use crate::harness::{Studio, probe, run};
use crate::inputs::refused;

const PICTURE: &str = "-f lavfi -i testsrc2=size=128x96:rate=25:duration=1";
const TONE: &str = "-f lavfi -i sine=frequency=440:sample_rate=48000:duration=1";
const H264: &str = "-c:v libx264 -preset ultrafast -pix_fmt yuv420p";

/// Changes every byte of the packets that it is applied to.
const NOISE: &str = "noise=amount=1";

fn maps(input: usize, count: usize) -> String {
    format!("-map {input} ").repeat(count)
}

#[test]
fn a_damaged_track_behind_eight_others_does_not_play() {
    run(async {
        let studio = Studio::new();
        let sound = maps(1, 8);
        let path = studio
            .make("nine.mkv", &format!("{PICTURE} {TONE} -map 0 {sound} {H264} -c:a flac -bsf:a:7 {NOISE}"));
        let found = probe(&path).await.unwrap();
        let played: Vec<u32> = found.audio_streams().iter().map(|stream| stream.index).collect();
        assert_eq!(played, [1, 2, 3, 4, 5, 6, 7]);
        assert!(found.streams[8].packet_count > 0 && !found.streams[8].is_decodable);
        assert!(found.best_video().is_some());
    });
}

#[test]
fn pictures_behind_eight_tracks_of_sound_have_their_own_rate() {
    run(async {
        let studio = Studio::new();
        let sound = maps(0, 8);
        // A pause of 20 s, which the average that the container declares counts.
        let pause = "-vf setpts='PTS+if(gte(N,15),20/TB,0)' -vsync vfr";
        let path =
            studio.make("behind.mp4", &format!("{TONE} {PICTURE} {sound} -map 1 -c:a aac {pause} {H264}"));
        let found = probe(&path).await.unwrap();
        let stream = found.best_video().unwrap();
        let rate = stream.video.as_ref().unwrap().average_frame_rate.as_f64();
        assert_eq!(stream.index, 8);
        assert!((rate - 25.0).abs() < 0.05, "{rate}");
    });
}

#[test]
fn as_many_tracks_as_a_profile_takes_are_tried_and_of_damaged_ones_not_all() {
    run(async {
        let studio = Studio::new();
        let last = AUDIO_TRACKS_MAX - 1;
        let most = maps(0, AUDIO_TRACKS_MAX);
        let path = studio.make("most.mkv", &format!("{TONE} {most} -c:a flac -bsf:a:{last} {NOISE}"));
        assert_eq!(probe(&path).await.unwrap().audio_streams().len(), last);
        let many = maps(0, 30);
        let path = studio.make("many.mkv", &format!("{TONE} {many} -c:a flac -bsf:a {NOISE} -bsf:a:29 null"));
        assert_eq!(refused(&path).await.as_str(), "media_no_frames");
    });
}

#[test]
fn what_can_not_be_decoded_is_refused_with_its_code() {
    run(async {
        let studio = Studio::new();
        let key = "-encryption_scheme cenc-aes-ctr -encryption_key 76a6c65c5ea762046bd749a2e632ccbb \
            -encryption_kid a7e61c373e219033c21091fa607bf3b8";
        for (name, arguments) in
            [("a.mp4", format!("{PICTURE} {H264} {key}")), ("a.m4a", format!("{TONE} -c:a aac {key}"))]
        {
            assert_eq!(refused(&studio.make(name, &arguments)).await.as_str(), "media_encrypted", "{name}");
        }
        let noise = studio.make("noise.mkv", &format!("{TONE} -c:a flac -bsf:a {NOISE}"));
        assert_eq!(refused(&noise).await.as_str(), "media_no_frames");
        // The index of a track whose samples would come in fragments, and no fragment.
        let whole =
            studio.make("whole.mp4", &format!("{PICTURE} {H264} -movflags +frag_keyframe+empty_moov"));
        let whole = std::fs::read(whole).unwrap();
        let fragment = whole.windows(4).position(|kind| kind == b"moof").unwrap() - 4;
        let empty = studio.write("no-samples.mp4", &whole[..fragment]);
        assert_eq!(refused(&empty).await.as_str(), "media_no_frames");
        // PCM that is called MPEG-H: the library knows that by its name alone.
        let mut renamed = std::fs::read(studio.make("a.mov", &format!("{TONE} -c:a pcm_s16le"))).unwrap();
        let entry = renamed.windows(4).rposition(|kind| kind == b"sowt").unwrap();
        renamed[entry..entry + 4].copy_from_slice(b"mhm1");
        let renamed = studio.write("renamed.mov", &renamed);
        assert_eq!(refused(&renamed).await.as_str(), "media_unsupported_codec");
    });
}

#[test]
fn attachments_are_named_and_a_cover_is_a_picture() {
    run(async {
        let studio = Studio::new();
        let font = studio.write("title.ttf", b"a font");
        let cover = studio.make("cover.png", "-f lavfi -i testsrc2=size=64x64 -frames:v 1");
        let path = studio.make(
            "attached.mkv",
            &format!(
                "{PICTURE} {H264} -attach {} -metadata:s:t:0 mimetype=image/png -attach {} \
                 -metadata:s:t:1 mimetype=application/x-truetype-font",
                cover.display(),
                font.display()
            ),
        );
        let found = probe(&path).await.unwrap();
        let kinds: Vec<(MediaStreamKind, bool)> =
            found.streams.iter().map(|stream| (stream.kind, stream.is_attached_picture)).collect();
        let (video, attachment) = (MediaStreamKind::Video, MediaStreamKind::Attachment);
        assert_eq!(kinds, [(video, false), (video, true), (attachment, false)]);
        let font = &found.streams[2];
        assert_eq!((font.codec.as_str(), font.title.as_deref()), ("ttf", Some("title.ttf")));
    });
}
