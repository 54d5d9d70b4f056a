//! Times against those that were reckoned by hand, with the clocks of walls.

use proptest::prelude::*;
use schemas::schedule::{INTERVAL_MS_MAX, INTERVAL_MS_MIN, MissedRunPolicy, ScheduleTiming};

use crate::{AHEAD_MS_MAX, CATCH_UP_MAX, DueRun, LATE_MS_MAX, Timing, TimingError, find_due_run};

const HOUR_MS: u64 = 3_600_000;
/// 2027-01-01T00:00:00Z.
const NEW_YEAR_MS: u64 = 1_798_761_600_000;

fn at(text: &str) -> u64 {
    text.parse::<jiff_for_croner::Timestamp>().unwrap().as_millisecond().try_into().unwrap()
}

fn cron(expression: &str, time_zone: &str) -> ScheduleTiming {
    ScheduleTiming::Cron { expression: expression.into(), time_zone: time_zone.into() }
}

fn timing(wanted: &ScheduleTiming) -> Timing {
    Timing::parse(wanted, NEW_YEAR_MS).unwrap()
}

/// The first `count` times later than `from`.
fn times(wanted: &ScheduleTiming, from: &str, count: usize) -> Vec<String> {
    let timing = timing(wanted);
    let text =
        |ms: u64| jiff_for_croner::Timestamp::from_millisecond(ms.try_into().unwrap()).unwrap().to_string();
    let all = std::iter::successors(timing.find_after(at(from)), |ms| timing.find_after(*ms));
    all.take(count).map(text).collect()
}

#[test]
fn the_times_of_an_expression_are_those_on_the_wall() {
    let nightly = cron("30 2 * * *", "Europe/Berlin");
    assert_eq!(times(&nightly, "2027-01-01T00:00:00Z", 2), ["2027-01-01T01:30:00Z", "2027-01-02T01:30:00Z"]);
    let summer = times(&nightly, "2027-07-01T00:00:00Z", 2);
    assert_eq!(summer, ["2027-07-01T00:30:00Z", "2027-07-02T00:30:00Z"]);
    let mondays = cron("0 9 * * MON", "America/New_York");
    assert_eq!(times(&mondays, "2027-01-01T00:00:00Z", 1), ["2027-01-04T14:00:00Z"]);
    let last_day = cron("0 0 L * *", "UTC");
    assert_eq!(times(&last_day, "2028-02-01T00:00:00Z", 2), ["2028-02-29T00:00:00Z", "2028-03-31T00:00:00Z"]);
}

#[test]
fn a_time_that_a_spring_night_leaves_out_comes_right_behind_the_gap() {
    // 2027-03-28, 02:00 becomes 03:00 in Berlin.
    let nightly = cron("30 2 * * *", "Europe/Berlin");
    assert_eq!(times(&nightly, "2027-03-27T12:00:00Z", 2), ["2027-03-28T01:00:00Z", "2027-03-29T00:30:00Z"]);
    let often = cron("*/30 * * * *", "Europe/Berlin");
    assert_eq!(
        times(&often, "2027-03-28T00:15:00Z", 3),
        ["2027-03-28T00:30:00Z", "2027-03-28T01:00:00Z", "2027-03-28T01:30:00Z"]
    );
}

#[test]
fn a_time_that_an_autumn_night_has_twice_comes_once_and_a_step_comes_twice() {
    // 2027-10-31, 03:00 becomes 02:00 in Berlin.
    let nightly = cron("30 2 * * *", "Europe/Berlin");
    assert_eq!(times(&nightly, "2027-10-30T12:00:00Z", 2), ["2027-10-31T00:30:00Z", "2027-11-01T01:30:00Z"]);
    let often = cron("*/30 * * * *", "Europe/Berlin");
    assert_eq!(
        times(&often, "2027-10-31T00:00:00Z", 4),
        ["2027-10-31T00:30:00Z", "2027-10-31T01:00:00Z", "2027-10-31T01:30:00Z", "2027-10-31T02:00:00Z"]
    );
}

#[test]
fn lists_and_ranges_are_fixed_times() {
    for expression in ["30 2,14 * * *", "30 2,14-14 * * *"] {
        let twice = cron(expression, "Europe/Berlin");
        assert_eq!(
            times(&twice, "2027-03-27T14:00:00Z", 3),
            ["2027-03-28T01:00:00Z", "2027-03-28T12:30:00Z", "2027-03-29T00:30:00Z"]
        );
        assert_eq!(
            times(&twice, "2027-10-30T14:00:00Z", 2),
            ["2027-10-31T00:30:00Z", "2027-10-31T13:30:00Z"]
        );
    }
    // What a gap moves to one moment is one time.
    let both = cron("0,30 2-3 * * *", "Europe/Berlin");
    assert_eq!(
        times(&both, "2027-03-27T14:00:00Z", 3),
        ["2027-03-28T01:00:00Z", "2027-03-28T01:30:00Z", "2027-03-29T00:00:00Z"]
    );
    let many = cron("0,10,20,30,40,50 0-4 * * *", "Europe/Berlin");
    let autumn = times(&many, "2027-10-30T23:59:00Z", 9);
    assert_eq!(autumn.last().unwrap(), "2027-10-31T02:20:00Z", "the hour comes once: {autumn:?}");
}

#[test]
fn a_time_that_a_gap_moves_to_the_next_day_comes_though_the_day_is_not_named() {
    // On Saturday, 2027-03-27, 23:00 is midnight in Nuuk already.
    let saturdays = cron("30 23 * * SAT", "America/Nuuk");
    assert_eq!(
        times(&saturdays, "2027-03-20T12:00:00Z", 3),
        ["2027-03-21T01:30:00Z", "2027-03-28T01:00:00Z", "2027-04-04T00:30:00Z"]
    );
    let both = cron("30 23,0 * * SAT,SUN", "America/Nuuk");
    assert_eq!(times(&both, "2027-03-27T12:00:00Z", 2), ["2027-03-28T01:00:00Z", "2027-03-28T01:30:00Z"]);
}

#[test]
fn an_interval_takes_no_heed_of_clocks_on_walls() {
    let every =
        ScheduleTiming::Every { interval_ms: 6 * HOUR_MS, first_at_ms: Some(at("2027-03-27T20:00:00Z")) };
    assert_eq!(
        times(&every, "2027-03-27T12:00:00Z", 3),
        ["2027-03-27T20:00:00Z", "2027-03-28T02:00:00Z", "2027-03-28T08:00:00Z"]
    );
    let made = ScheduleTiming::Every { interval_ms: HOUR_MS, first_at_ms: None };
    assert_eq!(timing(&made).find_first(NEW_YEAR_MS), Ok(NEW_YEAR_MS + HOUR_MS));
}

#[test]
fn what_can_never_fire_is_refused_with_its_reason() {
    let refused = |wanted: &ScheduleTiming| {
        let first = Timing::parse(wanted, NEW_YEAR_MS).and_then(|timing| timing.find_first(NEW_YEAR_MS));
        let error = first.unwrap_err();
        let member = error.member(wanted);
        (error, member)
    };
    for expression in
        ["", "nightly", "@daily", "* * * *", "0 0 2 * * *", "61 * * * *", "*/0 * * * *", "0 0 2 * * * 2027"]
    {
        let (error, member) = refused(&cron(expression, "UTC"));
        assert!(matches!(error, TimingError::Expression(_)), "{expression}: {error}");
        assert_eq!(member, "expression");
    }
    assert_eq!(refused(&cron("0 0 30 2 *", "UTC")), (TimingError::Never, "expression"));
    for zone in ["", "Berlin", "+02:00", "../../etc/passwd", "Europe/Berlin\n"] {
        assert_eq!(refused(&cron("0 0 * * *", zone)), (TimingError::TimeZone, "time_zone"), "{zone}");
    }
    for interval_ms in [0, INTERVAL_MS_MIN - 1, INTERVAL_MS_MAX + 1, u64::MAX] {
        let every = ScheduleTiming::Every { interval_ms, first_at_ms: None };
        assert_eq!(refused(&every), (TimingError::Interval, "interval_ms"));
    }
    let far = |first_at_ms| ScheduleTiming::Every { interval_ms: HOUR_MS, first_at_ms: Some(first_at_ms) };
    assert_eq!(refused(&far(NEW_YEAR_MS + AHEAD_MS_MAX + 1)), (TimingError::TooFar, "first_at_ms"));
    assert_eq!(refused(&ScheduleTiming::Once { at_ms: NEW_YEAR_MS - 1 }), (TimingError::Past, "at_ms"));
    assert_eq!(refused(&ScheduleTiming::Once { at_ms: u64::MAX }), (TimingError::TooFar, "at_ms"));
}

/// What is due of an hourly schedule whose next time is the new year.
fn due(missed: MissedRunPolicy, now_ms: u64) -> Option<DueRun> {
    let hourly = ScheduleTiming::Every { interval_ms: HOUR_MS, first_at_ms: Some(NEW_YEAR_MS) };
    find_due_run(&timing(&hourly), missed, NEW_YEAR_MS, now_ms)
}

#[test]
fn a_time_that_is_not_missed_fires_by_every_policy() {
    for missed in [MissedRunPolicy::Skip, MissedRunPolicy::Once, MissedRunPolicy::All] {
        assert_eq!(due(missed, NEW_YEAR_MS - 1), None);
        for late_ms in [0, LATE_MS_MAX] {
            let wanted = DueRun {
                planned_at_ms: Some(NEW_YEAR_MS),
                missed_at_ms: None,
                next_run_at_ms: Some(NEW_YEAR_MS + HOUR_MS),
            };
            assert_eq!(due(missed, NEW_YEAR_MS + late_ms), Some(wanted));
        }
    }
}

#[test]
fn missed_times_are_let_go_or_made_up_for_by_policy() {
    // Three times passed, and the fourth comes in half an hour.
    let now_ms = NEW_YEAR_MS + 2 * HOUR_MS + HOUR_MS / 2;
    let hour = |number: u64| NEW_YEAR_MS + number * HOUR_MS;
    let run = |planned_at_ms, missed_at_ms, next| {
        Some(DueRun { planned_at_ms, missed_at_ms, next_run_at_ms: Some(hour(next)) })
    };
    assert_eq!(due(MissedRunPolicy::Skip, now_ms), run(None, Some((hour(0), hour(2))), 3));
    assert_eq!(due(MissedRunPolicy::Once, now_ms), run(Some(hour(2)), Some((hour(0), hour(1))), 3));
    assert_eq!(due(MissedRunPolicy::All, now_ms), run(Some(hour(0)), None, 1));
    // One of them is not late.
    let just_ms = hour(3) + 5;
    assert_eq!(due(MissedRunPolicy::Skip, just_ms), run(Some(hour(3)), Some((hour(0), hour(2))), 4));
    // Of many, the last hundred.
    let long_ms = hour(500);
    let last = 500 - (u64::try_from(CATCH_UP_MAX).unwrap() - 1);
    assert_eq!(
        due(MissedRunPolicy::All, long_ms),
        run(Some(hour(last)), Some((hour(0), hour(last - 1))), last + 1)
    );
}

#[test]
fn a_single_time_that_was_missed_fires_unless_it_is_to_be_let_go() {
    let once = ScheduleTiming::Once { at_ms: NEW_YEAR_MS };
    let due = |missed| find_due_run(&timing(&once), missed, NEW_YEAR_MS, NEW_YEAR_MS + HOUR_MS).unwrap();
    for missed in [MissedRunPolicy::Once, MissedRunPolicy::All] {
        assert_eq!(
            due(missed),
            DueRun { planned_at_ms: Some(NEW_YEAR_MS), missed_at_ms: None, next_run_at_ms: None }
        );
    }
    let gone =
        DueRun { planned_at_ms: None, missed_at_ms: Some((NEW_YEAR_MS, NEW_YEAR_MS)), next_run_at_ms: None };
    assert_eq!(due(MissedRunPolicy::Skip), gone);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]
    /// Every time of a schedule is fired, missed or still to come, exactly once, in whatever steps the keeper looks.
    #[test]
    fn no_time_is_left_out_or_fires_twice(
        expression in prop_oneof![Just("30 2 * * *"), Just("0,30 1-3 * * *"), Just("*/17 * * * *"), Just("0 */5 * * *"), Just("15 3 * * 0"), Just("30 23 * * 6")],
        zone in prop_oneof![Just("Europe/Berlin"), Just("America/New_York"), Just("Australia/Lord_Howe"), Just("America/Nuuk"), Just("UTC")],
        policy in prop_oneof![Just(MissedRunPolicy::Skip), Just(MissedRunPolicy::Once), Just(MissedRunPolicy::All)],
        start in prop_oneof![Just("2027-03-13T00:00:00Z"), Just("2027-03-27T00:00:00Z"), Just("2027-10-30T00:00:00Z"), Just("2027-04-03T00:00:00Z")],
        steps in proptest::collection::vec(1_u64..20 * HOUR_MS, 1..12),
    ) {
        let timing = timing(&cron(expression, zone));
        let start_ms = at(start);
        let mut next_ms = timing.find_first(start_ms).unwrap();
        let (mut now_ms, mut fired, mut missed) = (start_ms, Vec::new(), Vec::new());
        for step in steps {
            now_ms += step;
            while let Some(due) = find_due_run(&timing, policy, next_ms, now_ms) {
                if let Some((first_at_ms, last_at_ms)) = due.missed_at_ms {
                    let between = std::iter::successors(timing.find_from(first_at_ms), |ms| timing.find_after(*ms));
                    missed.extend(between.take_while(|ms| *ms <= last_at_ms));
                }
                fired.extend(due.planned_at_ms);
                next_ms = due.next_run_at_ms.unwrap();
            }
        }
        let mut seen: Vec<u64> = fired.iter().chain(&missed).copied().collect();
        seen.sort_unstable();
        let all = std::iter::successors(timing.find_from(start_ms), |ms| timing.find_after(*ms));
        let wanted: Vec<u64> = all.take_while(|ms| *ms <= now_ms).collect();
        prop_assert_eq!(seen, wanted);
        prop_assert!(policy != MissedRunPolicy::All || missed.is_empty() || fired.len() >= CATCH_UP_MAX);
    }
}
