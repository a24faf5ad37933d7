//! `weft-load tcp`: exchanges of counted bytes on kept or churned connections.

use crate::clock::{self, Watch};
use crate::failure::Failure;
use crate::flags::Tcp;
use crate::measure::{Tally, add, per_second};
use crate::socket::{Target, discard, send_shared};
use serde_json::Value;
use std::cell::Cell;
use std::rc::Rc;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinSet;

/// The byte that ends an exchange.
pub const DONE: u8 = b'k';

/// The sixteen bytes that begin an exchange.
pub fn header(down: u64, up: u64) -> [u8; 16] {
    ((u128::from(down) << 64) | u128::from(up)).to_be_bytes()
}

/// One exchange; both directions at the same time.
pub async fn exchange(stream: &mut TcpStream, down: u64, up: u64) -> Result<(), Failure> {
    stream.write_all(&header(down, up)).await?;
    if up > 0 {
        let read = async { Ok::<_, Failure>(discard(stream, down).await?) };
        tokio::try_join!(send_shared(stream, up), read)?;
    } else if down > 0 {
        discard(stream, down).await?;
    }
    let mut done = [0];
    match stream.read(&mut done).await? {
        0 => Err(Failure::Closed),
        _ if done == [DONE] => Ok(()),
        _ => Err(Failure::Malformed),
    }
}

struct Run {
    flags: Tcp,
    target: Target,
    tally: Tally,
    begin: u64,
    /// No exchange begins after it.
    end: u64,
    /// When the last measured exchange ended.
    last: Cell<u64>,
}

/// Runs it and prints what came of it; whether anything succeeded.
///
/// # Errors
///
/// None: what fails is counted.
pub async fn run(flags: Tcp) -> Result<bool, String> {
    let begin = clock::now() + if flags.duration.is_some() { clock::span(flags.warmup) } else { 0 };
    let end = flags.duration.map_or(u64::MAX, |duration| begin + clock::span(duration));
    let target = Target::new(flags.target, flags.sources);
    let run = Rc::new(Run { flags, target, tally: Tally::default(), begin, end, last: Cell::new(begin) });
    let mut workers = JoinSet::new();
    for _ in 0..run.flags.connections {
        workers.spawn_local(work(run.clone()));
    }
    while workers.join_next().await.is_some() {}
    let (tally, flags) = (&run.tally, &run.flags);
    let nanos = run.last.get().saturating_sub(begin);
    let exchanges = tally.requests.get();
    let mut result = tally.json("tcp", nanos);
    result.remove("requests");
    result.insert("exchanges".into(), exchanges.into());
    result.insert("connections".into(), flags.connections.into());
    result.insert("churn".into(), flags.churn.into());
    result.insert("down".into(), (exchanges * flags.down).into());
    result.insert("up".into(), (exchanges * flags.up).into());
    result.insert("bytesPerSecond".into(), per_second(tally.bytes.get(), nanos).into());
    crate::emit(&Value::Object(result));
    eprintln!("{}, {:.0} MB a second", tally.line("tcp", nanos), per_second(tally.bytes.get(), nanos) / 1e6);
    Ok(tally.total.get() > 0)
}

async fn work(run: Rc<Run>) {
    let (flags, mut watch) = (&run.flags, Watch::new(run.flags.timeout));
    let rounds = flags.rounds.unwrap_or(if flags.duration.is_some() { u64::MAX } else { 1 });
    let mut kept = None;
    let mut started = clock::now();
    for _ in 0..rounds {
        if started >= run.end {
            return;
        }
        let result = watch.within(started, once(&run, &mut kept)).await;
        let ended = clock::now();
        match result {
            Ok(()) => {
                let measured = started >= run.begin;
                run.tally.right(measured, ended - started, flags.down + flags.up);
                if measured {
                    run.last.set(ended);
                }
                started = ended;
            }
            Err(failure) => {
                run.tally.wrong(failure);
                kept = None;
                tokio::time::sleep(std::time::Duration::from_millis(2)).await;
                started = clock::now();
            }
        }
    }
}

async fn once(run: &Run, kept: &mut Option<TcpStream>) -> Result<(), Failure> {
    let mut stream = match kept.take() {
        Some(stream) => stream,
        None => {
            let stream = run.target.connect().await?;
            add(&run.tally.opened, 1);
            stream
        }
    };
    exchange(&mut stream, run.flags.down, run.flags.up).await?;
    if !run.flags.churn {
        *kept = Some(stream);
    }
    Ok(())
}
