//! Signing in, credentials, gates and the chains that they ask.

use super::metric_table;
use crate::{
    Counter, CounterFamily, GaugeFamily, HistogramFamily, KeyedFamily, LabelDeclaration, MetricDeclaration,
    labels::{CredentialOutcome, SignInOutcome},
};

/// Bounds of the time of a decision about a viewer, in seconds: from memory, and while a chain is asked.
pub const GATE_SECONDS_BOUNDS: &[f64] = &[0.001, 0.01, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0];

const CHAIN: LabelDeclaration = LabelDeclaration::bounded("chain_id", 16, "configured chains");
const PROVIDER: LabelDeclaration =
    LabelDeclaration::bounded("provider", 16, "places of providers in the settings");

metric_table! { Auth;
    GATE_DECISIONS: MetricDeclaration = counter(Operation, "streamgate_gate_decisions", "Decisions about viewers, by reason")
        with_labels(&[LabelDeclaration::bounded("code", 32, "reasons of decisions")]) used_by(&["StreamGateGatesUndecided"]);
    GATE_REFUSALS_UNREPORTED: MetricDeclaration = counter(Operation, "streamgate_gate_refusals_untold", "Refusals of gates that no event reports, since there were too many");
    GATE_SECONDS: HistogramFamily<()> = declare(Performance, "streamgate_gate_decision_seconds", "Time of a decision about a viewer, with what chains took")
        with_buckets(GATE_SECONDS_BOUNDS);
    CHAIN_FAULTS: MetricDeclaration = counter(Operation, "streamgate_chain_faults", "Answers of providers that did not count, by kind")
        with_labels(&[CHAIN, PROVIDER, LabelDeclaration::bounded("kind", 16, "kinds of faults")]) used_by(&["StreamGateChainBudget", "StreamGateChainProviderFaulty"]);
    CHAIN_HEAD_LAG_BLOCKS: MetricDeclaration = gauge(Performance, "streamgate_chain_head_lag_blocks", "Blocks by which a provider was behind the newest that a quorum knew")
        with_labels(&[CHAIN, PROVIDER]) used_by(&["StreamGateChainBehind"]);
    SIGN_IN_CHALLENGES: CounterFamily<()> = declare(Operation, "streamgate_sign_in_challenges", "Challenges that were made for people who want to sign in");
    SIGN_INS: CounterFamily<SignInOutcome> = declare(Operation, "streamgate_sign_ins", "Attempts to sign in, by outcome");
    SIGN_IN_DENIALS: KeyedFamily<Counter> = declare(Operation, "streamgate_sign_in_denials", "Attempts to sign in that were denied, by code",
        &[LabelDeclaration::bounded("code", 32, "codes of denials")]);
    SESSION_REFRESHES: CounterFamily<SignInOutcome> = declare(Operation, "streamgate_session_refreshes", "Sessions that were to go on by a refresh token, by outcome");
    SESSIONS_ENDED: CounterFamily<()> = declare(Operation, "streamgate_sessions_ended", "Sessions that were ended before their time");
    REFRESH_REUSES: CounterFamily<()> = declare(Operation, "streamgate_refresh_token_reuses", "Refresh tokens that came again after they were used: their sessions are ended");
    SIGNING_KEY_OVERDUE_SECONDS: GaugeFamily<()> = declare(Service, "streamgate_signing_key_overdue_seconds", "Time since the next key that signs access tokens should have been made; 0 while it is not due")
        used_by(&["StreamGateSigningKeyOverdue"]);
    CREDENTIALS: CounterFamily<CredentialOutcome> = declare(Request, "streamgate_credentials", "Credentials that came with requests, by what became of them");
}
