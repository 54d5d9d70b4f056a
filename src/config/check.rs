//! The one place where settings are judged before anything starts: what would only fail later, in the middle of somebody's work, is
//! refused here with its name, its value and what is right.
//!
//! Single numbers have ranges ([`super::ranges`]), names of few values are enumerations, and both are judged by the tree of the
//! settings. Here are texts, and what has to fit together.

use evm::ChainCounters;
use reqwest::Url;
use schemas::job::JobKind;

use super::{Settings, SettingsError, credentials::hide_credentials, file, units::SettingUnit};

/// Longest presentation for which a profile has to work, in milliseconds: a day.
const PLANNED_MS_MAX: u64 = 86_400_000;

/// Refuses settings that can't work.
///
/// # Errors
/// The first one, with what is right.
pub(super) fn check_settings(settings: &Settings) -> Result<(), SettingsError> {
    file::check_ranges(settings).map_err(|(key, reason)| SettingsError::Invalid { key, reason })?;
    check_addresses(settings)?;
    check_transcode(settings)?;
    check_times(settings)?;
    check_kinds(settings)?;
    settings.open_chains(ChainCounters::default())?;
    if let Err(invalid) = web::request_policy::CorsPolicy::new(&settings.ingress.manners) {
        return Err(SettingsError::invalid("ingress.manners.origins", invalid.to_string()));
    }
    let alerts = settings.monitor.alerts.check();
    alerts.map_err(|(key, reason)| SettingsError::invalid(&format!("monitor.alerts.{key}"), reason))?;
    settings.grants.check().map_err(|(key, reason)| SettingsError::invalid(key, reason))?;
    settings.auth.check().map_err(|(key, reason)| SettingsError::invalid(key, reason))
}

/// Kinds of jobs that are named.
fn check_kinds(settings: &Settings) -> Result<(), SettingsError> {
    let unknown = settings.keeper.dispatch.kind_priorities.keys().find(|name| JobKind::parse(name).is_none());
    unknown.map_or(Ok(()), |name| {
        let known: Vec<&str> = JobKind::ALL.iter().map(|kind| kind.name()).collect();
        let reason = format!("is no kind of jobs; there are {}", known.join(", "));
        Err(SettingsError::invalid(&format!("keeper.dispatch.kind_priorities.{name}"), reason))
    })
}

/// Addresses of what is connected to, and the one that people use.
fn check_addresses(settings: &Settings) -> Result<(), SettingsError> {
    for (position, url) in settings.broker.urls.iter().enumerate() {
        nats::check_server_url(url).map_err(|reason| {
            let shown = hide_credentials(url);
            SettingsError::invalid(&format!("broker.urls[{position}]"), format!("{shown:?} {reason}"))
        })?;
    }
    let listener = settings.broker.listener.check(settings.broker.urls.is_empty());
    listener
        .map_err(|(field, reason)| SettingsError::invalid(&format!("broker.listener.{field}"), reason))?;
    if let Some(store) = &settings.store {
        store.check().map_err(|(key, reason)| {
            let shown =
                if key == "url" { format!("{:?}: ", hide_credentials(&store.url)) } else { String::new() };
            SettingsError::invalid(&format!("store.{key}"), format!("{shown}{reason}"))
        })?;
    }
    settings.telemetry.tracing.parse_endpoint().map_err(|reason| {
        let shown = hide_credentials(settings.telemetry.tracing.endpoint.as_deref().unwrap_or_default());
        let reason = format!("{shown:?} {reason}; write an address such as \"http://127.0.0.1:4318\"");
        SettingsError::invalid("telemetry.tracing.endpoint", reason)
    })?;
    let Some(url) = &settings.ingress.public_url else { return Ok(()) };
    let shown = hide_credentials(url);
    public_url_fault(url).map_or(Ok(()), |fault| {
        let reason = format!("{shown:?} {fault}; write an address such as \"https://media.example.org\"");
        Err(SettingsError::invalid("ingress.public_url", reason))
    })
}

/// Why an address can't stand before every path that is answered.
fn public_url_fault(text: &str) -> Option<String> {
    if !(text.starts_with("http://") || text.starts_with("https://")) {
        return Some("does not begin with http:// or https://".to_owned());
    }
    match Url::parse(text) {
        Err(error) => Some(format!("is no address ({error})")),
        Ok(url) if url.query().is_some() || url.fragment().is_some() => {
            Some("has a query or a fragment, behind which no path can stand".to_owned())
        }
        Ok(_) => None,
    }
}

/// Profiles make what the media child and the encoders take, of whatever is uploaded.
fn check_transcode(settings: &Settings) -> Result<(), SettingsError> {
    let transcode = &settings.transcode;
    let longest_ms = settings.media.limits.duration_seconds_max.saturating_mul(1_000).min(PLANNED_MS_MAX);
    for (name, profile) in &transcode.profiles {
        transcode::check_profile(profile, longest_ms).map_err(|(field, reason)| {
            let field = field.map(|field| format!(".{field}")).unwrap_or_default();
            SettingsError::invalid(&format!("transcode.profiles.{name}{field}"), reason)
        })?;
    }
    if transcode.find_profile(&transcode.profile).is_none() {
        let known: Vec<&str> = transcode.profiles.keys().map(String::as_str).collect();
        let reason = format!("there is no profile {:?}; known: {}", transcode.profile, known.join(", "));
        return Err(SettingsError::invalid("transcode.profile", reason));
    }
    Ok(())
}

/// Times that have to be as long as others, or longer.
fn check_times(settings: &Settings) -> Result<(), SettingsError> {
    let (ended_ms, fold_ms) = (settings.retention.ended_ms, settings.keeper.fold_age_ms);
    if ended_ms < fold_ms {
        let taken = format!("no less than keeper.fold_age, which is {}", show_time(fold_ms));
        return Err(too_short("retention.ended_ms", ended_ms, &taken));
    }
    let (fresh_ms, renew_ms) = (settings.transcode.claim_fresh_ms, settings.transcode.renew_interval_ms);
    // Seen once in that time, the holder of a part would lose it while it works.
    if fresh_ms <= renew_ms {
        let taken = format!("more than transcode.renew_interval, which is {}", show_time(renew_ms));
        return Err(too_short("transcode.claim_fresh_ms", fresh_ms, &taken));
    }
    Ok(())
}

fn too_short(key: &str, time_ms: u64, taken: &str) -> SettingsError {
    SettingsError::invalid(key, format!("it is {}, and takes {taken}", show_time(time_ms)))
}

fn show_time(time_ms: u64) -> String {
    format!("{:?}", SettingUnit::Milliseconds.format_number(time_ms))
}
