//! Who is taken for the client, above all when it lies about it.

use axum::http::HeaderValue;
use proptest::prelude::*;

use super::*;

const PROXY: &str = "10.0.0.1";

fn config(field: ForwardingHeader) -> ClientAddressConfig {
    let trusted_proxies = ["10.0.0.0/8", "fd00::/8"].map(|net| net.parse().unwrap()).to_vec();
    ClientAddressConfig { trusted_proxies, field, ..ClientAddressConfig::default() }
}

fn headers(name: &str, lines: &[&str]) -> HeaderMap {
    let mut headers = HeaderMap::new();
    for line in lines {
        headers.append(
            HeaderName::from_bytes(name.as_bytes()).unwrap(),
            HeaderValue::from_bytes(line.as_bytes()).unwrap(),
        );
    }
    headers
}

fn found(field: ForwardingHeader, peer: &str, headers: &HeaderMap) -> String {
    ClientAddress::from_peer(&config(field), peer.parse().unwrap(), headers).address.to_string()
}

#[test]
fn x_forwarded_for_is_believed_from_the_right_and_from_trusted_proxies_only() {
    for (peer, lines, wanted) in [
        // Nobody in front: what is sent is the client's own text.
        ("192.0.2.9", &["1.2.3.4"][..], "192.0.2.9"),
        ("192.0.2.9", &["10.0.0.1"], "192.0.2.9"),
        ("2001:db8::9", &["1.2.3.4"], "2001:db8::9"),
        (PROXY, &[], PROXY),
        (PROXY, &[""], PROXY),
        (PROXY, &[", ,"], PROXY),
        (PROXY, &["192.0.2.1"], "192.0.2.1"),
        // Everything left of the first stranger is ignored.
        (PROXY, &["1.2.3.4, 192.0.2.1"], "192.0.2.1"),
        (PROXY, &["10.9.9.9, 192.0.2.1"], "192.0.2.1"),
        (PROXY, &["127.0.0.1, 192.0.2.1, 10.0.0.2"], "192.0.2.1"),
        (PROXY, &["1.2.3.4", "192.0.2.1", "10.0.0.2"], "192.0.2.1"),
        (PROXY, &["1.2.3.4, 5.6.7.8", "192.0.2.1"], "192.0.2.1"),
        (PROXY, &["192.0.2.1,"], "192.0.2.1"),
        (PROXY, &["192.0.2.1", ""], "192.0.2.1"),
        // Only trusted addresses: the farthest of them asks.
        (PROXY, &["10.0.0.3, 10.0.0.2"], "10.0.0.3"),
        // Forms of addresses.
        (PROXY, &["192.0.2.1:4711"], "192.0.2.1"),
        (PROXY, &["2001:db8::1"], "2001:db8::1"),
        (PROXY, &["[2001:db8::1]"], "2001:db8::1"),
        (PROXY, &["[2001:db8::1]:4711"], "2001:db8::1"),
        (PROXY, &["2001:DB8:0::1"], "2001:db8::1"),
        (PROXY, &["::ffff:192.0.2.1"], "192.0.2.1"),
        (PROXY, &["192.0.2.1, ::ffff:10.0.0.2"], "192.0.2.1"),
        ("::ffff:10.0.0.1", &["192.0.2.1"], "192.0.2.1"),
        ("fd00::1", &["192.0.2.1, fd00::2"], "192.0.2.1"),
        // No addresses: their sender is counted as the proxy that let them through.
        (PROXY, &["unknown"], PROXY),
        (PROXY, &["1.2.3.4, unknown"], PROXY),
        (PROXY, &["1.2.3.4, garbage, 10.0.0.2"], "10.0.0.2"),
        (PROXY, &["fe80::1%eth0"], PROXY),
        (PROXY, &["[fe80::1%2]:80"], PROXY),
        (PROXY, &["192.0.2.1:99999"], PROXY),
        (PROXY, &["192.0.2.01"], PROXY),
        (PROXY, &["192.0.2"], PROXY),
        (PROXY, &["3221225985"], PROXY),
        (PROXY, &["0xC0000201"], PROXY),
        (PROXY, &["[192.0.2.1]"], PROXY),
        (PROXY, &["[2001:db8::1"], PROXY),
        (PROXY, &["2001:db8::1]:80"], PROXY),
        (PROXY, &["for=192.0.2.1"], PROXY),
        (PROXY, &["\"192.0.2.1\""], PROXY),
        (PROXY, &["192.0.2.1 192.0.2.2"], PROXY),
        (PROXY, &["192.0.2.1;192.0.2.2"], PROXY),
        (PROXY, &["\u{ff11}92.0.2.1"], PROXY),
    ] {
        let headers = headers("x-forwarded-for", lines);
        assert_eq!(found(ForwardingHeader::XForwardedFor, peer, &headers), wanted, "{peer} {lines:?}");
    }
}

#[test]
fn forwarded_is_believed_from_the_right() {
    for (lines, wanted) in [
        (&["for=192.0.2.1"][..], "192.0.2.1"),
        (&["For=192.0.2.1;proto=https;by=10.0.0.1"], "192.0.2.1"),
        (&["proto=https; for=\"192.0.2.1:80\""], "192.0.2.1"),
        (&["for=\"[2001:db8::1]\""], "2001:db8::1"),
        (&["for=\"[2001:db8::1]:80\""], "2001:db8::1"),
        (&["for=1.2.3.4, for=192.0.2.1, for=10.0.0.2"], "192.0.2.1"),
        (&["for=1.2.3.4", "for=192.0.2.1"], "192.0.2.1"),
        // A quote that never ends, or a comma in quotes, hides nothing that was appended.
        (&["for=\"1.2.3.4, for=192.0.2.1"], "192.0.2.1"),
        (&["for=\", for=192.0.2.1"], "192.0.2.1"),
        (&["for=\"1.2.3.4\\\", for=192.0.2.1"], "192.0.2.1"),
        (&["for=\"a, for=1.2.3.4, b\", for=192.0.2.1"], "192.0.2.1"),
        (&["host=\"a,b\";for=192.0.2.1"], "192.0.2.1"),
        (&["for=unknown"], PROXY),
        (&["for=_hidden"], PROXY),
        (&["for=\"_hidden:80\""], PROXY),
        (&["for=2001:db8::1"], PROXY),
        (&["for=192.0.2.1:80"], PROXY),
        (&["for=192.0.2.1;for=192.0.2.2"], PROXY),
        (&["by=192.0.2.1"], PROXY),
        (&["192.0.2.1"], PROXY),
        (&["for"], PROXY),
        (&["for=\"192.0.2.1"], PROXY),
    ] {
        assert_eq!(
            found(ForwardingHeader::Forwarded, PROXY, &headers("forwarded", lines)),
            wanted,
            "{lines:?}"
        );
    }
}

#[test]
fn the_headers_are_never_mixed_and_no_other_is_read() {
    let mut both = headers("x-forwarded-for", &["192.0.2.1"]);
    both.extend(headers("forwarded", &["for=192.0.2.2"]));
    both.extend(headers("x-real-ip", &["192.0.2.3"]));
    both.extend(headers("cf-connecting-ip", &["192.0.2.4"]));
    assert_eq!(found(ForwardingHeader::XForwardedFor, PROXY, &both), "192.0.2.1");
    assert_eq!(found(ForwardingHeader::Forwarded, PROXY, &both), "192.0.2.2");
    both.remove("forwarded");
    assert_eq!(found(ForwardingHeader::Forwarded, PROXY, &both), PROXY);
}

#[test]
fn one_line_of_a_subscriber_is_one_client() {
    let of = |text: &str, bits| client_prefix(text.parse().unwrap(), bits).to_string();
    assert_eq!(of("2001:db8:1:2:3:4:5:6", 64), "2001:db8:1:2::");
    assert_eq!(of("2001:db8:1:2ff:3:4:5:6", 56), "2001:db8:1:200::");
    assert_eq!(of("2001:db8::1", 128), "2001:db8::1");
    assert_eq!(of("2001:db8::1", 0), "::");
    assert_eq!(of("2001:db8::1", 255), "2001:db8::1");
    assert_eq!(of("192.0.2.1", 64), "192.0.2.1");
}

#[test]
fn more_hops_than_can_be_end_the_walk() {
    let many = vec!["10.0.0.2"; HOPS_MAX + 5].join(", ");
    let headers = headers("x-forwarded-for", &[&format!("192.0.2.1, {many}")]);
    assert_eq!(found(ForwardingHeader::XForwardedFor, PROXY, &headers), "10.0.0.2");
}

fn stranger() -> impl Strategy<Value = IpAddr> {
    any::<IpAddr>().prop_map(|ip| ip.to_canonical()).prop_filter("no proxy", |ip| {
        !config(ForwardingHeader::XForwardedFor).trusted_proxies.iter().any(|net| net.contains(ip))
    })
}

proptest! {
    /// Whatever a client writes, it is found by what the proxies appended, in both headers.
    #[test]
    fn nothing_a_client_writes_changes_who_it_is(
        client in stranger(),
        lies in proptest::collection::vec("[ -~]{0,40}", 0..4),
        same_line: bool,
        proxies in proptest::collection::vec(0_u8..255, 0..4),
    ) {
        let socket = SocketAddr::new(client, 4711);
        let plain: Vec<String> = std::iter::once(client.to_string())
            .chain(proxies.iter().map(|n| format!("10.1.0.{n}")))
            .collect();
        let quoted: Vec<String> = std::iter::once(format!("for=\"{socket}\""))
            .chain(proxies.iter().map(|n| format!("for=10.1.0.{n}")))
            .collect();
        for (field, name, appended) in [
            (ForwardingHeader::XForwardedFor, "x-forwarded-for", plain),
            (ForwardingHeader::Forwarded, "forwarded", quoted),
        ] {
            let appended = appended.join(", ");
            let mut lines = lies.clone();
            match lines.last_mut() {
                Some(last) if same_line => *last = format!("{last}, {appended}"),
                _ => lines.push(appended),
            }
            let lines: Vec<&str> = lines.iter().map(String::as_str).collect();
            let got = ClientAddress::from_peer(&config(field), PROXY.parse().unwrap(), &headers(name, &lines));
            prop_assert_eq!(got.address, client, "{} {:?}", name, lines);
        }
    }

    #[test]
    fn without_trusted_proxies_no_header_matters(peer in any::<IpAddr>(), line in "[ -~]{0,60}") {
        for name in ["x-forwarded-for", "forwarded"] {
            let got = ClientAddress::from_peer(&ClientAddressConfig::default(), peer, &headers(name, &[&line]));
            prop_assert_eq!(got.address, peer.to_canonical());
        }
    }
}
