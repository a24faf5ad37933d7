//! The workload's certificate.
