//! One rule, compiled: only what it asks is stored, so that what it does not ask costs nothing.
//!
//! A rule is asked with a [`Stance`]: one that denies or watches holds in doubt, one that allows does not. Doubt is a path with two readings,
//! a header on several lines, and on a connection whatever only a request could answer. An attribute that is absent is no doubt: no value
//! matches it, so a condition that wants one fails and a condition that excludes some holds.

use std::sync::Arc;

use http::HeaderName;

use super::facts::{Facts, Stage};
use super::path::PathPattern;
use super::pattern::{HostPattern, Pattern};
use crate::config::Cidr;
use crate::route::Request;

/// One rule of a policy: any of `from`, any of `to`, and all of `when`.
#[derive(Clone, Debug, Default)]
pub struct Rule {
    /// Name; may be empty.
    pub name: Arc<str>,
    /// Place among the rules of its policy as it was written.
    pub index: usize,
    /// Callers; none: every caller.
    pub from: Box<[Tests]>,
    /// Calls; none: every call.
    pub to: Box<[Tests]>,
    /// Conditions beside them.
    pub when: Tests,
}

/// All must hold.
pub type Tests = Box<[Test]>;

/// Compares one attribute.
#[derive(Clone, Debug)]
pub struct Test {
    /// What is compared with what.
    pub subject: Subject,
    /// `true`: a value must match. `false`: none may.
    pub wanted: bool,
}

/// An attribute, and the values of which any matches.
#[derive(Clone, Debug)]
pub enum Subject {
    /// SPIFFE id of the peer.
    Identity(Box<[Pattern]>),
    /// Namespace of the peer's identity.
    Namespace(Box<[Pattern]>),
    /// Address of the peer.
    Address(Box<[Cidr]>),
    /// Server name of the peer's TLS.
    ServerName(Box<[Pattern]>),
    /// `<iss>/<sub>` of the token.
    Principal(Box<[Pattern]>),
    /// A claim of the token, by its path.
    Claim(Box<[Box<str>]>, Box<[Pattern]>),
    /// A header.
    Header(HeaderName, Box<[Pattern]>),
    /// The host that the request names.
    Host(Box<[HostPattern]>),
    /// The method.
    Method(Box<[Pattern]>),
    /// The path. Only in [`Rule::to`].
    Path(Box<[PathPattern]>),
}

/// What a rule does in doubt.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Stance {
    /// It holds: it denies or watches.
    Suspect,
    /// It does not: it allows.
    Admit,
}

impl Rule {
    /// Whether it holds. `path` and `normal` are the readings of the request's path.
    pub(super) fn holds(&self, facts: &Facts<'_>, path: &str, normal: Option<&str>, stance: Stance) -> bool {
        let all = |tests: &Tests, path| tests.iter().all(|test| test.holds(facts, path, stance));
        let to = |path| self.to.is_empty() || self.to.iter().any(|tests| all(tests, path));
        (self.from.is_empty() || self.from.iter().any(|tests| all(tests, "")))
            && match stance {
                Stance::Suspect => to(path) || normal.is_some_and(to),
                Stance::Admit => to(path) && normal.is_none_or(to),
            }
            && all(&self.when, "")
    }

    fn any(&self, found: impl Fn(&Subject) -> bool) -> bool {
        self.from.iter().chain(&self.to).chain([&self.when]).flatten().any(|test| found(&test.subject))
    }

    pub(super) fn reads_paths(&self) -> bool {
        self.any(|subject| matches!(subject, Subject::Path(_)))
    }

    pub(super) fn reads_namespaces(&self) -> bool {
        self.any(|subject| matches!(subject, Subject::Namespace(_)))
    }
}

impl Test {
    fn holds(&self, facts: &Facts<'_>, path: &str, stance: Stance) -> bool {
        let any = |patterns: &[Pattern], text: Option<&str>| {
            text.is_some_and(|text| patterns.iter().any(|p| p.holds(text.as_bytes())))
        };
        let connection = facts.connection;
        let matched = match (&self.subject, facts.stage) {
            (Subject::Identity(patterns), _) => any(patterns, connection.identity),
            (Subject::Namespace(patterns), _) => any(patterns, facts.namespace),
            (Subject::ServerName(patterns), _) => any(patterns, connection.server_name),
            (Subject::Address(blocks), _) => {
                connection.address.is_some_and(|address| blocks.iter().any(|block| block.contains(address)))
            }
            // Only a request could say. Before the first one a rule that denies must hold for all of them and one that allows for some;
            // where none will ever be readable, what may be denied is, and what is not known to be allowed is not.
            (_, Stage::Connection) => return stance == Stance::Admit,
            (_, Stage::Opaque) => return stance == Stance::Suspect,
            (Subject::Method(patterns), Stage::Request(call, _)) => any(patterns, Some(call.method())),
            (Subject::Path(patterns), Stage::Request(..)) => patterns.iter().any(|p| p.holds(path)),
            (Subject::Host(patterns), Stage::Request(call, _)) => {
                call.any_header(&http::header::HOST, &mut |authority| patterns.iter().any(|p| p.holds(authority)))
            }
            (Subject::Header(name, patterns), Stage::Request(call, _)) => {
                return self.header(call, name, patterns, stance);
            }
            (Subject::Principal(patterns), Stage::Request(_, token)) => {
                any(patterns, token.and_then(|t| t.principal()))
            }
            (Subject::Claim(at, patterns), Stage::Request(_, token)) => token.is_some_and(|token| {
                let words = has_words(at);
                token.any_claim(at, &mut |value| match words {
                    true => value.split_ascii_whitespace().any(|word| any(patterns, Some(word))),
                    false => any(patterns, Some(value)),
                })
            }),
        };
        matched == self.wanted
    }

    /// Which line of a header an application reads is its own affair: in doubt, each of them.
    fn header(&self, call: &dyn Request, name: &HeaderName, patterns: &[Pattern], stance: Stance) -> bool {
        let line = |matches: bool| {
            call.any_header(name, &mut |value| {
                let value = value.trim_ascii();
                patterns.iter().any(|p| p.holds(value)) == matches
            })
        };
        match (self.wanted, stance) {
            (true, Stance::Suspect) => line(true),
            (true, Stance::Admit) => line(true) && !line(false),
            (false, Stance::Suspect) => line(false) || !line(true),
            (false, Stance::Admit) => !line(true),
        }
    }
}

/// Claims that hold a list of words in one text (RFC 8693 §4.2 for `scope`).
fn has_words(at: &[Box<str>]) -> bool {
    matches!(at, [name] if matches!(&**name, "scope" | "permission"))
}
