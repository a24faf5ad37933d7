//! What the demo shows while it runs: a table that is redrawn in place on a terminal, lines elsewhere. Always on stderr, so that
//! stdout holds the result alone.

use crate::fleet::Stat;
use crate::stat;
use std::collections::VecDeque;
use std::io::{IsTerminal, Write};
use std::time::Duration;
use tokio::time::Instant;

/// Events that stay in view.
const EVENTS: usize = 6;
/// How often a table is printed where nothing can be redrawn.
const PLAIN: Duration = Duration::from_secs(10);

/// The part of the terminal that is the demo's.
pub struct Screen {
    terminal: bool,
    start: Instant,
    events: VecDeque<String>,
    drawn: usize,
    last_plain: Option<Instant>,
}

impl Screen {
    /// Begins now.
    pub fn new() -> Self {
        Self {
            terminal: std::io::stderr().is_terminal(),
            start: Instant::now(),
            events: VecDeque::new(),
            drawn: 0,
            last_plain: None,
        }
    }

    /// Says that something happened.
    pub fn say(&mut self, text: &str) {
        let line = format!("{:>6.1} s  {text}", self.start.elapsed().as_secs_f64());
        if self.drawn == 0 || !self.terminal {
            eprintln!("{line}");
        }
        self.events.push_back(line);
        while self.events.len() > EVENTS {
            self.events.pop_front();
        }
    }

    /// Shows the services as they are now.
    pub fn draw(&mut self, stat: &Stat, users: &str) {
        let table = stat::table(stat);
        if !self.terminal {
            if self.last_plain.is_none_or(|last| last.elapsed() >= PLAIN) {
                self.last_plain = Some(Instant::now());
                eprintln!("{table}{users}");
            }
            return;
        }
        let mut lines: Vec<String> = self.events.iter().cloned().collect();
        lines.push(String::new());
        lines.extend(table.lines().map(str::to_owned));
        lines.push(String::new());
        lines.push(users.to_owned());
        let width = rustix::termios::tcgetwinsize(std::io::stderr()).map_or(0, |size| usize::from(size.ws_col));
        let mut text = String::new();
        if self.drawn > 0 {
            text.push_str(&format!("\x1b[{}A", self.drawn));
        }
        for line in &lines {
            // A line that wrapped would count twice when the cursor goes up again.
            let shown: String = if width > 0 { line.chars().take(width).collect() } else { line.clone() };
            text.push_str(&format!("\r{shown}\x1b[K\n"));
        }
        text.push_str("\x1b[J");
        self.drawn = lines.len();
        let mut out = std::io::stderr().lock();
        let _ = out.write_all(text.as_bytes()).and_then(|()| out.flush());
    }

    /// What follows is printed below.
    pub fn close(&mut self) {
        self.drawn = 0;
    }
}
