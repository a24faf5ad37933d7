//! Certificates as nobody should have them, each with its key: of the mesh's own authority, which the test holds, by openssl where the
//! product would not sign such a thing.

use crate::stage::{DOMAIN, text};
use std::cell::{Cell, OnceCell};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, SystemTime};
use weft_certs::ca::{Reason, Revocation};
use weft_certs::{Identity, KeyPair, MeshCa, SpiffeId, Svid};
use weft_integration::rig::{program, run};

const DAYS: Duration = Duration::from_secs(3 * 24 * 3600);

/// A chain and the key of its leaf, in files.
pub struct Papers {
    pub chain: PathBuf,
    pub key: PathBuf,
    svid: Option<Svid>,
}

fn copy(svid: &Svid) -> Svid {
    Svid::from_pem(&svid.chain_pem(), svid.key_pem()).unwrap()
}

/// The authority.
pub struct Forge {
    folder: PathBuf,
    ca: MeshCa,
    made: Cell<u32>,
    revoked: OnceCell<Svid>,
}

fn id(account: &str) -> SpiffeId {
    SpiffeId::workload(&DOMAIN.parse().unwrap(), "shop", account).unwrap()
}

impl Forge {
    /// Keeps everything in `folder`.
    pub fn new(folder: &Path) -> Self {
        let ca = MeshCa::open(&folder.join("authority"), &DOMAIN.parse().unwrap(), SystemTime::now()).unwrap();
        Self { folder: folder.to_owned(), ca, made: Cell::new(0), revoked: OnceCell::new() }
    }

    /// The same with a certificate that is revoked: every [`Self::directory`] says so.
    pub fn with_revoked(folder: &Path, account: &str) -> Self {
        let forge = Self::new(folder);
        let (key, now) = (KeyPair::generate().unwrap(), SystemTime::now());
        let issued = forge.ca.sign(&key.csr().unwrap(), &id(account), None, now).unwrap();
        let (issuer, serial) = (issued.issuer, issued.serial);
        forge.ca.revoke(vec![Revocation { issuer, serial, at: now, reason: Reason::KeyCompromise }], now).unwrap();
        forge.revoked.set(Svid::new(issued.chain, &key).unwrap()).unwrap();
        forge
    }

    fn path(&self, suffix: &str) -> PathBuf {
        self.made.set(self.made.get() + 1);
        self.folder.join(format!("{}.{suffix}", self.made.get()))
    }

    fn of(&self, svid: Svid) -> Papers {
        let (chain, key) = (self.path("pem"), self.path("key"));
        std::fs::write(&chain, svid.chain_pem()).unwrap();
        std::fs::write(&key, svid.key_pem()).unwrap();
        Papers { chain, key, svid: Some(svid) }
    }

    /// What a sidecar reads: its chain, its key and the roots.
    pub fn directory(&self, name: &str, papers: &Papers) -> PathBuf {
        let svid = papers.svid.as_ref().expect("an SVID");
        let copy = copy(svid);
        let directory = self.folder.join(format!("papers-{name}"));
        Identity::new(copy, self.ca.bundle()).write_files(&directory).unwrap();
        directory
    }

    pub fn good(&self, account: &str) -> Papers {
        self.of(self.ca.issue(&id(account), None, SystemTime::now()).unwrap())
    }

    pub fn revoked(&self) -> Papers {
        self.of(copy(self.revoked.get().expect("one that was revoked")))
    }

    pub fn expired(&self, account: &str) -> Papers {
        self.of(self.ca.issue(&id(account), None, SystemTime::now() - DAYS).unwrap())
    }

    pub fn future(&self, account: &str) -> Papers {
        self.of(self.ca.issue(&id(account), None, SystemTime::now() + DAYS).unwrap())
    }

    pub fn foreign(&self, account: &str) -> Papers {
        let abroad = "elsewhere.test".parse().unwrap();
        let ca = MeshCa::ephemeral(&abroad, SystemTime::now()).unwrap();
        let id = SpiffeId::workload(&abroad, "shop", account).unwrap();
        self.of(ca.issue(&id, None, SystemTime::now()).unwrap())
    }

    pub fn unrooted(&self, account: &str) -> Papers {
        let ca = MeshCa::ephemeral(&DOMAIN.parse().unwrap(), SystemTime::now()).unwrap();
        self.of(ca.issue(&id(account), None, SystemTime::now()).unwrap())
    }

    pub fn two_names(&self, account: &str) -> Papers {
        let names = format!("URI:{},URI:{}", id(account), id("second"));
        self.signed(&names, "CA:FALSE", "digitalSignature", "serverAuth,clientAuth")
    }

    pub fn authority(&self, account: &str) -> Papers {
        self.signed(&format!("URI:{}", id(account)), "CA:TRUE", "digitalSignature,keyCertSign", "serverAuth,clientAuth")
    }

    pub fn usage(&self, account: &str, usage: &str, extended: &str) -> Papers {
        self.signed(&format!("URI:{}", id(account)), "CA:FALSE", usage, extended)
    }

    fn signed(&self, names: &str, constraints: &str, usage: &str, extended: &str) -> Papers {
        let [extensions, request, leaf, chain, key] =
            ["cnf", "csr", "leaf", "pem", "key"].map(|suffix| self.path(suffix));
        let openssl = program("openssl");
        let lines = format!(
            "subjectAltName=critical,{names}\nbasicConstraints=critical,{constraints}\nkeyUsage=critical,{usage}\nextendedKeyUsage={extended}\n"
        );
        std::fs::write(&extensions, lines).unwrap();
        let ask =
            ["req", "-new", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-subj", "/O=forged"];
        run(Command::new(&openssl).args(ask).args(["-keyout", text(&key), "-out", text(&request)])).ok();
        let issuer = self.folder.join("authority/issuing.pem");
        let issuer = text(&issuer);
        let sign =
            ["x509", "-req", "-in", text(&request), "-CA", issuer, "-CAkey", issuer, "-days", "1", "-CAcreateserial"];
        let serial = self.path("srl");
        run(Command::new(&openssl).args(sign).args([
            "-CAserial",
            text(&serial),
            "-extfile",
            text(&extensions),
            "-out",
            text(&leaf),
        ]))
        .ok();
        let above = run(Command::new(&openssl).args(["x509", "-in", issuer])).ok();
        std::fs::write(&chain, std::fs::read_to_string(&leaf).unwrap() + &above).unwrap();
        Papers { chain, key, svid: None }
    }
}
