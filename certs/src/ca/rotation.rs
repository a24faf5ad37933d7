//! Changing the root under a mesh that runs: both roots are trusted, then the new one signs, then the old one is no longer trusted. Each
//! step waits for every sidecar; whoever drives it knows when (`weft_control::identity::rotation`). Here: what the authority signs with and
//! vouches for at each step, and that a crash between any two writes leaves a step that can go on.
//!
//! Files beside `root.pem`: `next.pem`, the new root with its key, and `rotation`, the step. The step is written after what it needs and
//! removed before it; the end of a rotation is one rename.

use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use super::lists::retired_path;
use super::{Signer, Vault};
use crate::error::Error;
use crate::files;
use crate::fingerprint::Fingerprint;

/// How far a rotation is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// Both roots are trusted, the old one signs. Until every sidecar has both.
    Publishing,
    /// Both roots are trusted, the new one signs, and what the old one signed is reissued. Until every sidecar has a new certificate.
    Reissuing,
    /// As [`Stage::Reissuing`] with the roots the other way round: the rotation was broken off.
    Returning,
}

impl Stage {
    /// As it is written and shown.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Publishing => "publishing",
            Self::Reissuing => "reissuing",
            Self::Returning => "returning",
        }
    }
}

/// What became of a step that was asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// The rotation stands here now.
    At(Rotation),
    /// That was the last one: a single root is trusted.
    Over,
    /// None was taken: the rotation is no longer the one that was judged.
    Passed,
}

/// A rotation under way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rotation {
    /// How far it is.
    pub stage: Stage,
    /// The root that was trusted alone before.
    pub old: Fingerprint,
    /// The root that is to be trusted alone.
    pub new: Fingerprint,
    /// Certificates issued before this are to be reissued at once; seconds since the Unix epoch, zero: none.
    pub reissue_after: u64,
}

impl Rotation {
    /// The root that everybody's certificates are to lead to in the end, as far as it is decided.
    pub fn target(&self) -> Fingerprint {
        match self.stage {
            Stage::Publishing | Stage::Reissuing => self.new,
            Stage::Returning => self.old,
        }
    }

    /// From the root of one certificate to that of another.
    pub(super) fn between(stage: Stage, old: &[u8], new: &[u8]) -> Result<Self, Error> {
        let (old, new) = (Fingerprint::of_public_key(old)?, Fingerprint::of_public_key(new)?);
        Ok(Self { stage, old, new, reissue_after: 0 })
    }

    pub(super) fn to(self, stage: Stage, now: SystemTime) -> Self {
        let now = now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or(Duration::ZERO);
        Self { stage, reissue_after: now.as_secs(), ..self }
    }

    fn to_text(self) -> String {
        format!("{}\n{}\n{}\n{}\n", self.stage.name(), self.old, self.new, self.reissue_after)
    }

    fn parse(text: &str) -> Option<Self> {
        let mut lines = text.lines();
        let stage = lines.next()?;
        let stage = [Stage::Publishing, Stage::Reissuing, Stage::Returning].into_iter().find(|s| s.name() == stage)?;
        let (old, new) = (lines.next()?.parse().ok()?, lines.next()?.parse().ok()?);
        Some(Self { stage, old, new, reissue_after: lines.next()?.parse().ok()? })
    }
}

/// Where an authority keeps its roots.
#[derive(Debug, Clone)]
pub(super) struct Files(PathBuf, Vault);

impl Files {
    pub fn of(directory: &Path, vault: &Vault) -> Self {
        Self(directory.to_owned(), vault.clone())
    }

    pub fn root(&self) -> PathBuf {
        self.0.join("root.pem")
    }

    pub fn next(&self) -> PathBuf {
        self.0.join("next.pem")
    }

    pub fn issuing(&self) -> PathBuf {
        self.0.join("issuing.pem")
    }

    /// Puts the intermediate's key away for a new one: what it signed may have to be revoked.
    pub fn retire(&self, key: &Fingerprint) -> Result<(), Error> {
        let path = self.issuing();
        match path.exists() {
            true => files::rename(&path, &retired_path(&self.0, key)),
            false => Ok(()),
        }
    }

    pub fn vault(&self) -> &Vault {
        &self.1
    }

    pub fn directory(&self) -> &Path {
        &self.0
    }

    fn step(&self) -> PathBuf {
        self.0.join("rotation")
    }

    /// The rotation under way and its other root, given the one in `root.pem`. Finishes what a crash left between two writes.
    pub fn resume(&self, root: &Signer) -> Result<Option<(Rotation, Signer)>, Error> {
        let Some(text) = files::read_if_exists(&self.step())? else {
            // Made and not begun, or broken off and not removed.
            files::remove(&self.next())?;
            return Ok(None);
        };
        let bad = |reason: &str| Error::configuration(self.step().display().to_string(), reason);
        let rotation = Rotation::parse(&text).ok_or_else(|| bad("is no step of a rotation"))?;
        let current = Fingerprint::of_public_key(&root.certificate)?;
        match Signer::load(&self.next(), &self.1)? {
            Some(next) if current == rotation.old && Fingerprint::of_public_key(&next.certificate)? == rotation.new => {
                Ok(Some((rotation, next)))
            }
            None if current == rotation.new => {
                files::remove(&self.step())?;
                Ok(None)
            }
            _ => Err(bad("is of a rotation whose roots are not those beside it")),
        }
    }

    pub fn write(&self, rotation: Rotation) -> Result<(), Error> {
        files::write_private(&self.step(), rotation.to_text().as_bytes())
    }

    /// The new root takes the place of the old one.
    pub fn finish(&self) -> Result<(), Error> {
        files::rename(&self.next(), &self.root())?;
        files::remove(&self.step())
    }

    /// The old root stays.
    pub fn give_up(&self) -> Result<(), Error> {
        files::remove(&self.step())?;
        files::remove(&self.next())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_step_survives_its_text_and_nothing_else_is_one() {
        let rotation = Rotation {
            stage: Stage::Returning,
            old: Fingerprint::of(b"old"),
            new: Fingerprint::of(b"new"),
            reissue_after: 7,
        };
        assert_eq!(Rotation::parse(&rotation.to_text()), Some(rotation));
        for text in ["", "publishing\n", "away\nab\nab\n0\n", &rotation.to_text().replace('7', "-7")] {
            assert_eq!(Rotation::parse(text), None, "{text}");
        }
    }
}
