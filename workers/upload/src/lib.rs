//! The upload stage
