//! The files of a bundle, bounded, and the archive that they become: a directory of one name with a manifest of sizes and checksums.

use super::redact::Redactor;
use super::tar::Tar;
use crate::failure::Failure;
use crate::run::sidecar::private_file;
use flate2::Compression;
use flate2::write::GzEncoder;
use serde_json::{Value, json};
use std::path::Path;
use weft_control::store::backup::sha256;

/// Bytes of one file.
const FILE: usize = 4 << 20;
/// Bytes of all of them.
const ALL: usize = 64 << 20;

/// What has been gathered.
pub struct Bundle {
    name: String,
    made: String,
    redactor: Redactor,
    files: Vec<(String, Vec<u8>)>,
    size: usize,
    left_out: Vec<(String, String)>,
}

impl Bundle {
    /// An empty one; `name` is that of its directory, `made` when (RFC 3339).
    pub fn new(name: &str, made: &str) -> Self {
        Self {
            name: name.to_owned(),
            made: made.to_owned(),
            redactor: Redactor::default(),
            files: Vec::new(),
            size: 0,
            left_out: Vec::new(),
        }
    }

    /// Keeps a document, without its secrets.
    pub fn document(&mut self, name: &str, mut value: Value) {
        self.redactor.value(&mut value);
        let text = serde_json::to_vec_pretty(&value).unwrap_or_else(|error| error.to_string().into_bytes());
        self.keep(name, text);
    }

    /// Keeps a text, without its secrets.
    pub fn text(&mut self, name: &str, text: &str) {
        let text = self.redactor.text(text).unwrap_or_else(|| text.to_owned());
        self.keep(name, text.into_bytes());
    }

    /// What could not be had: a file beside where it would be says why.
    pub fn failed(&mut self, name: &str, why: &str) {
        self.text(&format!("{name}.error.txt"), &format!("{why}\n"));
    }

    /// Says what is not in it, and why.
    pub fn leave_out(&mut self, what: &str, why: impl Into<String>) {
        self.left_out.push((what.to_owned(), why.into()));
    }

    fn keep(&mut self, name: &str, content: Vec<u8>) {
        if content.len() > FILE {
            let why = format!("{} bytes; a file may have {FILE}", content.len());
            return self.leave_out(name, why);
        }
        if self.size + content.len() > ALL {
            return self.leave_out(name, format!("the bundle has its {ALL} bytes"));
        }
        self.size += content.len();
        self.files.push((name.to_owned(), content));
    }

    /// How many files there are.
    pub fn len(&self) -> usize {
        self.files.len()
    }

    /// How many things were left out.
    pub fn left_out(&self) -> usize {
        self.left_out.len()
    }

    fn manifest(&self) -> Value {
        json!({
            "format": 1,
            "made": self.made,
            "weft": env!("CARGO_PKG_VERSION"),
            "files": self.files.iter().map(|(name, content)| {
                json!({ "name": name, "bytes": content.len(), "sha256": sha256(content) })
            }).collect::<Vec<_>>(),
            "leftOut": self.left_out.iter().map(|(what, why)| json!({ "what": what, "why": why })).collect::<Vec<_>>(),
            "secretsRemoved": self.redactor.removed(),
        })
    }

    /// Writes the archive (0600) and says how many bytes it has.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn write(self, file: &Path) -> Result<usize, Failure> {
        let bad = |error: std::io::Error| Failure::not_well(format!("cannot pack the bundle: {error}"));
        let manifest = serde_json::to_vec_pretty(&self.manifest()).unwrap_or_default();
        let seconds = crate::output::epoch(&self.made).unwrap_or_default();
        let mut tar = Tar::new(GzEncoder::new(Vec::new(), Compression::default()), seconds.unsigned_abs());
        let all = std::iter::once(("manifest.json", &manifest)).chain(self.files.iter().map(|(n, c)| (n.as_str(), c)));
        for (name, content) in all {
            tar.file(&format!("{}/{name}", self.name), content).map_err(bad)?;
        }
        let packed = tar.finish().and_then(GzEncoder::finish).map_err(bad)?;
        private_file(file, &packed)?;
        Ok(packed.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;

    #[test]
    fn what_is_too_large_is_left_out_and_said_to_be() {
        let mut bundle = Bundle::new("b", "2026-11-22T10:00:00Z");
        bundle.text("large.txt", &"x".repeat(FILE + 1));
        for i in 0..20 {
            bundle.text(&format!("{i}.txt"), &"x".repeat(FILE));
        }
        assert_eq!((bundle.len(), bundle.left_out()), (16, 5));
        let left = bundle.manifest()["leftOut"].clone();
        assert!(left[0]["what"] == "large.txt" && left[1]["what"] == "16.txt", "{left}");
    }

    #[test]
    fn an_archive_holds_its_manifest_first_and_every_file_as_it_says() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("b.tar.gz");
        let mut bundle = Bundle::new("b", "2026-11-22T10:00:00Z");
        bundle.document("objects/x.json", json!({ "a": 1 }));
        bundle.failed("sidecars/1/config.json", "it did not answer");
        let expected = bundle.manifest();
        bundle.write(&path).unwrap();
        let mut text = Vec::new();
        flate2::read::GzDecoder::new(std::fs::File::open(&path).unwrap()).read_to_end(&mut text).unwrap();
        let text = String::from_utf8(text).unwrap();
        assert!(text.starts_with("b/manifest.json\0"));
        assert!(text.contains("b/sidecars/1/config.json.error.txt\0") && text.contains("it did not answer\n"));
        assert_eq!(expected["files"][0]["sha256"], sha256(b"{\n  \"a\": 1\n}"));
    }
}
