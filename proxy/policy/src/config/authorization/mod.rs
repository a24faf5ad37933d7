//! `weft.v1.Authorization`: checks policies and compiles them into [`crate::authorize::Policies`] of one port. What cannot be read is
//! refused by name, never narrowed; what the port decides once for all (`ports`, `destination.port`) is decided here.

#[cfg(test)]
mod tests;
mod values;

use weft_proto::v1;

use super::{Refusal, check};
use crate::authorize::{Policies, Policy, Rule, Subject, Test, Tests};
use values::list;

/// Callers, calls and conditions of a rule.
const PARTS: usize = 64;

pub(super) fn policies(wire: &[v1::Authorization], trust_domain: &str, port: u16) -> Result<Policies, Refusal> {
    check::bounded("authorization", wire, 1024)?;
    let (mut deny, mut allow, mut audit) = (Vec::new(), Vec::new(), Vec::new());
    for (i, wire) in wire.iter().enumerate() {
        let policy = policy(wire, (trust_domain, port)).map_err(|r| r.under(format_args!("authorization[{i}]")))?;
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

fn policy(wire: &v1::Authorization, on: (&str, u16)) -> Result<Policy, Refusal> {
    check::namespaced_name("name", &wire.name)?;
    check::bounded("rules", &wire.rules, 512)?;
    let mut rules = Vec::with_capacity(wire.rules.len());
    for (i, wire) in wire.rules.iter().enumerate() {
        rules.extend(rule(wire, i, on).map_err(|r| r.under(format_args!("rules[{i}]")))?);
    }
    Ok(Policy { name: wire.name.as_str().into(), rules })
}

/// `None`: it can never hold on this port.
fn rule(
    wire: &v1::AuthorizationRule,
    index: usize,
    (trust_domain, port): (&str, u16),
) -> Result<Option<Rule>, Refusal> {
    check::bounded("name", wire.name.as_bytes(), 253)?;
    let from = each("from", &wire.from, |w| source(w, trust_domain).map(Some))?;
    let to = each("to", &wire.to, |w| operation(w, port))?;
    let when = each("when", &wire.when, |w| condition(w, port))?;
    let possible = (wire.to.is_empty() || !to.is_empty()) && when.len() == wire.when.len();
    // Where one of them says nothing, the others need not be asked.
    let open = |parts: Vec<Tests>| if parts.iter().any(|tests| tests.is_empty()) { Vec::new() } else { parts };
    Ok(possible.then(|| Rule {
        name: wire.name.as_str().into(),
        index,
        from: open(from).into(),
        to: open(to).into(),
        when: when.into_iter().flatten().collect(),
    }))
}

/// Converts all; those that can never hold are left out.
fn each<W>(
    field: &str,
    wire: &[W],
    convert: impl Fn(&W) -> Result<Option<Tests>, Refusal>,
) -> Result<Vec<Tests>, Refusal> {
    check::bounded(field, wire, PARTS)?;
    let mut parts = Vec::with_capacity(wire.len());
    for (i, wire) in wire.iter().enumerate() {
        parts.extend(convert(wire).map_err(|r| r.under(format_args!("{field}[{i}]")))?);
    }
    Ok(parts)
}

/// The two tests of an attribute: one of the first list must match, none of the second may.
fn both<T>(
    tests: &mut Vec<Test>,
    [values, excluded]: [(&str, &[String]); 2],
    convert: impl Fn(&str) -> Result<T, Refusal>,
    subject: impl Fn(Box<[T]>) -> Subject,
) -> Result<(), Refusal> {
    for ((field, texts), wanted) in [(values, true), (excluded, false)] {
        if !texts.is_empty() {
            tests.push(Test { subject: subject(list(field, texts, &convert)?), wanted });
        }
    }
    Ok(())
}

fn source(wire: &v1::AuthorizationSource, trust_domain: &str) -> Result<Tests, Refusal> {
    let mut tests = Vec::new();
    let lists = [("identities", &wire.identities[..]), ("notIdentities", &wire.not_identities)];
    both(&mut tests, lists, values::identity, Subject::Identity)?;
    let lists = [("namespaces", &wire.namespaces[..]), ("notNamespaces", &wire.not_namespaces)];
    both(&mut tests, lists, values::namespace, Subject::Namespace)?;
    let lists = [("ipBlocks", &wire.ip_blocks[..]), ("notIpBlocks", &wire.not_ip_blocks)];
    both(&mut tests, lists, values::block, Subject::Address)?;
    let lists =
        [("requestPrincipals", &wire.request_principals[..]), ("notRequestPrincipals", &wire.not_request_principals)];
    both(&mut tests, lists, values::text, Subject::Principal)?;
    let account = |text: &str| values::account(text, trust_domain);
    let lists = [("serviceAccounts", &wire.service_accounts[..]), ("notServiceAccounts", &wire.not_service_accounts)];
    both(&mut tests, lists, account, Subject::Identity)?;
    Ok(tests.into())
}

fn operation(wire: &v1::AuthorizationOperation, port: u16) -> Result<Option<Tests>, Refusal> {
    let mut tests = Vec::new();
    both(&mut tests, [("hosts", &wire.hosts), ("notHosts", &wire.not_hosts)], values::host, Subject::Host)?;
    both(&mut tests, [("methods", &wire.methods), ("notMethods", &wire.not_methods)], values::method, Subject::Method)?;
    both(&mut tests, [("paths", &wire.paths), ("notPaths", &wire.not_paths)], values::path, Subject::Path)?;
    let mut meant = true;
    for (field, ports, wanted) in [("ports", &wire.ports, true), ("notPorts", &wire.not_ports, false)] {
        check::bounded(field, ports, values::MOST)?;
        for (i, number) in ports.iter().enumerate() {
            check::port(&format!("{field}[{i}]"), *number)?;
        }
        meant &= ports.is_empty() || ports.contains(&port.into()) == wanted;
    }
    Ok(meant.then(|| tests.into()))
}

/// Whether a text may stand in that list of a rule's `from` and `to` ("identities", "notPaths"), or among the values of a condition: `list`
/// is its key then.
///
/// # Errors
/// What is wrong with it; the field is empty.
pub fn authorization_value(list: &str, text: &str) -> Result<(), Refusal> {
    match list {
        "identities" | "notIdentities" | "source.principal" => values::identity(text).map(drop),
        "namespaces" | "notNamespaces" | "source.namespace" => values::namespace(text).map(drop),
        "serviceAccounts" | "notServiceAccounts" => values::account(text, "any").map(drop),
        "ipBlocks" | "notIpBlocks" | "source.ip" => values::block(text).map(drop),
        "hosts" | "notHosts" => values::host(text).map(drop),
        "methods" | "notMethods" => values::method(text).map(drop),
        "paths" | "notPaths" => values::path(text).map(drop),
        "destination.port" => values::port(text).map(drop),
        "connection.sni" => values::server_name(text).map(drop),
        _ => values::text(text).map(drop),
    }
}

/// Whether a text may be the key of a condition.
///
/// # Errors
/// What is wrong with it; the field is `key`.
pub fn authorization_key(key: &str) -> Result<(), Refusal> {
    let wire = v1::AuthorizationCondition { key: key.into(), not_values: vec!["443".into()], ..Default::default() };
    match condition(&wire, 1) {
        Err(refusal) if refusal.field == "key" => Err(refusal),
        _ => Ok(()),
    }
}

/// `None`: it never holds on this port.
fn condition(wire: &v1::AuthorizationCondition, port: u16) -> Result<Option<Tests>, Refusal> {
    if wire.values.is_empty() && wire.not_values.is_empty() {
        return Err(Refusal::new("values", "a condition has values or notValues"));
    }
    let mut tests = Vec::new();
    let lists = [("values", &wire.values[..]), ("notValues", &wire.not_values[..])];
    let claim = |path: &[&str]| path.iter().map(|name| (*name).into()).collect::<Box<[Box<str>]>>();
    match wire.key.as_str() {
        "destination.port" => {
            let mut meant = true;
            for ((field, texts), wanted) in lists.into_iter().zip([true, false]) {
                let ports = list(field, texts, values::port)?;
                meant &= ports.is_empty() || ports.contains(&port) == wanted;
            }
            return Ok(meant.then(Tests::default));
        }
        "source.ip" => both(&mut tests, lists, values::block, Subject::Address)?,
        "source.namespace" => both(&mut tests, lists, values::namespace, Subject::Namespace)?,
        "source.principal" => both(&mut tests, lists, values::identity, Subject::Identity)?,
        "connection.sni" => both(&mut tests, lists, values::server_name, Subject::ServerName)?,
        "request.auth.principal" => both(&mut tests, lists, values::text, Subject::Principal)?,
        "request.auth.audiences" => both(&mut tests, lists, values::text, |v| Subject::Claim(claim(&["aud"]), v))?,
        "request.auth.presenter" => both(&mut tests, lists, values::text, |v| Subject::Claim(claim(&["azp"]), v))?,
        key => match (key.strip_prefix("request.headers"), key.strip_prefix("request.auth.claims")) {
            (Some(rest), _) => {
                let name = values::header(rest).map_err(|reason| Refusal::new("key", reason))?;
                both(&mut tests, lists, values::text, |v| Subject::Header(name.clone(), v))?;
            }
            (_, Some(rest)) => {
                let path = values::claim(rest).map_err(|reason| Refusal::new("key", reason))?;
                both(&mut tests, lists, values::text, |v| Subject::Claim(path.clone(), v))?;
            }
            _ => {
                return Err(Refusal::new(
                    "key",
                    format!("{key:?} is no attribute that conditions know; {}", values::KEYS),
                ));
            }
        },
    }
    Ok(Some(tests.into()))
}
