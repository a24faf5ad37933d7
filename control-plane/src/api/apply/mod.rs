//! Server-side apply: several managers write one object, each owns what it wrote, and who would take what is another's is told so.
//!
//! Pure: from an object, what is said of it, and who says it, to the next object and its `metadata.managedFields`. [`set`] is the algebra
//! of fields, [`shape`] how a value falls into fields along its schema, [`merge`] what an apply does to the value, [`managers`] who owns
//! what. Judging and storing the result is `resource::write`'s business.
//! Source: <https://kubernetes.io/docs/reference/using-api/server-side-apply/>, KEP-555.

mod managers;
mod merge;
mod set;
mod shape;
#[cfg(test)]
mod tests;

use serde_json::Value;

pub(super) use managers::{Managers, Operation, Writer};
pub(super) use shape::Schema;

use managers::Entry;
use merge::{give_up, lay_over};
use set::Set;
use shape::{Difference, claimed};

/// Who is said to own what was there before anybody applied, as Kubernetes names it.
const BEFORE: &str = "before-first-apply";
/// Where `kubectl apply` without `--server-side` keeps what it applied.
pub(super) const LAST_APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";
/// Managers that go on from that record: what it says of a field is their own word.
const HEIRS: [&str; 2] = ["kubectl", "weft"];

/// Which part of an object a writer may own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reach {
    /// All of it.
    All,
    /// All but `status`.
    Main,
    /// `status` alone.
    Status,
}

/// A field that another manager owns.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Conflict {
    /// `"ana"`
    pub manager: String,
    /// `.spec.ports`
    pub field: String,
}

/// Why a document cannot be applied.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Refusal {
    /// Others own what it says.
    Conflicts(Vec<Conflict>),
    /// The list at this path has entries that cannot be told apart.
    Ambiguous(String),
    /// Too many apply this object.
    Full,
}

/// What is known of an object's owners: from the request when that says so in full, as clients do that move fields from one manager to
/// another; else from the object as it is. `[{}]` forgets them all.
pub(super) fn owners(sent: &Value, there: &Value) -> Managers {
    if sent.as_array().is_some_and(|all| all.len() == 1 && all.iter().all(|e| *e == serde_json::json!({}))) {
        return Managers::default();
    }
    match Managers::decode(sent) {
        Some(known) if !known.0.is_empty() => known,
        _ => Managers::decode(there).unwrap_or_default(),
    }
}

/// Fields that say which object it is, or that only the server writes, belong to nobody; nor does what is out of the writer's reach.
fn owned(mut set: Set, reach: Reach) -> Set {
    for field in ["apiVersion", "kind"] {
        set.cut(&[field]);
    }
    for field in [
        "name",
        "namespace",
        "creationTimestamp",
        "deletionTimestamp",
        "deletionGracePeriodSeconds",
        "selfLink",
        "uid",
        "generation",
        "managedFields",
        "resourceVersion",
    ] {
        set.cut(&["metadata", field]);
    }
    set.unmark(&["metadata"]);
    match reach {
        Reach::All => {}
        Reach::Main => set.cut(&["status"]),
        Reach::Status => {
            let others: Vec<String> = set
                .steps()
                .filter_map(|(step, _)| match step {
                    set::Step::Field(name) if name != "status" => Some(name.clone()),
                    _ => None,
                })
                .collect();
            for name in others {
                set.cut(&[&name]);
            }
        }
    }
    set
}

/// Records what a write other than an apply changed: it owns that now, and nobody else does.
pub(super) fn updated(
    schema: Schema<'_>,
    old: &Value,
    new: &Value,
    mut managers: Managers,
    writer: &Writer,
    reach: Reach,
) -> Managers {
    let nothing = serde_json::json!({});
    let found = Difference::between(schema, if old.is_null() { &nothing } else { old }, new);
    let (changed, removed) = (owned(found.changed, reach), owned(found.removed, reach));
    if changed.is_empty() && removed.is_empty() {
        return managers;
    }
    let lost = changed.union(&removed);
    let mine = managers.0.iter().position(|e| e.is_of(writer, Operation::Update));
    for (i, entry) in managers.0.iter_mut().enumerate() {
        let gone = if Some(i) == mine { &removed } else { &lost };
        entry.fields = entry.fields.minus(gone);
    }
    if !changed.is_empty() {
        match mine.and_then(|i| managers.0.get_mut(i)) {
            Some(entry) => {
                entry.fields = entry.fields.union(&changed);
                entry.time.clone_from(&writer.time);
            }
            None => managers.0.push(Entry::of(writer, Operation::Update, changed)),
        }
    }
    managers
}

/// What somebody applies.
#[derive(Clone, Copy, Debug)]
pub(super) struct Wish<'w> {
    /// The document: all that the writer wants of the object, without what names it.
    pub wanted: &'w Value,
    /// Who wants it.
    pub writer: &'w Writer,
    /// What the writer may own.
    pub reach: Reach,
    /// Whether it takes what others own.
    pub force: bool,
}

/// Applies a document to an object, or to `null` when there is none: the next object, and who owns what of it. `settle` sets defaults: a
/// field that is only left to its default does not differ.
///
/// # Errors
/// When others own what it changes and `force` is not set, or it cannot be read as fields.
pub(super) fn applied(
    schema: Schema<'_>,
    live: &Value,
    mut managers: Managers,
    wish: Wish<'_>,
    settle: impl Fn(&mut Value),
) -> Result<(Value, Managers), Refusal> {
    let Wish { wanted, writer, reach, force } = wish;
    let mut wanted = wanted.clone();
    merge::without_nulls(&mut wanted);
    let claims = owned(claimed(schema, &wanted).map_err(Refusal::Ambiguous)?, reach);
    if managers.0.is_empty() && !live.is_null() {
        let there = owned(claimed(schema, live).unwrap_or_default(), Reach::All);
        let before = Writer { manager: BEFORE.to_owned(), subresource: "", ..writer.clone() };
        managers.0.push(Entry::of(&before, Operation::Update, there));
    }
    let mine = managers.0.iter().position(|e| e.is_of(writer, Operation::Apply));
    let last = mine.and_then(|i| managers.0.get(i)).map(|e| e.fields.clone()).unwrap_or_default();

    let nothing = serde_json::json!({});
    let live = if live.is_null() { &nothing } else { live };
    let mut next = lay_over(schema, live, &wanted);
    let others = managers.0.iter().enumerate().filter(|(i, _)| Some(*i) != mine);
    let kept = others.clone().fold(claims.clone(), |kept, (_, entry)| kept.union(&entry.fields));
    give_up(schema, &mut next, &last, &kept);
    settle(&mut next);

    let found = Difference::between(schema, live, &next);
    let changed = owned(found.changed, reach);
    let mine_by_record = recorded(schema, live, writer);
    let taken: Vec<(usize, Set)> =
        others.map(|(i, entry)| (i, entry.fields.common(&changed))).filter(|(_, taken)| !taken.is_empty()).collect();
    if !force {
        let conflicts: Vec<Conflict> = taken
            .iter()
            .filter_map(|(i, taken)| Some((managers.0.get(*i)?, taken.minus(&mine_by_record))))
            .flat_map(|(entry, taken)| {
                let named = entry.named();
                taken.paths().into_iter().map(move |field| Conflict { manager: named.clone(), field })
            })
            .collect();
        if !conflicts.is_empty() {
            return Err(Refusal::Conflicts(conflicts));
        }
    }
    for (i, taken) in taken {
        if let Some(entry) = managers.0.get_mut(i) {
            entry.fields = entry.fields.minus(&taken);
        }
    }
    for entry in &mut managers.0 {
        entry.fields = entry.fields.minus(&found.removed);
    }
    let differs = *live != next;
    match mine.and_then(|i| managers.0.get_mut(i)) {
        Some(entry) => {
            if differs || last != claims || entry.api_version != writer.api_version {
                entry.time.clone_from(&writer.time);
                entry.api_version.clone_from(&writer.api_version);
            }
            entry.fields = claims;
        }
        None => managers.0.push(Entry::of(writer, Operation::Apply, claims)),
    }
    if managers.is_full() {
        return Err(Refusal::Full);
    }
    Ok((next, managers))
}

/// The fields that the record of a client-side apply holds, for a manager that goes on from it: whoever put them there did it for that
/// apply. Nothing for everybody else.
fn recorded(schema: Schema<'_>, live: &Value, writer: &Writer) -> Set {
    if !HEIRS.contains(&writer.manager.as_str()) {
        return Set::default();
    }
    let record = live["metadata"]["annotations"].get(LAST_APPLIED).and_then(Value::as_str);
    let record: Option<Value> = record.and_then(|text| serde_json::from_str(text).ok());
    let Some(record) = record.filter(Value::is_object) else { return Set::default() };
    let mut fields = claimed(schema, &record).unwrap_or_default();
    // What was changed since then by somebody else is theirs.
    let since = Difference::between(schema, &record, &lay_over(schema, &record, live));
    fields = fields.minus(&since.changed);
    fields
}

/// Whether the record of a client-side apply is to say what is applied now, so that either way of applying can go on from the other.
pub(super) fn keeps_record(live: &Value, writer: &Writer) -> bool {
    HEIRS.contains(&writer.manager.as_str()) && live["metadata"]["annotations"].get(LAST_APPLIED).is_some()
}
