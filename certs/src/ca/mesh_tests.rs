//! Tests of the mesh's authority: what it signs, what it refuses, and what a restart finds.

use std::os::unix::fs::MetadataExt;

use rcgen::{CertificateParams, DnType, ExtendedKeyUsagePurpose, KeyUsagePurpose, PublicKeyData, SanType};

use super::*;
use crate::ca::issue::{MAX_CSR_LEN, svid};
use crate::ca::{ROOT_VALIDITY, Step, authority};
use crate::describe::CertificateInfo;
use crate::error::unix_time;
use crate::pem;
use crate::tls::verify;

fn domain() -> TrustDomain {
    "weft.test".parse().unwrap()
}

fn cart() -> SpiffeId {
    SpiffeId::workload(&domain(), "shop", "cart").unwrap()
}

fn in_days(days: u64) -> SystemTime {
    SystemTime::now() + Duration::from_secs(days * 24 * 3600)
}

fn request(params: CertificateParams) -> (rcgen::KeyPair, Vec<u8>) {
    let key = rcgen::KeyPair::generate().unwrap();
    let csr = params.serialize_request(&key).unwrap().der().to_vec();
    (key, csr)
}

#[test]
fn a_restart_finds_the_same_root_and_intermediate_private_to_their_owner() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("identity");
    let now = SystemTime::now();
    let first = MeshCa::open(&path, &domain(), now).unwrap();
    let again = MeshCa::open(&path, &domain(), now).unwrap();
    assert_eq!(first.root(), again.root());
    assert_eq!(first.issuing.load().chain, again.issuing.load().chain);
    assert_eq!(std::fs::metadata(&path).unwrap().mode() & 0o777, 0o700);
    for file in ["root.pem", "issuing.pem"] {
        assert_eq!(std::fs::metadata(path.join(file)).unwrap().mode() & 0o777, 0o600, "{file}");
    }
}

#[test]
fn a_directory_of_another_trust_domain_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    MeshCa::open(dir.path(), &domain(), SystemTime::now()).unwrap();
    let error = MeshCa::open(dir.path(), &"other.test".parse().unwrap(), SystemTime::now()).unwrap_err().to_string();
    assert!(error.contains("weft.test root") && error.contains("\"other.test\""), "{error}");
}

#[test]
fn an_intermediate_of_another_root_is_replaced() {
    let (one, two) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let now = SystemTime::now();
    MeshCa::open(one.path(), &domain(), now).unwrap();
    let before = MeshCa::open(two.path(), &domain(), now).unwrap();
    std::fs::copy(one.path().join("issuing.pem"), two.path().join("issuing.pem")).unwrap();
    let after = MeshCa::open(two.path(), &domain(), now).unwrap();
    assert_eq!(before.root(), after.root());
    let bundles = after.bundle().into();
    let issued = after.sign(&KeyPair::generate().unwrap().csr().unwrap(), &cart(), None, now).unwrap();
    verify::chain(&bundles, &cart(), &issued.chain, unix_time(now), verify::Side::Client).unwrap();
}

#[test]
fn an_ageing_intermediate_is_renewed_while_running_and_kept() {
    let dir = tempfile::tempdir().unwrap();
    let ca = MeshCa::open(dir.path(), &domain(), SystemTime::now()).unwrap();
    let csr = KeyPair::generate().unwrap().csr().unwrap();
    let early = ca.sign(&csr, &cart(), None, in_days(200)).unwrap();
    let late = ca.sign(&csr, &cart(), None, in_days(300)).unwrap();
    assert_ne!(early.chain[1], late.chain[1]);
    let bundles = ca.bundle().into();
    verify::chain(&bundles, &cart(), &late.chain, unix_time(in_days(300)), verify::Side::Server).unwrap();
    let again = MeshCa::open(dir.path(), &domain(), in_days(301)).unwrap();
    assert_eq!(again.issuing.load().chain[0], late.chain[1]);
}

#[test]
fn nothing_that_a_request_asks_for_is_given() {
    let ca = MeshCa::ephemeral(&domain(), SystemTime::now()).unwrap();
    let mut wishes = CertificateParams::new(vec!["payments.shop.svc".into(), "192.0.2.1".into()]).unwrap();
    wishes.subject_alt_names.push(SanType::URI("spiffe://weft.test/ns/shop/sa/payments".try_into().unwrap()));
    wishes.distinguished_name.push(DnType::CommonName, "payments");
    wishes.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign, KeyUsagePurpose::DigitalSignature];
    wishes.extended_key_usages = vec![ExtendedKeyUsagePurpose::CodeSigning];
    // BasicConstraints with CA:TRUE: rcgen writes it into no request by itself.
    let mut ca_true = rcgen::CustomExtension::from_oid_content(&[2, 5, 29, 19], vec![0x30, 0x03, 0x01, 0x01, 0xff]);
    ca_true.set_criticality(true);
    wishes.custom_extensions.push(ca_true);
    let (key, csr) = request(wishes);
    let asked = String::from_utf8_lossy(&csr).into_owned();
    assert!(asked.contains("sa/payments"), "the request really asks");

    let issued = ca.sign(&csr, &cart(), None, SystemTime::now()).unwrap();
    let info = CertificateInfo::of(&issued.chain[0]).unwrap();
    assert_eq!(info.uris, [cart().as_str()]);
    assert!(info.dns_names.is_empty() && info.ip_addresses.is_empty() && !info.is_ca);
    assert_eq!(info.subject, "");
    let parsed = leaf::parse(&issued.chain[0]).unwrap();
    assert_eq!(parsed.public_key().raw, key.subject_public_key_info());
    let usage = parsed.key_usage().unwrap().unwrap().value;
    assert!(usage.digital_signature() && !usage.key_cert_sign() && !usage.crl_sign());
    let extended = parsed.extended_key_usage().unwrap().unwrap().value;
    assert!(extended.client_auth && extended.server_auth && !extended.code_signing && !extended.any);
}

#[test]
fn a_request_that_is_not_signed_by_its_own_key_is_refused() {
    let ca = MeshCa::ephemeral(&domain(), SystemTime::now()).unwrap();
    let (one, other) = (KeyPair::generate().unwrap(), KeyPair::generate().unwrap());
    let mut forged = one.csr().unwrap();
    let key = one.public_der();
    let at = forged.windows(key.len()).position(|w| w == key).unwrap();
    forged[at..at + key.len()].copy_from_slice(&other.public_der());
    let error = ca.sign(&forged, &cart(), None, SystemTime::now()).unwrap_err().to_string();
    assert_eq!(error, "certificate signing request is not signed by its own key");
}

#[test]
fn bytes_that_are_no_request_are_refused_and_none_make_it_panic() {
    let ca = MeshCa::ephemeral(&domain(), SystemTime::now()).unwrap();
    let key = KeyPair::generate().unwrap();
    let good = key.csr().unwrap();
    let now = SystemTime::now();
    for cut in 0..good.len() {
        assert!(ca.sign(&good[..cut], &cart(), None, now).is_err());
        let mut flipped = good.clone();
        flipped[cut] ^= 0x55;
        // The wrapping around what is signed may be read leniently, but no other key gets in by it.
        if let Ok(issued) = ca.sign(&flipped, &cart(), None, now) {
            let parsed = leaf::parse(&issued.chain[0]).unwrap();
            assert_eq!(parsed.public_key().raw, key.public_der(), "byte {cut}");
        }
    }
    let long = [good.clone(), vec![0]].concat();
    assert!(ca.sign(&long, &cart(), None, now).unwrap_err().to_string().contains("after its end"));
    assert!(ca.sign(&vec![0x30; MAX_CSR_LEN + 1], &cart(), None, now).is_err());
}

#[test]
fn an_rsa_key_is_refused() {
    let key = rcgen::KeyPair::generate_rsa_for(&rcgen::PKCS_RSA_SHA256, rcgen::RsaKeySize::_2048).unwrap();
    let csr = CertificateParams::default().serialize_request(&key).unwrap().der().to_vec();
    let ca = MeshCa::ephemeral(&domain(), SystemTime::now()).unwrap();
    let error = ca.sign(&csr, &cart(), None, SystemTime::now()).unwrap_err().to_string();
    assert!(error.contains("neither ECDSA P-256"), "{error}");
}

#[test]
fn validity_is_a_day_backdated_a_minute_and_never_beyond_cap_or_issuer() {
    let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000);
    let ca = MeshCa::ephemeral(&domain(), now).unwrap();
    let csr = KeyPair::generate().unwrap().csr().unwrap();
    let span = |ttl: Option<u64>| {
        let issued = ca.sign(&csr, &cart(), ttl.map(Duration::from_secs), now).unwrap();
        assert_eq!(issued.not_before, now - super::super::BACKDATE);
        let info = CertificateInfo::of(&issued.chain[0]).unwrap();
        assert_eq!((info.not_before, info.not_after), (issued.not_before, issued.not_after));
        issued.not_after.duration_since(now).unwrap().as_secs()
    };
    assert_eq!((span(None), span(Some(600)), span(Some(10 * 86400))), (86400, 600, 86400));
    assert!(ca.sign(&csr, &cart(), Some(Duration::ZERO), now).is_err());

    let long = MeshCa::ephemeral(&domain(), now).unwrap().with_max_ttl(Duration::from_secs(5 * 365 * 86400));
    let issued = long.sign(&csr, &cart(), None, now).unwrap();
    assert_eq!(issued.not_after, long.issuing.load().signer.not_after);
}

#[test]
fn serial_numbers_are_random_and_positive() {
    let ca = MeshCa::ephemeral(&domain(), SystemTime::now()).unwrap();
    let csr = KeyPair::generate().unwrap().csr().unwrap();
    let mut seen = std::collections::HashSet::new();
    for _ in 0..50 {
        let issued = ca.sign(&csr, &cart(), None, SystemTime::now()).unwrap();
        let parsed = leaf::parse(&issued.chain[0]).unwrap();
        assert_eq!(parsed.raw_serial().len(), 16);
        assert!(parsed.raw_serial()[0] < 0x80 && seen.insert(parsed.raw_serial().to_vec()));
    }
}

#[test]
fn ids_of_other_domains_and_of_no_workload_are_refused() {
    let ca = MeshCa::ephemeral(&domain(), SystemTime::now()).unwrap();
    let csr = KeyPair::generate().unwrap().csr().unwrap();
    for id in ["spiffe://other.test/ns/shop/sa/cart", "spiffe://weft.test"] {
        assert!(matches!(ca.sign(&csr, &id.parse().unwrap(), None, SystemTime::now()), Err(Error::Request(_))), "{id}");
    }
}

/// A root, and two intermediates below it, as an organisation might have them.
fn organisation(key: rcgen::KeyPair, now: SystemTime) -> (String, String, String, Signer) {
    let (root, _) = Signer::root(authority("Example root", 3, now, ROOT_VALIDITY)).unwrap();
    let (policy, _) = root.intermediate(authority("Example policy", 2, now, ROOT_VALIDITY)).unwrap();
    let mut params = authority("Example issuing", 0, now, ROOT_VALIDITY);
    let issuing = policy.sign(&mut params, &key.subject_public_key_info()).unwrap();
    let chain = pem::encode_certificates([&issuing, &policy.certificate]);
    (chain, key.serialize_pem(), pem::encode("CERTIFICATE", &root.certificate), policy)
}

#[test]
fn an_intermediate_of_an_existing_pki_signs_whatever_its_algorithm() {
    let now = SystemTime::now();
    for key in [
        rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).unwrap(),
        rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P384_SHA384).unwrap(),
        rcgen::KeyPair::generate_rsa_for(&rcgen::PKCS_RSA_SHA256, rcgen::RsaKeySize::_2048).unwrap(),
    ] {
        let (chain, key, roots, _) = organisation(key, now);
        let ca = MeshCa::from_pki(&domain(), Pki { chain: &chain, key: &key, roots: &roots }, now).unwrap();
        let svid = ca.issue(&cart(), None, now).unwrap();
        assert_eq!(svid.chain().len(), 3);
        let bundles = ca.bundle().into();
        verify::chain(&bundles, &cart(), svid.chain(), unix_time(now), verify::Side::Server).unwrap();
        assert_eq!(ca.issue_control_plane(now).unwrap().chain().last(), Some(&ca.root()));
    }
}

#[test]
fn an_existing_pki_that_peers_would_refuse_is_refused_at_once() {
    let now = SystemTime::now();
    let (chain, key, roots, policy) = organisation(rcgen::KeyPair::generate().unwrap(), now);
    let (_, other_key, other_roots, _) = organisation(rcgen::KeyPair::generate().unwrap(), now);
    let open = |chain: &str, key: &str, roots: &str| {
        MeshCa::from_pki(&domain(), Pki { chain, key, roots }, now).unwrap_err().to_string()
    };
    assert!(open(&chain, &other_key, &roots).contains("private key that is not the certificate's"));
    assert!(open(&chain, &key, &other_roots).contains("does not lead to any of the given roots"));
    let alone = pem::encode_certificates(&pem::certificates("x", &chain).unwrap()[..1]);
    assert!(open(&alone, &key, &roots).contains("unknown issuer"), "the middle of the chain is missing");
    let leaf_key = KeyPair::generate().unwrap();
    let leaf = policy.sign(&mut svid(&cart(), SVID_VALIDITY, now).unwrap(), &leaf_key.public_der()).unwrap();
    assert!(open(&pem::encode("CERTIFICATE", &leaf), &leaf_key.to_pem(), &roots).contains("no CA certificate"));
}

/// Whether somebody who trusts these roots accepts what the authority signs now.
fn accepts(bundle: &TrustBundle, ca: &MeshCa) -> bool {
    let issued = ca.sign(&KeyPair::generate().unwrap().csr().unwrap(), &cart(), None, SystemTime::now()).unwrap();
    verify::chain(&bundle.clone().into(), &cart(), &issued.chain, unix_time(SystemTime::now()), verify::Side::Client)
        .is_ok()
}

/// Whether a sidecar that has a join token with this fingerprint, and nothing else, accepts the control plane.
fn joins(pin: &Fingerprint, ca: &MeshCa) -> bool {
    let svid = ca.issue_control_plane(SystemTime::now()).unwrap();
    let (leaf, above) = svid.chain().split_first().unwrap();
    verify::pinned(pin, &domain(), leaf, above, unix_time(SystemTime::now())).is_ok()
}

fn at(step: Step) -> Rotation {
    match step {
        Step::At(rotation) => rotation,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_rotation_never_signs_what_somebody_who_took_the_step_before_refuses() {
    let dir = tempfile::tempdir().unwrap();
    let now = SystemTime::now();
    let ca = MeshCa::open(dir.path(), &domain(), now).unwrap();
    let (before, old) = (ca.bundle(), ca.root_fingerprint().unwrap());
    let rotation = ca.rotate(now).unwrap();
    let both = ca.bundle();
    assert_eq!((rotation.stage, both.roots().len(), ca.root_fingerprint().unwrap()), (Stage::Publishing, 2, old));
    assert!(accepts(&before, &ca) && accepts(&both, &ca) && joins(&old, &ca), "the old one still signs");
    assert!(ca.rotate(now).is_err(), "one at a time");

    let judged = rotation;
    let rotation = at(ca.advance(judged, now).unwrap());
    assert_eq!((rotation.stage, rotation.target(), ca.bundle()), (Stage::Reissuing, rotation.new, both.clone()));
    assert!(rotation.reissue_after > 0);
    assert!(!accepts(&before, &ca) && accepts(&both, &ca));
    assert!(joins(&old, &ca) && joins(&rotation.new, &ca), "tokens of before and of now are good");

    assert_eq!(ca.advance(judged, now).unwrap(), Step::Passed, "of this step nobody has judged anything");
    assert_eq!(ca.bundle(), both);
    assert_eq!(ca.advance(rotation, now).unwrap(), Step::Over);
    let after = ca.bundle();
    assert_eq!((after.roots().len(), ca.root_fingerprint().unwrap(), ca.rotation()), (1, rotation.new, None));
    assert!(!accepts(&before, &ca) && accepts(&both, &ca) && accepts(&after, &ca));
    assert!(joins(&rotation.new, &ca) && !joins(&old, &ca));
    let again = MeshCa::open(dir.path(), &domain(), now).unwrap();
    assert_eq!((again.bundle(), again.rotation()), (after, None));
    assert!(ca.advance(rotation, now).unwrap() == Step::Passed && ca.abort(now).is_err(), "there is none");
}

#[test]
fn a_rotation_that_is_broken_off_ends_with_the_old_root_alone() {
    let dir = tempfile::tempdir().unwrap();
    let now = SystemTime::now();
    let ca = MeshCa::open(dir.path(), &domain(), now).unwrap();
    let before = ca.bundle();
    ca.rotate(now).unwrap();
    assert_eq!(ca.abort(now).unwrap(), Step::Over, "nothing was signed by the new root");
    assert_eq!((ca.bundle(), ca.rotation()), (before.clone(), None));

    let rotation = ca.rotate(now).unwrap();
    let reissuing = at(ca.advance(rotation, now).unwrap());
    let both = ca.bundle();
    let returning = at(ca.abort(now).unwrap());
    assert_eq!(
        ca.advance(reissuing, now).unwrap(),
        Step::Passed,
        "the way back is not ended by who judged the way there"
    );
    assert_eq!(ca.rotation(), Some(returning));
    assert_eq!(
        (returning.stage, returning.target(), ca.abort(now).unwrap()),
        (Stage::Returning, rotation.old, Step::At(returning))
    );
    assert!(
        accepts(&before, &ca) && accepts(&both, &ca) && ca.bundle() == both,
        "those who have new certificates are trusted"
    );
    assert!(joins(&rotation.old, &ca) && joins(&rotation.new, &ca));
    assert_eq!(ca.advance(returning, now).unwrap(), Step::Over);
    assert_eq!((ca.bundle(), ca.root_fingerprint().unwrap()), (before, rotation.old));
    assert!(!dir.path().join("next.pem").exists());
}

#[test]
fn a_crash_at_any_step_of_a_rotation_leaves_one_that_goes_on() {
    let dir = tempfile::tempdir().unwrap();
    let now = SystemTime::now();
    let open = || MeshCa::open(dir.path(), &domain(), now).unwrap();
    let path = |name: &str| dir.path().join(name);
    let old = open().root_fingerprint().unwrap();
    let rotation = open().rotate(now).unwrap();
    for stage in [Stage::Publishing, Stage::Reissuing] {
        let again = open();
        assert_eq!(again.rotation().unwrap().stage, stage);
        assert_eq!(again.bundle().roots().len(), 2);
        assert!(accepts(&again.bundle(), &again));
        assert_eq!(again.root_fingerprint().unwrap(), if stage == Stage::Publishing { old } else { rotation.new });
        if stage == Stage::Publishing {
            // Cut between the new intermediate and the step: the old root signs again.
            again.advance(rotation, now).unwrap();
            let step = std::fs::read_to_string(path("rotation")).unwrap();
            std::fs::write(path("rotation"), step.replace("reissuing", "publishing")).unwrap();
            assert!(accepts(&TrustBundle::from_der(domain(), [open().root().to_vec()]).unwrap(), &open()));
            assert_eq!(open().root_fingerprint().unwrap(), old);
            let cut = open();
            cut.advance(cut.rotation().unwrap(), now).unwrap();
        }
    }
    // Cut between the end and the removal of the step.
    std::fs::rename(path("next.pem"), path("root.pem")).unwrap();
    assert_eq!((open().rotation(), open().root_fingerprint().unwrap()), (None, rotation.new));
    assert!(!path("rotation").exists());
    // A new root that was made and never published.
    std::fs::copy(path("root.pem"), path("next.pem")).unwrap();
    assert_eq!(open().bundle().roots().len(), 1);
    assert!(!path("next.pem").exists());
    // What is no step is not guessed at.
    std::fs::write(path("rotation"), "soon").unwrap();
    let error = MeshCa::open(dir.path(), &domain(), now).unwrap_err().to_string();
    assert!(error.contains("rotation is no step of a rotation"), "{error}");
}

#[test]
fn a_certificate_says_to_which_of_the_trusted_roots_it_leads() {
    let ca = MeshCa::ephemeral(&domain(), SystemTime::now()).unwrap();
    let rotation = ca.rotate(SystemTime::now()).unwrap();
    let issue = || ca.issue(&cart(), None, SystemTime::now()).unwrap();
    assert_eq!(crate::Identity::new(issue(), ca.bundle()).root(), Some(rotation.old));
    ca.advance(rotation, SystemTime::now()).unwrap();
    assert_eq!(crate::Identity::new(issue(), ca.bundle()).root(), Some(rotation.new));
    let other = MeshCa::ephemeral(&domain(), SystemTime::now()).unwrap();
    assert_eq!(crate::Identity::new(issue(), other.bundle()).root(), None);
}
