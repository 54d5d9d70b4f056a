//! One line of a report: CMCD in the form of a dictionary of RFC 9651 (CTA-5004-B, section 3; the first version, CTA-5004, has the same).
//!
//! Keys that are not needed here are read over, whatever they hold. A line that is no dictionary is no report, and neither is one without
//! the id of its session.
//!
//! Limits: [`LINE_BYTES_MAX`], [`SESSION_ID_CHARS_MAX`]; times and rates beyond [`TIME_MS_MAX`] and [`BITRATE_KBPS_MAX`] count as these.

use sfv::{BareItem, Dictionary, Item, ListEntry, Parser};

/// Longest line in bytes: a request and its answer are reported with whole addresses.
pub(super) const LINE_BYTES_MAX: usize = 4_096;
/// Longest id of a session in characters (CTA-5004-B: `sid`).
const SESSION_ID_CHARS_MAX: usize = 64;
/// Longest time until playing begins, and longest time for which it stands still, in milliseconds.
pub(super) const TIME_MS_MAX: u32 = 600_000;
/// Largest bitrate in kilobits per second.
const BITRATE_KBPS_MAX: u32 = 1_000_000;

/// What a player does (CTA-5004-B: `sta`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum PlayerState {
    /// It is to play, and has not begun.
    Starting,
    Playing,
    Seeking,
    /// It stands still for want of data.
    Rebuffering,
    /// It neither plays nor wants to, or waits for something that is no data of the stream.
    Resting,
    Ended,
    Failed,
}

impl PlayerState {
    fn from_token(token: &str) -> Option<Self> {
        Some(match token {
            "s" => Self::Starting,
            "p" => Self::Playing,
            "k" => Self::Seeking,
            "r" => Self::Rebuffering,
            // Preloading, paused, waiting, quit.
            "d" | "a" | "w" | "q" => Self::Resting,
            "e" => Self::Ended,
            "f" => Self::Failed,
            _ => return None,
        })
    }
}

/// What a line says, as far as it is needed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct ReportLine {
    /// Names the view: text of a client, of which nothing but a keyed digest is kept.
    pub(super) session_id: String,
    /// Unix time in milliseconds by the clock of the player.
    pub(super) at_ms: Option<u64>,
    /// What the player does from then on.
    pub(super) state: Option<PlayerState>,
    /// Time from the wish to play until it played, in milliseconds.
    pub(super) start_ms: Option<u32>,
    /// Bitrate of what plays or is fetched, in kilobits per second.
    pub(super) bitrate_kbps: Option<u32>,
    /// Playing stood still since the line before (`bs`).
    pub(super) has_starved: bool,
    /// How long it stood still each time since then (`bsd`), in milliseconds.
    pub(super) starved_ms: Vec<u32>,
}

impl ReportLine {
    /// Reads a line; `None` when it is no report.
    pub(super) fn parse(line: &[u8]) -> Option<Self> {
        if line.len() > LINE_BYTES_MAX {
            return None;
        }
        let said: Dictionary = Parser::new(line).parse().ok()?;
        let named = said.get("sid").and_then(first_text)?;
        if named.is_empty() || named.chars().count() > SESSION_ID_CHARS_MAX {
            return None;
        }
        let playing = said.get("pb").and_then(picture_rate);
        Some(Self {
            session_id: named.to_owned(),
            at_ms: said.get("ts").and_then(first_number).and_then(|at_ms| u64::try_from(at_ms).ok()),
            state: said.get("sta").and_then(first_text).and_then(PlayerState::from_token),
            start_ms: said.get("msd").and_then(first_number).map(|time_ms| clamp(time_ms, TIME_MS_MAX)),
            bitrate_kbps: playing.or_else(|| said.get("br").and_then(picture_rate)).filter(|rate| *rate > 0),
            has_starved: said.get("bs").is_some_and(is_true),
            starved_ms: items_of(said.get("bsd"))
                .filter_map(number)
                .map(|ms| clamp(ms, TIME_MS_MAX))
                .collect(),
        })
    }
}

fn clamp(value: i64, max: u32) -> u32 {
    u32::try_from(value.max(0)).unwrap_or(max).min(max)
}

fn items_of(entry: Option<&ListEntry>) -> impl Iterator<Item = &Item> {
    let items = match entry {
        None => [].as_slice(),
        Some(ListEntry::Item(item)) => std::slice::from_ref(item),
        Some(ListEntry::InnerList(list)) => &list.items,
    };
    items.iter()
}

/// A whole number, or the whole part of another one.
fn number(item: &Item) -> Option<i64> {
    match &item.bare_item {
        BareItem::Integer(value) => Some(i64::from(*value)),
        BareItem::Decimal(value) => Some(i64::from(value.as_integer_scaled_1000()) / 1_000),
        _ => None,
    }
}

fn first_number(entry: &ListEntry) -> Option<i64> {
    items_of(Some(entry)).find_map(number)
}

fn first_text(entry: &ListEntry) -> Option<&str> {
    items_of(Some(entry)).find_map(|item| match &item.bare_item {
        BareItem::String(text) => Some(text.as_str()),
        BareItem::Token(token) => Some(token.as_str()),
        _ => None,
    })
}

fn is_true(entry: &ListEntry) -> bool {
    items_of(Some(entry)).any(|item| matches!(item.bare_item, BareItem::Boolean(true)))
}

/// The rate of the picture, where a list has one for each kind of object: `(5000;v 128;a)`.
fn picture_rate(entry: &ListEntry) -> Option<u32> {
    let is_picture = |item: &&Item| ["v", "av"].iter().any(|kind| item.params.contains_key(*kind));
    let of_picture = items_of(Some(entry)).filter(is_picture).find_map(number);
    of_picture.or_else(|| first_number(entry)).map(|rate| clamp(rate, BITRATE_KBPS_MAX))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn line(text: &str) -> ReportLine {
        ReportLine::parse(text.as_bytes()).unwrap_or_else(|| panic!("{text}"))
    }

    #[test]
    fn lines_of_real_players_are_read() {
        let hls_js =
            r#"br=(2200),e=bc,sid="b2b0a5ee-1f52-4b0d-9d0e-2f0f3a6f3c11",sn=2,sta=s,ts=1795000000123,v=2"#;
        assert_eq!(
            line(hls_js),
            ReportLine {
                session_id: "b2b0a5ee-1f52-4b0d-9d0e-2f0f3a6f3c11".into(),
                at_ms: Some(1_795_000_000_123),
                state: Some(PlayerState::Starting),
                bitrate_kbps: Some(2_200),
                ..ReportLine::default()
            }
        );
        let dash_js = r#"bl=(4000;v 4100;a),br=(128;a 1500;v),bs,bsd=(420;v 80;a),cid="x",e=ps,ec=("25"),msd=812,nor=("../v/2.m4s"),ot=v,pr=1.5,sf=d,sid="one",st=v,sta=p,ts=1795000000999,v=2"#;
        assert_eq!(
            line(dash_js),
            ReportLine {
                session_id: "one".into(),
                at_ms: Some(1_795_000_000_999),
                state: Some(PlayerState::Playing),
                start_ms: Some(812),
                bitrate_kbps: Some(1_500),
                has_starved: true,
                starved_ms: vec![420, 80],
            }
        );
        // The first version, as it stands in requests.
        let first = r#"bl=21300,br=3200,bs,cid="faec5fc2",d=4004,mtp=25400,ot=v,rtp=15000,sf=h,sid="6e2fb550-c457",st=v,su,tb=6000"#;
        let wanted = ReportLine {
            session_id: "6e2fb550-c457".into(),
            bitrate_kbps: Some(3_200),
            has_starved: true,
            ..ReportLine::default()
        };
        assert_eq!(line(first), wanted);
        assert_eq!(
            line(r#"sid="x",br=(100),pb=(700)"#).bitrate_kbps,
            Some(700),
            "what plays, not what is fetched"
        );
    }

    #[test]
    fn every_state_of_the_standard_is_known() {
        for (token, wanted) in [
            ("s", Some(PlayerState::Starting)),
            ("p", Some(PlayerState::Playing)),
            ("k", Some(PlayerState::Seeking)),
            ("r", Some(PlayerState::Rebuffering)),
            ("a", Some(PlayerState::Resting)),
            ("w", Some(PlayerState::Resting)),
            ("q", Some(PlayerState::Resting)),
            ("d", Some(PlayerState::Resting)),
            ("e", Some(PlayerState::Ended)),
            ("f", Some(PlayerState::Failed)),
            ("x", None),
            ("pp", None),
        ] {
            assert_eq!(line(&format!("sid=\"x\",sta={token}")).state, wanted, "{token}");
        }
    }

    #[test]
    fn what_is_out_of_range_counts_as_the_end_of_it_and_what_makes_no_sense_is_left_out() {
        for (said, wanted) in [
            ("msd=-5", ReportLine { start_ms: Some(0), ..ReportLine::default() }),
            ("msd=999999999999999", ReportLine { start_ms: Some(TIME_MS_MAX), ..ReportLine::default() }),
            ("msd=12.9", ReportLine { start_ms: Some(12), ..ReportLine::default() }),
            ("msd=\"12\"", ReportLine::default()),
            ("msd", ReportLine::default()),
            ("ts=-1", ReportLine::default()),
            ("br=0", ReportLine::default()),
            ("br=(-7)", ReportLine::default()),
            ("br=()", ReportLine::default()),
            (
                "br=999999999999.5",
                ReportLine { bitrate_kbps: Some(BITRATE_KBPS_MAX), ..ReportLine::default() },
            ),
            ("bs=?0", ReportLine::default()),
            ("bsd=(1 x 700000)", ReportLine { starved_ms: vec![1, TIME_MS_MAX], ..ReportLine::default() }),
            ("sta=(p)", ReportLine { state: Some(PlayerState::Playing), ..ReportLine::default() }),
        ] {
            let wanted = ReportLine { session_id: "x".into(), ..wanted };
            assert_eq!(line(&format!("sid=\"x\",{said}")), wanted, "{said}");
        }
    }

    #[test]
    fn what_is_no_report_is_none() {
        let long = format!("sid=\"{}\"", "x".repeat(65));
        let endless = format!("sid=\"x\",a=\"{}\"", "x".repeat(LINE_BYTES_MAX));
        for text in [
            "",
            "sta=p",
            "sid",
            "sid=\"\"",
            "sid=7",
            "sid=\"x",
            "sid=\"x\",,",
            "sid=\"x\" sta=p",
            "SID=\"x\"",
            "sid=\"é\"",
            "{\"sid\":\"x\"}",
            "CMCD=sid%3D%22x%22",
            long.as_str(),
            endless.as_str(),
        ] {
            assert_eq!(ReportLine::parse(text.as_bytes()), None, "{text}");
        }
        assert!(ReportLine::parse(format!("sid=\"{}\"", "x".repeat(64)).as_bytes()).is_some());
        assert_eq!(ReportLine::parse(&[b's', b'i', b'd', b'=', 0xff]), None);
    }

    proptest! {
        #[test]
        fn no_bytes_stop_the_reader(bytes in prop::collection::vec(any::<u8>(), 0..600)) {
            ReportLine::parse(&bytes);
        }

        #[test]
        fn what_is_read_is_in_range(
            start in any::<i64>(), rate in any::<i32>(), times in prop::collection::vec(any::<i32>(), 0..20), odd in "[ -~]{0,20}"
        ) {
            let start = start % 999_999_999_999_999;
            let times: Vec<String> = times.iter().map(ToString::to_string).collect();
            let text = format!("msd={start},br=({rate};v),bsd=({}),sid=\"x\",x-odd=\"{}\"", times.join(" "), odd.replace(['"', '\\'], ""));
            let read = ReportLine::parse(text.as_bytes()).expect("it is a dictionary");
            prop_assert!(read.start_ms.is_some_and(|ms| ms <= TIME_MS_MAX));
            prop_assert!(read.bitrate_kbps.is_none_or(|rate| (1..=BITRATE_KBPS_MAX).contains(&rate)));
            prop_assert_eq!(read.starved_ms.len(), times.len());
            prop_assert!(read.starved_ms.iter().all(|ms| *ms <= TIME_MS_MAX));
        }
    }
}
