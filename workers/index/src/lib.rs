//! The index stage
