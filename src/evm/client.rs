//! All chains: heads, calls, code and logs by quorum.
//!
//! Limits: one decision costs two requests for the head and one for the facts of each of its two blocks to each provider; heads
//! are asked for by one task at a time and kept for [`ChainConfig::head_cache_ms`], failures too.

use std::{collections::BTreeMap, fmt, sync::Arc, time::Duration};

use alloy_primitives::{Address, B256, Bytes};
use futures::{StreamExt, stream::FuturesUnordered};
use tokio::{
    sync::Mutex,
    time::{Instant, timeout},
};

use super::{
    BlockRef, ChainConfig, ChainCounters, ChainError, ChainHead, ContractLog, EvmBlock, HttpTransport,
    RpcTransport, counters,
    error::ProviderFault,
    head::shared_height,
    provider::{ProviderResponses, RpcProvider},
    quorum::{VoteTally, count_votes},
    rpc::{RpcRequest, RpcResponse},
};

/// How long the newest block waits for those who are slower than the quorum: one of the quorum may be behind.
const STRAGGLERS: Duration = Duration::from_millis(100);

/// A transport and its name for the log.
pub type NamedTransport = (String, Arc<dyn RpcTransport>);

/// Returns Unix time in seconds.
pub type ChainClock = Arc<dyn Fn() -> u64 + Send + Sync>;

/// The configured chains. Cheap to clone.
#[derive(Clone, Default)]
pub struct EvmClient {
    chains: Arc<BTreeMap<u64, ChainProviders>>,
    counts: ChainCounters,
}

impl fmt::Debug for EvmClient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.chains.keys()).finish()
    }
}

/// One chain and its providers.
struct ChainProviders {
    config: ChainConfig,
    quorum: usize,
    providers: Vec<RpcProvider>,
    head: Mutex<HeadCache>,
    clock: ChainClock,
    counts: ChainCounters,
}

/// What is known of the head.
#[derive(Default)]
struct HeadCache {
    newest: Option<(Instant, Result<ChainHead, ChainError>)>,
    /// The highest block ever accepted, and when: going back behind it would forget what it said.
    highest: Option<(Instant, u64)>,
}

impl EvmClient {
    /// Opens the chains of `configs`.
    ///
    /// # Errors
    /// The setting and the reason, for people.
    pub fn open(configs: &[ChainConfig]) -> Result<Self, String> {
        Self::open_with_counters(configs, ChainCounters::default())
    }

    /// The same; what comes of asking is counted in `counts`, which several may share.
    ///
    /// # Errors
    /// As [`EvmClient::open`].
    pub fn open_with_counters(configs: &[ChainConfig], counts: ChainCounters) -> Result<Self, String> {
        let clock: ChainClock = Arc::new(|| nats::now_ms() / 1_000);
        let chains = configs.iter().map(|config| {
            config.check()?;
            let transports = config
                .rpc_urls
                .iter()
                .map(|url| {
                    let http =
                        HttpTransport::new(url.clone(), config).map_err(|error| format!("{url}: {error}"))?;
                    Ok((url.to_string(), Arc::new(http) as Arc<dyn RpcTransport>))
                })
                .collect::<Result<Vec<_>, String>>()?;
            Ok((config.clone(), transports))
        });
        Self::with_counters(chains.collect::<Result<Vec<_>, String>>()?, &clock, counts)
    }

    /// Chains over transports of the caller's own, by name.
    ///
    /// # Errors
    /// When a chain is named twice or has no quorum.
    pub fn with_transports(
        chains: Vec<(ChainConfig, Vec<NamedTransport>)>,
        clock: &ChainClock,
    ) -> Result<Self, String> {
        Self::with_counters(chains, clock, ChainCounters::default())
    }

    fn with_counters(
        chains: Vec<(ChainConfig, Vec<NamedTransport>)>,
        clock: &ChainClock,
        counts: ChainCounters,
    ) -> Result<Self, String> {
        let mut opened = BTreeMap::new();
        for (config, transports) in chains {
            let (chain_id, count) = (config.chain_id, transports.len());
            let quorum = config.quorum.unwrap_or(count / 2 + 1);
            // More than half: with less, two answers that contradict each other could both have a quorum.
            if quorum > count || quorum * 2 <= count {
                return Err(format!("chain {chain_id}: {quorum} of {count} providers are no quorum"));
            }
            let providers = transports
                .into_iter()
                .map(|(name, transport)| RpcProvider::new(name, transport, &config))
                .collect();
            let (clock, counted) = (Arc::clone(clock), counts.clone());
            let chain =
                ChainProviders { config, quorum, providers, head: Mutex::default(), clock, counts: counted };
            if opened.insert(chain_id, chain).is_some() {
                return Err(format!("chain {chain_id} is configured twice"));
            }
        }
        Ok(Self { chains: Arc::new(opened), counts })
    }

    /// The same chains and providers with limits, rests, budgets and heads of their own: whatever those who are asked for here
    /// bring about, the others go on.
    #[must_use]
    pub fn with_separate_limits(&self) -> Self {
        let apart = |chain: &ChainProviders| ChainProviders {
            config: chain.config.clone(),
            quorum: chain.quorum,
            providers: chain
                .providers
                .iter()
                .map(|provider| provider.with_separate_limits(&chain.config))
                .collect(),
            head: Mutex::default(),
            clock: Arc::clone(&chain.clock),
            counts: chain.counts.clone(),
        };
        let chains = self.chains.iter().map(|(chain_id, chain)| (*chain_id, apart(chain))).collect();
        Self { chains: Arc::new(chains), counts: self.counts.clone() }
    }

    /// What came of asking.
    pub const fn counters(&self) -> &ChainCounters {
        &self.counts
    }

    /// Ids of the configured chains, in order.
    pub fn chain_ids(&self) -> Vec<u64> {
        self.chains.keys().copied().collect()
    }

    /// Settings of a chain.
    ///
    /// # Errors
    /// [`ChainError::Unknown`].
    pub fn chain_config(&self, chain_id: u64) -> Result<&ChainConfig, ChainError> {
        Ok(&self.find_chain(chain_id)?.config)
    }

    /// The blocks to decide by, at most [`ChainConfig::head_cache_ms`] old.
    ///
    /// # Errors
    /// When too few providers answer, contradict each other, or are behind.
    pub async fn read_head(&self, chain_id: u64) -> Result<ChainHead, ChainError> {
        self.find_chain(chain_id)?.current_head().await
    }

    /// Forgets the cached head, after a block turned out to be gone.
    pub async fn invalidate_head(&self, chain_id: u64) {
        if let Ok(chain) = self.find_chain(chain_id) {
            chain.head.lock().await.newest = None;
        }
    }

    /// Several calls at one block, each limited to [`ChainConfig::call_gas_max`]; one outcome for each.
    ///
    /// # Errors
    /// [`ChainError::TooMany`] above [`ChainConfig::batch_max`].
    pub async fn call_contracts(
        &self,
        chain_id: u64,
        calls: &[(Address, Bytes)],
        at: B256,
    ) -> Result<Vec<Result<Bytes, ChainError>>, ChainError> {
        let chain = self.find_chain(chain_id)?;
        let gas = chain.config.call_gas_max;
        let question =
            |(to, data): &(Address, Bytes)| RpcRequest::Call { to: Some(*to), data: data.clone(), at, gas };
        let answers = chain.agree_on_each(&calls.iter().map(question).collect::<Vec<_>>()).await?;
        for ((contract, _), answer) in calls.iter().zip(&answers) {
            // A call to an address without code succeeds and returns nothing.
            if matches!(answer, Ok(RpcResponse::Bytes(bytes)) if bytes.is_empty()) {
                self.counts.queue_doubt(counters::absent_contract_event(chain_id, *contract));
            }
        }
        Ok(answers.into_iter().map(|answer| chain.expect_bytes(answer?)).collect())
    }

    /// What the contract at `to` answers to `data`, limited to [`ChainConfig::call_gas_max`].
    ///
    /// # Errors
    /// [`ChainError::Reverted`] when the contract refuses or burns its gas; the others when nothing is known.
    pub async fn call_contract(
        &self,
        chain_id: u64,
        to: Address,
        data: Bytes,
        block: BlockRef,
    ) -> Result<Bytes, ChainError> {
        let at = self.resolve_block(chain_id, block).await?;
        self.call_with_gas(chain_id, Some(to), data, at, self.chain_config(chain_id)?.call_gas_max).await
    }

    /// The code at `address`; empty when there is none.
    ///
    /// # Errors
    /// When nothing is known.
    pub async fn read_code(
        &self,
        chain_id: u64,
        address: Address,
        block: BlockRef,
    ) -> Result<Bytes, ChainError> {
        let at = self.resolve_block(chain_id, block).await?;
        self.request_bytes(chain_id, RpcRequest::Code { address, at }).await
    }

    /// One call with a limit of its own; without `to`, `data` runs as a program.
    ///
    /// # Errors
    /// As [`EvmClient::call_contract`].
    pub async fn call_with_gas(
        &self,
        chain_id: u64,
        to: Option<Address>,
        data: Bytes,
        at: B256,
        gas: u64,
    ) -> Result<Bytes, ChainError> {
        self.request_bytes(chain_id, RpcRequest::Call { to, data, at, gas }).await
    }

    /// The block at `number`, by quorum.
    ///
    /// # Errors
    /// [`ChainError::Reorganised`] when the chain does not reach so far; else when nothing is known.
    pub async fn read_block(&self, chain_id: u64, number: u64) -> Result<EvmBlock, ChainError> {
        let chain = self.find_chain(chain_id)?;
        match chain.agree_on_all(&[RpcRequest::BlockAt(number)], |_| true).await?.as_slice() {
            [RpcResponse::Block(block)] => Ok(*block),
            _ => Err(ChainError::Disagreement { chain_id }),
        }
    }

    /// Logs of `addresses` whose first topic is one of `topics`, from block `from` to `to` inclusive, by quorum.
    ///
    /// # Errors
    /// [`ChainError::TooMany`] above [`ChainConfig::log_blocks_max`] blocks; else when nothing is known.
    pub async fn read_logs(
        &self,
        chain_id: u64,
        (from, to): (u64, EvmBlock),
        addresses: Vec<Address>,
        topics: Vec<B256>,
    ) -> Result<Vec<ContractLog>, ChainError> {
        let chain = self.find_chain(chain_id)?;
        let count = to.number.saturating_sub(from).saturating_add(1);
        if count > chain.config.log_blocks_max {
            let count_max = usize::try_from(chain.config.log_blocks_max).unwrap_or(usize::MAX);
            return Err(ChainError::TooMany {
                count: usize::try_from(count).unwrap_or(usize::MAX),
                count_max,
            });
        }
        // Nodes answer `eth_getLogs` beyond their head with a shorter list and no error: the block shows that they
        // have it.
        let questions =
            [RpcRequest::BlockAt(to.number), RpcRequest::Logs { from, to: to.number, addresses, topics }];
        let has_block = |answers: &[RpcResponse]| matches!(answers, [RpcResponse::Block(block), ..] if block.hash == to.hash);
        match chain.agree_on_all(&questions, has_block).await?.as_slice() {
            [_, RpcResponse::Logs(logs)] => Ok(logs.clone()),
            _ => Err(ChainError::Disagreement { chain_id }),
        }
    }

    /// The one answer to a question that is answered with bytes.
    async fn request_bytes(&self, chain_id: u64, question: RpcRequest) -> Result<Bytes, ChainError> {
        let chain = self.find_chain(chain_id)?;
        let answer = chain.agree_on_each(&[question]).await?.pop();
        chain.expect_bytes(answer.unwrap_or(Err(ChainError::Unavailable { chain_id }))?)
    }

    fn find_chain(&self, chain_id: u64) -> Result<&ChainProviders, ChainError> {
        self.chains.get(&chain_id).ok_or(ChainError::Unknown { chain_id })
    }

    async fn resolve_block(&self, chain_id: u64, block: BlockRef) -> Result<B256, ChainError> {
        match block {
            BlockRef::At(hash) => Ok(hash),
            BlockRef::Latest => Ok(self.read_head(chain_id).await?.latest.hash),
            BlockRef::Confirmed => Ok(self.read_head(chain_id).await?.confirmed.hash),
        }
    }
}

impl ChainProviders {
    const fn chain_id(&self) -> u64 {
        self.config.chain_id
    }

    fn expect_bytes(&self, answer: RpcResponse) -> Result<Bytes, ChainError> {
        match answer {
            RpcResponse::Bytes(bytes) => Ok(bytes),
            RpcResponse::Reverted => Err(ChainError::Reverted { chain_id: self.chain_id() }),
            _ => Err(ChainError::Disagreement { chain_id: self.chain_id() }),
        }
    }

    /// Asks all providers at once and stops listening once `done` says so and stragglers had `patience`.
    async fn gather_responses(
        &self,
        questions: &[RpcRequest],
        patience: Duration,
        mut done: impl FnMut(&[(usize, ProviderResponses)], usize) -> bool + Send,
    ) -> Result<Vec<(usize, ProviderResponses)>, ChainError> {
        if questions.len() > self.config.batch_max {
            return Err(ChainError::TooMany { count: questions.len(), count_max: self.config.batch_max });
        }
        let mut asking: FuturesUnordered<_> = self
            .providers
            .iter()
            .enumerate()
            .map(|(index, provider)| async move { (index, provider.send_requests(questions).await) })
            .collect();
        let mut said = Vec::with_capacity(self.providers.len());
        while let Some(one) = asking.next().await {
            said.push(one);
            if done(&said, asking.len()) {
                break;
            }
        }
        // The time is up or all have answered: both are fine.
        timeout(patience, async {
            while let Some(one) = asking.next().await {
                said.push(one);
            }
        })
        .await
        .ok();
        for (index, said) in &said {
            if let Some(fault) = first_fault(said) {
                self.counts.count_fault(self.chain_id(), &provider_position(*index), fault);
            }
        }
        Ok(said)
    }

    /// A quorum for each question by itself.
    async fn agree_on_each(
        &self,
        questions: &[RpcRequest],
    ) -> Result<Vec<Result<RpcResponse, ChainError>>, ChainError> {
        let count = |said: &[(usize, ProviderResponses)], outstanding: usize, index: usize| {
            let votes: Vec<_> = said
                .iter()
                .map(|(voter, said)| {
                    let vote = said.as_ref().ok().and_then(|answers| answers.get(index)?.as_ref().ok());
                    (*voter, vote.cloned())
                })
                .collect();
            count_votes(&votes, outstanding, self.quorum)
        };
        let said = self
            .gather_responses(questions, Duration::ZERO, |said, outstanding| {
                (0..questions.len()).all(|index| count(said, outstanding, index) != VoteTally::Open)
            })
            .await?;
        let answered: Vec<usize> =
            said.iter().filter(|(_, said)| said.is_ok()).map(|(voter, _)| *voter).collect();
        Ok(questions
            .iter()
            .enumerate()
            .map(|(index, question)| {
                let votes = count(&said, 0, index);
                let said: Vec<_> = said.iter().map(|(_, said)| fault_at(said, index)).collect();
                self.resolve_tally(votes, question.is_pinned(), &said, &answered)
            })
            .collect())
    }

    /// A quorum for all questions together: the answers are of one view of the chain. Those that are not `valid` do not count.
    async fn agree_on_all(
        &self,
        questions: &[RpcRequest],
        valid: impl Fn(&[RpcResponse]) -> bool + Send + Sync,
    ) -> Result<Vec<RpcResponse>, ChainError> {
        let whole = |said: &ProviderResponses| -> Option<Vec<RpcResponse>> {
            let answers = said.as_ref().ok()?.iter().map(|answer| answer.as_ref().ok().cloned());
            answers.collect::<Option<Vec<_>>>().filter(|answers| valid(answers))
        };
        let count = |said: &[(usize, ProviderResponses)], outstanding: usize| {
            let votes: Vec<_> = said.iter().map(|(voter, said)| (*voter, whole(said))).collect();
            count_votes(&votes, outstanding, self.quorum)
        };
        let said = self
            .gather_responses(questions, Duration::ZERO, |said, outstanding| {
                count(said, outstanding) != VoteTally::Open
            })
            .await?;
        let faults: Vec<_> = said
            .iter()
            .flat_map(|(_, said)| (0..questions.len()).map(|index| fault_at(said, index)))
            .collect();
        let answered: Vec<usize> =
            said.iter().filter(|(_, said)| whole(said).is_some()).map(|(voter, _)| *voter).collect();
        self.resolve_tally(count(&said, 0), false, &faults, &answered)
    }

    /// Turns a count into an answer, and leaves out who contradicted the quorum about a pinned block.
    fn resolve_tally<T>(
        &self,
        votes: VoteTally<T>,
        pinned: bool,
        faults: &[Option<&ProviderFault>],
        answered: &[usize],
    ) -> Result<T, ChainError> {
        let chain_id = self.chain_id();
        let doubt = |who: &[usize]| {
            let places = who.iter().map(|index| provider_position(*index)).collect();
            self.counts.queue_doubt(counters::disagreement_event(chain_id, places));
        };
        match votes {
            VoteTally::Agreed { value, dissenters } => {
                // Of a block named by hash there is one truth; answers about the newest may differ honestly.
                if pinned && !dissenters.is_empty() {
                    doubt(&dissenters);
                    dissenters
                        .iter()
                        .filter_map(|index| self.providers.get(*index))
                        .for_each(RpcProvider::quarantine);
                }
                Ok(value)
            }
            VoteTally::Split => {
                doubt(answered);
                Err(ChainError::Disagreement { chain_id })
            }
            // Only without a quorum: one node that lags behind does not make a block go.
            VoteTally::Open | VoteTally::TooFew if faults.contains(&Some(&ProviderFault::NoBlock)) => {
                Err(ChainError::Reorganised { chain_id })
            }
            VoteTally::Open | VoteTally::TooFew => Err(ChainError::Unavailable { chain_id }),
        }
    }

    async fn current_head(&self) -> Result<ChainHead, ChainError> {
        // Callers that come meanwhile wait here and take what this one found.
        let mut known = self.head.lock().await;
        if let Some((at, newest)) = &known.newest
            && at.elapsed() < Duration::from_millis(self.config.head_cache_ms)
        {
            return newest.clone();
        }
        let highest = known.highest.filter(|(at, _)| at.elapsed() < self.head_age_max());
        let found = self.find_head(highest.map_or(0, |(_, number)| number)).await;
        if let Ok(head) = &found {
            known.highest = Some((Instant::now(), head.latest.number));
        }
        // Failures, too: while a chain is away each decision would otherwise wait for all providers.
        known.newest = Some((Instant::now(), found.clone()));
        found
    }

    const fn head_age_max(&self) -> Duration {
        Duration::from_secs(self.config.head_age_s_max)
    }

    /// Finds the newest block that a quorum knows, at least as high as `floor`.
    ///
    /// Below the floor nothing is decided until it is too old to matter: what a higher block said may not be forgotten.
    async fn find_head(&self, floor: u64) -> Result<ChainHead, ChainError> {
        let chain_id = self.chain_id();
        let shared = |said: &[(usize, ProviderResponses)]| {
            let heights: Vec<u64> = said.iter().filter_map(|(_, said)| reported_height(said)).collect();
            shared_height(&heights, self.quorum)
        };
        let said = self
            .gather_responses(&[RpcRequest::LatestBlock], STRAGGLERS, |said, _| {
                shared(said).is_some_and(|number| number >= floor)
            })
            .await?;
        let number = shared(&said).ok_or(ChainError::Unavailable { chain_id })?;
        for (index, said) in &said {
            if let Some(height) = reported_height(said) {
                self.counts.record_lag(chain_id, &provider_position(*index), number.saturating_sub(height));
            }
        }
        // Nodes that fell behind would show the past, in which a sold token is still there.
        if number < floor {
            return Err(ChainError::Stale { chain_id });
        }
        let confirmed = number.saturating_sub(self.config.confirmations);
        let blocks = [RpcRequest::BlockAt(number), RpcRequest::BlockAt(confirmed)];
        let pair = self.agree_on_all(&blocks, |_| true).await?;
        let [RpcResponse::Block(latest), RpcResponse::Block(confirmed)] = pair.as_slice() else {
            return Err(ChainError::Disagreement { chain_id });
        };
        // A chain that stands still, or nodes cut off from it, agree on a block that is long outdated.
        if latest.timestamp_s.saturating_add(self.config.head_age_s_max) < (self.clock)() {
            return Err(ChainError::Stale { chain_id });
        }
        Ok(ChainHead { latest: *latest, confirmed: *confirmed })
    }
}

fn fault_at(said: &ProviderResponses, index: usize) -> Option<&ProviderFault> {
    match said {
        Ok(answers) => answers.get(index)?.as_ref().err(),
        Err(fault) => Some(fault),
    }
}

fn first_fault(said: &ProviderResponses) -> Option<&ProviderFault> {
    match said {
        Ok(answers) => answers.iter().find_map(|answer| answer.as_ref().err()),
        Err(fault) => Some(fault),
    }
}

/// How a provider is named outside of the log: by its place in the settings, from 1. Keys may be part of host names, too.
fn provider_position(index: usize) -> String {
    index.saturating_add(1).to_string()
}

fn reported_height(said: &ProviderResponses) -> Option<u64> {
    match said.as_ref().ok()?.first()? {
        Ok(RpcResponse::Block(block)) => Some(block.number),
        _ => None,
    }
}
