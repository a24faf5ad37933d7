//! The dashboard: what is committed is what its sources build, and its own suite (control-plane/dashboard/test) passes in Chromium against a
//! running shop. Node 20.19 or newer, npm and Debian's chromium are needed, and said to be missing rather than skipped.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a panic is how a test says what is wrong")]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Mutex, PoisonError};
use weft_integration::rig::binary;

/// Both tests need the packages, which are installed once.
static PACKAGES: Mutex<()> = Mutex::new(());

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../control-plane/dashboard")
}

/// Runs a program there; its output is the failure.
fn run(program: &str, args: &[&str], variables: &[(&str, &Path)]) {
    let mut command = Command::new(program);
    command.args(args).current_dir(folder()).env("PLAYWRIGHT_SKIP_BROWSER_DOWNLOAD", "1").env("CI", "1");
    // Never another mesh than the suite's own.
    command.env_remove("WEFT_DASHBOARD");
    for (name, value) in variables {
        command.env(name, value);
    }
    let output = command.output().unwrap_or_else(|e| panic!("{program} {args:?}: {e}; Node 20.19 or newer has it"));
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{program} {args:?}: {}\n{out}\n{err}", output.status);
}

/// Installs exactly what package-lock.json says, if that has not been done since it changed.
fn packages() {
    let _alone = PACKAGES.lock().unwrap_or_else(PoisonError::into_inner);
    let changed = |file: &str| std::fs::metadata(folder().join(file)).and_then(|data| data.modified()).ok();
    if changed("node_modules/.package-lock.json") < changed("package-lock.json") {
        run("npm", &["ci", "--ignore-scripts"], &[]);
    }
}

/// Every file below a folder with its bytes.
fn files(root: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut found = BTreeMap::new();
    let mut left = vec![root.to_owned()];
    while let Some(folder) = left.pop() {
        for entry in std::fs::read_dir(&folder).unwrap().flatten() {
            let path = entry.path();
            if path.is_dir() {
                left.push(path);
            } else {
                found.insert(path.strip_prefix(root).unwrap().to_owned(), std::fs::read(&path).unwrap());
            }
        }
    }
    found
}

#[test]
fn what_is_committed_is_what_the_sources_build_and_they_pass_their_checks() {
    packages();
    run("npm", &["run", "check"], &[]);
    let built = tempfile::tempdir().unwrap();
    run("npx", &["vite", "build", "--outDir", built.path().to_str().unwrap(), "--emptyOutDir"], &[]);
    let (committed, built) = (files(&folder().join("dist")), files(built.path()));
    let names = |files: &BTreeMap<PathBuf, Vec<u8>>| files.keys().cloned().collect::<Vec<_>>();
    assert_eq!(names(&committed), names(&built), "run `npm run build` in control-plane/dashboard and commit dist");
    for (name, bytes) in &built {
        assert!(committed[name] == *bytes, "{} is stale: run `npm run build`", name.display());
    }
}

#[test]
fn every_page_works_in_chromium_against_a_running_shop() {
    packages();
    let chromium = std::env::var_os("CHROMIUM").map_or_else(|| PathBuf::from("/usr/bin/chromium"), PathBuf::from);
    assert!(chromium.exists(), "{} is missing: integration/setup installs it", chromium.display());
    run("npx", &["playwright", "test"], &[("WEFT", &binary("weft")), ("CHROMIUM", &chromium)]);
}
