//! All chains: heads, calls, code and logs by quorum.
//!
//! Limits: one decision costs two requests for the head and one for the facts of each of its two blocks to each provider; heads
//! are asked for by one task at a time and kept for [`Config::head_cache_ms`], failures too.

use std::{collections::BTreeMap, fmt, sync::Arc, time::Duration};

use alloy_primitives::{Address, B256, Bytes};
use futures::{StreamExt, stream::FuturesUnordered};
use tokio::{
    sync::Mutex,
    time::{Instant, timeout},
};

use super::{
    Block, BlockRef, Config, Counts, Error, Head, Http, Log, Transport, counts,
    error::Fault,
    head::shared_height,
    provider::{Provider, Said},
    quorum::{Tally, tally},
    rpc::{Answer, Question},
};

/// How long the newest block waits for those who are slower than the quorum: one of the quorum may be behind.
const STRAGGLERS: Duration = Duration::from_millis(100);

/// A transport and its name for the log.
pub type Named = (String, Arc<dyn Transport>);

/// Tells Unix time in seconds.
pub type Clock = Arc<dyn Fn() -> u64 + Send + Sync>;

/// The configured chains. Cheap to clone.
#[derive(Clone, Default)]
pub struct Chains {
    chains: Arc<BTreeMap<u64, Chain>>,
    counts: Counts,
}

impl fmt::Debug for Chains {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.chains.keys()).finish()
    }
}

/// One chain and its providers.
struct Chain {
    config: Config,
    quorum: usize,
    providers: Vec<Provider>,
    head: Mutex<Known>,
    clock: Clock,
    counts: Counts,
}

/// What is known of the head.
#[derive(Default)]
struct Known {
    newest: Option<(Instant, Result<Head, Error>)>,
    /// The highest block ever accepted, and when: going back behind it would forget what it said.
    highest: Option<(Instant, u64)>,
}

impl Chains {
    /// Opens the chains of `configs`.
    ///
    /// # Errors
    /// The setting and the reason, for people.
    pub fn open(configs: &[Config]) -> Result<Self, String> {
        Self::counted(configs, Counts::default())
    }

    /// The same; what comes of asking is counted in `counts`, which several may share.
    ///
    /// # Errors
    /// As [`Chains::open`].
    pub fn counted(configs: &[Config], counts: Counts) -> Result<Self, String> {
        let clock: Clock = Arc::new(|| nats::now_ms() / 1_000);
        let chains = configs.iter().map(|config| {
            config.check()?;
            let transports = config
                .rpc_urls
                .iter()
                .map(|url| {
                    let http = Http::new(url.clone(), config).map_err(|error| format!("{url}: {error}"))?;
                    Ok((url.to_string(), Arc::new(http) as Arc<dyn Transport>))
                })
                .collect::<Result<Vec<_>, String>>()?;
            Ok((config.clone(), transports))
        });
        Self::over(chains.collect::<Result<Vec<_>, String>>()?, &clock, counts)
    }

    /// Chains over transports of the caller's own, by name.
    ///
    /// # Errors
    /// When a chain is named twice or has no quorum.
    pub fn with(chains: Vec<(Config, Vec<Named>)>, clock: &Clock) -> Result<Self, String> {
        Self::over(chains, clock, Counts::default())
    }

    fn over(chains: Vec<(Config, Vec<Named>)>, clock: &Clock, counts: Counts) -> Result<Self, String> {
        let mut opened = BTreeMap::new();
        for (config, transports) in chains {
            let (chain_id, count) = (config.chain_id, transports.len());
            let quorum = config.quorum.unwrap_or(count / 2 + 1);
            if quorum > count || quorum * 2 <= count {
                return Err(format!("chain {chain_id}: {quorum} of {count} providers are no quorum"));
            }
            let providers = transports
                .into_iter()
                .map(|(name, transport)| Provider::new(name, transport, &config))
                .collect();
            let (clock, counted) = (Arc::clone(clock), counts.clone());
            let chain = Chain { config, quorum, providers, head: Mutex::default(), clock, counts: counted };
            if opened.insert(chain_id, chain).is_some() {
                return Err(format!("chain {chain_id} is configured twice"));
            }
        }
        Ok(Self { chains: Arc::new(opened), counts })
    }

    /// The same chains and providers with limits, rests, budgets and heads of their own: whatever those who are asked for here bring
    /// about, the others go on.
    #[must_use]
    pub fn apart(&self) -> Self {
        let apart = |chain: &Chain| Chain {
            config: chain.config.clone(),
            quorum: chain.quorum,
            providers: chain.providers.iter().map(|provider| provider.apart(&chain.config)).collect(),
            head: Mutex::default(),
            clock: Arc::clone(&chain.clock),
            counts: chain.counts.clone(),
        };
        let chains = self.chains.iter().map(|(chain_id, chain)| (*chain_id, apart(chain))).collect();
        Self { chains: Arc::new(chains), counts: self.counts.clone() }
    }

    /// What came of asking.
    pub const fn counts(&self) -> &Counts {
        &self.counts
    }

    /// Ids of the configured chains, in order.
    pub fn ids(&self) -> Vec<u64> {
        self.chains.keys().copied().collect()
    }

    /// Settings of a chain.
    ///
    /// # Errors
    /// [`Error::Unknown`].
    pub fn config(&self, chain_id: u64) -> Result<&Config, Error> {
        Ok(&self.chain(chain_id)?.config)
    }

    /// The blocks to decide by, at most [`Config::head_cache_ms`] old.
    ///
    /// # Errors
    /// When too few providers answer, contradict each other, or are behind.
    pub async fn head(&self, chain_id: u64) -> Result<Head, Error> {
        self.chain(chain_id)?.head().await
    }

    /// Forgets the cached head, after a block turned out to be gone.
    pub async fn forget_head(&self, chain_id: u64) {
        if let Ok(chain) = self.chain(chain_id) {
            chain.head.lock().await.newest = None;
        }
    }

    /// Several calls at one block, each limited to [`Config::call_gas_max`]; one outcome for each.
    ///
    /// # Errors
    /// [`Error::TooMany`] above [`Config::batch_max`].
    pub async fn calls(
        &self,
        chain_id: u64,
        calls: &[(Address, Bytes)],
        at: B256,
    ) -> Result<Vec<Result<Bytes, Error>>, Error> {
        let chain = self.chain(chain_id)?;
        let gas = chain.config.call_gas_max;
        let question =
            |(to, data): &(Address, Bytes)| Question::Call { to: Some(*to), data: data.clone(), at, gas };
        let answers = chain.each(&calls.iter().map(question).collect::<Vec<_>>()).await?;
        for ((contract, _), answer) in calls.iter().zip(&answers) {
            // A call to an address without code succeeds and returns nothing.
            if matches!(answer, Ok(Answer::Bytes(bytes)) if bytes.is_empty()) {
                self.counts.doubt(counts::absent(chain_id, *contract));
            }
        }
        Ok(answers.into_iter().map(|answer| chain.bytes(answer?)).collect())
    }

    /// What the contract at `to` answers to `data`, limited to [`Config::call_gas_max`].
    ///
    /// # Errors
    /// [`Error::Reverted`] when the contract refuses or burns its gas; the others when nothing is known.
    pub async fn call(
        &self,
        chain_id: u64,
        to: Address,
        data: Bytes,
        block: BlockRef,
    ) -> Result<Bytes, Error> {
        let at = self.hash(chain_id, block).await?;
        self.run(chain_id, Some(to), data, at, self.config(chain_id)?.call_gas_max).await
    }

    /// The code at `address`; empty when there is none.
    ///
    /// # Errors
    /// When nothing is known.
    pub async fn code(&self, chain_id: u64, address: Address, block: BlockRef) -> Result<Bytes, Error> {
        let at = self.hash(chain_id, block).await?;
        self.bytes(chain_id, Question::Code { address, at }).await
    }

    /// One call with a limit of its own; without `to`, `data` runs as a program.
    ///
    /// # Errors
    /// As [`Chains::call`].
    pub async fn run(
        &self,
        chain_id: u64,
        to: Option<Address>,
        data: Bytes,
        at: B256,
        gas: u64,
    ) -> Result<Bytes, Error> {
        self.bytes(chain_id, Question::Call { to, data, at, gas }).await
    }

    /// The block at `number`, by quorum.
    ///
    /// # Errors
    /// [`Error::Reorganised`] when the chain does not reach so far; else when nothing is known.
    pub async fn block(&self, chain_id: u64, number: u64) -> Result<Block, Error> {
        let chain = self.chain(chain_id)?;
        match chain.jointly(&[Question::BlockAt(number)], |_| true).await?.as_slice() {
            [Answer::Block(block)] => Ok(*block),
            _ => Err(Error::Disagreement { chain_id }),
        }
    }

    /// Logs of `addresses` whose first topic is one of `topics`, from block `from` to `to` inclusive, by quorum.
    ///
    /// # Errors
    /// [`Error::TooMany`] above [`Config::log_blocks_max`] blocks; else when nothing is known.
    pub async fn logs(
        &self,
        chain_id: u64,
        (from, to): (u64, Block),
        addresses: Vec<Address>,
        topics: Vec<B256>,
    ) -> Result<Vec<Log>, Error> {
        let chain = self.chain(chain_id)?;
        let count = to.number.saturating_sub(from).saturating_add(1);
        if count > chain.config.log_blocks_max {
            let count_max = usize::try_from(chain.config.log_blocks_max).unwrap_or(usize::MAX);
            return Err(Error::TooMany { count: usize::try_from(count).unwrap_or(usize::MAX), count_max });
        }
        let questions =
            [Question::BlockAt(to.number), Question::Logs { from, to: to.number, addresses, topics }];
        let has_block =
            |answers: &[Answer]| matches!(answers, [Answer::Block(block), ..] if block.hash == to.hash);
        match chain.jointly(&questions, has_block).await?.as_slice() {
            [_, Answer::Logs(logs)] => Ok(logs.clone()),
            _ => Err(Error::Disagreement { chain_id }),
        }
    }

    /// The one answer to a question that is answered with bytes.
    async fn bytes(&self, chain_id: u64, question: Question) -> Result<Bytes, Error> {
        let chain = self.chain(chain_id)?;
        let answer = chain.each(&[question]).await?.pop();
        chain.bytes(answer.unwrap_or(Err(Error::Unavailable { chain_id }))?)
    }

    fn chain(&self, chain_id: u64) -> Result<&Chain, Error> {
        self.chains.get(&chain_id).ok_or(Error::Unknown { chain_id })
    }

    async fn hash(&self, chain_id: u64, block: BlockRef) -> Result<B256, Error> {
        match block {
            BlockRef::At(hash) => Ok(hash),
            BlockRef::Latest => Ok(self.head(chain_id).await?.latest.hash),
            BlockRef::Confirmed => Ok(self.head(chain_id).await?.confirmed.hash),
        }
    }
}

impl Chain {
    const fn id(&self) -> u64 {
        self.config.chain_id
    }

    fn bytes(&self, answer: Answer) -> Result<Bytes, Error> {
        match answer {
            Answer::Bytes(bytes) => Ok(bytes),
            Answer::Reverted => Err(Error::Reverted { chain_id: self.id() }),
            _ => Err(Error::Disagreement { chain_id: self.id() }),
        }
    }

    /// Asks all providers at once and stops listening once `done` says so and stragglers had `patience`.
    async fn gather(
        &self,
        questions: &[Question],
        patience: Duration,
        mut done: impl FnMut(&[(usize, Said)], usize) -> bool + Send,
    ) -> Result<Vec<(usize, Said)>, Error> {
        if questions.len() > self.config.batch_max {
            return Err(Error::TooMany { count: questions.len(), count_max: self.config.batch_max });
        }
        let mut asking: FuturesUnordered<_> = self
            .providers
            .iter()
            .enumerate()
            .map(|(index, provider)| async move { (index, provider.ask(questions).await) })
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
                self.counts.fault(self.id(), &place(*index), fault);
            }
        }
        Ok(said)
    }

    /// A quorum for each question by itself.
    async fn each(&self, questions: &[Question]) -> Result<Vec<Result<Answer, Error>>, Error> {
        let count = |said: &[(usize, Said)], outstanding: usize, index: usize| {
            let votes: Vec<_> = said
                .iter()
                .map(|(voter, said)| {
                    let vote = said.as_ref().ok().and_then(|answers| answers.get(index)?.as_ref().ok());
                    (*voter, vote.cloned())
                })
                .collect();
            tally(&votes, outstanding, self.quorum)
        };
        let said = self
            .gather(questions, Duration::ZERO, |said, outstanding| {
                (0..questions.len()).all(|index| count(said, outstanding, index) != Tally::Open)
            })
            .await?;
        let heard: Vec<usize> =
            said.iter().filter(|(_, said)| said.is_ok()).map(|(voter, _)| *voter).collect();
        Ok(questions
            .iter()
            .enumerate()
            .map(|(index, question)| {
                let votes = count(&said, 0, index);
                let said: Vec<_> = said.iter().map(|(_, said)| fault_of(said, index)).collect();
                self.settle(votes, question.is_pinned(), &said, &heard)
            })
            .collect())
    }

    /// A quorum for all questions together: the answers are of one view of the chain. Those that are not `valid` do not count.
    async fn jointly(
        &self,
        questions: &[Question],
        valid: impl Fn(&[Answer]) -> bool + Send + Sync,
    ) -> Result<Vec<Answer>, Error> {
        let whole = |said: &Said| -> Option<Vec<Answer>> {
            let answers = said.as_ref().ok()?.iter().map(|answer| answer.as_ref().ok().cloned());
            answers.collect::<Option<Vec<_>>>().filter(|answers| valid(answers))
        };
        let count = |said: &[(usize, Said)], outstanding: usize| {
            let votes: Vec<_> = said.iter().map(|(voter, said)| (*voter, whole(said))).collect();
            tally(&votes, outstanding, self.quorum)
        };
        let said = self
            .gather(questions, Duration::ZERO, |said, outstanding| count(said, outstanding) != Tally::Open)
            .await?;
        let faults: Vec<_> = said
            .iter()
            .flat_map(|(_, said)| (0..questions.len()).map(|index| fault_of(said, index)))
            .collect();
        let heard: Vec<usize> =
            said.iter().filter(|(_, said)| whole(said).is_some()).map(|(voter, _)| *voter).collect();
        self.settle(count(&said, 0), false, &faults, &heard)
    }

    /// Turns a count into an answer, and leaves out who contradicted the quorum about a pinned block.
    fn settle<T>(
        &self,
        votes: Tally<T>,
        pinned: bool,
        faults: &[Option<&Fault>],
        heard: &[usize],
    ) -> Result<T, Error> {
        let chain_id = self.id();
        let doubt = |who: &[usize]| {
            let places = who.iter().map(|index| place(*index)).collect();
            self.counts.doubt(counts::disagreement(chain_id, places));
        };
        match votes {
            Tally::Agreed { value, dissenters } => {
                if pinned && !dissenters.is_empty() {
                    doubt(&dissenters);
                    dissenters
                        .iter()
                        .filter_map(|index| self.providers.get(*index))
                        .for_each(Provider::quarantine);
                }
                Ok(value)
            }
            Tally::Split => {
                doubt(heard);
                Err(Error::Disagreement { chain_id })
            }
            Tally::Open | Tally::TooFew if faults.contains(&Some(&Fault::NoBlock)) => {
                Err(Error::Reorganised { chain_id })
            }
            Tally::Open | Tally::TooFew => Err(Error::Unavailable { chain_id }),
        }
    }

    async fn head(&self) -> Result<Head, Error> {
        // Whoever comes meanwhile waits here and takes what this one found.
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
        known.newest = Some((Instant::now(), found.clone()));
        found
    }

    const fn head_age_max(&self) -> Duration {
        Duration::from_secs(self.config.head_age_s_max)
    }

    /// Finds the newest block that a quorum knows, at least as high as `floor`.
    ///
    /// Below the floor nothing is decided until it is too old to matter: what a higher block said may not be forgotten.
    async fn find_head(&self, floor: u64) -> Result<Head, Error> {
        let chain_id = self.id();
        let shared = |said: &[(usize, Said)]| {
            let heights: Vec<u64> = said.iter().filter_map(|(_, said)| height(said)).collect();
            shared_height(&heights, self.quorum)
        };
        let said = self
            .gather(&[Question::LatestBlock], STRAGGLERS, |said, _| {
                shared(said).is_some_and(|number| number >= floor)
            })
            .await?;
        let number = shared(&said).ok_or(Error::Unavailable { chain_id })?;
        for (index, said) in &said {
            if let Some(height) = height(said) {
                self.counts.lag(chain_id, &place(*index), number.saturating_sub(height));
            }
        }
        if number < floor {
            return Err(Error::Stale { chain_id });
        }
        let confirmed = number.saturating_sub(self.config.confirmations);
        let blocks = [Question::BlockAt(number), Question::BlockAt(confirmed)];
        let pair = self.jointly(&blocks, |_| true).await?;
        let [Answer::Block(latest), Answer::Block(confirmed)] = pair.as_slice() else {
            return Err(Error::Disagreement { chain_id });
        };
        if latest.timestamp_s.saturating_add(self.config.head_age_s_max) < (self.clock)() {
            return Err(Error::Stale { chain_id });
        }
        Ok(Head { latest: *latest, confirmed: *confirmed })
    }
}

fn fault_of(said: &Said, index: usize) -> Option<&Fault> {
    match said {
        Ok(answers) => answers.get(index)?.as_ref().err(),
        Err(fault) => Some(fault),
    }
}

fn first_fault(said: &Said) -> Option<&Fault> {
    match said {
        Ok(answers) => answers.iter().find_map(|answer| answer.as_ref().err()),
        Err(fault) => Some(fault),
    }
}

/// How a provider is named outside of the log: by its place in the settings, from 1. Keys may be part of host names, too.
fn place(index: usize) -> String {
    index.saturating_add(1).to_string()
}

fn height(said: &Said) -> Option<u64> {
    match said.as_ref().ok()?.first()? {
        Ok(Answer::Block(block)) => Some(block.number),
        _ => None,
    }
}
