//! `weft dashboard`: the page on loopback, and the API behind it for who has the key, as the kubeconfig's user.

use serde_json::{Value, json};
use std::process::Command;
use weft_integration::rig::{Mesh, Process, program, run, wait_for};

/// A relay, and the key of its address.
struct Relay {
    process: Process,
    base: String,
    key: String,
}

impl Relay {
    #[track_caller]
    fn start(mesh: &Mesh) -> Self {
        let mut process = Process::start(mesh.folder(), "dashboard", &mut mesh.command(&["dashboard", "--no-open"]));
        process.wait_for_log("#key=");
        let log = process.log();
        let url = log.lines().find(|line| line.starts_with("http://127.0.0.1:")).unwrap();
        let (base, key) = url.split_once("/dashboard/#key=").unwrap();
        Self { base: base.to_owned(), key: key.to_owned(), process }
    }

    /// Status, head and body of an answer.
    #[track_caller]
    fn ask(&self, path: &str, arguments: &[&str]) -> (u16, String, String) {
        let mut curl = Command::new(program("curl"));
        curl.args(["-sSi", "--noproxy", "*", "--max-time", "20"]).args(arguments);
        let answer = run(curl.arg(format!("{}{path}", self.base))).ok();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        (head.split(' ').nth(1).unwrap().parse().unwrap(), head.to_lowercase(), body.to_owned())
    }

    fn bearer(&self) -> String {
        format!("Authorization: Bearer {}", self.key)
    }
}

#[test]
fn the_dashboard_is_on_loopback_and_only_who_has_the_key_asks_as_the_kubeconfigs_user() {
    let mut mesh = Mesh::start();
    let relay = Relay::start(&mesh);
    let bearer = relay.bearer();
    let (_, head, _) = relay.ask("/dashboard/", &[]);
    assert!(head.contains("content-security-policy: default-src 'none'; script-src 'self';"), "{head}");
    let (code, head, _) = relay.ask("/", &["-H", "Accept: text/html"]);
    assert!(code == 303 && head.contains("location: /dashboard/"), "{head}");

    for (arguments, refused) in [
        (vec![], 401),
        (vec!["-H", "Authorization: Bearer nonsense"], 401),
        (vec!["-H", &bearer, "-H", "Host: rebound.example"], 421),
        (vec!["-H", &bearer, "-H", "Origin: http://rebound.example"], 403),
    ] {
        let (code, _, body) = relay.ask("/weft/v1/stat", &arguments);
        let status: Value = serde_json::from_str(&body).unwrap();
        assert_eq!((code, &status["code"]), (refused, &json!(refused)), "{arguments:?}: {body}");
    }
    let (code, _, body) = relay.ask("/weft/v1/stat", &["-H", &bearer]);
    let stat: Value = serde_json::from_str(&body).unwrap();
    assert!(code == 200 && stat["services"].is_array(), "{body}");

    // Written as the user, whatever the page says of itself.
    let review = ["-H", &bearer, "-H", "Content-Type: application/json", "-H", "Cookie: a=b", "-d", "{}"];
    let (code, _, body) = relay.ask("/apis/authentication.k8s.io/v1/selfsubjectreviews", &review);
    let review: Value = serde_json::from_str(&body).unwrap();
    assert_eq!((code, &review["status"]["userInfo"]["groups"][0]), (201, &json!("system:masters")), "{body}");

    // A stream arrives as it happens: what it brings before its end is here while it goes on.
    let mut curl = Command::new(program("curl"));
    curl.args(["-sN", "--noproxy", "*", "--max-time", "20", "-H", &bearer]);
    curl.arg(format!("{}/api/v1/namespaces?watch=true", relay.base));
    let mut watch = Process::start(mesh.folder(), "watch", &mut curl);
    watch.wait_for_log("\"ADDED\"");
    std::fs::write(mesh.folder().join("new.yaml"), "apiVersion: v1\nkind: Namespace\nmetadata: {name: later}\n")
        .unwrap();
    mesh.weft(&["apply", "-f", "new.yaml"]).ok();
    watch.wait_for_log("\"name\":\"later\"");
    watch.assert_running();

    // An answer says what is wrong behind it, and the next one is right again.
    mesh.kill();
    let (code, _, body) = relay.ask("/weft/v1/stat", &["-H", &bearer]);
    assert!(code == 502 && body.contains("cannot reach the control plane at https://"), "{code} {body}");
    mesh.up(&[]);
    wait_for("the control plane is reached again", || match relay.ask("/version", &["-H", &bearer]) {
        (200, _, _) => Ok(()),
        other => Err(format!("{other:?}")),
    });

    let Relay { mut process, .. } = relay;
    process.signal(rustix::process::Signal::INT);
    assert_eq!(process.wait(), 0);
}
