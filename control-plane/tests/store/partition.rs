//! The store of several replicas while members of etcd are cut off from each other, and while the disk of one is full. Members run in network
//! namespaces on a bridge and on a file system of their own, which takes root.

use crate::chaos::{CLIENTS, Crowd, KEYS};
use crate::etcd::Cluster;
use crate::load;
use crate::server::Place;
use rand::RngExt as _;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

/// Runs a command that must succeed.
#[track_caller]
fn must(words: &[&str]) {
    let output = Command::new(words[0]).args(&words[1..]).output().unwrap_or_else(|e| panic!("{}: {e}", words[0]));
    assert!(output.status.success(), "{words:?} (needs root): {}", String::from_utf8_lossy(&output.stderr));
}

/// Three namespaces, each with a wire to one bridge of this host. Dropped, all of it goes.
struct Network {
    name: String,
    net: String,
}

impl Network {
    fn new() -> Self {
        let id = std::process::id();
        let network = Self { name: format!("wst{id}"), net: format!("10.213.{}", id % 250) };
        must(&["ip", "link", "add", &network.name, "type", "bridge"]);
        must(&["ip", "address", "add", &format!("{}.254/24", network.net), "dev", &network.name]);
        must(&["ip", "link", "set", &network.name, "up"]);
        for member in 0..3 {
            let (inside, wire) = (network.inside(member), network.wire(member));
            must(&["ip", "netns", "add", &inside]);
            must(&["ip", "link", "add", &wire, "type", "veth", "peer", "name", "eth0", "netns", &inside]);
            must(&["ip", "link", "set", &wire, "master", &network.name, "up"]);
            let address = format!("{}/24", network.address(member));
            must(&["ip", "-n", &inside, "address", "add", &address, "dev", "eth0"]);
            must(&["ip", "-n", &inside, "link", "set", "eth0", "up"]);
            must(&["ip", "-n", &inside, "link", "set", "lo", "up"]);
        }
        network
    }

    fn inside(&self, member: usize) -> String {
        format!("{}n{member}", self.name)
    }

    fn wire(&self, member: usize) -> String {
        format!("{}w{member}", self.name)
    }

    fn address(&self, member: usize) -> String {
        format!("{}.{}", self.net, member + 1)
    }

    fn places(&self) -> Vec<Place> {
        let at = |member, port: u16| format!("{}:{port}", self.address(member)).parse::<SocketAddr>().unwrap();
        let before = |member| ["ip", "netns", "exec", &self.inside(member)].map(str::to_owned).to_vec();
        (0..3).map(|m| Place { client: at(m, 2379), peer: at(m, 2380), before: before(m) }).collect()
    }

    /// The wire is cut: nobody reaches the member, clients neither.
    fn cut(&self, member: usize) {
        must(&["ip", "link", "set", &self.wire(member), "down"]);
    }

    /// It is whole again.
    fn mend(&self, member: usize) {
        must(&["ip", "link", "set", &self.wire(member), "up"]);
    }

    /// The member and the others hear nothing of each other; clients reach it, and it does not know better.
    fn isolate(&self, member: usize) {
        let others: Vec<String> = (0..3).filter(|m| *m != member).map(|m| self.address(m)).collect();
        let others = format!("{{ {} }}", others.join(", "));
        let inside = self.inside(member);
        for rule in [
            "add table ip cut",
            "add chain ip cut in { type filter hook input priority 0; }",
            "add chain ip cut out { type filter hook output priority 0; }",
            &format!("add rule ip cut in ip saddr {others} drop"),
            &format!("add rule ip cut out ip daddr {others} drop"),
        ] {
            must(&["ip", "netns", "exec", &inside, "nft", rule]);
        }
    }

    /// They do again.
    fn rejoin(&self, member: usize) {
        must(&["ip", "netns", "exec", &self.inside(member), "nft", "delete", "table", "ip", "cut"]);
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        let gone = |words: &[&str]| drop(Command::new("ip").args(words).output());
        (0..3).for_each(|member| gone(&["netns", "delete", &self.inside(member)]));
        gone(&["link", "delete", &self.name]);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_lost_and_every_key_is_linearizable_while_a_minority_is_cut_off() {
    let network = Network::new();
    let cluster = Cluster::at(&network.places());
    let stores = [cluster.replica("one").await, cluster.replica("other").await];
    let crowd = Crowd::new(&stores, KEYS);
    let end = Instant::now() + load::seconds(15);
    let mut struck = [0; 2];
    while Instant::now() < end {
        let (member, kind, lasting, rest) = {
            let mut random = rand::rng();
            let kind = usize::from(random.random_bool(0.5));
            (random.random_range(0..3), kind, random.random_range(500..3000), random.random_range(200..1500))
        };
        struck[kind] += 1;
        let [strike, heal]: [fn(&Network, usize); 2] =
            [[Network::cut, Network::mend], [Network::isolate, Network::rejoin]][kind];
        strike(&network, member);
        tokio::time::sleep(Duration::from_millis(lasting)).await;
        heal(&network, member);
        tokio::time::sleep(Duration::from_millis(rest)).await;
    }
    println!("cut {} wires, kept {} members apart", struck[0], struck[1]);
    let history = crowd.finish().await;
    load::judge(&history);
    let made = history.made.len();
    assert!(made > 30, "{made} writes were acknowledged");
    assert!(history.watches.iter().all(|watch| watch.len() >= made));
}

/// A file system of its own in memory. Dropped, it is unmounted.
struct Disk(PathBuf);

impl Disk {
    fn at(path: PathBuf, megabytes: u32) -> Self {
        std::fs::create_dir(&path).unwrap();
        let size = format!("size={megabytes}m,mode=0700");
        must(&["mount", "-t", "tmpfs", "-o", &size, "tmpfs", path.to_str().unwrap()]);
        Self(path)
    }

    /// Nothing fits in any more.
    fn fill(&self) {
        use std::io::Write as _;
        let mut filler = std::fs::File::create(self.filler()).unwrap();
        let block = vec![0; 4096];
        while filler.write_all(&block).is_ok() {}
    }

    fn make_room(&self) {
        std::fs::remove_file(self.filler()).unwrap();
    }

    fn filler(&self) -> PathBuf {
        self.0.join("filler")
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _ = Command::new("umount").args(["--lazy", path(&self.0)]).output();
    }
}

fn path(path: &Path) -> &str {
    path.to_str().unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_member_whose_disk_is_full_ends_and_nothing_is_lost() {
    let folder = tempfile::tempdir().unwrap();
    // Etcd takes two files of 64 MB for its log at once.
    let disk = Disk::at(folder.path().join("etcd-0"), 160);
    let mut cluster = Cluster::three_in(folder);
    let stores = [cluster.replica("one").await, cluster.replica("other").await];
    // Documents that fill what is left of a page soon.
    load::length(8192);
    let crowd = Crowd::new(&stores, KEYS);
    tokio::time::sleep(Duration::from_secs(2)).await;
    disk.fill();
    let end = Instant::now() + Duration::from_secs(20);
    while !cluster.server.has_ended(0) {
        assert!(Instant::now() < end, "a member writes to a full disk");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    // The others go on.
    tokio::time::sleep(Duration::from_secs(2)).await;
    disk.make_room();
    cluster.server.restart(0);
    tokio::time::sleep(Duration::from_secs(2)).await;
    let history = crowd.finish().await;
    load::length(0);
    load::judge(&history);
    let made = history.made.len();
    assert!(made > usize::try_from(CLIENTS).unwrap() * 10, "{made} writes were acknowledged");
    assert!(history.watches.iter().all(|watch| watch.len() >= made));
}
