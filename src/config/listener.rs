//! Where programs of the operator reach the broker of `up`.

use std::{net::SocketAddr, path::PathBuf};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Where programs of the operator reach the broker of `up`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct BrokerListenerConfig {
    /// Address for programs, such as 0.0.0.0:4222; without one only this machine reaches the broker of `up`, on a port that
    /// `streamgate nats credentials reader` prints. One that other machines reach needs TLS.
    pub listen: Option<SocketAddr>,
    /// PEM file with the certificates, that of this server first. It is read again when it changes.
    pub certificate_file: Option<PathBuf>,
    /// PEM file with the private key of the certificate; mode 0600.
    pub key_file: Option<PathBuf>,
    /// PEM file with the authority that signed the certificate, for programs whose machines do not trust it anyhow.
    pub authority_file: Option<PathBuf>,
    /// Address by which programs reach the broker, where it is not that of `listen` or `broker.urls`: tls://media.example.org:4222.
    pub public_url: Option<String>,
    /// Connections at once; further ones are closed.
    #[schemars(range(max = 512))]
    pub connections_max: usize,
    /// Connections at once from one address, or from one IPv6 network of 64 bits.
    #[schemars(range(max = 512))]
    pub address_connections_max: usize,
    /// Longest wait for a new connection to agree on TLS, in milliseconds.
    #[schemars(range(min = 100, max = 120_000))]
    pub handshake_ms_max: u64,
}

impl Default for BrokerListenerConfig {
    fn default() -> Self {
        Self {
            listen: None,
            certificate_file: None,
            key_file: None,
            authority_file: None,
            public_url: None,
            connections_max: 64,
            address_connections_max: 8,
            handshake_ms_max: 10_000,
        }
    }
}

impl BrokerListenerConfig {
    /// Refuses what can't work, given that `up` starts a broker of its own or does not.
    ///
    /// # Errors
    /// The field and what is right.
    pub fn check(&self, has_own_broker: bool) -> Result<(), (&'static str, String)> {
        if let Some(url) = &self.public_url {
            nats::check_server_url(url).map_err(|reason| ("public_url", reason))?;
        }
        let Some(address) = self.listen else {
            let unused = [("certificate_file", &self.certificate_file), ("key_file", &self.key_file)];
            return match unused.into_iter().find(|(_, file)| file.is_some()) {
                Some((field, _)) => {
                    Err((field, "it is for broker.listener.listen, which is not set".to_owned()))
                }
                None => Ok(()),
            };
        };
        if !has_own_broker {
            let reason =
                "it is for the broker that `up` starts, and broker.urls names others: set up TLS there";
            return Err(("listen", reason.to_owned()));
        }
        if address.port() == 0 && self.public_url.is_none() {
            let reason = "programs need an address that stays: name a port, or set public_url where something else passes them on";
            return Err(("listen", reason.to_owned()));
        }
        match (&self.certificate_file, &self.key_file) {
            (Some(_), Some(_)) => Ok(()),
            (Some(_), None) => Err(("key_file", "certificate_file needs its private key".to_owned())),
            (None, Some(_)) => Err(("certificate_file", "key_file needs its certificate".to_owned())),
            (None, None) if address.ip().is_loopback() => Ok(()),
            (None, None) => Err((
                "listen",
                format!(
                    "other machines reach {address}, and what happens to all owners would go there unencrypted: name a \
                     certificate_file and a key_file, or listen on 127.0.0.1"
                ),
            )),
        }
    }

    /// Address that programs connect to, if it is not that of the broker itself.
    ///
    /// # Errors
    /// What to set, where `listen` does not say by which address programs reach it.
    pub fn program_url(&self) -> Result<Option<String>, &'static str> {
        if self.public_url.is_some() {
            return Ok(self.public_url.clone());
        }
        let Some(address) = self.listen else { return Ok(None) };
        if address.ip().is_unspecified() || address.port() == 0 {
            return Err(
                "broker.listener.listen does not say by which address programs reach it: set broker.listener.public_url, \
                 such as tls://media.example.org:4222, with a name that the certificate has",
            );
        }
        let scheme = if self.certificate_file.is_some() { "tls" } else { "nats" };
        Ok(Some(format!("{scheme}://{address}")))
    }
}
