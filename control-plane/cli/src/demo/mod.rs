//! `weft demo`: a mesh and a shop on loopback, without privileges, shown live; with `--duration` also a script and a verdict.
//!
//! Everything runs as a user would run it: `weft up`, `weft run`, the policies of `policy/` applied through the API. `stage` owns
//! the processes, `prometheus` reads what sidecars count, `checks` judges; this file is the order of events.

mod checks;
mod prometheus;
mod screen;
mod stage;
mod topology;

use crate::apply;
use crate::client::{Client, kubeconfig};
use crate::dashboard::relay::Relay;
use crate::failure::Failure;
use crate::fleet::Stat;
use crate::{Global, output, stat};
use checks::{Check, Evidence, Report};
use futures_util::future::join_all;
use prometheus::Scrape;
use screen::Screen;
use serde_json::{Value, json};
use stage::{CONTROL_PLANE, Stage};
use std::collections::{BTreeMap, VecDeque};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::time::Instant;

/// Flags of `weft demo`.
#[derive(clap::Args, Debug)]
pub struct Args {
    /// Play the script for this long, then judge and exit; without it the shop runs until Ctrl-C
    #[arg(long, value_name = "DURATION", value_parser = output::duration)]
    duration: Option<Duration>,
    /// How to print the verdict: table, or one JSON document on stdout
    #[arg(short, long, default_value = "table", value_parser = ["table", "json"])]
    output: String,
    /// Calls of users a second
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(10..=2000))]
    rps: u32,
    /// Keep everything in this directory (default: a temporary one that is removed)
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
}

const SHOP: &str = include_str!("policy/shop.yaml");
const CATALOG_V1: &str = include_str!("policy/catalog-v1.yaml");
const CATALOG_CANARY: &str = include_str!("policy/catalog-canary.yaml");

/// How often the sidecars are asked.
const TICK: Duration = Duration::from_millis(250);
/// What the live table covers, in ticks.
const WINDOW: usize = 20;
/// The shortest script in which everything can happen.
const SHORTEST: Duration = Duration::from_secs(15);
/// After the control plane's return, how long a failure is still blamed on its absence.
const AFTERMATH: Duration = Duration::from_secs(3);
/// What the killed instance gets beyond the script to come back.
const OVERTIME: Duration = Duration::from_secs(15);

/// Starts everything, shows it, and leaves nothing behind.
pub async fn run(args: Args) -> Result<u8, Failure> {
    if args.duration.is_some_and(|duration| duration < SHORTEST) {
        return Err(Failure::usage("--duration: the script needs at least 15 s").hint("try: weft demo --duration 30s"));
    }
    let mut interrupts = Interrupts::new()?;
    let (dir, temporary) = directory(args.dir.as_deref())?;
    let mut stage = match Stage::new(dir.clone(), args.rps) {
        Ok(stage) => stage,
        Err(failure) => {
            if temporary {
                let _ = std::fs::remove_dir_all(&dir);
            }
            return Err(failure);
        }
    };
    let outcome = {
        let mut show = Show::new(&mut stage);
        tokio::select! {
            outcome = show.play(args.duration) => Some(outcome),
            () = interrupts.next() => None,
        }
    };
    output::progress("stopping every process");
    stage.stop(async { interrupts.next().await }).await;
    let keep = !temporary || matches!(&outcome, Some(Err(_)) | Some(Ok(Some(Verdict { passed: false, .. }))));
    if !keep {
        let _ = std::fs::remove_dir_all(&dir);
    }
    match outcome {
        None => Ok(if args.duration.is_some() { 130 } else { 0 }),
        Some(Err(failure)) => Err(failure),
        Some(Ok(None)) => Ok(0),
        Some(Ok(Some(verdict))) => {
            output::print(&if args.output == "json" { output::json(&verdict.document())? } else { verdict.table() })?;
            if !verdict.passed {
                eprintln!("the logs are in {}", dir.join("logs").display());
            }
            Ok(u8::from(!verdict.passed))
        }
    }
}

/// Ctrl-C and its kin.
struct Interrupts([Signal; 3]);

impl Interrupts {
    fn new() -> Result<Self, Failure> {
        let listen =
            |kind| signal(kind).map_err(|error| Failure::not_well(format!("cannot listen for signals: {error}")));
        Ok(Self([listen(SignalKind::interrupt())?, listen(SignalKind::terminate())?, listen(SignalKind::hangup())?]))
    }

    async fn next(&mut self) {
        let [first, second, third] = &mut self.0;
        tokio::select! { _ = first.recv() => {}, _ = second.recv() => {}, _ = third.recv() => {} }
    }
}

fn directory(flag: Option<&Path>) -> Result<(PathBuf, bool), Failure> {
    use std::os::unix::fs::DirBuilderExt;
    let dir = match flag {
        Some(dir) => dir.to_owned(),
        None => {
            let suffix: u32 = rand::random();
            std::env::temp_dir().join(format!("weft-demo-{suffix:08x}"))
        }
    };
    let bad = |error: std::io::Error| Failure::not_well(format!("cannot use {}: {error}", dir.display()));
    std::fs::DirBuilder::new().recursive(flag.is_some()).mode(0o700).create(&dir).map_err(bad)?;
    Ok((dir.canonicalize().map_err(bad)?, flag.is_none()))
}

/// One performance.
struct Show<'a> {
    stage: &'a mut Stage,
    screen: Screen,
    names: Vec<String>,
    /// The last text of every sidecar: one that is away for a moment does not take its counts with it.
    texts: BTreeMap<&'static str, String>,
    history: VecDeque<(Instant, Scrape)>,
    first: Option<(Instant, Scrape)>,
    evidence: Evidence,
    killed: Option<Instant>,
    restarted: Option<Instant>,
    seen_in_balance: bool,
    drawn: Option<Instant>,
    /// Serves the dashboard as long as the show goes on.
    relay: Option<Relay>,
}

impl<'a> Show<'a> {
    fn new(stage: &'a mut Stage) -> Self {
        let name = |own: &str| format!("{}/{own}", topology::NAMESPACE);
        Self {
            stage,
            screen: Screen::new(),
            names: topology::SERVICES.iter().map(|own| name(own)).collect(),
            texts: BTreeMap::new(),
            history: VecDeque::new(),
            first: None,
            evidence: Evidence::default(),
            killed: None,
            restarted: None,
            seen_in_balance: false,
            drawn: None,
            relay: None,
        }
    }

    async fn play(&mut self, duration: Option<Duration>) -> Result<Option<Verdict>, Failure> {
        let api = self.set_up().await?;
        let kubeconfig = self.stage.kubeconfig();
        self.screen.say(&format!("the shop is open; the API is at {api}. Try in another terminal:"));
        self.screen.say(&format!("export KUBECONFIG={}", kubeconfig.display()));
        self.screen
            .say("weft stat -w   ·   weft get httproute,trafficpolicy -n shop   ·   kubectl get workloads -n shop");
        let relay = Relay::start(self.client()?, 0).await?;
        let dashboard = relay.url();
        self.relay = Some(relay);
        self.screen.say(&format!("the dashboard is at {dashboard}"));
        let opened = Instant::now();
        let Some(duration) = duration else {
            self.screen.say("Ctrl-C stops everything");
            self.until(None).await?;
            return Ok(None);
        };
        let at = |share: f64| Some(opened + duration.mul_f64(share));

        self.until(at(0.1)).await?;
        self.shift().await?;

        self.until(at(0.3)).await?;
        self.screen.say(&format!("killing {} (program and sidecar) with SIGKILL", topology::VICTIM));
        self.stage.kill(topology::VICTIM).await;
        self.texts.remove(topology::VICTIM);
        self.killed = Some(Instant::now());

        self.until(at(0.5)).await?;
        self.screen.say(&format!("starting {} again", topology::VICTIM));
        let victim = topology::WORKLOADS.iter().find(|workload| workload.name == topology::VICTIM);
        victim.map_or(Ok(()), |victim| self.stage.start_workload(victim))?;
        self.restarted = Some(Instant::now());

        self.until(at(0.65)).await?;
        self.restart_control_plane().await?;

        self.until(at(1.0)).await?;
        let overtime = Instant::now() + OVERTIME;
        while self.evidence.returned_after_ms.is_none() && Instant::now() < overtime {
            self.until(Some(Instant::now() + TICK)).await?;
        }
        self.screen.say("closing the shop");
        self.stage.end(topology::LOAD, Duration::from_secs(15)).await;
        self.tick().await?;
        let report = self.report();
        self.evidence.at_end = report.variants.clone();
        self.evidence.report = report;
        let last = self.history.back().map(|(_, scrape)| scrape.clone()).unwrap_or_default();
        self.evidence.last = last.clone();
        self.screen.close();
        let checks = checks::judge(&self.evidence);
        let (since, before) = self.first.clone().unwrap_or((opened, Scrape::default()));
        let stat = last.since(&before, since.elapsed().as_secs_f64(), &self.names);
        Ok(Some(Verdict {
            passed: checks.iter().all(|check| check.ok),
            checks,
            stat,
            report: self.evidence.report.clone(),
            seconds: opened.elapsed().as_secs_f64(),
            dashboard,
        }))
    }

    /// Control plane, policies, workloads, load.
    async fn set_up(&mut self) -> Result<String, Failure> {
        self.screen.say("starting the control plane");
        self.stage.start_control_plane()?;
        let api = self.stage.control_plane_listens(Duration::from_secs(30)).await?;
        let client = self.client()?;
        self.apply(&client, "shop.yaml", SHOP, false).await?;
        self.apply(&client, "catalog-v1.yaml", CATALOG_V1, false).await?;
        self.screen.say(&format!("starting {} programs, each with a sidecar", topology::WORKLOADS.len()));
        for workload in &topology::WORKLOADS {
            self.stage.start_workload(workload)?;
        }
        self.workloads_ready(&client).await?;
        // The policies that were refused would be found out by the calls that fail; better to say so at once.
        self.apply(&client, "shop.yaml", SHOP, true).await?;
        self.apply(&client, "catalog-v1.yaml", CATALOG_V1, true).await?;
        self.screen.say("starting the users");
        self.stage.start_load()?;
        let deadline = Instant::now() + Duration::from_secs(30);
        while self.report().total == 0 {
            self.stage.all_alive()?;
            if Instant::now() > deadline {
                return Err(self.stage.failed(topology::LOAD, "made no call within 30 s"));
            }
            tokio::time::sleep(TICK).await;
        }
        Ok(api)
    }

    fn client(&self) -> Result<Client, Failure> {
        let global = Global { kubeconfig: Some(self.stage.kubeconfig()), context: None };
        Client::for_context(kubeconfig::load(&global)?)
    }

    async fn apply(&self, client: &Client, origin: &str, text: &str, wait: bool) -> Result<(), Failure> {
        let applied = apply::apply(client, apply::parse(origin, text)?, apply::Options::default()).await?;
        if wait { apply::wait(client, &applied, Duration::from_secs(20)).await } else { Ok(()) }
    }

    /// Until every program accepts connections and the control plane gives it calls.
    async fn workloads_ready(&mut self, client: &Client) -> Result<(), Failure> {
        let deadline = Instant::now() + Duration::from_secs(90);
        let path = format!("/apis/weft.mesh/v1alpha1/namespaces/{}/workloads", topology::NAMESPACE);
        let mut before = 0;
        loop {
            self.stage.all_alive()?;
            let list: Value = client.read(&path).await.map_err(|error| error.into_failure("list workloads"))?;
            let items = list.get("items").and_then(Value::as_array).cloned().unwrap_or_default();
            let phase = |name: &str| {
                let object =
                    items.iter().find(|item| item.pointer("/metadata/name").and_then(Value::as_str) == Some(name));
                object.and_then(|item| item.pointer("/status/phase")?.as_str()).unwrap_or("not registered").to_owned()
            };
            let mut waiting = Vec::new();
            for workload in &topology::WORKLOADS {
                let phase = phase(workload.name);
                if phase != "Ready" {
                    waiting.push(format!("{}: {phase}", workload.name));
                } else if !self.stage.accepts(workload.name).await {
                    waiting.push(format!("{}: does not accept connections", workload.name));
                }
            }
            if waiting.is_empty() {
                return Ok(());
            }
            let ready = topology::WORKLOADS.len() - waiting.len();
            if ready > before {
                before = ready;
                output::progress(&format!("          {ready} of {} ready", topology::WORKLOADS.len()));
            }
            if Instant::now() > deadline {
                let logs = self.stage.logs();
                return Err(Failure::not_well(format!("not ready after 90 s: {}", waiting.join(", ")))
                    .hint(format!("the logs are in {}", logs.display())));
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    async fn shift(&mut self) -> Result<(), Failure> {
        self.screen.say("shifting 10 % of catalog to v2");
        let client = self.client()?;
        self.apply(&client, "catalog-canary.yaml", CATALOG_CANARY, true).await?;
        // What was under way when the sidecars learned of it went the old way.
        self.until(Some(Instant::now() + TICK * 2)).await?;
        self.evidence.at_shift = self.report().variants;
        self.screen.say("every sidecar runs the new split");
        Ok(())
    }

    async fn restart_control_plane(&mut self) -> Result<(), Failure> {
        self.screen.say("killing the control plane with SIGKILL");
        let (gone, gone_ms) = (Instant::now(), epoch_ms());
        self.stage.kill(CONTROL_PLANE).await;
        self.until(Some(gone + Duration::from_secs(1))).await?;
        self.stage.start_control_plane()?;
        self.stage.control_plane_listens(Duration::from_secs(30)).await?;
        let client = self.client()?;
        let route = "/apis/gateway.networking.k8s.io/v1/namespaces/shop/httproutes/catalog";
        client.read::<Value>(route).await.map_err(|error| error.into_failure("find the route after the restart"))?;
        let away = u64::try_from(gone.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.evidence.outage_ms = Some(away);
        self.screen.say(&format!("the control plane is back after {away} ms, with everything it knew"));
        self.until(Some(Instant::now() + AFTERMATH)).await?;
        self.evidence.outage = Some((gone_ms, epoch_ms()));
        Ok(())
    }

    /// Lets time pass, looking and drawing; without an end: for ever.
    async fn until(&mut self, end: Option<Instant>) -> Result<(), Failure> {
        loop {
            let now = Instant::now();
            if end.is_some_and(|end| now >= end) {
                return Ok(());
            }
            self.tick().await?;
            let next = now + TICK;
            tokio::time::sleep_until(end.map_or(next, |end| end.min(next))).await;
        }
    }

    async fn tick(&mut self) -> Result<(), Failure> {
        self.stage.all_alive()?;
        let names: Vec<&'static str> =
            topology::WORKLOADS.iter().map(|workload| workload.name).chain([topology::LOAD]).collect();
        let stage = &*self.stage;
        let answers = join_all(names.iter().map(|name| stage.metrics(name))).await;
        for (name, text) in names.into_iter().zip(answers) {
            // Between its end and its return the victim's old socket may still be named by its old ready file.
            if let Some(text) = text {
                self.texts.insert(name, text);
            }
        }
        let mut scrape = Scrape::default();
        for (name, text) in &self.texts {
            scrape.add(name, text);
        }
        self.follow_the_victim(&scrape);
        let now = Instant::now();
        if self.first.is_none() {
            self.first = Some((now, scrape.clone()));
        }
        self.history.push_back((now, scrape));
        while self.history.len() > WINDOW {
            self.history.pop_front();
        }
        if self.drawn.is_none_or(|drawn| now.duration_since(drawn) >= Duration::from_secs(1)) {
            self.drawn = Some(now);
            self.draw();
        }
        Ok(())
    }

    fn draw(&mut self) {
        let (Some((from, before)), Some((to, last))) = (self.history.front(), self.history.back()) else { return };
        let stat = last.since(before, to.duration_since(*from).as_secs_f64().max(0.25), &self.names);
        let report = self.report();
        let versions: Vec<String> = report.variants.iter().map(|(name, count)| format!("{name} {count}")).collect();
        let users = format!("users: {} calls, {} failed; catalog {}", report.total, report.failed, versions.join(", "));
        self.screen.draw(&stat, &users);
    }

    /// Notes when callers took the killed instance out, and when it serves again.
    fn follow_the_victim(&mut self, scrape: &Scrape) {
        let victim = format!("{}/{}", topology::NAMESPACE, topology::VICTIM);
        let breaker = scrape.breakers.get(&(topology::VICTIMS_CALLER.to_owned(), victim)).map(|(_, state)| *state);
        let millis = |since: Instant| u64::try_from(since.elapsed().as_millis()).unwrap_or(u64::MAX);
        match (self.killed, self.restarted) {
            (None, _) => self.seen_in_balance |= breaker == Some(0),
            // Open, or no longer among the endpoints at all.
            (Some(killed), None)
                if self.evidence.ejected_after_ms.is_none()
                    && self.seen_in_balance
                    && breaker.is_none_or(|state| state > 0) =>
            {
                self.evidence.ejected_after_ms = Some(millis(killed));
                self.screen.say(&format!("{} takes no more calls", topology::VICTIM));
            }
            (Some(_), Some(restarted)) if self.evidence.returned_after_ms.is_none() => {
                let serves = scrape.served.get(topology::VICTIM).is_some_and(|calls| *calls > 0.0);
                if serves && breaker == Some(0) {
                    self.evidence.returned_after_ms = Some(millis(restarted));
                    self.screen.say(&format!("{} serves calls again", topology::VICTIM));
                }
            }
            _ => {}
        }
    }

    fn report(&self) -> Report {
        let text = std::fs::read(self.stage.report()).unwrap_or_default();
        serde_json::from_slice(&text).unwrap_or_default()
    }
}

fn epoch_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

/// What the script came to.
struct Verdict {
    passed: bool,
    checks: Vec<Check>,
    stat: Stat,
    report: Report,
    seconds: f64,
    /// Where it was.
    dashboard: String,
}

impl Verdict {
    fn document(&self) -> Value {
        let checks: Vec<Value> = self
            .checks
            .iter()
            .map(|check| json!({"name": check.name, "ok": check.ok, "detail": check.detail}))
            .collect();
        json!({
            "passed": self.passed,
            "checks": checks,
            "services": self.stat.services,
            "users": {"total": self.report.total, "ok": self.report.ok, "failed": self.report.failed, "variants": self.report.variants},
            "dashboard": self.dashboard,
            "seconds": (self.seconds * 10.0).round() / 10.0,
        })
    }

    fn table(&self) -> String {
        let mut text = stat::table(&self.stat);
        text.push('\n');
        for check in &self.checks {
            text.push_str(&format!("{}  {}: {}\n", if check.ok { "ok  " } else { "FAIL" }, check.name, check.detail));
        }
        text.push_str(if self.passed { "passed\n" } else { "failed\n" });
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_policies_in_the_binary_are_objects() {
        assert_eq!(apply::parse("shop.yaml", SHOP).unwrap().len(), 12);
        for (origin, text) in [("v1", CATALOG_V1), ("canary", CATALOG_CANARY)] {
            let documents = apply::parse(origin, text).unwrap();
            assert_eq!((documents[0].kind.as_str(), documents[0].name.as_str()), ("HTTPRoute", "catalog"));
        }
    }

    #[test]
    fn the_verdict_is_one_document_with_the_promised_keys() {
        let verdict = Verdict {
            passed: true,
            checks: checks::judge(&Evidence::default()),
            stat: Stat::default(),
            report: Report::default(),
            seconds: 30.04,
            dashboard: String::new(),
        };
        let document = verdict.document();
        assert_eq!(document["checks"].as_array().unwrap().len(), 5);
        let keys: Vec<&String> = document["checks"][0].as_object().unwrap().keys().collect();
        assert_eq!(keys, ["detail", "name", "ok"]);
        assert!(document["services"].is_array() && document["passed"] == true);
    }
}
