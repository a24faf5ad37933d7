//! The checks for people: by category, each with what was found, and what to do where it is not well.

use super::{Health, Outcome};
use serde_json::Value;

/// All of them, and how many are what.
pub fn text(health: &Health, pre: bool) -> String {
    let mut text = String::new();
    let mut category = "";
    for fact in &health.checks {
        if fact.category != category {
            let gap = if category.is_empty() { "" } else { "\n" };
            text.push_str(&format!("{gap}{}\n", fact.category.replace('-', " ").replace("pre flight", "pre-flight")));
            category = &fact.category;
        }
        let mark = match fact.result {
            Outcome::Ok => "ok",
            Outcome::Warning => "warning",
            Outcome::Error => "ERROR",
            Outcome::Skipped => "skipped",
        };
        // What is refused may be told on several lines.
        let detail = fact.detail.trim().replace('\n', "\n           ");
        let detail = if detail.is_empty() { String::new() } else { format!(": {detail}") };
        text.push_str(&format!("  {mark:7}  {}{detail}\n", fact.name));
        if let Some(hint) = &fact.hint {
            text.push_str(&format!("           hint: {hint}\n           {}\n", fact.docs));
        }
    }
    let count = |result: &str| health.counts.get(result).and_then(Value::as_u64).unwrap_or_default();
    let some = |number: u64, what: &str| {
        (number > 0).then(|| format!("{number} {what}{}", if number == 1 { "" } else { "s" }))
    };
    let parts: Vec<String> =
        [some(count("error"), "error"), some(count("warning"), "warning")].into_iter().flatten().collect();
    let (of, skipped) = (health.checks.len(), count("skipped"));
    let skipped = if skipped > 0 { format!(", {skipped} skipped") } else { String::new() };
    let what = if pre { "this machine" } else { "the mesh" };
    let verdict = match (health.ok, parts.is_empty()) {
        (true, true) => format!("{what} is well"),
        (true, false) => format!("{what} is well, with {}", parts.join(" and ")),
        (false, _) => format!("{what} is not well: {}", parts.join(" and ")),
    };
    text.push_str(&format!("\n{verdict} ({of} checks{skipped})\n"));
    text
}

#[cfg(test)]
mod tests {
    use super::super::Category;
    use super::*;

    #[test]
    fn what_is_not_well_comes_with_what_to_do_and_where_it_is_explained() {
        let mut way = Category::new("control-plane");
        way.good("the control plane answers", "https://127.0.0.1:15080 v0.1.0");
        way.skipped("one control plane leads", "it keeps its objects for itself");
        let mut sidecars = Category::new("sidecars");
        sidecars.good("no sidecar has refused anything", "");
        sidecars.warning("every sidecar reports", "silent: shop/a", "see sidecar.log");
        sidecars.error("every sidecar is connected", "1 without a control stream: shop/b", "is it there?");
        let all = Health::of([way.facts, sidecars.facts].concat());
        assert_eq!(
            text(&all, false),
            "control plane\n\
             \u{20} ok       the control plane answers: https://127.0.0.1:15080 v0.1.0\n\
             \u{20} skipped  one control plane leads: it keeps its objects for itself\n\
             \n\
             sidecars\n\
             \u{20} ok       no sidecar has refused anything\n\
             \u{20} warning  every sidecar reports: silent: shop/a\n\
             \u{20}          hint: see sidecar.log\n\
             \u{20}          docs/src/reference/checks.md#sidecars\n\
             \u{20} ERROR    every sidecar is connected: 1 without a control stream: shop/b\n\
             \u{20}          hint: is it there?\n\
             \u{20}          docs/src/reference/checks.md#sidecars\n\
             \n\
             the mesh is not well: 1 error and 1 warning (5 checks, 1 skipped)\n"
        );
        let well = Health::of(all.checks.into_iter().filter(|fact| fact.result == Outcome::Ok).collect());
        assert!(text(&well, false).ends_with("\nthe mesh is well (2 checks)\n"));
        assert!(text(&well, true).ends_with("\nthis machine is well (2 checks)\n"));
    }
}
