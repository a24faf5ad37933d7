//! The administrative listeners.
