//! Archives as POSIX.1-1988 has them (ustar): regular files only, written one after the other.

use std::io::{self, Write};

const BLOCK: usize = 512;

/// An archive that is being written.
pub struct Tar<W> {
    out: W,
    /// Of every file, seconds since the Unix epoch.
    modified: u64,
}

impl<W: Write> Tar<W> {
    /// An empty one.
    pub fn new(out: W, modified: u64) -> Self {
        Self { out, modified }
    }

    /// Adds a file (0600).
    ///
    /// # Errors
    /// When its name does not fit (a last part of 100 bytes, 155 before it), or nothing can be written.
    pub fn file(&mut self, name: &str, content: &[u8]) -> io::Result<()> {
        self.out.write_all(&header(name, content.len(), self.modified)?)?;
        self.out.write_all(content)?;
        let rest = content.len() % BLOCK;
        if rest > 0 {
            self.out.write_all(&[0; BLOCK][rest..])?;
        }
        Ok(())
    }

    /// Ends it: two blocks of zeros.
    ///
    /// # Errors
    /// When nothing can be written.
    pub fn finish(mut self) -> io::Result<W> {
        self.out.write_all(&[0; 2 * BLOCK])?;
        Ok(self.out)
    }
}

fn header(name: &str, size: usize, modified: u64) -> io::Result<[u8; BLOCK]> {
    let too_long = || io::Error::new(io::ErrorKind::InvalidInput, format!("{name}: too long a name for an archive"));
    let (prefix, name) = if name.len() <= 100 {
        ("", name)
    } else {
        let splits = name.match_indices('/').map(|(at, _)| (&name[..at], &name[at + 1..]));
        splits.rev().find(|(prefix, last)| prefix.len() <= 155 && last.len() <= 100).ok_or_else(too_long)?
    };
    let mut block = [0; BLOCK];
    let mut put = |at: usize, text: &str| block[at..at + text.len()].copy_from_slice(text.as_bytes());
    put(0, name);
    put(100, "0000600\0");
    put(108, "0000000\0");
    put(116, "0000000\0");
    put(124, &format!("{size:011o}\0"));
    put(136, &format!("{modified:011o}\0"));
    // The checksum is that of the header with blanks in its place.
    put(148, "        ");
    put(156, "0");
    put(257, "ustar\0");
    put(263, "00");
    put(345, prefix);
    let sum: u32 = block.iter().map(|byte| u32::from(*byte)).sum();
    block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    Ok(block)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tar_reads_what_is_written() {
        let dir = tempfile::tempdir().unwrap();
        let mut tar = Tar::new(Vec::new(), 1_795_302_257);
        let long = format!("{}/{}", "d".repeat(90), "f".repeat(90));
        tar.file("a.txt", b"one").unwrap();
        tar.file(&long, &[b'x'; 1024]).unwrap();
        assert!(tar.file(&"n".repeat(101), b"").is_err());
        let path = dir.path().join("x.tar");
        std::fs::write(&path, tar.finish().unwrap()).unwrap();
        let listed = std::process::Command::new("tar").arg("-tvf").arg(&path).env("TZ", "UTC").output().unwrap();
        let listed = String::from_utf8(listed.stdout).unwrap();
        let lines: Vec<&str> = listed.lines().collect();
        assert!(lines[0].starts_with("-rw------- 0/0") && lines[0].ends_with(" 3 2026-11-21 23:04 a.txt"), "{listed}");
        assert!(lines[1].contains(" 1024 ") && lines[1].ends_with(&long), "{listed}");
    }
}
