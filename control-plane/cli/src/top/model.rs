//! What `weft top` knows and shows: the newest figures, a short history of each row, and what keys do. Pure: no clock, no terminal.

use crate::fleet::Service;
use serde::Deserialize;
use std::cmp::Ordering;
use std::collections::{HashMap, VecDeque};

/// Points of a row's history: two minutes at one a second.
const HISTORY: usize = 120;
/// Rows whose history is kept.
const KEPT: usize = 5_000;
/// Characters of a filter.
const FILTER: usize = 64;

/// What `/weft/v1/stat` says, as far as it is shown.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Answer {
    pub window_seconds: f64,
    pub services: Vec<Service>,
    endpoints: Vec<Part>,
    routes: Vec<Part>,
}

/// Figures of an instance or a route of a service.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct Part {
    #[serde(flatten)]
    figures: Service,
    endpoint: Option<String>,
    route: Option<String>,
}

/// A line of the table.
#[derive(Clone, Debug, Default)]
pub struct Row {
    /// `namespace/name` of a service, an instance or a route.
    pub name: String,
    /// Ready and all instances, of services.
    pub ready: Option<(u32, u32)>,
    pub figures: Service,
}

impl Row {
    /// How much somebody should look at it: 3 nobody answers, 2 many calls fail, 1 some do or a breaker is open, 0 it is well.
    pub fn trouble(&self) -> u8 {
        let success = self.figures.success.unwrap_or(1.0);
        match self.ready {
            Some((0, 1..)) => 3,
            _ if success < 0.95 => 2,
            _ if success < 0.999 || self.figures.open_breakers > 0 => 1,
            _ => 0,
        }
    }

    fn failing(&self) -> f64 {
        self.figures.rps * (1.0 - self.figures.success.unwrap_or(1.0))
    }
}

/// What comes first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Sort {
    #[default]
    Problems,
    Rps,
    Errors,
    P99,
    Name,
}

impl Sort {
    /// The word for it.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Problems => "problems",
            Self::Rps => "rps",
            Self::Errors => "errors",
            Self::P99 => "p99",
            Self::Name => "name",
        }
    }

    fn compare(self, a: &Row, b: &Row) -> Ordering {
        let by = |of: fn(&Row) -> f64| of(b).total_cmp(&of(a));
        let first = match self {
            Self::Problems => b.trouble().cmp(&a.trouble()).then_with(|| by(|row| row.figures.rps)),
            Self::Rps => by(|row| row.figures.rps),
            Self::Errors => by(Row::failing),
            Self::P99 => by(|row| row.figures.p99_ms.unwrap_or(-1.0)),
            Self::Name => Ordering::Equal,
        };
        first.then_with(|| a.name.cmp(&b.name))
    }
}

/// What is listed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum View {
    #[default]
    Services,
    /// Of one service.
    Instances(String),
    /// Of one service.
    Routes(String),
}

/// A key, whatever terminal it came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Key {
    Up,
    Down,
    PageUp,
    PageDown,
    Home,
    End,
    Enter,
    Back,
    Erase,
    Tab,
    Quit,
    Char(char),
}

/// All of it.
#[derive(Debug, Default)]
pub struct Model {
    pub server: String,
    pub view: View,
    pub sort: Sort,
    pub filter: String,
    /// Whether letters go into the filter.
    pub typing: bool,
    pub paused: bool,
    /// Why there is no newer answer.
    pub error: Option<String>,
    /// The chosen row, from the top.
    pub selected: usize,
    /// Rows that fit, as last drawn.
    pub page: usize,
    answer: Answer,
    history: HashMap<(u8, String), VecDeque<f64>>,
}

impl Model {
    pub fn new(server: &str) -> Self {
        Self { server: server.to_owned(), page: 10, ..Self::default() }
    }

    /// Takes the newest figures, unless paused.
    pub fn take(&mut self, answer: Answer) {
        self.error = None;
        if self.paused {
            return;
        }
        self.answer = answer;
        let rows = [(0, self.of(&View::Services)), (1, self.parts(1, None)), (2, self.parts(2, None))];
        let now: HashMap<(u8, String), f64> = rows
            .into_iter()
            .flat_map(|(kind, rows)| rows.into_iter().map(move |row| ((kind, row.name), row.figures.rps)))
            .take(KEPT)
            .collect();
        self.history.retain(|key, _| now.contains_key(key));
        for (key, rps) in now {
            let points = self.history.entry(key).or_default();
            points.push_back(rps);
            if points.len() > HISTORY {
                points.pop_front();
            }
        }
        self.clamp();
    }

    /// There is no newer answer.
    pub fn failed(&mut self, why: String) {
        self.error = Some(why);
    }

    /// Goes into a service; false when there is none of that name.
    pub fn enter(&mut self, name: &str) -> bool {
        let found = self.answer.services.iter().find(|row| crate::stat::is_named(&row.service, name));
        let Some(service) = found.map(|row| row.service.clone()) else { return false };
        self.open(View::Instances(service));
        true
    }

    /// Seconds that the figures cover.
    pub fn window(&self) -> f64 {
        self.answer.window_seconds
    }

    /// The service in view, if it is one.
    pub fn service(&self) -> Option<&Service> {
        match &self.view {
            View::Services => None,
            View::Instances(name) | View::Routes(name) => self.answer.services.iter().find(|row| row.service == *name),
        }
    }

    /// All services.
    pub fn services(&self) -> &[Service] {
        &self.answer.services
    }

    /// What is listed, in order.
    pub fn rows(&self) -> Vec<Row> {
        let mut rows = self.of(&self.view);
        rows.retain(|row| row.name.contains(&self.filter));
        rows.sort_by(|a, b| self.sort.compare(a, b));
        rows
    }

    /// Calls a second of a row, the oldest first.
    pub fn history(&self, name: &str) -> impl Iterator<Item = f64> + '_ {
        let key = match &self.view {
            View::Services => (0, name.to_owned()),
            View::Instances(service) => (1, format!("{service} {name}")),
            View::Routes(service) => (2, format!("{service} {name}")),
        };
        self.history.get(&key).into_iter().flatten().copied()
    }

    fn of(&self, view: &View) -> Vec<Row> {
        match view {
            View::Services => {
                let row = |figures: &Service| Row {
                    name: figures.service.clone(),
                    ready: figures.ready_endpoints.zip(figures.endpoints),
                    figures: figures.clone(),
                };
                self.answer.services.iter().map(row).collect()
            }
            View::Instances(service) => self.parts(1, Some(service)),
            View::Routes(service) => self.parts(2, Some(service)),
        }
    }

    /// Instances (1) or routes (2) of a service, or of all with its name before theirs.
    fn parts(&self, kind: u8, of: Option<&str>) -> Vec<Row> {
        let parts = if kind == 1 { &self.answer.endpoints } else { &self.answer.routes };
        let named = |part: &Part| match (kind, &part.endpoint, part.route.as_deref()) {
            (1, Some(endpoint), _) if !endpoint.is_empty() => endpoint.clone(),
            (1, ..) => "(not reached)".to_owned(),
            (_, _, Some(route)) if !["", "default"].contains(&route) => route.to_owned(),
            _ => "(no route)".to_owned(),
        };
        let row = |part: &Part| {
            let name = named(part);
            let name = if of.is_none() { format!("{} {name}", part.figures.service) } else { name };
            Row { name, ready: None, figures: part.figures.clone() }
        };
        parts.iter().filter(|part| of.is_none_or(|service| part.figures.service == service)).map(row).collect()
    }

    /// Does what a key says; true: to end.
    pub fn press(&mut self, key: Key) -> bool {
        if self.typing {
            match key {
                Key::Char(letter) if self.filter.chars().count() < FILTER => self.filter.push(letter),
                Key::Erase => drop(self.filter.pop()),
                Key::Enter => self.typing = false,
                Key::Back => (self.typing, self.filter) = (false, String::new()),
                Key::Quit => return true,
                _ => {}
            }
            self.selected = 0;
            return false;
        }
        match key {
            Key::Quit | Key::Char('q') => return true,
            Key::Up | Key::Char('k') => self.selected = self.selected.saturating_sub(1),
            Key::Down | Key::Char('j') => self.selected += 1,
            Key::PageUp => self.selected = self.selected.saturating_sub(self.page),
            Key::PageDown => self.selected += self.page,
            Key::Home => self.selected = 0,
            Key::End => self.selected = usize::MAX,
            Key::Enter => {
                if self.view == View::Services
                    && let Some(row) = self.rows().get(self.selected)
                {
                    self.open(View::Instances(row.name.clone()));
                }
            }
            Key::Tab => {
                let other = match &self.view {
                    View::Services => View::Services,
                    View::Instances(service) => View::Routes(service.clone()),
                    View::Routes(service) => View::Instances(service.clone()),
                };
                self.open(other);
            }
            // First what was typed goes, then the service.
            Key::Back | Key::Erase if !self.filter.is_empty() => self.filter.clear(),
            Key::Back | Key::Erase => self.open(View::Services),
            Key::Char('/') => self.typing = true,
            Key::Char(' ') => self.paused = !self.paused,
            Key::Char(letter) => self.sort = by_letter(letter).unwrap_or(self.sort),
        }
        self.clamp();
        false
    }

    fn open(&mut self, view: View) {
        if self.view != view {
            (self.view, self.selected, self.filter) = (view, 0, String::new());
        }
    }

    fn clamp(&mut self) {
        self.selected = self.selected.min(self.rows().len().saturating_sub(1));
    }
}

fn by_letter(letter: char) -> Option<Sort> {
    Some(match letter {
        'p' => Sort::Problems,
        'r' => Sort::Rps,
        'e' => Sort::Errors,
        'l' => Sort::P99,
        'n' => Sort::Name,
        _ => return None,
    })
}

#[cfg(test)]
pub mod tests {
    use super::*;
    use serde_json::json;

    /// A shop in which payments fail and users are gone.
    pub fn answer() -> Answer {
        serde_json::from_value(json!({
            "windowSeconds": 10.0,
            "services": [
                { "service": "shop/catalog", "rps": 120.0, "calls": 1200, "success": 1.0, "p50Ms": 1.2, "p99Ms": 9.0,
                  "readyEndpoints": 2, "endpoints": 2, "openBreakers": 0 },
                { "service": "shop/payments", "rps": 30.0, "calls": 300, "success": 0.9, "p50Ms": 4.0, "p99Ms": 250.0,
                  "readyEndpoints": 1, "endpoints": 1, "openBreakers": 1 },
                { "service": "shop/users", "rps": 0.0, "calls": 0, "success": null, "readyEndpoints": 0, "endpoints": 1 },
            ],
            "endpoints": [
                { "service": "shop/catalog", "endpoint": "shop/catalog-1", "rps": 70.0, "calls": 700, "success": 1.0 },
                { "service": "shop/catalog", "endpoint": "shop/catalog-2", "rps": 50.0, "calls": 500, "success": 1.0 },
                { "service": "shop/payments", "endpoint": "shop/payments-1", "rps": 30.0, "calls": 300, "success": 0.9 },
            ],
            "routes": [{ "service": "shop/catalog", "route": "default", "rps": 120.0, "calls": 1200, "success": 1.0 }],
        }))
        .unwrap()
    }

    /// With the figures of [`answer`].
    pub fn model() -> Model {
        let mut model = Model::new("https://127.0.0.1:15080");
        model.take(answer());
        model
    }

    fn names(model: &Model) -> Vec<String> {
        model.rows().into_iter().map(|row| row.name).collect()
    }

    fn press(model: &mut Model, keys: &[Key]) {
        for key in keys {
            assert!(!model.press(*key));
        }
    }

    #[test]
    fn problems_come_first_and_letters_sort_otherwise() {
        let mut model = model();
        assert_eq!(names(&model), ["shop/users", "shop/payments", "shop/catalog"]);
        for (letter, first) in
            [('r', "shop/catalog"), ('e', "shop/payments"), ('l', "shop/payments"), ('n', "shop/catalog")]
        {
            press(&mut model, &[Key::Char(letter)]);
            assert_eq!(names(&model)[0], first, "{letter}");
        }
        press(&mut model, &[Key::Char('x')]);
        assert_eq!(model.sort, Sort::Name, "other letters change nothing");
    }

    #[test]
    fn a_service_is_entered_shows_its_parts_and_is_left_again() {
        let mut model = model();
        press(&mut model, &[Key::End, Key::Enter]);
        assert_eq!((&model.view, model.selected), (&View::Instances("shop/catalog".into()), 0));
        assert_eq!(names(&model), ["shop/catalog-1", "shop/catalog-2"]);
        press(&mut model, &[Key::Tab]);
        assert_eq!(names(&model), ["(no route)"]);
        press(&mut model, &[Key::Back]);
        assert_eq!(model.view, View::Services);
        assert!(model.enter("payments") && !model.enter("nothing"));
    }

    #[test]
    fn a_filter_is_typed_kept_and_taken_back() {
        let mut model = model();
        press(&mut model, &[Key::Char('/'), Key::Char('q'), Key::Erase, Key::Char('p'), Key::Char('a'), Key::Enter]);
        assert_eq!(names(&model), ["shop/payments"]);
        press(&mut model, &[Key::Back]);
        assert_eq!((names(&model).len(), &model.view), (3, &View::Services));
    }

    #[test]
    fn nothing_moves_while_paused_and_the_selection_stays_in_the_list() {
        let mut model = model();
        press(&mut model, &[Key::Char(' '), Key::PageDown]);
        model.take(Answer::default());
        assert_eq!((model.rows().len(), model.selected), (3, 2));
        press(&mut model, &[Key::Char(' ')]);
        model.take(Answer::default());
        assert_eq!((model.rows().len(), model.selected), (0, 0));
        assert!(model.press(Key::Char('q')));
    }

    #[test]
    fn history_is_bounded_and_of_rows_that_are_there() {
        let mut model = model();
        for _ in 0..HISTORY + 50 {
            model.take(answer());
        }
        assert_eq!(model.history("shop/catalog").count(), HISTORY);
        assert!(model.enter("catalog"));
        assert_eq!(model.history("shop/catalog-2").last(), Some(50.0));
        model.take(Answer::default());
        assert!(model.history.is_empty());
    }
}
