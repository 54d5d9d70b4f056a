//! The installation under load: each role a process, on a broker and a store of its own.

use std::{collections::BTreeMap, sync::Arc};

use parking_lot::Mutex;

use crate::{
    chain::CHAIN_ID,
    gateway::Gateway,
    harness::{Cluster, Options, WORKERS},
    observe::{Watched, WatchedProcesses},
    options::LoadOptions,
    tally::Tally,
};

/// Rates for many clients behind one address, who are one owner.
const MANY_CLIENTS: &str = "{ capacity = 1000000, refill_per_s = 100000 }";
/// A small cache: a run fills it in its first half.
const SMALL_CACHE: &str = "size_max = \"4MiB\"\nentries_max = 100\nage = \"1m\"\n";

/// Settings of the installation, as TOML.
fn settings(options: &LoadOptions) -> String {
    let mut text =
        format!("[monitor.alerts]\ntime_scale = {}\n[auth]\nchains = [{CHAIN_ID}]\n", options.time_scale);
    if !options.product_limits {
        text.push_str("challenges_per_prefix_max = 1000000\n[ingress.limit.rates]\n");
        let groups = ["api", "upload", "streaming", "metadata", "auth", "worker", "transcoder", "monitor"];
        text.extend(groups.map(|group| format!("{group} = {MANY_CLIENTS}\n")));
    }
    // A viewer here opens more sessions than a person does.
    text.push_str("[grants]\n");
    if !options.product_limits {
        text.push_str("sessions_per_wallet_max = 100000\nplayed_sessions_per_client_max = 100000\n");
    }
    if options.flat {
        // What is remembered of sessions is over soon.
        text.push_str("unused_session = \"1m\"\n");
        let caches = ["documents", "playback.cache", "playback.segment_cache"];
        text.extend(caches.map(|cache| format!("[ingress.{cache}]\n{SMALL_CACHE}")));
    }
    text
}

/// Starts everything.
pub(crate) async fn start(options: &LoadOptions) -> Cluster {
    Box::pin(Cluster::start_with(Options::default(), &settings(options))).await
}

/// How a role that can be killed is started.
pub(crate) fn arguments(role: &str) -> &'static [&'static str] {
    match role {
        "keeper" => &["keeper"],
        "upload" => &["worker", "upload"],
        "transcode" => &["worker", "transcode"],
        "tasks" => &["worker", "tasks"],
        "index" => &["worker", "index"],
        _ => &["worker", "audit"],
    }
}

/// Where clients ask.
pub(crate) fn gateway(cluster: &Cluster) -> Gateway {
    Gateway {
        http: cluster.http.clone(),
        url: cluster.url.clone(),
        key: cluster.key.clone(),
        tally: Arc::<Tally>::default(),
    }
}

/// All processes with their folders; the store is that of the process that writes most of it.
pub(crate) fn processes(cluster: &Cluster) -> WatchedProcesses {
    let folder = |name: &str| cluster.dir.path().join(name);
    let mut processes = BTreeMap::new();
    for name in WORKERS.into_iter().chain(["ingress", "keeper"]) {
        processes.insert(
            name.to_owned(),
            Watched { pid: cluster.pid(name), folder: folder(&format!("data-{name}")) },
        );
    }
    // Its own data folder has nothing: what it makes lies in the store, with the sources of others.
    if let Some(transcode) = processes.get_mut("transcode") {
        transcode.folder = folder("store");
    }
    let broker = cluster.brokers.one();
    let pid = broker.broker().pid().unwrap();
    processes.insert("broker".into(), Watched { pid, folder: broker.data_dir().to_owned() });
    Arc::new(Mutex::new(processes))
}
