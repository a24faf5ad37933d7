//! `weft top` on a terminal: what is on the screen is read as a terminal would show it, and the terminal is given back.

use crate::Shop;
use std::fs::File;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::{ChildStdin, Command, Stdio};
use std::sync::{Arc, Mutex};
use weft_integration::rig::{Mesh, binary, wait_for};

/// A terminal of so many columns and lines, as far as `weft top` uses one.
struct Screen {
    size: (usize, usize),
    cells: Vec<Vec<char>>,
    at: (usize, usize),
    /// Whether the alternate screen is shown.
    alternate: bool,
    /// Whether a sequence has begun, and what there is of it.
    sequence: Option<String>,
    /// What was printed outside of the alternate screen.
    plain: String,
}

impl Screen {
    fn new(columns: usize, lines: usize) -> Self {
        let cells = vec![vec![' '; columns]; lines];
        Self { size: (columns, lines), cells, at: (0, 0), alternate: false, sequence: None, plain: String::new() }
    }

    fn resize(&mut self, columns: usize, lines: usize) {
        let Self { alternate, plain, .. } = std::mem::replace(self, Self::new(columns, lines));
        (self.alternate, self.plain) = (alternate, plain);
    }

    fn feed(&mut self, text: &str) {
        for letter in text.chars() {
            match (&mut self.sequence, letter) {
                (None, '\x1b') => self.sequence = Some(String::new()),
                (None, letter) => self.print(letter),
                (Some(sequence), letter) => {
                    sequence.push(letter);
                    // CSI ends with a letter; of the others only ones of a single character occur.
                    let ends = if sequence.starts_with('[') { letter.is_ascii_alphabetic() } else { true };
                    if ends && sequence != "[" {
                        let sequence = self.sequence.take().unwrap();
                        self.control(&sequence);
                    }
                }
            }
        }
    }

    fn print(&mut self, letter: char) {
        if !self.alternate {
            return self.plain.push(letter);
        }
        match letter {
            '\r' => self.at.0 = 0,
            '\n' => self.at.1 = (self.at.1 + 1).min(self.size.1 - 1),
            letter => {
                let (x, y) = self.at;
                if x < self.size.0 && y < self.size.1 {
                    self.cells[y][x] = letter;
                }
                self.at.0 += 1;
            }
        }
    }

    fn control(&mut self, sequence: &str) {
        let number = |text: &str, default: usize| text.parse().unwrap_or(default);
        match sequence {
            "[?1049h" => self.alternate = true,
            "[?1049l" => self.alternate = false,
            "[2J" => self.cells = vec![vec![' '; self.size.0]; self.size.1],
            _ => {}
        }
        if let Some(place) = sequence.strip_prefix('[').and_then(|rest| rest.strip_suffix('H')) {
            let (line, column) = place.split_once(';').unwrap_or((place, "1"));
            self.at = (number(column, 1) - 1, number(line, 1) - 1);
        }
    }

    fn lines(&self) -> Vec<String> {
        self.cells.iter().map(|line| line.iter().collect::<String>().trim_end().to_owned()).collect()
    }
}

/// `weft top` in a terminal of its own, by way of script(1), and a shell that says how the terminal was left.
struct Terminal {
    screen: Arc<Mutex<Screen>>,
    keys: ChildStdin,
    child: std::process::Child,
    device: PathBuf,
}

impl Terminal {
    #[track_caller]
    fn open(mesh: &Mesh, arguments: &str) -> Self {
        let device = mesh.folder().join("tty");
        let script = format!(
            "stty rows 24 cols 80; tty > {}; {} top {arguments}; echo \"code=$?\"; stty -a",
            device.display(),
            binary("weft").display()
        );
        let mut child = Command::new("script")
            .args(["-qfec", &script, "/dev/null"])
            .env("KUBECONFIG", mesh.kubeconfig())
            .env("TERM", "xterm-256color")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("script (bsdutils) is installed");
        let screen = Arc::new(Mutex::new(Screen::new(80, 24)));
        let (shown, mut out) = (screen.clone(), child.stdout.take().unwrap());
        std::thread::spawn(move || {
            let (mut buffer, mut kept) = ([0; 4096], Vec::new());
            while let Ok(count @ 1..) = out.read(&mut buffer) {
                kept.extend_from_slice(&buffer[..count]);
                // A character may be cut in two.
                let whole = match std::str::from_utf8(&kept) {
                    Ok(text) => text.len(),
                    Err(error) => error.valid_up_to(),
                };
                let text = String::from_utf8_lossy(&kept[..whole]).into_owned();
                shown.lock().unwrap().feed(&text);
                kept.drain(..whole);
            }
        });
        let keys = child.stdin.take().unwrap();
        let device = wait_for("the terminal has a name", || {
            let text = std::fs::read_to_string(&device).map_err(|e| e.to_string())?;
            if text.ends_with('\n') { Ok(PathBuf::from(text.trim())) } else { Err(text) }
        });
        Self { screen, keys, child, device }
    }

    fn press(&mut self, keys: &str) {
        self.keys.write_all(keys.as_bytes()).unwrap();
        self.keys.flush().unwrap();
    }

    #[track_caller]
    fn until(&self, what: &str, is_so: impl Fn(&[String]) -> bool) -> Vec<String> {
        wait_for(what, || {
            let lines = self.screen.lock().unwrap().lines();
            if is_so(&lines) { Ok(lines) } else { Err(format!("{lines:#?}")) }
        })
    }

    /// Waits for the end: what the shell says of the exit code and of the terminal.
    #[track_caller]
    fn ended(mut self) -> String {
        let screen = self.screen.clone();
        let said = wait_for("the terminal is given back", || {
            let screen = screen.lock().unwrap();
            let is_over = !screen.alternate && screen.plain.contains("code=") && screen.plain.contains("icanon");
            if is_over { Ok(screen.plain.clone()) } else { Err(screen.plain.clone()) }
        });
        drop(self.keys);
        self.child.wait().unwrap();
        said
    }
}

/// The process `weft top` of a terminal.
fn pid(device: &Path) -> rustix::process::Pid {
    let on = |entry: std::fs::DirEntry| {
        let path = entry.path();
        let command = std::fs::read(path.join("cmdline")).ok()?;
        let is_top = command.split(|byte| *byte == 0).nth(1) == Some(b"top");
        let terminal = std::fs::read_link(path.join("fd/1")).ok()?;
        (is_top && terminal == device).then(|| entry.file_name().to_string_lossy().parse::<i32>().ok())?
    };
    let found = std::fs::read_dir("/proc").unwrap().flatten().find_map(on).expect("weft top runs on the terminal");
    rustix::process::Pid::from_raw(found).unwrap()
}

#[test]
fn the_screen_shows_services_and_their_parts_and_is_given_back() {
    let shop = Shop::open();
    let mut terminal = Terminal::open(&shop.mesh, "");
    let lines = terminal.until("services are shown", |lines| {
        shop.caller.get("http://catalog/items");
        lines.iter().any(|line| line.starts_with("shop/catalog ") && line.contains("100%"))
    });
    assert!(lines[0].starts_with("weft top  2 services  ") && lines[0].ends_with("by problems"), "{lines:#?}");
    assert!(lines[2].starts_with("SERVICE ") && lines[23].contains("q quit"), "{lines:#?}");

    terminal.press("n");
    terminal.until("they are sorted by name", |lines| {
        lines[0].ends_with("by name")
            && lines[3].starts_with("shop/catalog ")
            && lines[4].starts_with("shop/catalog-v2 ")
    });
    terminal.press("\r");
    terminal.until("instances are shown", |lines| {
        shop.caller.get("http://catalog/items");
        lines[0].contains("shop/catalog  instances") && lines[3].starts_with("shop/catalog-1 ")
    });
    terminal.press("\t");
    terminal.until("routes are shown", |lines| lines[0].contains("routes") && lines[3].starts_with("(no route) "));
    terminal.press("\x1b");
    terminal.until("services are shown again", |lines| lines[2].starts_with("SERVICE "));
    terminal.press("/v2\r");
    terminal.until("the filter holds", |lines| lines[3].starts_with("shop/catalog-v2 ") && lines[4].is_empty());

    // Another size is another picture.
    terminal.screen.lock().unwrap().resize(120, 30);
    let mut resize = Command::new("stty");
    resize.args(["rows", "30", "cols", "120"]).stdin(File::open(&terminal.device).unwrap());
    let status = resize.status().unwrap();
    assert!(status.success());
    terminal.until("all of it is used", |lines| lines[29].contains("q quit"));

    terminal.press("q");
    let said = terminal.ended();
    assert!(said.contains("code=0") && said.contains(" icanon") && said.contains(" echo "), "{said}");
}

#[test]
fn a_signal_gives_the_terminal_back_and_a_control_plane_that_goes_is_said_to_be_gone() {
    let Shop { mut mesh, .. } = Shop::open();
    let terminal = Terminal::open(&mesh, "catalog");
    terminal.until("the service is shown", |lines| lines[0].contains("shop/catalog  instances"));
    mesh.kill();
    terminal
        .until("it says that there is nothing newer", |lines| lines[1].starts_with("no newer figures: cannot reach"));
    rustix::process::kill_process(pid(&terminal.device), rustix::process::Signal::TERM).unwrap();
    let said = terminal.ended();
    assert!(said.contains("code=143") && said.contains(" icanon") && said.contains(" echo "), "{said}");
}

#[test]
fn without_a_terminal_one_table_is_printed() {
    let shop = Shop::open();
    let table = shop.mesh.weft(&["top"]).ok();
    assert!(table.starts_with("SERVICE ") && table.contains("shop/catalog-v2"), "{table}");
    let none = shop.mesh.weft(&["top", "nothing"]);
    assert!(none.code == 1 && none.err.contains("no service 'nothing'"), "{none:?}");
}
