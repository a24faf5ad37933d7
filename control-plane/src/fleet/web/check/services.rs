//! Services: whether anybody answers for them, and whether it is known what they speak.

use super::{Fact, Seen};
use crate::compile::service::is_external_name;
use weft_proto::v1;

pub(super) fn facts(seen: &Seen) -> Vec<Fact> {
    vec![ready(seen), populated(seen), declared(seen)]
}

fn ready(seen: &Seen) -> Fact {
    let name = "every service has a ready endpoint";
    let mut down: Vec<_> =
        seen.instances.iter().filter(|(_, of)| matches!(of, (0, 1..))).map(|(name, _)| &**name).collect();
    down.sort_unstable();
    Fact::of(name, &down, format!("{} of {0} that have any", seen.instances.len()), |names| {
        let hint = "are their programs up? see: weft endpoints SERVICE, and weft describe workload NAME";
        Fact::error(name, format!("none is ready: {names}"), hint)
    })
}

fn populated(seen: &Seen) -> Fact {
    let name = "every service has an endpoint";
    let services = seen.compiled.world.services.iter();
    let empty: Vec<_> = services
        .filter(|(name, service)| !is_external_name(service) && !seen.instances.contains_key(&***name))
        .map(|(name, _)| &**name)
        .collect();
    Fact::of(name, &empty, "", |names| {
        let hint = "start an instance with: weft run --service NAME --port PORT -- CMD; or does no workload match the selector?";
        Fact::warning(name, format!("nobody serves: {names}"), hint)
    })
}

fn declared(seen: &Seen) -> Fact {
    let name = "the protocol of every port is said";
    let mut unsaid = Vec::new();
    for (service, variants) in seen.compiled.output.services.iter() {
        if !seen.compiled.world.services.contains_key(service) {
            continue;
        }
        let ports = variants.default.read().ports;
        let ports = ports.iter().filter(|port| port.protocol() == v1::Protocol::Detect);
        unsaid.extend(ports.map(|port| format!("{service}:{}", port.port)));
    }
    Fact::of(name, &unsaid, "", |ports| {
        let hint =
            "say it with appProtocol or the port's name (http, grpc, tcp…): what is detected waits for the first bytes";
        Fact::warning(name, format!("detected: {ports}"), hint)
    })
}
