//! Start and wiring.
