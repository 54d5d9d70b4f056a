//! The monitor stage
