//! A PKI that is not the mesh's, made with openssl, and an agent of the SPIFFE Workload API (grpcio) that serves it, rotates it and goes away.

use serde_json::{Value, json};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering::SeqCst};
use weft_integration::rig::stage::text;
use weft_integration::rig::{Process, program, python_env, run};

pub const DOMAIN: &str = "example.org";

/// The SPIFFE id of a service account.
pub fn id(namespace: &str, account: &str) -> String {
    format!("spiffe://{DOMAIN}/ns/{namespace}/sa/{account}")
}

fn openssl(arguments: &[&str]) -> String {
    run(Command::new(program("openssl")).args(arguments)).ok()
}

const CURVE: [&str; 4] = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"];

/// A root that signs leaves itself, as SPIRE does without an authority above it.
pub struct Root {
    folder: PathBuf,
    name: String,
    made: AtomicU32,
}

/// A certificate with its key.
#[derive(Clone)]
pub struct Leaf {
    id: String,
    chain: PathBuf,
    key: PathBuf,
    serial: String,
}

impl Root {
    pub fn new(folder: &Path, name: &str) -> Self {
        let root = Self { folder: folder.to_owned(), name: name.to_owned(), made: AtomicU32::new(0) };
        let (key, certificate, subject) = (root.path("key"), root.pem(), format!("/O=SPIRE/CN={name}"));
        let fixed = [
            "req",
            "-x509",
            "-nodes",
            "-days",
            "2",
            "-subj",
            &subject,
            "-keyout",
            text(&key),
            "-out",
            text(&certificate),
        ];
        let uri = format!("subjectAltName=URI:spiffe://{DOMAIN}");
        let usage = [
            "-addext",
            "keyUsage=critical,keyCertSign,cRLSign",
            "-addext",
            "basicConstraints=critical,CA:TRUE",
            "-addext",
            &uri,
        ];
        openssl(&[&fixed[..], &CURVE, &usage].concat());
        root
    }

    fn path(&self, suffix: &str) -> PathBuf {
        self.folder.join(format!("{}.{suffix}", self.name))
    }

    pub fn pem(&self) -> PathBuf {
        self.path("pem")
    }

    /// One more certificate for an id, with a key of its own.
    pub fn leaf(&self, id: &str) -> Leaf {
        let number = self.made.fetch_add(1, SeqCst);
        let [key, request, extensions, chain] =
            ["key", "csr", "ext", "pem"].map(|kind| self.path(&format!("{number}.{kind}")));
        let asked = ["req", "-new", "-nodes", "-subj", "/O=SPIRE", "-keyout", text(&key), "-out", text(&request)];
        openssl(&[&asked[..], &CURVE].concat());
        let lines = format!(
            "subjectAltName=URI:{id}\nbasicConstraints=critical,CA:FALSE\nkeyUsage=critical,digitalSignature\nextendedKeyUsage=serverAuth,clientAuth\n"
        );
        std::fs::write(&extensions, lines).unwrap();
        let serial = format!("{:02X}", 0x10 + number);
        let (root, root_key, set) = (self.pem(), self.path("key"), format!("0x{serial}"));
        let signed = ["x509", "-req", "-days", "1", "-in", text(&request), "-out", text(&chain), "-set_serial", &set];
        let by = ["-CA", text(&root), "-CAkey", text(&root_key), "-extfile", text(&extensions)];
        openssl(&[&signed[..], &by].concat());
        Leaf { id: id.to_owned(), chain, key, serial }
    }

    /// An intermediate, as the control plane takes it: certificate and key.
    pub fn intermediate(&self) -> [PathBuf; 2] {
        let [key, request, extensions, certificate] =
            ["ca.key", "ca.csr", "ca.ext", "ca.pem"].map(|kind| self.path(kind));
        let asked = ["req", "-new", "-nodes", "-subj", "/CN=mesh", "-keyout", text(&key), "-out", text(&request)];
        openssl(&[&asked[..], &CURVE].concat());
        let lines = "basicConstraints=critical,CA:TRUE,pathlen:0\nkeyUsage=critical,keyCertSign,cRLSign\nsubjectKeyIdentifier=hash\n";
        std::fs::write(&extensions, lines).unwrap();
        let (root, root_key) = (self.pem(), self.path("key"));
        let signed =
            ["x509", "-req", "-days", "2", "-in", text(&request), "-out", text(&certificate), "-set_serial", "2"];
        let by = ["-CA", text(&root), "-CAkey", text(&root_key), "-extfile", text(&extensions)];
        openssl(&[&signed[..], &by].concat());
        for path in [&certificate, &key] {
            std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600)).unwrap();
        }
        [certificate, key]
    }

    /// A list of these certificates.
    pub fn list(&self, revoked: &[&Leaf]) -> PathBuf {
        let [index, number, settings, list] = ["index", "number", "cnf", "crl"].map(|kind| self.path(kind));
        let lines =
            revoked.iter().map(|leaf| format!("R\t400101000000Z\t250101000000Z\t{}\tunknown\t/O=SPIRE\n", leaf.serial));
        std::fs::write(&index, lines.collect::<String>()).unwrap();
        std::fs::write(&number, "01\n").unwrap();
        let lines = format!(
            "[ca]\ndefault_ca = this\n[this]\ndatabase = {}\ncrlnumber = {}\ndefault_md = sha256\n",
            text(&index),
            text(&number)
        );
        std::fs::write(&settings, lines).unwrap();
        let (root, key) = (self.pem(), self.path("key"));
        let by = ["-cert", text(&root), "-keyfile", text(&key), "-crldays", "1", "-out", text(&list)];
        openssl(&[&["ca", "-config", text(&settings), "-gencrl"][..], &by].concat());
        list
    }
}

/// Several files in one.
pub fn bundle(folder: &Path, roots: &[&Root]) -> PathBuf {
    let names: Vec<&str> = roots.iter().map(|root| root.name.as_str()).collect();
    let path = folder.join(format!("{}.bundle", names.join("-")));
    let all: String = roots.iter().map(|root| std::fs::read_to_string(root.pem()).unwrap()).collect();
    std::fs::write(&path, all).unwrap();
    path
}

/// An agent, and what it says.
pub struct Agent {
    socket: PathBuf,
    state: PathBuf,
    said: Value,
    process: Option<Process>,
}

impl Agent {
    /// One that denies everything at first.
    #[track_caller]
    pub fn start(folder: &Path, name: &str) -> Self {
        let [socket, state] = ["sock", "json"].map(|kind| folder.join(format!("{name}.{kind}")));
        let mut agent = Self { socket, state, said: json!({"epoch": 0, "denied": true, "svids": []}), process: None };
        agent.write();
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/identity/agent.py");
        let mut command = Command::new(python_env("grpc"));
        command.arg(script).args([&agent.socket, &agent.state]);
        let mut process = Process::start(folder, &format!("{name}-agent"), &mut command);
        process.wait_for_log("serving");
        agent.process = Some(process);
        agent
    }

    pub fn endpoint(&self) -> String {
        format!("unix://{}", self.socket.display())
    }

    fn write(&mut self) {
        let beside = self.state.with_extension("new");
        std::fs::write(&beside, self.said.to_string()).unwrap();
        std::fs::rename(beside, &self.state).unwrap();
    }

    /// Gives these certificates, each with a hint of its account's name, and these roots; nothing else any more.
    pub fn gives(&mut self, leaves: &[&Leaf], bundle: &Path) {
        let hint = |leaf: &Leaf| leaf.id.rsplit('/').next().unwrap_or_default().to_owned();
        let svids = leaves.iter().map(
            |leaf| json!({"id": leaf.id, "hint": hint(leaf), "chain": leaf.chain, "key": leaf.key, "bundle": bundle}),
        );
        self.said = json!({"epoch": self.said["epoch"], "svids": svids.collect::<Vec<_>>()});
        self.write();
    }

    /// With a revocation list, or none.
    pub fn revokes(&mut self, list: Option<&Path>) {
        self.said["crl"] = json!(list.into_iter().collect::<Vec<_>>());
        self.write();
    }

    /// Ends every stream once.
    pub fn drops(&mut self) {
        self.said["epoch"] = json!(self.said["epoch"].as_u64().unwrap() + 1);
        self.write();
    }

    /// Is away from now on.
    pub fn goes(&mut self) {
        self.process = None;
    }
}
