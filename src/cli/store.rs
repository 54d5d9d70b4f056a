//! `store adopt`: says that the configured object store is this installation's.

use schemas::ids::StoreId;
use serde_json::json;

use super::{broker, out};
use crate::{
    config::Config,
    stores::{self, Adopted},
};

/// Adopts the configured store, and prints what was done.
///
/// # Errors
/// As [`stores::adopt`], and when the broker does not let the admin in.
pub async fn adopt(config: Config, as_json: bool) -> anyhow::Result<()> {
    let settings = config.store()?;
    let url = settings.url.clone();
    let bus = broker::admin(config).await?;
    let adopted = stores::adopt(settings, &bus).await?;
    bus.close().await?;
    let (store_id, change): (StoreId, &str) = match adopted {
        Adopted::Already(store_id) => (store_id, "already"),
        Adopted::Marked(store_id) => (store_id, "marked"),
        Adopted::Taken { store_id, .. } => (store_id, "taken"),
    };
    if as_json {
        out::json(&json!({ "store_id": store_id, "url": url, "change": change }))?;
        return Ok(());
    }
    out::line(store_id)?;
    out::say(match adopted {
        Adopted::Already(_) => format!("{url} belonged to this installation already"),
        Adopted::Marked(_) => format!("{url} is marked as this installation's"),
        Adopted::Taken { before, .. } => {
            format!("{url} is this installation's from now on, in place of {before}")
        }
    });
    Ok(())
}
