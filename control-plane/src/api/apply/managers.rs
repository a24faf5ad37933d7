//! `metadata.managedFields`: who owns which fields of an object, read from it and written to it, bounded in number and size.

use serde_json::{Value, json};

use super::set::Set;

/// Managers of updates that are kept apart, as Kubernetes has it; the oldest of more become one.
const MAX_UPDATERS: usize = 10;
/// Managers that apply: more are refused.
const MAX_APPLIERS: usize = 64;
/// Bytes of all entries together; who updated what is forgotten when there are more.
const MAX_BYTES: usize = 256 << 10;
/// What Kubernetes calls the one that the oldest become.
const ANCIENT: &str = "ancient-changes";

/// How a manager came by its fields.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Operation {
    /// It said which ones it wants, and gives up what it no longer says.
    Apply,
    /// It wrote them.
    Update,
}

/// Who writes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Writer {
    /// `fieldManager`, or the first part of the user agent.
    pub manager: String,
    /// The version of the API that it writes in.
    pub api_version: String,
    /// `status`, or nothing.
    pub subresource: &'static str,
    /// When, as RFC 3339.
    pub time: String,
}

/// One manager's fields.
#[derive(Clone, Debug, PartialEq)]
pub struct Entry {
    /// Its name.
    pub manager: String,
    /// How it came by them.
    pub operation: Operation,
    /// In which version of the API.
    pub api_version: String,
    /// By which subresource; empty: the object itself.
    pub subresource: String,
    /// When they last changed.
    pub time: String,
    /// The fields.
    pub fields: Set,
}

impl Entry {
    /// An entry of a writer.
    pub fn of(writer: &Writer, operation: Operation, fields: Set) -> Self {
        Self {
            manager: writer.manager.clone(),
            operation,
            api_version: writer.api_version.clone(),
            subresource: writer.subresource.to_owned(),
            time: writer.time.clone(),
            fields,
        }
    }

    /// Whether it is the writer's own. Who applies is the same in every version of the API.
    pub fn is_of(&self, writer: &Writer, operation: Operation) -> bool {
        self.manager == writer.manager
            && self.operation == operation
            && self.subresource == writer.subresource
            && (operation == Operation::Apply || self.api_version == writer.api_version)
    }

    /// `"ana"`, `"kubectl" with subresource "status" using v1`: as conflicts name it.
    pub fn named(&self) -> String {
        let mut name = format!("{:?}", self.manager);
        if !self.subresource.is_empty() {
            name.push_str(&format!(" with subresource {:?}", self.subresource));
        }
        if self.operation == Operation::Update {
            name.push_str(&format!(" using {}", self.api_version));
        }
        name
    }

    fn encode(&self) -> Value {
        let operation = match self.operation {
            Operation::Apply => "Apply",
            Operation::Update => "Update",
        };
        let mut entry = json!({
            "manager": self.manager, "operation": operation, "apiVersion": self.api_version, "time": self.time,
            "fieldsType": "FieldsV1", "fieldsV1": self.fields.encode(),
        });
        if !self.subresource.is_empty() {
            entry["subresource"] = self.subresource.as_str().into();
        }
        entry
    }

    fn decode(entry: &Value) -> Option<Self> {
        let text = |field: &str| entry[field].as_str().unwrap_or_default().to_owned();
        let operation = match entry["operation"].as_str()? {
            "Apply" => Operation::Apply,
            "Update" => Operation::Update,
            _ => return None,
        };
        if entry["fieldsType"] != "FieldsV1" {
            return None;
        }
        Some(Self {
            manager: text("manager"),
            operation,
            api_version: text("apiVersion"),
            subresource: text("subresource"),
            time: text("time"),
            fields: Set::decode(&entry["fieldsV1"])?,
        })
    }
}

/// The entries of an object.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Managers(pub Vec<Entry>);

impl Managers {
    /// From `metadata.managedFields`; `None` when it says nothing that can be read.
    pub fn decode(entries: &Value) -> Option<Self> {
        entries.as_array()?.iter().map(Entry::decode).collect::<Option<_>>().map(Self)
    }

    /// As `metadata.managedFields`, `null` when nobody owns anything: who applies first, then by time, then by name.
    pub fn encode(mut self) -> Value {
        self.0.retain(|entry| !entry.fields.is_empty());
        self.bound();
        self.0.sort_by(|a, b| {
            let key = |e: &Entry| (e.operation, e.time.clone(), e.manager.clone(), e.subresource.clone());
            key(a).cmp(&key(b))
        });
        let encoded: Vec<Value> = self.0.iter().map(Entry::encode).collect();
        if encoded.is_empty() { Value::Null } else { Value::Array(encoded) }
    }

    /// Whether no one more may apply.
    pub fn is_full(&self) -> bool {
        self.0.iter().filter(|e| e.operation == Operation::Apply).count() > MAX_APPLIERS
    }

    fn bound(&mut self) {
        let updaters = |all: &[Entry]| all.iter().filter(|e| e.operation == Operation::Update).count();
        while updaters(&self.0) > MAX_UPDATERS {
            self.age();
        }
        let size = |all: &[Entry]| all.iter().map(|e| e.encode().to_string().len()).sum::<usize>();
        while size(&self.0) > MAX_BYTES && updaters(&self.0) > 1 {
            self.age();
        }
        if size(&self.0) > MAX_BYTES {
            self.0.retain(|e| e.operation == Operation::Apply);
        }
    }

    /// Makes one of the two oldest that update.
    fn age(&mut self) {
        let mut order: Vec<usize> =
            self.0.iter().enumerate().filter(|(_, e)| e.operation == Operation::Update).map(|(i, _)| i).collect();
        order.sort_by_key(|i| self.0.get(*i).map(|e| (e.manager != ANCIENT, e.time.clone())));
        let [first, second, ..] = order.as_slice() else { return };
        let (low, high) = (*first.min(second), *first.max(second));
        let newer = self.0.remove(high);
        if let Some(entry) = self.0.get_mut(low) {
            entry.fields = entry.fields.union(&newer.fields);
            entry.time = entry.time.clone().max(newer.time);
            entry.manager = ANCIENT.to_owned();
            entry.subresource = String::new();
        }
    }
}
