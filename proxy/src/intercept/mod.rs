//! Transparent interception.
