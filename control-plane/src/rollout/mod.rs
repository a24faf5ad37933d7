//! Staged rollouts: a change of a policy or route is in force for a sample of the sidecars that it is about, then for all, or for none.
//!
//! What stands in the API is what people want; what sidecars get may be behind. [`book`] holds changes back: it makes of a world the one that
//! all get and the one that the sample gets. [`judge`] says from counts whether a change makes calls worse, [`sample`] picks who gets it first,
//! [`object`] knows the kinds; these are pure. [`record`] keeps in the store what was in force before and how far each change has got, so that
//! a restart goes on and never lets in what was rolled back. [`conduct`] does what was decided: only the control plane that leads does.

pub mod book;
pub mod conduct;
pub mod judge;
pub mod object;
pub mod record;
pub mod sample;

pub use book::{Plan, Rollouts};

use crate::compile::Kind;
use crate::kinds::{self, Wish};
use crate::world::World;
use object::{Id, Object};
use std::time::Duration;

/// By how much a change may make calls worse, and how long that is looked at.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Limits {
    /// How long the sample has a change before all get it.
    pub duration: Duration,
    /// By how much the share of failed calls may rise, 0 to 1.
    pub errors: f64,
    /// By how much the share of refused calls may rise, 0 to 1.
    pub refusals: f64,
}

/// How a change is rolled out.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Terms {
    /// Of the sidecars that it is about.
    pub percent: u8,
    /// So many at least.
    pub minimum: usize,
    /// What is too bad.
    pub limits: Limits,
}

impl Terms {
    fn of(rollout: &kinds::Rollout) -> Self {
        let points = |given: Option<f64>| given.unwrap_or(1.0).clamp(0.0, 100.0) / 100.0;
        Self {
            percent: rollout.percent.unwrap_or(5).clamp(1, 50),
            minimum: usize::from(rollout.minimum.unwrap_or(1)).max(1),
            limits: Limits {
                duration: rollout.duration.map_or(Duration::from_secs(60), |given| given.0),
                errors: points(rollout.max_error_increase),
                refusals: points(rollout.max_refusal_increase),
            },
        }
    }

    /// How a change of an object is rolled out: as its annotation says, else as the settings do; `None`: all get it at once.
    fn for_object(world: &World, id: &Id, object: &Object) -> Option<Self> {
        let settings = world.settings().and_then(|settings| settings.spec.rollout.as_ref());
        let concerns = |rollout: &&kinds::Rollout| {
            rollout.kinds.is_empty() || rollout.kinds.iter().any(|named| object::kind_of(*named) == id.kind)
        };
        match object.wish() {
            Some(Wish::Off) => None,
            Some(Wish::Percent(percent)) => {
                Some(Self { percent, ..Self::of(settings.unwrap_or(&kinds::Rollout::default())) })
            }
            None => settings.filter(concerns).map(Self::of),
        }
    }
}

/// Whether an object is of a kind that can be rolled out, for those who read names.
fn kind_named(name: &str) -> Option<Kind> {
    object::KINDS.into_iter().find(|kind| kind.name() == name)
}

#[cfg(test)]
mod tests;
