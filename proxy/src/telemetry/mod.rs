//! Metrics, access log, reports.
