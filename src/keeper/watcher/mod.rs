//! The chain watcher: ends playback sessions as soon as a transfer or a reorganisation closed their gate.
//!
//! It follows the transfers of the contracts that live sessions depend on. A transfer does not end a session by itself: it is the
//! reason to evaluate the gate again, at the newest block. So a lie about a transfer ends nothing, and a missed one costs no more
//! than the minute a grant lasts. Where a transfer does not say whose tokens moved, every session of its contract is evaluated.
//!
//! How far each chain was read is kept with the newest block hashes: after a restart nothing is skipped, and where a chain was
//! reorganised every session on it is evaluated again.
//!
//! Limits: [`WatcherConfig`]; [`HASHES_MAX`] block hashes a chain; behind that, or after more than a chain's `log_blocks_max`
//! blocks at once, every session of the chain is evaluated instead of reading logs.

mod cursor;
mod sessions;
#[cfg(test)]
mod tests;

use std::{collections::BTreeSet, time::Duration};

use alloy_primitives::Address;
use futures::{StreamExt, stream};
use nats::Bus;
use schemars::JsonSchema;
use schemas::{
    gate::{ChainCursor, PlaybackSession},
    ids::PlaybackId,
};
use serde::{Deserialize, Serialize};
use tokio_util::sync::CancellationToken;

use self::{cursor::CursorStep, sessions::WatchedSessions};
use gate::{
    abi::{TRANSFER_TOPICS, parse_transfer_ends},
    grant::{PlaybackDenied, PlaybackGrants, RenewalOutcome},
};

/// Block hashes kept for each chain: the deepest reorganisation that is distinguished from a loss of memory.
pub const HASHES_MAX: usize = 128;

/// Settings of the watcher.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct WatcherConfig {
    /// How often each chain is asked for a new block, in milliseconds.
    pub poll_ms: u64,
    /// Most sessions evaluated at a time.
    pub in_flight_max: usize,
}

impl Default for WatcherConfig {
    fn default() -> Self {
        Self { poll_ms: 500, in_flight_max: 16 }
    }
}

/// Watches all configured chains until `held` fires.
pub async fn run_watcher(bus: Bus, grants: PlaybackGrants, config: WatcherConfig, held: CancellationToken) {
    let watcher = ChainWatcher { bus, grants, config };
    let sessions = WatchedSessions::default();
    let following = sessions.follow_bucket(&watcher.bus, &held);
    let watching = async {
        // With half of the sessions known the cursor would pass transfers that concern the others.
        if !sessions.wait_until_current(&held).await {
            return;
        }
        let chains = watcher.grants.gate_evaluator().chains().chain_ids();
        futures::future::join_all(chains.into_iter().map(|id| watcher.watch_chain(id, &sessions, &held)))
            .await;
    };
    tokio::join!(following, watching);
}

struct ChainWatcher {
    bus: Bus,
    grants: PlaybackGrants,
    config: WatcherConfig,
}

/// Which sessions a look at the chain concerns.
enum AffectedSessions {
    All,
    Some(TouchedAddresses),
}

/// What transfers touched.
#[derive(Debug, Default)]
struct TouchedAddresses {
    /// Contracts with a wallet each.
    ends: BTreeSet<(Address, Address)>,
    /// Contracts of which it is not known whose tokens moved.
    contracts: BTreeSet<Address>,
}

impl ChainWatcher {
    async fn watch_chain(&self, chain_id: u64, sessions: &WatchedSessions, held: &CancellationToken) {
        let mut due = BTreeSet::new();
        loop {
            if let Err(error) = self.poll_chain(chain_id, sessions, &mut due).await {
                tracing::warn!(%error, chain.id = chain_id, "the chain could not be watched");
            }
            due = self.reevaluate_sessions(sessions, due).await;
            tokio::select! {
                () = held.cancelled() => return,
                () = tokio::time::sleep(Duration::from_millis(self.config.poll_ms)) => {}
            }
        }
    }

    /// Reads what is new on the chain; adds the sessions it concerns to `due`.
    async fn poll_chain(
        &self,
        chain_id: u64,
        sessions: &WatchedSessions,
        due: &mut BTreeSet<PlaybackId>,
    ) -> anyhow::Result<()> {
        let chains = self.grants.gate_evaluator().chains();
        let head = chains.read_head(chain_id).await?.latest;
        let arrived = sessions.unchecked_sessions(chain_id);
        // A session may have been let in by a block before one that was read already.
        let hash = head.hash.to_string();
        let older = arrived.iter().filter(|session| session.blocks.iter().all(|block| block.hash != hash));
        let mut concerned: Vec<PlaybackId> = older.map(|session| session.playback_id).collect();
        let read = self.read_blocks(chain_id, head, sessions).await?;
        if let Some((found, _)) = &read {
            concerned.extend(found);
            if !concerned.is_empty() {
                // What was decided from the block before must not answer for this one.
                chains.invalidate_head(chain_id).await;
            }
        }
        due.extend(concerned);
        if let Some((_, next)) = read {
            // After what the blocks concern was taken down: a crash repeats the look instead of skipping it, and a cursor that was
            // stored though its answer was lost leads past blocks that are not read again.
            cursor::store_cursor(&self.bus, next).await?;
        }
        // Only now: a look that failed is taken again with the same sessions.
        sessions.mark_checked(chain_id, &arrived);
        Ok(())
    }

    /// Reads the blocks up to `head`; answers the sessions they concern and the cursor behind them, `None` when nothing is new.
    async fn read_blocks(
        &self,
        chain_id: u64,
        head: evm::EvmBlock,
        sessions: &WatchedSessions,
    ) -> anyhow::Result<Option<(Vec<PlaybackId>, ChainCursor)>> {
        let known = cursor::load_cursor(&self.bus, chain_id).await?;
        let (concern, next) =
            match cursor::next_step(self.grants.gate_evaluator().chains(), &known, head).await? {
                CursorStep::Still => return Ok(None),
                CursorStep::Lost(next) => (AffectedSessions::All, next),
                CursorStep::On { from, next } => {
                    (self.read_transfers(chain_id, (from, head), sessions).await?, next)
                }
            };
        let concerned = sessions.ids_on_chain(chain_id, |session| concern.includes(session));
        Ok(Some((concerned, next)))
    }

    async fn read_transfers(
        &self,
        chain_id: u64,
        (from, to): (u64, evm::EvmBlock),
        sessions: &WatchedSessions,
    ) -> Result<AffectedSessions, evm::ChainError> {
        let contracts = sessions.watched_contracts(chain_id);
        if contracts.is_empty() {
            return Ok(AffectedSessions::Some(TouchedAddresses::default()));
        }
        let chains = self.grants.gate_evaluator().chains();
        // Providers limit the range of blocks; after a long absence the gates themselves are cheaper to ask.
        if from > to.number || to.number - from >= chains.chain_config(chain_id)?.log_blocks_max {
            return Ok(AffectedSessions::All);
        }
        let logs = match chains.read_logs(chain_id, (from, to), contracts, TRANSFER_TOPICS.to_vec()).await {
            Ok(logs) => logs,
            // Without logs there is still the gate itself.
            Err(error) => {
                tracing::warn!(%error, chain.id = chain_id, "logs could not be read; every session is evaluated");
                return Ok(AffectedSessions::All);
            }
        };
        let mut touched = TouchedAddresses::default();
        for log in &logs {
            match parse_transfer_ends(&log.topics) {
                Some((from, to)) => touched.ends.extend([(log.address, from), (log.address, to)]),
                None => {
                    touched.contracts.insert(log.address);
                }
            }
        }
        Ok(AffectedSessions::Some(touched))
    }

    /// Evaluates sessions again; answers those about which nobody could say anything yet.
    async fn reevaluate_sessions(
        &self,
        sessions: &WatchedSessions,
        due: BTreeSet<PlaybackId>,
    ) -> BTreeSet<PlaybackId> {
        let due: Vec<PlaybackSession> = due.into_iter().filter_map(|id| sessions.get(id)).collect();
        let evaluate = |session: PlaybackSession| async move {
            let id = session.playback_id;
            match self.grants.renew_session(id, session.media_id).await {
                Ok(RenewalOutcome::Renewed | RenewalOutcome::Waits) => None,
                // Kept for the next round: the transfer that concerned it is behind the cursor now.
                Ok(RenewalOutcome::Unclear) => Some(id),
                Err(PlaybackDenied::Closed { code, .. }) => {
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

impl AffectedSessions {
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
