//! StreamGate.
