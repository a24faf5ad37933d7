//! What the workload calls.
