//! Messages that were given up, and what is done about them.

pub mod redrive;
