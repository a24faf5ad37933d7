//! The pure core of Weft: everything that *decides*, as plain functions and state machines over values.
//!
//! Nothing here performs I/O, reads a clock, draws randomness, spawns or waits: `now` is a [`std::time::Instant`]
//! argument, randomness a `u64`, an `f64` in `[0, 1)` or a closure that yields `u64`s. The sidecar runs these decisions
//! for each call; the control plane runs [`config`] before it pushes and the same decisions to explain them. A decision
//! returns a value that owns what the next stage needs: a permit releases itself when dropped.
//!
//! ```
//! use weft_policy::config::Service;
//! use weft_policy::route::{Decision, Head};
//! use weft_proto::v1;
//!
//! let port = v1::ServicePort { port: 80, ..Default::default() };
//! let wire = v1::Service { name: "shop/orders".into(), ports: vec![port], ..Default::default() };
//! let service = Service::from_wire(&wire)?;
//!
//! let call = http::Request::get("/orders/7?full=1").body(())?;
//! let head = Head::new(call.method().as_str(), "/orders/7?full=1", call.headers());
//! let random = 0x5EED; // uniform over all u64
//! let Decision::Forward { rule, name, .. } = service.ports[0].frontend.routes.decide(&head, random) else {
//!     unreachable!("a port without routes sends every call to itself")
//! };
//! assert_eq!((&*rule.route, name.to_string().as_str()), ("default", "shop/orders:80"));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

pub mod authorize;
pub mod balance;
pub mod breaker;
pub mod config;
pub mod deadline;
pub mod fault;
pub mod health;
pub mod hedge;
pub mod limit;
pub mod retry;
pub mod route;
pub mod text;
pub mod trace;
