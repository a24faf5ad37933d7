//! What is worth remembering over a restart, and putting it back in force.

use super::{Answer, Delta, State};
use crate::discovery::Alias;
use crate::discovery::held::Held;
use std::sync::Arc;
use std::time::Instant;
use weft_proto::{type_url, v1};

impl State {
    /// Everything held, as it came over the wire, by type in subscription order, and the aliases in use: what is worth remembering.
    #[must_use]
    pub fn remember(&self) -> (Vec<Delta>, Vec<Alias>) {
        fn of<T>(url: &str, slots: impl Iterator<Item = Option<Arc<Held<T>>>>) -> Delta {
            let resources = slots.flatten().map(|held| held.resource.clone()).collect();
            Delta { type_url: url.to_owned(), resources, removed: Vec::new() }
        }
        let deltas = vec![
            of(type_url::TRUST_BUNDLE, self.bundles.values().map(|s| s.held.clone())),
            of(type_url::MESH_SETTINGS, std::iter::once(self.settings.held.clone())),
            of(type_url::INBOUND, std::iter::once(self.inbound.held.clone())),
            of(type_url::SERVICE, self.services.values().map(|s| s.latest.as_ref().map(|l| l.held.clone()))),
            of(type_url::ENDPOINTS, self.slices.values().map(|s| s.held.clone())),
        ];
        let used = self.asks.iter().filter(|(_, ask)| matches!(ask.answer, Answer::Service(_)));
        (deltas, used.map(|(alias, _)| alias.clone()).collect())
    }

    /// Puts remembered resources in force at once: validated as ever, warming skipped. Returns what is refused now.
    pub fn recall(&mut self, now: Instant, deltas: &[Delta], aliases: Vec<Alias>) -> Vec<v1::ResourceRefusal> {
        let (slices, rest): (Vec<&Delta>, Vec<&Delta>) =
            deltas.iter().partition(|delta| delta.type_url == type_url::ENDPOINTS);
        let mut refusals: Vec<_> = rest.into_iter().flat_map(|delta| self.apply(now, delta)).collect();
        for alias in aliases {
            self.ask(now, alias);
        }
        refusals.extend(slices.into_iter().flat_map(|delta| self.apply(now, delta)));
        for slot in self.services.values_mut() {
            slot.until = Some(now);
            slot.last_used = Some(now);
        }
        self.settle(now);
        // A refusal that the disk caused is not the control plane's: it will send the resource again.
        self.refused.clear();
        refusals
    }
}
