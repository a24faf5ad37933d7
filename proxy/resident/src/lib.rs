//! A process that has fallen quiet gives back what its start, or its last busy time, needed: pages of the program that it hardly runs
//! when idle, and what the allocator kept of memory that was freed.
//!
//! A start walks through most of the program once, and around every first touch the kernel maps 64 KiB of the file, so that nearly all
//! of it stays in the process's resident set although an idle process runs a small part. Pages that are unmapped here stay in the page
//! cache: what is used again comes back with a soft fault. Nothing that anybody can read is changed.
//!
//! Quiet is told by the processor time of the process, so that nothing on the path of a call keeps count, and a busy process is never
//! disturbed. When it is quiet enough, and what its allocator has to give, is the process's own to say: [`Quiet`].

use std::fs::File;
use std::io::{self, BufRead, BufReader};
use std::time::Duration;
use tokio::time::{Instant, MissedTickBehavior};

/// Bytes of memory, of either kind, that are worth giving back.
const WORTH: usize = 1 << 20;

/// When a process is quiet, and what it does then.
#[derive(Debug, Clone, Copy)]
pub struct Quiet {
    /// How often is looked.
    pub look: Duration,
    /// Processor time of all threads within one look that is no longer quiet. The kernel tells it in hundredths of a second.
    pub busy: Duration,
    /// Least time from one time to the next; doubled, up to the most, while what was given back returns at once.
    pub pause: (Duration, Duration),
    /// Asks the allocator for what it keeps.
    pub trim: fn(),
}

/// Gives back whenever the process falls quiet, until the future is dropped; returns where the system does not tell what is in memory.
pub async fn give_back(quiet: Quiet) {
    let mut looks = tokio::time::interval(quiet.look);
    looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    looks.tick().await;
    let mut used = processor_time();
    let mut floor = Resident::default();
    let (mut last, mut pause) = (None::<Instant>, quiet.pause.0);
    loop {
        looks.tick().await;
        let before = std::mem::replace(&mut used, processor_time());
        if used.saturating_sub(before) >= quiet.busy || last.is_some_and(|last| last.elapsed() < pause) {
            continue;
        }
        let now = match Resident::now() {
            Ok(now) if now.exceeds(floor) => now,
            Ok(_) => continue,
            Err(error) => {
                // A system without /proc: memory is all that it costs.
                tracing::debug!(%error, "memory is kept when quiet");
                return;
            }
        };
        (quiet.trim)();
        let unmapped = unmap_files();
        floor = Resident::now().unwrap_or(now);
        tracing::debug!(before = ?now, after = ?floor, ?unmapped, "quiet: memory given back");
        let soon = last.is_some_and(|last| last.elapsed() < 2 * pause);
        pause = if soon { (2 * pause).min(quiet.pause.1) } else { quiet.pause.0 };
        last = Some(Instant::now());
        // What giving back took is no work.
        used = processor_time();
    }
}

/// Bytes in memory: of files, and of the process's own.
#[derive(Debug, Clone, Copy, Default)]
struct Resident {
    file: usize,
    own: usize,
}

impl Resident {
    fn now() -> io::Result<Self> {
        Self::read(&std::fs::read_to_string("/proc/self/status")?)
            .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "/proc/self/status"))
    }

    /// `RssAnon` and `RssFile` of `/proc/PID/status` (proc_pid_status(5)).
    fn read(status: &str) -> Option<Self> {
        let line = |name: &str| status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
        let bytes = |line: &str| line.split_ascii_whitespace().next()?.parse::<usize>().ok()?.checked_mul(1024);
        Some(Self { file: bytes(line("RssFile")?)?, own: bytes(line("RssAnon")?)? })
    }

    const fn exceeds(self, floor: Self) -> bool {
        self.file > floor.file + WORTH || self.own > floor.own + WORTH
    }
}

/// Of all threads since the start; zero where the system does not say.
fn processor_time() -> Duration {
    std::fs::read_to_string("/proc/self/stat").map_or(Duration::ZERO, |stat| ticks(&stat))
}

/// User and system time out of `/proc/PID/stat`, in the hundredths of a second that the kernel tells it in (proc_pid_stat(5), `utime`).
fn ticks(stat: &str) -> Duration {
    // The program's name, the second field, is in parentheses and may hold spaces.
    let fields = stat.rsplit_once(')').map_or("", |(_, rest)| rest).split_ascii_whitespace();
    let ticks: u64 = fields.skip(11).take(2).filter_map(|field| field.parse::<u64>().ok()).sum();
    Duration::from_millis(ticks.saturating_mul(10))
}

/// Asks the C library's allocator for whole pages that nothing lives in any more. By itself it gives back only what is freed last.
#[cfg(target_env = "gnu")]
pub fn trim_heap() {
    #[expect(unsafe_code, reason = "an entry of the C library that has no other name")]
    // SAFETY: the signature is that of malloc.h, and the function may be called from any thread at any time (malloc_trim(3)).
    unsafe {
        unsafe extern "C" {
            fn malloc_trim(pad: usize) -> std::ffi::c_int;
        }
        malloc_trim(0);
    }
}

/// Other allocators than that of the GNU C library give back by themselves.
#[cfg(not(target_env = "gnu"))]
pub fn trim_heap() {}

/// Unmaps the file pages that the process only reads; how many bytes were resident.
fn unmap_files() -> io::Result<usize> {
    let mappings = read_only(BufReader::new(File::open("/proc/self/smaps")?))?;
    let mut resident = 0;
    for mapping in mappings {
        if unmap(&mapping).is_ok() {
            resident += mapping.resident;
        }
    }
    Ok(resident)
}

/// A part of a file in memory that holds nothing but what the file says.
#[derive(Debug, PartialEq, Eq)]
struct Mapping {
    start: usize,
    end: usize,
    resident: usize,
}

/// Mappings of files that cannot be written and hold no page of the process's own (relocations, breakpoints of a tracer).
fn read_only(smaps: impl BufRead) -> io::Result<Vec<Mapping>> {
    let mut found = Vec::new();
    let mut current: Option<Mapping> = None;
    for line in smaps.lines() {
        let line = line?;
        let mut words = line.split_ascii_whitespace();
        let Some(first) = words.next() else { continue };
        match first.strip_suffix(':') {
            None => current = header(first, words),
            Some("Rss") => {
                if let Some(current) = &mut current {
                    current.resident = kib(words.next());
                }
            }
            Some("Anonymous") => {
                if kib(words.next()) == 0 {
                    found.extend(current.take().filter(|mapping| mapping.resident > 0));
                }
                current = None;
            }
            Some(_) => {}
        }
    }
    Ok(found)
}

/// `55d0-55e0 r-xp 00001000 fe:00 4711 /usr/bin/program`
fn header<'l>(range: &str, mut words: impl Iterator<Item = &'l str>) -> Option<Mapping> {
    let (start, end) = range.split_once('-')?;
    let (start, end) = (usize::from_str_radix(start, 16).ok()?, usize::from_str_radix(end, 16).ok()?);
    let (mode, path) = (words.next()?, words.nth(3)?);
    let reads = matches!(mode, "r--p" | "r-xp") && path.starts_with('/');
    reads.then_some(Mapping { start, end, resident: 0 })
}

fn kib(word: Option<&str>) -> usize {
    word.and_then(|word| word.parse::<usize>().ok()).unwrap_or(usize::MAX >> 10) << 10
}

fn unmap(mapping: &Mapping) -> io::Result<()> {
    let start = std::ptr::without_provenance_mut(mapping.start);
    #[expect(
        unsafe_code,
        reason = "the range is a private mapping of a file without a page of our own: what is read there next is what was read before"
    )]
    // SAFETY: the kernel named the range as such a mapping; dropping its pages changes no byte that anybody can see.
    let done = unsafe { rustix::mm::madvise(start, mapping.end - mapping.start, rustix::mm::Advice::LinuxDontNeed) };
    Ok(done?)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SMAPS: &str = "\
1000-3000 r--p 00000000 fe:00 4711                       /usr/bin/weft-proxy
Size:                  8 kB
Rss:                   8 kB
Anonymous:             0 kB
3000-5000 r-xp 00002000 fe:00 4711                       /usr/bin/weft-proxy
Rss:                   4 kB
Anonymous:             4 kB
5000-6000 rw-p 00004000 fe:00 4711                       /usr/bin/weft-proxy
Rss:                   4 kB
Anonymous:             0 kB
6000-8000 r-xp 00000000 fe:00 4712                       /usr/lib/a library (deleted)
Rss:                   0 kB
Anonymous:             0 kB
7ffd000-7ffe000 r-xp 00000000 00:00 0                    [vdso]
Rss:                   4 kB
Anonymous:             0 kB
";

    #[test]
    fn only_file_pages_that_nobody_wrote_are_given_back() {
        let found = read_only(SMAPS.as_bytes()).unwrap();
        assert_eq!(found, [Mapping { start: 0x1000, end: 0x3000, resident: 8192 }]);
    }

    #[test]
    fn resident_memory_is_told_apart_by_whose_it_is() {
        let is = Resident::now().unwrap();
        assert!(is.file > 0 && is.own > 0, "{is:?}");
        let read = Resident::read("Name:\tweft-proxy\nRssAnon:\t    500 kB\nRssFile:\t    200 kB\n").unwrap();
        assert_eq!((read.file, read.own), (200 << 10, 500 << 10));
        assert!(Resident::read("VmRSS:\t 700 kB\n").is_none());
    }

    #[test]
    fn processor_time_is_user_and_system_time() {
        let stat = "4711 (a (b) c) S 1 2 3 4 5 6 7 8 9 10 30 12 13 14 15 16";
        assert_eq!(ticks(stat), Duration::from_millis(420));
        assert_eq!(ticks("nonsense"), Duration::ZERO);
    }

    #[test]
    fn a_program_that_gave_its_pages_back_runs_on() {
        assert!(unmap_files().unwrap() > 0);
        let text = format!("{:?}", std::env::args().collect::<Vec<_>>());
        assert!(text.starts_with('['), "{text}");
    }
}
