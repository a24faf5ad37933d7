//! B3 headers, single and multi.
