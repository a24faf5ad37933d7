//! Tests of revocation: what is out is known, what is revoked stays revoked, and what has expired leaves.

use super::*;
use crate::store::{Embedded, Options};
use std::path::Path;
use weft_certs::{KeyPair, MeshCa};

struct Rig {
    directory: tempfile::TempDir,
    authority: Arc<Authority>,
    revoker: Arc<Revoker>,
}

async fn open(directory: tempfile::TempDir) -> Rig {
    let path = directory.path();
    let ca = MeshCa::open(&path.join("identity"), &"weft.test".parse().unwrap(), SystemTime::now()).unwrap();
    let authority = Authority::new(ca).unwrap();
    let ledger = Ledger::new(Arc::new(store(path)));
    let audit = Arc::new(Audit::open(&path.join("audit")).unwrap());
    let revoker = Revoker::open(authority.clone(), ledger, audit).await.unwrap();
    Rig { directory, authority, revoker }
}

fn store(path: &Path) -> Embedded {
    Embedded::open(&path.join("weft.redb"), Options::default()).unwrap()
}

fn id(account: &str) -> SpiffeId {
    SpiffeId::workload(&"weft.test".parse().unwrap(), "shop", account).unwrap()
}

impl Rig {
    async fn issue(&self, account: &str, ttl: Option<Duration>) -> Issued {
        let issuing = self.revoker.issuing().await;
        let csr = KeyPair::generate().unwrap().csr().unwrap();
        let issued = self.authority.ca().sign(&csr, &id(account), ttl, SystemTime::now()).unwrap();
        issuing.record(&issued).await.unwrap();
        issued
    }

    fn refused(&self, issued: &Issued) -> bool {
        let bundle = self.authority.ca().bundle();
        let own = self.authority.live().current();
        assert_eq!(own.bundles.get(bundle.trust_domain()), Some(&bundle), "the control plane refuses as sidecars do");
        bundle.revokes(&issued.issuer, &issued.serial)
    }
}

#[tokio::test]
async fn an_identity_loses_every_certificate_it_has_and_may_not_renew_them_but_gets_new_ones() {
    let rig = open(tempfile::tempdir().unwrap()).await;
    let (first, second, other) =
        (rig.issue("cart", None).await, rig.issue("cart", None).await, rig.issue("web", None).await);
    let later = SystemTime::now() + Duration::from_secs(5);
    let done = rig.revoker.revoke(&Subject::Identity(id("cart")), Reason::KeyCompromise, later).await.unwrap();
    assert_eq!(done.len(), 2);
    assert!(rig.refused(&first) && rig.refused(&second) && !rig.refused(&other));
    assert!(!rig.revoker.issuing().await.may_renew(&id("cart").to_string(), first.not_before));
    assert!(rig.revoker.issuing().await.may_renew(&id("web").to_string(), other.not_before));
    let told = rig.authority.trust().borrow().revocations.len();
    assert_eq!(told, 1);
    let rejoined = rig.issue("cart", None).await;
    assert!(!rig.refused(&rejoined));
    let again = rig.revoker.revoke(&Subject::Identity(id("nobody")), Reason::Unspecified, later).await.unwrap();
    assert!(again.is_empty(), "nothing that it had, and nothing that it may renew");
    // A restart knows it all.
    let Rig { directory, authority, revoker } = rig;
    drop((authority, revoker));
    let rig = open(directory).await;
    assert!(rig.refused(&first) && !rig.refused(&rejoined));
    assert_eq!(rig.revoker.revoked().await.len(), 2);
    assert!(!rig.revoker.issuing().await.may_renew(&id("cart").to_string(), first.not_before));
}

#[tokio::test]
async fn one_certificate_is_revoked_by_its_serial_number_as_openssl_or_weft_write_it() {
    let rig = open(tempfile::tempdir().unwrap()).await;
    let (first, second) = (rig.issue("cart", None).await, rig.issue("cart", None).await);
    let now = SystemTime::now();
    let colons = first.serial.iter().map(|b| format!("{b:02X}")).collect::<Vec<_>>().join(":");
    let done = rig.revoker.revoke(&Subject::Serial(colons.clone()), Reason::Superseded, now).await.unwrap();
    assert_eq!(
        (done.len(), done[0].identity.as_str(), done[0].reason.as_str()),
        (1, &*id("cart").to_string(), "superseded")
    );
    assert!(rig.refused(&first) && !rig.refused(&second));
    for (serial, why) in
        [(colons.as_str(), "revoked already"), ("ab", "no certificate that is valid"), ("zz", "no serial")]
    {
        let error = rig.revoker.revoke(&Subject::Serial(serial.into()), Reason::Unspecified, now).await.unwrap_err();
        assert!(error.to_string().contains(why), "{error}");
    }
    for (refused, why) in [
        (SpiffeId::control_plane(&"weft.test".parse().unwrap()), "the control plane itself"),
        ("spiffe://other.test/ns/shop/sa/cart".parse().unwrap(), "not of trust domain"),
    ] {
        let error = rig.revoker.revoke(&Subject::Identity(refused), Reason::Unspecified, now).await.unwrap_err();
        assert!(error.to_string().contains(why), "{error}");
    }
}

#[tokio::test]
async fn what_has_expired_leaves_the_list_and_lists_are_signed_anew_in_time() {
    let rig = open(tempfile::tempdir().unwrap()).await;
    let now = SystemTime::now();
    let (short, long) = (rig.issue("cart", Some(Duration::from_secs(20))).await, rig.issue("cart", None).await);
    rig.revoker.revoke(&Subject::Identity(id("cart")), Reason::Unspecified, now).await.unwrap();
    let first = rig.authority.ca().bundle();
    rig.revoker.sweep(now).await.unwrap();
    assert_eq!(rig.authority.ca().bundle(), first, "nothing to do");
    let expired = now + Duration::from_secs(20 + GRACE + 5);
    rig.revoker.sweep(expired).await.unwrap();
    assert_eq!(rig.revoker.revoked().await.len(), 1);
    assert!(!rig.refused(&short) && rig.refused(&long));
    let before = rig.authority.ca().bundle().revocations()[0].next_update();
    rig.revoker.sweep(now + LIST_VALIDITY / 2 + Duration::from_secs(400)).await.unwrap();
    // Signed by the clock of the machine, which a test cannot turn: it is another list.
    assert!(rig.authority.ca().bundle().revocations()[0].next_update() >= before);
    rig.revoker.sweep(now + Duration::from_secs(2 * 24 * 3600)).await.unwrap();
    assert!(rig.authority.ca().bundle().revocations().is_empty() && rig.revoker.revoked().await.is_empty());
    assert!(rig.revoker.issuing().await.may_renew(&id("cart").to_string(), long.not_before));
}
