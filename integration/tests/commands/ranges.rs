//! `weft up --prometheus`: what is longer ago than an hour comes from a Prometheus that scrapes the sidecars, a real one, and what it fails at
//! is said.

use crate::Shop;
use std::process::Command;
use weft_integration::rig::{Process, free_port, program, run, wait_for};

/// A user and a password that only its file and the weft that reads it know.
const USER: &str = "weft";
const PASSWORD: &str = "shelter";
/// The same as Prometheus keeps it (bcrypt, cost 4).
const KEPT: &str = "$2b$04$abcdefghijklmnopqrstuubmiVfxQrcQpOI43OPZNw1ua3aDOuQHe";

#[test]
fn ranges_beyond_an_hour_are_asked_of_a_prometheus_with_credentials() {
    use std::os::unix::fs::PermissionsExt;
    let folder = tempfile::tempdir().unwrap();
    let (port, basic) = (free_port(), folder.path().join("basic"));
    std::fs::write(&basic, format!("{USER}:{PASSWORD}\n")).unwrap();
    std::fs::set_permissions(&basic, std::fs::Permissions::from_mode(0o600)).unwrap();
    let address = format!("http://127.0.0.1:{port}");
    let flags = ["--prometheus", &address, "--prometheus-auth-file", basic.to_str().unwrap()];
    let shop = Shop::open_with(&flags);

    // Nobody answers there yet: that is said, and what is kept here is there all the same.
    let refused = shop.ask("/weft/v1/series?window=2h");
    assert!(refused.0 == 502 && refused.1.contains("connect: ") && refused.1.contains(&address), "{refused:?}");
    assert_eq!(shop.ask("/weft/v1/series?window=1h").0, 200);

    let targets: Vec<String> = [&shop.catalog.sidecar, &shop.caller.sidecar]
        .map(|sidecar| sidecar.ready_file().unwrap()["admin"].as_str().unwrap().to_owned())
        .into();
    let config = folder.path().join("prometheus.yml");
    let scrape = format!(
        "scrape_configs: [{{job_name: weft, scrape_interval: 1s, static_configs: [{{targets: {targets:?}}}]}}]\n"
    );
    std::fs::write(&config, format!("global: {{scrape_timeout: 1s}}\n{scrape}")).unwrap();
    let web = folder.path().join("web.yml");
    std::fs::write(&web, format!("basic_auth_users: {{{USER}: '{KEPT}'}}\n")).unwrap();
    let mut command = Command::new(program("prometheus"));
    command.arg(format!("--config.file={}", config.display())).arg(format!("--web.config.file={}", web.display()));
    command.arg(format!("--storage.tsdb.path={}", folder.path().join("data").display()));
    command.arg(format!("--web.listen-address=127.0.0.1:{port}"));
    let _prometheus = Process::start(folder.path(), "prometheus", &mut command);

    let page = wait_for("Prometheus has rates of the calls", || {
        shop.caller.get("http://catalog/items");
        let (code, text) = shop.ask("/weft/v1/series?about=edge&service=catalog&window=2h");
        let page: serde_json::Value = serde_json::from_str(&text).map_err(|error| format!("{code} {text}: {error}"))?;
        let rates = page["items"][0]["rps"].as_array().cloned().unwrap_or_default();
        if rates.iter().any(|rate| rate.as_f64() > Some(0.0)) { Ok(page) } else { Err(text) }
    });
    assert_eq!((&page["from"], &page["stepSeconds"]), (&"prometheus".into(), &30.into()));
    let line = &page["items"][0];
    assert_eq!((&line["source"], &line["service"]), (&"shop/caller".into(), &"shop/catalog".into()));
    assert_eq!(line["rps"].as_array().unwrap().len(), 240);
    let at = line["rps"].as_array().unwrap().iter().position(|rate| rate.as_f64() > Some(0.0)).unwrap();
    assert_eq!(line["success"][at], 1.0);
    assert!(line["p99Ms"][at].as_f64() > Some(0.0), "{line}");

    for (query, said) in [
        ("window=31d", "30 days at most"),
        ("window=soon", "window: "),
        ("window=2h&about=endpoint", "an hour at most"),
        ("window=2h&service=a%7Cb", "is no name"),
    ] {
        let (code, text) = shop.ask(&format!("/weft/v1/series?{query}"));
        assert!((code == 400 || code == 502) && text.contains(said), "{query}: {code} {text}");
    }
    let none = run(&mut shop.mesh.command(&["up", "--prometheus", "nowhere"]));
    assert!(none.code == 2 && none.err.contains("--prometheus nowhere: write http://HOST:PORT"), "{none:?}");
}
