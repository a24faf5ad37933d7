//! `weft NAME …` where weft has no such command: the program `weft-NAME` of the PATH, as kubectl and git have it.

use crate::failure::Failure;
use std::ffi::{OsStr, OsString};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;

/// Becomes the plugin; returns only when there is none, or it cannot be run.
pub fn exec(words: &[OsString]) -> Result<u8, Failure> {
    let [name, arguments @ ..] = words else { return Err(Failure::usage("no command is given")) };
    let shown = name.to_string_lossy();
    let path = std::env::var_os("PATH").unwrap_or_default();
    let Some(program) = find(name, &path) else {
        return Err(Failure::usage(format!(
            "weft has no command '{shown}', and there is no program weft-{shown} on the PATH"
        ))
        .hint("all commands: weft --help"));
    };
    let error = std::process::Command::new(&program).args(arguments).exec();
    Err(Failure::not_well(format!("cannot run {}: {error}", program.display())))
}

/// The first program of that name; a name that leads elsewhere is none.
fn find(name: &OsStr, path: &OsStr) -> Option<PathBuf> {
    let name =
        name.to_str().filter(|name| !name.is_empty() && !name.starts_with('-') && !name.contains(['/', '\0']))?;
    let is_program = |file: &PathBuf| {
        std::fs::metadata(file).is_ok_and(|about| about.is_file() && about.permissions().mode() & 0o111 != 0)
    };
    std::env::split_paths(path)
        .filter(|folder| folder.is_absolute())
        .map(|folder| folder.join(format!("weft-{name}")))
        .find(is_program)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plugin_is_an_executable_of_an_absolute_folder() {
        let folder = tempfile::tempdir().unwrap();
        let path = OsString::from(folder.path());
        let program = folder.path().join("weft-hello");
        std::fs::write(&program, "#!/bin/sh\n").unwrap();
        assert_eq!(find(OsStr::new("hello"), &path), None, "it cannot be executed");
        std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).unwrap();
        assert_eq!(find(OsStr::new("hello"), &path), Some(program));
        for name in ["../hello", "", "-h", "other"] {
            assert_eq!(find(OsStr::new(name), &path), None, "{name}");
        }
        assert_eq!(find(OsStr::new("hello"), OsStr::new(".:relative")), None);
    }
}
