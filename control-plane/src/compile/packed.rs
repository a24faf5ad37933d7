//! Resources as they go over the wire, encoded once: what a mesh of many thousand endpoints is kept as. Whoever needs the message reads it
//! again.

use std::fmt;
use std::marker::PhantomData;
use std::ops::Deref;
use std::sync::Arc;
use weft_proto::{Resource, v1, version_of};

/// One resource, shared by all the sidecars that hold it.
#[derive(Debug, PartialEq, Eq)]
pub struct Encoded {
    /// Type URL of the message.
    pub type_url: &'static str,
    /// Resource name.
    pub name: Arc<str>,
    /// Hash of `value`.
    pub version: Arc<str>,
    /// `host:…` and `vip:…` names under which the resource can be asked for too. A function of the message, so that the version covers them.
    pub aliases: Box<[Arc<str>]>,
    /// The message, encoded deterministically.
    pub value: Box<[u8]>,
}

impl Encoded {
    /// A name or an alias of it, as it stands here.
    #[must_use]
    pub fn called(&self, name: &str) -> Option<&Arc<str>> {
        std::iter::once(&self.name).chain(&self.aliases).find(|own| ***own == *name)
    }
}

/// An [`Encoded`] of which it is known what it is.
pub struct Packed<M> {
    encoded: Arc<Encoded>,
    message: PhantomData<fn() -> M>,
}

impl<M: Resource> Packed<M> {
    /// Encodes a message.
    #[must_use]
    pub fn new(name: impl Into<Arc<str>>, message: &M) -> Self {
        Self::with_aliases(name.into(), Box::default(), message)
    }

    fn with_aliases(name: Arc<str>, aliases: Box<[Arc<str>]>, message: &M) -> Self {
        let value = message.encode_to_vec().into_boxed_slice();
        let version = version_of(&value).into();
        let encoded = Encoded { type_url: M::TYPE_URL, name, version, aliases, value };
        Self { encoded: Arc::new(encoded), message: PhantomData }
    }

    /// The message.
    #[must_use]
    pub fn read(&self) -> M {
        // It was encoded here, from one.
        M::decode(&*self.encoded.value).unwrap_or_default()
    }

    /// This, or what was before if that is the same.
    #[must_use]
    pub fn or_same(self, before: Option<&Self>) -> Self {
        before.filter(|before| before.encoded.value == self.encoded.value).cloned().unwrap_or(self)
    }
}

impl Packed<v1::Service> {
    /// Encodes a Service, with the names by which it can be asked for.
    #[must_use]
    pub fn service(message: &v1::Service) -> Self {
        Self::service_of(message.name.as_str(), message)
    }

    /// The same, of a name that is kept elsewhere too.
    #[must_use]
    pub fn service_of(name: impl Into<Arc<str>>, message: &v1::Service) -> Self {
        let hosts = message.hostnames.iter().map(|host| format!("host:{host}").into());
        let aliases = hosts.chain(message.vips.iter().map(|vip| format!("vip:{vip}").into()));
        Self::with_aliases(name.into(), aliases.collect(), message)
    }
}

impl<M> Packed<M> {
    /// What is sent.
    #[must_use]
    pub fn encoded(&self) -> &Arc<Encoded> {
        &self.encoded
    }

    /// Whether both are one value.
    #[must_use]
    pub fn ptr_eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.encoded, &other.encoded)
    }
}

impl<M> Deref for Packed<M> {
    type Target = Encoded;

    fn deref(&self) -> &Encoded {
        &self.encoded
    }
}

impl<M> Clone for Packed<M> {
    fn clone(&self) -> Self {
        Self { encoded: self.encoded.clone(), message: PhantomData }
    }
}

impl<M> PartialEq for Packed<M> {
    fn eq(&self, other: &Self) -> bool {
        self.encoded == other.encoded
    }
}

impl<M: Resource + fmt::Debug> fmt::Debug for Packed<M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.read(), f)
    }
}
