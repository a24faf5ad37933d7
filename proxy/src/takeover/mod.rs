//! In-place takeover: a new process gets the listening sockets of the one that runs, and goes on where it stands.
//!
//! The successor asks at the private socket of its predecessor (`POST /take-over`, an HTTP upgrade whose token names
//! the version of what follows) and gets an [`Offer`](message::Offer) with copies of every listening socket
//! (SCM_RIGHTS) and of the state directory's lock. Both processes then hold the same queues of connections, so that
//! neither closing nor dying loses one that waits. The successor starts, without accepting, and says that it is ready;
//! that is the moment of handing over: the predecessor stops accepting and serves what it has, the successor begins.
//! Until then the predecessor goes on as if nobody had asked, whatever becomes of the other.
//!
//! The conversation stays open as long as both live: the predecessor says how much it still has, and is told when the
//! successor leaves. Who starts the successor, and what becomes of its parent, is `app`'s business.

pub mod descriptors;
mod give;
pub mod message;
mod relieved;
mod shelf;
mod take;
mod turn;

pub use give::Giver;
pub use relieved::{Conversation, Relieved};
pub use shelf::{DNS, Inherited, Shelf};
pub use take::{Predecessor, ask};
pub use turn::Turn;

/// Where the private socket takes it.
pub const PATH: &str = "/take-over";
/// What `Upgrade` says: what follows is of this version.
pub const PROTOCOL: &str = "weft-take-over/1";
