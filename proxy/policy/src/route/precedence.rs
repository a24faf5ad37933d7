//! Which of two matches comes first, and how much a pattern counts for: the order in which a table holds its entries.

use std::cmp::Ordering;

use super::matching::pattern_length;
use super::{Match, PathMatch, TextMatch};

/// Which of two matches is looked at first, if both could hold.
///
/// `HTTPRouteRule.matches`: "Exact path match. Prefix path match with largest number of characters. Method match.
/// Largest number of header matches. Largest number of query param matches." Where regular expressions stand is left to
/// implementations: after exact, before prefixes, so that a catch-all prefix does not hide them; the longer pattern
/// first. `GRPCRouteRule.matches`: characters in the service, in the method, number of header matches.
pub(super) fn compare(a: &Match, b: &Match) -> Ordering {
    let path = rank(&a.path).cmp(&rank(&b.path)).then_with(|| match (&a.path, &b.path) {
        (PathMatch::Exact(a), PathMatch::Exact(b)) => a.cmp(b),
        (PathMatch::Prefix(a), PathMatch::Prefix(b)) => b.len().cmp(&a.len()).then_with(|| a.cmp(b)),
        (PathMatch::Regex(a), PathMatch::Regex(b)) => pattern_length(b.as_str()).cmp(&pattern_length(a.as_str())),
        (PathMatch::Grpc(a), PathMatch::Grpc(b)) => {
            let length = |part: &Option<TextMatch>| part.as_ref().map_or(0, TextMatch::length);
            let service = length(&b.service).cmp(&length(&a.service));
            service.then_with(|| length(&b.method).cmp(&length(&a.method)))
        }
        _ => Ordering::Equal,
    });
    path.then_with(|| b.method.is_some().cmp(&a.method.is_some()))
        .then_with(|| b.headers.len().cmp(&a.headers.len()))
        .then_with(|| b.queries.len().cmp(&a.queries.len()))
}

fn rank(path: &PathMatch) -> u8 {
    match path {
        PathMatch::Exact(_) => 0,
        PathMatch::Regex(_) | PathMatch::Grpc(_) => 1,
        PathMatch::Prefix(_) => 2,
        PathMatch::Any => 3,
    }
}
