//! A real Prometheus, which scrapes every sidecar of a shop under load: what it has is what the load driver counted; and what `weft metrics`
//! prints is what Prometheus takes.

use crate::shop::{Shop, own_memory};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::path::Path;
use std::process::Command;
use weft_integration::rig::stage::{apply, text};
use weft_integration::rig::{Mesh, Process, Run, Sidecar, binary, free_port, http_get, program, run, wait_for};
use weft_proto::metrics::{CONTROL_FAMILIES, FAMILIES};

/// A running Prometheus.
struct Prometheus {
    process: Process,
    address: String,
}

impl Prometheus {
    /// One that scrapes these addresses every second, and the control plane.
    fn start(mesh: &Mesh, targets: &[String]) -> Self {
        let (folder, papers) = (mesh.folder(), mesh.papers());
        let config = folder.join("prometheus.yaml");
        let targets = targets.iter().map(|target| format!("'{target}'")).collect::<Vec<_>>().join(", ");
        let yaml = format!(
            "global: {{scrape_interval: 1s, scrape_timeout: 1s}}\n\
             scrape_configs:\n\
             - {{job_name: weft, static_configs: [{{targets: [{targets}]}}]}}\n\
             - {{job_name: control, scheme: https, static_configs: [{{targets: ['{}']}}],\n    \
                tls_config: {{ca_file: '{}', cert_file: '{}', key_file: '{}'}}}}\n",
            mesh.api().trim_start_matches("https://"),
            text(&papers.root),
            text(&papers.chain),
            text(&papers.key),
        );
        std::fs::write(&config, yaml).unwrap();
        let address = format!("127.0.0.1:{}", free_port());
        let mut command = Command::new(program("prometheus"));
        command.arg(format!("--config.file={}", text(&config)));
        command.arg(format!("--storage.tsdb.path={}", text(&folder.join("prometheus"))));
        command.args([&format!("--web.listen-address={address}"), "--enable-feature=exemplar-storage"]);
        let mut process = Process::start(folder, "prometheus", &mut command);
        wait_for("Prometheus is ready", || {
            process.assert_running();
            match http_get(&address, "/-/ready")? {
                (200, _) => Ok(()),
                (status, body) => Err(format!("{status} {body}")),
            }
        });
        Self { process, address }
    }

    /// The answer of its API.
    fn ask(&self, path: &str) -> Result<Value, String> {
        let (status, body) = http_get(&self.address, path)?;
        // It answers in chunks: the document is what stands between the first and the last brace.
        let document = body.find('{').zip(body.rfind('}')).map(|(from, to)| &body[from..=to]).unwrap_or_default();
        let joined: String = document.split("\r\n").filter(|line| !is_chunk_size(line)).collect();
        let value: Value = serde_json::from_str(&joined).map_err(|error| format!("{status} {error}: {body}"))?;
        if value["status"] == "success" { Ok(value["data"].clone()) } else { Err(value.to_string()) }
    }

    /// Values of an expression by one of its labels.
    fn by(&self, label: &str, expression: &str) -> Result<BTreeMap<String, f64>, String> {
        let data = self.ask(&format!("/api/v1/query?query={}", encoded(expression)))?;
        let all = data["result"].as_array().cloned().unwrap_or_default();
        let one = |sample: &Value| {
            let name = sample["metric"][label].as_str().unwrap_or_default().to_owned();
            Some((name, sample["value"][1].as_str()?.parse().ok()?))
        };
        Ok(all.iter().filter_map(one).collect())
    }

    /// The value of an expression that has one.
    fn value(&self, expression: &str) -> Result<f64, String> {
        let all = self.by("", expression)?;
        all.values().next().copied().ok_or_else(|| format!("{expression} has no value"))
    }
}

/// Whether a line of an answer in chunks says how long the next one is.
fn is_chunk_size(line: &str) -> bool {
    !line.is_empty() && line.len() <= 8 && line.bytes().all(|byte| byte.is_ascii_hexdigit())
}

fn encoded(text: &str) -> String {
    text.bytes().fold(String::new(), |mut out, byte| {
        if byte.is_ascii_alphanumeric() {
            out.push(char::from(byte));
        } else {
            write!(out, "%{byte:02X}").unwrap();
        }
        out
    })
}

fn admin(sidecar: &Sidecar) -> String {
    sidecar.ready_file().unwrap()["admin"].as_str().unwrap().to_owned()
}

/// Feeds `promtool check metrics`, which complains of what is no good practice too.
#[track_caller]
fn assert_clean(folder: &Path, metrics: &str) {
    let file = folder.join("metrics.txt");
    std::fs::write(&file, metrics).unwrap();
    let script = format!("{} check metrics < {}", text(&program("promtool")), text(&file));
    let output = run(Command::new("sh").args(["-c", &script]));
    assert_eq!((output.code, &*output.out, &*output.err), (0, "", ""), "{metrics}");
}

/// Every family is one of the list, with its type and its labels.
#[track_caller]
fn assert_listed(metrics: &str, seen: &mut BTreeSet<&'static str>) {
    for line in metrics.lines().filter_map(|line| line.strip_prefix("# TYPE ")) {
        let (name, kind) = line.split_once(' ').unwrap();
        let family = FAMILIES
            .iter()
            .chain(CONTROL_FAMILIES)
            .find(|family| family.name == name)
            .unwrap_or_else(|| panic!("{name} is not listed"));
        assert_eq!(family.kind, kind, "{name}");
        seen.insert(family.name);
        let samples = metrics.lines().filter(|line| {
            let rest = line.strip_prefix(name).map(|rest| rest.trim_start_matches("_bucket"));
            rest.is_some_and(|rest| rest.starts_with(['{', ' ']))
        });
        for sample in samples {
            let labels =
                sample.split_once('{').and_then(|(_, rest)| Some(rest.rsplit_once('}')?.0)).unwrap_or_default();
            let names: Vec<&str> = labels.split("=\"").filter_map(|part| part.rsplit([',', '"']).next()).collect();
            let names: Vec<&str> = names.into_iter().filter(|name| !name.is_empty() && *name != "le").collect();
            // A sidecar writes them in the order of the list, the control plane in that of the alphabet.
            let in_order = |names: &[&'static str]| names.iter().copied().collect::<BTreeSet<_>>();
            assert!(names == family.labels || family.name.starts_with("weft_control_"), "{sample}");
            assert_eq!(names.iter().copied().collect::<BTreeSet<_>>(), in_order(family.labels), "{sample}");
        }
    }
}

/// Upper bounds of the buckets that are shown, in seconds.
const BOUNDS: [f64; 12] = [0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5];

fn bucket(seconds: f64) -> isize {
    BOUNDS.iter().position(|bound| seconds <= *bound).unwrap_or(BOUNDS.len()).cast_signed()
}

#[test]
fn a_prometheus_has_what_the_load_driver_counted_and_the_traces_of_examples() {
    let shop = Shop::open(30);
    // Nobody listens there: spans are dropped, and examples have traces all the same.
    let nowhere = free_port();
    apply(
        &shop.mesh,
        &format!(
            "apiVersion: weft.mesh/v1alpha1\nkind: MeshSettings\nmetadata: {{name: default}}\n\
             spec: {{tracing: {{endpoint: 'http://127.0.0.1:{nowhere}', sampling: 100}}}}\n"
        ),
    );
    let report = shop.mesh.folder().join("report.json");
    let script = format!(
        "{} load --target http://storefront --rps 60 --duration 15s --report {}; exec sleep infinity",
        text(&binary("weft-shop")),
        text(&report)
    );
    let load = shop.mesh.run_ready(&Run { name: "load", command: &["sh", "-c", &script], ..Run::default() });
    let mut targets: Vec<String> = shop.instances.iter().map(|instance| admin(&instance.sidecar)).collect();
    targets.push(admin(&load));
    let mut prometheus = Prometheus::start(&shop.mesh, &targets);

    let report: Value = wait_for("the load driver is done", || {
        let text = std::fs::read(&report).map_err(|error| error.to_string())?;
        let report: Value = serde_json::from_slice(&text).map_err(|error| error.to_string())?;
        if report["done"] == true { Ok(report) } else { Err(report["total"].to_string()) }
    });
    let total = report["total"].as_f64().unwrap();
    assert!(total > 500.0 && report["status"]["error"] == 0, "{report:#}");
    let statuses: BTreeMap<String, f64> = report["status"]
        .as_object()
        .unwrap()
        .iter()
        .filter_map(|(code, count)| Some((code.clone(), count.as_f64().filter(|count| *count > 0.0)?)))
        .collect();
    assert!(statuses.len() > 1, "the bank is closed at times: {report:#}");

    // Exactly, on both sides of the hop, whichever sidecar counted.
    for (direction, instance) in [("outbound", &load), ("inbound", &shop.instances[5].sidecar)] {
        let of = format!("direction=\"{direction}\",source=\"shop/load\",destination=\"shop/storefront\"");
        let expression = format!("sum by (code) (weft_requests_total{{{of}}})");
        wait_for("the last scrape has all calls", || {
            prometheus.process.assert_running();
            let counted = prometheus.by("code", &expression)?;
            if counted == statuses { Ok(()) } else { Err(format!("{counted:?} is not {statuses:?} of {report:#}")) }
        });
        let own = instance.metric("weft_requests_total", &[&format!("direction=\"{direction}\""), "\"shop/load\""]);
        assert!((own - total).abs() < 0.5, "{direction}: {own} of {total}");
        let durations = format!("weft_request_duration_seconds_count{{{of}}}");
        assert!((prometheus.value(&format!("sum({durations})")).unwrap() - total).abs() < 0.5);
    }
    let up = prometheus.value("sum(up{job=\"weft\"})").unwrap();
    assert!((up - 7.0).abs() < 0.1, "all sidecars are scraped, in OpenMetrics: {up}");
    let of = "direction=\"outbound\",source=\"shop/load\"";
    for (share, name) in [("0.5", "p50Ms"), ("0.95", "p95Ms"), ("0.99", "p99Ms")] {
        let buckets = format!("sum by (le) (weft_request_duration_seconds_bucket{{{of}}})");
        let seconds = prometheus.value(&format!("histogram_quantile({share}, {buckets})")).unwrap();
        let measured = report["latency"][name].as_f64().unwrap() / 1000.0;
        let apart = (bucket(seconds) - bucket(measured)).abs();
        println!("{name}: {seconds:.4} s by Prometheus, {measured:.4} s by the driver");
        assert!(apart <= 1, "{name}: {seconds} and {measured}");
    }

    // The control plane tells of itself, to whom it knows.
    let all = shop.instances.len() + 1;
    for (expression, least) in [
        ("up{job=\"control\"}", 1.0),
        ("weft_control_streams{kind=\"xds\"}", f64::from(u32::try_from(all).unwrap())),
        ("weft_control_compile_seconds_count", 1.0),
        ("weft_control_convergence_seconds_count", 1.0),
        ("weft_control_store_seconds_count{operation=\"transact\"}", 1.0),
        ("sum(weft_control_api_requests_total{verb=\"patch\",code=~\"20[01]\"})", 1.0),
    ] {
        let told = prometheus.value(expression).unwrap();
        assert!(told >= least, "{expression}: {told}");
    }
    assert!(prometheus.value("weft_control_waiting_sidecars").unwrap().abs() < 0.5);
    let metrics = of_control_plane(&shop.mesh);
    assert_clean(shop.mesh.folder(), &metrics);
    let mut control = BTreeSet::new();
    assert_listed(&metrics, &mut control);
    let wanted: BTreeSet<_> = CONTROL_FAMILIES.iter().map(|family| family.name).collect();
    // Nothing failed: of that there is no series.
    assert_eq!(wanted.difference(&control).copied().collect::<Vec<_>>(), ["weft_control_store_errors_total"]);

    // Examples carry the ids of traces.
    let path = format!(
        "/api/v1/query_exemplars?query={}&start=0&end=9999999999",
        encoded("weft_request_duration_seconds_bucket{direction=\"outbound\",source=\"shop/load\"}")
    );
    let exemplars = prometheus.ask(&path).unwrap();
    let trace = exemplars[0]["exemplars"][0]["labels"]["trace_id"].as_str().unwrap_or_default();
    assert!(trace.len() == 32 && trace.bytes().any(|byte| byte != b'0'), "{exemplars}");

    let mut seen = BTreeSet::new();
    for sidecar in shop.instances.iter().map(|instance| &instance.sidecar).chain([&load]) {
        let metrics = sidecar.metrics();
        assert_clean(shop.mesh.folder(), &metrics);
        assert_listed(&metrics, &mut seen);
    }
    for name in [
        "weft_requests_total",
        "weft_breaker_state",
        "weft_certificate_expiry_seconds",
        "weft_xds_connected",
        "weft_spans_dropped_total",
    ] {
        assert!(seen.contains(name), "{name}: {seen:?}");
    }
}

/// What the control plane tells the administrator; it tells others nothing.
fn of_control_plane(mesh: &Mesh) -> String {
    let (papers, url) = (mesh.papers(), format!("{}/metrics", mesh.api()));
    let curl = |more: &[&str]| {
        let common = ["-sS", "--noproxy", "*", "--max-time", "20", "-w", "%{stderr}%{http_code}", "--cacert"];
        run(Command::new(program("curl")).args(common).arg(&papers.root).args(more).arg(&url))
    };
    assert_eq!(curl(&["-o", "/dev/null"]).err.trim(), "401");
    let told = curl(&["--cert", text(&papers.chain), "--key", text(&papers.key)]);
    assert_eq!(told.err.trim(), "200", "{}", told.out);
    told.out
}

#[test]
fn a_sidecar_that_takes_no_configuration_is_lag_until_it_does() {
    let mesh = Mesh::start();
    weft_integration::rig::stage::services(&mesh, "shop", &["catalog"], 80, "http");
    let _catalog = weft_integration::rig::stage::Instance::catalog(&mesh, "catalog-1", "v1");
    let caller = weft_integration::rig::stage::Caller::start(&mesh, "shop", "caller");
    caller.until("catalog answers", "http://catalog/items", |answer| answer.status == 200);
    let told = || {
        let metrics = of_control_plane(&mesh);
        let value = |name: &str| {
            let line = metrics.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
            line.and_then(|value| value.parse::<f64>().ok()).unwrap_or_else(|| panic!("{name}: {metrics}"))
        };
        (value("weft_control_waiting_sidecars"), value("weft_control_lag_seconds"))
    };
    let settled = || match told() {
        (0.0, 0.0) => Ok(()),
        waiting => Err(format!("{waiting:?}")),
    };
    wait_for("nobody waits", settled);
    let pid =
        i32::try_from(caller.sidecar.sidecar_pid().unwrap()).ok().and_then(rustix::process::Pid::from_raw).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::STOP).unwrap();
    let change = "apiVersion: weft.mesh/v1alpha1\nkind: TrafficPolicy\nmetadata: {name: catalog, namespace: shop}\n\
                  spec: {targetRefs: [{kind: Service, name: catalog}], retry: {attempts: 1}}\n";
    mesh.apply(change).ok();
    wait_for("one waits, longer and longer", || match told() {
        (1.0, lag) if lag > 2.0 => Ok(()),
        waiting => Err(format!("{waiting:?}")),
    });
    rustix::process::kill_process(pid, rustix::process::Signal::CONT).unwrap();
    wait_for("it has caught up", settled);
}

#[test]
fn callers_who_make_up_hosts_and_paths_leave_a_sidecar_as_it_was() {
    use std::io::{Read as _, Write as _};
    let mesh = Mesh::start();
    weft_integration::rig::stage::services(&mesh, "shop", &["catalog"], 80, "http");
    let _catalog = weft_integration::rig::stage::Instance::catalog(&mesh, "catalog-1", "v1");
    let caller = weft_integration::rig::stage::Caller::start(&mesh, "shop", "caller");
    caller.until("catalog answers", "http://catalog/items", |answer| answer.status == 200);
    let (outbound, credentials) = caller.proxy();
    let series = |sidecar: &Sidecar| sidecar.metric("weft_metrics_series", &[]);
    let before = series(&caller.sidecar);
    let pid = caller.sidecar.sidecar_pid().unwrap();
    let memory = own_memory(pid);
    let mut answered = 0;
    // Pipelined, twenty thousand of each: paths that nobody has, methods that nobody knows, then hosts.
    for (host, count) in [("catalog", 20_000), ("", 2_000)] {
        for from in (0..count).step_by(500) {
            let mut stream = std::net::TcpStream::connect(&outbound).unwrap();
            stream.set_read_timeout(Some(weft_integration::rig::DEADLINE)).unwrap();
            let mut asked = String::new();
            for nth in from..from + 500 {
                let host = if host.is_empty() { format!("made-up-{nth}.example.com") } else { host.to_owned() };
                let end = if nth == from + 499 { "Connection: close\r\n" } else { "" };
                write!(
                    asked,
                    "M{nth} http://{host}/{nth}?q={nth} HTTP/1.1\r\nHost: {host}\r\nX-Request-Id: {nth}\r\nProxy-Authorization: Basic {credentials}\r\n{end}\r\n"
                )
                .unwrap();
            }
            let mut writing = stream.try_clone().unwrap();
            let writer = std::thread::spawn(move || drop(writing.write_all(asked.as_bytes())));
            let mut answers = Vec::new();
            let _ = stream.read_to_end(&mut answers);
            writer.join().unwrap();
            answered += String::from_utf8_lossy(&answers).matches("HTTP/1.1 ").count();
        }
    }
    assert!(answered >= 20_000, "{answered} calls were answered");
    let metrics = caller.sidecar.metrics();
    assert!(metrics.len() < 128 * 1024 && !metrics.contains("made-up"), "{} bytes", metrics.len());
    let after = series(&caller.sidecar);
    assert!(after < before + 40.0, "{before} series, then {after}");
    assert_clean(mesh.folder(), &metrics);
    let grown = own_memory(pid).saturating_sub(memory);
    println!("{grown} KiB more, {} series more", after - before);
    assert!(grown < 16 * 1024, "{grown} KiB more");
}

#[test]
fn what_weft_metrics_prints_is_taken_by_prometheus_and_alerts_when_it_should() {
    let folder = tempfile::tempdir().unwrap();
    let print = |what: &str| run(Command::new(binary("weft")).args(["metrics", what])).ok();
    std::fs::write(folder.path().join("rules.yaml"), print("rules")).unwrap();
    let promtool = |arguments: &[&str]| {
        let output = run(Command::new(program("promtool")).args(arguments).current_dir(folder.path()));
        assert_eq!(output.code, 0, "{}{}", output.out, output.err);
        output.out
    };
    let checked = promtool(&["check", "rules", "--lint-fatal", "rules.yaml"]);
    assert!(checked.contains("SUCCESS"), "{checked}");
    let tests = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/telemetry/rules_tests.yaml");
    std::fs::copy(tests, folder.path().join("tests.yaml")).unwrap();
    promtool(&["test", "rules", "tests.yaml"]);

    // The dashboard's expressions, as rules: Prometheus reads them.
    let dashboard: Value = serde_json::from_str(&print("grafana")).unwrap();
    let mut rules = String::from("groups:\n- name: dashboard\n  rules:\n");
    let mut count = 0;
    for panel in dashboard["panels"].as_array().unwrap() {
        for target in panel["targets"].as_array().into_iter().flatten() {
            let expression = target["expr"].as_str().unwrap().replace("$service", ".*");
            writeln!(rules, "  - {{record: 'dashboard:{count}', expr: {}}}", Value::from(expression)).unwrap();
            count += 1;
        }
    }
    assert!(count > 25, "{dashboard:#}");
    std::fs::write(folder.path().join("dashboard.yaml"), rules.replace("dashboard:", "weft:d")).unwrap();
    promtool(&["check", "rules", "dashboard.yaml"]);
}
