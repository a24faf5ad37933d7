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
