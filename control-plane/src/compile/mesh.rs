//! `TrustBundle` and `MeshSettings`: what holds for the whole mesh.

use super::condition::{Condition, Kind, Verdict};
use super::{inbound, service};
use crate::kinds::{self, MeshSettings};
use crate::world::{World, age};
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;
use weft_certs::TrustBundle;
use weft_policy::config::{Receiver, Transport};
use weft_proto::{type_url, v1};

/// Other trust domains that sidecars are told of.
const FEDERATED: usize = 64;
/// Of the registered addresses outside so many are told to every sidecar.
const OUTSIDE: usize = 1000;

/// The resource named `mesh`. Ranges of the mesh are those that a sidecar asks about: its own, then addresses outside that are registered.
#[must_use]
pub fn settings(world: &World) -> v1::MeshSettings {
    let egress = if world.is_registered_only() { v1::Egress::RegisteredOnly } else { v1::Egress::PassThrough };
    v1::MeshSettings {
        trust_domain: world.mesh.trust_domain.clone(),
        domain: world.mesh.domain.clone(),
        egress: egress.into(),
        mesh_cidrs: world.mesh.ranges.iter().cloned().chain(outside(world)).collect(),
        federated_trust_domains: federated(world).into_keys().collect(),
        tracing: world.settings().and_then(|settings| settings.spec.tracing.as_ref()).and_then(tracing),
        access_log: world.settings().and_then(|settings| settings.spec.access_log.as_ref()).map(access_log),
    }
}

/// Where spans go. `None` where the endpoint cannot be one: it was refused when it was written.
fn tracing(said: &kinds::Tracing) -> Option<v1::Tracing> {
    use kinds::{OtlpProtocol, TracePropagation};
    let (transport, known) = match said.protocol.unwrap_or_default() {
        OtlpProtocol::Grpc => (v1::OtlpTransport::Grpc, Transport::Grpc),
        OtlpProtocol::Http => (v1::OtlpTransport::Http, Transport::Http),
    };
    Receiver::parse(&said.endpoint, known).ok()?;
    let format = |format: &TracePropagation| match format {
        TracePropagation::W3C => v1::TraceFormat::W3c.into(),
        TracePropagation::B3 => v1::TraceFormat::B3.into(),
        TracePropagation::B3Multi => v1::TraceFormat::B3Multi.into(),
    };
    Some(v1::Tracing {
        endpoint: said.endpoint.clone(),
        transport: transport.into(),
        sampling: said.sampling.map(|percent| percent.clamp(0.0, 100.0)),
        formats: said.propagation.iter().map(format).collect(),
    })
}

fn access_log(said: &kinds::AccessLog) -> v1::AccessLog {
    use kinds::{LogFormat, LoggedCalls};
    let calls = match said.calls.unwrap_or_default() {
        LoggedCalls::All => v1::AccessLogCalls::All,
        LoggedCalls::Errors => v1::AccessLogCalls::Errors,
        LoggedCalls::None => v1::AccessLogCalls::None,
    };
    let layout = match said.format.unwrap_or_default() {
        LogFormat::Json => v1::AccessLogLayout::Json,
        LogFormat::Apache => v1::AccessLogLayout::Apache,
    };
    let sampling = said.sampling.map(|percent| percent.clamp(0.0, 100.0));
    v1::AccessLog { calls: calls.into(), sampling, layout: layout.into() }
}

/// What MeshSettings learn of their fate. `before` are the verdicts of the last compilation: what is as it was stays the same value.
#[must_use]
pub fn verdicts(world: &World, before: &[Arc<Verdict>]) -> Vec<Arc<Verdict>> {
    let verdict = |object: &Arc<MeshSettings>| {
        let is_ours = object.metadata.name.as_deref() == Some(MeshSettings::NAME);
        let accepted = if is_ours {
            Condition::accepted()
        } else {
            Condition::refused(
                "Invalid",
                format!("metadata.name: only the object named {:?} counts", MeshSettings::NAME),
            )
        };
        let shapes = is_ours.then(|| (type_url::MESH_SETTINGS, "mesh".to_owned()));
        let mut made = inbound::verdict(Kind::MeshSettings, &object.metadata, vec![accepted]);
        if let Some(parent) = Arc::make_mut(&mut made).parents.first_mut() {
            parent.shapes.extend(shapes);
        }
        before.iter().find(|known| **known == made).cloned().unwrap_or(made)
    };
    world.settings.values().map(verdict).collect()
}

/// Addresses that Services of type ExternalName stand for, as ranges of one.
fn outside(world: &World) -> impl Iterator<Item = String> {
    let hosts = world.services.values().filter_map(|service| service::external_host(service, &world.mesh.domain));
    let addresses: BTreeSet<IpAddr> = hosts.filter_map(|host| host.parse().ok()).collect();
    addresses.into_iter().take(OUTSIDE).map(|address| format!("{address}/{}", if address.is_ipv4() { 32 } else { 128 }))
}

/// Of every trust domain that is believed, by name.
#[must_use]
pub fn bundles(world: &World) -> BTreeMap<String, v1::TrustBundle> {
    let mut all = federated(world);
    all.insert(world.mesh.trust_domain.clone(), bundle(world));
    all
}

/// Bundles of other trust domains. Of several objects for one domain the oldest counts, and none for the mesh's own.
fn federated(world: &World) -> BTreeMap<String, v1::TrustBundle> {
    let mut objects: Vec<_> = world.federated.values().collect();
    objects.sort_by_key(|object| age(&object.metadata));
    let mut all = BTreeMap::new();
    for object in objects {
        let name = &object.spec.trust_domain;
        // What cannot be read was refused when it was written.
        let bundle = name.parse().ok().and_then(|domain| TrustBundle::from_pem(domain, &object.spec.roots).ok());
        let Some(bundle) = bundle.filter(|_| *name != world.mesh.trust_domain && all.len() < FEDERATED) else {
            continue;
        };
        let wire = v1::TrustBundle { trust_domain: name.clone(), roots: bundle.to_der(), ..Default::default() };
        all.entry(name.clone()).or_insert(wire);
    }
    all
}

/// The roots of the mesh's own trust domain.
fn bundle(world: &World) -> v1::TrustBundle {
    v1::TrustBundle {
        trust_domain: world.mesh.trust_domain.clone(),
        roots: world.mesh.roots.clone(),
        reissue_after: world.mesh.reissue_after,
        revocations: world.mesh.revocations.to_vec(),
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::world;
    use super::*;

    #[test]
    fn registered_addresses_outside_are_asked_about_like_those_of_the_mesh() {
        let outside = |(name, host): (&str, &str)| {
            format!(
                "kind: Service\nmetadata: {{name: {name}}}\nspec: {{type: ExternalName, externalName: '{host}', ports: [{{port: 80}}]}}"
            )
        };
        let hosts = [("a", "203.0.113.9"), ("b", "2001:db8::9"), ("c", "api.example.com")].map(outside);
        let mut world = world(&hosts.join("\n---\n"));
        let told = settings(&world);
        assert_eq!(told.mesh_cidrs, ["198.18.0.0/16", "203.0.113.9/32", "2001:db8::9/128"]);
        assert_eq!(told.egress(), v1::Egress::PassThrough);
        assert!(weft_policy::config::Settings::from_wire(&told).is_ok());
        world.mesh.registered_only = true;
        assert_eq!(settings(&world).egress(), v1::Egress::RegisteredOnly);
    }

    #[test]
    fn what_people_say_of_egress_comes_before_the_flag_and_they_learn_who_holds_it() {
        let of = |name: &str, egress: &str| {
            format!("kind: MeshSettings\nmetadata: {{name: {name}}}\nspec: {{egress: {egress}}}")
        };
        let told = |yaml: &str, flag: bool| {
            let mut world = world(yaml);
            world.mesh.registered_only = flag;
            (settings(&world).egress(), verdicts(&world, &[]))
        };
        let (egress, said) = told(&of("default", "Any"), true);
        assert_eq!(egress, v1::Egress::PassThrough);
        assert!(said[0].parents[0].is_accepted());
        assert_eq!(said[0].parents[0].shapes, [(type_url::MESH_SETTINGS, "mesh".to_owned())].into());
        assert_eq!(told(&of("default", "Registered"), false).0, v1::Egress::RegisteredOnly);
        let (egress, said) = told(&of("other", "Registered"), false);
        assert_eq!(egress, v1::Egress::PassThrough, "another name counts for nothing");
        assert!(!said[0].parents[0].is_accepted());
    }

    #[test]
    fn what_people_say_of_spans_and_lines_is_told_to_every_sidecar() {
        let told =
            |spec: &str| settings(&world(&format!("kind: MeshSettings\nmetadata: {{name: default}}\nspec: {spec}")));
        let none = told("{egress: Any}");
        assert_eq!((none.tracing, none.access_log), (None, None));
        let wire = told(
            "{tracing: {endpoint: 'http://192.0.2.7:4318', protocol: Http, sampling: 12.5, propagation: [W3C, B3Multi]}, \
             accessLog: {calls: Errors, format: Apache}}",
        );
        let read = weft_policy::config::Settings::from_wire(&wire).unwrap();
        let tracing = read.tracing.unwrap();
        assert_eq!((tracing.transport, tracing.ratio, tracing.receiver.port), (Transport::Http, 0.125, 4318));
        assert!(tracing.formats.w3c && tracing.formats.b3_multi && !tracing.formats.b3_single);
        let log = read.access_log.unwrap();
        assert_eq!((log.calls, log.ratio), (weft_policy::config::LoggedCalls::Errors, 1.0));
        assert_eq!(log.layout, weft_policy::config::LogLayout::Apache);
        let least = told("{tracing: {endpoint: 'http://192.0.2.7:4317'}}");
        assert_eq!(weft_policy::config::Settings::from_wire(&least).unwrap().tracing.unwrap().ratio, 0.01);
        assert_eq!(told("{tracing: {endpoint: nowhere}}").tracing, None);
    }

    #[test]
    fn another_trust_domain_is_told_with_its_own_roots_and_the_oldest_object_counts() {
        use weft_certs::MeshCa;
        let now = std::time::SystemTime::now();
        let pem = |domain: &str| MeshCa::ephemeral(&domain.parse().unwrap(), now).unwrap().bundle().to_pem();
        let (partner, other, own) = (pem("partner.example"), pem("partner.example"), pem("weft.local"));
        let mut world = world("kind: Service\nmetadata: {name: a}\nspec: {ports: [{port: 80}]}");
        for (name, created, domain, roots) in [
            ("b", "2026-01-01T00:00:00Z", "partner.example", &partner),
            ("a", "2026-02-01T00:00:00Z", "partner.example", &other),
            ("own", "2026-01-01T00:00:00Z", "weft.local", &own),
        ] {
            let object = serde_json::json!({
                "apiVersion": "weft.mesh/v1alpha1", "kind": "FederatedTrustDomain",
                "metadata": {"name": name, "creationTimestamp": created},
                "spec": {"trustDomain": domain, "roots": roots},
            });
            let object = std::sync::Arc::new(serde_json::from_value(object).unwrap());
            world.federated.insert(format!("/{name}"), object);
        }
        let all = bundles(&world);
        assert_eq!(all.keys().collect::<Vec<_>>(), ["partner.example", "weft.local"]);
        assert_eq!(all["weft.local"].roots, world.mesh.roots, "nobody adds to the mesh's own");
        let expected = TrustBundle::from_pem("partner.example".parse().unwrap(), &partner).unwrap();
        assert_eq!(all["partner.example"].roots, expected.to_der());
        assert_eq!(settings(&world).federated_trust_domains, ["partner.example"]);
        assert!(weft_policy::config::Settings::from_wire(&settings(&world)).is_ok());
    }
}
