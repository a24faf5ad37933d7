//! Clients of the resource API that nobody here wrote, beside kubectl: the Python client of Kubernetes, and schemathesis, which reads the
//! API's own description and tries whatever it allows.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a panic is how a test says what is wrong")]

mod openapi;
mod python;
