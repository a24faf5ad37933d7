//! Which rule a TLS connection meets by its server name (SNI): exact before the longest wildcard before any.

use std::collections::HashMap;

/// A name that a TLS route is about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ServerName {
    /// The whole name, in lower case.
    Exact(Box<str>),
    /// `*.example.com` without the `*.`: one or more labels before it.
    Below(Box<str>),
}

/// Rules by server name.
#[derive(Clone, Debug, Default)]
pub(super) struct ServerNames {
    exact: Names,
    below: Names,
    any: Option<usize>,
}

type Names = HashMap<Box<str>, usize, foldhash::fast::RandomState>;

/// Longest name that a certificate or SNI holds (RFC 1035 §2.3.4).
const LONGEST: usize = 255;

impl ServerNames {
    /// A rule takes those of `names` that none took before it; all that is left, where `names` is empty.
    pub(super) fn claim(&mut self, names: &[ServerName], rule: usize) {
        for name in names {
            match name {
                ServerName::Exact(name) => self.exact.entry(name.clone()).or_insert(rule),
                ServerName::Below(name) => self.below.entry(name.clone()).or_insert(rule),
            };
        }
        if names.is_empty() {
            self.any.get_or_insert(rule);
        }
    }

    /// The rule of a server name; case does not matter (RFC 6066 §3), nor does a final dot.
    pub(super) fn find(&self, name: Option<&str>) -> Option<usize> {
        let named = name.filter(|name| name.len() <= LONGEST).and_then(|name| {
            let lower = name.strip_suffix('.').unwrap_or(name).to_ascii_lowercase();
            let exact = self.exact.get(lower.as_str());
            let mut rest = lower.as_str();
            let wildcards = std::iter::from_fn(|| {
                (_, rest) = rest.split_once('.')?;
                Some(rest)
            });
            exact
                .copied()
                .or_else(|| wildcards.filter(|_| !self.below.is_empty()).find_map(|rest| self.below.get(rest).copied()))
        });
        named.or(self.any)
    }
}
