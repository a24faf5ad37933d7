//! Tests of the whole codec: the engine with frames made by hand, floods, any bytes at all, calls between both ends of ours, and calls
//! with another implementation.

mod abuse;
mod calls;
mod engine;
mod fuzz;
mod interop;
mod wire;
