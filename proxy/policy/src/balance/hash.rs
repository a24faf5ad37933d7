//! What a call is hashed by: the [`HashKey`]s of a backend, and the one hash that every sidecar computes alike.

use std::net::IpAddr;

use http::HeaderName;

use crate::route::{Request, any_cookie};

/// A part of a call that a hashing balancer may hash.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum HashKey {
    /// The first value of a header.
    Header(HeaderName),
    /// The value of a cookie; its name is case-sensitive.
    Cookie(Box<str>),
    /// The caller's address, without its port.
    SourceAddress,
}

impl HashKey {
    /// The hash of the first key that the call has; `None` when it has none of them. An empty value is none: else all
    /// calls that say nothing would go to one endpoint.
    pub fn of<R: Request + ?Sized>(keys: &[HashKey], request: &R, source: Option<IpAddr>) -> Option<u64> {
        keys.iter().find_map(|key| match key {
            HashKey::Header(name) => first(|see| request.any_header(name, see)),
            HashKey::Cookie(name) => first(|see| any_cookie(request, name, see)),
            HashKey::SourceAddress => source.map(|address| match address.to_canonical() {
                IpAddr::V4(v4) => hash_key(&v4.octets()),
                IpAddr::V6(v6) => hash_key(&v6.octets()),
            }),
        })
    }
}

/// Looks at values until it is told that one has been found.
type Look<'l> = &'l mut dyn FnMut(&[u8]) -> bool;

/// The hash of the first value that is not empty.
fn first(each: impl FnOnce(Look<'_>) -> bool) -> Option<u64> {
    let mut hash = None;
    each(&mut |value| {
        let value = value.trim_ascii();
        hash = (!value.is_empty()).then(|| hash_key(value));
        hash.is_some()
    });
    hash
}

const PRIME: [u64; 5] =
    [0x9E37_79B1_85EB_CA87, 0xC2B2_AE3D_27D4_EB4F, 0x1656_67B1_9E37_79F9, 0x85EB_CA77_C2B2_AE63, 0x27D4_EB2F_1656_67C5];

/// The hash of a key: XXH64 with seed 0. It is the same in every process, version and machine, so that sidecars agree
/// on where a key belongs; it is no defence against keys that are made to collide.
pub fn hash_key(bytes: &[u8]) -> u64 {
    hash_seeded(bytes, 0)
}

/// XXH64 (xxHash specification 0.1.1, “XXH64 algorithm description”).
pub(crate) fn hash_seeded(bytes: &[u8], seed: u64) -> u64 {
    let (stripes, rest) = bytes.as_chunks::<32>();
    let mut hash = if stripes.is_empty() {
        seed.wrapping_add(PRIME[4])
    } else {
        let mut lanes = [
            seed.wrapping_add(PRIME[0]).wrapping_add(PRIME[1]),
            seed.wrapping_add(PRIME[1]),
            seed,
            seed.wrapping_sub(PRIME[0]),
        ];
        for stripe in stripes {
            for (lane, word) in lanes.iter_mut().zip(stripe.as_chunks::<8>().0) {
                *lane = round(*lane, u64::from_le_bytes(*word));
            }
        }
        let turned = [1, 7, 12, 18].into_iter().zip(lanes).map(|(by, lane)| lane.rotate_left(by));
        let joined = turned.fold(0, u64::wrapping_add);
        lanes.iter().fold(joined, |sum, lane| (sum ^ round(0, *lane)).wrapping_mul(PRIME[0]).wrapping_add(PRIME[3]))
    };
    hash = hash.wrapping_add(bytes.len() as u64);
    let (words, rest) = rest.as_chunks::<8>();
    for word in words {
        hash ^= round(0, u64::from_le_bytes(*word));
        hash = hash.rotate_left(27).wrapping_mul(PRIME[0]).wrapping_add(PRIME[3]);
    }
    let (halves, rest) = rest.as_chunks::<4>();
    for half in halves {
        hash ^= u64::from(u32::from_le_bytes(*half)).wrapping_mul(PRIME[0]);
        hash = hash.rotate_left(23).wrapping_mul(PRIME[1]).wrapping_add(PRIME[2]);
    }
    for byte in rest {
        hash ^= u64::from(*byte).wrapping_mul(PRIME[4]);
        hash = hash.rotate_left(11).wrapping_mul(PRIME[0]);
    }
    mix(hash)
}

fn round(lane: u64, word: u64) -> u64 {
    lane.wrapping_add(word.wrapping_mul(PRIME[1])).rotate_left(31).wrapping_mul(PRIME[0])
}

/// XXH64's last step: every bit of the argument changes about half of the result's.
pub(super) fn mix(mut hash: u64) -> u64 {
    hash = (hash ^ hash >> 33).wrapping_mul(PRIME[1]);
    hash = (hash ^ hash >> 29).wrapping_mul(PRIME[2]);
    hash ^ hash >> 32
}

#[cfg(test)]
mod tests {
    use http::HeaderMap;

    use super::*;
    use crate::route::Head;

    #[test]
    fn the_hash_is_xxh64() {
        for (text, hash) in [
            ("", 0xEF46_DB37_51D8_E999),
            ("a", 0xD24E_C4F1_A98C_6E5B),
            ("abc", 0x44BC_2CF5_AD77_0999),
            ("message digest", 0x066E_D728_FCEE_B3BE),
            ("abcdefghijklmnopqrstuvwxyz", 0xCFE1_F278_FA89_835C),
            ("Nobody inspects the spammish repetition", 0xFBCE_A83C_8A37_8BF1_u64),
        ] {
            assert_eq!(hash_key(text.as_bytes()), hash, "{text:?}");
        }
    }

    #[test]
    fn the_first_key_that_a_call_has_counts() {
        let mut headers = HeaderMap::new();
        headers.append("cookie", "a=1; sid=x=y".parse().unwrap());
        headers.append("x-user", "".parse().unwrap());
        headers.append("x-user", " 7 ".parse().unwrap());
        let head = Head::new("GET", "/", &headers);
        let (user, sid) = (HashKey::Header("x-user".parse().unwrap()), HashKey::Cookie("sid".into()));
        let of = |keys: &[HashKey], source: Option<&str>| HashKey::of(keys, &head, source.map(|s| s.parse().unwrap()));
        assert_eq!(of(&[user.clone(), sid.clone()], None), Some(hash_key(b"7")));
        assert_eq!(of(&[sid, user], None), Some(hash_key(b"x=y")));
        assert_eq!(of(&[HashKey::Cookie("SID".into())], None), None, "names of cookies have a case");
        let absent = [HashKey::Header("x-none".parse().unwrap()), HashKey::SourceAddress];
        assert_eq!(of(&absent, None), None);
        assert_eq!(of(&absent, Some("::ffff:192.0.2.1")), Some(hash_key(&[192, 0, 2, 1])));
        assert_eq!(of(&absent, Some("::ffff:192.0.2.1")), of(&absent, Some("192.0.2.1")));
    }
}
