//! The boundary between protocols and everything else.
