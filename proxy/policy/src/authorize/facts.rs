//! What conditions are asked about: a connection, and once there is one a request with the token that it brought.

use std::net::IpAddr;

use crate::route::Request;

/// What is known of a connection, all of it verified.
#[derive(Clone, Copy, Debug, Default)]
pub struct Connection<'c> {
    /// SPIFFE id of the peer; `None`: plaintext.
    pub identity: Option<&'c str>,
    /// Address of the peer.
    pub address: Option<IpAddr>,
    /// Server name that the peer asked for in TLS, in lower case.
    pub server_name: Option<&'c str>,
}

impl<'c> Connection<'c> {
    /// A connection of which nothing but the peer's SPIFFE id is known.
    pub fn of(identity: &'c str) -> Self {
        Connection { identity: Some(identity), ..Connection::default() }
    }
}

/// A token whose signature, times and audience were verified.
pub trait Token {
    /// `<iss>/<sub>`; `None` where the token lacks either.
    fn principal(&self) -> Option<&str>;
    /// Whether `test` holds for the text, the number or the truth value that is found by following `path` from the whole set of claims,
    /// or for any of them where there is a list.
    fn any_claim(&self, path: &[Box<str>], test: &mut dyn FnMut(&str) -> bool) -> bool;
}

/// How much has been said on the connection.
#[derive(Clone, Copy)]
pub(super) enum Stage<'s> {
    /// Nothing yet; requests will be.
    Connection,
    /// Nothing that could be read.
    Opaque,
    /// A request.
    Request(&'s dyn Request, Option<&'s dyn Token>),
}

/// Everything that a rule is asked about.
#[derive(Clone, Copy)]
pub(super) struct Facts<'f> {
    pub connection: &'f Connection<'f>,
    /// Of the peer's identity, in the mesh's own trust domain only: another mesh may call its namespaces what it likes.
    pub namespace: Option<&'f str>,
    pub stage: Stage<'f>,
}
