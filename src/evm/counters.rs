//! What came of asking chains: counted for the metrics of the process, and published as events where a person should look.
//!
//! Limits: labels are the configured chains and providers, codes of decisions and kinds of faults; [`WAITING_MAX`] doubts wait to
//! be published, once a second, and the same one is published once in ten minutes.

use std::{collections::BTreeMap, fmt, sync::Arc, time::Duration};

use alloy_primitives::keccak256;
use nats::{
    Bus,
    metrics::{
        Collector, DescriptorEncoder, encode_counters, encode_gauges,
        table::{CHAIN_FAULTS, CHAIN_HEAD_LAG_BLOCKS, GATE_DECISIONS},
    },
};
use parking_lot::Mutex;
use schemas::{
    fault::FailureClass,
    gate::{ChainDataIssue, GateDoubted, GateReasonCode},
};
use tokio_util::sync::CancellationToken;

use super::ProviderFault;

/// Most doubts that wait to be published.
const WAITING_MAX: usize = 64;
const PAUSE: Duration = Duration::from_secs(1);

/// The counts of all roles of a process. Cheap to clone; clones share the counts.
#[derive(Debug, Clone, Default)]
pub struct ChainCounters {
    inside: Arc<Mutex<ChainCounterState>>,
}

#[derive(Debug, Default)]
struct ChainCounterState {
    decisions: BTreeMap<GateReasonCode, u64>,
    /// By chain, provider and kind.
    faults: BTreeMap<(u64, String, &'static str), u64>,
    /// Blocks behind the others, by chain and provider.
    lags: BTreeMap<(u64, String), u64>,
    waiting: Vec<GateDoubted>,
}

impl ChainCounters {
    /// A gate was asked about a viewer.
    pub fn count_decision(&self, code: GateReasonCode) {
        *self.inside.lock().decisions.entry(code).or_default() += 1;
    }

    pub(super) fn count_fault(&self, chain_id: u64, provider: &str, fault: &ProviderFault) {
        let key = (chain_id, provider.to_owned(), fault_name(fault));
        *self.inside.lock().faults.entry(key).or_default() += 1;
    }

    pub(super) fn record_lag(&self, chain_id: u64, provider: &str, blocks: u64) {
        self.inside.lock().lags.insert((chain_id, provider.to_owned()), blocks);
    }

    pub(super) fn queue_doubt(&self, doubted: GateDoubted) {
        let waiting = &mut self.inside.lock().waiting;
        if waiting.len() < WAITING_MAX && !waiting.contains(&doubted) {
            waiting.push(doubted);
        }
    }

    /// Publishes doubts until `shutdown`.
    pub async fn run(&self, bus: &Bus, shutdown: &CancellationToken) {
        loop {
            tokio::select! {
                () = shutdown.cancelled() => return,
                () = tokio::time::sleep(PAUSE) => {}
            }
            tokio::select! {
                () = shutdown.cancelled() => return,
                () = self.publish_doubts(bus) => {}
            }
        }
    }

    /// Publishes the doubts that wait.
    pub async fn publish_doubts(&self, bus: &Bus) {
        let mut waiting = std::mem::take(&mut self.inside.lock().waiting).into_iter();
        while let Some(doubted) = waiting.next() {
            let cause = keccak256(format!("{doubted:?}")).to_string();
            let Err(error) = bus.publish_event(&doubted, &cause).await else { continue };
            tracing::warn!(%error, chain.id = doubted.chain_id, what = ?doubted.what, "a doubt could not be published");
            if error.failure_class() == FailureClass::Outage {
                // The next ones would wait for the same.
                std::iter::once(doubted).chain(waiting).for_each(|doubted| self.queue_doubt(doubted));
                return;
            }
        }
    }
}

impl Collector for ChainCounters {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let encoder = &mut encoder;
        let inside = self.inside.lock();
        encode_counters(
            encoder,
            &GATE_DECISIONS,
            inside.decisions.iter().map(|(code, count)| ([("code", reason_code_name(*code))], *count)),
        )?;
        encode_counters(
            encoder,
            &CHAIN_FAULTS,
            inside.faults.iter().map(|((chain_id, provider, kind), count)| {
                let (chain_id, provider) = (chain_id.to_string(), provider.clone());
                ([("chain_id", chain_id), ("provider", provider), ("kind", kind.to_string())], *count)
            }),
        )?;
        encode_gauges(
            encoder,
            &CHAIN_HEAD_LAG_BLOCKS,
            inside.lags.iter().map(|((chain_id, provider), blocks)| {
                let labels = [("chain_id", chain_id.to_string()), ("provider", provider.clone())];
                (labels, *blocks)
            }),
        )
    }
}

/// The providers of a chain contradict each other.
pub(super) fn disagreement_event(chain_id: u64, providers: Vec<String>) -> GateDoubted {
    GateDoubted { chain_id, what: ChainDataIssue::Disagreement, contract: None, providers }
}

/// A rule names an address without code.
pub(super) fn absent_contract_event(chain_id: u64, contract: alloy_primitives::Address) -> GateDoubted {
    GateDoubted {
        chain_id,
        what: ChainDataIssue::ContractAbsent,
        contract: Some(contract.to_string()),
        providers: Vec::new(),
    }
}

/// A code as it is spelled elsewhere.
fn reason_code_name(code: GateReasonCode) -> String {
    serde_json::to_value(code)
        .ok()
        .and_then(|value| value.as_str().map(ToOwned::to_owned))
        .unwrap_or_default()
}

const fn fault_name(fault: &ProviderFault) -> &'static str {
    match fault {
        ProviderFault::Late => "late",
        ProviderFault::Unreachable => "unreachable",
        ProviderFault::Status(_) => "status",
        ProviderFault::Throttled { .. } => "throttled",
        ProviderFault::TooLarge => "too_large",
        ProviderFault::Malformed(_) => "malformed",
        ProviderFault::Refused(_) => "refused",
        ProviderFault::NoBlock => "no_block",
        ProviderFault::WrongChain => "wrong_chain",
        ProviderFault::Resting => "resting",
        ProviderFault::OverBudget => "over_budget",
    }
}
