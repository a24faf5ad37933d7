//! A million seeded steps.
