//! Mail by SMTP (RFC 5321): one mail for all that is new since the last one.
//!
//! Limits: [`LINES_MAX`] alerts are named in a mail; more are counted.

use std::{fmt::Write as _, path::PathBuf};

use ::alerts::runbook_path;
use lettre::{
    AsyncSmtpTransport, AsyncTransport as _, Message, Tokio1Executor,
    message::{Mailbox, header::ContentType},
    transport::smtp::{AsyncSmtpTransportBuilder, authentication::Credentials},
};
use schemas::alert::{AlertPhase, AlertState};

use super::{
    config::{SmtpConfig, SmtpEncryption},
    send_error::SendError,
    webhook::format_time,
};

/// Most alerts that a mail names.
const LINES_MAX: usize = 50;

/// Why mail can't be sent.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum MailSetupError {
    /// An address is none.
    #[error("{address:?} is no address: {reason}")]
    Address {
        /// Which setting.
        field: &'static str,
        /// What was given.
        address: String,
        /// Why.
        reason: String,
    },
    /// The server's name can't be used.
    #[error("{0}")]
    Server(String),
}

impl MailSetupError {
    pub(super) const fn field(&self) -> &'static str {
        match self {
            Self::Address { field, .. } => field,
            Self::Server(_) => "server",
        }
    }
}

/// The mail server, and who writes to whom.
pub(super) struct MailReceiver {
    builder: AsyncSmtpTransportBuilder,
    user: Option<String>,
    password_file: Option<PathBuf>,
    from: Mailbox,
    to: Vec<Mailbox>,
}

impl std::fmt::Debug for MailReceiver {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("MailReceiver").field("from", &self.from).finish_non_exhaustive()
    }
}

fn read_address(field: &'static str, address: &str) -> Result<Mailbox, MailSetupError> {
    address.parse().map_err(|error: lettre::address::AddressError| MailSetupError::Address {
        field,
        address: address.to_owned(),
        reason: error.to_string(),
    })
}

impl MailReceiver {
    /// Reads no file: settings are judged where the password is not.
    pub(super) fn new(config: &SmtpConfig) -> Result<Self, MailSetupError> {
        let (host, port) = match config.server.rsplit_once(':') {
            Some((host, port)) => {
                let port = port
                    .parse::<u16>()
                    .map_err(|_| MailSetupError::Server(format!("{port:?} is no port; write name:587")))?;
                (host, Some(port))
            }
            None => (config.server.as_str(), None),
        };
        if host.is_empty() {
            return Err(MailSetupError::Server("the server has no name".into()));
        }
        let builder = match config.tls {
            SmtpEncryption::Starttls => AsyncSmtpTransport::<Tokio1Executor>::starttls_relay(host),
            SmtpEncryption::Tls => AsyncSmtpTransport::<Tokio1Executor>::relay(host),
            SmtpEncryption::None => Ok(AsyncSmtpTransport::<Tokio1Executor>::builder_dangerous(host)),
        };
        let mut builder = builder.map_err(|error| MailSetupError::Server(error.to_string()))?;
        if let Some(port) = port {
            builder = builder.port(port);
        }
        let from = read_address("from", &config.from)?;
        let to =
            config.to.iter().map(|address| read_address("to", address)).collect::<Result<Vec<_>, _>>()?;
        if to.is_empty() {
            let reason = "nobody is written to".to_owned();
            return Err(MailSetupError::Address { field: "to", address: String::new(), reason });
        }
        let (user, password_file) = (config.user.clone(), config.password_file.clone());
        Ok(Self { builder, user, password_file, from, to })
    }

    /// The way to the server. The password is read each time: it may be another one by now.
    pub(super) fn connect(&self) -> Result<AsyncSmtpTransport<Tokio1Executor>, SendError> {
        let builder = self.builder.clone();
        let Some(user) = &self.user else { return Ok(builder.build()) };
        let password = match &self.password_file {
            Some(file) => std::fs::read_to_string(file)?.trim_end_matches(['\r', '\n']).to_owned(),
            None => String::new(),
        };
        Ok(builder.credentials(Credentials::new(user.clone(), password)).build())
    }

    /// Sends one mail about all of them.
    pub(super) async fn send_alerts(&self, due: &[AlertState], base_url: &str) -> Result<(), SendError> {
        let mut message = Message::builder().from(self.from.clone()).subject(write_subject(due));
        for to in &self.to {
            message = message.to(to.clone());
        }
        let message = message
            .header(ContentType::TEXT_PLAIN)
            .body(write_text(due, base_url))
            .map_err(|error| SendError::Mail(error.to_string()))?;
        self.connect()?.send(message).await.map(|_| ()).map_err(|error| SendError::Mail(error.to_string()))
    }
}

/// What is new, in a line.
fn write_subject(due: &[AlertState]) -> String {
    let (over, firing): (Vec<_>, Vec<_>) = due.iter().partition(|alert| alert.phase == AlertPhase::Resolved);
    let named = firing.first().or(over.first()).map_or("", |alert| &alert.name);
    let more = match due.len() {
        0 | 1 => String::new(),
        count => format!(" and {} more", count - 1),
    };
    format!("[{} firing, {} resolved] {named}{more}", firing.len(), over.len())
}

fn write_text(due: &[AlertState], base_url: &str) -> String {
    let mut text = String::new();
    for alert in due.iter().take(LINES_MAX) {
        let (what, at_ms) = match alert.phase {
            AlertPhase::Resolved => ("resolved", alert.resolved_at_ms),
            _ => ("fires", alert.fired_at_ms),
        };
        // Writing to a text does not fail.
        _ = write!(
            text,
            "{} {what} since {} ({})\n{}\n{base_url}{}\n\n",
            alert.name,
            format_time(at_ms.unwrap_or(alert.since_ms)),
            alert.severity.name(),
            alert.summary,
            runbook_path(&alert.name)
        );
    }
    if due.len() > LINES_MAX {
        _ = writeln!(text, "and {} more: streamgate alerts", due.len() - LINES_MAX);
    }
    text
}
