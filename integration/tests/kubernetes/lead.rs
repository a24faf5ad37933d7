//! Several control planes in a cluster: one leads, by a Lease; the others carry to it whoever connects to them; what it knew outlives it.

use crate::cluster::{Cluster, Control, Pod};
use weft_integration::rig::{Upstream, wait_for};

fn holder(cluster: &Cluster) -> Result<String, String> {
    let lease = cluster.object("lease", &cluster.system(), "weft-control")?;
    Ok(lease["spec"]["holderIdentity"].as_str().unwrap_or_default().to_owned())
}

#[test]
fn when_the_one_that_leads_is_killed_another_goes_on_with_its_keys_and_its_memory() {
    let cluster = Cluster::open();
    cluster.apply(
        "
{apiVersion: v1, kind: ServiceAccount, metadata: {name: cart, namespace: SHOP}}
---
apiVersion: v1
kind: Service
metadata: {name: cart, namespace: SHOP}
spec: {selector: {app: cart}, ports: [{name: http, port: 80}]}
",
    );
    let mut first = Control::start(&cluster, "weft-control-0", &[]);
    assert_eq!(holder(&cluster).unwrap(), "weft-control-0");
    let second = Control::start(&cluster, "weft-control-1", &[]);
    let token = first.weft(&["token", "create", "--namespace", "vms", "--service-account", "batch", "-o", "json"]).ok();
    let id = serde_json::from_str::<serde_json::Value>(&token).unwrap()["id"].as_str().unwrap().to_owned();
    let at = cluster.pod("cart-1", &Pod::default());
    let _application = Upstream::start_at(&format!("{at}:80"), |_| (200, "well".to_owned()));
    // Through the one that does not lead.
    let cart = cluster.sidecar(&second, "cart-1", "cart", &at).ready();
    let host = format!("cart.{}", cluster.shop());
    let well = |cart: &crate::cluster::Sidecar| {
        wait_for("the call arrives", || match cart.call(&host, "/")? {
            (200, _) => Ok(()),
            other => Err(format!("{other:?}")),
        });
    };
    well(&cart);
    first.process.signal(rustix::process::Signal::KILL);
    first.process.wait();
    wait_for("the second one leads", || match holder(&cluster)? {
        name if name == "weft-control-1" => Ok(()),
        other => Err(other),
    });
    well(&cart);
    // What the first knew: its root, for those who come now; its tokens.
    let at = cluster.pod("cart-2", &Pod::default());
    let late = cluster.sidecar(&second, "cart-2", "cart", &at).ready();
    well(&late);
    let known = wait_for("the second one answers", || {
        let said = second.weft(&["token", "list", "-o", "json"]);
        if said.code == 0 { Ok(said.out) } else { Err(said.err) }
    });
    assert!(known.contains(&id), "{known}");
}

#[test]
fn one_that_ends_in_order_gives_up_the_lease_at_once() {
    let cluster = Cluster::open();
    let mut first = Control::start(&cluster, "weft-control-0", &[]);
    let mut second = Control::start(&cluster, "weft-control-1", &[]);
    second.process.wait_for_log("another control plane leads");
    assert_eq!(first.process.stop(), 0);
    let began = std::time::Instant::now();
    second.process.wait_for_log("this control plane leads");
    // A Lease that was not given up holds for 15 s.
    assert!(began.elapsed() < std::time::Duration::from_secs(10), "{:?}", began.elapsed());
    assert_eq!(holder(&cluster).unwrap(), "weft-control-1");
}
