//! `weft.v1.Authorization`: checks policies and compiles them into [`crate::authorize::Policies`]. What cannot be read
//! is refused, never narrowed.

use weft_proto::v1;

use super::check;
use super::{Refusal, rules};
use crate::authorize::{Pattern, Policies, Policy, Rule, is_normal};

pub(super) fn policies(wire: &[v1::Authorization], trust_domain: &str) -> Result<Policies, Refusal> {
    check::bounded("authorization", wire, 1024)?;
    let (mut deny, mut allow, mut audit) = (Vec::new(), Vec::new(), Vec::new());
    for (i, wire) in wire.iter().enumerate() {
        let policy = policy(wire).map_err(|r| r.under(format_args!("authorization[{i}]")))?;
        match v1::Action::try_from(wire.action) {
            Ok(v1::Action::Allow) => allow.push(policy),
            Ok(v1::Action::Deny) => deny.push(policy),
            Ok(v1::Action::Audit) => audit.push(policy),
            Err(_) => {
                let field = format!("authorization[{i}].action");
                return Err(Refusal::new(field, format!("{} is no action", wire.action)));
            }
        }
    }
    Ok(Policies::new(trust_domain.into(), deny, allow, audit))
}

fn policy(wire: &v1::Authorization) -> Result<Policy, Refusal> {
    check::namespaced_name("name", &wire.name)?;
    check::bounded("rules", &wire.rules, 512)?;
    let rules = wire
        .rules
        .iter()
        .enumerate()
        .map(|(i, r)| rule(r).map_err(|refusal| refusal.under(format_args!("rules[{i}]"))))
        .collect::<Result<_, _>>()?;
    Ok(Policy { name: wire.name.as_str().into(), rules })
}

fn rule(wire: &v1::AuthorizationRule) -> Result<Rule, Refusal> {
    check::bounded("name", wire.name.as_bytes(), 253)?;
    Ok(Rule {
        name: wire.name.as_str().into(),
        identities: list("identities", &wire.identities, identity)?,
        namespaces: list("namespaces", &wire.namespaces, namespace)?,
        methods: list("methods", &wire.methods, |text| rules::method("", text).map(|m| m.as_str().into()))?,
        paths: list("paths", &wire.paths, path)?,
    })
}

fn list<T>(field: &str, wire: &[String], convert: impl Fn(&str) -> Result<T, Refusal>) -> Result<Vec<T>, Refusal> {
    check::bounded(field, wire, 512)?;
    wire.iter().enumerate().map(|(i, text)| convert(text).map_err(|r| r.under(format_args!("{field}[{i}]")))).collect()
}

fn identity(text: &str) -> Result<Pattern, Refusal> {
    match text.strip_suffix('*') {
        None => check::identity("", text).map(|()| Pattern::Exact(text.into())),
        Some("") => Ok(Pattern::Prefix("".into())),
        Some(prefix) if prefix.starts_with("spiffe://") && !prefix.contains('*') && prefix.len() <= 2048 => {
            Ok(Pattern::Prefix(prefix.into()))
        }
        Some(_) => Err(Refusal::new("", format!("{text:?} is neither a SPIFFE id nor the beginning of one and '*'"))),
    }
}

fn namespace(text: &str) -> Result<Box<str>, Refusal> {
    if check::is_label(text) {
        return Ok(text.into());
    }
    Err(Refusal::new("", format!("{text:?} is no namespace")))
}

fn path(text: &str) -> Result<Pattern, Refusal> {
    let literal = text.strip_suffix('*').unwrap_or(text);
    let begins = literal.starts_with('/') || text == "*";
    if !begins || literal.contains(['*', '?', '#']) || literal.len() > 1024 {
        return Err(Refusal::new("", format!("{text:?} is no path that begins with '/', with '*' at most at its end")));
    }
    // A pattern with a second reading would be compared with the first only.
    if !is_normal(literal) {
        return Err(Refusal::new(
            "",
            format!("{text:?} has dot segments, doubled slashes, backslashes or percent-encoding"),
        ));
    }
    Ok(if literal.len() == text.len() { Pattern::Exact(text.into()) } else { Pattern::Prefix(literal.into()) })
}
