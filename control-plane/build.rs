//! Compiles what the store speaks with etcd, in pure Rust, and embeds the dashboard as it was built last (`dashboard/dist`), with a compressed
//! edition of each file that is a tenth smaller for it. Without it the library builds all the same.

use std::error::Error;
use std::fmt::Write as _;
use std::io::Write as _;
use std::path::{Path, PathBuf};

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rerun-if-changed=proto");
    tonic_prost_build::configure()
        .build_server(false)
        .bytes(".")
        .compile_fds(protox::compile(["etcd.proto"], ["proto"])?)?;
    dashboard(Path::new(&std::env::var("CARGO_MANIFEST_DIR")?), Path::new(&std::env::var("OUT_DIR")?))
}

/// Writes `dashboard.rs`: a table of the files.
fn dashboard(root: &Path, out: &Path) -> Result<(), Box<dyn Error>> {
    let dist = root.join("dashboard/dist");
    let mut paths = Vec::new();
    // A path that is missing would have Cargo build again each time.
    if dist.is_dir() {
        println!("cargo:rerun-if-changed={}", dist.display());
        files(&dist, &mut paths)?;
    }
    paths.sort();
    // Copies: what is compiled is what was compressed, even while somebody builds the dashboard anew.
    let copies = out.join("dashboard");
    std::fs::create_dir_all(&copies)?;
    let mut table = String::from("&[\n");
    for (number, path) in paths.iter().enumerate() {
        let name = path.strip_prefix(&dist)?.to_str().ok_or("a file of the dashboard has a name that is no text")?;
        let content = std::fs::read(path)?;
        let small = gzip(&content)?;
        let (copy, place) = (copies.join(format!("{number}")), copies.join(format!("{number}.gz")));
        let gzip = if small.len() * 10 / 9 < content.len() {
            std::fs::write(&place, small)?;
            format!("Some(include_bytes!({place:?}))")
        } else {
            "None".to_owned()
        };
        std::fs::write(&copy, content)?;
        writeln!(table, "    Embedded {{ name: {name:?}, content: include_bytes!({copy:?}), gzip: {gzip} }},")?;
    }
    table.push_str("]\n");
    std::fs::write(out.join("dashboard.rs"), table)?;
    Ok(())
}

/// Every file below a directory, but maps of sources, which only its developers want, and editions that are compressed already.
fn files(directory: &Path, found: &mut Vec<PathBuf>) -> Result<(), Box<dyn Error>> {
    for entry in std::fs::read_dir(directory)? {
        let path = entry?.path();
        let is_left_out = path.extension().is_some_and(|extension| ["map", "gz", "br"].iter().any(|e| extension == *e));
        if path.is_dir() {
            files(&path, found)?;
        } else if !is_left_out {
            found.push(path);
        }
    }
    Ok(())
}

/// The same bytes each time: no name and no date are in it.
fn gzip(content: &[u8]) -> std::io::Result<Vec<u8>> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
    encoder.write_all(content)?;
    encoder.finish()
}
