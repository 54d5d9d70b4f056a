//! Settings of alerts, units in the names.

use std::path::PathBuf;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Settings of alerts: who is informed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct MonitorAlertsConfig {
    /// False to have none evaluated here: Prometheus may do it by `streamgate config --rules`.
    pub evaluated: bool,
    /// Address of the gateway as receivers reach it, for links to runbooks; that of `ingress.public_url` where nothing is said.
    pub base_url: Option<String>,
    /// Receivers of webhooks, in the form of Alertmanager's webhooks, version 4.
    pub webhooks: Vec<WebhookReceiverConfig>,
    /// The server for mail; none is sent where nothing is said.
    pub smtp: Option<SmtpConfig>,
    /// How often what still fires is sent again, in milliseconds.
    pub repeat_ms: u64,
    /// Least time between two sendings to one receiver, in milliseconds: what comes meanwhile is in the next one.
    pub group_ms: u64,
    /// Longest time of one sending, in milliseconds.
    pub send_timeout_ms: u64,
    /// By what the durations of all rules are divided, for drills: 1 outside of them.
    #[schemars(range(min = 1, max = 3_600))]
    pub time_scale: u64,
}

impl Default for MonitorAlertsConfig {
    fn default() -> Self {
        Self {
            evaluated: true,
            base_url: None,
            webhooks: Vec::new(),
            smtp: None,
            repeat_ms: 4 * 3_600_000,
            group_ms: 60_000,
            send_timeout_ms: 15_000,
            time_scale: 1,
        }
    }
}

/// A receiver of webhooks. Its address is the operator's: every network is reached.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct WebhookReceiverConfig {
    /// Where it is sent to.
    pub url: String,
    /// Secret by which it is signed (Standard Webhooks); unsigned where nothing is said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret: Option<String>,
}

impl std::fmt::Debug for WebhookReceiverConfig {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("WebhookReceiverConfig").finish_non_exhaustive()
    }
}

/// How a connection to a mail server is encrypted.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum SmtpEncryption {
    /// After STARTTLS, which is required.
    #[default]
    Starttls,
    /// From the first byte on.
    Tls,
    /// Not at all: for a server on this host.
    None,
}

/// A mail server, and who writes to whom.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SmtpConfig {
    /// Its name, with a port where it is not the usual one, such as `mail.example.org:587`.
    pub server: String,
    /// Who writes.
    pub from: String,
    /// To whom.
    pub to: Vec<String>,
    /// Name for the server; nobody signs in where nothing is said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    /// File with the password.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub password_file: Option<PathBuf>,
    /// How the connection is encrypted.
    #[serde(default)]
    pub tls: SmtpEncryption,
}
