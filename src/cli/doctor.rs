//! `doctor`: what this machine lacks to run a server, and how to get it.

use std::{
    net::{SocketAddr, TcpListener},
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::Context;
use media::MediaDriver;
use nats::{StreamUsage, server, topology};
use schemas::fault::error_chain;
use serde_json::json;

use super::{CommandOutcome, broker, demo::chain, output, render};
use crate::{config::Settings, data_folder, explained::describe_error, ownership_transfer};
use ingress::capacity::{BROKER_DISK, CapacityLimit, STORE_DISK};

/// Longest wait for a broker that may not run.
const BROKER_WAIT: Duration = Duration::from_secs(5);

/// One thing that was looked at.
#[derive(Debug, Clone, PartialEq, Eq)]
struct DoctorFinding {
    name: &'static str,
    is_fine: bool,
    /// What was found.
    found: String,
    /// What to do; empty when there is nothing to do.
    advice: String,
}

impl DoctorFinding {
    fn fine(name: &'static str, found: impl Into<String>) -> Self {
        Self { name, is_fine: true, found: found.into(), advice: String::new() }
    }

    fn missing(name: &'static str, found: impl Into<String>, advice: impl Into<String>) -> Self {
        Self { name, is_fine: false, found: found.into(), advice: advice.into() }
    }
}

/// Looks at everything; ends badly when something needed is missing.
///
/// # Errors
/// When stdout can't be written.
pub async fn run_doctor(config: &Settings, as_json: bool) -> anyhow::Result<CommandOutcome> {
    let mut findings = vec![check_broker(config).await];
    findings.extend(check_media(config).await);
    findings.push(check_data_folder(&config.data_dir()));
    findings.extend(check_disk_space(config));
    findings.extend(check_broker_space(config).await);
    findings.push(check_port("public port", "--listen", config.ingress.listen));
    findings.extend(config.admin_listen.map(|address| check_port("admin port", "--admin-listen", address)));
    findings.push(check_proxies(config));
    findings.push(DoctorFinding::fine(
        "ffmpeg program",
        "not needed: streamgate-media has FFmpeg's libraries inside",
    ));
    findings.push(check_anvil(chain::find_anvil()));
    findings.extend(check_chainless(config).await);
    let is_fine = findings.iter().all(|finding| finding.is_fine);
    if as_json {
        let checks: Vec<_> = findings
            .iter()
            .map(|f| json!({ "name": f.name, "ok": f.is_fine, "found": f.found, "advice": f.advice }))
            .collect();
        output::print_json(&json!({ "ok": is_fine, "checks": checks }))?;
    } else {
        output::print_line(format_report(&findings))?;
        output::print_message(if is_fine {
            "Nothing is missing: `streamgate up`, or `streamgate demo`"
        } else {
            "Something is missing"
        });
    }
    Ok(if is_fine { CommandOutcome::Well } else { CommandOutcome::Badly })
}

/// The node of the gated demo; no server needs it.
fn check_anvil(found: anyhow::Result<PathBuf>) -> DoctorFinding {
    const NAME: &str = "anvil";
    match found {
        Ok(path) => DoctorFinding::fine(NAME, format!("for `demo --gated`, at {}", path.display())),
        Err(error) => DoctorFinding {
            advice: error.to_string(),
            ..DoctorFinding::fine(NAME, "only `demo --gated` needs it")
        },
    }
}

/// What contract accounts own under names without a chain; nothing where no broker answers.
async fn check_chainless(config: &Settings) -> Vec<DoctorFinding> {
    let asking = async {
        let bus = broker::connect_admin(config.clone()).await?;
        let found = ownership_transfer::find_chainless_owners(&bus).await?;
        bus.close().await?;
        anyhow::Ok(found)
    };
    match tokio::time::timeout(BROKER_WAIT, asking).await {
        Ok(Ok(found)) => found.iter().map(chainless_finding).collect(),
        Ok(Err(_)) | Err(_) => Vec::new(),
    }
}

fn chainless_finding(found: &ownership_transfer::ChainlessOwner) -> DoctorFinding {
    let ownership_transfer::ChainlessOwner { owner, proven, media_count, key_count } = found;
    let proven: Vec<&str> = proven.iter().map(String::as_str).collect();
    let advice = format!(
        "that is a contract, and signs in as {}: look whose they are, then `streamgate owner transfer {owner} OWNER`",
        proven.join(" or ")
    );
    let found = format!("{media_count} media and {key_count} keys belong to {owner}");
    DoctorFinding { advice, ..DoctorFinding::fine("contract account", found) }
}

fn format_report(findings: &[DoctorFinding]) -> String {
    let rows: Vec<Vec<String>> = findings
        .iter()
        .flat_map(|finding| {
            let verdict = if finding.is_fine { "ok" } else { "MISSING" };
            let first = vec![verdict.to_owned(), finding.name.to_owned(), finding.found.clone()];
            let advice = Some(&finding.advice).filter(|advice| !advice.is_empty());
            let second = advice.map(|advice| vec![String::new(), String::new(), format!("-> {advice}")]);
            std::iter::once(first).chain(second)
        })
        .collect();
    render::format_table(&["", "WHAT", "FOUND"], &rows)
}

async fn check_broker(config: &Settings) -> DoctorFinding {
    const NAME: &str = "nats-server";
    if config.broker.urls.is_empty() {
        return match server::find_nats_server(None).await {
            Ok(found) => {
                let (major, minor) = found.version;
                DoctorFinding::fine(NAME, format!("{major}.{minor} at {}", found.path.display()))
            }
            Err(error) => DoctorFinding::missing(
                NAME,
                error.to_string(),
                "`make setup` puts one into .tools/bin; or set NATS_SERVER, or use a running one with --nats-url",
            ),
        };
    }
    match check_connection(config).await {
        Ok(version) if nats::clock_offset_ms().unsigned_abs() > nats::OFFSET_MS_MAX => {
            DoctorFinding::missing(
                "clock",
                format!("{} ms ahead of the broker's ({version})", nats::clock_offset_ms()),
                "set the clocks of this host and of the broker's by NTP",
            )
        }
        Ok(version) => {
            DoctorFinding::fine("broker", format!("nats-server {version} answers, the clocks agree"))
        }
        Err(error) => DoctorFinding::missing("broker", describe_error(&error), ""),
    }
}

async fn check_connection(config: &Settings) -> anyhow::Result<String> {
    let bus = broker::connect_admin(config.clone()).await?;
    let version = bus.context().client().server_info().version.clone();
    let is_new = server::version(&version).is_some_and(|version| version >= server::VERSION_MIN);
    let (major, minor) = server::VERSION_MIN;
    anyhow::ensure!(is_new, "nats-server {version} is older than {major}.{minor}");
    if let Err(error) = bus.broker_now_ms(schemas::subjects::EVENTS).await {
        tracing::debug!(%error, "the broker's clock could not be read");
    }
    bus.close().await.context("closing the connection")?;
    Ok(version)
}

/// Room on the disks of the data folder and of a local store.
fn check_disk_space(config: &Settings) -> Vec<DoctorFinding> {
    let store =
        config.store_config().ok().and_then(|store| store.url.strip_prefix("file://").map(PathBuf::from));
    let reserved = if config.broker.urls.is_empty() {
        topology::reserved_bytes(&config.topology_settings())
    } else {
        Ok(0)
    };
    let disks = [
        (BROKER_DISK, Some(config.data_dir()), 0),
        (STORE_DISK, store, config.ingress.uploads.free_bytes_min),
    ];
    disks
        .into_iter()
        .filter_map(|(name, folder, free_bytes_min)| {
            let space = store::read_disk_space(&data_folder::nearest_existing(&folder?)).ok()?;
            let limit = CapacityLimit::from_disk_space(name, space, &config.ingress.capacity, free_bytes_min);
            let found = format!(
                "{} free of {}",
                render::format_size(limit.free_bytes()),
                render::format_size(limit.limit_bytes)
            );
            if limit.is_full() {
                return Some(DoctorFinding::missing(
                    name,
                    found,
                    "make room: nothing new is taken meanwhile",
                ));
            }
            let reserved_bytes = reserved.as_ref().copied().unwrap_or(0);
            if name == BROKER_DISK && reserved_bytes > limit.free_bytes() {
                let advice = format!(
                    "streams and buckets may grow to {}: say in [capacity] of the settings what has to fit",
                    render::format_size(reserved_bytes)
                );
                return Some(DoctorFinding { advice, ..DoctorFinding::fine(name, found) });
            }
            Some(DoctorFinding::fine(name, found))
        })
        .collect()
}

/// How full the streams and buckets of a broker that runs are, and for how long there is room.
async fn check_broker_space(config: &Settings) -> Option<DoctorFinding> {
    const NAME: &str = "room on the broker";
    // That a broker does not answer is reported elsewhere.
    let bus = broker::connect_admin(config.clone()).await.ok()?;
    let fills = bus.all_stream_usage().await.ok()?;
    let now_ms = nats::now_ms();
    let is_full = |fill: &&StreamUsage| {
        !fill.drops_oldest && fill.used_percent() >= config.ingress.capacity.percent_max
    };
    let full: Vec<String> = fills
        .iter()
        .filter(is_full)
        .map(|fill| format!("{} holds {} of {} bytes", fill.stream, fill.used_bytes, fill.limit_bytes))
        .collect();
    if !full.is_empty() {
        let advice = "raise it by [capacity] in the settings and `streamgate nats apply`: nothing new is taken meanwhile";
        return Some(DoctorFinding::missing(NAME, full.join("; "), advice));
    }
    let fullest = fills.iter().max_by_key(|fill| fill.used_percent())?;
    let mut found = format!("{} is the fullest: {} %", fullest.stream, fullest.used_percent());
    let days = fills.iter().filter_map(|fill| Some((fill.days_left(now_ms)?, &fill.stream))).min();
    if let Some((days, stream)) = days {
        found = format!("{found}; {stream} has room for {days} days");
    }
    Some(DoctorFinding::fine(NAME, found))
}

/// The media child, and whether its sandbox holds here.
async fn check_media(config: &Settings) -> Vec<DoctorFinding> {
    const NAME: &str = "streamgate-media";
    let driver = match MediaDriver::start(config.media.clone()).await {
        Ok(driver) => driver,
        Err(error) => {
            return vec![DoctorFinding::missing(NAME, error_chain(&error), error.start_advice())];
        }
    };
    let check = driver.self_check();
    let mut findings = vec![DoctorFinding::fine(NAME, format!("with FFmpeg {}", check.versions.ffmpeg))];
    let sandbox = if check.sandbox.is_effective() {
        let kinds = [(check.sandbox.has_seccomp, "seccomp"), (check.sandbox.has_landlock, "landlock")];
        let names: Vec<&str> = kinds.iter().filter(|(has, _)| *has).map(|(_, name)| *name).collect();
        format!("holds ({})", names.join(" and "))
    } else {
        "does not hold; --unsandboxed says to go on without".to_owned()
    };
    findings.push(DoctorFinding::fine("sandbox", sandbox));
    if !check.missing_optional.is_empty() {
        let found = format!("FFmpeg lacks {}: HDR sources look pale", check.missing_optional.join(", "));
        findings.push(DoctorFinding::fine("HDR", found));
    }
    findings
}

/// Whether the data folder, or the one it will be made in, can be written. Nothing is left behind.
fn check_data_folder(folder: &Path) -> DoctorFinding {
    const NAME: &str = "data folder";
    let shown = std::path::absolute(folder).unwrap_or_else(|_| folder.to_owned());
    match data_folder::try_data_folder(folder) {
        Ok(()) if shown.is_dir() => DoctorFinding::fine(NAME, format!("{} can be written", shown.display())),
        Ok(()) => DoctorFinding::fine(NAME, format!("{} will be made", shown.display())),
        Err(error) => DoctorFinding::missing(NAME, error.to_string(), ""),
    }
}

/// Whose forwarded addresses are believed: behind a proxy that nobody named all clients are one.
fn check_proxies(config: &Settings) -> DoctorFinding {
    const NAME: &str = "trusted proxies";
    let named = &config.ingress.client.trusted_proxies;
    if named.is_empty() {
        let advice = "behind a reverse proxy, name its network in ingress.client.trusted_proxies";
        let found = "none: the peer of a connection is the client";
        return DoctorFinding { advice: advice.to_owned(), ..DoctorFinding::fine(NAME, found) };
    }
    let named: Vec<String> = named.iter().map(ToString::to_string).collect();
    DoctorFinding::fine(NAME, named.join(", "))
}

fn check_port(name: &'static str, flag: &str, address: SocketAddr) -> DoctorFinding {
    match TcpListener::bind(address) {
        Ok(_) => DoctorFinding::fine(name, format!("{address} is free")),
        Err(error) => DoctorFinding::missing(
            name,
            format!("{address}: {error}"),
            format!(
                "stop what uses it (a `streamgate up` that runs already?), or choose another with {flag}"
            ),
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_in_use_is_reported_with_a_way_out() {
        let taken = TcpListener::bind("127.0.0.1:0").unwrap();
        let finding = check_port("public port", "--listen", taken.local_addr().unwrap());
        assert!(!finding.is_fine && finding.advice.contains("--listen"), "{finding:?}");
        let address = taken.local_addr().unwrap();
        drop(taken);
        assert!(check_port("public port", "--listen", address).is_fine);
    }

    #[test]
    fn proxies_are_named_or_asked_for() {
        let mut config = Settings::default();
        assert!(check_proxies(&config).advice.contains("ingress.client.trusted_proxies"));
        config.ingress.client.trusted_proxies = vec!["10.0.0.0/8".parse().unwrap()];
        assert_eq!(check_proxies(&config).found, "10.0.0.0/8");
    }

    #[test]
    fn what_a_contract_owns_without_a_chain_is_reported_with_a_way_to_give_it() {
        let finding = chainless_finding(&ownership_transfer::ChainlessOwner {
            owner: "eip155:0x1".into(),
            proven: ["eip155:1:0x1".to_owned(), "eip155:10:0x1".to_owned()].into(),
            media_count: 2,
            key_count: 1,
        });
        assert!(finding.is_fine && finding.found.contains("2 media and 1 keys"), "{finding:?}");
        assert!(finding.advice.contains("streamgate owner transfer eip155:0x1 OWNER"), "{finding:?}");
        assert!(finding.advice.contains("eip155:10:0x1 or eip155:1:0x1"), "{finding:?}");
    }

    #[test]
    fn advice_stands_below_what_it_is_about() {
        let text =
            format_report(&[DoctorFinding::fine("a", "good"), DoctorFinding::missing("b", "bad", "do this")]);
        let lines: Vec<&str> = text.lines().map(str::trim).collect();
        assert_eq!(lines[1..], ["ok       a     good", "MISSING  b     bad", "-> do this"]);
    }
}
