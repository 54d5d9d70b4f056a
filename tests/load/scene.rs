//! All clients of a run, what they share, and when they arrive.
//!
//! Limits: as many of a kind at once as the options say; who arrives beyond them is counted and left out.

use std::{
    collections::VecDeque,
    sync::Arc,
    time::{Duration, Instant},
};

use parking_lot::Mutex;
use rand::{RngExt, SeedableRng, rngs::StdRng};
use tokio::{
    sync::{RwLock, Semaphore},
    task::JoinSet,
};
use tokio_util::sync::CancellationToken;

use crate::{chain::Wallet, clients, clips::Clips, gateway::Gateway, ledger::Ledger, options::LoadOptions};

/// Wallets that the gates let in.
const VIEWERS: u8 = 32;
/// The first of them; those that only sign in are numbered from 1 on.
const FIRST_VIEWER: u8 = 201;

/// Who plays, and the access token with the time since when it is there.
pub(crate) struct Viewer {
    pub(crate) wallet: Wallet,
    pub(crate) session: Option<(String, Instant)>,
}

/// What all clients share.
pub(crate) struct Scene {
    pub(crate) gateway: Gateway,
    pub(crate) ledger: Ledger,
    pub(crate) clips: Clips,
    pub(crate) bad_percent: u32,
    pub(crate) cancelled_percent: u32,
    /// Those who do not play now.
    pub(crate) viewers: Mutex<VecDeque<Viewer>>,
    pub(crate) viewer_addresses: Vec<String>,
    /// Held for reading while a client is served: who holds it for writing finds all of them still.
    pub(crate) stillness: Arc<RwLock<()>>,
}

impl Scene {
    pub(crate) fn new(gateway: Gateway, options: &LoadOptions) -> Arc<Self> {
        let wallets = (FIRST_VIEWER..FIRST_VIEWER + VIEWERS).map(Wallet::new);
        let viewers: VecDeque<Viewer> = wallets.map(|wallet| Viewer { wallet, session: None }).collect();
        Arc::new(Self {
            ledger: Ledger::new(Arc::clone(&gateway.tally)),
            gateway,
            clips: Clips::make(),
            bad_percent: options.bad,
            cancelled_percent: options.cancelled,
            viewer_addresses: viewers.iter().map(|viewer| viewer.wallet.address.to_string()).collect(),
            viewers: Mutex::new(viewers),
            stillness: Arc::default(),
        })
    }
}

/// Lets clients arrive until `stop`, and returns once the last one is served.
pub(crate) async fn run_clients(
    scene: &Arc<Scene>,
    options: &LoadOptions,
    seed: u64,
    stop: &CancellationToken,
) {
    let arrivals = |kind: &'static str, rate: f64, number: u64| Arrivals {
        scene: Arc::clone(scene),
        kind,
        rate,
        slots: Arc::new(Semaphore::new(options.at_once as usize)),
        random: StdRng::seed_from_u64(seed.wrapping_add(number)),
        stop: stop.clone(),
    };
    tokio::join!(
        arrivals("upload", options.uploads, 1)
            .run(|scene, random| async move { clients::upload(&scene, random).await }),
        arrivals("play", options.plays, 2)
            .run(|scene, random| async move { clients::play(&scene, random).await }),
        arrivals("query", options.queries, 3)
            .run(|scene, random| async move { clients::query(&scene, random).await }),
        arrivals("sign in", options.sign_ins, 4)
            .run(|scene, random| async move { clients::sign_in(&scene, random).await }),
    );
}

/// Clients of one kind.
struct Arrivals {
    scene: Arc<Scene>,
    kind: &'static str,
    /// How many a second, on average.
    rate: f64,
    slots: Arc<Semaphore>,
    random: StdRng,
    stop: CancellationToken,
}

impl Arrivals {
    async fn run<F: Future<Output = ()> + Send + 'static>(mut self, visit: impl Fn(Arc<Scene>, StdRng) -> F) {
        if self.rate <= 0.0 {
            return;
        }
        let (mut next, mut served) = (Instant::now(), JoinSet::new());
        loop {
            // Independent of each other, as people are: the times between them have an exponential distribution.
            next += Duration::from_secs_f64(-(1.0 - self.random.random::<f64>()).ln() / self.rate);
            tokio::select! {
                () = tokio::time::sleep_until(next.into()) => {}
                () = self.stop.cancelled() => break,
            }
            let serving = Arc::clone(&self.scene.stillness).read_owned().await;
            // Those who would have come while everybody was held still do not come at once.
            next = next.max(Instant::now().checked_sub(Duration::from_millis(100)).unwrap_or(next));
            let random = StdRng::seed_from_u64(self.random.random());
            let Ok(slot) = Arc::clone(&self.slots).try_acquire_owned() else {
                self.scene.gateway.tally.count_left_out(self.kind);
                continue;
            };
            let visit = visit(Arc::clone(&self.scene), random);
            served.spawn(async move {
                visit.await;
                drop((slot, serving));
            });
            while let Some(ended) = served.try_join_next() {
                ended.unwrap();
            }
        }
        served.join_all().await;
    }
}
