//! The table's machinery: rows, the mesh that all of them share, and their comparison with the schema.
//!
//! Each row has two services of its own, one under a policy without its field and one under a policy with it, so that no row waits for
//! another and nothing is configured twice. Everything is applied at once; the rows then are looked at, several at a time.

mod schema;
mod stage;

pub use stage::Side;

use crate::app::Speaks;
use stage::{Placed, Stage};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};
use weft_integration::rig::Mesh;
use weft_integration::rig::stage::Answer;

/// Rows that are looked at at a time: most of them wait most of the time.
const AT_ONCE: usize = 12;
/// Zone of the caller.
pub const NEAR: &str = "near";

/// One endpoint of a service.
#[derive(Clone, Copy)]
pub struct End {
    /// Name of the application.
    pub name: &'static str,
    /// What it does.
    pub speaks: Speaks,
    /// Where it runs; empty: it does not say.
    pub zone: &'static str,
    /// Whether it comes only when a row asks for it.
    pub late: bool,
}

/// An endpoint that is there from the beginning.
pub const fn end(name: &'static str, speaks: Speaks) -> End {
    End { name, speaks, zone: "", late: false }
}

/// Who answers a service's calls.
#[derive(Clone)]
pub struct Scene {
    /// Its endpoints.
    pub ends: Vec<End>,
    /// What the service's port is declared to speak.
    pub protocol: &'static str,
    /// Whether each endpoint is behind a sidecar of its own: the first gate, the second.
    pub gated: bool,
    /// Whether there are other services beside it: `one` and `two`, besides `one` in the namespace `far`, which is always there.
    pub spares: bool,
    /// Whether its endpoints get calls in turn, whatever its policies say.
    pub in_turn: bool,
}

/// HTTP, without sidecars.
pub fn scene(ends: &[End]) -> Scene {
    Scene { ends: ends.to_vec(), protocol: "http", gated: false, spares: false, in_turn: false }
}

/// What a service's callers see under its policy, in a few words.
pub type Look = Box<dyn Fn(&Side<'_>) -> String + Send + Sync>;

/// A field and what it does.
pub struct Row {
    field: String,
    scene: Scene,
    /// `spec` without the field and with it, as the inside of a flow mapping; `targetRefs` need not be said. `$SERVICE`, `$PORT` and
    /// `$NAMESPACE` stand for the side's own.
    specs: [String; 2],
    look: Look,
    /// What is seen without the field and with it.
    seen: [&'static str; 2],
    /// What the API says to the policy without the field.
    refused: Option<&'static str>,
}

/// A row of a field.
pub fn row(
    field: impl Into<String>,
    scene: Scene,
    [without, with]: [&str; 2],
    seen: [&'static str; 2],
    look: impl Fn(&Side<'_>) -> String + Send + Sync + 'static,
) -> Row {
    let field = field.into();
    assert_ne!(seen[0], seen[1], "{field}: nothing is seen of it");
    let specs = [without.to_owned(), with.to_owned()];
    Row { field, scene, specs, look: Box::new(look), seen, refused: None }
}

impl Row {
    /// The same with a sidecar before each application; `None`: it is not about calls that could have one.
    pub fn behind_sidecars(mut self) -> Option<Self> {
        let is_one_of_many = |end: &End| matches!(end.speaks, Speaks::Http(_)) && !end.late && end.zone.is_empty();
        let scene = &mut self.scene;
        let fits = (1..=2).contains(&scene.ends.len()) && scene.ends.iter().all(is_one_of_many) && !scene.spares;
        scene.gated = true;
        fits.then_some(self)
    }

    /// The API refuses the policy without the field, and says this.
    pub fn refused(mut self, because: &'static str) -> Self {
        self.refused = Some(because);
        self
    }
}

/// Looks at every row, and at every field of the schema for its row.
pub fn check(kind: &str, rows: &[Row]) {
    let mesh = Mesh::start();
    schema::assert_every_field_has_a_row(&mesh, kind, rows);
    look_at_all(mesh, kind, rows);
}

/// Looks at these rows.
pub fn check_again(kind: &str, rows: &[Row]) {
    look_at_all(Mesh::start(), kind, rows);
}

fn look_at_all(mesh: Mesh, kind: &str, rows: &[Row]) {
    let began = Instant::now();
    let mut stage = Stage::new(mesh);
    let plan: Vec<[Placed; 2]> =
        rows.iter().enumerate().map(|(i, row)| ["without", "with"].map(|side| stage.place(i, side, row))).collect();
    stage.set(kind, rows, &plan);
    schema::assert_rows_differ_in_their_fields(stage.mesh(), kind, rows, &plan);
    println!("{kind}: {} rows stand after {:.1?}", rows.len(), began.elapsed());

    let todo: Vec<(&Row, &[Placed; 2])> = rows.iter().zip(&plan).collect();
    let next = AtomicUsize::new(0);
    let results: Mutex<Vec<Result<String, String>>> = Mutex::default();
    std::thread::scope(|scope| {
        for _ in 0..AT_ONCE {
            scope.spawn(|| {
                while let Some((row, sides)) = todo.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let result = look(&stage, row, sides);
                    results.lock().unwrap().push(result);
                }
            });
        }
    });
    let results = results.into_inner().unwrap();
    let failures: Vec<&String> = results.iter().filter_map(|result| result.as_ref().err()).collect();
    results.iter().filter_map(|result| result.as_ref().ok()).for_each(|line| println!("{line}"));
    println!("{kind}: {} rows in {:.1?}", rows.len(), began.elapsed());
    assert!(failures.is_empty(), "{kind}:\n{}", failures.iter().map(|f| f.as_str()).collect::<Vec<_>>().join("\n"));
}

fn look(stage: &Stage, row: &Row, sides: &[Placed; 2]) -> Result<String, String> {
    let began = Instant::now();
    let mut seen = Vec::new();
    for (placed, wanted) in sides.iter().zip(row.seen) {
        let side = stage.side(row, placed);
        let looked = catch_unwind(AssertUnwindSafe(|| (row.look)(&side)));
        seen.push(match looked {
            Ok(seen) => (seen, wanted),
            Err(panic) => {
                let text = panic.downcast_ref::<String>().cloned();
                (text.or_else(|| panic.downcast_ref::<&str>().map(|t| (*t).to_owned())).unwrap_or_default(), wanted)
            }
        });
    }
    let took: Duration = began.elapsed();
    let [(without, wanted_without), (with, wanted_with)] = &seen[..] else { unreachable!("two sides") };
    if without == wanted_without && with == wanted_with {
        return Ok(format!("{}: {without} without, {with} with it ({took:.1?})", row.field));
    }
    Err(format!(
        "{}: without it `{without}` (wanted `{wanted_without}`), with it `{with}` (wanted `{wanted_with}`), in {took:.1?}",
        row.field
    ))
}

/// Status and `weft-error` of an answer: `504 request-timeout`, `200`.
pub fn told(answer: &Answer) -> String {
    match answer.header("weft-error") {
        Some(error) => format!("{} {error}", answer.status),
        None => answer.status.to_string(),
    }
}
