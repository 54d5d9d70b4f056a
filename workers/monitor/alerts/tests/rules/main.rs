//! Every rule, by the cases of `cases.toml`: with the evaluator of the monitor, with Prometheus as `promtool test rules` has it, and with
//! each threshold changed by a tenth.

mod cases;
mod evaluated;
mod golden;
mod promtool;
