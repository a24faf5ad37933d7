//! Some control planes over one etcd, as processes.

use rustix::process::Signal;
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::process::Command;
use tempfile::TempDir;
use weft_integration::rig::etcd::Etcd;
use weft_integration::rig::stage::text;
use weft_integration::rig::{Mesh, Process, binary, free_port, program, run, wait_for};

fn openssl(arguments: &[&str]) {
    run(Command::new(program("openssl")).args(arguments)).ok();
}

/// Chain, key and roots of an intermediate.
fn intermediate(folder: &Path) -> [PathBuf; 3] {
    let path = |name: &str| folder.join(name);
    let [root, root_key, chain, key, request, extensions] =
        ["roots.pem", "roots.key", "chain.pem", "chain.key", "chain.csr", "chain.ext"].map(path);
    let curve = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"];
    let usage = "basicConstraints=critical,CA:TRUE";
    let made =
        ["req", "-x509", "-days", "30", "-subj", "/CN=shop root", "-keyout", text(&root_key), "-out", text(&root)];
    openssl(&[&made[..], &curve, &["-addext", usage, "-addext", "keyUsage=critical,keyCertSign,cRLSign"]].concat());
    let asked = ["req", "-new", "-subj", "/CN=shop mesh", "-keyout", text(&key), "-out", text(&request)];
    openssl(&[&asked[..], &curve].concat());
    let lines = [
        &format!("{usage},pathlen:0"),
        "keyUsage=critical,keyCertSign,cRLSign",
        "subjectKeyIdentifier=hash",
        "authorityKeyIdentifier=keyid",
    ];
    std::fs::write(&extensions, lines.join("\n")).unwrap();
    let signed =
        ["x509", "-req", "-days", "20", "-in", text(&request), "-out", text(&chain), "-extfile", text(&extensions)];
    openssl(&[&signed[..], &["-CA", text(&root), "-CAkey", text(&root_key), "-CAcreateserial"]].concat());
    [chain, key, root]
}

/// One of them.
struct Replica {
    data: PathBuf,
    process: Option<Process>,
    grpc: String,
    /// Bytes of its log that are of earlier processes.
    before: usize,
    /// Stopped, and cannot know what others do.
    frozen: bool,
}

/// All of them, and the mesh that they serve: its own control plane is the first.
pub struct Replicas {
    pub mesh: Mesh,
    others: Vec<Replica>,
    first: bool,
    first_before: usize,
    flags: Vec<String>,
    /// Held for its drop.
    _etcd: Etcd,
    folder: TempDir,
}

impl Replicas {
    /// The first leads; the others have its authority of the API. Sidecars and commands know all of them.
    #[track_caller]
    pub fn start(count: usize) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let etcd = Etcd::single(folder.path(), [free_port(), free_port()], &["--max-txn-ops=1024"]);
        let store = format!("etcd://{}", etcd.addresses());
        let [chain, key, roots] = intermediate(folder.path());
        let flags: Vec<String> =
            [["--store", &store], ["--ca-chain", text(&chain)], ["--ca-key", text(&key)], ["--ca-roots", text(&roots)]]
                .concat()
                .into_iter()
                .map(str::to_owned)
                .collect();
        let words: Vec<&str> = flags.iter().map(String::as_str).collect();
        let mesh = Mesh::start_with(&words);
        let mut all = Self { mesh, others: Vec::new(), first: true, first_before: 0, flags, _etcd: etcd, folder };
        for number in 1..count {
            let data = all.folder.path().join(format!("replica-{number}"));
            run(Command::new("mkdir").args(["-m", "700", text(&data)])).ok();
            run(Command::new("cp").args(["-a", text(&all.mesh.data().join("api")), text(&data)])).ok();
            all.others.push(Replica { data, process: None, grpc: String::new(), before: 0, frozen: false });
            all.launch(number);
        }
        let addresses: Vec<String> = (0..count).map(|number| all.grpc(number)).collect();
        all.mesh.reach_at(addresses.join(","));
        all
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.others.len() + 1
    }

    /// Starts one on what it had, and waits until it serves, by itself or through another.
    #[track_caller]
    pub fn launch(&mut self, number: usize) {
        let words: Vec<&str> = self.flags.iter().map(String::as_str).collect();
        let length = |log: PathBuf| std::fs::read(log).unwrap_or_default().len();
        let Some(other) = number.checked_sub(1) else {
            self.first_before = length(self.mesh.folder().join("up.log"));
            self.mesh.up(&words);
            self.first = true;
            return;
        };
        let replica = &mut self.others[other];
        let endpoints = replica.data.join("endpoints.json");
        let _ = std::fs::remove_file(&endpoints);
        let mut command = Command::new(binary("weft"));
        // An address of its own, by which the API of the one that leads is called too.
        let at = format!("127.0.0.{}:0", number + 1);
        command.args(["up", "--data-dir", text(&replica.data), "--grpc", &at, "--api", &at]);
        let name = format!("replica-{number}");
        replica.before = length(self.folder.path().join(format!("{name}.log")));
        let mut process = Process::start(self.folder.path(), &name, command.args(&words));
        let text = wait_for("the replica serves", || {
            process.assert_running();
            let text = std::fs::read_to_string(&endpoints).map_err(|e| e.to_string())?;
            serde_json::from_str::<Value>(&text).map_err(|e| e.to_string())
        });
        replica.grpc = text["grpc"].as_str().unwrap().to_owned();
        replica.process = Some(process);
    }

    /// Where sidecars reach one.
    pub fn grpc(&self, number: usize) -> String {
        match number.checked_sub(1) {
            None => self.mesh.grpc().to_string(),
            Some(other) => self.others[other].grpc.clone(),
        }
    }

    fn process(&mut self, number: usize) -> &mut Process {
        match number.checked_sub(1) {
            None => self.mesh.control_plane(),
            Some(other) => self.others[other].process.as_mut().expect("it runs"),
        }
    }

    /// SIGKILL.
    pub fn kill(&mut self, number: usize) {
        let Some(other) = number.checked_sub(1) else {
            self.first = false;
            return self.mesh.kill();
        };
        let mut process = self.others[other].process.take().expect("it runs");
        process.signal(Signal::KILL);
        process.wait();
    }

    /// SIGSTOP to one that is not the first.
    pub fn freeze(&mut self, number: usize) {
        self.process(number).signal(Signal::STOP);
        self.others[number - 1].frozen = true;
    }

    /// SIGCONT; returns when it knows that others may lead.
    #[track_caller]
    pub fn wake(&mut self, number: usize) {
        self.process(number).signal(Signal::CONT);
        self.process(number).wait_for_log("no longer leads");
        self.others[number - 1].frozen = false;
    }

    /// What one wrote since it was started last.
    pub fn log(&mut self, number: usize) -> String {
        let before = number.checked_sub(1).map_or(self.first_before, |other| self.others[other].before);
        self.process(number).log().get(before..).unwrap_or_default().to_owned()
    }

    /// Commands ask this one from now on.
    pub fn ask(&mut self, number: usize) {
        let data = match number.checked_sub(1) {
            None => self.mesh.data(),
            Some(other) => self.others[other].data.clone(),
        };
        self.mesh.ask(data.join("kubeconfig"));
    }

    /// Those that run and are not stopped.
    pub fn awake(&self) -> Vec<usize> {
        let others = self.others.iter().enumerate().filter(|(_, r)| r.process.is_some() && !r.frozen);
        self.first.then_some(0).into_iter().chain(others.map(|(i, _)| i + 1)).collect()
    }

    /// Those that lead, as each says itself.
    #[track_caller]
    pub fn leading(&mut self) -> Vec<usize> {
        let leads = |log: &str| {
            let mut said =
                log.lines().filter(|line| line.contains("this replica leads") || line.contains("no longer leads"));
            said.next_back().is_some_and(|line| line.contains("this replica leads"))
        };
        let all: Vec<usize> = self.awake().into_iter().filter(|number| leads(&self.log(*number))).collect();
        assert!(all.len() < 2, "{all:?} lead at once");
        all
    }

    /// Waits until another than `before` leads.
    #[track_caller]
    pub fn wait_for_leader(&mut self, before: Option<usize>) -> usize {
        wait_for("a control plane leads", || match self.leading()[..] {
            [leader] if Some(leader) != before => Ok(leader),
            _ => Err("nobody else leads".to_owned()),
        })
    }

    /// What a check says, as `ok` and the detail.
    pub fn check(&self, name: &str) -> (bool, String) {
        let output = self.mesh.weft(&["check", "-o", "json"]);
        let health: Value = serde_json::from_str(&output.out).unwrap_or_default();
        let checks = health["checks"].as_array().cloned().unwrap_or_default();
        let check = checks.iter().find(|check| check["name"] == name);
        let check = check.cloned().unwrap_or(Value::String(output.err));
        (check["result"] == "ok", check["detail"].as_str().map_or_else(|| check.to_string(), str::to_owned))
    }

    /// Waits until so many sidecars are connected, as each of those that are awake says.
    #[track_caller]
    pub fn wait_for_sidecars(&mut self, count: usize) {
        for number in self.awake() {
            self.ask(number);
            wait_for("every sidecar is connected", || match self.check("every sidecar is connected") {
                (true, detail) if detail == format!("{count} of {count} sidecars") => Ok(()),
                (_, detail) => Err(format!("replica {number}: {detail}")),
            });
        }
    }

    /// Connections of sidecars to each that runs.
    pub fn connections(&self) -> Vec<usize> {
        let established = run(Command::new(program("ss")).args(["-Htn", "state", "established"])).ok();
        let to =
            |address: &str| established.lines().filter(|l| l.split_whitespace().next_back() == Some(address)).count();
        self.awake().into_iter().map(|number| to(&self.grpc(number))).collect()
    }
}
