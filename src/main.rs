//! StreamGate.
fn main() {}
