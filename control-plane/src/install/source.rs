//! What stands where a manifest has a value: the value itself, or a mark for the expression that a chart has there.

use std::cell::RefCell;

use serde_json::{Value, json};

use super::Values;

/// How an expression is written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Expression {
    /// `{{ .Values.replicas }}`
    Plain(String),
    /// A text, alone or a part of one: quoted.
    Text(String),
    /// A list or an object.
    Tree(String),
    /// A line that stands for itself: a condition or a loop.
    Line(String),
    /// The lines of a block of text.
    Block(Vec<String>),
}

/// Marks consist of letters and digits alone: YAML has no quotes for them, and nothing else looks like one.
const MARK: &str = "weftchartexpression";

/// Values, or a chart's expressions for them.
pub(super) enum Source<'v> {
    Values { values: &'v Values, namespace: &'v str },
    Chart(RefCell<Vec<Expression>>),
}

impl<'v> Source<'v> {
    pub fn values(values: &'v Values, namespace: &'v str) -> Self {
        Self::Values { values, namespace }
    }

    pub fn chart() -> Self {
        Self::Chart(RefCell::default())
    }

    fn mark(&self, expression: Expression) -> String {
        let Self::Chart(all) = self else { return String::new() };
        let mut all = all.borrow_mut();
        let at = all.iter().position(|known| *known == expression).unwrap_or_else(|| {
            all.push(expression);
            all.len() - 1
        });
        format!("{MARK}{at:04}")
    }

    /// A number or a truth.
    pub fn plain(&self, key: &str) -> Value {
        match self {
            Self::Values { values, .. } => values.at(key).clone(),
            Self::Chart(_) => self.mark(Expression::Plain(format!(".Values.{key}"))).into(),
        }
    }

    /// A text, which may become a part of another.
    pub fn text(&self, key: &str) -> String {
        match self {
            Self::Values { values, .. } => values.at(key).as_str().unwrap_or_default().to_owned(),
            Self::Chart(_) => self.mark(Expression::Text(format!(".Values.{key}"))),
        }
    }

    /// A list or an object as it is.
    pub fn tree(&self, key: &str) -> Value {
        match self {
            Self::Values { values, .. } => values.at(key).clone(),
            Self::Chart(_) => self.mark(Expression::Tree(format!(".Values.{key}"))).into(),
        }
    }

    /// Names as references to objects of these names.
    pub fn references(&self, key: &str) -> Value {
        match self {
            Self::Values { values, .. } => {
                values.at(key).as_array().into_iter().flatten().map(|name| json!({ "name": name })).collect()
            }
            Self::Chart(_) => json!([
                self.mark(Expression::Line(format!("range .Values.{key}"))),
                { "name": self.mark(Expression::Text(".".into())) },
                self.mark(Expression::Line("end".into())),
            ]),
        }
    }

    /// A list, and the texts of another after it.
    pub fn and(&self, mut list: Vec<Value>, key: &str) -> Vec<Value> {
        match self {
            Self::Values { values, .. } => list.extend(values.at(key).as_array().into_iter().flatten().cloned()),
            Self::Chart(_) => list.extend([
                self.mark(Expression::Line(format!("range .Values.{key}"))).into(),
                self.mark(Expression::Text(".".into())).into(),
                self.mark(Expression::Line("end".into())).into(),
            ]),
        }
        list
    }

    /// A list, and others after it where a key says a text.
    pub fn and_if(&self, mut list: Vec<Value>, (key, text): (&str, &str), others: Vec<Value>) -> Vec<Value> {
        match self {
            Self::Values { values, .. } if values.at(key) == text => list.extend(others),
            Self::Values { .. } => {}
            Self::Chart(_) => {
                list.push(self.mark(Expression::Line(format!("if eq .Values.{key} {text:?}"))).into());
                list.extend(others);
                list.push(self.mark(Expression::Line("end".into())).into());
            }
        }
        list
    }

    /// The control plane's namespace, which may become a part of a text.
    pub fn namespace(&self) -> String {
        match self {
            Self::Values { namespace, .. } => (*namespace).to_owned(),
            Self::Chart(_) => self.mark(Expression::Text(".Release.Namespace".into())),
        }
    }

    /// A YAML document as text: these fields, and the tree of a key beside them.
    pub fn document(&self, fields: &[(&str, String)], key: &str) -> Value {
        match self {
            Self::Values { values, .. } => {
                let mut tree = values.at(key).clone();
                for (name, text) in fields {
                    tree[*name] = text.as_str().into();
                }
                serde_saphyr::to_string(&tree).unwrap_or_default().into()
            }
            Self::Chart(_) => {
                let mut lines: Vec<String> = fields
                    .iter()
                    .map(|(name, text)| format!("{name}: {{{{ {} | quote }}}}", self.formatted(text)))
                    .collect();
                lines.push(format!("{{{{- toYaml .Values.{key} | nindent INDENT }}}}"));
                self.mark(Expression::Block(lines)).into()
            }
        }
    }

    /// A text with marks in it, as an expression of the chart.
    fn formatted(&self, text: &str) -> String {
        let (mut format, mut of) = (String::new(), Vec::new());
        let mut rest = text;
        while let Some((before, expression, after)) = self.first(rest) {
            format.push_str(&before.replace('%', "%%"));
            format.push_str("%s");
            of.push(match expression {
                Expression::Text(text) | Expression::Plain(text) => text,
                _ => String::new(),
            });
            rest = after;
        }
        format.push_str(&rest.replace('%', "%%"));
        match (format.as_str(), of.as_slice()) {
            ("%s", [only]) => only.clone(),
            _ => format!("printf {format:?} {}", of.join(" ")),
        }
    }

    /// The first mark of a text: what stands before it, what it stands for, what stands after it.
    fn first<'t>(&self, text: &'t str) -> Option<(&'t str, Expression, &'t str)> {
        let Self::Chart(all) = self else { return None };
        let at = text.find(MARK)?;
        let (number, after) = text.get(at + MARK.len()..)?.split_at_checked(4)?;
        let expression = all.borrow().get(number.parse::<usize>().ok()?)?.clone();
        Some((&text[..at], expression, after))
    }

    /// Lines of YAML with the chart's expressions where the marks are.
    pub fn written(&self, yaml: &str) -> String {
        let mut written = String::new();
        for line in yaml.lines() {
            written.push_str(&self.line(line));
            written.push('\n');
        }
        written
    }

    fn line(&self, line: &str) -> String {
        let Some((before, expression, _)) = self.first(line) else { return line.to_owned() };
        let indent = line.len() - line.trim_start().len();
        let space = " ".repeat(indent);
        match expression {
            Expression::Line(text) => format!("{space}{{{{- {text} }}}}"),
            Expression::Plain(text) => format!("{before}{{{{ {text} }}}}"),
            Expression::Tree(text) => {
                format!("{} {{{{- toYaml {text} | nindent {} }}}}", before.trim_end(), indent + 2)
            }
            Expression::Block(lines) => {
                let inner = " ".repeat(indent + 2);
                let lines =
                    lines.iter().map(|line| format!("\n{inner}{}", line.replace("INDENT", &(indent + 2).to_string())));
                format!("{} |{}", before.trim_end(), lines.collect::<String>())
            }
            Expression::Text(_) => {
                let mut start =
                    [": ", "- "].iter().filter_map(|end| Some(before.find(end)? + 2)).min().unwrap_or(indent);
                // An entry of a list that is an object.
                if before[start..].contains(": ") && before[..start].ends_with("- ") {
                    start += before[start..].find(": ").unwrap_or_default() + 2;
                }
                let text = line[start..].trim_matches(['"', '\'']);
                format!("{}{{{{ {} | quote }}}}", &line[..start], self.formatted(text))
            }
        }
    }
}
