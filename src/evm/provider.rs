//! One provider and what it may cost: time, requests in flight, budget, rests after faults.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use parking_lot::Mutex;
use tokio::{
    sync::Semaphore,
    time::{Instant, timeout},
};

use super::{
    ChainConfig,
    circuit::CircuitBreaker,
    error::ProviderFault,
    rpc::{self, RpcRequest, RpcResponse, RpcTransport},
};

/// All that a provider says to one request: an answer or a fault for each question.
pub(super) type ProviderResponses = Result<Vec<Result<RpcResponse, ProviderFault>>, ProviderFault>;

/// A provider behind its limits.
#[derive(Debug)]
pub(super) struct RpcProvider {
    /// Its address without keys, for the log.
    pub(super) name: String,
    transport: Arc<dyn RpcTransport>,
    circuit: Mutex<CircuitBreaker>,
    slots: Semaphore,
    chain_id: u64,
    chain_confirmed: AtomicBool,
    timeout: Duration,
    quarantine: Duration,
}

impl RpcProvider {
    pub(super) fn new(name: String, transport: Arc<dyn RpcTransport>, config: &ChainConfig) -> Self {
        Self {
            name,
            transport,
            circuit: Mutex::new(CircuitBreaker::new(config.questions_per_s_max, Instant::now())),
            slots: Semaphore::new(config.in_flight_max),
            chain_id: config.chain_id,
            chain_confirmed: AtomicBool::new(false),
            timeout: Duration::from_millis(config.call_timeout_ms),
            quarantine: Duration::from_millis(config.quarantine_ms),
        }
    }

    /// The same provider with limits, rests and a budget of their own.
    pub(super) fn with_separate_limits(&self, config: &ChainConfig) -> Self {
        Self::new(self.name.clone(), Arc::clone(&self.transport), config)
    }

    /// Asks; an answer or a fault for each question.
    ///
    /// A contract may return more than an answer may be. It has then refused, and the others of its batch do not suffer from it.
    pub(super) async fn send_requests(&self, questions: &[RpcRequest]) -> ProviderResponses {
        match self.send_batch(questions).await {
            Err(ProviderFault::TooLarge) if questions.iter().any(RpcRequest::is_contract_call) => {
                self.send_individually(questions).await
            }
            said => said,
        }
    }

    async fn send_individually(&self, questions: &[RpcRequest]) -> ProviderResponses {
        if !self.chain_confirmed.load(Ordering::Acquire) {
            self.send_batch(&[]).await?;
        }
        let asking = questions.iter().map(|question| async move {
            match self.send_batch(std::slice::from_ref(question)).await {
                Err(ProviderFault::TooLarge) if question.is_contract_call() => {
                    Ok(vec![Ok(RpcResponse::Reverted)])
                }
                said => said,
            }
        });
        let said = futures::future::try_join_all(asking).await?;
        Ok(said.into_iter().flatten().collect())
    }

    /// One request. The first, and the first after a fault, also asks which chain this is.
    async fn send_batch(&self, questions: &[RpcRequest]) -> ProviderResponses {
        let mut sent = questions.to_vec();
        let confirms = !self.chain_confirmed.load(Ordering::Acquire);
        if confirms {
            sent.push(RpcRequest::ChainId);
        }
        let asked_at = Instant::now();
        let is_trial = self.circuit.lock().acquire_budget(sent.len(), asked_at)?;
        // Also where it is dropped: others answered first, or the client went.
        let trial = is_trial.then(|| ProviderTrial { circuit: &self.circuit, asked_at });
        // Under load a request waits its turn as long as it would wait for an answer.
        let Ok(Ok(slot)) = timeout(self.timeout, self.slots.acquire()).await else {
            return Err(ProviderFault::OverBudget);
        };
        let outcome = match timeout(self.timeout, self.transport.send(rpc::build_request(&sent))).await {
            Ok(Ok(response)) => rpc::parse_response(&sent, response),
            Ok(Err(fault)) => Err(fault),
            Err(_) => Err(ProviderFault::Late),
        };
        drop(slot);
        let outcome = outcome.and_then(|mut answers| {
            if confirms && answers.pop() != Some(Ok(RpcResponse::Number(self.chain_id))) {
                return Err(ProviderFault::WrongChain);
            }
            Ok(answers)
        });
        // Before the outcome, which has the last word.
        drop(trial);
        self.record_outcome(questions, &outcome, asked_at);
        outcome
    }

    /// What a contract brings about is not the provider's fault: strangers choose contracts, and must not make it rest.
    fn record_outcome(&self, questions: &[RpcRequest], outcome: &ProviderResponses, asked_at: Instant) {
        let fault = match outcome {
            Err(ProviderFault::TooLarge) if questions.iter().any(RpcRequest::is_contract_call) => return,
            Err(fault) => Some(fault.clone()),
            Ok(answers) => questions.iter().zip(answers).find_map(|(question, answer)| match answer {
                // A node that is behind is not at fault; it merely has no vote.
                Ok(_) | Err(ProviderFault::NoBlock) => None,
                Err(ProviderFault::Refused(_)) if question.is_contract_call() => None,
                Err(fault) => Some(fault.clone()),
            }),
        };
        let mut circuit = self.circuit.lock();
        if let Some(fault) = fault {
            self.chain_confirmed.store(false, Ordering::Release);
            circuit.record_failure(&fault, Instant::now());
            tracing::debug!(provider = self.name, %fault, chain.id = self.chain_id, "a provider's answer does not count");
        } else {
            self.chain_confirmed.store(true, Ordering::Release);
            circuit.record_success(asked_at);
        }
    }

    /// It contradicted a quorum about something that can't differ: it is left out for a while.
    pub(super) fn quarantine(&self) {
        tracing::warn!(
            provider = self.name,
            chain.id = self.chain_id,
            "a provider contradicted the quorum and is left out for a while"
        );
        self.circuit.lock().pause_for(self.quarantine, Instant::now());
    }
}
/// The first request after a rest, while it waits for its answer.
struct ProviderTrial<'a> {
    circuit: &'a Mutex<CircuitBreaker>,
    asked_at: Instant,
}

impl Drop for ProviderTrial<'_> {
    fn drop(&mut self) {
        self.circuit.lock().abandon_trial(self.asked_at, Instant::now());
    }
}
