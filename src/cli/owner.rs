//! `owner`: what contracts own under names without a chain, giving things to another owner, and removing one.

use nats::Bus;
use serde_json::json;

use super::{output, render};
use crate::{owner_removal, ownership_transfer};

/// Longest name of an owner in characters.
const OWNER_LENGTH_MAX: usize = 128;

/// Lists what contract accounts own under names without a chain.
///
/// # Errors
/// When the broker does not answer.
pub async fn list_chainless(bus: &Bus, as_json: bool) -> anyhow::Result<()> {
    let found = ownership_transfer::find_chainless_owners(bus).await?;
    if as_json {
        found.iter().try_for_each(|one| output::print_json(&json!(one)))?;
        return Ok(());
    }
    let row = |one: &ownership_transfer::ChainlessOwner| {
        let proven: Vec<&str> = one.proven.iter().map(String::as_str).collect();
        vec![one.owner.clone(), one.media_count.to_string(), one.key_count.to_string(), proven.join(" ")]
    };
    let rows: Vec<Vec<String>> = found.iter().map(row).collect();
    output::print_line(render::format_table(&["OWNER", "MEDIA", "KEYS", "PROVEN AS"], &rows))?;
    Ok(())
}

/// Gives the media and keys of an owner to another one.
///
/// # Errors
/// When the names can't be used, or the broker does not answer.
pub async fn transfer_owner(bus: &Bus, (from, to): (&str, &str), as_json: bool) -> anyhow::Result<()> {
    anyhow::ensure!(
        is_name(from) && is_name(to) && from != to,
        "an owner is a name as media show it, such as eip155:1:0x...; name two of them"
    );
    let given = ownership_transfer::transfer_ownership(bus, from, to).await?;
    if as_json {
        output::print_json(&json!(given))?;
    } else {
        let ownership_transfer::OwnerTransferCounts { media_count, key_count, schedule_count, hook_count } =
            given;
        output::print_message(format!(
            "{media_count} media, {key_count} keys, {schedule_count} schedules and {hook_count} webhooks of {from} belong to {to} now"
        ));
    }
    Ok(())
}

fn is_name(name: &str) -> bool {
    (1..=OWNER_LENGTH_MAX).contains(&name.len()) && name.bytes().all(|b| b.is_ascii_graphic())
}

/// Refuses to remove an owner that can't be one, or by mistake.
///
/// # Errors
/// What is missing.
pub fn check_removal(owner: &str, is_confirmed: bool) -> anyhow::Result<()> {
    anyhow::ensure!(is_name(owner), "an owner is a name as media show it, such as eip155:1:0x...");
    anyhow::ensure!(
        is_confirmed,
        "all media, keys and settings of {owner} would be gone for good; say --yes to do it, or give them to another owner with \
         `streamgate owner transfer {owner} OWNER`"
    );
    Ok(())
}

/// Removes an owner with all that is its own.
///
/// # Errors
/// When the broker does not answer; doing it again goes on where it ended.
pub async fn remove_owner(bus: &Bus, owner: &str, as_json: bool) -> anyhow::Result<()> {
    let removed = owner_removal::remove_owner(bus, owner).await?;
    if as_json {
        output::print_json(&json!(removed))?;
        return Ok(());
    }
    let rows: Vec<Vec<String>> = [
        ("media", removed.media_count),
        ("parts of uploads", removed.upload_count),
        ("API keys", removed.key_count),
        ("sessions", removed.session_count),
        ("playback sessions", removed.playback_count),
        ("schedules", removed.schedule_count),
        ("webhooks", removed.hook_count),
        ("jobs on others", removed.job_count),
        ("values of the cache", removed.value_count),
    ]
    .map(|(what, count)| vec![what.to_owned(), count.to_string()])
    .into();
    output::print_line(render::format_table(&["REMOVED", "COUNT"], &rows))?;
    Ok(())
}
