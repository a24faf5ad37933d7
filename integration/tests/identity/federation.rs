//! Two meshes of different trust domains: neither believes the other until it is told to, and no longer than that.

use crate::join::log;
use weft_integration::rig::stage::{Caller, Instance, apply, text};
use weft_integration::rig::{Mesh, wait_for};

/// Makes `mesh` believe the identities of `other`.
fn federate(mesh: &Mesh, other: &Mesh, folder: &std::path::Path, name: &str) {
    let object = other.weft(&["identity", "bundle", "-o", "yaml"]).ok();
    let path = folder.join(format!("{name}.yaml"));
    std::fs::write(&path, object).unwrap();
    mesh.weft(&["apply", "-f", text(&path)]).ok();
}

#[test]
fn a_member_of_another_trust_domain_is_believed_by_its_own_roots_while_it_is_federated() {
    let one = Mesh::start_with(&["--trust-domain", "one.test"]);
    let two = Mesh::start_with(&["--trust-domain", "two.test"]);
    let catalog = Instance::catalog(&one, "catalog-1", "v1");
    let tunnel = catalog.sidecar.ready_file().unwrap()["tunnel"].as_str().unwrap().to_owned();
    let (caller, other) = (Caller::start(&two, "shop", "caller"), Caller::start(&two, "shop", "other"));
    // In the second mesh the catalog is a workload of the first.
    apply(
        &two,
        &format!(
            "apiVersion: v1\nkind: Service\nmetadata: {{name: catalog, namespace: shop}}\n\
             spec: {{ports: [{{name: http, port: 80, targetPort: http, appProtocol: http}}]}}\n\
             ---\napiVersion: weft.mesh/v1alpha1\nkind: Workload\nmetadata: {{name: catalog-of-one, namespace: shop}}\n\
             spec: {{trustDomain: one.test, serviceAccount: catalog, address: 127.0.0.1, tunnel: '{tunnel}', services: [catalog], ports: [{{name: http, port: {port}, protocol: http}}]}}\n",
            port = catalog.port
        ),
    );
    let url = "http://catalog/items";
    let refused = caller.until("the server is not believed", url, |a| a.header("weft-error") == Some("tls-failed"));
    assert!(refused.body.contains("one.test") && refused.body.contains("two.test"), "{refused:?}");

    federate(&two, &one, two.folder(), "one");
    wait_for("the client is not believed", || {
        let status = caller.get(url).status;
        let said = log(&catalog.sidecar);
        if said.contains("trusts no trust domain \"two.test\"") && status / 100 == 5 { Ok(()) } else { Err(said) }
    });
    federate(&one, &two, one.folder(), "two");
    caller.until("both are believed", url, |answer| answer.status == 200);
    other.until("the others too", url, |answer| answer.status == 200);

    // Authorization names them by their whole ids; a namespace means the mesh's own.
    let policy = |rule: &str| {
        format!(
            "apiVersion: weft.mesh/v1alpha1\nkind: AuthorizationPolicy\nmetadata: {{name: catalog, namespace: shop}}\n\
             spec: {{targetRefs: [{{kind: Service, name: catalog}}], rules: [{{from: [{{{rule}}}]}}]}}\n"
        )
    };
    apply(&one, &policy("identities: ['spiffe://two.test/ns/shop/sa/caller']"));
    other.until("who is not named is refused", url, |answer| answer.status == 403);
    assert_eq!(caller.get(url).status, 200);
    apply(&one, &policy("namespaces: [shop]"));
    caller.until("its namespace is another's", url, |answer| answer.status == 403);
    one.weft(&["delete", "authorizationpolicy", "catalog", "-n", "shop"]).ok();
    caller.until("allowed again", url, |answer| answer.status == 200);

    one.weft(&["delete", "federatedtrustdomain", "two.test"]).ok();
    caller.until("nobody of it is believed any more", url, |answer| answer.status / 100 == 5);
    wait_for("what was open is cut", || {
        let said = log(&catalog.sidecar);
        if said.contains("connection with spiffe://two.test/ns/shop/sa/caller cut") { Ok(()) } else { Err(said) }
    });
    let wrong = one.apply("apiVersion: weft.mesh/v1alpha1\nkind: FederatedTrustDomain\nmetadata: {name: x}\nspec: {trustDomain: two.test, roots: none}\n");
    assert!(wrong.code != 0 && wrong.err.contains("spec.roots"), "{wrong:?}");
}
