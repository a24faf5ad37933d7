//! A page of the book as its reader has it: its blocks in order, files written and commands run as they stand. What is left over at the
//! end was tried by nobody, and fails the test.

use std::collections::VecDeque;
use std::path::PathBuf;
use weft_integration::rig::{Mesh, Output};

/// What is fenced on a page.
struct Block {
    language: String,
    text: String,
}

/// A page that is being tried in a mesh.
pub struct Page<'m> {
    name: String,
    mesh: &'m Mesh,
    blocks: VecDeque<Block>,
}

fn folder() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../docs/src/howto")
}

fn text(name: &str) -> String {
    std::fs::read_to_string(folder().join(format!("{name}.md"))).unwrap_or_else(|e| panic!("{name}: {e}"))
}

/// All how-to pages.
pub fn names() -> Vec<String> {
    let pages = std::fs::read_dir(folder()).unwrap().map(|entry| entry.unwrap().path());
    let mut names: Vec<String> = pages.filter_map(|path| Some(path.file_stem()?.to_str()?.to_owned())).collect();
    names.sort();
    assert!(names.len() > 10, "the book has pages: {names:?}");
    names
}

/// Whether a page shows YAML.
pub fn has_examples(name: &str) -> bool {
    blocks(&text(name)).iter().any(|block| block.language == "yaml")
}

/// The first YAML of a page, for tests that need it once more.
pub fn example(name: &str) -> String {
    let yaml = blocks(&text(name)).into_iter().find(|block| block.language == "yaml");
    yaml.unwrap_or_else(|| panic!("{name}: no YAML")).text
}

fn blocks(page: &str) -> VecDeque<Block> {
    let mut blocks = VecDeque::new();
    let mut lines = page.lines();
    while let Some(line) = lines.next() {
        let Some(language) = line.strip_prefix("```") else { continue };
        let inside: Vec<&str> = lines.by_ref().take_while(|line| *line != "```").collect();
        blocks.push_back(Block { language: language.to_owned(), text: inside.join("\n") + "\n" });
    }
    blocks
}

impl<'m> Page<'m> {
    /// Opens a page at its beginning.
    #[track_caller]
    pub fn open(name: &str, mesh: &'m Mesh) -> Self {
        Self { name: name.to_owned(), mesh, blocks: blocks(&text(name)) }
    }

    #[track_caller]
    fn next(&mut self, language: &str) -> String {
        let block = self.blocks.pop_front().unwrap_or_else(|| panic!("{}: no block is left", self.name));
        assert_eq!(block.language, language, "{}: the next block is\n{}", self.name, block.text);
        block.text
    }

    /// Writes the next block, which is YAML, into the file that its first line names; gives its text.
    #[track_caller]
    pub fn file(&mut self) -> String {
        let text = self.next("yaml");
        let named = text.lines().next().and_then(|line| line.strip_prefix("# "));
        let name = named.filter(|name| name.ends_with(".yaml") && !name.contains(['/', ' ']));
        let name = name.unwrap_or_else(|| panic!("{}: the first line names no file:\n{text}", self.name));
        std::fs::write(self.mesh.folder().join(name), &text).unwrap();
        text
    }

    /// Runs the next block, which is commands; gives what they printed. All of them must succeed.
    #[track_caller]
    pub fn run(&mut self) -> String {
        self.run_after(&[])
    }

    /// The same, with words before the shell's own command line.
    #[track_caller]
    pub fn run_after(&mut self, before: &[&str]) -> String {
        let script = self.next("sh");
        let Output { code, out, err } = self.mesh.shell(before, &script);
        println!("--- {}\n{script}--- {code}\n{out}{err}", self.name);
        assert_eq!(code, 0, "{}: {script}", self.name);
        out
    }
}

impl Drop for Page<'_> {
    fn drop(&mut self) {
        if let Some(block) = self.blocks.front().filter(|_| !std::thread::panicking()) {
            panic!("{}: nothing tries this block:\n{}", self.name, block.text);
        }
    }
}
