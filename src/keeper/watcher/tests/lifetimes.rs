//! Random steps of a chain, its nodes, owners and two replicas, with sessions on a real broker: no segment is answered longer than
//! promised.
//!
//! A grant is good for a minute after the decision it rests on. So a segment may be answered only if, at some moment of the minute
//! before, the rule of that moment held in the state of a block that two of three nodes knew and one of them had as its newest, by
//! an evaluation that shares no code with the evaluator. Once the nodes are well and the watcher runs, a session whose gate is
//! closed has to be refused on both replicas without the minute passing.
//!
//! `STREAMGATE_SEED=<number>` repeats a run, up to what the broker's own order of things changes.

use std::{collections::VecDeque, sync::Arc, time::Duration};

use alloy_primitives::Address;
use evm::{
    ChainConfig,
    testing::{CHAIN, COIN, ContractState, NFT, NodeBehavior},
};
use nats::Role;
use rand::{RngExt, SeedableRng, rngs::StdRng};
use schemas::{
    gate::{GateRule, PlaybackSession},
    ids::MediaId,
};
use tokio::{task::JoinSet, time::Instant};
use tokio_util::sync::CancellationToken;

use gate::{
    gate_evaluator::GateEvaluator,
    grant::{GrantConfig, PlaybackDenied, PlaybackGrants},
    testing::{
        ANN, BOB, all_rule, change_rule, coin_rule, expected_truth, nft_rule, not_rule,
        site::{GateTestSite, open_playback, wallet_viewer},
    },
};

use crate::keeper::watcher;

const STEPS: usize = 600;
/// Steps between two moments at which everything is well and watched.
const ROUND: usize = 20;
const NODES: usize = 3;
const REPLICAS: usize = 2;
const SESSIONS_MAX: usize = 24;
const CAT: Address = Address::repeat_byte(0xc3);
/// Longest wait for the watcher and the replicas, on a machine that does much else.
const SOON: Duration = Duration::from_secs(20);
/// What the steps themselves take, which the sessions' clock counts, too.
const SLACK_MS: u64 = 2_000;

/// One replica of the ingress.
struct Replica {
    grants: PlaybackGrants,
    stop: CancellationToken,
    tasks: JoinSet<()>,
}

impl Replica {
    async fn start(site: &GateTestSite) -> Self {
        let (grants, stop, mut tasks) =
            (grants(site, Role::Ingress).await, CancellationToken::new(), JoinSet::new());
        let (running, stopping) = (grants.clone(), stop.clone());
        tasks.spawn(async move { running.run(stopping).await.unwrap() });
        Self { grants, stop, tasks }
    }

    async fn end(mut self) {
        self.stop.cancel();
        while let Some(ended) = self.tasks.join_next().await {
            ended.unwrap();
        }
    }
}

/// Sessions over nodes of their own acquaintance.
async fn grants(site: &GateTestSite, role: Role) -> PlaybackGrants {
    let config = ChainConfig {
        chain_id: CHAIN,
        confirmations: 2,
        head_cache_ms: 0,
        quarantine_ms: 0,
        call_timeout_ms: 100,
        questions_per_s_max: 1_000_000,
        ..ChainConfig::default()
    };
    let ahead_ms = Arc::clone(&site.ahead_ms);
    let clock = Arc::new(move || nats::now_ms() + ahead_ms.load(std::sync::atomic::Ordering::SeqCst));
    let judge = GateEvaluator::new(site.world.open_client(config));
    PlaybackGrants::with_clock(site.broker.bus(role).await, judge, GrantConfig::default(), clock)
}

struct Film {
    media_id: MediaId,
    rule: usize,
}

struct Playing {
    session: PlaybackSession,
    film: usize,
    wallet: Address,
}

/// What a quorum could have said from this moment to the next.
struct Moment {
    began_ms: u64,
    views: Vec<ContractState>,
    /// The rule of each film.
    rules: Vec<usize>,
}

#[derive(Debug, Default)]
struct Counts {
    opened: usize,
    refused: usize,
    played: usize,
    closed: usize,
    ended: usize,
}

struct Simulation {
    site: GateTestSite,
    replicas: Vec<Replica>,
    random: StdRng,
    rules: Vec<GateRule>,
    films: Vec<Film>,
    sessions: Vec<Playing>,
    moments: VecDeque<Moment>,
    counts: Counts,
    /// Steps for which no node answers.
    outage: usize,
    label: String,
}

impl Simulation {
    async fn start(seed: u64) -> Self {
        let site = GateTestSite::start().await;
        let rules = vec![
            nft_rule(NFT, Some(1)),
            nft_rule(NFT, None),
            not_rule(nft_rule(NFT, Some(2))),
            coin_rule(COIN, 5),
            all_rule(&[nft_rule(NFT, Some(2)), coin_rule(COIN, 3)]),
        ];
        let mut films = Vec::new();
        for (rule, said) in rules.iter().enumerate() {
            films.push(Film { media_id: site.create_medium(Some(said)).await, rule });
        }
        let mut replicas = Vec::new();
        for _ in 0..REPLICAS {
            replicas.push(Replica::start(&site).await);
        }
        let mut simulation = Self {
            site,
            replicas,
            random: StdRng::seed_from_u64(seed),
            rules,
            films,
            sessions: Vec::new(),
            moments: VecDeque::new(),
            counts: Counts::default(),
            outage: 0,
            label: format!("seed {seed}"),
        };
        simulation.note();
        simulation
    }

    fn now_ms(&self) -> u64 {
        nats::now_ms() + self.site.ahead_ms.load(std::sync::atomic::Ordering::SeqCst)
    }

    fn pick<T: Copy>(&mut self, of: &[T]) -> T {
        of[self.random.random_range(0..of.len())]
    }

    /// Keeps what a quorum can say from now on.
    fn note(&mut self) {
        let views = self.site.world.shared_heads().iter().map(|made| made.state.clone()).collect();
        let rules = self.films.iter().map(|film| film.rule).collect();
        let now_ms = self.now_ms();
        self.moments.push_back(Moment { began_ms: now_ms, views, rules });
        let oldest_ms = now_ms.saturating_sub(GrantConfig::default().grant_ms + SLACK_MS);
        // The one before the oldest that counts lasts into it.
        while self.moments.get(1).is_some_and(|next| next.began_ms < oldest_ms) {
            self.moments.pop_front();
        }
    }

    /// True when the gate of a film was open to `wallet` at some moment since `since_ms`.
    fn was_open(&self, film: usize, wallet: Address, since_ms: u64) -> bool {
        self.moments.iter().enumerate().any(|(index, moment)| {
            let ended_ms = self.moments.get(index + 1).map_or(u64::MAX, |next| next.began_ms);
            let rule = &self.rules[moment.rules[film]];
            ended_ms >= since_ms
                && moment.views.iter().any(|state| expected_truth(rule, wallet, state) == Some(true))
        })
    }

    /// Something happens on the chain or to its nodes.
    fn change(&mut self) {
        let world = self.site.world.clone();
        let (wallet, token) = (self.pick(&[ANN, BOB, CAT]), self.random.random_range(1..=3));
        match self.random.random_range(0..100) {
            0..16 => world.transfer_token(token, Some(wallet)),
            16..19 => world.transfer_token(token, None),
            19..30 => {
                let amount = self.random.random_range(0..10);
                world.mine_block(|state| {
                    state.coins.insert(wallet, amount);
                });
            }
            30..62 => world.mine_block(|_| {}),
            62..67 => world.reorganise_chain(self.random.random_range(1..5)),
            67..74 => world.rewind_node(self.random.random_range(0..NODES), self.random.random_range(1..4)),
            // At most one node lies, and none begins to in the breath in which another stops.
            74..80 if world.is_honest() => {
                let mood = self.pick(&[
                    NodeBehavior::ClaimsAll,
                    NodeBehavior::ClaimsNone,
                    NodeBehavior::InventsHeads,
                    NodeBehavior::LogsBehind,
                ]);
                world.set_behavior(self.random.random_range(0..NODES), mood);
            }
            80..84 if world.is_honest() => {
                let mood = self.pick(&[NodeBehavior::Hangs, NodeBehavior::Down, NodeBehavior::Throttles]);
                world.set_behavior(self.random.random_range(0..NODES), mood);
            }
            84..88 if self.outage == 0 => self.outage = self.random.random_range(5..20),
            _ => (0..NODES).for_each(|node| world.set_behavior(node, NodeBehavior::Honest)),
        }
        if self.outage > 0 {
            self.outage -= 1;
            let mood = if self.outage == 0 { NodeBehavior::Honest } else { NodeBehavior::Down };
            (0..NODES).for_each(|node| world.set_behavior(node, mood));
        }
        for node in 0..NODES {
            if self.random.random_bool(0.7) {
                world.sync_node(node);
            }
        }
    }

    async fn step(&mut self) {
        let seconds = if self.outage > 0 { 8 } else { self.pick(&[0, 1, 4, 4, 15]) };
        self.site.world.advance_time(seconds);
        self.site.advance_ms(seconds * 1_000);
        self.change();
        if self.random.random_bool(0.03) {
            let film = self.random.random_range(0..self.films.len());
            let rule = self.random.random_range(0..self.rules.len());
            change_rule(&self.site, self.films[film].media_id, Some(&self.rules[rule])).await;
            self.films[film].rule = rule;
        }
        if self.random.random_bool(0.05) {
            let replica = self.random.random_range(0..REPLICAS);
            self.restart(replica).await;
        }
        self.note();
        self.open().await;
        for _ in 0..4 {
            self.segment().await;
        }
    }

    async fn restart(&mut self, replica: usize) {
        let fresh = Replica::start(&self.site).await;
        std::mem::replace(&mut self.replicas[replica], fresh).end().await;
    }

    async fn open(&mut self) {
        let (film, wallet) = (self.random.random_range(0..self.films.len()), self.pick(&[ANN, BOB, CAT]));
        let replica = self.random.random_range(0..REPLICAS);
        let now_ms = self.now_ms();
        match open_playback(&self.replicas[replica].grants, &wallet_viewer(wallet), self.films[film].media_id)
            .await
        {
            Ok(session) => {
                assert!(self.was_open(film, wallet, now_ms), "false admission: {} {session:?}", self.label);
                self.counts.opened += 1;
                self.sessions.push(Playing { session, film, wallet });
                let surplus = self.sessions.len().saturating_sub(SESSIONS_MAX);
                self.sessions.drain(..surplus);
            }
            Err(PlaybackDenied::Closed { .. }) => self.counts.refused += 1,
            Err(error) => panic!("{error}: {}", self.label),
        }
    }

    /// Somebody asks for a segment.
    async fn segment(&mut self) {
        if self.sessions.is_empty() {
            return;
        }
        let at = self.random.random_range(0..self.sessions.len());
        let replica = self.random.random_range(0..REPLICAS);
        let Playing { session, film, wallet } = &self.sessions[at];
        let since_ms = self.now_ms().saturating_sub(GrantConfig::default().grant_ms + SLACK_MS);
        match self.replicas[replica].grants.check_session(session.playback_id, session.media_id).await {
            Ok(()) => {
                assert!(
                    self.was_open(*film, *wallet, since_ms),
                    "false grant: {} {wallet} {session:?}",
                    self.label
                );
                self.counts.played += 1;
            }
            Err(PlaybackDenied::Closed { .. }) => self.counts.closed += 1,
            Err(error) => panic!("{error}: {}", self.label),
        }
    }

    /// The nodes are well and the watcher runs: what is closed ends, and so it does after one more change.
    async fn settle(&mut self) {
        if std::mem::take(&mut self.outage) > 0 {
            // Who was away is left alone for a while by the clock on the wall, which is not that of the sessions.
            for replica in 0..REPLICAS {
                self.restart(replica).await;
            }
        }
        (0..NODES).for_each(|node| self.site.world.set_behavior(node, NodeBehavior::Honest));
        self.site.world.mine_block(|_| {});
        self.site.world.sync_all();
        self.note();
        let (stop, mut tasks) = (CancellationToken::new(), JoinSet::new());
        let (bus, keeper) =
            (self.site.broker.bus(Role::Keeper).await, grants(&self.site, Role::Keeper).await);
        let settings = watcher::WatcherConfig { poll_ms: 10, ..watcher::WatcherConfig::default() };
        tasks.spawn(watcher::run_watcher(bus, keeper, settings, stop.clone()));
        self.refuse_closed().await;
        let (token, wallet) = (self.random.random_range(1..=3), self.pick(&[ANN, BOB, CAT]));
        if self.random.random_bool(0.6) {
            self.site.world.transfer_token(token, Some(wallet));
        } else {
            self.site.world.reorganise_chain(self.random.random_range(1..5));
        }
        self.site.world.sync_all();
        self.note();
        self.refuse_closed().await;
        stop.cancel();
        while let Some(ended) = tasks.join_next().await {
            ended.unwrap();
        }
    }

    async fn refuse_closed(&mut self) {
        let head = self.site.world.head_block();
        let (open, closed): (Vec<_>, Vec<_>) =
            std::mem::take(&mut self.sessions).into_iter().partition(|playing| {
                let rule = &self.rules[self.films[playing.film].rule];
                expected_truth(rule, playing.wallet, &head.state) == Some(true)
            });
        for playing in &closed {
            let PlaybackSession { playback_id, media_id, .. } = playing.session;
            for replica in &self.replicas {
                let began = Instant::now();
                while replica.grants.check_session(playback_id, media_id).await.is_ok() {
                    assert!(began.elapsed() < SOON, "goes on: {} {:?}", self.label, playing.session);
                    tokio::task::yield_now().await;
                }
            }
        }
        self.counts.ended += closed.len();
        self.sessions = open;
    }
}

#[tokio::test]
async fn no_session_outlives_its_promise() {
    let seed = std::env::var("STREAMGATE_SEED").map_or_else(|_| rand::random(), |text| text.parse().unwrap());
    println!("STREAMGATE_SEED={seed}");
    let mut simulation = Simulation::start(seed).await;
    for step in 1..=STEPS {
        simulation.label = format!("seed {seed} step {step}");
        simulation.step().await;
        if step % ROUND == 0 {
            simulation.settle().await;
        }
    }
    let counts = &simulation.counts;
    println!("{counts:?}");
    // Gates that never open would pass everything above.
    assert!(counts.opened > STEPS / 20 && counts.refused > STEPS / 20, "{counts:?}");
    assert!(
        counts.played > STEPS / 10 && counts.closed > STEPS / 20 && counts.ended > STEPS / 40,
        "{counts:?}"
    );
    for replica in simulation.replicas {
        replica.end().await;
    }
}
