//! `nats credentials`: what a program of the operator needs to follow events on the broker.

use std::path::PathBuf;

use anyhow::{Context, bail};
use nats::{
    Bus, BusConfig, Role,
    server::{self, RenewedKey},
    topology,
};
use serde_json::json;

use super::output;
use crate::{config::Settings, data_folder, roles::RoleSeeds};

/// Where a broker is, and as whom a program connects to it.
struct ProgramCredentials {
    url: String,
    seed: String,
    authority_file: Option<PathBuf>,
}

/// Prints the credentials of `role`: variables of a shell, or one line of JSON. With `renew` they are others than before.
///
/// # Errors
/// When there is no broker in the data folder and none is named, or it has no such user.
pub async fn print_credentials(
    config: &Settings,
    role: Role,
    renew: bool,
    as_json: bool,
) -> anyhow::Result<()> {
    let credentials = find_credentials(config, role, renew).await?;
    let prefix = role.name().to_ascii_uppercase();
    let authority = credentials.authority_file.as_ref().map(|file| file.display().to_string());
    if as_json {
        output::print_json(&json!({
            "url": credentials.url,
            "seed": credentials.seed,
            "inbox_prefix": role.inbox_prefix(),
            "authority_file": authority,
        }))?;
        return Ok(());
    }
    let variables = [
        ("URL", Some(credentials.url)),
        ("SEED", Some(credentials.seed)),
        ("INBOX", Some(role.inbox_prefix().to_owned())),
        ("CA", authority),
    ];
    for (name, value) in variables {
        if let Some(value) = value {
            output::print_line(format!("export {prefix}_{name}={}", quote(&value)))?;
        }
    }
    Ok(())
}

/// A word of a shell.
fn quote(text: &str) -> String {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "_-./:,@".contains(c);
    if text.chars().all(is_plain) { text.to_owned() } else { format!("'{}'", text.replace('\'', "'\\''")) }
}

async fn find_credentials(config: &Settings, role: Role, renew: bool) -> anyhow::Result<ProgramCredentials> {
    let listener = &config.broker.listener;
    let authority_file = listener.authority_file.as_ref().map(std::path::absolute).transpose()?;
    if !config.broker.urls.is_empty() {
        if renew {
            bail!(
                "the keys of the broker at broker.urls are not kept here: run `streamgate nats keys FOLDER --renew {}` where \
                 they are, and restart its servers one after the other with the new nats.env",
                role.name()
            );
        }
        let file = config.broker.seed_file.as_deref();
        let file = file.context(
            "no file with seeds is named; name the `seeds` of `streamgate nats keys` with --nats-seed-file",
        )?;
        let seed = RoleSeeds::from_file_of(file, role)?.seed_of(role).with_context(|| {
            let (file, role) = (file.display(), role.name());
            format!("{file} has no seed of the role {role}: run `streamgate nats keys` for the folder that it is in, and restart the servers")
        })?;
        let url = listener.public_url.clone().unwrap_or_else(|| config.broker.urls.join(","));
        return Ok(ProgramCredentials { url, seed, authority_file });
    }
    let folder = config.data_dir().join(data_folder::BROKER_FOLDER);
    let find = || {
        server::last_started_broker(&folder).with_context(|| {
            format!(
                "{} has no broker: start `streamgate up` once, or name another with --data-dir",
                folder.display()
            )
        })
    };
    let (started_url, seeds_file) = find()?;
    // Before anything is taken back.
    let url = listener.program_url().map_err(anyhow::Error::msg)?.unwrap_or_else(|| started_url.clone());
    let read_seed = || {
        RoleSeeds::from_file_of(&seeds_file, role)?.seed_of(role).with_context(|| {
            let (file, role) = (seeds_file.display(), role.name());
            format!("{file} has no seed of the role {role}: start the `streamgate up` of this version once, which makes it")
        })
    };
    if renew {
        read_seed()?;
        let renewed = server::renew_key(&folder, role).await?;
        output::print_message(match renewed {
            RenewedKey::InForce => "The old seed is refused at once",
            RenewedKey::AtNextStart => "The old seed is refused when `streamgate up` starts",
            RenewedKey::Unconfirmed => {
                "The old seed is replaced, but the server has not refused it yet: start `streamgate up` again to be sure"
            }
        });
        // Otherwise `up` does it when it starts.
        if renewed != RenewedKey::AtNextStart {
            let admin = RoleSeeds::from_file(&seeds_file)?.seed_of(Role::Admin);
            if let Err(error) = remove_consumers(started_url, admin).await {
                output::print_message(format!(
                    "Consumers of the old seed may be left ({error:#}): `streamgate nats apply` removes them"
                ));
            }
        }
    }
    Ok(ProgramCredentials { url, seed: read_seed()?, authority_file })
}

/// Ends what the old seed may have left in the mirrors and would not end by itself.
async fn remove_consumers(url: String, admin_seed: Option<String>) -> anyhow::Result<()> {
    let bus = Bus::connect(&BusConfig::new(vec![url], Role::Admin, admin_seed)).await?;
    topology::remove_push_consumers(bus.context()).await?;
    Ok(bus.close().await?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_is_one_word_of_a_shell() {
        assert_eq!(quote("tls://h:4222"), "tls://h:4222");
        assert_eq!(quote("/a b/c'd"), "'/a b/c'\\''d'");
    }
}
