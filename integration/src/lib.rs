//! What the tests, the demo and the benchmarks run: the sample shop, and the rig that starts real meshes for tests. The shop knows
//! nothing of the mesh and uses none of its crates, as any program that somebody runs beside a sidecar.

#[allow(clippy::expect_used, clippy::panic, clippy::unwrap_used, reason = "a panic is how a test says what is wrong")]
pub mod rig;
pub mod shop;
