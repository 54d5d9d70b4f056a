//! One view: what its player reported so far, and what follows from the next line.
//!
//! Times between lines are those of the player's clock. All times that are credited to a view are together at most as long as the view has
//! lasted here, with [`SILENCE_MS_MAX`] more: nobody plays for hours in a minute.
//!
//! A wait counts as standing still where the picture moved before it: one before the start is a part of the start, and one after a seek was
//! asked for. Lines that come out of their order say no more than when the start was asked for.
//!
//! Limits: a silence of more than [`SILENCE_MS_MAX`] counts as one of that length.

use std::time::Instant;

use nats::metrics::{
    labels::{HeightClass, ViewEnding},
    table::{
        VIEWER_PLAYED_BYTES, VIEWER_PLAYED_SECONDS, VIEWER_STALLED_SECONDS, VIEWER_STALLS,
        VIEWER_START_SECONDS, VIEWER_VIEWS, VIEWER_WATCHED_SECONDS,
    },
};
use schemas::{experience::ExperienceSum, media::EncodedRendition};

use super::report::{PlayerState, ReportLine, TIME_MS_MAX};

/// Longest time between two lines that is counted, in milliseconds. Players report once in 30 s by default.
pub(super) const SILENCE_MS_MAX: u64 = 120_000;

/// Most bits a second of sound alone.
const SOUND_BPS_MAX: u64 = 512_000;

/// The renditions of an encode, by their bitrates.
#[derive(Debug, Clone, Default)]
pub(super) struct HeightLadder(Vec<(u64, HeightClass)>);

impl HeightLadder {
    /// Of these renditions; what has no picture is left out.
    pub(super) fn new(renditions: &[EncodedRendition]) -> Self {
        let pictures = renditions.iter().filter(|rendition| rendition.height > 0);
        Self(pictures.map(|r| (r.peak_bps.max(1), height_class(r.width.min(r.height)))).collect())
    }

    /// The class of the rendition whose bitrate is nearest by ratio. Players report that of picture and sound together, or of the picture.
    fn class_of(&self, bitrate_kbps: u32) -> HeightClass {
        let bps = f64::from(bitrate_kbps) * 1_000.0;
        let distance = |peak_bps: u64| (bps / peak_bps as f64).ln().abs();
        let nearest = self.0.iter().min_by(|a, b| distance(a.0).total_cmp(&distance(b.0)));
        nearest.map_or(HeightClass::Unknown, |(_, class)| *class)
    }

    /// The highest bitrate that is believed, in kilobits per second: somewhat more than that of the best rendition, with its sound.
    fn bitrate_kbps_max(&self) -> u32 {
        let best_bps = self.0.iter().map(|(peak_bps, _)| *peak_bps).max().unwrap_or(SOUND_BPS_MAX);
        u32::try_from(best_bps.saturating_mul(2) / 1_000).unwrap_or(u32::MAX)
    }
}

fn height_class(lines: u32) -> HeightClass {
    match lines {
        0..=240 => HeightClass::P240,
        241..=360 => HeightClass::P360,
        361..=480 => HeightClass::P480,
        481..=720 => HeightClass::P720,
        721..=1080 => HeightClass::P1080,
        1081..=1440 => HeightClass::P1440,
        _ => HeightClass::P2160,
    }
}

/// When a line came, by our clocks.
#[derive(Debug, Clone, Copy)]
pub(super) struct Arrival {
    pub(super) at: Instant,
    /// Unix time in milliseconds.
    pub(super) unix_ms: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Motion {
    Resting,
    Playing,
    /// It played, and was asked to go elsewhere. Not every player says that it plays on from there: it counts as playing.
    Seeking,
    Stalled,
}

/// One view.
#[derive(Debug)]
pub(super) struct View {
    begun: Instant,
    seen: Instant,
    /// Time of its newest line, by the clock of the player.
    at_ms: Option<u64>,
    motion: Motion,
    /// Milliseconds that were credited to it.
    credited_ms: u64,
    /// How often it was counted as standing still.
    stall_count: u64,
    asked_at_ms: Option<u64>,
    played_at_ms: Option<u64>,
    is_start_known: bool,
    has_states: bool,
    ending: Option<ViewEnding>,
    height: HeightClass,
    bitrate_kbps: u32,
}

impl View {
    /// One that begins.
    pub(super) fn begin(arrival: Arrival, sum: &mut ExperienceSum) -> Self {
        sum.views += 1;
        Self {
            begun: arrival.at,
            seen: arrival.at,
            at_ms: None,
            motion: Motion::Resting,
            credited_ms: 0,
            stall_count: 0,
            asked_at_ms: None,
            played_at_ms: None,
            is_start_known: false,
            has_states: false,
            ending: None,
            height: HeightClass::Unknown,
            bitrate_kbps: 0,
        }
    }

    /// When its newest line came.
    pub(super) const fn seen(&self) -> Instant {
        self.seen
    }

    /// Takes the next line, and adds to `sum` what follows from it.
    pub(super) fn take(
        &mut self,
        line: &ReportLine,
        ladder: &HeightLadder,
        arrival: Arrival,
        sum: &mut ExperienceSum,
    ) {
        self.seen = arrival.at;
        let at_ms = line.at_ms.unwrap_or(arrival.unix_ms);
        self.note_start_times(line, at_ms);
        if self.at_ms.is_none_or(|newest_ms| at_ms >= newest_ms) {
            let elapsed_ms = self.at_ms.map_or(0, |newest_ms| at_ms - newest_ms).min(SILENCE_MS_MAX);
            self.at_ms = Some(at_ms);
            self.credit_motion(elapsed_ms, sum);
            if let Some(bitrate_kbps) = line.bitrate_kbps.map(|kbps| kbps.min(ladder.bitrate_kbps_max())) {
                (self.bitrate_kbps, self.height) = (bitrate_kbps, ladder.class_of(bitrate_kbps));
            }
            match line.state {
                Some(state) => self.enter_state(state, sum),
                None if !self.has_states => self.add_starvation(line, sum),
                None => {}
            }
        }
        self.add_start(line, sum);
    }

    /// Ends a view of which nothing more is reported.
    pub(super) fn close(self) {
        if self.ending.is_none() {
            VIEWER_VIEWS.increment(ViewEnding::Left);
        }
    }

    fn note_start_times(&mut self, line: &ReportLine, at_ms: u64) {
        let earliest = |known: Option<u64>| Some(known.map_or(at_ms, |known_ms| known_ms.min(at_ms)));
        match line.state {
            Some(PlayerState::Starting) => self.asked_at_ms = earliest(self.asked_at_ms),
            Some(PlayerState::Playing) => self.played_at_ms = earliest(self.played_at_ms),
            _ => {}
        }
    }

    fn add_start(&mut self, line: &ReportLine, sum: &mut ExperienceSum) {
        let waited_ms = || {
            let waited_ms = self.played_at_ms?.checked_sub(self.asked_at_ms?)?;
            Some(u32::try_from(waited_ms).unwrap_or(TIME_MS_MAX).min(TIME_MS_MAX))
        };
        if self.is_start_known {
            return;
        }
        if let Some(start_ms) = line.start_ms.or_else(waited_ms) {
            self.is_start_known = true;
            sum.add_start(start_ms);
            VIEWER_START_SECONDS.observe(self.height, f64::from(start_ms) / 1_000.0);
        }
    }

    /// As much of a time as the view can have had.
    fn credit_ms(&mut self, time_ms: u64) -> u64 {
        let credit_ms = time_ms.min(self.lasted_max_ms().saturating_sub(self.credited_ms));
        self.credited_ms += credit_ms;
        credit_ms
    }

    /// The longest that the view may have lasted, in milliseconds.
    fn lasted_max_ms(&self) -> u64 {
        let lasted_ms = u64::try_from(self.seen.saturating_duration_since(self.begun).as_millis());
        lasted_ms.unwrap_or(u64::MAX).saturating_add(SILENCE_MS_MAX)
    }

    fn credit_motion(&mut self, elapsed_ms: u64, sum: &mut ExperienceSum) {
        match self.motion {
            Motion::Resting => {}
            Motion::Stalled => self.add_stalled(elapsed_ms, sum),
            Motion::Playing | Motion::Seeking => {
                let played_ms = self.credit_ms(elapsed_ms);
                sum.played_ms += played_ms;
                VIEWER_PLAYED_SECONDS.add_ms(self.height, played_ms);
                VIEWER_WATCHED_SECONDS.add_ms(self.height, played_ms);
                if self.bitrate_kbps > 0 {
                    // Kilobits per second are bits per millisecond.
                    let bytes = played_ms * u64::from(self.bitrate_kbps) / 8;
                    sum.rated_ms += played_ms;
                    sum.rated_bytes += bytes;
                    VIEWER_PLAYED_BYTES.add(self.height, bytes);
                }
            }
        }
    }

    fn add_stalled(&mut self, time_ms: u64, sum: &mut ExperienceSum) {
        let stalled_ms = self.credit_ms(time_ms);
        sum.stalled_ms += stalled_ms;
        VIEWER_STALLED_SECONDS.add_ms(self.height, stalled_ms);
        // Of a player that says no states it is not known how long it played.
        if self.has_states {
            VIEWER_WATCHED_SECONDS.add_ms(self.height, stalled_ms);
        }
    }

    /// At most one for each second that the view has lasted, with [`SILENCE_MS_MAX`] more.
    fn add_stalls(&mut self, count: u64, sum: &mut ExperienceSum) {
        let count = count.min((self.lasted_max_ms() / 1_000).saturating_sub(self.stall_count));
        self.stall_count += count;
        sum.stalls += count;
        VIEWER_STALLS.add(self.height, count);
    }

    fn enter_state(&mut self, state: PlayerState, sum: &mut ExperienceSum) {
        self.has_states = true;
        self.motion = match (state, self.motion) {
            (PlayerState::Playing, _) => Motion::Playing,
            (PlayerState::Rebuffering, Motion::Playing) => {
                self.add_stalls(1, sum);
                Motion::Stalled
            }
            (PlayerState::Seeking, Motion::Playing | Motion::Seeking) => Motion::Seeking,
            (PlayerState::Rebuffering, before) if before != Motion::Seeking => before,
            _ => Motion::Resting,
        };
        let ending = match state {
            PlayerState::Ended => ViewEnding::Ended,
            PlayerState::Failed => ViewEnding::Failed,
            _ => return,
        };
        if self.ending.is_none() {
            self.ending = Some(ending);
            sum.failed_views += u64::from(ending == ViewEnding::Failed);
            VIEWER_VIEWS.increment(ending);
        }
    }

    /// Of a player that says no states.
    fn add_starvation(&mut self, line: &ReportLine, sum: &mut ExperienceSum) {
        let count = line.starved_ms.len().max(usize::from(line.has_starved));
        self.add_stalls(u64::try_from(count).unwrap_or(u64::MAX), sum);
        let total_ms = line.starved_ms.iter().map(|ms| u64::from(*ms)).sum();
        self.add_stalled(total_ms, sum);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const BEGIN_MS: u64 = 1_795_000_000_000;

    fn ladder() -> HeightLadder {
        let rung = |height: u32, peak_bps: u64| EncodedRendition {
            name: format!("v{height}"),
            codecs: "avc1.64001e".into(),
            width: height * 16 / 9,
            height,
            peak_bps,
            average_bps: peak_bps,
            segment_count: 1,
            size_bytes: 1,
        };
        let sound = EncodedRendition { width: 0, name: "a0".into(), ..rung(0, 128_000) };
        HeightLadder::new(&[rung(360, 800_000), rung(720, 2_800_000), rung(1080, 6_000_000), sound])
    }

    /// Plays lines of `<ms since the begin> <CMCD>` to a view that lasts for an hour.
    fn play(lines: &[&str]) -> (ExperienceSum, View) {
        let begun = Instant::now();
        let mut sum = ExperienceSum::default();
        let arrival = |ms: u64| Arrival { at: begun + Duration::from_millis(ms), unix_ms: BEGIN_MS + ms };
        let mut view = View::begin(arrival(0), &mut sum);
        for line in lines {
            let (ms, said) = line.split_once(' ').unwrap();
            let text = format!("sid=\"x\",ts={},{said}", BEGIN_MS + ms.parse::<u64>().unwrap());
            let line = ReportLine::parse(text.as_bytes()).unwrap();
            view.take(&line, &ladder(), arrival(3_600_000), &mut sum);
        }
        (sum, view)
    }

    /// Start, stalls, milliseconds of standing still, and of playing.
    fn found(lines: &[&str]) -> (Option<u32>, u64, u64, u64) {
        let (sum, _) = play(lines);
        (sum.start_percentile_ms(50), sum.stalls, sum.stalled_ms, sum.played_ms)
    }

    #[test]
    fn a_view_is_what_its_states_say() {
        for (lines, wanted) in [
            (vec!["0 sta=d"], (None, 0, 0, 0)),
            (vec!["0 sta=s", "700 sta=p", "10700 e=t,sta=p", "12700 sta=e"], (Some(800), 0, 0, 12_000)),
            // What the player says of its start goes before what follows from its states.
            (vec!["0 sta=s", "700 sta=p,msd=300"], (Some(315), 0, 0, 0)),
            (
                vec!["0 sta=s", "500 sta=p", "2500 sta=r", "3000 sta=r", "3500 sta=p", "4500 sta=a"],
                (Some(500), 1, 1_000, 3_000),
            ),
            // Waits before the start and after a seek, and what is asked for while it stands still.
            (vec!["0 sta=s", "100 sta=r", "900 sta=p"], (Some(1_000), 0, 0, 0)),
            (vec!["0 sta=p", "1000 sta=k", "1100 sta=r", "1900 sta=p", "2900 sta=e"], (None, 0, 0, 2_100)),
            (vec!["0 sta=p", "1000 sta=r", "1400 sta=k", "1500 sta=r", "1900 sta=p"], (None, 1, 400, 1_000)),
            // A player that does not say that it plays on behind a seek.
            (vec!["0 sta=p", "100 sta=k", "1100 e=t,sta=k", "4100 sta=e"], (None, 0, 0, 4_100)),
            // A pause, and a start that was asked for again.
            (
                vec!["0 sta=s", "500 sta=p", "1500 sta=a", "60000 sta=s", "60500 sta=p", "61500 sta=e"],
                (Some(500), 0, 0, 2_000),
            ),
            // Lines that come in another order than they were written in.
            (vec!["700 sta=p", "0 sta=s", "1700 e=t"], (Some(800), 0, 0, 1_000)),
            (vec!["0 sta=p", "1000 sta=p", "500 sta=a", "2000 sta=p"], (None, 0, 0, 2_000)),
            // A silence.
            (vec!["0 sta=p", "900000 sta=a"], (None, 0, 0, SILENCE_MS_MAX)),
            // Players that say no states.
            (vec!["0 bs", "1000 bsd=(300 200)", "2000 msd=90"], (Some(100), 3, 500, 0)),
            (vec!["0 sta=p", "1000 bs,bsd=(300)"], (None, 0, 0, 1_000)),
        ] {
            assert_eq!(found(&lines), wanted, "{lines:?}");
        }
    }

    #[test]
    fn a_view_counts_once_and_ends_once() {
        let (sum, view) =
            play(&["0 sta=p", "1000 sta=f", "1001 sta=f", "2000 sta=e", "3000 msd=5", "3001 msd=9"]);
        assert_eq!((sum.views, sum.failed_views, sum.starts.iter().sum::<u64>()), (1, 1, 1));
        view.close();
        let endings = [ViewEnding::Failed, ViewEnding::Ended, ViewEnding::Left]
            .map(|ending| VIEWER_VIEWS.count(ending));
        let (_, left) = play(&["0 sta=p"]);
        left.close();
        let later = [ViewEnding::Failed, ViewEnding::Ended, ViewEnding::Left]
            .map(|ending| VIEWER_VIEWS.count(ending));
        assert_eq!(later, [endings[0], endings[1], endings[2] + 1]);
    }

    #[test]
    fn bitrates_count_for_as_long_as_they_play_and_have_the_height_of_their_rendition() {
        let (sum, view) = play(&["0 sta=p", "1000 br=(928)", "3000 br=(2800;v 128;a)", "4000 sta=a,br=6200"]);
        assert_eq!((sum.played_ms, sum.rated_ms), (4_000, 3_000));
        assert_eq!(sum.rated_bytes, 2_000 * 928 / 8 + 1_000 * 2_800 / 8);
        assert_eq!(view.height, HeightClass::P1080);
        for (bitrate_kbps, class) in [
            (1, HeightClass::P360),
            (928, HeightClass::P360),
            (2_800, HeightClass::P720),
            (u32::MAX, HeightClass::P1080),
        ] {
            assert_eq!(ladder().class_of(bitrate_kbps), class, "{bitrate_kbps}");
        }
        assert_eq!(HeightLadder::default().class_of(2_800), HeightClass::Unknown, "it grows");
        for (lines, class) in [
            (1, HeightClass::P240),
            (536, HeightClass::P720),
            (804, HeightClass::P1080),
            (4_320, HeightClass::P2160),
        ] {
            assert_eq!(height_class(lines), class, "{lines}");
        }
    }

    #[test]
    fn nobody_plays_for_longer_than_the_view_lasts() {
        let begun = Arrival { at: Instant::now(), unix_ms: BEGIN_MS };
        let mut sum = ExperienceSum::default();
        let mut view = View::begin(begun, &mut sum);
        for step in 0..1_000_u64 {
            let state = if step % 2 == 0 { "p" } else { "r" };
            let text = format!("sid=\"x\",sta={state},ts={}", BEGIN_MS + step * 100_000);
            view.take(&ReportLine::parse(text.as_bytes()).unwrap(), &ladder(), begun, &mut sum);
        }
        assert_eq!(sum.played_ms + sum.stalled_ms, SILENCE_MS_MAX);
        let mut view = View::begin(begun, &mut sum);
        let stateless =
            ReportLine::parse(format!("sid=\"x\",bsd=({})", "600000 ".repeat(400)).as_bytes()).unwrap();
        let before_ms = sum.stalled_ms;
        view.take(&stateless, &ladder(), begun, &mut sum);
        assert_eq!(sum.stalled_ms - before_ms, SILENCE_MS_MAX);
    }
}
