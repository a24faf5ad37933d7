//! Where the control plane is: one address, or those of several replicas, of which any serves.

use serde::de::{self, Deserializer, SeqAccess, Visitor};
use serde::{Deserialize, Serialize, Serializer};
use std::fmt;
use std::net::SocketAddr;
use std::str::FromStr;

/// Replicas that a sidecar may be told of.
const MOST: usize = 16;

/// Where one control plane is: an address, or a name that is looked up whenever a connection is made.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Place {
    /// `192.0.2.1:15010`
    Address(SocketAddr),
    /// `weft-control.weft-system:15010`: the name and the port.
    Name(Box<str>, u16),
}

impl FromStr for Place {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let text = text.trim();
        if let Ok(address) = text.parse() {
            return Ok(Self::Address(address));
        }
        let known = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '.');
        let parts = text.rsplit_once(':').and_then(|(name, port)| Some((name, port.parse().ok().filter(|p| *p > 0)?)));
        match parts {
            // An address without a port is no name.
            Some((name, port))
                if !name.is_empty()
                    && name.len() <= 253
                    && name.chars().all(known)
                    && name.contains(|c: char| c.is_ascii_alphabetic()) =>
            {
                Ok(Self::Name(name.into(), port))
            }
            _ => Err(format!("{text:?} is neither IP:PORT nor NAME:PORT")),
        }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Address(address) => address.fmt(f),
            Self::Name(name, port) => write!(f, "{name}:{port}"),
        }
    }
}

impl From<SocketAddr> for Place {
    fn from(address: SocketAddr) -> Self {
        Self::Address(address)
    }
}

impl<'de> Deserialize<'de> for Place {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
    }
}

/// `ip:port` or `name:port` of one control plane or of several. In files a string, several between commas, or a list.
///
/// Invariant: at least one, at most 16, none of them twice.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Addresses(Vec<Place>);

impl Addresses {
    /// These, in this order.
    ///
    /// # Errors
    /// None, too many, or one of them twice.
    pub fn new(all: Vec<Place>) -> Result<Self, String> {
        if all.is_empty() || all.len() > MOST {
            return Err(format!("names {} addresses; 1 to {MOST} make sense", all.len()));
        }
        match all.iter().enumerate().find(|(i, address)| all[..*i].contains(address)) {
            Some((_, twice)) => Err(format!("names {twice} twice")),
            None => Ok(Self(all)),
        }
    }

    /// All of them.
    #[must_use]
    pub fn all(&self) -> &[Place] {
        &self.0
    }
}

impl From<SocketAddr> for Addresses {
    fn from(address: SocketAddr) -> Self {
        Self(vec![address.into()])
    }
}

impl FromStr for Addresses {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        Self::new(text.split(',').map(str::parse).collect::<Result<_, _>>()?)
    }
}

impl fmt::Display for Addresses {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, address) in self.0.iter().enumerate() {
            write!(f, "{}{address}", if i == 0 { "" } else { "," })?;
        }
        Ok(())
    }
}

impl Serialize for Addresses {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Addresses {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Written;

        impl<'de> Visitor<'de> for Written {
            type Value = Addresses;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("IP:PORT or NAME:PORT, or several")
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<Addresses, E> {
                text.parse().map_err(E::custom)
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Addresses, A::Error> {
                let mut all = Vec::new();
                while let Some(address) = list.next_element()? {
                    all.push(address);
                }
                Addresses::new(all).map_err(de::Error::custom)
            }
        }

        deserializer.deserialize_any(Written)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_address_or_several_are_read_in_any_of_their_forms() {
        let read = |text: &str| serde_json::from_str::<Addresses>(text).unwrap();
        let one = read("\"192.0.2.1:15010\"");
        assert_eq!(one, Addresses::from("192.0.2.1:15010".parse::<SocketAddr>().unwrap()));
        assert_eq!(serde_json::to_string(&one).unwrap(), "\"192.0.2.1:15010\"");
        let several = read("[\"192.0.2.1:15010\", \"[2001:db8::1]:15010\"]");
        assert_eq!(several, read("\"192.0.2.1:15010,[2001:db8::1]:15010\""));
        assert_eq!(several.all().len(), 2);
        let named = read("\"weft-control.weft-system:15010\"");
        assert_eq!(named.all(), [Place::Name("weft-control.weft-system".into(), 15010)]);
        assert_eq!(serde_json::to_string(&named).unwrap(), "\"weft-control.weft-system:15010\"");
        assert_eq!(read(&serde_json::to_string(&several).unwrap()), several);
    }

    #[test]
    fn what_names_no_control_plane_is_refused_in_words() {
        for (text, why) in [
            ("\"control\"", "is neither IP:PORT nor NAME:PORT"),
            ("\"192.0.2.1:15010,\"", "is neither IP:PORT nor NAME:PORT"),
            ("\"192.0.2.1:1,192.0.2.1:1\"", "twice"),
            ("[]", "names 0"),
            ("7", "IP:PORT or NAME:PORT, or several"),
        ] {
            let error = serde_json::from_str::<Addresses>(text).unwrap_err().to_string();
            assert!(error.contains(why), "{text}: {error}");
        }
        let many = (1..=17).map(|port| SocketAddr::from(([192, 0, 2, 1], port)).into()).collect();
        assert!(Addresses::new(many).is_err());
    }
}
