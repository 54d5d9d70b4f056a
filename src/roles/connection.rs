//! Connecting to the broker, and what it means when that fails: who can do what about it.

use nats::{Bus, BusError, Role};
use schemas::fault::root_cause;

use super::Runtime;
use crate::{config::credentials::hide_credentials, explained::ExplainedError};

/// What to do about a broker that does not answer and was named by its address.
pub const NAMED_BROKER_ADVICE: &str = "start it, or name another with --nats-url";

/// Connects as `role`; `away_advice` says what to do when no broker answers.
///
/// # Errors
/// An [`ExplainedError`] over the [`BusError`].
pub async fn connect_to_broker(site: &Runtime, role: Role, away_advice: &str) -> anyhow::Result<Bus> {
    let seed = site.seed_of(role);
    let place = BrokerPlace { urls: shown_urls(&site.urls), has_seed: seed.is_some(), role, away_advice };
    let settings = nats::BusConfig::new(site.urls.clone(), role, seed);
    let settings = nats::BusConfig { health: site.health.clone(), ..settings };
    Ok(Bus::connect(&settings).await.map_err(|error| place.explain(error))?)
}

/// The addresses as a message may have them: without names and passwords.
fn shown_urls(urls: &[String]) -> String {
    urls.iter().map(|url| hide_credentials(url)).collect::<Vec<_>>().join(", ")
}

/// Says what an error of a broker that was reached means, where somebody has to change it first; others are left as they are.
pub fn explain_broker_error(bus: &Bus, urls: &[String], error: BusError) -> anyhow::Error {
    let error = bus.explain_unavailable(error);
    match error.obstacle().map(ToString::to_string) {
        Some(obstacle) => {
            let urls = shown_urls(urls);
            ExplainedError::new(format!("the broker at {urls} can't be used: {obstacle}"), error).into()
        }
        None => error.into(),
    }
}

/// Which broker was asked, and as whom.
struct BrokerPlace<'a> {
    urls: String,
    has_seed: bool,
    role: Role,
    away_advice: &'a str,
}

impl BrokerPlace<'_> {
    fn explain(&self, error: BusError) -> ExplainedError {
        let (urls, role) = (&self.urls, self.role.name());
        let message = match &error {
            BusError::Credentials { reason } if self.has_seed => format!(
                "the broker at {urls} refuses the seed of the role {role} ({}); --nats-seed-file has to hold one that the broker \
                 knows: `streamgate nats keys FOLDER` makes them, and nats.env in the same folder is for the broker",
                first_part(reason)
            ),
            BusError::Credentials { reason } => format!(
                "the broker at {urls} asks for credentials and there are none for the role {role} ({}); name the file with its seed \
                 with --nats-seed-file",
                first_part(reason)
            ),
            BusError::Unavailable(cause) => {
                format!("no broker answers at {urls} ({}); {}", root_cause(cause.as_ref()), self.away_advice)
            }
            other => {
                format!("the broker at {urls} can't be used by the role {role}: {other}; look at --nats-url")
            }
        };
        ExplainedError::new(message, error)
    }
}

/// The client says the same several times over.
fn first_part(reason: &str) -> &str {
    if reason.starts_with("the seed is none") { reason } else { reason.split(": ").next().unwrap_or(reason) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_has_no_password_of_a_broker() {
        let urls = ["nats://ann:secret@one:4222".to_owned(), "nats://two:4222".to_owned()];
        assert_eq!(shown_urls(&urls), "nats://<hidden>@one:4222, nats://two:4222");
    }

    #[test]
    fn each_way_a_broker_refuses_has_its_own_advice() {
        let place = |has_seed| BrokerPlace {
            urls: "nats://h:1".into(),
            has_seed,
            role: Role::Admin,
            away_advice: NAMED_BROKER_ADVICE,
        };
        let refused = || BusError::Credentials { reason: "authorization violation: nats: x: nats: x".into() };
        for (said, wanted) in [
            (
                place(true).explain(refused()),
                "refuses the seed of the role admin (authorization violation); --nats-seed-file",
            ),
            (place(false).explain(refused()), "there are none for the role admin"),
            (
                place(false).explain(BusError::unavailable("Connection refused")),
                "no broker answers at nats://h:1 (Connection refused); start it, or name another with --nats-url",
            ),
        ] {
            assert!(said.to_string().contains(wanted), "{said}");
            assert!(!said.to_string().contains("nats: x"), "{said}");
        }
    }
}
