//! `docs/src/howto/plan.md`

use crate::page::Page;
use weft_integration::rig::stage::{Instance, services};
use weft_integration::rig::{Caller, Mesh, wait_for};

#[test]
fn a_change_is_seen_before_it_is_made() {
    let mesh = Mesh::start();
    services(&mesh, "shop", &["catalog"], 80, "http");
    let _catalog = Instance::catalog(&mesh, "catalog-1", "v1");
    let caller = Caller::start(&mesh, "shop", "caller");
    caller.until("catalog answers", "http://catalog/items", |answer| answer.status == 200);
    let mut page = Page::open("plan", &mesh);
    let guard = page.file();
    wait_for("the calls are known", || {
        let said = mesh.weft(&["plan", "-n", "shop", "-f", "guard.yaml"]);
        if said.out.contains("judged by 0 calls") { Err(said.out) } else { Ok(()) }
    });
    let said = page.run();
    assert!(said.contains("no call of them would fare otherwise"), "{said}");
    page.run();
    assert_eq!(mesh.object("authorizationpolicy", "shop", "guard")["metadata"]["name"], "guard");
    // The same rule for what is called would be told, and the pipeline end.
    std::fs::write(mesh.folder().join("guard.yaml"), guard.replace("/search*", "/items*")).unwrap();
    let said = mesh.weft(&["plan", "-n", "shop", "-f", "guard.yaml"]);
    assert!(said.code == 1 && said.out.contains("denied") && said.out.contains("shop/guard"), "{said:?}");
}
