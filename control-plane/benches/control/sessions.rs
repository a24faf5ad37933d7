//! The protocol of many streams without a network: what the server remembers of each sidecar, and that they share what they are sent.

use crate::memory::{kept, live};
use crate::report::{Report, count, figure, rounds, timed};
use crate::shop::{self, Size};
use serde_json::json;
use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;
use weft_control::compile::Compiler;
use weft_control::xds::convergence::Guard;
use weft_control::xds::session::Session;
use weft_control::xds::{Client, Convergence, Snapshot};
use weft_proto::discovery::{DeltaDiscoveryRequest, DeltaDiscoveryResponse};
use weft_proto::{Resource as _, type_url, v1};

/// Services that each sidecar calls.
pub const CALLS: usize = 10;

/// What a sidecar subscribes to at first: settings, roots, its own Inbound, and by name the services it calls. Number 0 is called by all,
/// those of the second half by none.
pub fn wanted(size: Size, sidecar: usize) -> Vec<(&'static str, Vec<String>)> {
    let of_namespace = size.in_namespace.min(size.services);
    let host = |i: usize| format!("host:item-{i}.{}", size.namespace(i));
    let services = std::iter::once(0).chain((0..CALLS - 1).map(|j| 1 + (sidecar * 9 + j) % (size.services / 2)));
    vec![
        (type_url::MESH_SETTINGS, vec!["mesh".to_owned()]),
        (type_url::TRUST_BUNDLE, vec!["weft.local".to_owned()]),
        (type_url::INBOUND, vec![size.workload(sidecar % of_namespace, sidecar / of_namespace % 3)]),
        (type_url::SERVICE, services.map(host).collect()),
    ]
}

/// The slices that a response with services refers to.
pub fn slices(response: &DeltaDiscoveryResponse) -> Vec<String> {
    let services = response.resources.iter().filter_map(|r| v1::Service::from_any(r.resource.as_ref()?).ok());
    let ports = services.flat_map(|s| s.ports);
    ports.flat_map(|p| p.backend.unwrap_or_default().slices).collect()
}

pub fn ask(url: &str, names: Vec<String>) -> DeltaDiscoveryRequest {
    DeltaDiscoveryRequest { type_url: url.to_owned(), resource_names_subscribe: names, ..Default::default() }
}

pub fn acknowledged(response: &DeltaDiscoveryResponse) -> DeltaDiscoveryRequest {
    DeltaDiscoveryRequest {
        type_url: response.type_url.clone(),
        response_nonce: response.nonce.clone(),
        ..Default::default()
    }
}

struct Sidecar {
    session: Session,
    guard: Guard,
}

impl Sidecar {
    /// Takes and acknowledges everything that is due; returns how many resources that was.
    fn drain(&mut self, snapshot: &Snapshot, subscribed: &mut Vec<String>) -> usize {
        let mut taken = 0;
        while let Some(response) = self.session.response(snapshot) {
            taken += response.resources.len();
            if let Some((url, names)) = self.session.newest() {
                self.guard.sent(url, names);
            }
            let events = self.session.request(acknowledged(&response), snapshot).expect("an acknowledgement");
            self.guard.apply(events);
            if response.type_url == type_url::SERVICE && subscribed.is_empty() {
                *subscribed = slices(&response);
                let events =
                    self.session.request(ask(type_url::ENDPOINTS, subscribed.clone()), snapshot).expect("slices");
                self.guard.apply(events);
            }
        }
        taken
    }
}

/// Memory of `streams` sessions, and the CPU of telling all of them of one change.
pub fn run(report: &mut Report, size: Size, streams: usize) {
    report.section(&format!("{} streams without a network", count(streams)));
    let mut world = shop::world(&shop::documents(size));
    let mut compiler = Compiler::default();
    let mut snapshot = Snapshot::next(&Snapshot::default(), &compiler.compile(&world)).0;
    let offered = snapshot.renewed();
    let convergence = Arc::new(Convergence::default());
    let before = live();
    let namespace = size.namespace(0);
    let (mut all, of_sessions) = kept(|| {
        let join = |i: usize| {
            let identity = format!("spiffe://weft.local/ns/{namespace}/sa/default");
            let client = Client { identity, namespace: namespace.clone() };
            let mut sidecar = Sidecar { guard: convergence.join(client.clone()), session: Session::new(client) };
            for (url, names) in wanted(size, i) {
                let events = sidecar.session.request(ask(url, names), &snapshot).expect("a subscription");
                sidecar.guard.apply(events);
            }
            let mut subscribed = Vec::new();
            sidecar.drain(&snapshot, &mut subscribed);
            sidecar
        };
        (0..streams).map(join).collect::<Vec<_>>()
    });
    let each = (live() - before) as f64 / streams as f64;
    assert!(of_sessions > 0.0);
    let mut distinct: HashSet<(&'static str, String)> = HashSet::new();
    let mut held = 0_usize;
    let mut wire = 0_usize;
    for sidecar in &all {
        for (url, name, _) in sidecar.session.held() {
            held += 1;
            wire += snapshot.lookup(sidecar.session.client(), url, name).map_or(0, |r| r.value.len());
            distinct.insert((url, name.to_owned()));
        }
    }

    // A change that everybody gets; of one that somebody does not hold, its stream is not told.
    let everybody = rounds(5, 21, Duration::from_secs(2), |round| {
        let mut changed = (**world.workloads.get(&size.workload(0, 0)).expect("an endpoint")).clone();
        changed.spec.weight = Some(2 + round as u32 % 900);
        world.workloads.insert(size.workload(0, 0), Arc::new(changed));
        let topics;
        (snapshot, topics) = Snapshot::next(&snapshot, &compiler.compile(&world));
        let mut none = vec![String::new()];
        let (sent, took) = timed(|| {
            let told = all.iter_mut().map(|sidecar| {
                sidecar.session.changed(topics.iter().filter(|(url, _)| *url == type_url::ENDPOINTS).cloned());
                sidecar.drain(&snapshot, &mut none)
            });
            told.sum::<usize>()
        });
        assert_eq!(sent, streams, "sidecars that hold the first service");
        took * 1e3 / streams as f64
    });
    report.table(
        &["", ""],
        &[
            vec!["resources that each holds".to_owned(), figure(held as f64 / streams as f64)],
            vec!["resources held by all, counted singly".to_owned(), count(held)],
            vec!["different ones among them".to_owned(), count(distinct.len())],
            vec!["resources encoded, all that is on offer".to_owned(), count(offered)],
            vec!["encoded bytes of what each holds, KiB".to_owned(), figure(wire as f64 / streams as f64 / 1024.0)],
            vec!["heap of protocol state for each, KiB".to_owned(), figure(each / 1024.0)],
            vec!["a change that all hold, CPU for each stream, µs".to_owned(), figure(everybody.median())],
        ],
    );
    report.value(
        "sessions",
        json!({
            "services": size.services, "streams": streams, "held": held, "different": distinct.len(), "encoded": offered,
            "wireBytesEach": wire as f64 / streams as f64, "heapBytesEach": each,
            "changeAllHoldUsEach": everybody.json(),
        }),
    );
}
