//! One provider and what it may cost: time, requests in flight, budget, rests after faults.

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use tokio::{
    sync::Semaphore,
    time::{Instant, timeout},
};

use super::{
    Config,
    circuit::Circuit,
    error::Fault,
    rpc::{self, Answer, Question, Transport},
};

/// A provider behind its limits.
#[derive(Debug)]
pub(super) struct Provider {
    /// Its address without keys, for the log.
    pub(super) name: String,
    transport: Arc<dyn Transport>,
    circuit: Mutex<Circuit>,
    slots: Semaphore,
    chain_id: u64,
    chain_confirmed: AtomicBool,
    timeout: Duration,
    quarantine: Duration,
}

impl Provider {
    pub(super) fn new(name: String, transport: Arc<dyn Transport>, config: &Config) -> Self {
        Self {
            name,
            transport,
            circuit: Mutex::new(Circuit::new(config.questions_per_s_max, Instant::now())),
            slots: Semaphore::new(config.in_flight_max),
            chain_id: config.chain_id,
            chain_confirmed: AtomicBool::new(false),
            timeout: Duration::from_millis(config.call_timeout_ms),
            quarantine: Duration::from_millis(config.quarantine_ms),
        }
    }

    /// Asks; an answer or a fault for each question.
    ///
    /// The first request, and the first after a fault, also asks which chain this is.
    pub(super) async fn ask(&self, questions: &[Question]) -> Result<Vec<Result<Answer, Fault>>, Fault> {
        let mut sent = questions.to_vec();
        let confirms = !self.chain_confirmed.load(Ordering::Acquire);
        if confirms {
            sent.push(Question::ChainId);
        }
        self.circuit().enter(sent.len(), Instant::now())?;
        // A crowd waits its turn as long as it would wait for an answer.
        let Ok(Ok(slot)) = timeout(self.timeout, self.slots.acquire()).await else {
            return Err(Fault::OverBudget);
        };
        let outcome = match timeout(self.timeout, self.transport.send(rpc::request(&sent))).await {
            Ok(Ok(response)) => rpc::response(&sent, response),
            Ok(Err(fault)) => Err(fault),
            Err(_) => Err(Fault::Late),
        };
        drop(slot);
        let outcome = outcome.and_then(|mut answers| {
            if confirms && answers.pop() != Some(Ok(Answer::Number(self.chain_id))) {
                return Err(Fault::WrongChain);
            }
            Ok(answers)
        });
        self.note(&outcome);
        outcome
    }

    fn note(&self, outcome: &Result<Vec<Result<Answer, Fault>>, Fault>) {
        let refused = |answers: &[Result<Answer, Fault>]| {
            answers.iter().find_map(|answer| match answer {
                // A node that is behind is not at fault; it merely has no vote.
                Ok(_) | Err(Fault::NoBlock) => None,
                Err(fault) => Some(fault.clone()),
            })
        };
        let fault = match outcome {
            Ok(answers) => refused(answers),
            Err(fault) => Some(fault.clone()),
        };
        let mut circuit = self.circuit();
        if let Some(fault) = fault {
            self.chain_confirmed.store(false, Ordering::Release);
            circuit.fail(&fault, Instant::now());
            tracing::debug!(provider = self.name, %fault, chain.id = self.chain_id, "a provider's answer does not count");
        } else {
            self.chain_confirmed.store(true, Ordering::Release);
            circuit.succeed();
        }
    }

    /// It contradicted a quorum about something that can't differ: it is left out for a while.
    pub(super) fn quarantine(&self) {
        tracing::warn!(
            provider = self.name,
            chain.id = self.chain_id,
            "a provider contradicted the quorum and is left out for a while"
        );
        self.circuit().pause(self.quarantine, Instant::now());
    }

    fn circuit(&self) -> std::sync::MutexGuard<'_, Circuit> {
        self.circuit.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
