//! An intermediate of a PKI that is somebody else's, made with openssl: it signs, and is replaced while calls go on.

use serde_json::Value;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use weft_integration::rig::stage::{Caller, Instance, Load, assert_all_well, text};
use weft_integration::rig::{Mesh, program, run, wait_for};

/// A root, in a directory of its own.
struct Organisation(PathBuf);

/// An intermediate: certificate, key, roots.
#[derive(Clone)]
struct Intermediate([PathBuf; 3]);

fn openssl(arguments: &[&str]) {
    run(Command::new(program("openssl")).args(arguments)).ok();
}

const CURVE: [&str; 4] = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"];

impl Organisation {
    fn new(folder: &Path, name: &str) -> Self {
        let path = |file: &str| folder.join(format!("{name}-{file}"));
        let (key, certificate) = (path("root.key"), path("root.pem"));
        let subject = format!("/CN={name} root");
        let fixed = [
            "req",
            "-x509",
            "-nodes",
            "-days",
            "30",
            "-subj",
            &subject,
            "-keyout",
            text(&key),
            "-out",
            text(&certificate),
        ];
        let usage =
            ["-addext", "basicConstraints=critical,CA:TRUE", "-addext", "keyUsage=critical,keyCertSign,cRLSign"];
        openssl(&[&fixed[..], &CURVE, &usage].concat());
        Self(path(""))
    }

    fn path(&self, file: &str) -> PathBuf {
        PathBuf::from(format!("{}{file}", self.0.display()))
    }

    fn intermediate(&self, name: &str) -> Intermediate {
        let [key, request, extensions, certificate] =
            ["key", "csr", "ext", "pem"].map(|kind| self.path(&format!("{name}.{kind}")));
        let subject = format!("/CN={name}");
        let asked = ["req", "-new", "-nodes", "-subj", &subject, "-keyout", text(&key), "-out", text(&request)];
        openssl(&[&asked[..], &CURVE].concat());
        std::fs::write(&extensions, "basicConstraints=critical,CA:TRUE,pathlen:0\nkeyUsage=critical,keyCertSign,cRLSign\nsubjectKeyIdentifier=hash\nauthorityKeyIdentifier=keyid\n").unwrap();
        let (root, root_key) = (self.path("root.pem"), self.path("root.key"));
        let signed = ["x509", "-req", "-days", "20", "-in", text(&request), "-out", text(&certificate)];
        let by = ["-CA", text(&root), "-CAkey", text(&root_key), "-CAcreateserial", "-extfile", text(&extensions)];
        openssl(&[&signed[..], &by].concat());
        Intermediate([certificate, key, root])
    }
}

impl Intermediate {
    /// Puts the files where the control plane looks.
    fn put(&self, to: &Intermediate) {
        for (from, to) in self.0.iter().zip(&to.0) {
            std::fs::copy(from, to).unwrap();
            std::fs::set_permissions(to, std::fs::Permissions::from_mode(0o600)).unwrap();
        }
    }
}

fn identity(mesh: &Mesh) -> Value {
    serde_json::from_str(&mesh.weft(&["identity", "show", "-o", "json"]).ok()).unwrap()
}

/// A field of what every sidecar says of its certificate.
fn of_sidecars(status: &Value, field: &str) -> Vec<String> {
    let sidecars = status["sidecars"].as_object().unwrap().values();
    sidecars.map(|one| one[field].as_str().unwrap_or_default().to_owned()).collect()
}

#[test]
fn an_intermediate_from_files_signs_and_is_replaced_under_load_and_a_wrong_one_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let (one, other) = (Organisation::new(folder.path(), "one"), Organisation::new(folder.path(), "other"));
    let first = one.intermediate("first");
    let used = Intermediate(["chain.pem", "key.pem", "roots.pem"].map(|name| folder.path().join(name)));
    first.put(&used);
    let [chain, key, roots] = &used.0;
    let flags = ["--ca-chain", text(chain), "--ca-key", text(key), "--ca-roots", text(roots)];
    let mut mesh = Mesh::start_with(&flags);
    let _catalog = Instance::catalog(&mesh, "catalog-1", "v1");
    let caller = Caller::start(&mesh, "shop", "caller");
    caller.until("calls go through", "http://catalog/items", |answer| answer.status == 200);
    let mut load = Load::start(&mesh, "http://catalog", 100);
    load.go_on_well(100);
    let before = wait_for("every sidecar says what it has", || {
        let now = identity(&mesh);
        let all = of_sidecars(&now, "serial");
        if all.len() == 3 && all.iter().all(|serial| !serial.is_empty()) { Ok(now) } else { Err(now.to_string()) }
    });
    assert!(before["roots"][0]["subject"].as_str().unwrap().contains("one root"), "{before:#}");
    assert!(!mesh.data().join("identity/root.pem").exists(), "no root of its own");

    // A key of another certificate: refused, and nothing changes.
    std::fs::copy(&other.intermediate("stranger").0[1], key).unwrap();
    mesh.control_plane().wait_for_log("the intermediate of before stays in force");
    assert!(mesh.control_plane().log().contains("private key that is not the certificate's"));
    assert_eq!(identity(&mesh)["signing"], before["signing"]);

    // Another one under the same root: every certificate is reissued.
    one.intermediate("second").put(&used);
    let second = wait_for("every certificate is another", || {
        let (now, old) = (identity(&mesh), of_sidecars(&before, "serial"));
        if of_sidecars(&now, "serial").iter().all(|serial| !old.contains(serial)) {
            Ok(now)
        } else {
            Err(now.to_string())
        }
    });
    assert_eq!((&second["signing"], &second["rotation"]), (&before["signing"], &Value::Null));
    load.go_on_well(100);

    // Another root: both are trusted until nobody needs the one of before.
    other.intermediate("third").put(&used);
    wait_for("every certificate leads to the other root, which is trusted alone", || {
        let now = identity(&mesh);
        let (signing, trusted) = (now["signing"].as_str().unwrap().to_owned(), now["roots"].as_array().unwrap().len());
        let led = of_sidecars(&now, "root").iter().all(|root| *root == signing);
        if now["signing"] != before["signing"] && trusted == 1 && led { Ok(()) } else { Err(now.to_string()) }
    });
    load.go_on_well(100);
    assert_all_well(&load.stop());
    let audit = mesh.weft(&["identity", "audit"]).ok();
    assert!(audit.contains("issuer") && audit.contains("refused") && audit.contains("rotation"), "{audit}");

    // Revocation works with keys of others too.
    mesh.weft(&["identity", "revoke", "shop/caller"]).ok();
    caller.until("who is revoked is refused", "http://catalog/items", |answer| {
        answer.header("weft-error") == Some("certificate-revoked")
    });
}
