//! Conversion and refusal of every resource.
