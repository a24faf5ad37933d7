//! Who this sidecar is: key, certificate and trust, from the first proof to the last renewal.
//!
//! The key is made here and never leaves, unless an agent of the SPIFFE Workload API gives it with the rest. Everything that uses the identity holds the one `LiveIdentity`, which is swapped in place,
//! so nothing here touches a connection. Verification itself is `weft-certs`'; what may be trusted comes from discovery.

mod agent;
mod bundle;
mod enrolment;
mod files;
mod issue;
mod join;
mod material;
mod mind;
mod registrar;
mod renew;

pub use agent::{Agent, Followed};
pub use enrolment::{Enrolment, ServiceAccount};
pub use files::Files;
pub use issue::{IdentityError, Issuer};
pub use join::JoinToken;
pub use material::Wanted;
pub(crate) use mind::handshake_kind;
pub use mind::mind;
pub use registrar::Registrar;
pub use renew::{Renewal, Standing};
