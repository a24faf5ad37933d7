//! The book's how-to pages, tried as a reader tries them: each page's YAML is taken from the page, its commands are run as they stand in
//! a mesh whose services the shop's programs play, and what the page says one sees is what callers and applications saw.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a panic is how a test says what is wrong")]

mod ab_tests;
mod authorization;
mod backup;
mod blue_green;
mod breakers;
mod canary;
mod egress;
mod fallback;
mod faults;
mod file_mode;
mod mirroring;
mod page;
mod plan;
mod policy;
mod prometheus;
mod rate_limits;
mod retries;
mod roles;
mod rollouts;
mod tap;
mod tracing;

/// Pages that show YAML have a test module of their name, which opens the page and uses up every block of it.
#[test]
fn every_page_with_an_example_has_a_test() {
    let mut untried = Vec::new();
    for name in page::names() {
        let module = name.replace('-', "_");
        let opened = format!("Page::open(\"{name}\"");
        let source = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("tests/howto/{module}.rs"));
        let source = std::fs::read_to_string(source).unwrap_or_default();
        if page::has_examples(&name) && !(source.contains(&opened) && source.contains("#[test]")) {
            untried.push(name);
        }
    }
    assert!(untried.is_empty(), "pages without a test in integration/tests/howto: {untried:?}");
}
