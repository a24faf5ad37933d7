//! Where lines of the access log go: a bounded buffer that workers append to, and one thread that empties it into a file or a standard
//! stream. A file that was moved away is opened anew when somebody says so.

use super::access_log::{Clock, Output};
use super::metrics::Counter;
use parking_lot::{Condvar, Mutex};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

/// Bytes that may wait to be written.
const BUFFER: usize = 1 << 20;
/// How long a line may wait for company: one write a batch instead of one a line.
const GATHER: Duration = Duration::from_millis(20);

#[derive(Default)]
struct Waiting {
    lines: Vec<u8>,
    clock: Clock,
    reopen: bool,
    closed: bool,
}

#[derive(Default)]
struct Shared {
    waiting: Mutex<Waiting>,
    ready: Condvar,
}

/// An open output. Dropped, it writes what waits.
pub(super) struct Sink {
    shared: Arc<Shared>,
    writer: Option<std::thread::JoinHandle<()>>,
}

type Stream = Box<dyn Write + Send>;

fn append(path: &Path) -> io::Result<Stream> {
    Ok(Box::new(std::fs::OpenOptions::new().create(true).append(true).open(path)?))
}

impl Sink {
    /// Opens an output and starts its writer. `dropped` counts lines that the disk did not take.
    ///
    /// # Errors
    /// When the file cannot be opened for appending, or the thread cannot start.
    pub fn open(output: &Output, dropped: Counter) -> io::Result<Self> {
        let (stream, path): (Stream, _) = match output {
            Output::Off => (Box::new(io::sink()), None),
            Output::Stdout => (Box::new(io::stdout()), None),
            Output::Stderr => (Box::new(io::stderr()), None),
            Output::File(path) => (append(path)?, Some(path.clone())),
        };
        let shared = Arc::new(Shared::default());
        let theirs = Arc::clone(&shared);
        let thread = std::thread::Builder::new().name("access-log".to_owned()).stack_size(64 << 10);
        let writer = thread.spawn(move || write_out(&theirs, stream, path.as_ref(), &dropped))?;
        Ok(Self { shared, writer: Some(writer) })
    }

    /// Appends what `line` writes; `false`: there was no room.
    pub fn write(&self, line: impl FnOnce(&mut Vec<u8>, &mut Clock)) -> bool {
        let mut waiting = self.shared.waiting.lock();
        if waiting.lines.len() >= BUFFER {
            return false;
        }
        let was_empty = waiting.lines.is_empty();
        let Waiting { lines, clock, .. } = &mut *waiting;
        line(lines, clock);
        drop(waiting);
        if was_empty {
            self.shared.ready.notify_one();
        }
        true
    }

    /// Opens the file anew before the next lines are written.
    pub fn reopen(&self) {
        self.shared.waiting.lock().reopen = true;
        self.shared.ready.notify_one();
    }
}

impl Drop for Sink {
    fn drop(&mut self) {
        self.shared.waiting.lock().closed = true;
        self.shared.ready.notify_one();
        if let Some(writer) = self.writer.take() {
            let _ = writer.join();
        }
    }
}

fn write_out(shared: &Shared, mut stream: Stream, path: Option<&PathBuf>, dropped: &Counter) {
    let mut batch = Vec::new();
    loop {
        let mut waiting = shared.waiting.lock();
        while waiting.lines.is_empty() && !waiting.closed && !waiting.reopen {
            shared.ready.wait(&mut waiting);
        }
        if !waiting.closed && !waiting.reopen {
            // Let a burst gather; a close cuts the wait short.
            shared.ready.wait_for(&mut waiting, GATHER);
        }
        std::mem::swap(&mut batch, &mut waiting.lines);
        let (closed, reopen) = (waiting.closed, std::mem::take(&mut waiting.reopen));
        drop(waiting);
        if let Some(path) = path.filter(|_| reopen) {
            match append(path) {
                Ok(anew) => stream = anew,
                Err(error) => tracing::warn!("the access log goes on in the old file: {}: {error}", path.display()),
            }
        }
        if stream.write_all(&batch).and_then(|()| stream.flush()).is_err() {
            dropped.add(memchr::memchr_iter(b'\n', &batch).count() as u64);
        }
        batch.clear();
        if batch.capacity() > BUFFER / 4 {
            batch = Vec::new();
        }
        if closed {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_finds_the_buffer_full_has_no_room_and_a_disk_that_fails_counts_its_lines() {
        // Nobody empties it.
        let sink = Sink { shared: Arc::default(), writer: None };
        let written = (0..600).filter(|_| sink.write(|lines, _| lines.extend_from_slice(&[b'x'; 2048]))).count();
        assert!((512..=513).contains(&written), "{written}");

        let dropped = Counter::default();
        let full = Sink::open(&Output::File("/dev/full".into()), dropped.clone()).unwrap();
        assert!(full.write(|lines, _| lines.extend_from_slice(b"a line\n")));
        drop(full);
        assert_eq!(dropped.value(), 1);
    }
}
