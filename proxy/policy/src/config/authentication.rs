//! `weft.v1.RequestAuthentication`: which tokens the requests of a port may bring, and where they stand. What the keys are worth, and
//! whether a token is good, is decided where cryptography is; here a set of keys is a bounded text.

use std::sync::Arc;
use std::time::Duration;

use http::HeaderName;
use weft_proto::v1;

use super::Refusal;
use super::check;

/// What tokens the requests of a port may bring.
#[derive(Clone, Debug)]
pub struct Authentication {
    /// `namespace/name` of the first object that demands a token; `None`: a request without one is admitted.
    pub required_by: Option<Arc<str>>,
    /// The rules of all objects, in order.
    pub rules: Vec<TokenRule>,
}

/// JSON Web Tokens of one issuer.
#[derive(Clone, Debug)]
pub struct TokenRule {
    /// `namespace/name` of the object.
    pub policy: Arc<str>,
    /// Value of `iss`.
    pub issuer: Box<str>,
    /// One of them must be in `aud`; none: any.
    pub audiences: Vec<Box<str>>,
    /// JSON Web Key Set; empty: not known.
    pub jwks: Arc<str>,
    /// Where the token stands, at least one.
    pub places: Vec<TokenPlace>,
    /// Whether the application gets the token.
    pub forward: bool,
    /// Claims that the application gets as headers.
    pub outputs: Vec<ClaimHeader>,
    /// Difference of clocks that is allowed for; `None`: the default.
    pub skew: Option<Duration>,
}

/// Where a token stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TokenPlace {
    /// In a header, after a prefix that is compared in any case.
    Header(HeaderName, Box<str>),
    /// In a query parameter.
    Parameter(Box<str>),
    /// In a cookie.
    Cookie(Box<str>),
}

/// A claim that the application gets as a header.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClaimHeader {
    /// The header.
    pub header: HeaderName,
    /// Names on the way to the claim.
    pub claim: Box<[Box<str>]>,
}

/// `None`: tokens are not looked at.
pub(super) fn authentication(wire: &[v1::RequestAuthentication]) -> Result<Option<Authentication>, Refusal> {
    check::bounded("requestAuthentication", wire, 64)?;
    let mut rules = Vec::new();
    for (i, object) in wire.iter().enumerate() {
        let under = |refusal: Refusal| refusal.under(format_args!("requestAuthentication[{i}]"));
        check::namespaced_name("name", &object.name).map_err(under)?;
        check::bounded("rules", &object.rules, 32).map_err(under)?;
        for (j, wire) in object.rules.iter().enumerate() {
            let read = rule(wire, &object.name).map_err(|r| under(r.under(format_args!("rules[{j}]"))))?;
            rules.push(read);
        }
    }
    let required_by = wire.iter().find(|object| !object.optional).map(|object| object.name.as_str().into());
    Ok((!wire.is_empty()).then_some(Authentication { required_by, rules }))
}

fn rule(wire: &v1::TokenRule, policy: &str) -> Result<TokenRule, Refusal> {
    if wire.issuer.is_empty() {
        return Err(Refusal::new("issuer", "an issuer is required: a token is believed because of who issued it"));
    }
    check::bounded("issuer", wire.issuer.as_bytes(), 2048)?;
    check::bounded("audiences", &wire.audiences, 64)?;
    check::bounded("jwks", wire.jwks.as_bytes(), 1 << 20)?;
    for (i, audience) in wire.audiences.iter().enumerate() {
        if audience.is_empty() || audience.len() > 2048 {
            return Err(Refusal::new(format!("audiences[{i}]"), "an audience has 1 to 2048 bytes"));
        }
    }
    check::bounded("outputClaimToHeaders", &wire.output_claim_to_headers, 32)?;
    let outputs = wire.output_claim_to_headers.iter().enumerate();
    let outputs = outputs.map(|(i, o)| output(o).map_err(|r| r.under(format_args!("outputClaimToHeaders[{i}]"))));
    let longest = Duration::from_secs(3600);
    let skew = check::span("clockSkew", wire.clock_skew.as_ref())?;
    let skew = match skew {
        check::Span::Absent => None,
        check::Span::Zero => Some(Duration::ZERO),
        check::Span::Of(skew) if skew <= longest => Some(skew),
        check::Span::Of(skew) => return Err(Refusal::new("clockSkew", format!("{skew:?} is longer than {longest:?}"))),
    };
    Ok(TokenRule {
        policy: policy.into(),
        issuer: wire.issuer.as_str().into(),
        audiences: wire.audiences.iter().map(|a| a.as_str().into()).collect(),
        jwks: wire.jwks.as_str().into(),
        places: places(wire)?,
        forward: wire.forward_original_token,
        outputs: outputs.collect::<Result<_, _>>()?,
        skew,
    })
}

fn places(wire: &v1::TokenRule) -> Result<Vec<TokenPlace>, Refusal> {
    let mut places = Vec::new();
    check::bounded("fromHeaders", &wire.from_headers, 16)?;
    for (i, header) in wire.from_headers.iter().enumerate() {
        let field = format!("fromHeaders[{i}]");
        let name = check::header_name(&format!("{field}.name"), &header.name)?;
        check::bounded(&format!("{field}.prefix"), header.prefix.as_bytes(), 256)?;
        places.push(TokenPlace::Header(name, header.prefix.as_str().into()));
    }
    let named = [("fromParams", &wire.from_params), ("fromCookies", &wire.from_cookies)];
    for (field, names) in named {
        check::bounded(field, names, 16)?;
        for (i, name) in names.iter().enumerate() {
            let field_name = format!("{field}[{i}]");
            // RFC 6265 §4.1.1: a cookie's name is a token; so is the name of any sensible parameter.
            check::header_name(&field_name, name)
                .map_err(|_| Refusal::new(&field_name, format!("{name:?} is no name of a parameter or cookie")))?;
            places.push(match field {
                "fromParams" => TokenPlace::Parameter(name.as_str().into()),
                _ => TokenPlace::Cookie(name.as_str().into()),
            });
        }
    }
    if places.is_empty() {
        places.push(TokenPlace::Header(http::header::AUTHORIZATION, "Bearer ".into()));
    }
    Ok(places)
}

fn output(wire: &v1::ClaimHeader) -> Result<ClaimHeader, Refusal> {
    let header = check::header_name("header", &wire.header)?;
    let name = header.as_str();
    // What the mesh, the codec or the route says must not come out of a token.
    let kept = ["host", "connection", "content-length", "transfer-encoding", "upgrade", "te", "trailer", "expect"];
    if kept.contains(&name) || name.starts_with("weft-") {
        return Err(Refusal::new("header", format!("{name} belongs to the transport or to the mesh")));
    }
    let claim: Box<[Box<str>]> = wire.claim.split('.').map(Into::into).collect();
    if wire.claim.len() > 1024 || claim.len() > 8 || claim.iter().any(|part| part.is_empty()) {
        return Err(Refusal::new("claim", format!("{:?} is no claim, as in sub or realm_access.roles", wire.claim)));
    }
    Ok(ClaimHeader { header, claim })
}

#[cfg(test)]
mod tests {
    use super::super::tests::{Change, inbound, refuse};
    use super::*;
    use crate::config::Inbound;

    fn with() -> v1::Inbound {
        let mut wire = inbound();
        let rule = v1::TokenRule { issuer: "https://id.test".into(), ..Default::default() };
        wire.ports[0].request_authentication =
            vec![v1::RequestAuthentication { name: "shop/login".into(), rules: vec![rule], optional: false }];
        wire
    }

    fn rule(wire: &mut v1::Inbound) -> &mut v1::TokenRule {
        &mut wire.ports[0].request_authentication[0].rules[0]
    }

    #[test]
    fn a_rule_without_places_looks_for_a_bearer_and_one_object_that_demands_a_token_suffices() {
        let mut wire = with();
        let port = |wire: &v1::Inbound| Inbound::from_wire(wire).unwrap().ports[0].authentication.clone();
        let read = port(&wire).unwrap();
        assert_eq!(read.required_by.as_deref(), Some("shop/login"));
        assert_eq!(read.rules[0].places, [TokenPlace::Header(http::header::AUTHORIZATION, "Bearer ".into())]);
        let object = &mut wire.ports[0].request_authentication;
        object[0].optional = true;
        let optional = object[0].clone();
        assert_eq!(port(&wire).unwrap().required_by, None);
        wire.ports[0].request_authentication.push(v1::RequestAuthentication {
            name: "shop/strict".into(),
            optional: false,
            ..optional
        });
        let read = port(&wire).unwrap();
        assert_eq!((read.required_by.as_deref(), read.rules.len()), (Some("shop/strict"), 2));
        assert!(port(&inbound()).is_none());
    }

    #[test]
    fn tokens_are_looked_for_in_headers_parameters_and_cookies_as_listed() {
        let mut wire = with();
        rule(&mut wire).from_headers = vec![v1::TokenHeader { name: "X-Token".into(), prefix: "JWT ".into() }];
        rule(&mut wire).from_params = vec!["token".into()];
        rule(&mut wire).from_cookies = vec!["sid".into()];
        rule(&mut wire).clock_skew = Some(prost_types::Duration { seconds: 5, nanos: 0 });
        let claim = v1::ClaimHeader { header: "X-Roles".into(), claim: "realm.roles".into() };
        rule(&mut wire).output_claim_to_headers = vec![claim];
        let port = Inbound::from_wire(&wire).unwrap().ports[0].authentication.clone();
        let rule = &port.as_ref().unwrap().rules[0];
        let header = TokenPlace::Header("x-token".parse().unwrap(), "JWT ".into());
        let places = [header, TokenPlace::Parameter("token".into()), TokenPlace::Cookie("sid".into())];
        assert_eq!((rule.places.as_slice(), rule.skew), (&places[..], Some(Duration::from_secs(5))));
        let claim: Box<[Box<str>]> = ["realm".into(), "roles".into()].into();
        assert_eq!(rule.outputs, [ClaimHeader { header: "x-roles".parse().unwrap(), claim }]);
    }

    #[test]
    fn mistakes_are_refused_by_field() {
        let mistakes: [(Change<v1::Inbound>, &str, &str); 9] = [
            (|i| rule(i).issuer.clear(), "issuer", "required"),
            (|i| rule(i).audiences = vec![String::new()], "audiences[0]", "1 to 2048"),
            (|i| rule(i).jwks = "x".repeat((1 << 20) + 1), "jwks", "more than"),
            (
                |i| rule(i).from_headers = vec![v1::TokenHeader { name: "a b".into(), prefix: String::new() }],
                "fromHeaders[0].name",
                "no header",
            ),
            (|i| rule(i).from_params = vec!["a=b".into()], "fromParams[0]", "no name"),
            (|i| rule(i).from_cookies = vec![String::new()], "fromCookies[0]", "no name"),
            (
                |i| {
                    rule(i).output_claim_to_headers =
                        vec![v1::ClaimHeader { header: "weft-source".into(), claim: "sub".into() }];
                },
                "outputClaimToHeaders[0].header",
                "belongs to",
            ),
            (
                |i| {
                    rule(i).output_claim_to_headers =
                        vec![v1::ClaimHeader { header: "x-sub".into(), claim: "a..b".into() }];
                },
                "outputClaimToHeaders[0].claim",
                "no claim",
            ),
            (
                |i| rule(i).clock_skew = Some(prost_types::Duration { seconds: 3601, nanos: 0 }),
                "clockSkew",
                "longer than",
            ),
        ];
        for (mistake, field, reason) in mistakes {
            let field = format!("ports[0].requestAuthentication[0].rules[0].{field}");
            refuse(&with(), Inbound::from_wire, &[(mistake, &field, reason)]);
        }
        let nameless: Change<v1::Inbound> = |i| i.ports[0].request_authentication[0].name = "login".into();
        refuse(&with(), Inbound::from_wire, &[(nameless, "ports[0].requestAuthentication[0].name", "namespace/name")]);
    }
}
