//! Every rule, by the cases of `cases.toml`: with the evaluator of the monitor, with Prometheus as `promtool test rules` has it, and with
//! each threshold changed by a tenth.
#![expect(clippy::unwrap_used, reason = "what a test can't set up fails it at once")]

mod cases;
mod dashboards;
mod evaluated;
mod golden;
mod promtool;
