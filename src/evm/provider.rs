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
    Config,
    circuit::Circuit,
    error::Fault,
    rpc::{self, Answer, Question, Transport},
};

/// All that a provider says to one request: an answer or a fault for each question.
pub(super) type Said = Result<Vec<Result<Answer, Fault>>, Fault>;

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

    /// The same provider with limits, rests and a budget of their own.
    pub(super) fn apart(&self, config: &Config) -> Self {
        Self::new(self.name.clone(), Arc::clone(&self.transport), config)
    }

    /// Asks; an answer or a fault for each question.
    ///
    /// A contract may return more than an answer may be. It has then refused, and the others of its batch do not suffer from it.
    pub(super) async fn ask(&self, questions: &[Question]) -> Said {
        match self.ask_together(questions).await {
            Err(Fault::TooLarge) if questions.iter().any(Question::is_call) => {
                self.ask_apart(questions).await
            }
            said => said,
        }
    }

    async fn ask_apart(&self, questions: &[Question]) -> Said {
        if !self.chain_confirmed.load(Ordering::Acquire) {
            self.ask_together(&[]).await?;
        }
        let asking = questions.iter().map(|question| async move {
            match self.ask_together(std::slice::from_ref(question)).await {
                Err(Fault::TooLarge) if question.is_call() => Ok(vec![Ok(Answer::Reverted)]),
                said => said,
            }
        });
        let said = futures::future::try_join_all(asking).await?;
        Ok(said.into_iter().flatten().collect())
    }

    /// One request. The first, and the first after a fault, also asks which chain this is.
    async fn ask_together(&self, questions: &[Question]) -> Said {
        let mut sent = questions.to_vec();
        let confirms = !self.chain_confirmed.load(Ordering::Acquire);
        if confirms {
            sent.push(Question::ChainId);
        }
        let asked_at = Instant::now();
        self.circuit.lock().enter(sent.len(), asked_at)?;
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
        self.note(questions, &outcome, asked_at);
        outcome
    }

    /// What a contract brings about is not the provider's fault: strangers choose contracts, and must not make it rest.
    fn note(&self, questions: &[Question], outcome: &Said, asked_at: Instant) {
        let fault = match outcome {
            Err(Fault::TooLarge) if questions.iter().any(Question::is_call) => return,
            Err(fault) => Some(fault.clone()),
            Ok(answers) => questions.iter().zip(answers).find_map(|(question, answer)| match answer {
                // A node that is behind is not at fault; it merely has no vote.
                Ok(_) | Err(Fault::NoBlock) => None,
                Err(Fault::Refused(_)) if question.is_call() => None,
                Err(fault) => Some(fault.clone()),
            }),
        };
        let mut circuit = self.circuit.lock();
        if let Some(fault) = fault {
            self.chain_confirmed.store(false, Ordering::Release);
            circuit.fail(&fault, Instant::now());
            tracing::debug!(provider = self.name, %fault, chain.id = self.chain_id, "a provider's answer does not count");
        } else {
            self.chain_confirmed.store(true, Ordering::Release);
            circuit.succeed(asked_at);
        }
    }

    /// It contradicted a quorum about something that can't differ: it is left out for a while.
    pub(super) fn quarantine(&self) {
        tracing::warn!(
            provider = self.name,
            chain.id = self.chain_id,
            "a provider contradicted the quorum and is left out for a while"
        );
        self.circuit.lock().pause(self.quarantine, Instant::now());
    }
}
