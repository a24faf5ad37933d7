//! Which changes are held back, and what is in force instead.
//!
//! Without I/O and clock: worlds and records come in, plans come out. A change is held back from the moment that it is seen, whether or not
//! anybody has decided about it yet; what is decided arrives as a record.

use super::Terms;
use super::object::{self, Id, Object};
use super::record::{Progress, Record};
use crate::compile::{Note, Stage, Verdict};
use crate::world::World;
use parking_lot::Mutex;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use tokio::sync::watch;

/// What is compiled for whom.
#[derive(Clone, Debug, Default)]
pub struct Plan {
    /// For all; `None`: the world as it is.
    pub stable: Option<Arc<World>>,
    /// For the sample, and to learn what becomes of changes that nobody has yet.
    pub trial: Option<World>,
    /// Who is in the sample; nobody yet where it is empty.
    pub sample: Arc<BTreeSet<String>>,
    /// To learn the fate of changes that nobody is about to get.
    pub unknown: Option<World>,
}

/// A change that is held back.
#[derive(Clone, Debug)]
pub struct Held {
    /// Which object.
    pub id: Id,
    /// `metadata.uid`
    pub uid: String,
    /// The edition that is held back.
    pub generation: i64,
    /// What is in force instead; `None`: nothing.
    pub last_good: Option<Object>,
    /// How it is rolled out.
    pub terms: Terms,
    /// What the compiler says of it, once it was compiled.
    pub verdict: Option<Arc<Verdict>>,
    /// How far it has got; `None`: nobody has written anything about it yet.
    pub progress: Option<Progress>,
    /// Of the record that there is, whatever edition it is of.
    pub revision: Option<u64>,
}

impl Held {
    fn stage(&self) -> Stage {
        match &self.progress {
            Some(Progress::Trying { .. }) => Stage::Trying,
            Some(Progress::RolledBack { .. }) => Stage::RolledBack,
            Some(Progress::Waiting | Progress::Promoted { .. }) | None => Stage::Waiting,
        }
    }

    /// Its record with other progress.
    #[must_use]
    pub fn record(&self, progress: Progress) -> Record {
        let last_good = match progress {
            Progress::Promoted { .. } => None,
            _ => self.last_good.as_ref().map(Object::document),
        };
        Record { uid: self.uid.clone(), generation: self.generation, progress, last_good }
    }

    fn message(&self, first: Option<&Id>) -> String {
        let generation = self.generation;
        match &self.progress {
            Some(Progress::Trying { sample, of, .. }) => format!(
                "{} of {of} sidecars run generation {generation} for {}, then all do unless calls become worse",
                sample.len(),
                crate::kinds::Duration(self.terms.limits.duration)
            ),
            Some(Progress::RolledBack { message }) => {
                format!("generation {generation} is rolled back, what was in force before stays so: {message}")
            }
            _ => match first {
                Some(first) => format!("generation {generation} waits for the rollout of {first}"),
                None => format!("generation {generation} waits: first it is seen how calls are without it"),
            },
        }
    }
}

#[derive(Debug, Default)]
struct Book {
    /// What could be rolled out of the world before; `None`: there was none.
    seen: Option<World>,
    held: BTreeMap<Id, Held>,
    /// With their revisions.
    records: BTreeMap<Id, (u64, Record)>,
}

/// All rollouts. Cheap to share.
#[derive(Debug)]
pub struct Rollouts {
    book: Mutex<Book>,
    changed: watch::Sender<u64>,
}

impl Default for Rollouts {
    fn default() -> Self {
        Self { book: Mutex::default(), changed: watch::Sender::new(0) }
    }
}

impl Rollouts {
    /// Changes when another plan follows from the same world.
    #[must_use]
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }

    /// A record was written at this revision, or taken away. What is older than what is known says nothing.
    pub fn note(&self, id: Id, revision: u64, record: Option<Record>) {
        {
            let book = &mut *self.book.lock();
            if book.records.get(&id).is_some_and(|(known, _)| *known >= revision) {
                return;
            }
            match record {
                Some(record) => drop(book.records.insert(id.clone(), (revision, record))),
                None => drop(book.records.remove(&id)),
            }
            book.settle(&id);
        }
        self.changed.send_modify(|n| *n += 1);
    }

    /// These are all records that there are.
    pub fn replace(&self, records: BTreeMap<Id, (u64, Record)>) {
        {
            let book = &mut *self.book.lock();
            book.records = records;
            let held: Vec<Id> = book.held.keys().cloned().collect();
            held.iter().for_each(|id| book.settle(id));
        }
        self.changed.send_modify(|n| *n += 1);
    }

    /// What is compiled of a world. Changes since the one before are held back from here on.
    #[must_use]
    pub fn stage(&self, world: &World) -> Plan {
        let mut book = self.book.lock();
        book.follow(world);
        book.plan(world)
    }

    /// The compiler says what becomes of changes that are held back.
    pub fn learn<'v>(&self, verdicts: impl Iterator<Item = &'v Arc<Verdict>>) {
        let mut book = self.book.lock();
        for verdict in verdicts {
            if let Some(held) = book.held.get_mut(&Id::of(verdict))
                && (held.generation, &held.uid) == (verdict.generation, &verdict.uid)
            {
                held.verdict = Some(verdict.clone());
            }
        }
    }

    /// The verdicts on what is in force for all, and on what is held back in the place of what is in force instead.
    #[must_use]
    pub fn verdicts(&self, of_all: &[Arc<Verdict>]) -> Vec<Arc<Verdict>> {
        let book = self.book.lock();
        let first = book.held.values().find(|held| held.stage() == Stage::Trying).map(|held| &held.id);
        let mut noted: BTreeMap<&Id, Arc<Verdict>> = BTreeMap::new();
        for (id, held) in &book.held {
            let Some(verdict) = &held.verdict else { continue };
            let mut verdict = Verdict::clone(verdict);
            // What is not accepted is told so; nobody gets it anyway.
            let note = || Note { stage: held.stage(), message: held.message(first) };
            verdict.rollout = verdict.is_accepted().then(note);
            noted.insert(id, Arc::new(verdict));
        }
        let mut all: Vec<_> =
            of_all.iter().map(|verdict| noted.remove(&Id::of(verdict)).unwrap_or_else(|| verdict.clone())).collect();
        all.extend(noted.into_values());
        all
    }

    /// What is held back now.
    #[must_use]
    pub fn held(&self) -> Vec<Held> {
        self.book.lock().held.values().cloned().collect()
    }

    /// Records that are of no use any more: of objects that went or changed since, or that need no rollout.
    #[must_use]
    pub fn useless(&self) -> Vec<(Id, u64)> {
        let book = self.book.lock();
        let Some(seen) = &book.seen else { return Vec::new() };
        let is_useless = |id: &Id, record: &Record| match object::get(seen, id) {
            _ if book.held.contains_key(id) => false,
            Some(object) => {
                let same = object.uid() == record.uid && object.generation() == record.generation;
                !same || !matches!(record.progress, Progress::Promoted { .. })
            }
            None => true,
        };
        let all = book.records.iter().filter(|(id, (_, record))| is_useless(id, record));
        all.map(|(id, (revision, _))| (id.clone(), *revision)).collect()
    }
}

impl Book {
    /// Holds back what changed, and lets go of what need not be held any more.
    fn follow(&mut self, world: &World) {
        let before = self.seen.replace(object::only(world));
        match &before {
            None => self.resume(world),
            Some(before) => {
                for (id, was, is) in object::changes(before, world) {
                    self.change(world, id, was, is);
                }
            }
        }
        self.held.retain(|id, held| {
            let Some(object) = object::get(world, id) else { return false };
            match (Terms::for_object(world, id, &object), object.wish()) {
                (Some(terms), _) => {
                    held.terms = terms;
                    true
                }
                // That nobody rolls out changes any more brings back nothing that failed; the object's own word does.
                (None, None) => held.stage() == Stage::RolledBack,
                (None, Some(_)) => false,
            }
        });
    }

    /// After a start: what was held back before is so still.
    fn resume(&mut self, world: &World) {
        for (id, (_, record)) in self.records.clone() {
            let Some(object) = object::get(world, &id).filter(|object| object.uid() == record.uid) else { continue };
            if matches!(record.progress, Progress::Promoted { .. }) {
                continue;
            }
            let last_good = record.last_good.as_ref().and_then(|document| Object::read(id.kind, document));
            let terms = Terms::for_object(world, &id, &object).unwrap_or_else(|| Terms::of(&Default::default()));
            self.hold(id, &object, last_good, terms);
        }
    }

    fn change(&mut self, world: &World, id: Id, was: Option<Object>, is: Option<Object>) {
        let Some(is) = is else {
            // What is deleted is gone at once.
            self.held.remove(&id);
            return;
        };
        let edition = |object: &Object| (object.uid().to_owned(), object.generation());
        if was.as_ref().is_some_and(|was| edition(was) == edition(&is)) {
            return;
        }
        let last_good = match self.held.remove(&id) {
            Some(held) => held.last_good,
            None => was,
        };
        let same = last_good.as_ref().is_some_and(|good| good.is_same(&is));
        // Both sides must change together, or they would not understand each other.
        let whole = is.concerns_both_sides() || last_good.as_ref().is_some_and(Object::concerns_both_sides);
        if let Some(terms) = Terms::for_object(world, &id, &is).filter(|_| !same && !whole) {
            self.hold(id, &is, last_good, terms);
        }
    }

    fn hold(&mut self, id: Id, object: &Object, last_good: Option<Object>, terms: Terms) {
        let held = Held {
            uid: object.uid().to_owned(),
            generation: object.generation(),
            last_good,
            terms,
            verdict: None,
            progress: None,
            revision: None,
            id: id.clone(),
        };
        self.held.insert(id.clone(), held);
        self.settle(&id);
    }

    /// Brings a change up to its record.
    fn settle(&mut self, id: &Id) {
        let Some(held) = self.held.get_mut(id) else { return };
        let record = self.records.get(id);
        held.revision = record.map(|(revision, _)| *revision);
        let own = record.filter(|(_, r)| (r.generation, &r.uid) == (held.generation, &held.uid));
        held.progress = own.map(|(_, record)| record.progress.clone());
        if matches!(held.progress, Some(Progress::Promoted { .. })) {
            self.held.remove(id);
        }
    }

    fn plan(&self, world: &World) -> Plan {
        if self.held.is_empty() {
            return Plan::default();
        }
        let mut stable = world.clone();
        for (id, held) in &self.held {
            object::put(&mut stable, id, held.last_good.clone());
        }
        let with = |chosen: &dyn Fn(&Held) -> bool| {
            let mut chosen = self.held.values().filter(|held| chosen(held)).peekable();
            chosen.peek()?;
            let mut changed = stable.clone();
            chosen.for_each(|held| object::put(&mut changed, &held.id, object::get(world, &held.id)));
            Some(changed)
        };
        let stage =
            if self.held.values().any(|held| held.stage() == Stage::Trying) { Stage::Trying } else { Stage::Waiting };
        let sampled = self.held.values().filter_map(|held| match &held.progress {
            Some(Progress::Trying { sample, .. }) => Some(sample),
            _ => None,
        });
        let sample = Arc::new(sampled.flatten().cloned().collect());
        let trial = with(&|held| held.stage() == stage);
        let unknown = with(&|held| held.stage() != stage && held.verdict.is_none());
        Plan { trial, sample, unknown, stable: Some(Arc::new(stable)) }
    }
}
