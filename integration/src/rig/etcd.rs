//! Real etcd servers of a test, on loopback, each in a directory of its own. It stands by itself, so that the control plane's own tests
//! include it too.

use std::fs::File;
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// How long members may take to find each other on a busy machine.
const DEADLINE: Duration = Duration::from_secs(60);

/// A cluster. Dropped, its members are killed.
pub struct Etcd {
    members: Vec<Member>,
}

struct Member {
    child: Option<Child>,
    arguments: Vec<String>,
    before: Vec<String>,
    client: SocketAddr,
    folder: PathBuf,
}

/// Where a member of a cluster listens, and in what it runs.
pub struct Place {
    /// For clients.
    pub client: SocketAddr,
    /// For the other members.
    pub peer: SocketAddr,
    /// Words that its command line begins with.
    pub before: Vec<String>,
}

impl Place {
    /// On loopback, at two free ports.
    #[must_use]
    pub fn loopback(ports: [u16; 2]) -> Self {
        let [client, peer] = ports.map(|port| SocketAddr::from(([127, 0, 0, 1], port)));
        Self { client, peer, before: Vec::new() }
    }
}

impl Etcd {
    /// Starts members at these places, with more flags for each, and waits until all answer.
    #[must_use]
    #[track_caller]
    pub fn start(folder: &Path, places: &[Place], flags: &[&str]) -> Self {
        let scheme = if flags.iter().any(|f| f.starts_with("--cert-file")) { "https" } else { "http" };
        let cluster: Vec<String> =
            places.iter().enumerate().map(|(i, place)| format!("etcd-{i}=http://{}", place.peer)).collect();
        let member = |(i, place): (usize, &Place)| {
            let mut arguments: Vec<String> = [
                ("name", format!("etcd-{i}")),
                ("data-dir", folder.join(format!("etcd-{i}")).display().to_string()),
                ("listen-client-urls", format!("{scheme}://{}", place.client)),
                ("advertise-client-urls", format!("{scheme}://{}", place.client)),
                ("listen-peer-urls", format!("http://{}", place.peer)),
                ("initial-advertise-peer-urls", format!("http://{}", place.peer)),
                ("initial-cluster", cluster.join(",")),
                ("initial-cluster-state", "new".to_owned()),
                ("heartbeat-interval", "100".to_owned()),
                ("election-timeout", "1000".to_owned()),
                ("logger", "zap".to_owned()),
                ("log-level", "warn".to_owned()),
            ]
            .into_iter()
            .map(|(flag, value)| format!("--{flag}={value}"))
            .collect();
            arguments.extend(flags.iter().map(|flag| (*flag).to_owned()));
            let before = place.before.clone();
            Member {
                child: None,
                arguments,
                before,
                client: place.client,
                folder: folder.join(format!("etcd-{i}.log")),
            }
        };
        let mut etcd = Self { members: places.iter().enumerate().map(member).collect() };
        (0..places.len()).for_each(|i| etcd.launch(i));
        etcd.wait();
        etcd
    }

    /// One member at free ports of loopback.
    #[must_use]
    #[track_caller]
    pub fn single(folder: &Path, ports: [u16; 2], flags: &[&str]) -> Self {
        Self::start(folder, &[Place::loopback(ports)], flags)
    }

    fn launch(&mut self, member: usize) {
        let member = &mut self.members[member];
        let log =
            File::options().create(true).append(true).open(&member.folder).expect("the test's folder is writable");
        let mut words = member.before.iter().map(String::as_str).chain([program()]);
        let mut command = Command::new(words.next().expect("a program"));
        // Its settings come from here alone.
        command
            .args(words)
            .args(&member.arguments)
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_default());
        let child = command.stdin(Stdio::null()).stdout(log.try_clone().expect("a descriptor")).stderr(log).spawn();
        member.child = Some(child.expect("etcd is missing: run `integration/setup` (make test does)"));
    }

    /// Waits until every member accepts connections. Whether they agree is seen by those who ask them.
    #[track_caller]
    pub fn wait(&mut self) {
        let end = Instant::now() + DEADLINE;
        for member in &mut self.members {
            let Some(child) = &mut member.child else { continue };
            // What runs in another network is not seen from here.
            let elsewhere = !member.client.ip().is_loopback();
            while !elsewhere && TcpStream::connect_timeout(&member.client, Duration::from_secs(1)).is_err() {
                let log = || std::fs::read_to_string(&member.folder).unwrap_or_default();
                assert!(child.try_wait().expect("a child can be waited for").is_none(), "etcd ended:\n{}", log());
                assert!(Instant::now() < end, "etcd does not listen:\n{}", log());
                std::thread::sleep(Duration::from_millis(20));
            }
        }
    }

    /// How many members there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.members.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.members.is_empty()
    }

    /// `host:port,…` of all members, for clients.
    #[must_use]
    pub fn addresses(&self) -> String {
        let all: Vec<String> = self.members.iter().map(|m| m.client.to_string()).collect();
        all.join(",")
    }

    /// SIGKILL to a member.
    pub fn kill(&mut self, member: usize) {
        if let Some(mut child) = self.members[member].child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    /// Process id of a member that runs.
    #[must_use]
    pub fn pid(&self, member: usize) -> Option<u32> {
        self.members[member].child.as_ref().map(Child::id)
    }

    /// Whether a member that was started has ended by itself.
    pub fn has_ended(&mut self, member: usize) -> bool {
        let child = self.members[member].child.as_mut();
        child.is_some_and(|child| child.try_wait().is_ok_and(|status| status.is_some()))
    }

    /// Starts a member again on what it had.
    #[track_caller]
    pub fn restart(&mut self, member: usize) {
        self.kill(member);
        self.launch(member);
        self.wait();
    }

    /// Starts a member again on what it had, where clients that knew it do not find it (or do again).
    #[track_caller]
    pub fn restart_at(&mut self, member: usize, client: SocketAddr) {
        self.kill(member);
        let there = &mut self.members[member];
        let (old, new) = (there.client.to_string(), client.to_string());
        let clients = there.arguments.iter_mut().filter(|a| a.contains("client-urls="));
        clients.for_each(|argument| *argument = argument.replace(&old, &new));
        there.client = client;
        self.launch(member);
        self.wait();
    }

    /// `etcdctl` with these arguments; what it printed.
    #[track_caller]
    pub fn ctl(&self, arguments: &[&str]) -> String {
        let mut command = Command::new("etcdctl");
        command.env("ETCDCTL_API", "3").args(["--endpoints", &self.addresses()]).args(arguments);
        let output = command.output().expect("etcdctl is missing: run `integration/setup` (make test does)");
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        assert!(output.status.success(), "etcdctl {arguments:?}: {}{}", text(&output.stdout), text(&output.stderr));
        text(&output.stdout)
    }
}

impl Drop for Etcd {
    fn drop(&mut self) {
        (0..self.members.len()).for_each(|member| self.kill(member));
    }
}

fn program() -> &'static str {
    "etcd"
}
