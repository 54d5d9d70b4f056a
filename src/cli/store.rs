//! `store adopt`: says that the configured object store is this installation's.

use schemas::ids::StoreId;
use serde_json::json;

use super::{broker, output};
use crate::{
    config::Settings,
    stores::{self, AdoptionOutcome},
};

/// Adopts the configured store, and prints what was done.
///
/// # Errors
/// As [`stores::adopt_store`], and when the broker does not let the admin in.
pub async fn adopt_and_print(config: Settings, as_json: bool) -> anyhow::Result<()> {
    let settings = config.store_config()?;
    let url = settings.url.clone();
    let bus = broker::connect_admin(config).await?;
    let adopted = stores::adopt_store(settings, &bus).await?;
    bus.close().await?;
    let (store_id, change): (StoreId, &str) = match adopted {
        AdoptionOutcome::Already(store_id) => (store_id, "already"),
        AdoptionOutcome::Marked(store_id) => (store_id, "marked"),
        AdoptionOutcome::Taken { store_id, .. } => (store_id, "taken"),
    };
    if as_json {
        output::print_json(&json!({ "store_id": store_id, "url": url, "change": change }))?;
        return Ok(());
    }
    output::print_line(store_id)?;
    output::print_message(match adopted {
        AdoptionOutcome::Already(_) => format!("{url} belonged to this installation already"),
        AdoptionOutcome::Marked(_) => format!("{url} is marked as this installation's"),
        AdoptionOutcome::Taken { before, .. } => {
            format!("{url} is this installation's from now on, in place of {before}")
        }
    });
    Ok(())
}
