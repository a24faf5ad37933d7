//! The mesh at one moment, row by row, and what of it is news to a reader. Pure.

use super::super::document::{Document, Part, backend};
use super::super::problems::{self, Problem};
use super::FleetState;
use crate::fleet::Breaker;
use crate::fleet::golden::Row;
use serde_json::{Value, json};
use std::cmp::Ordering;
use std::fmt::Write as _;
use std::sync::{Arc, OnceLock};

/// A table with more rows that concern a reader is left out of its stream, which says so: one asks for a service of it.
const LARGEST: usize = 5000;
const TABLES: [&str; 4] = ["services", "edges", "endpoints", "routes"];
const EDGES: usize = 1;

/// A row, and its JSON once somebody wants it.
#[derive(Debug)]
struct Line {
    row: Row,
    /// Ready instances and all, of a service.
    instances: Option<(usize, usize)>,
    json: OnceLock<String>,
}

impl Line {
    /// By which rows of a table are told apart.
    fn key(&self) -> (&str, &str) {
        let other = self.row.source.as_deref().or(self.row.endpoint.as_deref()).or(self.row.route.as_deref());
        (&self.row.service, other.unwrap_or_default())
    }

    fn json(&self) -> &str {
        self.json.get_or_init(|| {
            let mut value = serde_json::to_value(&self.row).unwrap_or_default();
            if let Some((ready, all)) = self.instances {
                value["readyEndpoints"] = ready.into();
                value["endpoints"] = all.into();
            }
            value.to_string()
        })
    }

    fn concerns(&self, table: usize, part: &Part) -> bool {
        match table {
            EDGES => part.touches(self.row.source.as_deref().unwrap_or_default(), &self.row.service),
            _ => part.has(&self.row.service),
        }
    }
}

/// A row, and ready instances and all of a service.
type Counted = (Row, Option<(usize, usize)>);
/// Lines in order of their keys.
type Table = Vec<Arc<Line>>;

/// The mesh at one moment.
#[derive(Debug, Default)]
pub(super) struct Moment {
    window_seconds: f64,
    detail_seconds: f64,
    dropped: u64,
    tables: [Table; 4],
    breakers: Arc<Vec<Breaker>>,
    pub problems: Vec<Problem>,
    pub fleet: FleetState,
}

impl Moment {
    /// Rows that are as they were in the last moment are its rows.
    pub fn of(document: Document, last: Option<&Self>) -> Self {
        let none = Self::default();
        let last = last.unwrap_or(&none);
        let plain = |rows: Vec<Row>| rows.into_iter().map(|row| (row, None)).collect();
        let services = document.services.into_iter();
        let services = services.map(|row| (row.row, Some((row.ready_endpoints, row.endpoints)))).collect();
        let mut tables: [Vec<Counted>; 4] =
            [services, plain(document.edges), plain(document.endpoints), plain(document.routes)];
        let tables = std::array::from_fn(|table| shared(std::mem::take(&mut tables[table]), &last.tables[table]));
        let breakers =
            if *last.breakers == document.breakers { last.breakers.clone() } else { document.breakers.into() };
        Self {
            window_seconds: document.window_seconds,
            detail_seconds: document.detail_seconds,
            dropped: document.dropped,
            tables,
            breakers,
            ..Self::default()
        }
    }
}

fn shared(rows: Vec<Counted>, last: &Table) -> Table {
    let made = |(row, instances)| Arc::new(Line { row, instances, json: OnceLock::new() });
    let mut now: Table = rows.into_iter().map(made).collect();
    now.sort_by(|a, b| a.key().cmp(&b.key()));
    let mut old = last.iter().peekable();
    for line in &mut now {
        while old.next_if(|old| old.key() < line.key()).is_some() {}
        if let Some(same) = old.peek().filter(|old| old.row == line.row && old.instances == line.instances) {
            *line = (*same).clone();
        }
    }
    now
}

/// What one reader has been told.
pub(super) struct Reader {
    part: Part,
    last: Option<Arc<Moment>>,
    /// Whether each table was small enough to be told of.
    told: [bool; 4],
    problems: Option<Value>,
}

impl Reader {
    pub fn new(part: Part) -> Self {
        Self { part, last: None, told: [false; 4], problems: None }
    }

    /// The events that bring it to a moment.
    pub fn take(&mut self, moment: &Arc<Moment>) -> String {
        let mut events = String::new();
        let fleet = &moment.fleet;
        if self.last.as_ref().is_none_or(|last| last.fleet != *fleet) {
            event(&mut events, "fleet", &serde_json::to_string(fleet).unwrap_or_default());
        }
        let problems = problems::page(&moment.problems, &self.part);
        if self.problems.as_ref() != Some(&problems) {
            event(&mut events, "problems", &problems.to_string());
            self.problems = Some(problems);
        }
        let counts: [usize; 4] = std::array::from_fn(|table| {
            moment.tables[table].iter().filter(|line| line.concerns(table, &self.part)).count()
        });
        let told = counts.map(|count| count <= LARGEST);
        // A table that comes or goes as a whole makes a new beginning.
        let last = self.last.take().filter(|_| told == self.told);
        event(&mut events, "stat", &self.stat(moment, last.as_deref(), told, counts));
        (self.last, self.told) = (Some(moment.clone()), told);
        events
    }

    fn stat(&self, moment: &Moment, last: Option<&Moment>, told: [bool; 4], counts: [usize; 4]) -> String {
        let mut text = format!(
            "{{\"full\":{},\"windowSeconds\":{},\"detailSeconds\":{},\"dropped\":{}",
            last.is_none(),
            moment.window_seconds,
            moment.detail_seconds,
            moment.dropped
        );
        let none = Table::new();
        let mut gone = json!({});
        for (table, name) in TABLES.into_iter().enumerate() {
            let now = if told[table] { &moment.tables[table] } else { &none };
            let before = last.filter(|_| told[table]).map_or(&none, |last| &last.tables[table]);
            let (news, left) = differ(before, now, |line| line.concerns(table, &self.part));
            let _ = write!(text, ",\"{name}\":[");
            for (place, line) in news.into_iter().enumerate() {
                text.push_str(if place > 0 { "," } else { "" });
                text.push_str(line.json());
            }
            text.push(']');
            gone[name] = left.into_iter().map(|line| named(table, line)).collect();
        }
        if last.is_none_or(|last| !Arc::ptr_eq(&last.breakers, &moment.breakers)) {
            let breakers: Vec<&Breaker> =
                moment.breakers.iter().filter(|breaker| self.part.has(backend(breaker))).collect();
            let _ = write!(text, ",\"breakers\":{}", serde_json::to_string(&breakers).unwrap_or_default());
        }
        if last.is_some() {
            let _ = write!(text, ",\"gone\":{gone}");
        }
        let omitted = TABLES.into_iter().zip(counts).zip(told).filter(|(_, told)| !told);
        let omitted: serde_json::Map<String, Value> =
            omitted.map(|((name, count), _)| (name.to_owned(), count.into())).collect();
        if !omitted.is_empty() {
            let _ = write!(text, ",\"omitted\":{}", Value::Object(omitted));
        }
        text.push('}');
        text
    }
}

/// How a row that is gone is named: a service by its name; an edge by source and destination; others by service and name.
fn named(table: usize, line: &Line) -> Value {
    let (service, other) = line.key();
    match table {
        0 => service.into(),
        EDGES => json!([other, service]),
        _ => json!([service, other]),
    }
}

/// Lines that are new or other than before, and those that are gone.
fn differ<'t>(
    before: &'t [Arc<Line>],
    now: &'t [Arc<Line>],
    concerns: impl Fn(&Line) -> bool,
) -> (Vec<&'t Line>, Vec<&'t Line>) {
    let (mut before, mut now) = (before.iter().peekable(), now.iter().peekable());
    let (mut news, mut gone): (Vec<&Line>, Vec<&Line>) = (Vec::new(), Vec::new());
    loop {
        let order = match (before.peek(), now.peek()) {
            (None, None) => break,
            (Some(_), None) => Ordering::Less,
            (None, Some(_)) => Ordering::Greater,
            (Some(before), Some(now)) => before.key().cmp(&now.key()),
        };
        let old = if order.is_le() { before.next() } else { None };
        let new = if order.is_ge() { now.next() } else { None };
        match (old, new) {
            (Some(old), Some(new)) if Arc::ptr_eq(old, new) => {}
            (_, Some(new)) => news.push(new),
            (Some(old), None) => gone.push(old),
            (None, None) => {}
        }
    }
    news.retain(|line| concerns(line));
    gone.retain(|line| concerns(line));
    (news, gone)
}

fn event(events: &mut String, name: &str, data: &str) {
    let _ = write!(events, "event: {name}\ndata: {data}\n\n");
}

#[cfg(test)]
mod tests {
    use super::super::super::document::ServiceRow;
    use super::*;
    use crate::fleet::golden::Numbers;

    fn row(service: &str, source: Option<&str>, calls: u64) -> Row {
        let numbers = Numbers { calls, ..Numbers::default() };
        Row { service: service.into(), source: source.map(str::to_owned), numbers, ..Row::default() }
    }

    /// Edges (source, destination, calls), and a service for each destination.
    fn moment(edges: &[(&str, &str, u64)], last: Option<&Moment>) -> Arc<Moment> {
        let services = edges.iter().map(|(_, to, calls)| ServiceRow {
            row: row(to, None, *calls),
            ready_endpoints: 1,
            endpoints: 2,
        });
        let document = Document {
            services: services.collect(),
            edges: edges.iter().map(|(from, to, calls)| row(to, Some(from), *calls)).collect(),
            ..Document::default()
        };
        Arc::new(Moment::of(document, last))
    }

    /// The `stat` of what a reader is sent.
    fn stat(events: &str) -> Value {
        let (_, data) = events.split_once("event: stat\ndata: ").expect("each moment has one");
        serde_json::from_str(data.trim_end()).expect("it is JSON")
    }

    #[test]
    fn a_reader_is_told_all_once_and_then_what_changes_and_goes() {
        let first = moment(&[("shop/web", "shop/cart", 5), ("shop/web", "shop/mail", 6)], None);
        let mut reader = Reader::new(Part::default());
        let events = reader.take(&first);
        assert!(events.starts_with("event: fleet\ndata: {\"connected\":0,"), "{events}");
        assert!(events.contains("event: problems\ndata: {\"items\":[]"), "{events}");
        let full = stat(&events);
        assert_eq!((&full["full"], full["services"].as_array().map(Vec::len)), (&json!(true), Some(2)));
        assert_eq!((&full["services"][0]["readyEndpoints"], &full["services"][0]["endpoints"]), (&json!(1), &json!(2)));
        assert_eq!((&full["breakers"], full.get("gone")), (&json!([]), None));

        let second = moment(&[("shop/web", "shop/cart", 5), ("shop/web", "shop/pay", 1)], Some(&first));
        let events = reader.take(&second);
        assert!(events.starts_with("event: stat\n"), "nothing else changed: {events}");
        let news = stat(&events);
        assert_eq!((&news["full"], news["services"].as_array().map(Vec::len)), (&json!(false), Some(1)));
        assert_eq!(news["services"][0]["service"], "shop/pay");
        assert_eq!(news["gone"]["services"], json!(["shop/mail"]));
        assert_eq!(news["gone"]["edges"], json!([["shop/web", "shop/mail"]]));
        assert_eq!((&news["gone"]["endpoints"], news.get("breakers")), (&json!([]), None));
    }

    #[test]
    fn who_skips_moments_is_told_what_became_of_all_of_them() {
        let first = moment(&[("shop/web", "shop/cart", 1)], None);
        let mut reader = Reader::new(Part::default());
        reader.take(&first);
        let second = moment(&[("shop/web", "shop/cart", 2), ("shop/web", "shop/mail", 1)], Some(&first));
        let third = moment(&[("shop/web", "shop/cart", 2)], Some(&second));
        let news = stat(&reader.take(&third));
        assert_eq!((&news["services"][0]["calls"], &news["gone"]["services"]), (&json!(2), &json!([])));
        let fourth = moment(&[("shop/web", "shop/cart", 2)], Some(&third));
        assert_eq!(stat(&reader.take(&fourth))["services"], json!([]));
    }

    #[test]
    fn a_reader_of_a_namespace_is_told_of_it_alone() {
        let mut reader = Reader::new(Part { namespace: "shop".into(), service: String::new() });
        let edges = [("shop/web", "bank/ledger", 1), ("office/a", "office/b", 1), ("office/a", "shop/web", 1)];
        let first = moment(&edges, None);
        let events = reader.take(&first);
        assert!(!events.contains("office/b"), "{events}");
        let full = stat(&events);
        assert_eq!((full["services"].as_array().unwrap().len(), full["edges"].as_array().unwrap().len()), (1, 2));
        let news = stat(&reader.take(&moment(&edges[1..2], Some(&first))));
        assert_eq!(news["gone"]["edges"], json!([["shop/web", "bank/ledger"], ["office/a", "shop/web"]]));
    }

    #[test]
    fn a_table_too_large_is_left_out_and_said() {
        let names: Vec<String> = (0..=LARGEST).map(|n| format!("shop/s{n}")).collect();
        let edges: Vec<(&str, &str, u64)> = names.iter().map(|name| ("shop/web", name.as_str(), 1)).collect();
        let all = moment(&edges, None);
        let mut reader = Reader::new(Part::default());
        let full = stat(&reader.take(&all));
        assert_eq!((&full["services"], &full["omitted"]["services"]), (&json!([]), &json!(LARGEST + 1)));
        let mut one = Reader::new(Part { namespace: "shop".into(), service: "s7".into() });
        assert_eq!(stat(&one.take(&all))["services"][0]["service"], "shop/s7");
        // Small again, it begins anew.
        let fewer = moment(&edges[..9], Some(&all));
        let again = stat(&reader.take(&fewer));
        assert_eq!((&again["full"], again["services"].as_array().map(Vec::len)), (&json!(true), Some(9)));
    }
}
