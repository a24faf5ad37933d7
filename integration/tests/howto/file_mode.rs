//! `docs/src/howto/file-mode.md`. In a network namespace, whose ports nobody else has.

use crate::page::Page;
use weft_integration::rig::{Mesh, Process, binary};

/// Ends what the commands left running in the background, as a person does who closes the terminal.
const TERMINAL: [&str; 6] =
    ["setsid", "--wait", "sh", "-c", r#""$@"; code=$?; trap "" TERM; kill -TERM -$$; exit $code"#, "sh"];

#[test]
fn a_pair_of_sidecars_runs_from_files_alone() {
    let mesh = Mesh::start_in_namespace();
    let namespace = mesh.namespace().expect("it runs in one");
    let mut web =
        namespace.command(binary("weft-shop"), &["catalog", "--listen", "127.0.0.1:8080", "--version", "web"]);
    let mut web = Process::start(mesh.folder(), "web", &mut web);
    web.wait_for_log("listening");
    let mut page = Page::open("file-mode", &mesh);
    page.run();
    page.file();
    page.file();
    let said = page.run_after(&TERMINAL);
    assert!(said.contains("\"version\":\"web\""), "{said}");
    let counted = said.lines().find(|line| line.starts_with("weft_requests_total{") && line.ends_with(" 1"));
    assert!(counted.is_some_and(|line| line.contains("tls=\"mutual\"")), "{said}");
}
