//! What policies mean, said as plainly as it can be: over the wire form, with every reading of a request spelled out, and no thought of
//! speed. It shares no code with what it is compared to.

use super::ask::{Answer, Ask, TRUST_DOMAIN, What};
use serde_json::Value;
use std::net::IpAddr;
use weft_proto::v1;

/// Whether a rule denies (or watches), or allows: who wins where something cannot be known.
#[derive(Clone, Copy, PartialEq)]
enum Side {
    Against,
    For,
}

pub fn decide(policies: &[v1::Authorization], port: u16, ask: &Ask) -> Answer {
    let of = |action: v1::Action| policies.iter().filter(move |p| p.action == i32::from(action));
    let met = |policy: &v1::Authorization, side| {
        let at = policy.rules.iter().position(|rule| rule_holds(rule, port, ask, side))?;
        Some(format!("{}#{at}", policy.name))
    };
    let audit = of(v1::Action::Audit).find_map(|policy| met(policy, Side::Against));
    let verdict = if let Some(cause) = of(v1::Action::Deny).find_map(|policy| met(policy, Side::Against)) {
        format!("deny {cause}")
    } else if let Some(cause) = of(v1::Action::Allow).find_map(|policy| met(policy, Side::For)) {
        format!("allow {cause}")
    } else if let Some(policy) = of(v1::Action::Allow).next() {
        format!("not-allowed {}", policy.name)
    } else {
        "unrestricted".into()
    };
    Answer { verdict, audit }
}

fn rule_holds(rule: &v1::AuthorizationRule, port: u16, ask: &Ask, side: Side) -> bool {
    let to = |path: &str| rule.to.is_empty() || rule.to.iter().any(|o| operation_holds(o, port, path, ask, side));
    let paths = match &ask.what {
        What::Request { path, .. } => {
            let raw = path.split('?').next().unwrap_or_default();
            vec![raw.to_owned(), simplest(raw)]
        }
        _ => vec![String::new()],
    };
    (rule.from.is_empty() || rule.from.iter().any(|s| source_holds(s, ask, side)))
        && (if side == Side::Against { paths.iter().any(|p| to(p)) } else { paths.iter().all(|p| to(p)) })
        && rule.when.iter().all(|c| condition_holds(c, port, ask, side))
}

fn source_holds(s: &v1::AuthorizationSource, ask: &Ask, side: Side) -> bool {
    let accounts = |list: &[String]| -> Vec<String> {
        let id = |a: &String| a.split_once('/').map(|(n, a)| format!("spiffe://{TRUST_DOMAIN}/ns/{n}/sa/{a}"));
        list.iter().filter_map(id).collect()
    };
    let identity: Vec<String> = ask.identity.iter().cloned().collect();
    let namespace: Vec<String> = namespace(ask).into_iter().collect();
    texts(&s.identities, &s.not_identities, &identity)
        && texts(&s.namespaces, &s.not_namespaces, &namespace)
        && texts(&accounts(&s.service_accounts), &accounts(&s.not_service_accounts), &identity)
        && blocks(&s.ip_blocks, &s.not_ip_blocks, ask)
        && of_request(ask, side, &s.request_principals, &s.not_request_principals, |claims, _| {
            texts(&s.request_principals, &s.not_request_principals, &principal(claims))
        })
}

fn operation_holds(o: &v1::AuthorizationOperation, port: u16, path: &str, ask: &Ask, side: Side) -> bool {
    let port = u32::from(port);
    (o.ports.is_empty() || o.ports.contains(&port))
        && !o.not_ports.contains(&port)
        && of_request(ask, side, &o.hosts, &o.not_hosts, |_, headers| {
            let hosts = headers.iter().filter(|(n, v)| n == "host" && !v.is_empty()).map(|(_, v)| v.to_lowercase());
            let hosts: Vec<String> = hosts.collect();
            let is = |pattern: &String| hosts.iter().any(|host| host_matches(&pattern.to_lowercase(), host));
            (o.hosts.is_empty() || o.hosts.iter().any(is)) && !o.not_hosts.iter().any(is)
        })
        && of_request(ask, side, &o.methods, &o.not_methods, |_, _| match &ask.what {
            What::Request { method, .. } => texts(&o.methods, &o.not_methods, std::slice::from_ref(method)),
            _ => unreachable!(),
        })
        && of_request(ask, side, &o.paths, &o.not_paths, |_, _| {
            let is = |pattern: &String| match pattern.contains('{') {
                true => template_matches(pattern, path),
                false => matches(pattern, path),
            };
            (o.paths.is_empty() || o.paths.iter().any(is)) && !o.not_paths.iter().any(is)
        })
}

fn condition_holds(c: &v1::AuthorizationCondition, port: u16, ask: &Ask, side: Side) -> bool {
    let some = |text: Option<&String>| -> Vec<String> { text.into_iter().cloned().collect() };
    let claim = |path: &[&str]| {
        of_request(ask, side, &c.values, &c.not_values, |claims, _| {
            texts(&c.values, &c.not_values, &claim_texts(claims, path))
        })
    };
    match c.key.as_str() {
        "source.ip" => blocks(&c.values, &c.not_values, ask),
        "source.namespace" => texts(&c.values, &c.not_values, &some(namespace(ask).as_ref())),
        "source.principal" => texts(&c.values, &c.not_values, &some(ask.identity.as_ref())),
        "connection.sni" => {
            let lower = |list: &[String]| -> Vec<String> { list.iter().map(|name| name.to_lowercase()).collect() };
            texts(&lower(&c.values), &lower(&c.not_values), &some(ask.server_name.as_ref()))
        }
        "destination.port" => texts(&c.values, &c.not_values, &[port.to_string()]),
        "request.auth.principal" => of_request(ask, side, &c.values, &c.not_values, |claims, _| {
            texts(&c.values, &c.not_values, &principal(claims))
        }),
        "request.auth.audiences" => claim(&["aud"]),
        "request.auth.presenter" => claim(&["azp"]),
        key => match key.strip_prefix("request.headers[") {
            Some(rest) => of_request(ask, side, &c.values, &c.not_values, |_, headers| {
                let name = rest.trim_end_matches(']').to_lowercase();
                let lines: Vec<&str> = headers.iter().filter(|(n, _)| *n == name).map(|(_, v)| v.trim()).collect();
                let one_of = |list: &[String], line: &str| list.iter().any(|p| matches(p, line));
                let wanted = c.values.is_empty()
                    || match side {
                        Side::Against => lines.iter().any(|line| one_of(&c.values, line)),
                        Side::For => !lines.is_empty() && lines.iter().all(|line| one_of(&c.values, line)),
                    };
                let excluded = !c.not_values.is_empty()
                    && match side {
                        Side::Against => !lines.is_empty() && lines.iter().all(|line| one_of(&c.not_values, line)),
                        Side::For => lines.iter().any(|line| one_of(&c.not_values, line)),
                    };
                wanted && !excluded
            }),
            None => {
                let path = key.trim_start_matches("request.auth.claims[").trim_end_matches(']');
                claim(&path.split("][").collect::<Vec<_>>())
            }
        },
    }
}

/// What only a request has. Where nothing is asked it holds. Before the first request it counts for the caller; of opaque bytes against.
fn of_request(
    ask: &Ask,
    side: Side,
    values: &[String],
    excluded: &[String],
    holds: impl Fn(Option<&Value>, &[(String, String)]) -> bool,
) -> bool {
    if values.is_empty() && excluded.is_empty() {
        return true;
    }
    match &ask.what {
        What::Connection => side == Side::For,
        What::Opaque => side == Side::Against,
        What::Request { headers, claims, .. } => holds(claims.as_ref(), headers),
    }
}

/// One of the first must match one of the texts, none of the second any.
fn texts(values: &[String], excluded: &[String], texts: &[String]) -> bool {
    let is = |pattern: &String| texts.iter().any(|text| matches(pattern, text));
    (values.is_empty() || values.iter().any(is)) && !excluded.iter().any(is)
}

fn matches(pattern: &str, text: &str) -> bool {
    if pattern == "*" {
        !text.is_empty()
    } else if let Some(end) = pattern.strip_prefix('*') {
        text.ends_with(end)
    } else if let Some(start) = pattern.strip_suffix('*') {
        text.starts_with(start)
    } else {
        pattern == text
    }
}

/// Neither has upper case letters. No IPv6 literals here.
fn host_matches(pattern: &str, host: &str) -> bool {
    let (name, port) = host.split_once(':').map_or((host, None), |(n, p)| (n, Some(p)));
    let name = name.strip_suffix('.').unwrap_or(name);
    match pattern.split_once(':') {
        None => matches(pattern, name),
        Some((wanted, "*")) => matches(wanted, name) && port.is_some(),
        Some((wanted, number)) => {
            let same = |port: &str| !port.is_empty() && port.trim_start_matches('0') == number;
            matches(wanted, name) && port.is_some_and(same)
        }
    }
}

fn template_matches(pattern: &str, path: &str) -> bool {
    fn from(pattern: &[&str], parts: &[&str]) -> bool {
        match (pattern, parts) {
            ([], []) => true,
            (["{**}", rest @ ..], [_, ..]) => (1..=parts.len()).any(|n| from(rest, &parts[n..])),
            (["{*}", rest @ ..], [part, parts @ ..]) => !part.is_empty() && from(rest, parts),
            ([text, rest @ ..], [part, parts @ ..]) => text == part && from(rest, parts),
            _ => false,
        }
    }
    let split = |text: &'_ str| -> Vec<String> { text.split('/').map(str::to_owned).collect() };
    let (pattern, path) = (split(pattern), split(path));
    from(&pattern.iter().map(|s| &**s).collect::<Vec<_>>(), &path.iter().map(|s| &**s).collect::<Vec<_>>())
}

fn blocks(values: &[String], excluded: &[String], ask: &Ask) -> bool {
    let is = |block: &String| ask.address.is_some_and(|address| within(block, address));
    (values.is_empty() || values.iter().any(is)) && !excluded.iter().any(is)
}

fn within(block: &str, address: IpAddr) -> bool {
    fn bits(address: IpAddr) -> String {
        match address.to_canonical() {
            IpAddr::V4(v4) => v4.octets().iter().map(|o| format!("{o:08b}")).collect(),
            IpAddr::V6(v6) => v6.octets().iter().map(|o| format!("{o:08b}")).collect(),
        }
    }
    let (network, length) = block.split_once('/').map_or((block, None), |(n, l)| (n, Some(l)));
    let network: IpAddr = network.parse().unwrap();
    let mapped = network.is_ipv6() && network.to_canonical().is_ipv4();
    let all = if network.is_ipv6() { 128 } else { 32 };
    let length = length.map_or(all, |l| l.parse::<usize>().unwrap()) - if mapped { 96 } else { 0 };
    let (network, address) = (bits(network), bits(address));
    network.len() == address.len() && network[..length] == address[..length]
}

fn namespace(ask: &Ask) -> Option<String> {
    let parts: Vec<&str> = ask.identity.as_deref()?.split('/').collect();
    match parts[..] {
        ["spiffe:", "", TRUST_DOMAIN, "ns", namespace, "sa", _] => Some(namespace.to_owned()),
        _ => None,
    }
}

fn principal(claims: Option<&Value>) -> Vec<String> {
    let text = |name: &str| claims?[name].as_str().filter(|text| !text.is_empty());
    text("iss").zip(text("sub")).map(|(iss, sub)| format!("{iss}/{sub}")).into_iter().collect()
}

fn claim_texts(claims: Option<&Value>, path: &[&str]) -> Vec<String> {
    let Some(mut at) = claims else { return Vec::new() };
    for name in path {
        at = &at[*name];
    }
    let found: Vec<&Value> = at.as_array().map_or_else(|| vec![at], |list| list.iter().collect());
    let texts = found.into_iter().filter_map(|value| match value {
        Value::String(text) => Some(text.clone()),
        Value::Bool(_) | Value::Number(_) => Some(value.to_string()),
        _ => None,
    });
    match path {
        ["scope"] | ["permission"] => {
            texts.flat_map(|t| t.split(' ').map(str::to_owned).collect::<Vec<_>>()).filter(|t| !t.is_empty()).collect()
        }
        _ => texts.collect(),
    }
}

/// The path that an application may make of it: escapes undone once, backslashes as slashes, parameters dropped, dots and doubled slashes
/// gone.
fn simplest(path: &str) -> String {
    let mut text = String::new();
    let mut rest = path;
    while let Some(first) = rest.chars().next() {
        let escape = rest
            .strip_prefix('%')
            .and_then(|r| r.get(..2))
            .and_then(|hex| hex.chars().all(|c| c.is_ascii_hexdigit()).then(|| u8::from_str_radix(hex, 16).unwrap()));
        match escape {
            Some(byte) => {
                text.push(char::from(byte));
                rest = &rest[3..];
            }
            None => {
                text.push(first);
                rest = &rest[first.len_utf8()..];
            }
        }
    }
    let text = text.replace('\\', "/");
    let slash = text.ends_with('/');
    let mut kept: Vec<String> = Vec::new();
    for part in text.split('/') {
        let name = part.split(';').next().unwrap_or_default();
        if name == ".." {
            kept.pop();
        } else if !name.is_empty() && name != "." {
            kept.push(name.to_owned());
        }
    }
    let joined = format!("/{}", kept.join("/"));
    if slash && !kept.is_empty() { joined + "/" } else { joined }
}
