//! Lives with a program and its sidecar until both have ended: signals, restarts of the sidecar, the order of leaving.
//!
//! Leaving (ARCHITECTURE, drain): inbound drains first while the program still serves what is under way; then the program is
//! asked to end; outbound stays until it has; then the sidecar ends. A second signal reaches the program at once, a third kills.

use super::sidecar::{Plan, Sidecar};
use crate::failure::Failure;
use rustix::process::{Pid, Signal, kill_process};
use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;
use std::time::Duration;
use tokio::process::Child;
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::Instant;

/// How long the parts of leaving may take.
#[derive(Clone, Copy, Debug)]
pub struct Patience {
    /// For a sidecar to become ready, at the start and after a restart.
    pub ready: Duration,
    /// For calls under way to end.
    pub drain: Duration,
    /// For the program to end once it was asked; then it is killed.
    pub stop: Duration,
}

/// Signals as they arrive.
struct Signals {
    receivers: [(Signal, tokio::signal::unix::Signal); 6],
}

impl Signals {
    fn new() -> Result<Self, Failure> {
        let listen = |kind: SignalKind, number: Signal| {
            signal(kind)
                .map(|stream| (number, stream))
                .map_err(|error| Failure::not_well(format!("cannot listen for signals: {error}")))
        };
        Ok(Self {
            receivers: [
                listen(SignalKind::terminate(), Signal::TERM)?,
                listen(SignalKind::interrupt(), Signal::INT)?,
                listen(SignalKind::quit(), Signal::QUIT)?,
                listen(SignalKind::hangup(), Signal::HUP)?,
                listen(SignalKind::user_defined1(), Signal::USR1)?,
                listen(SignalKind::user_defined2(), Signal::USR2)?,
            ],
        })
    }

    /// The next signal. Cancel-safe.
    async fn next(&mut self) -> Signal {
        std::future::poll_fn(|cx| {
            for (number, stream) in &mut self.receivers {
                if stream.poll_recv(cx).is_ready() {
                    return std::task::Poll::Ready(*number);
                }
            }
            std::task::Poll::Pending
        })
        .await
    }
}

/// Starts the sidecar, then the program, and stays until the end. `launch` is called once the sidecar serves; `refresh` before
/// each later start of the sidecar (it renews the join token). The value is the exit code of the program.
pub async fn supervise(
    mut plan: Plan,
    patience: Patience,
    launch: impl AsyncFnOnce(&super::sidecar::Ready) -> Result<Child, Failure>,
    refresh: impl AsyncFn() -> Result<(), Failure>,
) -> Result<u8, Failure> {
    let mut signals = Signals::new()?;
    let mut sidecar = tokio::select! {
        started = plan.start(patience.ready) => started?,
        number = async { loop { let n = signals.next().await; if ends(n) { return n; } } } => {
            return Ok(code_of(number));
        }
    };
    plan.pin(&sidecar.ready);
    let mut program = match launch(&sidecar.ready).await {
        Ok(program) => program,
        Err(failure) => {
            sidecar.finish(Duration::from_secs(2)).await;
            return Err(failure);
        }
    };
    let mut backoff = Backoff::default();
    loop {
        tokio::select! {
            status = program.wait() => {
                let code = code(status);
                sidecar.finish(patience.drain + Duration::from_secs(2)).await;
                return code;
            }
            number = signals.next() => {
                if ends(number) {
                    return leave(number, program, sidecar, &mut signals, patience).await;
                }
                pass(&program, number);
            }
            status = sidecar.exited() => {
                let what = status.map_or_else(|error| error.to_string(), |status| status.to_string());
                match revive(&plan, patience, &what, &mut backoff, &mut program, &mut signals, &refresh).await? {
                    Revived::Sidecar(started) => sidecar = *started,
                    Revived::ProgramEnded(code) => return Ok(code),
                }
            }
        }
    }
}

/// Pauses between starts of a sidecar that keeps dying: 100 ms, doubling to 10 s; a minute of life starts over.
#[derive(Debug, Default)]
struct Backoff {
    exponent: u32,
    last: Option<Instant>,
}

impl Backoff {
    fn next(&mut self, now: Instant) -> Duration {
        if self.last.is_some_and(|last| now.duration_since(last) > Duration::from_secs(60)) {
            self.exponent = 0;
        }
        let pause = Duration::from_millis(100 << self.exponent.min(7)).min(Duration::from_secs(10));
        self.exponent += 1;
        self.last = Some(now);
        pause
    }
}

enum Revived {
    Sidecar(Box<Sidecar>),
    ProgramEnded(u8),
}

async fn revive(
    plan: &Plan,
    patience: Patience,
    what: &str,
    backoff: &mut Backoff,
    program: &mut Child,
    signals: &mut Signals,
    refresh: &impl AsyncFn() -> Result<(), Failure>,
) -> Result<Revived, Failure> {
    let mut what = format!("the sidecar ended ({what})");
    loop {
        let pause = backoff.next(Instant::now());
        eprintln!(
            "weft: {what}; starting it again in {} ms (its log: {})",
            pause.as_millis(),
            plan.log_file().display()
        );
        let start = async {
            tokio::time::sleep(pause).await;
            // Without a fresh token the identity on disk may do.
            if let Err(failure) = refresh().await {
                eprintln!("weft: no new join token: {failure}");
            }
            plan.start(patience.ready).await
        };
        tokio::pin!(start);
        let started = loop {
            tokio::select! {
                started = &mut start => break started,
                status = program.wait() => return Ok(Revived::ProgramEnded(code(status)?)),
                number = signals.next() => {
                    pass(program, number);
                    if ends(number) {
                        let status = tokio::time::timeout(patience.stop, program.wait()).await;
                        return match status {
                            Ok(status) => Ok(Revived::ProgramEnded(code(status)?)),
                            Err(_) => {
                                let _ = program.kill().await;
                                Ok(Revived::ProgramEnded(code_of(Signal::KILL)))
                            }
                        };
                    }
                }
            }
        };
        match started {
            Ok(sidecar) => return Ok(Revived::Sidecar(Box::new(sidecar))),
            Err(failure) => what = failure.message,
        }
    }
}

/// The order of leaving.
async fn leave(
    number: Signal,
    mut program: Child,
    sidecar: Sidecar,
    signals: &mut Signals,
    patience: Patience,
) -> Result<u8, Failure> {
    // Ctrl-C in a terminal reaches the program by itself, as it does every process in the foreground.
    let delivered = number == Signal::INT && in_foreground();
    if let Err(error) = sidecar.drain().await {
        eprintln!("weft: the sidecar cannot be drained: {error}");
    } else if !delivered {
        tokio::select! {
            () = sidecar.inbound_ended(patience.drain) => {}
            _ = program.wait() => {}
            _ = signals.next() => {}
        }
    }
    if !delivered {
        pass(&program, number);
    }
    let patient = tokio::time::sleep(patience.stop);
    tokio::pin!(patient);
    let mut again = false;
    let status = loop {
        tokio::select! {
            status = program.wait() => break code(status),
            () = &mut patient => {
                eprintln!("weft: the program has not ended within {} s: killed", patience.stop.as_secs());
                let _ = program.start_kill();
                break code(program.wait().await);
            }
            number = signals.next() => {
                if ends(number) && again {
                    let _ = program.start_kill();
                } else {
                    pass(&program, number);
                }
                again |= ends(number);
            }
        }
    };
    sidecar.finish(patience.drain.min(Duration::from_secs(10)) + Duration::from_secs(2)).await;
    status
}

fn ends(number: Signal) -> bool {
    number == Signal::TERM || number == Signal::INT || number == Signal::QUIT
}

fn pass(program: &Child, number: Signal) {
    let pid = program.id().and_then(|id| i32::try_from(id).ok()).and_then(Pid::from_raw);
    if let Some(pid) = pid {
        // It may have ended this very moment.
        let _ = kill_process(pid, number);
    }
}

/// Whether this process group has the terminal, so that its Ctrl-C goes to all of it.
fn in_foreground() -> bool {
    rustix::termios::tcgetpgrp(std::io::stdin()).is_ok_and(|group| group == rustix::process::getpgrp())
}

fn code(status: std::io::Result<ExitStatus>) -> Result<u8, Failure> {
    let status = status.map_err(|error| Failure::not_well(format!("the program cannot be watched: {error}")))?;
    let code = status.code().or(status.signal().map(|signal| 128 + signal)).unwrap_or(1);
    Ok(u8::try_from(code & 0xff).unwrap_or(1))
}

fn code_of(number: Signal) -> u8 {
    u8::try_from(128 + number.as_raw()).unwrap_or(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sidecar_that_keeps_dying_is_started_ever_later_and_a_healthy_minute_forgives() {
        let mut backoff = Backoff::default();
        let start = Instant::now();
        let pauses: Vec<u128> = (0..9).map(|_| backoff.next(start).as_millis()).collect();
        assert_eq!(pauses, [100, 200, 400, 800, 1600, 3200, 6400, 10_000, 10_000]);
        assert_eq!(backoff.next(start + Duration::from_secs(61)).as_millis(), 100);
    }

    #[test]
    fn exit_codes_are_those_of_the_program() {
        assert_eq!(code(Ok(ExitStatus::from_raw(7 << 8))).unwrap(), 7);
        assert_eq!(code(Ok(ExitStatus::from_raw(9))).unwrap(), 137);
    }
}
