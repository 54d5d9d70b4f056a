//! The chain watcher: ends playback sessions as soon as a transfer or a reorganisation closed their gate.
//!
//! It follows the transfers of the contracts that live sessions depend on. A transfer does not end a session by itself: it is the
//! reason to evaluate the gate again, at the newest block. So a lie about a transfer ends nothing, and a missed one costs no more
//! than the minute a grant lasts. Where a transfer does not say whose tokens moved, every session of its contract is evaluated.
//!
//! How far each chain was read is kept with the newest block hashes: after a restart nothing is skipped, and where a chain was
//! reorganised every session on it is evaluated again.
//!
//! Limits: [`Config`]; [`HASHES_MAX`] block hashes a chain; behind that, or after more than a chain's `log_blocks_max` blocks at
//! once, every session of the chain is evaluated instead of reading logs.

mod cursor;
mod sessions;
#[cfg(test)]
mod tests;

use std::{collections::BTreeSet, time::Duration};

use alloy_primitives::Address;
use futures::{StreamExt, stream};
use nats::Bus;
use schemars::JsonSchema;
use schemas::{gate::PlaybackSession, ids::PlaybackId};
use serde::{Deserialize, Serialize};
use tokio_util::sync::CancellationToken;

use self::{cursor::Step, sessions::Sessions};
use gate::{
    abi::{TRANSFER_TOPICS, transfer_ends},
    grant::{Denied, Grants, Renewal},
};

/// Block hashes kept for each chain: the deepest reorganisation that is told from a loss of memory.
pub const HASHES_MAX: usize = 128;

/// Settings of the watcher.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// How often each chain is asked for a new block, in milliseconds.
    pub poll_ms: u64,
    /// Most sessions evaluated at a time.
    pub in_flight_max: usize,
}

impl Default for Config {
    fn default() -> Self {
        Self { poll_ms: 500, in_flight_max: 16 }
    }
}

/// Watches all configured chains until `held` fires.
pub async fn run(bus: Bus, grants: Grants, config: Config, held: CancellationToken) {
    let watcher = Watcher { bus, grants, config };
    let sessions = Sessions::default();
    let following = sessions.follow(&watcher.bus, &held);
    let watching = async {
        if !sessions.caught_up(&held).await {
            return;
        }
        let chains = watcher.grants.judge().chains().ids();
        futures::future::join_all(chains.into_iter().map(|id| watcher.watch(id, &sessions, &held))).await;
    };
    tokio::join!(following, watching);
}

struct Watcher {
    bus: Bus,
    grants: Grants,
    config: Config,
}

/// Which sessions a look at the chain concerns.
enum Concern {
    All,
    Some(Touched),
}

/// What transfers touched.
#[derive(Debug, Default)]
struct Touched {
    /// Contracts with a wallet each.
    ends: BTreeSet<(Address, Address)>,
    /// Contracts of which it is not known whose tokens moved.
    contracts: BTreeSet<Address>,
}

impl Watcher {
    async fn watch(&self, chain_id: u64, sessions: &Sessions, held: &CancellationToken) {
        let mut due = BTreeSet::new();
        loop {
            match self.look(chain_id, sessions).await {
                Ok(found) => due.extend(found),
                Err(error) => tracing::warn!(%error, chain.id = chain_id, "the chain could not be watched"),
            }
            due = self.settle(sessions, due).await;
            tokio::select! {
                () = held.cancelled() => return,
                () = tokio::time::sleep(Duration::from_millis(self.config.poll_ms)) => {}
            }
        }
    }

    /// Reads what is new on the chain; answers the sessions it concerns.
    async fn look(&self, chain_id: u64, sessions: &Sessions) -> anyhow::Result<Vec<PlaybackId>> {
        let chains = self.grants.judge().chains();
        let head = chains.head(chain_id).await?.latest;
        let arrived = sessions.arrived(chain_id);
        // A session may have been let in by a block before one that was read already.
        let hash = head.hash.to_string();
        let older = arrived.iter().filter(|session| session.blocks.iter().all(|block| block.hash != hash));
        let mut concerned: Vec<PlaybackId> = older.map(|session| session.playback_id).collect();
        if let Some(found) = self.read(chain_id, head, sessions).await? {
            concerned.extend(found);
            if !concerned.is_empty() {
                // What was decided from the block before must not answer for this one.
                chains.forget_head(chain_id).await;
            }
        }
        // Only now: a look that failed is taken again with the same sessions.
        sessions.looked_at(chain_id, &arrived);
        Ok(concerned)
    }

    /// Reads the blocks up to `head`; answers the sessions they concern, `None` when nothing is new.
    ///
    /// The cursor moves only after the sessions were found, so that a crash repeats the look instead of skipping it.
    async fn read(
        &self,
        chain_id: u64,
        head: evm::Block,
        sessions: &Sessions,
    ) -> anyhow::Result<Option<Vec<PlaybackId>>> {
        let known = cursor::load(&self.bus, chain_id).await?;
        let (concern, next) = match cursor::step(self.grants.judge().chains(), &known, head).await? {
            Step::Still => return Ok(None),
            Step::Lost(next) => (Concern::All, next),
            Step::On { from, next } => (self.transfers(chain_id, (from, head), sessions).await?, next),
        };
        let concerned = sessions.on_chain(chain_id, |session| concern.includes(session));
        cursor::store(&self.bus, next).await?;
        Ok(Some(concerned))
    }

    async fn transfers(
        &self,
        chain_id: u64,
        (from, to): (u64, evm::Block),
        sessions: &Sessions,
    ) -> Result<Concern, evm::Error> {
        let contracts = sessions.contracts(chain_id);
        if contracts.is_empty() {
            return Ok(Concern::Some(Touched::default()));
        }
        let chains = self.grants.judge().chains();
        if from > to.number || to.number - from >= chains.config(chain_id)?.log_blocks_max {
            return Ok(Concern::All);
        }
        let logs = match chains.logs(chain_id, (from, to), contracts, TRANSFER_TOPICS.to_vec()).await {
            Ok(logs) => logs,
            // Without logs there is still the gate itself.
            Err(error) => {
                tracing::warn!(%error, chain.id = chain_id, "logs could not be read; every session is evaluated");
                return Ok(Concern::All);
            }
        };
        let mut touched = Touched::default();
        for log in &logs {
            match transfer_ends(&log.topics) {
                Some((from, to)) => touched.ends.extend([(log.address, from), (log.address, to)]),
                None => {
                    touched.contracts.insert(log.address);
                }
            }
        }
        Ok(Concern::Some(touched))
    }

    /// Evaluates sessions again; answers those about which nobody could say anything yet.
    async fn settle(&self, sessions: &Sessions, due: BTreeSet<PlaybackId>) -> BTreeSet<PlaybackId> {
        let due: Vec<PlaybackSession> = due.into_iter().filter_map(|id| sessions.get(id)).collect();
        let evaluate = |session: PlaybackSession| async move {
            let id = session.playback_id;
            match self.grants.renew(id, session.media_id).await {
                Ok(Renewal::Renewed | Renewal::Waits) => None,
                Ok(Renewal::Unclear) => Some(id),
                Err(Denied::Closed { code, .. }) => {
                    tracing::debug!(playback.id = %id, ?code, "a session was evaluated and is closed");
                    matches!(
                        code,
                        schemas::gate::GateReasonCode::ChainUnavailable
                            | schemas::gate::GateReasonCode::ChainDisagrees
                    )
                    .then_some(id)
                }
                Err(error) => {
                    tracing::warn!(%error, playback.id = %id, "a session could not be evaluated");
                    Some(id)
                }
            }
        };
        let evaluated =
            stream::iter(due.into_iter().map(evaluate)).buffer_unordered(self.config.in_flight_max.max(1));
        evaluated.filter_map(futures::future::ready).collect().await
    }
}

impl Concern {
    fn includes(&self, session: &PlaybackSession) -> bool {
        let Self::Some(touched) = self else { return true };
        let wallet: Option<Address> = session.wallet.as_ref().and_then(|text| text.parse().ok());
        let mut contracts = session.watches.iter().filter_map(|watch| watch.contract.parse::<Address>().ok());
        contracts.any(|contract| {
            touched.contracts.contains(&contract)
                || wallet.is_some_and(|wallet| touched.ends.contains(&(contract, wallet)))
        })
    }
}
