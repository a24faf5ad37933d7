//! Files that hold secrets: written atomically (a reader sees the old or the new, never half) and readable by their owner alone.
//! What is in them is their writers' business.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::Path;

use crate::error::Error;

/// No file of keys or certificates is larger; more is refused rather than read.
const MAX_LEN: u64 = 4 << 20;

/// Creates a directory, and those above it, that only its owner may enter (0700); an existing one that others may enter is tightened.
pub fn private_dir(path: &Path) -> Result<(), Error> {
    owner_dir(path)?;
    let fail = |e| Error::storage("restrict access to", path, e);
    let mode = fs::metadata(path).map_err(fail)?.mode();
    if mode & 0o077 != 0 {
        fs::set_permissions(path, fs::Permissions::from_mode(0o700)).map_err(fail)?;
    }
    Ok(())
}

/// Creates a directory (0700), and those above it, if it is missing; leaves the mode of an existing one alone.
pub(crate) fn owner_dir(path: &Path) -> Result<(), Error> {
    DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(|e| Error::storage("create directory", path, e))
}

/// Writes a file with mode 0600: into a new file beside it, synced, then renamed over it.
pub fn write_private(path: &Path, contents: &[u8]) -> Result<(), Error> {
    write(path, contents, 0o600)
}

/// The same with mode 0644, for what everybody may read.
pub fn write_public(path: &Path, contents: &[u8]) -> Result<(), Error> {
    write(path, contents, 0o644)
}

fn write(path: &Path, contents: &[u8], mode: u32) -> Result<(), Error> {
    let fail = |e| Error::storage("write", path, e);
    let directory = directory_of(path);
    let name = path.file_name().ok_or_else(|| fail(io::ErrorKind::InvalidInput.into()))?;
    let mut random = [0; 8];
    aws_lc_rs::rand::fill(&mut random).map_err(|_| Error::Crypto("no randomness".into()))?;
    let beside = directory.join(format!(".{}.{:016x}", name.to_string_lossy(), u64::from_le_bytes(random)));
    let written = (|| {
        // create_new: never follow or truncate what somebody else put there. The mode is that of the file's first moment.
        let mut file = OpenOptions::new().write(true).create_new(true).mode(mode).open(&beside)?;
        file.write_all(contents)?;
        file.sync_all()?;
        fs::rename(&beside, path)?;
        File::open(directory)?.sync_all()
    })();
    if written.is_err() {
        // Best effort: the first error is the one to report.
        drop(fs::remove_file(&beside));
    }
    written.map_err(fail)
}

/// Puts a file in the place of another, at once.
pub(crate) fn rename(from: &Path, to: &Path) -> Result<(), Error> {
    fs::rename(from, to).and_then(|()| sync(to)).map_err(|e| Error::storage("write", to, e))
}

/// Removes a file; that it is not there is no error.
pub(crate) fn remove(path: &Path) -> Result<(), Error> {
    match fs::remove_file(path).and_then(|()| sync(path)) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(Error::storage("remove", path, e)),
        _ => Ok(()),
    }
}

/// Makes a change of the directory last.
fn sync(path: &Path) -> io::Result<()> {
    File::open(directory_of(path))?.sync_all()
}

fn directory_of(path: &Path) -> &Path {
    path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// Reads a text file of at most 4 MiB; `None` when there is none.
pub fn read_if_exists(path: &Path) -> Result<Option<String>, Error> {
    match File::open(path) {
        Ok(file) => read_text(file).map(Some).map_err(|e| Error::storage("read", path, e)),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(Error::storage("read", path, e)),
    }
}

/// The same for a file that holds a secret: refused when anybody but its owner may read or write it.
pub(crate) fn read_private_if_exists(path: &Path) -> Result<Option<String>, Error> {
    let fail = |e| Error::storage("read", path, e);
    let file = match File::open(path) {
        Ok(file) => file,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(fail(e)),
    };
    // Of the file that was opened, not of whatever has its name by now.
    let mode = file.metadata().map_err(fail)?.mode() & 0o777;
    if mode & 0o077 != 0 {
        let path = path.display().to_string();
        let reason = format!("holds a secret and is open to others than its owner (mode {mode:o}): chmod 600 {path}");
        return Err(Error::configuration(path, reason));
    }
    read_text(file).map(Some).map_err(fail)
}

/// Reads a file that holds a secret; refused when anybody but its owner may read or write it.
pub fn read_private(path: &Path) -> Result<String, Error> {
    read_private_if_exists(path)?.ok_or_else(|| Error::storage("read", path, io::ErrorKind::NotFound.into()))
}

/// Reads a text file of at most 4 MiB.
pub fn read(path: &Path) -> Result<String, Error> {
    read_if_exists(path)?.ok_or_else(|| Error::storage("read", path, io::ErrorKind::NotFound.into()))
}

fn read_text(file: File) -> io::Result<String> {
    let mut text = String::new();
    file.take(MAX_LEN + 1).read_to_string(&mut text)?;
    if text.len() as u64 > MAX_LEN {
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, "larger than 4 MiB"));
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_private_file_is_its_owners_alone_and_leaves_nothing_beside_it() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("key.pem");
        write_private(&path, b"one").unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
        write_private(&path, b"two").unwrap();
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
        assert_eq!(read(&path).unwrap(), "two");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_private_directory_is_tightened() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a/b");
        owner_dir(&path).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        private_dir(&path).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o700);
    }

    #[test]
    fn a_missing_file_is_told_from_an_unreadable_one() {
        let dir = tempfile::tempdir().unwrap();
        assert!(read_if_exists(&dir.path().join("none")).unwrap().is_none());
        let text = read(&dir.path().join("none")).unwrap_err().to_string();
        assert!(text.starts_with("cannot read "), "{text}");
        assert!(read_if_exists(dir.path()).is_err());
    }

    #[test]
    fn a_failed_write_leaves_no_file_behind() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("taken")).unwrap();
        fs::write(dir.path().join("taken/x"), "").unwrap();
        assert!(write_private(&dir.path().join("taken"), b"x").is_err());
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }
}
