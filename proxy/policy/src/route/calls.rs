//! Entries of gRPC routes by what they are exact about, so that a call is looked up by its names however many methods are routed.

use std::collections::HashMap;

use super::{GrpcMatch, PathMatch, TextMatch};

type Lists = HashMap<Box<str>, Vec<usize>, foldhash::fast::RandomState>;

/// Entries of gRPC by what they are exact about. Invariant: lists ascend.
#[derive(Clone, Debug, Default)]
pub(super) struct Calls {
    /// By `/service/method`.
    whole: Lists,
    services: Lists,
    methods: Lists,
    /// Those with an expression for either: tried one by one.
    patterns: Vec<usize>,
}

impl Calls {
    /// Paths of all entries, in their order; those that are not of gRPC are passed by.
    pub(super) fn new<'e>(paths: impl Iterator<Item = &'e PathMatch>) -> Self {
        let mut calls = Calls::default();
        for (i, path) in paths.enumerate() {
            let PathMatch::Grpc(GrpcMatch { service, method }) = path else { continue };
            match (service, method) {
                (Some(TextMatch::Exact(service)), Some(TextMatch::Exact(method))) => {
                    calls.whole.entry(format!("/{service}/{method}").into()).or_default().push(i);
                }
                (Some(TextMatch::Exact(service)), None) => calls.services.entry(service.clone()).or_default().push(i),
                (None, Some(TextMatch::Exact(method))) => calls.methods.entry(method.clone()).or_default().push(i),
                _ => calls.patterns.push(i),
            }
        }
        calls
    }

    /// The first entry, in order, that holds: `rest` tests what is beside service and method, `whole` everything.
    pub(super) fn find(
        &self,
        path: &str,
        rest: &dyn Fn(usize) -> bool,
        whole: &dyn Fn(usize) -> bool,
    ) -> Option<usize> {
        let (service, method) = GrpcMatch::parts(path).unzip();
        let listed = |lists: &Lists, key: Option<&str>| {
            super::table::step();
            lists.get(key?)?.iter().copied().find(|index| rest(*index))
        };
        let exact = [
            listed(&self.whole, service.map(|_| path)),
            listed(&self.services, service),
            listed(&self.methods, method),
        ];
        let best = exact.into_iter().flatten().min();
        // Expressions are tried only where one would come before what was found.
        let mut before = self.patterns.iter().copied().take_while(|index| best.is_none_or(|best| *index < best));
        before.find(|index| whole(*index)).or(best)
    }
}
