//! The rate of a video track, out of all that is known of it. None of it is right alone: a declared average counts pauses, time
//! stamps of fields come twice as often as pictures, and a variable rate has bursts.

use media::MediaRatio;

use crate::scan::FrameIntervals;

/// A declared rate counts where the measured one agrees with it within this share: half a per cent. It is exact.
const AGREEMENT: f64 = 0.005;

/// What is known of the rate of a track.
#[derive(Debug, Clone, Copy)]
pub(crate) struct FrameRateEvidence<'a> {
    /// Average and base rate that the library derived from the container and the codec; 0/0 when unknown.
    pub(crate) declared: [MediaRatio; 2],
    /// Distances between packets in presentation order.
    pub(crate) packets: &'a FrameIntervals,
    /// The usual distance between decoded pictures, in microseconds.
    pub(crate) decoded_us: Option<u64>,
    /// Whether pictures may be stored as two fields.
    pub(crate) is_interlaced: bool,
}

/// Frames per second; 0/0 when nobody can say.
pub(crate) fn decide_frame_rate(evidence: &FrameRateEvidence<'_>) -> MediaRatio {
    let Some(mut interval_us) = usual_interval_us(evidence.packets) else { return MediaRatio::new(0, 0) };
    // H.264 7.4.1.2.4: each field of a picture may be an access unit of its own, with its own time stamp.
    let decoded_us = evidence.decoded_us.map_or(0.0, |us| us as f64);
    if evidence.is_interlaced && (1.6..2.4).contains(&(decoded_us / interval_us)) {
        interval_us *= 2.0;
    }
    let rate = 1_000_000.0 / interval_us;
    let agrees =
        |declared: &MediaRatio| declared.is_usable() && (declared.as_f64() / rate - 1.0).abs() < AGREEMENT;
    evidence.declared.into_iter().find(agrees).unwrap_or_else(|| to_thousandths(interval_us))
}

/// How far apart pictures are while there are any, in microseconds.
fn usual_interval_us(intervals: &FrameIntervals) -> Option<f64> {
    let median_us = intervals.median_us();
    if median_us == 0 {
        return None;
    }
    let within = |low: f64, high: f64| intervals.summarize(median_us as f64 * low, median_us as f64 * high);
    // Repeated time stamps are no pictures, and a pause is none either.
    let all = within(0.125, f64::INFINITY);
    let regular = within(0.8, 1.2);
    if regular.count * 10 >= all.count * 9 {
        return Some(regular.mean_us());
    }
    // Film as video (2:3 pull-down): pictures last two and three fields in turn, and five fields are two pictures.
    let (short, long) = intervals.nearest_pair(1.5);
    if (short.count + long.count) * 10 >= all.count * 9 && short.count.abs_diff(long.count) * 5 < all.count {
        let count = short.count + long.count;
        return Some((short.sum_us + long.sum_us) as f64 / count as f64);
    }
    // Variable: motion comes in bursts, and those count.
    Some(intervals.low_decile_us().max(1) as f64)
}

/// In thousandths of a frame per second, which every term of a plan can hold.
fn to_thousandths(interval_us: f64) -> MediaRatio {
    let nanos =
        std::time::Duration::try_from_secs_f64(interval_us / 1_000_000.0).map_or(0, |time| time.as_nanos());
    let millis = (1_000_000_000_000 + nanos / 2).checked_div(nanos).unwrap_or(0);
    u32::try_from(millis).map_or(MediaRatio::new(0, 0), |millis| MediaRatio::new(millis, 1000))
}

#[cfg(test)]
mod tests {
    use ffmpeg_next::Rational;

    use super::*;
    use crate::scan::{PacketSummary, TrackStatistics};

    /// A track of 200 packets that come so many times a second.
    fn track(packet_rate: (i64, i64)) -> TrackStatistics {
        let mut track = TrackStatistics::new(Rational(1, 1_000_000), 0, 0, 0);
        for number in 0..200 {
            track.add_packet(PacketSummary {
                pts: Some(number * 1_000_000 * packet_rate.1 / packet_rate.0),
                duration: 0,
                size_bytes: 10,
                is_key: number == 0,
                is_corrupt: false,
                is_encrypted: false,
                skip_samples: 0,
            });
        }
        track.finish();
        track
    }

    #[test]
    fn fields_that_are_packets_of_their_own_count_half() {
        let (pal, ntsc) = ((50, 1), (60_000, 1_001));
        for (what, packet_rate, decoded_us, is_interlaced, declared, expected) in [
            ("fields", pal, Some(40_000), true, (50, 1), 25.0),
            ("fields whose average is known", pal, Some(40_000), true, (25, 1), 25.0),
            ("fields of NTSC", ntsc, Some(33_367), true, (30_000, 1_001), 30_000.0 / 1_001.0),
            ("fields of NTSC, declared as pictures", ntsc, Some(33_367), true, (60_000, 1_001), 29.97),
            ("pictures of two fields each", pal, Some(20_000), true, (50, 1), 50.0),
            ("pictures without fields", pal, Some(40_000), false, (50, 1), 50.0),
            ("nothing decoded", pal, None, true, (50, 1), 50.0),
        ] {
            let rate = decide_frame_rate(&FrameRateEvidence {
                declared: [MediaRatio::new(declared.0, declared.1), MediaRatio::new(0, 0)],
                packets: &track(packet_rate).intervals,
                decoded_us,
                is_interlaced,
            });
            assert!((rate.as_f64() - expected).abs() < 0.001, "{what}: {rate:?} instead of {expected}");
        }
    }
}
