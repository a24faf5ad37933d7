//! The compiler and the encoder alone: no network, no store, one thread.

use crate::memory::{kept, live};
use crate::report::{Report, Rounds, count, figure, rounds, timed};
use crate::shop::{self, Size};
use serde_json::{Value, json};
use std::sync::Arc;
use std::time::Duration;
use weft_control::compile::{Compiler, Encoded, Output};
use weft_control::world::World;
use weft_control::xds::{Client, Snapshot};
use weft_proto::type_url;

/// One step of the reconciler, from a world to what is offered.
#[derive(Default)]
struct Plane {
    compiler: Compiler,
    output: Output,
    snapshot: Snapshot,
}

impl Plane {
    /// Milliseconds of compiling and of encoding.
    fn step(&mut self, world: &World) -> (f64, f64) {
        let (output, compiling) = timed(|| self.compiler.compile(world));
        let (snapshot, encoding) = timed(|| Snapshot::next(&self.snapshot, &output).0);
        (self.output, self.snapshot) = (output, snapshot);
        (compiling, encoding)
    }
}

/// Somebody who may see the resource.
fn client(namespace: &str) -> Client {
    Client { identity: format!("spiffe://weft.local/ns/{namespace}/sa/default"), namespace: namespace.to_owned() }
}

/// Every resource on offer, by type: what its sidecars get.
fn everything(output: &Output, snapshot: &Snapshot) -> Vec<(&'static str, Vec<Arc<Encoded>>)> {
    let all = |url, names: Vec<(&str, String)>| {
        let found =
            names.iter().filter_map(|(name, namespace)| snapshot.lookup(&client(namespace), url, name).cloned());
        found.collect::<Vec<_>>()
    };
    let own = |name: &str| name.split('/').next().unwrap_or_default().to_owned();
    vec![
        ("Service", all(type_url::SERVICE, output.services.keys().map(|n| (&**n, own(n))).collect())),
        (
            "Service of a workload's address",
            all(type_url::SERVICE, output.alone.keys().map(|n| (&**n, own(n))).collect()),
        ),
        ("Endpoints of a service", all(type_url::ENDPOINTS, output.endpoints.keys().map(|n| (&**n, own(n))).collect())),
        ("Inbound", all(type_url::INBOUND, output.inbound.keys().map(|n| (&**n, own(n))).collect())),
        ("TrustBundle", all(type_url::TRUST_BUNDLE, vec![("weft.local", "shop-0".to_owned())])),
        ("MeshSettings", all(type_url::MESH_SETTINGS, vec![("mesh", "shop-0".to_owned())])),
    ]
}

/// An edit that changes one thing, each round something else of the kind.
type Edit = fn(&mut World, Size, usize);

const EDITS: [(&str, Edit); 4] = [
    ("one endpoint becomes unready", |world, size, round| {
        let i = round * 7 % size.services;
        let mut changed = (**world.workloads.get(&size.workload(i, 0)).expect("an endpoint")).clone();
        changed.phase = match changed.phase {
            Some(weft_control::kinds::Phase::Ready) => Some(weft_control::kinds::Phase::NotReady),
            _ => Some(weft_control::kinds::Phase::Ready),
        };
        world.workloads.insert(size.workload(i, 0), Arc::new(changed));
    }),
    ("one HTTPRoute shifts weight", |world, size, round| {
        let i = round * 3 % (size.services / 3 * 3);
        shop::put(world, &shop::route(size, i, 11 + round as u32 % 50));
    }),
    ("one TrafficPolicy changes", |world, size, round| {
        let i = round * 5 % (size.services / 5 * 5) + 1;
        shop::put(world, &shop::traffic(&size.namespace(i), i, 4 + round as u32));
    }),
    ("one AuthorizationPolicy changes", |world, size, round| {
        let i = round * 5 % (size.services / 5 * 5) + 2;
        shop::put(world, &shop::authorization(&size.namespace(i), i, &format!("/item/{round}")));
    }),
];

/// Full and incremental compilation, encoding, and what all of it keeps. A figure takes no longer than `budget` once it has its least rounds.
pub fn run(report: &mut Report, sizes: &[Size], budget: Duration) {
    report.section("Compiling and encoding");
    let (mut whole, mut steps, mut memory, mut found) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    let mut bytes = Vec::new();
    for size in sizes {
        let documents = shop::documents(*size);
        let (mut world, of_world) = kept(|| shop::world(&documents));
        drop(documents);
        let workloads = world.workloads.len();
        let label = format!("{} in {}", count(size.services), count(size.services.div_ceil(size.in_namespace)));

        let mut encoding = Rounds::default();
        let compiling = rounds(3, 15, budget, |_| {
            let mut plane = Plane::default();
            let (compiled, encoded) = plane.step(&world);
            encoding.0.push(encoded);
            compiled
        });
        let mut plane = Plane::default();
        let before = live();
        let output = plane.compiler.compile(&world);
        let of_output = live() as f64 - before as f64;
        let (snapshot, of_snapshot) = kept(|| Snapshot::next(&Snapshot::default(), &output).0);
        (plane.output, plane.snapshot) = (output, snapshot);
        let resources = plane.snapshot.len();
        whole.push(vec![
            label.clone(),
            count(workloads),
            count(resources),
            figure(compiling.median()),
            figure(encoding.median()),
            count((resources as f64 / encoding.median() * 1e3) as i64),
        ]);
        let each = |bytes: f64| figure(bytes / 1024.0 / size.services as f64);
        memory.push(vec![
            label.clone(),
            each(of_world),
            each(of_output),
            each(of_snapshot),
            figure((of_world + of_output + of_snapshot) / 1024.0 / 1024.0),
        ]);
        bytes = sizes_of(&plane);
        let mut entry = json!({
            "services": size.services, "namespaces": size.services.div_ceil(size.in_namespace), "workloads": workloads,
            "resources": resources, "compileMs": compiling.json(), "encodeMs": encoding.json(),
            "heapBytes": {"world": of_world, "compiled": of_output, "encoded": of_snapshot},
        });
        for (name, edit) in EDITS {
            let (row, json) = incremental((&mut world, &mut plane), *size, (name, edit), budget);
            entry["incremental"][name] = json;
            steps.push([vec![label.clone(), name.to_owned()], row].concat());
        }
        found.push(entry);
    }
    report.text("From nothing:\n");
    report
        .table(&["services in namespaces", "endpoints", "resources", "compile, ms", "encode, ms", "encoded/s"], &whole);
    report.text("After one change, everything else as it was:\n");
    let head = [
        "services in namespaces",
        "change",
        "compile, ms (max)",
        "encode, ms (max)",
        "compiled",
        "encoded",
        "offered anew",
    ];
    report.table(&head, &steps);
    report.text("Heap kept, KiB per service (its endpoints, routes and policies included):\n");
    report.table(&["services in namespaces", "world", "compiled", "encoded", "all, MiB"], &memory);
    report.text("Bytes on the wire of a resource:\n");
    report.table(&["resource", "how many", "median", "largest"], &bytes);
    report.value("compile", Value::Array(found));
}

fn incremental(
    (world, plane): (&mut World, &mut Plane),
    size: Size,
    (name, edit): (&str, Edit),
    budget: Duration,
) -> (Vec<String>, Value) {
    let (mut compiling, mut encoding, mut anew) = (Rounds::default(), Rounds::default(), Rounds::default());
    let mut work = (Rounds::default(), Rounds::default());
    rounds(3, 41, budget, |round| {
        edit(world, size, round);
        let offered = everything(&plane.output, &plane.snapshot);
        let (compiled, encoded) = plane.step(world);
        compiling.0.push(compiled);
        encoding.0.push(encoded);
        let changed = everything(&plane.output, &plane.snapshot);
        let pairs = offered.iter().zip(&changed).flat_map(|(a, b)| a.1.iter().zip(&b.1));
        anew.0.push(pairs.filter(|(a, b)| !Arc::ptr_eq(a, b)).count() as f64);
        work.0.0.push(plane.compiler.recompiled() as f64);
        work.1.0.push(plane.snapshot.renewed() as f64);
        compiled
    });
    assert!(anew.median() >= 1.0, "{name} changed nothing");
    let with_max = |r: &Rounds| format!("{} ({})", figure(r.median()), figure(r.max()));
    let row = vec![
        with_max(&compiling),
        with_max(&encoding),
        count(work.0.median() as i64),
        count(work.1.median() as i64),
        count(anew.median() as i64),
    ];
    let json = json!({
        "compileMs": compiling.json(), "encodeMs": encoding.json(), "compiled": work.0.json(), "encoded": work.1.json(),
        "offeredAnew": anew.json(),
    });
    (row, json)
}

fn sizes_of(plane: &Plane) -> Vec<Vec<String>> {
    let of_type = |(name, all): (&str, Vec<Arc<Encoded>>)| {
        let sizes = Rounds(all.iter().map(|e| e.value.len() as f64).collect());
        vec![name.to_owned(), count(all.len() as i64), count(sizes.median() as i64), count(sizes.max() as i64)]
    };
    everything(&plane.output, &plane.snapshot).into_iter().map(of_type).collect()
}
