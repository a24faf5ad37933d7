//! Precedence, ties and shares.
