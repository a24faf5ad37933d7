//! Tests of revocation lists: what is refused as one, and what a good one says.

use std::time::Duration;

use super::*;
use crate::ca::{MeshCa, Reason, Revocation};
use crate::error::unix_time;
use crate::tls::verify::{self, Side};
use crate::{Identity, LiveIdentity, PeerFault, Svid, TrustBundles};
use std::sync::{Arc, Mutex};

fn ca() -> MeshCa {
    MeshCa::ephemeral(&"weft.test".parse().unwrap(), SystemTime::now()).unwrap()
}

fn id(account: &str) -> SpiffeId {
    SpiffeId::workload(&"weft.test".parse().unwrap(), "shop", account).unwrap()
}

fn issue(ca: &MeshCa, account: &str) -> (Svid, Revocation) {
    let key = crate::KeyPair::generate().unwrap();
    let issued = ca.sign(&key.csr().unwrap(), &id(account), None, SystemTime::now()).unwrap();
    let (issuer, serial) = (issued.issuer, issued.serial);
    let revocation = Revocation { issuer, serial, at: SystemTime::now(), reason: Reason::KeyCompromise };
    (Svid::new(issued.chain, &key).unwrap(), revocation)
}

fn judged(bundle: &TrustBundle, svid: &Svid) -> Result<(), PeerFault> {
    let bundles = TrustBundles::from(bundle.clone());
    let now = unix_time(SystemTime::now());
    [Side::Client, Side::Server]
        .into_iter()
        .try_for_each(|side| verify::chain(&bundles, svid.id(), svid.chain(), now, side))
}

#[test]
fn what_is_on_the_list_is_refused_and_nothing_else() {
    let ca = ca();
    let ((cart, revoked), (other, _)) = (issue(&ca, "cart"), issue(&ca, "cart"));
    let before = ca.bundle();
    assert!(before.revocations().is_empty(), "no list where nothing was revoked");
    ca.revoke(vec![revoked], SystemTime::now()).unwrap();
    let bundle = ca.bundle();
    assert_eq!(judged(&bundle, &cart), Err(PeerFault::Revoked));
    assert_eq!((judged(&bundle, &other), judged(&before, &cart)), (Ok(()), Ok(())));
    let [list] = bundle.revocations() else { panic!("{bundle:?}") };
    assert_eq!(list.len(), 1);
    assert!(list.next_update() > SystemTime::now() + Duration::from_secs(23 * 3600));
    // As it travels.
    let back = RevocationList::new(&before, list.der().to_vec(), list.issuer().to_vec()).unwrap();
    assert_eq!(judged(&before.with_revocations([back]), &cart), Err(PeerFault::Revoked));
    ca.revoke(Vec::new(), SystemTime::now()).unwrap();
    assert_eq!(judged(&ca.bundle(), &cart), Ok(()));
}

#[test]
fn a_key_that_no_longer_signs_still_revokes_while_it_is_trusted() {
    let directory = tempfile::tempdir().unwrap();
    let (domain, now) = ("weft.test".parse().unwrap(), SystemTime::now());
    let ca = MeshCa::open(directory.path(), &domain, now).unwrap();
    let (cart, revoked) = issue(&ca, "cart");
    let rotation = ca.rotate(now).unwrap();
    let crate::ca::Step::At(rotation) = ca.advance(rotation, now).unwrap() else { panic!() };
    let (later, also) = issue(&ca, "cart");
    // A restart has the key as well.
    for ca in [ca, MeshCa::open(directory.path(), &domain, now).unwrap()] {
        ca.revoke(vec![revoked.clone(), also.clone()], now).unwrap();
        let bundle = ca.bundle();
        assert_eq!(bundle.revocations().len(), 2, "one for each key");
        assert_eq!(judged(&bundle, &cart), Err(PeerFault::Revoked));
        assert_eq!(judged(&bundle, &later), Err(PeerFault::Revoked));
    }
    let ca = MeshCa::open(directory.path(), &domain, now).unwrap();
    ca.revoke(vec![revoked, also], now).unwrap();
    ca.advance(rotation, now).unwrap();
    assert_eq!(ca.bundle().revocations().len(), 1, "what the old root vouched for is worth nothing anyway");
    assert!(matches!(judged(&ca.bundle(), &cart), Err(PeerFault::UntrustedChain { .. })));
    let files = std::fs::read_dir(directory.path()).unwrap().flatten();
    let retired = files.filter(|file| file.file_name().to_string_lossy().starts_with("retired-"));
    assert_eq!(retired.count(), 0);
}

#[test]
fn a_list_of_anybody_else_is_refused_with_the_reason() {
    let (ca, stranger) = (ca(), ca());
    let (_, revoked) = issue(&stranger, "cart");
    stranger.revoke(vec![revoked], SystemTime::now()).unwrap();
    let theirs = stranger.bundle().revocations()[0].clone();
    let (_, revoked) = issue(&ca, "cart");
    ca.revoke(vec![revoked], SystemTime::now()).unwrap();
    let bundle = ca.bundle();
    let ours = bundle.revocations()[0].clone();
    let mut broken = ours.der().to_vec();
    *broken.last_mut().unwrap() ^= 1;
    for (list, issuer, reason) in [
        (theirs.der().to_vec(), theirs.issuer().to_vec(), "leads to no root held here"),
        (theirs.der().to_vec(), ours.issuer().to_vec(), "is not signed by"),
        (broken, ours.issuer().to_vec(), "is not signed by"),
        (ours.der().to_vec(), Vec::new(), "comes without its issuer"),
        (b"nonsense".to_vec(), ours.issuer().to_vec(), "is no CRL"),
        ([ours.der(), b"more"].concat(), ours.issuer().to_vec(), "bytes after its end"),
    ] {
        let error = RevocationList::new(&bundle, list, issuer).unwrap_err().to_string();
        assert!(error.starts_with("revocation list of \"weft.test\" ") && error.contains(reason), "{error}");
    }
}

#[test]
fn open_connections_of_who_is_revoked_are_cut_and_the_others_stay() {
    let ca = ca();
    let live = LiveIdentity::new(Identity::new(issue(&ca, "web").0, ca.bundle()));
    let ((cart, revoked), (other, _)) = (issue(&ca, "cart"), issue(&ca, "orders"));
    let cut = Arc::new(Mutex::new(Vec::new()));
    let watch = |svid: &Svid| {
        let cut = cut.clone();
        live.watch(svid.chain(), move |id, fault| cut.lock().unwrap().push((id.clone(), fault.clone()))).unwrap()
    };
    let (first, second, gone) = (watch(&cart), watch(&other), watch(&cart));
    drop(gone);
    ca.revoke(vec![revoked], SystemTime::now()).unwrap();
    let generation = live.generation();
    assert!(live.replace_bundle(&ca.bundle()));
    assert_eq!(live.generation(), generation, "nobody else has to connect anew");
    assert_eq!(*cut.lock().unwrap(), [(id("cart"), PeerFault::Revoked)]);
    // One whose handshake was before, and that is minded only now.
    let late = watch(&cart);
    assert_eq!(cut.lock().unwrap().len(), 2);
    drop((first, second, late));
    assert!(!live.is_revoked());
}

#[test]
fn who_is_revoked_knows_it_of_itself() {
    let ca = ca();
    let (own, revoked) = issue(&ca, "cart");
    let live = LiveIdentity::new(Identity::new(own, ca.bundle()));
    ca.revoke(vec![revoked], SystemTime::now()).unwrap();
    live.replace_bundle(&ca.bundle());
    assert!(live.is_revoked());
    live.replace_svid(issue(&ca, "cart").0).unwrap();
    assert!(!live.is_revoked());
}

#[test]
fn members_of_a_domain_that_is_no_longer_trusted_are_cut() {
    let ca = ca();
    let elsewhere = "elsewhere.test".parse().unwrap();
    let foreign = MeshCa::ephemeral(&elsewhere, SystemTime::now()).unwrap();
    let peer = SpiffeId::workload(&elsewhere, "shop", "cart").unwrap();
    let peer = foreign.issue(&peer, None, SystemTime::now()).unwrap();
    let live = LiveIdentity::new(Identity::new(issue(&ca, "web").0, ca.bundle()));
    live.replace_bundle(&foreign.bundle());
    let cut = Arc::new(Mutex::new(0));
    let counted = cut.clone();
    let watched = live.watch(peer.chain(), move |_, _| *counted.lock().unwrap() += 1).unwrap();
    assert_eq!(*cut.lock().unwrap(), 0);
    assert!(live.remove_bundle(&elsewhere) && !live.remove_bundle(&elsewhere));
    assert_eq!(*cut.lock().unwrap(), 1);
    assert!(!live.remove_bundle(ca.trust_domain()), "its own is trusted for ever");
    drop(watched);
}

/// A root that signs leaves and lists itself, as small PKIs do, and one leaf of it with its list.
fn small() -> (TrustBundle, Svid, Vec<u8>) {
    use rcgen::{CertificateParams, CertificateRevocationListParams, CertifiedIssuer, IsCa, KeyUsagePurpose as Usage};
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    params.key_usages = vec![Usage::KeyCertSign, Usage::CrlSign];
    let root = CertifiedIssuer::self_signed(params, rcgen::KeyPair::generate().unwrap()).unwrap();
    let mut params = CertificateParams::default();
    params.subject_alt_names = vec![rcgen::SanType::URI(id("cart").as_str().try_into().unwrap())];
    params.key_usages = vec![Usage::DigitalSignature];
    params.extended_key_usages =
        vec![rcgen::ExtendedKeyUsagePurpose::ServerAuth, rcgen::ExtendedKeyUsagePurpose::ClientAuth];
    params.serial_number = Some(vec![7; 8].into());
    let key = rcgen::KeyPair::generate().unwrap();
    let leaf = params.signed_by(&key, &root).unwrap();
    let now = time::OffsetDateTime::now_utc();
    let list = CertificateRevocationListParams {
        this_update: now,
        next_update: now + Duration::from_secs(3600),
        crl_number: 1.into(),
        issuing_distribution_point: None,
        revoked_certs: vec![rcgen::RevokedCertParams {
            serial_number: vec![7; 8].into(),
            revocation_time: now,
            reason_code: None,
            invalidity_date: None,
        }],
        key_identifier_method: rcgen::KeyIdMethod::Sha256,
    };
    let list = list.signed_by(&root).unwrap().der().to_vec();
    let bundle = TrustBundle::from_der_sequence("weft.test".parse().unwrap(), root.der()).unwrap();
    (bundle, Svid::from_der(leaf.der(), &key.serialize_der()).unwrap(), list)
}

#[test]
fn the_list_of_a_root_that_signs_leaves_itself_is_found_and_cuts_what_is_open() {
    let (bundle, svid, list) = small();
    assert_eq!((judged(&bundle, &svid), svid.chain().len()), (Ok(()), 1));
    let live = LiveIdentity::new(Identity::new(svid, bundle.clone()));
    let cut = Arc::new(Mutex::new(0));
    let counted = cut.clone();
    let peer = live.current().svid.clone();
    let watched = live.watch(peer.chain(), move |_, _| *counted.lock().unwrap() += 1).unwrap();
    let mut bundles = TrustBundles::from(bundle.clone());
    assert!(bundles.revoke(vec![list.clone()], &[]).is_empty());
    let revoked = bundles.get(bundle.trust_domain()).unwrap().clone();
    assert_eq!(judged(&revoked, &peer), Err(PeerFault::Revoked));
    live.replace_bundle(&revoked);
    assert_eq!(*cut.lock().unwrap(), 1);
    assert!(live.is_revoked());
    drop(watched);
    // Whose issuer nobody knows is no list.
    let mut stranger = TrustBundles::from(ca().bundle());
    let refused = stranger.revoke(vec![list], &[]);
    assert!(refused[0].to_string().contains("comes without its issuer's certificate"), "{refused:?}");
}

#[test]
fn lists_of_intermediates_are_found_by_the_chains_that_are_at_hand_and_kept_in_files() {
    let ca = ca();
    let (cart, revoked) = issue(&ca, "cart");
    let (own, _) = issue(&ca, "web");
    let roots = ca.bundle();
    ca.revoke(vec![revoked], SystemTime::now()).unwrap();
    let list = ca.bundle().revocations()[0].der().to_vec();
    let mut bundles = TrustBundles::from(roots);
    assert!(bundles.revoke(vec![list.clone()], own.chain()).is_empty());
    assert_eq!(judged(bundles.get(ca.trust_domain()).unwrap(), &cart), Err(PeerFault::Revoked));
    let directory = tempfile::tempdir().unwrap();
    Identity::new(own, bundles.clone()).write_files(directory.path()).unwrap();
    let read = || Identity::from_files(directory.path());
    assert_eq!(*read().unwrap().bundles, bundles);
    // Alone, as openssl writes it: the issuer is in the own chain.
    std::fs::write(directory.path().join("crls.pem"), crate::pem::encode("X509 CRL", &list)).unwrap();
    assert_eq!(*read().unwrap().bundles, bundles);
    std::fs::write(directory.path().join("crls.pem"), crate::pem::encode("X509 CRL", b"nonsense")).unwrap();
    assert!(read().unwrap_err().to_string().contains("is no CRL in DER"));
    std::fs::remove_file(directory.path().join("crls.pem")).unwrap();
    assert!(read().unwrap().bundles.iter().all(|bundle| bundle.revocations().is_empty()));
}
