//! End to end: a real broker, a real store, the real binary, its media child, and clients that are not ours.

mod browser;
mod contract;
mod faults;
mod flow;
mod harness;
mod http;
mod inputs;
mod scale;
mod tus;
mod whole;
