//! The terminal, borrowed: raw mode and the alternate screen while it is held, as it was on every end (a panic too), and the keys that
//! come from it.

use super::model::Key;
use crate::failure::Failure;
use ratatui::crossterm::event::{self, KeyCode, KeyEventKind, KeyModifiers};
use ratatui::{DefaultTerminal, Frame};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;
use tokio::sync::mpsc;

/// How soon the thread that reads keys ends once it is told to.
const LOOK: Duration = Duration::from_millis(100);

/// The terminal while it shows something; dropping gives it back.
pub struct Screen(DefaultTerminal);

impl Screen {
    /// Borrows it. A panic gives it back before it is told.
    ///
    /// # Errors
    /// When it cannot be set up.
    pub fn open() -> Result<Self, Failure> {
        let opened = ratatui::try_init();
        opened.map(Self).map_err(|error| {
            ratatui::restore();
            Failure::not_well(format!("cannot use the terminal: {error}")).hint("see the figures with: weft stat -w")
        })
    }

    /// Draws; what did not change is not sent.
    ///
    /// # Errors
    /// When the terminal is gone.
    pub fn draw(&mut self, draw: impl FnOnce(&mut Frame<'_>)) -> Result<(), Failure> {
        let drawn = self.0.draw(draw).map(drop);
        drawn.map_err(|error| Failure::not_well(format!("cannot write to the terminal: {error}")))
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        ratatui::restore();
    }
}

/// What comes from the terminal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    Key(Key),
    Resized,
}

/// Reads keys on a thread of its own, which ends with this value.
pub struct Keys {
    events: mpsc::Receiver<Event>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Keys {
    /// Begins to read.
    pub fn start() -> Self {
        let (sender, events) = mpsc::channel(64);
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = stop.clone();
        let thread = std::thread::spawn(move || {
            while !stopped.load(Ordering::Relaxed) {
                let read = match event::poll(LOOK) {
                    Ok(true) => event::read(),
                    Ok(false) => continue,
                    Err(error) => Err(error),
                };
                let Ok(read) = read else { return };
                // Whoever types faster than this is drawn loses keys, not memory.
                if let Some(event) = understood(&read)
                    && matches!(sender.try_send(event), Err(mpsc::error::TrySendError::Closed(_)))
                {
                    return;
                }
            }
        });
        Self { events, stop, thread: Some(thread) }
    }

    /// The next one; `None`: the terminal is gone.
    pub async fn next(&mut self) -> Option<Event> {
        self.events.recv().await
    }
}

impl Drop for Keys {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            // It panics nowhere.
            drop(thread.join());
        }
    }
}

fn understood(event: &event::Event) -> Option<Event> {
    let key = match event {
        event::Event::Resize(..) => return Some(Event::Resized),
        event::Event::Key(key) if key.kind != KeyEventKind::Release => key,
        _ => return None,
    };
    let control = key.modifiers.contains(KeyModifiers::CONTROL);
    Some(Event::Key(match key.code {
        KeyCode::Char('c' | 'd') if control => Key::Quit,
        KeyCode::Char(_) if control => return None,
        KeyCode::Char(letter) => Key::Char(letter),
        KeyCode::Up => Key::Up,
        KeyCode::Down => Key::Down,
        KeyCode::PageUp => Key::PageUp,
        KeyCode::PageDown => Key::PageDown,
        KeyCode::Home => Key::Home,
        KeyCode::End => Key::End,
        KeyCode::Enter | KeyCode::Right => Key::Enter,
        KeyCode::Esc | KeyCode::Left => Key::Back,
        KeyCode::Backspace => Key::Erase,
        KeyCode::Tab | KeyCode::BackTab => Key::Tab,
        _ => return None,
    }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use ratatui::crossterm::event::KeyEvent;

    #[test]
    fn keys_are_told_apart() {
        let key = |code, modifiers| understood(&event::Event::Key(KeyEvent::new(code, modifiers)));
        assert_eq!(key(KeyCode::Char('c'), KeyModifiers::CONTROL), Some(Event::Key(Key::Quit)));
        assert_eq!(key(KeyCode::Char('c'), KeyModifiers::NONE), Some(Event::Key(Key::Char('c'))));
        assert_eq!(key(KeyCode::Char('x'), KeyModifiers::CONTROL), None);
        assert_eq!(key(KeyCode::Esc, KeyModifiers::NONE), Some(Event::Key(Key::Back)));
        assert_eq!(understood(&event::Event::Resize(80, 24)), Some(Event::Resized));
        assert_eq!(understood(&event::Event::FocusGained), None);
    }
}
