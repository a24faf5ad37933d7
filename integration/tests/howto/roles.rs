//! `docs/src/howto/roles.md`

use crate::page::Page;
use weft_integration::rig::stage::{Instance, services};
use weft_integration::rig::{Caller, Mesh};

#[test]
fn a_user_does_what_the_roles_say_and_what_was_done_is_shown() {
    let mesh = Mesh::start();
    services(&mesh, "shop", &["catalog"], 80, "http");
    let _catalog = Instance::catalog(&mesh, "catalog-1", "v1");
    let _other = Caller::start(&mesh, "office", "editor");
    let mut page = Page::open("roles", &mesh);
    assert!(page.run().starts_with("user/ana added: ana.kubeconfig, until "));
    let kubeconfig = mesh.folder().join("ana.kubeconfig");
    let ana = |arguments: &[&str]| {
        let mut all = vec!["--kubeconfig", kubeconfig.to_str().unwrap()];
        all.extend(arguments);
        mesh.weft(&all)
    };
    assert!(ana(&["get", "services", "-n", "shop"]).err.contains("is forbidden"));
    page.file();
    let said = page.run();
    assert!(said.contains("catalog") && said.contains("inbound:"), "{said}");
    let office = ana(&["get", "services", "-n", "office"]);
    let words = r#"services is forbidden: User "ana" cannot list resource "services" in API group "" in the namespace "office""#;
    assert!(office.err.contains(words), "{office:?}");
    for refused in [
        &["proxy", "config", "editor", "-n", "office"][..],
        &["proxy", "log", "catalog-1", "debug", "-n", "shop"],
        &["delete", "service", "catalog", "-n", "shop"],
        &["token", "list", "-n", "shop"],
        &["user", "add", "ben"],
    ] {
        assert!(ana(refused).err.contains("forbidden") || ana(refused).err.contains("cannot"), "{refused:?}");
    }
    let policy = mesh.folder().join("policy.yaml");
    std::fs::write(
        &policy,
        "apiVersion: weft.mesh/v1alpha1\nkind: TrafficPolicy\nmetadata: {name: catalog, namespace: shop}\nspec: {targetRefs: [{kind: Service, name: catalog}], retry: {attempts: 2}}\n",
    )
    .unwrap();
    ana(&["apply", "-f", policy.to_str().unwrap()]).ok();
    let audit = page.run();
    assert!(audit.contains("trafficpolicies.weft.mesh") && audit.contains("workloads.weft.mesh/config"), "{audit}");
}
