//! What a rule or one of its backends does to a call besides sending it on: header edits, and the rarer filters in one box, so that a
//! rule without them costs one null check. Values are checked by [`crate::config`]; applying edits is the caller's.

use http::{HeaderName, HeaderValue};

use super::{Cors, Mirror, Redirect, Rewrite};

/// Filters of a rule or of a backend, names and values already checked.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Filters {
    /// Applied to the request, in order.
    pub request: Vec<HeaderEdit>,
    /// Applied to the response, in order.
    pub response: Vec<HeaderEdit>,
    /// Everything else; `None`: nothing else.
    pub extra: Option<Box<Extra>>,
}

/// The filters that few rules have.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Extra {
    /// Answers instead of forwarding. Invariant: never beside `rewrite`.
    pub redirect: Option<Redirect>,
    /// Changes path or authority on the way to the backend.
    pub rewrite: Option<Rewrite>,
    /// Copies of calls, each drawn for itself.
    pub mirrors: Vec<Mirror>,
    /// Answers preflights, marks responses.
    pub cors: Option<Cors>,
}

/// One `HeaderModifier`: removed first, then set, then added.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct HeaderEdit {
    /// Replaces all values.
    pub set: Vec<(HeaderName, HeaderValue)>,
    /// Appends.
    pub add: Vec<(HeaderName, HeaderValue)>,
    /// Removes all values.
    pub remove: Vec<HeaderName>,
}

impl Filters {
    /// The redirect, if there is one.
    pub fn redirect(&self) -> Option<&Redirect> {
        self.extra.as_ref()?.redirect.as_ref()
    }

    /// The rewrite, if there is one.
    pub fn rewrite(&self) -> Option<&Rewrite> {
        self.extra.as_ref()?.rewrite.as_ref()
    }

    /// The mirrors, in order.
    pub fn mirrors(&self) -> &[Mirror] {
        self.extra.as_ref().map_or(&[], |extra| &extra.mirrors)
    }

    /// The CORS filter, if there is one.
    pub fn cors(&self) -> Option<&Cors> {
        self.extra.as_ref()?.cors.as_ref()
    }
}
