//! Keys of the authority on disk: their owner's alone, and encrypted where there is a passphrase.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;
use weft_integration::rig::stage::text;
use weft_integration::rig::{Caller, Mesh, Output, program, run};

fn private(path: &Path, contents: &str) {
    std::fs::write(path, contents).unwrap();
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600)).unwrap();
}

fn openssl(key: &Path, password: &str) -> Output {
    run(Command::new(program("openssl")).args(["pkey", "-noout", "-text", "-in", text(key), "-passin", password]))
}

/// A start that must not succeed.
fn start(mesh: &Mesh, passphrase: Option<&Path>) -> Output {
    let data = mesh.data();
    let mut arguments = vec!["up", "--data-dir", text(&data), "--grpc", "127.0.0.1:0", "--api", "127.0.0.1:0"];
    arguments.extend(passphrase.map(|file| ["--ca-key-passphrase-file", text(file)]).into_iter().flatten());
    mesh.weft(&arguments)
}

#[test]
fn keys_are_encrypted_on_the_first_start_with_a_passphrase_and_openssl_reads_them() {
    let mut mesh = Mesh::start();
    let identity = mesh.data().join("identity");
    let in_the_clear = |name: &str| std::fs::read_to_string(identity.join(name)).unwrap().contains("BEGIN PRIVATE KEY");
    assert!(in_the_clear("root.pem") && in_the_clear("issuing.pem"));
    let passphrase = mesh.folder().join("passphrase");
    private(&passphrase, "correct horse battery staple\n");
    mesh.kill();
    let flags = ["--ca-key-passphrase-file", text(&passphrase)];
    mesh.up(&flags);
    let keys = [identity.join("root.pem"), identity.join("issuing.pem"), mesh.data().join("api/ca.pem")];
    let right = format!("file:{}", text(&passphrase));
    let assert_encrypted = || {
        for key in &keys {
            let shown = openssl(key, &right);
            assert!(shown.code == 0 && shown.out.contains("P-256"), "{}: {shown:?}", key.display());
            assert_ne!(openssl(key, "pass:wrong").code, 0);
            assert!(!std::fs::read_to_string(key).unwrap().contains("BEGIN PRIVATE KEY"), "{}", key.display());
        }
    };
    assert_encrypted();
    // The mesh is the one it was, and its root can be replaced.
    let caller = Caller::start(&mesh, "shop", "caller");
    mesh.weft(&["identity", "rotate", "--timeout", "60s"]).ok();
    assert_encrypted();
    drop(caller);

    mesh.kill();
    let wrong = mesh.folder().join("wrong");
    private(&wrong, "battery horse\n");
    for (given, why) in [(Some(wrong.as_path()), "the passphrase is wrong"), (None, "--ca-key-passphrase-file")] {
        let refused = start(&mesh, given);
        assert!(refused.code == 1 && refused.err.contains(why), "{refused:?}");
    }
    let root = &keys[0];
    std::fs::set_permissions(root, std::fs::Permissions::from_mode(0o640)).unwrap();
    let refused = start(&mesh, Some(&passphrase));
    assert!(refused.code == 1 && refused.err.contains(&format!("chmod 600 {}", root.display())), "{refused:?}");
    std::fs::set_permissions(root, std::fs::Permissions::from_mode(0o600)).unwrap();
    mesh.up(&flags);
}
