//! The steps by which a mesh comes to trust another root, one of its own or one of the PKI that it is part of: see `rotation` for what they
//! are, and `pki` for what files give. Who takes them, and when, is the control plane's business.

use std::sync::Arc;
use std::time::SystemTime;

use super::issue::new_root;
use super::mesh::{Keeper, MeshCa, Trust};
use super::pki::{Given, Pki, Present, Replaced};
use super::rotation::{Rotation, Stage, Step};
use super::{Vault, store};
use crate::error::Error;

impl MeshCa {
    /// Begins to rotate the root: makes a new one, which is trusted from now on and signs nothing yet. Refused while a rotation is under
    /// way, and where the root is that of an existing PKI.
    pub fn rotate(&self, now: SystemTime) -> Result<Rotation, Error> {
        let mut keeper = self.keeper();
        let Keeper::Own(own) = &mut *keeper else {
            let text = "the root is that of an existing PKI: rotate it there, and give the new files here";
            return Err(Error::Request(text.into()));
        };
        if self.rotation().is_some() {
            return Err(Error::Request("the root is being rotated already".into()));
        }
        let (next, key) = new_root(&self.domain, now)?;
        let rotation = Rotation::between(Stage::Publishing, &own.root.certificate, &next.certificate)?;
        if let Some(files) = &own.files {
            store(&files.next(), files.vault(), &next, &key)?;
            files.write(rotation)?;
        }
        own.next = Some(next);
        self.trust.store(Arc::new(own.trust(&self.domain, Some(rotation), now)?));
        Ok(rotation)
    }

    /// Signs with what files give from now on. Files that are wrong change nothing, and so do files while the roots are being replaced
    /// already. Other roots are published before anything is signed under them.
    pub fn replace(&self, pki: Pki<'_>, vault: &Vault, now: SystemTime) -> Result<Replaced, Error> {
        let next = Given::check(&self.domain, pki, vault, now)?;
        let mut keeper = self.keeper();
        let Keeper::Given(present) = &mut *keeper else {
            return Err(Error::Request("this authority has a root of its own".into()));
        };
        if next.is_same(&present.now) {
            return Ok(Replaced::Nothing);
        }
        if self.rotation().is_some() {
            return Err(Error::Request("the roots are being replaced already; these come after that".into()));
        }
        if next.is_under_the_root_of(&present.now) {
            present.now = next;
            let trust = present.trust(None)?;
            present.remember(&trust.bundle)?;
            self.trust.store(Arc::new(trust));
            let replaced = self.issuing.swap(present.now.issuing.clone());
            self.follow(Some(replaced), None, now);
            return Ok(Replaced::Issuer);
        }
        let rotation = Rotation::between(Stage::Publishing, &present.now.root, &next.root)?;
        present.next = Some(next);
        let trust = present.trust(Some(rotation))?;
        present.remember(&trust.bundle)?;
        self.trust.store(Arc::new(trust));
        Ok(Replaced::Roots(rotation))
    }

    /// The next step after `judged`, of which the asker knows that every sidecar has taken it. Nothing is done where the rotation is
    /// another by now: of that one nothing is known yet.
    pub fn advance(&self, judged: Rotation, now: SystemTime) -> Result<Step, Error> {
        let mut keeper = self.keeper();
        // Only who holds the lock changes it.
        let Some(rotation) = self.rotation().filter(|rotation| *rotation == judged) else { return Ok(Step::Passed) };
        match rotation.stage {
            Stage::Publishing => self.sign_with_the_other(&keeper, rotation.to(Stage::Reissuing, now), now),
            Stage::Reissuing => {
                match &mut *keeper {
                    Keeper::Own(own) => {
                        if let Some(files) = &own.files {
                            files.finish()?;
                        }
                        if let Some(next) = own.next.take() {
                            own.root = next;
                        }
                    }
                    Keeper::Given(present) => {
                        if let Some(next) = present.next.take() {
                            present.now = next;
                        }
                        present.before = None;
                    }
                }
                self.end(&keeper, now)
            }
            Stage::Returning => self.give_up(&mut keeper, now),
        }
    }

    /// Breaks the rotation under way off: at once when nothing was signed by the new root; otherwise what it signed is reissued by the old
    /// one first.
    pub fn abort(&self, now: SystemTime) -> Result<Step, Error> {
        let mut keeper = self.keeper();
        let not_rotated = || Error::Request("the root is not being rotated".into());
        let rotation = self.rotation().ok_or_else(not_rotated)?;
        if let Keeper::Given(present) = &*keeper
            && present.next.is_none()
        {
            let text = "what signed under the old root is not here: give its files again to return to it";
            return Err(Error::Request(text.into()));
        }
        match rotation.stage {
            Stage::Publishing => self.give_up(&mut keeper, now),
            Stage::Reissuing => self.sign_with_the_other(&keeper, rotation.to(Stage::Returning, now), now),
            Stage::Returning => Ok(Step::At(rotation)),
        }
    }

    fn give_up(&self, keeper: &mut Keeper, now: SystemTime) -> Result<Step, Error> {
        match keeper {
            Keeper::Own(own) => {
                if let Some(files) = &own.files {
                    files.give_up()?;
                }
                own.next = None;
            }
            Keeper::Given(present) => present.next = None,
        }
        self.end(keeper, now)
    }

    fn sign_with_the_other(&self, keeper: &Keeper, rotation: Rotation, now: SystemTime) -> Result<Step, Error> {
        let (trust, fresh, files) = match keeper {
            Keeper::Own(own) => {
                let trust = own.trust(&self.domain, Some(rotation), now)?;
                let fresh = self.new_intermediate(own, Some(rotation), now)?;
                if let Some(files) = &own.files {
                    files.write(rotation)?;
                }
                (trust, fresh, own.files.as_ref())
            }
            Keeper::Given(present) => {
                (present.trust(Some(rotation))?, present.signing(Some(rotation)).issuing.clone(), None)
            }
        };
        self.trust.store(Arc::new(trust));
        let replaced = self.issuing.swap(fresh);
        self.follow(Some(replaced), files, now);
        Ok(Step::At(rotation))
    }

    fn end(&self, keeper: &Keeper, now: SystemTime) -> Result<Step, Error> {
        let (trust, files) = match keeper {
            Keeper::Own(own) => (own.trust(&self.domain, None, now)?, own.files.as_ref()),
            Keeper::Given(present) => {
                let trust = present.trust(None)?;
                present.remember(&trust.bundle)?;
                (trust, None)
            }
        };
        self.trust.store(Arc::new(trust));
        self.follow(None, files, now);
        Ok(Step::Over)
    }
}

impl Present {
    /// The intermediate that signs.
    pub(super) fn signing(&self, rotation: Option<Rotation>) -> &Given {
        match (&self.next, rotation.map(|r| r.stage)) {
            (Some(next), Some(Stage::Reissuing)) => next,
            _ => &self.now,
        }
    }

    pub(super) fn trust(&self, rotation: Option<Rotation>) -> Result<Trust, Error> {
        let root = self.signing(rotation).root.clone();
        Ok(Trust { bundle: self.bundle()?, above: vec![root.clone()], root, rotation })
    }
}
