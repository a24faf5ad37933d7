//! `weft top`: services as they are now, problems first, on the whole terminal; keys sort, filter and go into one.
//!
//! [`model`] is what is known and what keys do with it, [`view`] draws it, [`terminal`] borrows the terminal and gives it back on every
//! end. This file only asks, waits and hands on. Without a terminal one table is printed.

mod model;
mod terminal;
mod view;

use crate::Global;
use crate::client::{Client, Error, encode};
use crate::failure::{Failure, chain};
use crate::fleet::{Service, Stat};
use crate::output;
use crate::stat;
use model::{Answer, Model};
use std::future::Future;
use std::io::IsTerminal;
use std::pin::Pin;
use std::time::Duration;
use terminal::{Event, Keys, Screen};
use tokio::signal::unix::{SignalKind, signal};

/// Flags of `weft top`.
#[derive(clap::Args, Debug)]
pub struct Args {
    /// Begin with the instances and routes of this service: [namespace/]name
    #[arg(value_name = "SERVICE")]
    service: Option<String>,
    /// Only this namespace (default: all)
    #[arg(short, long, value_name = "NAME")]
    namespace: Option<String>,
    /// Over which time figures are
    #[arg(long, default_value = "10s", value_parser = output::duration)]
    window: Duration,
    /// How often they are asked for
    #[arg(long, default_value = "1s", value_parser = output::duration)]
    interval: Duration,
}

/// A question on its way.
type Question = Pin<Box<dyn Future<Output = Result<Answer, Error>>>>;

/// Shows it until `q`, or once.
pub async fn run(global: &Global, args: Args) -> Result<u8, Failure> {
    let client = Client::new(global)?;
    let namespace = args.namespace.as_ref().map(|name| format!("&namespace={}", encode(name))).unwrap_or_default();
    let path = format!("/weft/v1/stat?window={}{namespace}", output::written(args.window));
    // What fails at once is said as by any other command.
    let first: Answer = client.read(&path).await.map_err(|error| error.into_failure("read statistics"))?;
    let mut model = Model::new(&client.context.server);
    model.take(first);
    if let Some(service) = &args.service
        && !model.enter(service)
    {
        return Err(Failure::not_well(format!("no service '{service}'")).hint("list them with: weft get services -A"));
    }
    if !std::io::stdout().is_terminal() {
        output::print(&plain(&model))?;
        output::progress("this is no terminal: for figures in scripts see weft stat");
        return Ok(0);
    }
    let listen = |kind| signal(kind).map_err(|error| Failure::not_well(format!("cannot listen for signals: {error}")));
    let (mut term, mut hup, mut int) =
        (listen(SignalKind::terminate())?, listen(SignalKind::hangup())?, listen(SignalKind::interrupt())?);
    let mut screen = Screen::open()?;
    let mut keys = Keys::start();
    let mut tick = tokio::time::interval(args.interval.max(Duration::from_millis(100)));
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut asked: Option<Question> = None;
    loop {
        screen.draw(|frame| view::draw(frame, &mut model))?;
        let answer = async {
            match &mut asked {
                Some(asked) => asked.await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            event = keys.next() => match event {
                Some(Event::Key(key)) if model.press(key) => return Ok(0),
                Some(Event::Key(_) | Event::Resized) => {}
                None => return Ok(0),
            },
            answer = answer => {
                asked = None;
                match answer {
                    Ok(answer) => model.take(answer),
                    Err(error) => model.failed(chain(&error.into_failure("read statistics"))),
                }
            }
            _ = tick.tick() => {
                // One question at a time: a slow answer is not asked for again.
                if asked.is_none() {
                    let (client, path) = (client.clone(), path.clone());
                    asked = Some(Box::pin(async move { client.read(&path).await }));
                }
            }
            _ = term.recv() => return Ok(128 + 15),
            _ = hup.recv() => return Ok(128 + 1),
            _ = int.recv() => return Ok(128 + 2),
        }
    }
}

/// One table of what is in view, as `weft stat` prints it.
fn plain(model: &Model) -> String {
    let rows = model.rows().into_iter().map(|row| {
        let (ready, all) = row.ready.unzip();
        Service { service: row.name, ready_endpoints: ready, endpoints: all, ..row.figures }
    });
    stat::table(&Stat { services: rows.collect(), window_seconds: model.window(), ..Stat::default() })
}
