//! The events, ids, subjects and keys of StreamGate: pure types, no IO
