//! The resources of a workload's own address, for who calls an instance and not a service: a `weft.v1.Service` named `namespace/~workload`,
//! and a slice for each of its ports. There are as many as there are workloads, and few are ever asked for: what is kept of each is what
//! they are made of, until somebody asks.

use super::inbound::Guards;
use super::members::Members;
use super::{Packed, endpoints, names};
use crate::world::{Table, Workload, World};
use prost::Message as _;
use std::fmt;
use std::sync::{Arc, OnceLock};
use weft_policy::config::{self, Refusal};
use weft_proto::{hash_of, v1};

/// The messages: what names the address, and its slices.
pub type Messages = (v1::Service, Vec<v1::Endpoints>);

/// A workload that is alone at its address. See the module's text.
#[derive(Clone)]
pub struct Alone {
    workload: Arc<Workload>,
    common: Arc<Common>,
    /// Ports that peers are to call in plaintext: mostly none.
    plaintext: Box<[u16]>,
    /// Of all the messages: where it is the same, they are.
    hash: u128,
    made: OnceLock<Arc<Made>>,
}

struct Made {
    service: Packed<v1::Service>,
    slices: Box<[Packed<v1::Endpoints>]>,
}

/// What all of them have in common.
#[derive(Clone, Debug, Default)]
pub struct Common {
    trust_domain: String,
    domain: String,
}

impl Common {
    /// That of a world: this, if it is the same.
    pub fn of(self: &Arc<Self>, world: &World) -> Arc<Self> {
        let (trust_domain, domain) = (&world.mesh.trust_domain, &world.mesh.domain);
        if (&self.trust_domain, &self.domain) == (trust_domain, domain) {
            return self.clone();
        }
        Arc::new(Self { trust_domain: trust_domain.clone(), domain: domain.clone() })
    }
}

impl Alone {
    /// Of a workload that is alone at its address, with the messages that were made to tell whether they are others than before.
    #[must_use]
    pub fn of(
        common: &Arc<Common>,
        world: &World,
        members: &Members,
        guards: &Guards,
        uid: &str,
        workload: &Arc<Workload>,
    ) -> (Self, Messages) {
        let workload = &members.opened(uid, workload);
        let ports = workload.spec.ports.iter().map(|port| port.port);
        let plaintext = ports.filter(|port| guards.is_plaintext(world, members, uid, workload, *port));
        let mut made = Self {
            workload: workload.clone(),
            common: common.clone(),
            plaintext: plaintext.collect(),
            hash: 0,
            made: OnceLock::new(),
        };
        let messages = made.read();
        let mut bytes = messages.0.encode_to_vec();
        for slice in &messages.1 {
            slice.encode_length_delimited(&mut bytes).unwrap_or_default();
        }
        made.hash = hash_of(&bytes);
        (made, messages)
    }

    /// Whether a sidecar would take the messages.
    pub(super) fn check((service, slices): &Messages) -> Result<(), Refusal> {
        config::Service::from_wire(service)?;
        slices.iter().try_for_each(|slice| config::Endpoints::from_wire(slice).map(drop))
    }

    /// This, with what was made of one that is the same.
    pub(super) fn taking_over(self, before: &Self) -> Self {
        Self { made: before.made.clone(), ..self }
    }

    /// The messages.
    #[must_use]
    pub fn read(&self) -> Messages {
        let workload = &*self.workload;
        let is_plaintext = |port| self.plaintext.contains(&port);
        let slices = endpoints::of_address(&self.common.trust_domain, &self.common.domain, is_plaintext, workload);
        let name = names::workload_service(&workload.namespace, &workload.name);
        // Each port has one.
        let ports = workload.spec.ports.iter().zip(&slices).map(|(port, slice)| v1::ServicePort {
            port: port.port.into(),
            name: port.name.clone().unwrap_or_default(),
            protocol: endpoints::protocol(port.protocol).into(),
            // Calls of an address skip routes.
            frontend: Some(v1::Frontend::default()),
            backend: Some(v1::Backend { slices: vec![slice.name.clone()], ..Default::default() }),
        });
        let ports = ports.collect();
        (v1::Service { hostnames: Vec::new(), vips: vec![workload.spec.address.to_string()], ports, name }, slices)
    }

    fn made(&self) -> &Made {
        self.made.get_or_init(|| {
            let (service, slices) = self.read();
            let slices = slices.iter().map(|slice| Packed::new(slice.name.as_str(), slice)).collect();
            Arc::new(Made { service: Packed::service(&service), slices })
        })
    }

    /// What names the address.
    #[must_use]
    pub fn service(&self) -> &Packed<v1::Service> {
        &self.made().service
    }

    /// Its slices, one for each port.
    #[must_use]
    pub fn slices(&self) -> &[Packed<v1::Endpoints>] {
        &self.made().slices
    }

    /// What its service can be asked for by, besides its name.
    #[must_use]
    pub fn alias(&self) -> String {
        format!("vip:{}", self.workload.spec.address)
    }

    /// The names of its slices.
    pub fn slice_names(&self) -> impl ExactSizeIterator<Item = String> {
        let name = names::workload_service(&self.workload.namespace, &self.workload.name);
        self.workload.spec.ports.iter().map(move |port| names::slice(&name, port.port, 0))
    }

    /// Whether both are the same to whoever asks.
    #[must_use]
    pub fn same(&self, other: &Self) -> bool {
        self.hash == other.hash
    }

    /// Whether both are made of the same object.
    pub(super) fn is_of_same(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.workload, &other.workload)
    }

    /// The slice of a name, of all those that there are.
    #[must_use]
    pub fn slice<'t>(all: &'t Table<Arc<Self>>, name: &str) -> Option<&'t Packed<v1::Endpoints>> {
        let (service, _) = name.rsplit_once(':')?;
        all.get(service)?.slices().iter().find(|slice| *slice.name == *name)
    }
}

impl PartialEq for Alone {
    fn eq(&self, other: &Self) -> bool {
        self.same(other)
    }
}

impl fmt::Debug for Alone {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.read(), f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compile::Compiler;
    use crate::compile::tests::{put, world};
    use serde_json::json;

    fn workload(app: &str, address: &str) -> serde_json::Value {
        json!({
            "kind": "Workload", "metadata": {"namespace": "shop", "name": "cart-1", "labels": {"app": app}},
            "spec": {"serviceAccount": "cart", "address": address, "tunnel": "192.0.2.1:15008",
                     "ports": [{"port": 80}, {"port": 81}]},
            "status": {"phase": "Ready"},
        })
    }

    #[test]
    fn what_nobody_asked_for_is_not_made_and_what_was_made_stays_while_it_is_the_same() {
        let mut world = world("kind: Service\nmetadata: {name: web}\nspec: {ports: [{port: 80}]}");
        let mut compiler = Compiler::default();
        put(&mut world, workload("cart", "192.0.2.1"), 1);
        let first = compiler.compile(&world);
        let one = &first.alone["shop/~cart-1"];
        assert!(one.made.get().is_none());
        // Names are known without it.
        let (names, alias): (Vec<_>, _) = (one.slice_names().collect(), one.alias());
        assert!(one.made.get().is_none());
        assert_eq!(names, one.slices().iter().map(|slice| slice.name.to_string()).collect::<Vec<_>>());
        assert_eq!(one.service().aliases.iter().map(|alias| alias.to_string()).collect::<Vec<_>>(), [alias]);
        assert_eq!(first.slice("shop/~cart-1:81/0").map(|slice| slice.read().endpoints.len()), Some(1));
        assert!(first.slice("shop/~cart-1:82/0").is_none() && first.slice("shop/~cart-2:81/0").is_none());

        put(&mut world, workload("other", "192.0.2.1"), 1);
        let second = compiler.compile(&world);
        let other = &second.alone["shop/~cart-1"];
        assert!(one.same(other) && !one.is_of_same(other), "of the object the newest edition is kept");
        assert!(Arc::ptr_eq(one.made.get().unwrap(), other.made.get().unwrap()));

        put(&mut world, workload("other", "192.0.2.2"), 1);
        let third = compiler.compile(&world);
        let moved = &third.alone["shop/~cart-1"];
        assert!(!moved.same(other) && moved.made.get().is_none());
        assert_eq!(moved.read().0.vips, ["192.0.2.2"]);
    }
}
