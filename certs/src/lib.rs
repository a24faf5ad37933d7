//! Identity and trust of the mesh: SPIFFE ids, the certificate authority, trust bundles, live identities and the rustls configurations
//! that verify them. Everybody who speaks TLS in Weft takes its configuration from here; nobody else builds a verifier or names a cipher.
//!
//! What must not be here: sockets, gRPC, policy, schedules. Time is an argument wherever a decision depends on it; the one exception is
//! a handshake, for which rustls supplies the clock.
//!
//! ```
//! use std::time::SystemTime;
//! use weft_certs::{KeyPair, MeshCa, SpiffeId, Svid, TrustDomain};
//!
//! let domain: TrustDomain = "weft.local".parse()?;
//! let ca = MeshCa::ephemeral(&domain, SystemTime::now())?;
//! // In the sidecar: the key is made here and never leaves.
//! let key = KeyPair::generate()?;
//! let csr = key.csr()?;
//! // In the control plane: of the request, only the public key counts.
//! let id = SpiffeId::workload(&domain, "shop", "catalog")?;
//! let issued = ca.sign(&csr, &id, None, SystemTime::now())?;
//! // Back in the sidecar.
//! let svid = Svid::new(issued.chain, &key)?;
//! assert_eq!(svid.id().to_string(), "spiffe://weft.local/ns/shop/sa/catalog");
//! # Ok::<(), weft_certs::Error>(())
//! ```

pub mod bundle;
pub mod ca;
pub mod der;
pub mod describe;
pub mod error;
pub mod files;
pub mod fingerprint;
pub mod identity;
pub mod jwt;
pub mod key;
mod leaf;
mod pem;
pub mod revocation;
pub mod spiffe;
pub mod tls;

pub use bundle::{TrustBundle, TrustBundles};
pub use ca::{ApiCa, Credential, Issued, MeshCa};
pub use describe::CertificateInfo;
pub use error::{Error, PeerFault};
pub use fingerprint::Fingerprint;
pub use identity::{Identity, LiveIdentity, Svid, Watched};
pub use key::KeyPair;
pub use revocation::{Presented, RevocationList};
pub use rustls_pki_types::CertificateDer;
pub use spiffe::{SpiffeId, TrustDomain};
