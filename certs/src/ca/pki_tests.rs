//! Tests of intermediates from files: what is refused, and what takes the place of what.

use super::*;
use crate::ca::{MeshCa, ROOT_VALIDITY, Rotation, Stage, Step, authority};
use rcgen::{GeneralSubtree, NameConstraints};
use std::time::Duration;

/// A root somewhere else, and what it gives.
struct Organisation(Signer);

/// Texts of files.
struct Texts {
    chain: String,
    key: String,
    roots: String,
}

impl Texts {
    fn pki(&self) -> Pki<'_> {
        Pki { chain: &self.chain, key: &self.key, roots: &self.roots }
    }
}

fn domain() -> TrustDomain {
    "weft.test".parse().unwrap()
}

fn now() -> SystemTime {
    SystemTime::now()
}

impl Organisation {
    fn new(name: &str) -> Self {
        Self(Signer::root(authority(name, 1, now(), ROOT_VALIDITY)).unwrap().0)
    }

    fn gives(&self, life: Duration, change: impl FnOnce(&mut rcgen::CertificateParams)) -> Texts {
        let mut params = authority("issuing", 0, now(), life);
        change(&mut params);
        let key = KeyPair::generate().unwrap();
        let certificate = self.0.sign(&mut params, &key.public_der()).unwrap();
        let roots = pem::encode("CERTIFICATE", &self.0.certificate);
        Texts { chain: pem::encode("CERTIFICATE", &certificate), key: key.to_pem(), roots }
    }

    fn intermediate(&self) -> Texts {
        self.gives(ROOT_VALIDITY, |_| {})
    }
}

fn accepts(bundle: &TrustBundle, ca: &MeshCa) -> bool {
    let id = SpiffeId::workload(&domain(), "shop", "cart").unwrap();
    let svid = ca.issue(&id, None, now()).unwrap();
    verify::chain(&bundle.clone().into(), &id, svid.chain(), unix_time(now()), verify::Side::Client).is_ok()
}

fn at(step: Step) -> Rotation {
    match step {
        Step::At(rotation) => rotation,
        other => panic!("{other:?}"),
    }
}

#[test]
fn files_that_sidecars_would_refuse_are_refused_with_the_reason_and_change_nothing() {
    let one = Organisation::new("One root");
    let good = one.intermediate();
    let ca = MeshCa::from_pki(&domain(), good.pki(), now()).unwrap();
    let before = ca.bundle();
    let other = Organisation::new("Other root").intermediate();
    let constrained = |permitted: bool| {
        one.gives(ROOT_VALIDITY, |params| {
            let subtrees = vec![GeneralSubtree::DnsName("elsewhere.test".into())];
            let (permitted, excluded) = if permitted { (subtrees, Vec::new()) } else { (Vec::new(), subtrees) };
            params.name_constraints =
                Some(NameConstraints { permitted_subtrees: permitted, excluded_subtrees: excluded });
        })
    };
    let leaf = one.gives(ROOT_VALIDITY, |params| params.is_ca = rcgen::IsCa::ExplicitNoCa);
    let expired = one.gives(Duration::from_secs(1), |_| {});
    let later = now() + Duration::from_secs(2);
    for (texts, when, why) in [
        (
            Texts { chain: good.chain.clone(), key: other.key.clone(), roots: good.roots.clone() },
            now(),
            "not the certificate's",
        ),
        (
            Texts { roots: other.roots.clone(), chain: good.chain.clone(), key: good.key.clone() },
            now(),
            "any of the given roots",
        ),
        (leaf, now(), "no CA certificate"),
        (expired, later, "expired at"),
        (
            Texts { chain: String::new(), key: other.key.clone(), roots: other.roots.clone() },
            now(),
            "holds no certificate",
        ),
    ] {
        let error = ca.replace(texts.pki(), &Vault::default(), when).unwrap_err().to_string();
        assert!(error.contains(why), "{why}: {error}");
    }
    assert_eq!(ca.bundle(), before);
    assert!(accepts(&before, &ca));
    // Constraints on names of another kind say nothing of ids.
    assert_eq!(ca.replace(constrained(false).pki(), &Vault::default(), now()).unwrap(), Replaced::Issuer);
}

#[test]
fn uri_constraints_speak_of_the_host_of_an_id() {
    let subtree = |host: &str| {
        rcgen::CustomExtension::from_oid_content(&[2, 5, 29, 30], {
            // SEQUENCE { [0] { SEQUENCE { [6] host } } }
            let base = [&[0x86, host.len() as u8][..], host.as_bytes()].concat();
            let inner = [&[0x30, base.len() as u8][..], &base].concat();
            let permitted = [&[0xa0, inner.len() as u8][..], &inner].concat();
            [&[0x30, permitted.len() as u8][..], &permitted].concat()
        })
    };
    let one = Organisation::new("One root");
    for (host, admitted) in [("weft.test", true), (".test", true), ("elsewhere.test", false), (".weft.test", false)] {
        let texts = one.gives(ROOT_VALIDITY, |params| params.custom_extensions.push(subtree(host)));
        let chain = pem::certificates("x", &texts.chain).unwrap();
        assert_eq!(admits(&crate::leaf::parse(&chain[0]).unwrap(), &domain()), admitted, "{host}");
    }
}

#[test]
fn another_intermediate_under_the_same_root_signs_at_once_and_the_one_before_still_revokes() {
    let one = Organisation::new("One root");
    let ca = MeshCa::from_pki(&domain(), one.intermediate().pki(), now()).unwrap();
    let bundle = ca.bundle();
    let key = KeyPair::generate().unwrap();
    let id = SpiffeId::workload(&domain(), "shop", "cart").unwrap();
    let issued = ca.sign(&key.csr().unwrap(), &id, None, now()).unwrap();
    let next = one.intermediate();
    assert_eq!(ca.replace(next.pki(), &Vault::default(), now()).unwrap(), Replaced::Issuer);
    assert_eq!(ca.replace(next.pki(), &Vault::default(), now()).unwrap(), Replaced::Nothing);
    assert!(ca.rotation().is_none() && accepts(&bundle, &ca));
    let revoked = crate::ca::Revocation {
        issuer: issued.issuer,
        serial: issued.serial.clone(),
        at: now(),
        reason: crate::ca::Reason::Unspecified,
    };
    ca.revoke(vec![revoked], now()).unwrap();
    assert!(ca.bundle().revokes(&issued.issuer, &issued.serial));
}

#[test]
fn other_roots_are_trusted_before_anything_is_signed_under_them_and_those_of_before_until_the_end() {
    let (one, other) = (Organisation::new("One root").intermediate(), Organisation::new("Other root").intermediate());
    let dir = tempfile::tempdir().unwrap();
    let open = |texts: &Texts| MeshCa::open_pki(dir.path(), &Vault::default(), &domain(), texts.pki(), now()).unwrap();
    let ca = open(&one);
    let before = ca.bundle();
    let Replaced::Roots(rotation) = ca.replace(other.pki(), &Vault::default(), now()).unwrap() else { panic!() };
    let both = ca.bundle();
    assert_eq!((rotation.stage, both.roots().len()), (Stage::Publishing, 2));
    assert!(accepts(&before, &ca) && accepts(&both, &ca), "the one before still signs");
    assert!(ca.replace(one.pki(), &Vault::default(), now()).is_ok_and(|r| r == Replaced::Nothing));
    // Broken off and begun again.
    assert_eq!(ca.abort(now()).unwrap(), Step::Over);
    assert_eq!(ca.bundle(), before);
    let Replaced::Roots(rotation) = ca.replace(other.pki(), &Vault::default(), now()).unwrap() else { panic!() };
    let rotation = at(ca.advance(rotation, now()).unwrap());
    assert!(!accepts(&before, &ca) && accepts(&both, &ca));
    // A run that begins here trusts both, until every sidecar has a certificate of now.
    let again = open(&other);
    assert_eq!((again.rotation().unwrap().stage, again.bundle().roots().len()), (Stage::Reissuing, 2));
    assert!(again.abort(now()).is_err(), "the key of before is not there");
    for ca in [ca, again] {
        let rotation = ca.rotation().unwrap_or(rotation);
        assert_eq!(ca.advance(rotation, now()).unwrap(), Step::Over);
        assert_eq!(ca.bundle().roots().len(), 1);
        assert!(accepts(&ca.bundle(), &ca) && !accepts(&before, &ca));
    }
    assert!(open(&other).rotation().is_none());
}
