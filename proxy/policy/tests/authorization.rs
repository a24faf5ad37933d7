//! Authorization: every hand-written case of `authorization/*.yaml`, and random policies against a reference that knows only the wire form.
//! The format of the files is `case`'s.
#![expect(clippy::unwrap_used, reason = "a panic in a test is the report, in its fixtures too")]

#[path = "authorization/ask.rs"]
mod ask;
#[path = "authorization/case.rs"]
mod case;
#[path = "authorization/random.rs"]
mod random;
#[path = "authorization/reference.rs"]
mod reference;

use ask::{Answer, compiled};
use std::collections::BTreeMap;
use std::path::Path;

#[test]
fn every_case_of_the_tables_is_decided_as_it_says() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/authorization");
    let (mut count, mut failed) = (0, Vec::new());
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_none_or(|e| e != "yaml") {
            continue;
        }
        let file = path.file_stem().unwrap().to_str().unwrap().to_owned();
        let read: case::File = serde_saphyr::from_str(&std::fs::read_to_string(&path).unwrap())
            .unwrap_or_else(|error| panic!("{file}: {error}"));
        for group in read.groups {
            assert!(group.istio.is_some() != group.weft.is_some(), "{file}/{}: whose meaning is it?", group.name);
            let wire = case::policies(&group).unwrap_or_else(|error| panic!("{file}/{}: {error}", group.name));
            let policies =
                compiled(&wire, group.port.unwrap_or(80)).unwrap_or_else(|e| panic!("{file}/{}: {e}", group.name));
            for case in &group.cases {
                count += 1;
                let asked =
                    case::ask(case).unwrap_or_else(|error| panic!("{file}/{}/{}: {error}", group.name, case.name));
                let answer = asked.put(&policies);
                if answer.verdict != case.expect || answer.audit != case.audit {
                    failed.push(format!("{file}/{}/{}: {answer:?}", group.name, case.name));
                }
                let naive = reference::decide(&wire, group.port.unwrap_or(80), &asked);
                if naive != answer {
                    failed.push(format!("{file}/{}/{}: the reference says {naive:?}", group.name, case.name));
                }
            }
        }
    }
    assert!(failed.is_empty(), "{failed:#?}");
    assert!(count >= 150, "{count} cases: a file was not found");
}

/// Policies that are made, and questions that each of them is asked.
const POLICIES: u64 = 3000;
const QUESTIONS: u64 = 50;

#[test]
fn random_policies_decide_as_the_reference_does() {
    let mut verdicts: BTreeMap<&str, u64> = BTreeMap::new();
    for seed in 0..POLICIES {
        let mut draw = random::Draw::new(seed);
        let wire = random::policies(&mut draw);
        let port = random::port(&mut draw);
        let policies = compiled(&wire, port).unwrap_or_else(|error| panic!("seed {seed}: {error}: {wire:?}"));
        for _ in 0..QUESTIONS {
            let asked = random::ask(&mut draw);
            let (answer, naive): (Answer, Answer) = (asked.put(&policies), reference::decide(&wire, port, &asked));
            assert_eq!(answer, naive, "seed {seed}, port {port}: {asked:?} of {wire:#?}");
            let kind = naive.verdict.split(' ').next().unwrap_or_default();
            let kind = ["allow", "deny", "not-allowed", "unrestricted"].into_iter().find(|k| *k == kind).unwrap();
            *verdicts.entry(kind).or_default() += 1;
            *verdicts.entry("audit").or_default() += u64::from(naive.audit.is_some());
        }
    }
    let all = POLICIES * QUESTIONS;
    for kind in ["allow", "deny", "not-allowed", "unrestricted", "audit"] {
        let share = verdicts.get(kind).copied().unwrap_or_default() * 100 / all;
        assert!(share >= 4, "{kind} is {share} % of {all}: {verdicts:?}");
    }
}
