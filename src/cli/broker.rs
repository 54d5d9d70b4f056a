//! Commands that speak to the broker itself: they have the role admin.

use std::sync::Arc;

use anyhow::Context;
use nats::{Bus, Role, server};
use tokio_util::sync::CancellationToken;

use crate::{
    config::Settings,
    data_folder,
    roles::{RoleSeeds, Runtime, connection},
};
use web::registry;

/// Connects as admin: to the broker that is configured, else to the one of `up` in the data folder.
///
/// # Errors
/// When there is neither, or it does not let the admin in.
pub async fn connect_admin(config: Settings) -> anyhow::Result<Bus> {
    let away_advice = if config.broker.urls.is_empty() {
        format!(
            "the `streamgate up` of {} started the last one there: start it again, or name a broker with --nats-url",
            config.data_dir().display()
        )
    } else {
        connection::NAMED_BROKER_ADVICE.to_owned()
    };
    let site = admin_runtime(config)?;
    let bus = connection::connect_to_broker(&site, Role::Admin, &away_advice).await?;
    // Each command would fail with less to say.
    match bus.verify_jetstream().await {
        Ok(()) => Ok(bus),
        Err(error) => Err(connection::explain_broker_error(&bus, &site.urls, error)),
    }
}

fn admin_runtime(config: Settings) -> anyhow::Result<Runtime> {
    if !config.broker.urls.is_empty() {
        return Runtime::from_settings(config, CancellationToken::new());
    }
    let folder = config.data_dir().join(data_folder::BROKER_FOLDER);
    let (url, seeds) = server::last_started_broker(&folder).with_context(|| {
        format!(
            "no broker is named, and {} has none: name one with --nats-url, or the folder of a running `streamgate up` \
             with --data-dir",
            folder.display()
        )
    })?;
    let seeds = RoleSeeds::from_file(&seeds)?;
    Ok(Runtime {
        config: Arc::new(config),
        urls: vec![url],
        seeds,
        shutdown: CancellationToken::new(),
        metrics: registry::MetricsRegistry::default(),
        chains: evm::ChainCounters::default(),
        dispatched: dispatch::DispatchMetrics::default(),
        webhooks: crate::keeper::webhooks::metrics::WebhookMetrics::default(),
        health: nats::ProcessHealth::new(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_a_broker_it_says_what_to_name() {
        let dir = tempfile::tempdir().unwrap();
        let config = Settings { data_dir: Some(dir.path().to_owned()), ..Settings::default() };
        let error = admin_runtime(config.clone()).unwrap_err().to_string();
        assert!(error.contains("--nats-url") && error.contains("--data-dir"), "{error}");
        // What `up` leaves in its folder is enough.
        let folder = dir.path().join("nats");
        std::fs::create_dir(&folder).unwrap();
        std::fs::write(folder.join("port"), "4321").unwrap();
        std::fs::write(folder.join("seeds"), "ingress SUINGRESS\nadmin SUADMIN\n").unwrap();
        let site = admin_runtime(config).unwrap();
        assert_eq!(site.urls, ["nats://127.0.0.1:4321"]);
        assert_eq!(site.seed_of(Role::Admin).as_deref(), Some("SUADMIN"));
    }
}
