//! What calls the workload.
