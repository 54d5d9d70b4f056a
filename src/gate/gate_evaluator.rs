//! Decisions: heads, facts of one block by quorum, the evaluator; once for each viewer and block, however many ask.
//!
//! Limits: [`DECISIONS_MAX`] decisions are kept, each until its chains have a new block; a decision that a chain's nodes could not
//! support is not kept. [`FLIGHTS_MAX`] are under way at a time, each as long as somebody waits for it. A reorganisation between
//! head and facts is followed once on each chain; a chain that is away leaves its own questions open and no others.

use std::{
    collections::{BTreeSet, HashMap},
    sync::Arc,
};

use alloy_primitives::{Address, B256, Bytes};
use evm::{ChainError, ChainHead, EvmClient};
use futures::{
    FutureExt,
    future::{BoxFuture, Shared, WeakShared, join_all},
};
use parking_lot::Mutex;
use quick_cache::sync::Cache;
use schemas::gate::{ChainBlock, GateReasonCode};

use super::{
    abi,
    decide::{ContractFact, RuleTruth, RuleVerdict, decide_rule, is_node_failure},
    rule::CompiledRule,
};
use auth::account::WalletAccount;
use nats::metrics::table::GATE_SECONDS;

/// Decisions kept; when there are more, one that is used little is forgotten.
pub const DECISIONS_MAX: usize = 10_000;
/// Most decisions under way; a request that needs another meanwhile is answered that the chain is unavailable.
pub const FLIGHTS_MAX: usize = 10_000;

/// A decision and the blocks it rests on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GateDecision {
    /// What was decided.
    pub verdict: RuleVerdict,
    /// The newest block of each chain of the rule.
    pub latest: Vec<ChainBlock>,
    /// The confirmed block of each chain of the rule.
    pub confirmed: Vec<ChainBlock>,
}

/// What a session that exists has to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SessionVerdict {
    /// It goes on.
    On,
    /// It ends now.
    Over(GateReasonCode),
    /// Nobody can say at present.
    Unclear(GateReasonCode),
}

impl GateDecision {
    /// What the newest block means for a session that exists: it ends unless the rule holds or the nodes are at fault.
    pub const fn session_verdict(&self) -> SessionVerdict {
        match self.verdict.latest {
            RuleTruth::Yes => SessionVerdict::On,
            RuleTruth::Unknown(code) if is_node_failure(code) => SessionVerdict::Unclear(code),
            RuleTruth::No(code) | RuleTruth::Unknown(code) => SessionVerdict::Over(code),
        }
    }

    fn from_reason(code: GateReasonCode) -> Self {
        let verdict =
            RuleVerdict { granted: false, latest: RuleTruth::Unknown(code), code, claims: Vec::new() };
        Self { verdict, latest: Vec::new(), confirmed: Vec::new() }
    }

    /// True when asking again at the same block gives the same.
    const fn is_final(&self) -> bool {
        !is_node_failure(self.verdict.code) && !matches!(self.session_verdict(), SessionVerdict::Unclear(_))
    }
}

/// One decision: rule, wallet and the newest blocks.
type DecisionKey = (String, Option<WalletAccount>, Vec<B256>);
/// The head of each chain of a rule, or why it is not known.
type ChainHeads = Vec<(u64, Result<ChainHead, ChainError>)>;
/// A decision under way.
type PendingDecision = BoxFuture<'static, (GateDecision, Vec<B256>)>;
/// Decisions under way. Only who waits for one keeps it, so that none is resumed past its deadlines.
type PendingDecisions = Arc<Mutex<HashMap<DecisionKey, WeakShared<PendingDecision>>>>;

/// A caller that waits for a decision; the one that finds the decision made, or is the last to give up, takes it off the list.
struct DecisionWaiter {
    flights: PendingDecisions,
    key: DecisionKey,
    flight: Option<Shared<PendingDecision>>,
}

impl Drop for DecisionWaiter {
    fn drop(&mut self) {
        let mut flights = self.flights.lock();
        let Some(flight) = self.flight.take() else { return };
        let is_over = flight.peek().is_some();
        let is_ours = |listed: Shared<PendingDecision>| flight.ptr_eq(&listed);
        let listed = flights.get(&self.key).and_then(WeakShared::upgrade);
        // Another one under the same key is not ours to take off.
        if !listed.is_some_and(is_ours) {
            return;
        }
        // The list holds decisions weakly; only the last waiter may take one off that is not over.
        if is_over || flight.strong_count() == Some(1) {
            flights.remove(&self.key);
        }
    }
}

/// Decides who may play. Cheap to clone.
#[derive(Clone)]
pub struct GateEvaluator {
    chains: EvmClient,
    kept: Arc<Cache<DecisionKey, GateDecision>>,
    flights: PendingDecisions,
}

impl std::fmt::Debug for GateEvaluator {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Judge").field("chains", &self.chains).finish_non_exhaustive()
    }
}

impl GateEvaluator {
    /// A judge over `chains`.
    pub fn new(chains: EvmClient) -> Self {
        Self { chains, kept: Arc::new(Cache::new(DECISIONS_MAX)), flights: PendingDecisions::default() }
    }

    /// The chains it reads.
    pub const fn chains(&self) -> &EvmClient {
        &self.chains
    }

    /// Decides `rule` for `wallet` at the newest and the confirmed block.
    pub async fn decide(
        &self,
        rule: &CompiledRule,
        wallet: Option<impl Into<WalletAccount> + Send>,
    ) -> GateDecision {
        let began = std::time::Instant::now();
        let decision = self.find_decision(rule, wallet.map(Into::into)).await;
        GATE_SECONDS.observe_since((), began);
        decision
    }

    async fn find_decision(&self, rule: &CompiledRule, wallet: Option<WalletAccount>) -> GateDecision {
        let heads = self.read_heads(rule, wallet).await;
        let key: DecisionKey = (rule.digest.clone(), wallet, head_hashes(&heads));
        // By the hashes of the heads: with the next block nothing of before is answered any more.
        if let Some(decision) = self.kept.get(&key) {
            return decision;
        }
        let start = || {
            let (chains, rule) = (self.chains.clone(), rule.clone());
            async move { decide_at_heads(&chains, &rule, wallet, heads).await }.boxed().shared()
        };
        let Some((decision, hashes)) = self.join_decision(&key, start).await else {
            return GateDecision::from_reason(GateReasonCode::ChainUnavailable);
        };
        // What nodes could not say is asked anew each time: kept, an outage would last until the next block.
        if decision.is_final() {
            // The decision of the newest blocks it read: after a reorganisation not those of the key.
            self.kept.insert((key.0, key.1, hashes), decision.clone());
        }
        decision
    }

    /// Waits for the decision of `key`, which starts unless it is under way; `None` when too many are.
    async fn join_decision(
        &self,
        key: &DecisionKey,
        start: impl FnOnce() -> Shared<PendingDecision>,
    ) -> Option<(GateDecision, Vec<B256>)> {
        let (waiting, flight) = {
            let mut flights = self.flights.lock();
            let flight = match flights.get(key).and_then(WeakShared::upgrade) {
                Some(flight) => flight,
                None if flights.len() >= FLIGHTS_MAX => return None,
                None => {
                    let flight = start();
                    flights.insert(key.clone(), flight.downgrade()?);
                    flight
                }
            };
            let flights = Arc::clone(&self.flights);
            (DecisionWaiter { flights, key: key.clone(), flight: Some(flight.clone()) }, flight)
        };
        let decided = flight.await;
        drop(waiting);
        Some(decided)
    }

    /// Decisions under way.
    #[cfg(test)]
    pub(crate) fn pending_count(&self) -> usize {
        self.flights.lock().len()
    }

    /// The newest blocks of those of the rule's chains on which the wallet is known: no contract is asked elsewhere, and none when
    /// nobody signed in.
    async fn read_heads(&self, rule: &CompiledRule, wallet: Option<WalletAccount>) -> ChainHeads {
        let Some(wallet) = wallet else { return Vec::new() };
        let head = |chain_id| async move { (chain_id, self.chains.read_head(chain_id).await) };
        join_all(rule.leaves_by_chain().into_keys().filter(|id| wallet.applies_on_chain(*id)).map(head)).await
    }
}

/// The newest blocks; zero for a chain that is away.
fn head_hashes(heads: &ChainHeads) -> Vec<B256> {
    heads.iter().map(|(_, head)| head.as_ref().map_or(B256::ZERO, |head| head.latest.hash)).collect()
}

/// Decides by `heads`; also answers the newest blocks that were read.
async fn decide_at_heads(
    chains: &EvmClient,
    rule: &CompiledRule,
    wallet: Option<WalletAccount>,
    mut heads: ChainHeads,
) -> (GateDecision, Vec<B256>) {
    let mut followed = BTreeSet::new();
    loop {
        let gone = match read_facts(chains, rule, wallet, &heads).await {
            Ok(decision) => return (decision, head_hashes(&heads)),
            Err(chain_id) => chain_id,
        };
        // A block of this chain is gone: what was read of it is worth nothing. Read again at the chain as it is now, once.
        chains.invalidate_head(gone).await;
        for (chain_id, head) in &mut heads {
            // Once a chain: one whose newest block goes again and again must not keep the decision going.
            if *chain_id == gone && followed.insert(gone) {
                *head = chains.read_head(gone).await;
            } else if *chain_id == gone {
                *head = Err(ChainError::Reorganised { chain_id: gone });
            }
        }
    }
}

/// Reads all facts and decides; the id of a chain whose block is gone.
async fn read_facts(
    chains: &EvmClient,
    rule: &CompiledRule,
    wallet: Option<WalletAccount>,
    heads: &ChainHeads,
) -> Result<GateDecision, u64> {
    let unread = vec![ContractFact::Failed(GateReasonCode::ChainUnavailable); rule.leaves.len()];
    let (mut latest, mut confirmed) = (unread.clone(), unread);
    let by_chain = rule.leaves_by_chain();
    if let Some(holder) = wallet.map(|wallet| wallet.address.get()) {
        let reading = heads.iter().filter_map(|(chain_id, head)| {
            let leaves = by_chain.get(chain_id)?;
            let asked: Vec<(usize, Vec<(Address, Bytes)>)> = leaves
                .iter()
                .filter_map(|index| Some((*index, abi::build_calls(rule.leaves.get(*index)?, holder))))
                .collect();
            let calls: Vec<(Address, Bytes)> = asked.iter().flat_map(|(_, calls)| calls.clone()).collect();
            Some(async move {
                let outcomes = match head {
                    Ok(head) => call_at_both_heads(chains, *chain_id, &calls, head).await,
                    Err(error) => {
                        Ok((vec![Err(error.clone()); calls.len()], vec![Err(error.clone()); calls.len()]))
                    }
                };
                (asked, outcomes)
            })
        });
        for (asked, outcomes) in join_all(reading).await {
            let (now, before) = outcomes?;
            let mut place = 0;
            for (index, calls) in asked {
                let Some(leaf) = rule.leaves.get(index) else { continue };
                for (facts, outcomes) in [(&mut latest, &now), (&mut confirmed, &before)] {
                    let outcomes = outcomes.get(place..place + calls.len());
                    if let (Some(fact), Some(outcomes)) = (facts.get_mut(index), outcomes) {
                        *fact = abi::read_fact(leaf, outcomes);
                    }
                }
                place += calls.len();
            }
        }
    }
    let blocks = |which: fn(&ChainHead) -> evm::EvmBlock| {
        let read = heads.iter().filter_map(|(chain_id, head)| Some((*chain_id, which(head.as_ref().ok()?))));
        let named = read.map(|(chain_id, block)| ChainBlock {
            chain_id,
            number: block.number,
            hash: block.hash.to_string(),
        });
        named.collect()
    };
    Ok(GateDecision {
        verdict: decide_rule(rule, wallet, &latest, &confirmed),
        latest: blocks(|head| head.latest),
        confirmed: blocks(|head| head.confirmed),
    })
}

type CallOutcomes = Vec<Result<Bytes, ChainError>>;

/// The same calls at the newest and at the confirmed block; the chain's id when one of them is gone.
async fn call_at_both_heads(
    chains: &EvmClient,
    chain_id: u64,
    calls: &[(Address, Bytes)],
    head: &ChainHead,
) -> Result<(CallOutcomes, CallOutcomes), u64> {
    let at = |hash: B256| async move {
        match chains.call_contracts(chain_id, calls, hash).await {
            Ok(outcomes) => outcomes,
            Err(error) => vec![Err(error); calls.len()],
        }
    };
    let (latest, confirmed) = if head.latest == head.confirmed {
        let outcomes = at(head.latest.hash).await;
        (outcomes.clone(), outcomes)
    } else {
        tokio::join!(at(head.latest.hash), at(head.confirmed.hash))
    };
    // `requireCanonical`, EIP-1898: a node refuses a block that is no longer part of its chain.
    if latest.iter().chain(&confirmed).any(|outcome| matches!(outcome, Err(ChainError::Reorganised { .. }))) {
        return Err(chain_id);
    }
    Ok((latest, confirmed))
}
