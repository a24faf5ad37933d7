//! How `weft top` looks: a line of sums, the table, a line of keys. Nothing is decided here.

use super::model::{Model, Row, View};
use crate::stat::{milliseconds, percent};
use ratatui::Frame;
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::{Color, Modifier, Style};
use ratatui::text::Line;
use ratatui::widgets::{Cell, Paragraph, Table, TableState};

/// Less has no room for a table.
const LEAST: (u16, u16) = (50, 6);
const KEYS: &str = "↑↓ select  enter open  esc back  p r e l n sort  / filter  space pause  q quit";
const BARS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];

/// Draws all of it.
pub fn draw(frame: &mut Frame<'_>, model: &mut Model) {
    let area = frame.area();
    if area.width < LEAST.0 || area.height < LEAST.1 {
        frame.render_widget(Paragraph::new("weft top: the terminal is too small"), area);
        return;
    }
    let parts = [Constraint::Length(1), Constraint::Length(1), Constraint::Min(1), Constraint::Length(1)];
    let [title, below, middle, keys] = Layout::vertical(parts).areas(area);
    frame.render_widget(Line::styled(sums(model), Style::new().add_modifier(Modifier::BOLD)), title);
    frame.render_widget(second(model), below);
    table(frame, model, middle);
    let keys_line = match (&model.view, model.typing) {
        (_, true) => Line::from(format!("filter: {}▏  enter keep  esc clear", model.filter)),
        (View::Services, _) => Line::from(KEYS),
        _ => Line::from(KEYS.replace("enter open", "tab routes")),
    };
    frame.render_widget(keys_line.style(Style::new().add_modifier(Modifier::DIM)), keys);
}

/// `12 services  340.0/s  99.98%  …`
fn sums(model: &Model) -> String {
    let services = model.services();
    let rps: f64 = services.iter().map(|row| row.rps).sum();
    let failing: f64 = services.iter().filter_map(|row| Some(row.rps * (1.0 - row.success?))).sum();
    let success = if rps > 0.0 { percent(1.0 - failing / rps) } else { "-".to_owned() };
    let what = match &model.view {
        View::Services => format!("{} services", services.len()),
        View::Instances(name) => format!("{name}  instances"),
        View::Routes(name) => format!("{name}  routes"),
    };
    let of = model.service();
    let (rps, success) = match of {
        Some(row) => (row.rps, row.success.map_or_else(|| "-".to_owned(), percent)),
        None => (rps, success),
    };
    let paused = if model.paused { "  PAUSED" } else { "" };
    format!("weft top  {what}  {rps:.1}/s  {success}  by {}{paused}", model.sort.word())
}

/// What is wrong with the way to the control plane, or where it is.
fn second(model: &Model) -> Line<'static> {
    match &model.error {
        Some(why) => Line::styled(format!("no newer figures: {why}"), coloured(Color::Red)),
        None => {
            let filter = if model.filter.is_empty() { String::new() } else { format!("  filter: {}", model.filter) };
            Line::from(format!("{}  last {:.0} s{filter}", model.server, model.window()))
        }
    }
}

/// As <https://no-color.org> has it.
fn coloured(color: Color) -> Style {
    match std::env::var_os("NO_COLOR") {
        Some(value) if !value.is_empty() => Style::new().add_modifier(Modifier::BOLD),
        _ => Style::new().fg(color),
    }
}

fn table(frame: &mut Frame<'_>, model: &mut Model, area: Rect) {
    let rows = model.rows();
    model.page = usize::from(area.height.saturating_sub(1)).max(1);
    if rows.is_empty() {
        let text = if model.filter.is_empty() { "nothing was measured here yet" } else { "nothing matches the filter" };
        frame.render_widget(Paragraph::new(text), area);
        return;
    }
    let spark: u16 = if area.width >= 110 { 40 } else { 12 };
    let services = model.view == View::Services;
    let first = match model.view {
        View::Services => "SERVICE",
        View::Instances(_) => "INSTANCE",
        View::Routes(_) => "ROUTE",
    };
    let (mut header, mut widths) = (vec![first], vec![Constraint::Fill(1)]);
    if services {
        header.push("READY");
        widths.push(Constraint::Length(5));
    }
    header.extend(["RPS", "SUCCESS", "P50", "P99", "OPEN", "CALLS"]);
    widths.extend([8, 7, 6, 6, 4, spark].map(Constraint::Length));
    let heading = header.iter().enumerate().map(|(column, text)| cell(text, column > 0 && *text != "CALLS"));
    let heading = ratatui::widgets::Row::new(heading).style(Style::new().add_modifier(Modifier::BOLD));
    let lines: Vec<_> = rows
        .iter()
        .map(|row| {
            let line: Vec<f64> = model.history(&row.name).collect();
            let style = match row.trouble() {
                3 | 2 => coloured(Color::Red),
                1 => coloured(Color::Yellow),
                _ => Style::new(),
            };
            ratatui::widgets::Row::new(cells(row, services, &sparkline(&line, usize::from(spark)))).style(style)
        })
        .collect();
    let table = Table::new(lines, widths)
        .header(heading)
        .column_spacing(1)
        .row_highlight_style(Style::new().add_modifier(Modifier::REVERSED));
    frame.render_stateful_widget(table, area, &mut TableState::new().with_selected(Some(model.selected)));
}

fn cell(text: &str, right: bool) -> Cell<'static> {
    let line = Line::from(text.to_owned());
    Cell::from(if right { line.right_aligned() } else { line })
}

fn cells(row: &Row, services: bool, line: &str) -> Vec<Cell<'static>> {
    let some = |value: Option<f64>, text: fn(f64) -> String| value.map_or_else(|| "-".to_owned(), text);
    let figures = &row.figures;
    let called = figures.calls > 0;
    let mut texts = vec![row.name.clone()];
    if services {
        texts.push(row.ready.map_or_else(|| "-".to_owned(), |(ready, all)| format!("{ready}/{all}")));
    }
    texts.extend([
        some(called.then_some(figures.rps), |rps| format!("{rps:.1}/s")),
        some(figures.success, percent),
        some(figures.p50_ms, milliseconds),
        some(figures.p99_ms, milliseconds),
        figures.open_breakers.to_string(),
    ]);
    let right = texts.iter().enumerate().map(|(column, text)| cell(text, column > 0));
    right.chain(std::iter::once(cell(line, false))).collect()
}

/// The last points as bars, the newest at the right, each against the largest.
fn sparkline(points: &[f64], width: usize) -> String {
    let shown = &points[points.len().saturating_sub(width)..];
    let most = shown.iter().copied().fold(0.0_f64, f64::max);
    let bar = |value: f64| {
        if most <= 0.0 || value <= 0.0 {
            return BARS[0];
        }
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a share of seven")]
        let height = (value / most * 7.0).round() as usize;
        BARS[height.min(7)]
    };
    let pad = " ".repeat(width - shown.len());
    pad + &shown.iter().map(|value| bar(*value)).collect::<String>()
}

#[cfg(test)]
mod tests {
    use super::super::model::{Key, tests::model};
    use super::*;
    use ratatui::Terminal;
    use ratatui::backend::TestBackend;

    fn screen(model: &mut Model, (width, height): (u16, u16)) -> Vec<String> {
        let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
        terminal.draw(|frame| draw(frame, model)).unwrap();
        let buffer = terminal.backend().buffer().clone();
        let line = |y| (0..width).map(|x| buffer[(x, y)].symbol()).collect::<String>().trim_end().to_owned();
        (0..height).map(line).collect()
    }

    #[test]
    fn eighty_columns_show_every_figure_with_problems_first() {
        let mut model = model();
        let lines = screen(&mut model, (80, 24));
        assert_eq!(
            lines[..6],
            [
                "weft top  3 services  150.0/s  98.00%  by problems",
                "https://127.0.0.1:15080  last 10 s",
                "SERVICE                   READY      RPS SUCCESS    P50    P99 OPEN CALLS",
                "shop/users                  0/1        -       -      -      -    0            ▁",
                "shop/payments               1/1   30.0/s  90.00%  4.0ms  250ms    1            █",
                "shop/catalog                2/2  120.0/s    100%  1.2ms  9.0ms    0            █",
            ]
        );
        assert_eq!(lines[23], "↑↓ select  enter open  esc back  p r e l n sort  / filter  space pause  q quit");
    }

    #[test]
    fn a_service_shows_its_own_sums_and_its_parts() {
        let mut model = model();
        model.press(Key::End);
        model.press(Key::Enter);
        let lines = screen(&mut model, (120, 10));
        assert_eq!(lines[0], "weft top  shop/catalog  instances  120.0/s  100%  by problems");
        assert!(lines[2].starts_with("INSTANCE ") && lines[3].starts_with("shop/catalog-1 "), "{lines:#?}");
        model.failed("it is away".into());
        model.press(Key::Char(' '));
        let lines = screen(&mut model, (120, 10));
        assert!(lines[0].ends_with("  PAUSED") && lines[1] == "no newer figures: it is away", "{lines:#?}");
        assert_eq!(screen(&mut model, (30, 4))[0], "weft top: the terminal is too");
    }

    #[test]
    fn a_sparkline_ends_with_the_newest_and_measures_by_the_largest() {
        assert_eq!(sparkline(&[0.0, 5.0, 10.0], 5), "  ▁▅█");
        assert_eq!(sparkline(&[1.0, 2.0, 4.0], 2), "▅█");
        assert_eq!(sparkline(&[0.0, 0.0], 2), "▁▁");
    }
}
