//! `owner`: what contracts own under names without a chain, and giving things to another owner.

use nats::Bus;
use serde_json::json;

use super::{output, render};
use crate::ownership_transfer;

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
    let is_name = |name: &str| {
        (1..=OWNER_LENGTH_MAX).contains(&name.len()) && name.bytes().all(|b| b.is_ascii_graphic())
    };
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
