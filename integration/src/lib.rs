//! What the tests, the demo and the benchmarks run: the sample shop. It knows nothing of the mesh and uses none of its crates, as
//! any program that somebody runs beside a sidecar.

pub mod shop;
