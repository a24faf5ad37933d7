//! Changes to a YAML document in its own text: what is added, replaced or taken away changes its lines, and every other line, comments
//! included, stays as somebody wrote it.
//!
//! It understands block style, as people and `kubectl` write it. What it does not understand it writes anew, as small a part as can be;
//! whether the outcome says what it should is checked by parsing it, so that a misread text can cost its comments and nothing else.

use serde_json::{Map, Value};

/// The text with `new` in place of `old`, which it said before. The flag: whether lines were written anew that may have had comments.
pub fn edit(text: &str, old: &Value, new: &Value) -> Result<(String, bool), String> {
    let lines: Vec<&str> = text.lines().collect();
    let mut page = Page { rewritten: false };
    if let (Value::Object(old), Value::Object(changed)) = (old, new) {
        let mut out = Vec::new();
        if page.mapping(&lines, 0, old, changed, &mut out).is_some() {
            let mut edited = out.join("\n");
            edited.push('\n');
            if serde_saphyr::from_str::<Value>(&edited).is_ok_and(|said| said == *new) {
                return Ok((edited, page.rewritten));
            }
        }
    }
    let whole = serde_saphyr::to_string(new).map_err(|e| e.to_string())?;
    Ok((if whole.ends_with('\n') { whole } else { whole + "\n" }, text.contains('#')))
}

struct Page {
    rewritten: bool,
}

/// A line that says something: its indentation and the rest. `None` for blank lines and comments.
fn said(line: &str) -> Option<(usize, &str)> {
    let rest = line.trim_start_matches(' ');
    let says = !rest.is_empty() && !rest.starts_with('#');
    says.then(|| (line.len() - rest.len(), rest.trim_end()))
}

fn is_item(rest: &str) -> bool {
    rest == "-" || rest.starts_with("- ")
}

/// The key of a line `key: …`, and what follows the colon.
fn key(rest: &str) -> Option<(String, &str)> {
    let (key, rest) = match rest.chars().next()? {
        quote @ ('"' | '\'') => {
            let end = rest.get(1..)?.find(quote)? + 1;
            (rest.get(1..end)?, rest.get(end + 1..)?.trim_start().strip_prefix(':')?)
        }
        _ => match rest.split_once(": ") {
            Some(parts) => parts,
            None => (rest.strip_suffix(':')?, ""),
        },
    };
    Some((key.trim_end().to_owned(), rest.trim_start()))
}

/// Where the parts of a block begin that `begins` knows, each up to the next.
fn parts(lines: &[&str], begins: impl Fn(&str) -> bool) -> Vec<std::ops::Range<usize>> {
    let starts: Vec<usize> = (0..lines.len()).filter(|i| begins(lines[*i])).collect();
    let ends = starts.iter().skip(1).copied().chain([lines.len()]);
    starts.iter().copied().zip(ends).map(|(start, end)| start..end).collect()
}

impl Page {
    /// A block mapping whose keys stand at `indent`.
    fn mapping(
        &mut self,
        lines: &[&str],
        indent: usize,
        old: &Map<String, Value>,
        new: &Map<String, Value>,
        out: &mut Vec<String>,
    ) -> Option<()> {
        let entries = parts(lines, |line| said(line).is_some_and(|(at, rest)| at == indent && !is_item(rest)));
        let first = entries.first()?.start;
        // Something other than keys of this mapping came before them.
        if lines.iter().take(first).any(|line| said(line).is_some()) {
            return None;
        }
        out.extend(lines.iter().take(first).map(ToString::to_string));
        for entry in entries {
            let lines = &lines[entry];
            let (_, rest) = said(lines[0])?;
            let (key, value) = key(rest)?;
            let before = old.get(&key)?;
            match new.get(&key) {
                Some(after) if after == before => out.extend(lines.iter().map(ToString::to_string)),
                Some(after) => {
                    let mut changed = Vec::new();
                    let nested = value.is_empty() || value.starts_with('#');
                    if nested && self.nested(lines, before, after, &mut changed).is_some() {
                        out.extend(changed);
                    } else {
                        let kept = trailing(lines).count();
                        self.rewritten |= lines.iter().take(lines.len() - kept).any(|line| line.contains('#'));
                        out.extend(written(indent, &key, after)?);
                        out.extend(trailing(lines));
                    }
                }
                None => out.extend(trailing(lines)),
            }
        }
        // Before the comments and blank lines at the end, which belong to what comes next.
        let mut tail = Vec::new();
        while out.last().is_some_and(|line| said(line).is_none()) {
            tail.extend(out.pop());
        }
        for (key, value) in new.iter().filter(|(key, _)| !old.contains_key(*key)) {
            out.extend(written(indent, key, value)?);
        }
        out.extend(tail.into_iter().rev());
        Some(())
    }

    /// What stands under a key, whose line is the first.
    fn nested(&mut self, lines: &[&str], old: &Value, new: &Value, out: &mut Vec<String>) -> Option<()> {
        let (head, block) = lines.split_first()?;
        let (indent, rest) = block.iter().find_map(|line| said(line))?;
        out.push((*head).to_owned());
        match (old, new) {
            (Value::Object(old), Value::Object(new)) if !is_item(rest) && !new.is_empty() => {
                self.mapping(block, indent, old, new, out)
            }
            (Value::Array(old), Value::Array(new)) if is_item(rest) && !new.is_empty() => {
                self.sequence(block, indent, old, new, out)
            }
            _ => None,
        }
    }

    /// A block sequence whose dashes stand at `indent`. Items are the same that have the same name, or else the same value.
    fn sequence(
        &mut self,
        lines: &[&str],
        indent: usize,
        old: &[Value],
        new: &[Value],
        out: &mut Vec<String>,
    ) -> Option<()> {
        let items = parts(lines, |line| said(line).is_some_and(|(at, rest)| at == indent && is_item(rest)));
        let first = items.first()?.start;
        if items.len() != old.len() || lines.iter().take(first).any(|line| said(line).is_some()) {
            return None;
        }
        let mut before: Vec<String> = lines.iter().take(first).map(ToString::to_string).collect();
        for value in new {
            let name = value.get("name").and_then(Value::as_str);
            let same = old
                .iter()
                .position(|o| o == value || (name.is_some() && o.get("name").and_then(Value::as_str) == name));
            let Some((item, was)) = same.and_then(|i| Some((&lines[items.get(i)?.clone()], old.get(i)?))) else {
                out.extend(indented(indent, &std::slice::from_ref(value))?);
                continue;
            };
            out.append(&mut before);
            if was == value {
                out.extend(item.iter().map(ToString::to_string));
                continue;
            }
            let (Value::Object(was), Value::Object(value)) = (was, value) else { return None };
            // The item as if it were a mapping by itself: a space for its dash.
            let head = item.first()?;
            let spaced = format!("{} {}", head.get(..indent)?, head.get(indent + 1..)?);
            let (inner, _) = said(&spaced)?;
            let virtual_lines: Vec<&str> =
                std::iter::once(spaced.as_str()).chain(item.iter().skip(1).copied()).collect();
            let at = out.len();
            self.mapping(&virtual_lines, inner, was, value, out)?;
            out.get_mut(at)?.replace_range(indent..=indent, "-");
        }
        out.append(&mut before);
        Some(())
    }
}

/// Comments and blank lines after an entry: they speak of the next one.
fn trailing<'a>(lines: &'a [&'a str]) -> impl Iterator<Item = String> + 'a {
    let spoken = lines.iter().rposition(|line| said(line).is_some()).map_or(0, |last| last + 1);
    lines.iter().skip(spoken).map(ToString::to_string)
}

fn written(indent: usize, key: &str, value: &Value) -> Option<Vec<String>> {
    indented(indent, &Map::from_iter([(key.to_owned(), value.clone())]))
}

fn indented(indent: usize, value: &impl serde::Serialize) -> Option<Vec<String>> {
    let text = serde_saphyr::to_string(value).ok()?;
    Some(
        text.lines()
            .map(|line| if line.is_empty() { String::new() } else { format!("{:indent$}{line}", "") })
            .collect(),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    const TEXT: &str = "\
# The cart of the shop.
apiVersion: apps/v1
kind: Deployment   # not a StatefulSet
metadata:
  name: cart
spec:
  template:
    metadata:
      labels: {app: cart}  # selected by the Service
      annotations:
        # who to call
        team: \"shop\"
    spec:
      # Before the application.
      initContainers:
      - name: migrate   # once
        image: shop/migrate:1
      containers:
      # The application.
      - image: shop/cart:1
        name: web
        args:
        - --port
        - \"8080\"   # a string
        readinessProbe:
          periodSeconds: 3   # often
          httpGet: {path: /, port: 8080}
      # The end of the containers.

  # The end of the template.
  replicas: 2
";

    fn changed(change: impl Fn(&mut Value)) -> (String, bool) {
        let old: Value = serde_saphyr::from_str(TEXT).unwrap();
        let mut new = old.clone();
        change(&mut new);
        let (edited, lost) = edit(TEXT, &old, &new).unwrap();
        assert_eq!(serde_saphyr::from_str::<Value>(&edited).unwrap(), new, "{edited}");
        (edited, lost)
    }

    #[test]
    fn what_is_added_stands_in_its_place_and_every_comment_where_it_was() {
        let (edited, lost) = changed(|object| {
            let template = &mut object["spec"]["template"];
            template["metadata"]["annotations"]["weft.mesh/injected"] = "{\"version\":\"1: # x\"}".into();
            template["spec"]["initContainers"]
                .as_array_mut()
                .unwrap()
                .insert(0, json!({"name": "weft-proxy", "args": ["--a", "[::]:1"]}));
            template["spec"]["volumes"] = json!([{"name": "weft-state", "emptyDir": {}}]);
            template["spec"]["containers"][0]["readinessProbe"]["httpGet"] =
                json!({"path": "/app-probe", "port": 15021});
        });
        assert!(!lost, "{edited}");
        for comment in [
            "# The cart of the shop.",
            "# not a StatefulSet",
            "# selected by the Service",
            "# who to call",
            "# Before the application.",
            "# once",
            "# The application.",
            "# a string",
            "# often",
            "# The end of the containers.",
            "# The end of the template.",
        ] {
            assert_eq!(edited.matches(comment).count(), 1, "{comment}\n{edited}");
        }
        // All of what was there is there in its order, but for the probe.
        let mut rest = edited.lines();
        for line in TEXT.lines().filter(|line| !line.contains("httpGet")) {
            assert!(rest.any(|have| have == line), "{line}\n{edited}");
        }
    }

    #[test]
    fn what_is_taken_away_takes_its_lines_and_a_list_that_is_left_empty_is_written_so() {
        let (edited, _) = changed(|object| {
            object["spec"]["template"]["spec"].as_object_mut().unwrap().remove("initContainers");
            object["metadata"]["name"] = "basket".into();
            object["spec"]["template"]["spec"]["containers"][0]["args"] = json!([]);
        });
        assert!(!edited.contains("migrate") && edited.contains("# The application."), "{edited}");
    }

    #[test]
    fn what_is_not_understood_is_written_anew_and_still_says_what_it_should() {
        for text in [
            "{apiVersion: v1, kind: Pod, # flow\n spec: {a: 1}}\n",
            "a: &x {b: 1}  # anchored\nc: *x\nspec: {a: 1}\n",
            "? kind\n: Pod\nspec:\n  a: 1\n",
        ] {
            let old: Value = serde_saphyr::from_str(text).unwrap();
            let mut new = old.clone();
            new["spec"]["b"] = 2.into();
            let (edited, _) = edit(text, &old, &new).unwrap();
            assert_eq!(serde_saphyr::from_str::<Value>(&edited).unwrap(), new, "{edited}");
        }
    }
}
