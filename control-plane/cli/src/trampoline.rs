//! Starts a program so that it dies when its parent does: sets the parent-death signal on itself, then becomes the program.
//!
//! The signal survives `exec` and cannot be set from outside without unsafe code between fork and exec; going through this
//! command costs a few milliseconds and needs none. Nobody calls it by hand.

use crate::failure::Failure;
use rustix::process::{Pid, Signal, getppid, set_parent_process_death_signal};
use std::ffi::OsString;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};

/// Name of the hidden subcommand.
pub const NAME: &str = "__with-parent";

/// Arguments of the hidden subcommand.
#[derive(clap::Args, Debug)]
pub struct Args {
    /// What the program gets when its parent dies
    #[arg(long, default_value = "term")]
    signal: Death,
    /// Process id of the parent; when it is gone already, nothing is started
    #[arg(long)]
    parent: i32,
    /// The program and its arguments
    #[arg(last = true, required = true)]
    command: Vec<OsString>,
}

/// The signal with which a child follows its parent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Death {
    /// SIGTERM: it may end in order
    Term,
    /// SIGKILL: at once
    Kill,
}

impl Death {
    fn signal(self) -> Signal {
        match self {
            Self::Term => Signal::TERM,
            Self::Kill => Signal::KILL,
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Term => "term",
            Self::Kill => "kill",
        }
    }
}

/// Becomes the program. Exit codes as shells have them: 127 not found, 126 cannot be run.
pub fn exec(args: &Args) -> Result<u8, Failure> {
    set_parent_process_death_signal(Some(args.signal.signal()))
        .map_err(|error| Failure::not_well(format!("cannot tie a program's life to its parent's: {error}")))?;
    // It may have died between fork and the call above.
    if getppid().map(Pid::as_raw_nonzero).map(std::num::NonZero::get) != Some(args.parent) {
        return Err(Failure::not_well("the parent is gone"));
    }
    let Some((program, rest)) = args.command.split_first() else {
        return Err(Failure::usage("no program given"));
    };
    let error = std::process::Command::new(program).args(rest).exec();
    eprintln!("error: cannot start {}: {error}", program.display());
    Ok(if error.kind() == std::io::ErrorKind::NotFound { 127 } else { 126 })
}

/// A command that runs `program` tied to the life of this process. Spawn it from the main thread.
pub fn command(program: &Path, death: Death) -> Result<tokio::process::Command, Failure> {
    let mut command = tokio::process::Command::new(own_binary()?);
    command
        .arg(NAME)
        .arg("--signal")
        .arg(death.name())
        .arg("--parent")
        .arg(std::process::id().to_string())
        .arg("--")
        .arg(program);
    Ok(command)
}

/// Where this very program is.
pub fn own_binary() -> Result<PathBuf, Failure> {
    std::env::current_exe().map_err(|error| Failure::not_well(format!("cannot find the weft program itself: {error}")))
}

/// A program that is shipped beside `weft`: `$variable`, else beside this binary, else on the PATH.
pub fn sibling(name: &str, variable: &str) -> Result<PathBuf, Failure> {
    if let Some(path) = std::env::var_os(variable) {
        let path = PathBuf::from(path);
        return if path.is_file() {
            Ok(path)
        } else {
            Err(Failure::usage(format!("${variable} is {}, which is no file", path.display())))
        };
    }
    let beside = own_binary()?.with_file_name(name);
    if beside.is_file() {
        return Ok(beside);
    }
    std::env::var_os("PATH")
        .and_then(|path| std::env::split_paths(&path).map(|dir| dir.join(name)).find(|candidate| candidate.is_file()))
        .ok_or_else(|| {
            Failure::not_well(format!("cannot find {name}"))
                .hint(format!("put it beside {} or name it in ${variable}", beside.display()))
        })
}
