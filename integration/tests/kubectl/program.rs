//! One kubectl and one mesh.

use serde_json::Value;
use std::path::{Path, PathBuf};
use std::process::Command;
use weft_integration::rig::{Mesh, Output, Process, kubectls, run};

/// A kubectl that talks to a mesh.
pub struct Kubectl {
    program: PathBuf,
    /// The mesh; a test may restart its control plane.
    pub mesh: Mesh,
}

/// Runs the same with every kubectl, each against a mesh of its own.
pub fn with_each(test: impl Fn(&mut Kubectl)) {
    for program in kubectls() {
        let mut kubectl = Kubectl { program, mesh: Mesh::start() };
        let version = kubectl.ok(&["version", "--client"]);
        println!("{}", version.lines().next().unwrap_or_default());
        test(&mut kubectl);
    }
}

fn text(path: &Path) -> &str {
    path.to_str().expect("a UTF-8 path")
}

impl Kubectl {
    /// The newest, against a mesh of its own.
    pub fn newest() -> Self {
        Self { program: kubectls().pop().expect("there is a kubectl"), mesh: Mesh::start() }
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(&self.program);
        // Its cache of the discovery is the test's own.
        command.env_clear().env("HOME", self.mesh.folder()).env("PATH", "/usr/bin:/bin");
        command.env("KUBECONFIG", self.mesh.kubeconfig()).args(arguments);
        command
    }

    /// Runs it to its end.
    #[track_caller]
    pub fn run(&self, arguments: &[&str]) -> Output {
        run(&mut self.command(arguments))
    }

    /// What it printed; it must succeed.
    #[track_caller]
    pub fn ok(&self, arguments: &[&str]) -> String {
        let output = self.run(arguments);
        assert_eq!(output.code, 0, "{arguments:?}: {}\n{}", output.out, output.err);
        output.out
    }

    /// What it complained of; it must fail.
    #[track_caller]
    pub fn fails(&self, arguments: &[&str]) -> String {
        let output = self.run(arguments);
        assert_ne!(output.code, 0, "{arguments:?} succeeded: {}", output.out);
        output.err
    }

    /// With `-o json`.
    #[track_caller]
    pub fn json(&self, arguments: &[&str]) -> Value {
        let mut all = arguments.to_vec();
        all.extend(["-o", "json"]);
        serde_json::from_str(&self.ok(&all)).expect("kubectl -o json prints JSON")
    }

    /// Runs `verb -f FILE` with `yaml` in the file.
    #[track_caller]
    pub fn file(&self, verb: &[&str], yaml: &str) -> Output {
        let path = self.mesh.folder().join("objects.yaml");
        std::fs::write(&path, yaml).unwrap();
        let mut all = verb.to_vec();
        all.extend(["-f", text(&path)]);
        self.run(&all)
    }

    /// `apply -f`; it must succeed.
    #[track_caller]
    pub fn apply(&self, yaml: &str) -> String {
        let output = self.file(&["apply"], yaml);
        assert_eq!(output.code, 0, "{}\n{}", output.out, output.err);
        output.out
    }

    /// Starts it, for a watch.
    #[track_caller]
    pub fn start(&self, name: &str, arguments: &[&str]) -> Process {
        Process::start(self.mesh.folder(), name, &mut self.command(arguments))
    }
}
