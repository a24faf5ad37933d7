//! Programs that nobody here wrote, meshed under `weft run`: Python's http.server, nginx, Redis, PostgreSQL, MariaDB (the server speaks
//! first) on its own port and on an undeclared one, grpcio with all four kinds of streaming, curl. Once with explicit interception
//! (`--isolation none`), once with transparent interception in network namespaces (`--isolation netns`, needs root).

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a panic is how a test says what is wrong")]

mod explicit;
mod place;
mod programs;
mod transparent;
