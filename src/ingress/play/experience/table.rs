//! The views that are followed, by keyed digests of their ids, and what is to be written of them.
//!
//! The id of a session is text of a client by which a viewer may be found again elsewhere. It is neither kept nor logged: the table has its
//! digest under a random key that is made anew each day and never written down. Which views are sampled follows from another key, which is
//! the same on every replica and at every hour, so that a view is taken as a whole or not at all.
//!
//! Limits: [`ExperienceConfig`]. Views that end make room at the next [`ViewTable::expire`].

use std::{
    collections::{HashMap, HashSet, hash_map::Entry},
    time::{Duration, Instant},
};

use nats::metrics::{labels::PlayerReport, table::VIEWER_REPORTS};
use parking_lot::Mutex;
use schemas::{
    experience::{ExperienceSum, MediaExperience},
    ids::{MediaId, PlaybackId},
};

use super::{
    ExperienceConfig,
    report::ReportLine,
    view::{Arrival, HeightLadder, View},
};

const SAMPLING_PURPOSE: &str = "streamgate 1 sampling of views";
const MILLION: u64 = 1_000_000;
const DAY_MS: u64 = 86_400_000;

/// Digest of a playback session and of the id that a player gave its view.
type ViewKey = [u8; 32];

/// Whose reports come.
#[derive(Debug, Clone, Copy)]
pub(super) struct Reporter {
    pub(super) playback_id: PlaybackId,
    pub(super) media_id: MediaId,
}

/// The views of one replica.
#[derive(Debug)]
pub(super) struct ViewTable {
    config: ExperienceConfig,
    sampling_key: [u8; 32],
    state: Mutex<TableState>,
}

#[derive(Debug)]
struct TableState {
    keys: DailyKeys,
    views: HashMap<ViewKey, FollowedView>,
    /// Which media the sessions play that have views, and how many they have.
    sessions: HashMap<PlaybackId, ReportingSession>,
    /// How many views each medium has; none that has none.
    media_views: HashMap<MediaId, usize>,
    waiting: WaitingSums,
}

/// A playback session that has views.
#[derive(Debug, Clone, Copy)]
struct ReportingSession {
    media_id: MediaId,
    view_count: usize,
    /// When it was last known to be open.
    confirmed_at: Instant,
}

#[derive(Debug)]
struct FollowedView {
    view: View,
    reporter: Reporter,
}

/// The key of a day, and that of the day before: views go on over midnight.
#[derive(Debug)]
struct DailyKeys {
    day: u64,
    newest: [u8; 32],
    before: [u8; 32],
}

impl DailyKeys {
    fn new(day: u64) -> Self {
        Self { day, newest: rand::random(), before: rand::random() }
    }

    fn turn(&mut self, day: u64) {
        if self.day < day {
            let newest = self.newest;
            *self = Self { before: newest, ..Self::new(day) };
        }
    }

    fn digest(key: &[u8; 32], reporter: Reporter, session_id: &str) -> ViewKey {
        let mut digest = blake3::Hasher::new_keyed(key);
        digest.update(reporter.playback_id.as_bytes()).update(session_id.as_bytes());
        digest.finalize().into()
    }
}

/// Sums that were not written yet, of the hour that runs.
#[derive(Debug, Default)]
struct WaitingSums {
    hour_ms: u64,
    /// The media that the owners' views of this hour have.
    media: HashSet<MediaId>,
    sums: HashMap<MediaId, ExperienceSum>,
}

impl WaitingSums {
    /// Adds to the sum of a medium, if it has a place in this hour.
    fn add(&mut self, media_id: MediaId, sum: &ExperienceSum, media_max: usize) {
        if !self.media.contains(&media_id) {
            if self.media.len() >= media_max {
                return;
            }
            self.media.insert(media_id);
        }
        self.sums.entry(media_id).or_default().add(sum);
    }

    fn turn(&mut self, hour_ms: u64) {
        if self.hour_ms < hour_ms {
            self.hour_ms = hour_ms;
            self.media.clear();
        }
    }
}

impl ViewTable {
    /// None yet. Replicas that share `secret` sample the same views.
    pub(super) fn new(config: ExperienceConfig, secret: &[u8]) -> Self {
        let state = TableState {
            keys: DailyKeys::new(0),
            views: HashMap::new(),
            sessions: HashMap::new(),
            media_views: HashMap::new(),
            waiting: WaitingSums::default(),
        };
        let sampling_key = blake3::derive_key(SAMPLING_PURPOSE, secret);
        Self { config, sampling_key, state: Mutex::new(state) }
    }

    /// Whether the view of this id is followed.
    pub(super) fn is_sampled(&self, session_id: &str) -> bool {
        let digest = blake3::keyed_hash(&self.sampling_key, session_id.as_bytes());
        let number = digest.as_bytes().first_chunk().map_or(0, |bytes| u64::from_le_bytes(*bytes));
        number % MILLION < u64::from(self.config.sampled_per_million)
    }

    /// Whether a view of this session is followed and it was known not long ago to be open for the medium: what ends a session is the
    /// last thing that its player reports of it.
    pub(super) fn knows(&self, reporter: Reporter, now: Instant) -> bool {
        let idle = Duration::from_millis(self.config.idle_ms);
        self.state.lock().sessions.get(&reporter.playback_id).is_some_and(|session| {
            session.media_id == reporter.media_id
                && now.saturating_duration_since(session.confirmed_at) < idle
        })
    }

    /// A session is known to be open.
    pub(super) fn confirm(&self, reporter: Reporter, now: Instant) {
        if let Some(session) = self.state.lock().sessions.get_mut(&reporter.playback_id) {
            session.confirmed_at = now;
        }
    }

    /// Takes lines of views that are sampled.
    pub(super) fn take(
        &self,
        reporter: Reporter,
        ladder: &HeightLadder,
        lines: &[ReportLine],
        arrival: Arrival,
    ) {
        let mut state = self.state.lock();
        state.keys.turn(arrival.unix_ms / DAY_MS);
        let mut sum = ExperienceSum::default();
        for line in lines {
            let outcome = match state.find_or_begin(&self.config, reporter, (line, arrival), &mut sum) {
                Some(view) => {
                    view.take(line, ladder, arrival, &mut sum);
                    PlayerReport::Taken
                }
                None => PlayerReport::NoRoom,
            };
            VIEWER_REPORTS.increment(outcome);
        }
        if sum != ExperienceSum::default() {
            state.waiting.turn(MediaExperience::hour_of_ms(arrival.unix_ms));
            state.waiting.add(reporter.media_id, &sum, self.config.media_per_hour_max);
        }
    }

    /// Ends views of which nothing was reported for long.
    pub(super) fn expire(&self, now: Instant) {
        let idle = Duration::from_millis(self.config.idle_ms);
        let mut state = self.state.lock();
        let is_idle = |followed: &FollowedView| now.saturating_duration_since(followed.view.seen()) >= idle;
        let ended: Vec<FollowedView> =
            state.views.extract_if(|_, followed| is_idle(followed)).map(|(_, followed)| followed).collect();
        for FollowedView { view, reporter } in ended {
            view.close();
            state.release_room(reporter);
        }
    }

    /// The sums that were not written yet, and the hour that they are of.
    pub(super) fn take_sums(&self, now_ms: u64) -> (u64, HashMap<MediaId, ExperienceSum>) {
        let mut state = self.state.lock();
        let waiting = &mut state.waiting;
        let taken = (waiting.hour_ms, std::mem::take(&mut waiting.sums));
        waiting.turn(MediaExperience::hour_of_ms(now_ms));
        taken
    }

    /// Keeps a sum that could not be written for the next time; it then counts in the hour of that.
    pub(super) fn give_back(&self, media_id: MediaId, sum: &ExperienceSum) {
        self.state.lock().waiting.add(media_id, sum, self.config.media_per_hour_max);
    }
}

impl TableState {
    /// The view of a line; `None` when there is no room for another one.
    fn find_or_begin(
        &mut self,
        config: &ExperienceConfig,
        reporter: Reporter,
        (line, arrival): (&ReportLine, Arrival),
        sum: &mut ExperienceSum,
    ) -> Option<&mut View> {
        let [newest, before] = [&self.keys.newest, &self.keys.before]
            .map(|key| DailyKeys::digest(key, reporter, &line.session_id));
        let key = if self.views.contains_key(&before) { before } else { newest };
        if !self.views.contains_key(&key) {
            let known = self.sessions.get(&reporter.playback_id);
            let count = known.map_or(0, |session| session.view_count);
            let of_media = self.media_views.get(&reporter.media_id).copied().unwrap_or_default();
            if self.views.len() >= config.views_max
                || of_media >= config.views_per_media_max
                || count >= config.views_per_session_max
            {
                return None;
            }
            *self.media_views.entry(reporter.media_id).or_default() += 1;
            let session = self.sessions.entry(reporter.playback_id).or_insert(ReportingSession {
                media_id: reporter.media_id,
                view_count: 0,
                confirmed_at: arrival.at,
            });
            session.view_count += 1;
            let view = View::begin(arrival, sum);
            self.views.insert(key, FollowedView { view, reporter });
        }
        self.views.get_mut(&key).map(|followed| &mut followed.view)
    }

    /// Counts a view less of a session and of its medium.
    fn release_room(&mut self, reporter: Reporter) {
        if let Entry::Occupied(mut session) = self.sessions.entry(reporter.playback_id) {
            session.get_mut().view_count -= 1;
            if session.get().view_count == 0 {
                session.remove();
            }
        }
        if let Entry::Occupied(mut count) = self.media_views.entry(reporter.media_id) {
            *count.get_mut() -= 1;
            if *count.get() == 0 {
                count.remove();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILM: MediaId = MediaId::from_bytes([7; 16]);
    const HOUR_MS: u64 = schemas::experience::HOUR_MS;

    fn reporter(session: u8) -> Reporter {
        Reporter { playback_id: PlaybackId::from_bytes([session; 16]), media_id: FILM }
    }

    fn table(config: ExperienceConfig) -> ViewTable {
        ViewTable::new(config, b"secret")
    }

    fn report(table: &ViewTable, reporter: Reporter, said: &[&str], arrival: Arrival) {
        let lines: Vec<_> = said
            .iter()
            .map(|said| ReportLine::parse(said.as_bytes()).unwrap_or_else(|| panic!("{said}")))
            .collect();
        table.take(reporter, &HeightLadder::default(), &lines, arrival);
    }

    fn at(unix_ms: u64) -> Arrival {
        Arrival { at: Instant::now(), unix_ms }
    }

    #[test]
    fn a_view_is_that_of_one_session_and_one_id() {
        let table = table(ExperienceConfig::default());
        let now = at(5 * HOUR_MS);
        report(&table, reporter(1), &["sid=\"a\",sta=p", "sid=\"a\",sta=a", "sid=\"b\",sta=p"], now);
        report(&table, reporter(1), &["sid=\"a\",sta=p"], now);
        report(&table, reporter(2), &["sid=\"a\",sta=p"], now);
        let (hour_ms, sums) = table.take_sums(now.unix_ms);
        assert_eq!((hour_ms, sums[&FILM].views), (5 * HOUR_MS, 3));
        assert!(table.knows(reporter(1), now.at) && !table.knows(reporter(3), now.at));
        let elsewhere = Reporter { media_id: MediaId::from_bytes([8; 16]), ..reporter(1) };
        assert!(!table.knows(elsewhere, now.at));
        assert!(table.take_sums(now.unix_ms).1.is_empty(), "each is written once");
    }

    #[test]
    fn nothing_of_an_id_is_kept() {
        let table = table(ExperienceConfig::default());
        report(&table, reporter(1), &["sid=\"the-id-of-a-viewer\",sta=p"], at(1));
        assert!(!format!("{table:?}").contains("the-id-of-a-viewer"));
        let key = |table: &ViewTable| *table.state.lock().views.keys().next().unwrap();
        let first = key(&table);
        let other = self::table(ExperienceConfig::default());
        report(&other, reporter(1), &["sid=\"the-id-of-a-viewer\",sta=p"], at(1));
        assert_ne!(first, key(&other), "another process has another key");
    }

    #[test]
    fn a_view_goes_on_over_midnight_and_the_key_of_the_day_before_is_forgotten() {
        let table = table(ExperienceConfig::default());
        report(&table, reporter(1), &["sid=\"a\",sta=p"], at(DAY_MS - 1));
        let first_key = table.state.lock().keys.newest;
        report(&table, reporter(1), &["sid=\"a\",sta=p"], at(DAY_MS));
        assert_eq!(table.state.lock().views.len(), 1);
        report(&table, reporter(1), &["sid=\"b\",sta=p"], at(2 * DAY_MS));
        let state = table.state.lock();
        assert!(state.keys.newest != first_key && state.keys.before != first_key);
    }

    #[test]
    fn there_is_room_for_so_many_views_and_silent_ones_make_it() {
        let config =
            ExperienceConfig { views_max: 3, views_per_session_max: 2, ..ExperienceConfig::default() };
        let table = table(config);
        let now = at(1);
        report(&table, reporter(1), &["sid=\"a\"", "sid=\"b\"", "sid=\"c\"", "sid=\"a\""], now);
        assert_eq!(VIEWER_REPORTS.count(PlayerReport::NoRoom), 1, "of the session");
        report(&table, reporter(2), &["sid=\"a\"", "sid=\"b\""], now);
        assert_eq!(VIEWER_REPORTS.count(PlayerReport::NoRoom), 2, "of the replica");
        assert_eq!(table.take_sums(1).1[&FILM].views, 3);
        let idle = Duration::from_millis(table.config.idle_ms);
        table.expire(now.at + idle.saturating_sub(Duration::from_millis(1)));
        assert!(table.knows(reporter(1), now.at));
        table.expire(now.at + idle);
        assert!(!table.knows(reporter(1), now.at) && !table.knows(reporter(2), now.at));
        assert!(table.state.lock().views.is_empty());
        report(&table, reporter(2), &["sid=\"c\""], now);
        assert_eq!(table.take_sums(1).1[&FILM].views, 1);
    }

    #[test]
    fn what_many_watch_leaves_room_for_what_few_do() {
        let config = ExperienceConfig { views_max: 4, views_per_media_max: 2, ..ExperienceConfig::default() };
        let table = table(config);
        let now = at(1);
        (1..=3).for_each(|session| report(&table, reporter(session), &["sid=\"a\""], now));
        assert_eq!(VIEWER_REPORTS.count(PlayerReport::NoRoom), 1);
        let other = Reporter { media_id: MediaId::from_bytes([8; 16]), ..reporter(4) };
        report(&table, other, &["sid=\"a\""], now);
        let (_, sums) = table.take_sums(1);
        assert_eq!((sums[&FILM].views, sums[&other.media_id].views), (2, 1));
        table.expire(now.at + Duration::from_millis(table.config.idle_ms));
        report(&table, reporter(3), &["sid=\"a\""], now);
        assert_eq!(table.take_sums(1).1[&FILM].views, 1, "what is over makes room");
        assert_eq!(table.state.lock().media_views.len(), 1);
    }

    #[test]
    fn a_session_that_goes_on_is_asked_for_again() {
        let table = table(ExperienceConfig::default());
        let (now, idle) = (at(1), Duration::from_millis(table.config.idle_ms));
        report(&table, reporter(1), &["sid=\"a\""], now);
        report(&table, reporter(1), &["sid=\"a\""], Arrival { at: now.at + idle / 2, ..now });
        assert!(table.knows(reporter(1), now.at + idle / 2));
        assert!(!table.knows(reporter(1), now.at + idle), "reports alone keep it open");
        table.confirm(reporter(1), now.at + idle);
        assert!(table.knows(reporter(1), now.at + idle));
    }

    #[test]
    fn as_many_media_as_may_be_have_a_sum_in_an_hour() {
        let table = table(ExperienceConfig { media_per_hour_max: 2, ..ExperienceConfig::default() });
        let of = |number: u8| Reporter { media_id: MediaId::from_bytes([number; 16]), ..reporter(number) };
        let mut written = HashSet::new();
        for number in 1..=4 {
            report(&table, of(number), &["sid=\"a\""], at(HOUR_MS));
            written.extend(table.take_sums(HOUR_MS).1.into_keys());
        }
        assert_eq!(written, HashSet::from([1, 2].map(|number| of(number).media_id)));
        let sum = ExperienceSum { views: 1, ..ExperienceSum::default() };
        table.give_back(of(2).media_id, &sum);
        report(&table, of(4), &["sid=\"b\""], at(2 * HOUR_MS));
        let (hour_ms, sums) = table.take_sums(2 * HOUR_MS);
        assert_eq!((hour_ms, sums.len(), &sums[&of(2).media_id]), (2 * HOUR_MS, 2, &sum));
    }

    #[test]
    fn views_are_sampled_by_their_id_alike_everywhere_and_always() {
        let sampled = |per_million: u32, secret: &[u8]| {
            let config = ExperienceConfig { sampled_per_million: per_million, ..ExperienceConfig::default() };
            let table = ViewTable::new(config, secret);
            (0..10_000).filter(|number: &u32| table.is_sampled(&number.to_string())).collect::<Vec<_>>()
        };
        assert_eq!((sampled(0, b"a").len(), sampled(1_000_000, b"a").len()), (0, 10_000));
        let tenth = sampled(100_000, b"a");
        assert!((800..1_200).contains(&tenth.len()), "{}", tenth.len());
        assert_eq!(tenth, sampled(100_000, b"a"));
        assert_ne!(tenth, sampled(100_000, b"b"), "nobody chooses an id that is sampled");
    }
}
