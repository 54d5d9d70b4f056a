use std::fmt::Write as _;

use proptest::prelude::*;

use super::{super::message::*, vectors};
use crate::address::{AddressCase, AddressError};

const ADDRESS: &str = "0xC02aaA39b223FE8D0A0e5C4F27eAD9083C756Cc2";

/// Every part there is, one a line.
fn full() -> Vec<String> {
    [
        "https://u@service.org:8080 wants you to sign in with your Ethereum account:",
        ADDRESS,
        "",
        "I accept the Terms of Service: https://service.org/tos",
        "",
        "URI: https://service.org/login",
        "Version: 1",
        "Chain ID: 137",
        "Nonce: 32891757abc",
        "Issued At: 2021-09-30T16:25:24.123Z",
        "Expiration Time: 2021-09-30T18:25:24+02:00",
        "Not Before: 2021-09-30t16:25:24z",
        "Request ID: some_id",
        "Resources:",
        "- ipfs://Qme7ss3ARVgxv6rXqVPiikMJ8u2NLgmgszg13pYrDKEoiu",
        "- https://example.com/my-web2-claim.json",
    ]
    .map(str::to_owned)
    .to_vec()
}

/// The full message with one line replaced.
fn with(line: usize, text: &str) -> String {
    let mut lines = full();
    text.clone_into(&mut lines[line]);
    lines.join("\n")
}

fn refused(text: &str) -> SiweMessageError {
    SiweMessage::parse(text).map(|message| panic!("taken: {message}")).unwrap_err()
}

#[test]
fn every_part_is_read() {
    let text = full().join("\n");
    let message = SiweMessage::parse(&text).unwrap();
    assert_eq!(message.scheme, Some("https"));
    assert_eq!(message.domain, "u@service.org:8080");
    assert_eq!(
        (message.address.to_string().as_str(), message.address_case),
        (ADDRESS, AddressCase::Checksummed)
    );
    assert_eq!(message.statement, Some("I accept the Terms of Service: https://service.org/tos"));
    assert_eq!(message.uri, "https://service.org/login");
    assert_eq!((message.chain_id, message.nonce), (137, "32891757abc"));
    assert_eq!(message.issued_at.at_ms, 1_633_019_124_123);
    assert_eq!(message.expires_at.unwrap().at_ms, 1_633_019_124_000);
    assert_eq!(message.not_before.unwrap().at_ms, 1_633_019_124_000);
    assert_eq!(message.request_id, Some("some_id"));
    assert_eq!(message.resources.as_ref().unwrap().len(), 2);
    assert_eq!(message.to_string(), text);
}

#[test]
fn a_statement_is_there_or_empty_or_absent() {
    for (lines, wanted) in
        [(&["", "Hello", ""][..], Some("Hello")), (&["", "", ""], Some("")), (&["", ""], None)]
    {
        let mut all = full();
        all.splice(2..5, lines.iter().map(|line| (*line).to_owned()));
        let text = all.join("\n");
        let message = SiweMessage::parse(&text).unwrap();
        assert_eq!(message.statement, wanted);
        assert_eq!(message.to_string(), text);
    }
    for lines in [
        &["", "Hello"][..],
        &["Hello", ""],
        &["", "a", "b", ""],
        &["", "", "", ""],
        &[""],
        &[" ", ""],
        &["", " ", " "],
    ] {
        let mut all = full();
        all.splice(2..5, lines.iter().map(|line| (*line).to_owned()));
        refused(&all.join("\n"));
    }
}

#[test]
fn optional_lines_may_be_left_out_but_not_moved_or_doubled() {
    for mask in 0_u8..16 {
        let mut lines = full();
        // Resources have entries behind them.
        if mask & 8 != 0 {
            lines.truncate(13);
        }
        for (bit, line) in [(4, 12), (2, 11), (1, 10)] {
            if mask & bit != 0 {
                lines.remove(line);
            }
        }
        let text = lines.join("\n");
        assert_eq!(SiweMessage::parse(&text).unwrap().to_string(), text);
    }
    for at in 5..13 {
        let mut swapped = full();
        swapped.swap(at, at + 1);
        refused(&swapped.join("\n"));
        let mut doubled = full();
        doubled.insert(at, doubled[at].clone());
        refused(&doubled.join("\n"));
    }
    for at in (0..10).filter(|at| *at != 3) {
        let mut short = full();
        short.remove(at);
        refused(&short.join("\n"));
    }
}

#[test]
fn refuses_what_is_not_in_the_grammar() {
    for (line, text) in [
        (0, " wants you to sign in with your Ethereum account:"),
        (0, "service.org wants you to sign in with your ethereum account:"),
        (0, "service.org wants you to sign in with your Ethereum account: "),
        (0, "ser vice.org wants you to sign in with your Ethereum account:"),
        (0, "1s://service.org wants you to sign in with your Ethereum account:"),
        (0, "https:///service.org wants you to sign in with your Ethereum account:"),
        (3, "a \"quoted\" statement"),
        (3, "100%"),
        (3, "two\\backslashes"),
        (5, "URI: _no_uri_"),
        (5, "URI:  https://service.org/login"),
        (5, "Uri: https://service.org/login"),
        (6, "Version: 2"),
        (6, "Version: 1 "),
        (6, "Version: 01"),
        (7, "Chain ID: "),
        (7, "Chain ID: +1"),
        (7, "Chain ID: -1"),
        (7, "Chain ID: 0x1"),
        (7, "Chain ID: 1.0"),
        (7, "Chain ID: 18446744073709551616"),
        (8, "Nonce: 1234567"),
        (8, "Nonce: 12345678-"),
        (8, "Nonce: 1234 5678"),
        (12, "Request ID: a b"),
        (12, "Request ID: a/b"),
        (13, "Resources: "),
        (14, "-  ipfs://a"),
        (14, "- _no_uri_"),
        (15, "- https://a - https://b"),
        (15, "Extra: line"),
        (15, ""),
    ] {
        refused(&with(line, text));
    }
    for tail in ["\n", " ", "\n- ", "\nIssued At: 2021-09-30T16:25:24Z", "\r\n", "\n\n", "\0"] {
        refused(&format!("{}{tail}", full().join("\n")));
    }
    refused("");
    assert_eq!(refused(&full().join("\r\n")), SiweMessageError::Character);
    assert_eq!(refused(&with(3, "a\ttab")), SiweMessageError::Character);
    assert_eq!(refused(&with(3, "Ünïcode")), SiweMessageError::Character);
    assert_eq!(
        refused(&with(1, "0xc02aaA39b223FE8D0A0e5C4F27eAD9083C756Cc2")),
        AddressError::Checksum.into()
    );
    assert_eq!(refused(&with(1, "0xC02aaA39b223FE8D0A0e5C4F27eAD9083C756Cc")), AddressError::Address.into());
}

#[test]
fn times_are_those_of_rfc_3339() {
    for (text, at_ms) in [
        ("1970-01-01T00:00:00Z", 0),
        ("1969-12-31T23:59:59.999Z", -1),
        ("2000-02-29T23:59:60Z", 951_868_799_000),
        ("2021-09-30T16:25:24.123456789123Z", 1_633_019_124_123),
        ("2021-09-30T16:25:24.1-00:00", 1_633_019_124_100),
        ("2021-09-30T16:25:24+23:59", 1_632_932_784_000),
        ("9999-12-31T23:59:59Z", 253_402_300_799_000),
    ] {
        let whole = with(9, &format!("Issued At: {text}"));
        assert_eq!(SiweMessage::parse(&whole).unwrap().issued_at.at_ms, at_ms, "{text}");
    }
    for text in [
        "",
        "Z",
        "now",
        "Wed Oct 05 2011 16:48:00 GMT+0200 (CEST)",
        "2021-09-30",
        "2021-09-30T16:25:24",
        "2021-09-30 16:25:24Z",
        "2021-09-30T16:25Z",
        "2021-9-30T16:25:24Z",
        "2021-13-30T16:25:24Z",
        "2021-02-29T16:25:24Z",
        "2021-09-31T16:25:24Z",
        "2021-09-30T24:00:00Z",
        "2021-09-30T16:60:24Z",
        "2021-09-30T16:25:61Z",
        "2021-09-30T16:25:24.Z",
        "2021-09-30T16:25:24.1",
        "2021-09-30T16:25:24+2:00",
        "2021-09-30T16:25:24+0200",
        "2021-09-30T16:25:24+24:00",
        "2021-09-30T16:25:24ZZ",
        "+021-09-30T16:25:24Z",
        "12021-09-30T16:25:24Z",
        "1633019124",
        "2021-W39-4T16:25:24Z",
        "2021-09-30T16:25:24Z ",
        "0000-00-00T00:00:00Z",
        "2021-09-30T16:25:24,1Z",
    ] {
        assert_eq!(
            refused(&with(9, &format!("Issued At: {text}"))),
            SiweMessageError::Form("a time"),
            "{text:?}"
        );
    }
}

#[test]
fn every_limit_holds() {
    assert!(SiweMessage::parse(&with(3, &"s".repeat(STATEMENT_LENGTH_MAX))).is_ok());
    assert_eq!(
        refused(&with(3, &"s".repeat(STATEMENT_LENGTH_MAX + 1))),
        SiweMessageError::TooLong("the statement")
    );
    let resources = |count: usize| with(14, &vec!["- a:b"; count - 1].join("\n"));
    assert!(SiweMessage::parse(&resources(RESOURCES_MAX)).is_ok());
    assert_eq!(refused(&resources(RESOURCES_MAX + 1)), SiweMessageError::TooLong("the list of resources"));
    let filled = |length: usize| {
        let rest = length - with(12, "Request ID: ").len();
        with(12, &format!("Request ID: {}", "r".repeat(rest)))
    };
    assert!(SiweMessage::parse(&filled(LENGTH_MAX)).is_ok());
    assert_eq!(refused(&filled(LENGTH_MAX + 1)), SiweMessageError::TooLong("the message"));
}

#[test]
fn messages_made_by_viem_are_read_and_written_the_same() {
    for vector in vectors().personal {
        let message = SiweMessage::parse(&vector.message).unwrap();
        assert_eq!((message.address, message.to_string()), (vector.address, vector.message.clone()));
    }
}

/// A message by the grammar, from its parts.
fn any_message() -> impl Strategy<Value = String> {
    let time = || "[12][0-9]{3}-(0[1-9]|1[0-2])-(0[1-9]|1[0-9]|2[0-8])[Tt]([01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9](\\.[0-9]{1,6})?([Zz]|[+-]([01][0-9]|2[0-3]):[0-5][0-9])";
    let uri =
        || "[a-z][a-z0-9+.-]{0,5}:(//[a-z0-9._~!$&'()*+,;=-]{1,9}(:[0-9]{0,4})?)?/[a-zA-Z0-9/._~%2f-]{0,9}";
    let head = (
        proptest::option::of("[a-z][a-z0-9+.-]{0,5}://"),
        "([a-z:%20]{0,5}@)?([a-z0-9._~-]{1,9}|\\[::[0-9a-f]{1,4}\\])(:[0-9]{0,4})?",
        any::<[u8; 20]>(),
        proptest::option::of("[a-zA-Z0-9 :/?#@!$&'()*+,;=._~\\[\\]-]{0,30}"),
        uri(),
        any::<u64>(),
        "[a-zA-Z0-9]{8,20}",
        time(),
    );
    let tail = (
        proptest::option::of(time()),
        proptest::option::of(time()),
        proptest::option::of("[a-z0-9:@%41_-]{0,9}"),
        proptest::option::of(proptest::collection::vec(uri(), 0..4)),
    );
    (head, tail).prop_map(
        |((scheme, domain, address, statement, uri, chain, nonce, at), (expires, from, id, resources))| {
            let address = crate::address::WalletAddress::new(address.into());
            let mut text = format!(
                "{}{domain} wants you to sign in with your Ethereum account:\n{address}\n\n",
                scheme.unwrap_or_default()
            );
            if let Some(statement) = statement {
                writeln!(text, "{statement}").unwrap();
            }
            write!(text, "\nURI: {uri}\nVersion: 1\nChain ID: {chain}\nNonce: {nonce}\nIssued At: {at}")
                .unwrap();
            for (name, value) in [("Expiration Time", expires), ("Not Before", from), ("Request ID", id)] {
                if let Some(value) = value {
                    write!(text, "\n{name}: {value}").unwrap();
                }
            }
            if let Some(resources) = resources {
                text += "\nResources:";
                for resource in resources {
                    write!(text, "\n- {resource}").unwrap();
                }
            }
            text
        },
    )
}

proptest! {
    #[test]
    fn whatever_is_accepted_is_written_out_as_it_came(text in any_message()) {
        // Percent signs in these texts need not begin a valid triple.
        if let Ok(message) = SiweMessage::parse(&text) {
            prop_assert_eq!(message.to_string(), text);
        } else {
            prop_assert!(text.contains('%'));
        }
    }

    #[test]
    fn one_changed_byte_is_refused_or_seen(text in any_message(), at: prop::sample::Index, byte in 0_u8..128) {
        let mut bytes = text.into_bytes();
        let at = at.index(bytes.len());
        bytes[at] = byte;
        let text = String::from_utf8(bytes).unwrap();
        if let Ok(message) = SiweMessage::parse(&text) {
            prop_assert_eq!(message.to_string(), text);
        }
    }

    #[test]
    fn no_text_makes_it_panic(text in "\\PC{0,200}", lines in proptest::collection::vec("[ -~]{0,30}", 0..12)) {
        prop_assert!(SiweMessage::parse(&text).is_err());
        prop_assert!(SiweMessage::parse(&lines.join("\n")).is_err());
    }
}
