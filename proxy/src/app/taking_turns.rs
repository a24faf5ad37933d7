//! The turn of this process: how it begins, with or without a predecessor; the signals meanwhile; how it ends where a
//! successor goes on.

use super::successor::{self, Program, Serving, Successors};
use super::worker::Workers;
use super::{AppError, Process, Rules, start};
use crate::takeover::message::Earlier;
use crate::takeover::{Conversation, Giver};
use rustix::process::Signal;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

impl Process {
    /// What a successor may ask for.
    pub(super) fn giver(&self, lock: Option<std::fs::File>) -> Arc<Giver> {
        Arc::new(Giver {
            shelf: self.shelf.clone(),
            lock: self.settings.state_dir.clone().zip(lock),
            stand_ins: Arc::clone(&self.stand_ins),
            turn: self.turn.clone(),
            drain: self.drain.clone(),
            ready: self.ready.subscribe(),
            patience: self.settings.take_over.patience.0,
            deadline: self.settings.take_over.deadline.0,
            one: tokio::sync::Mutex::default(),
            relieved: self.relieved.clone(),
            successor: watch::Sender::new(None),
        })
    }

    /// Begins to serve: says so where others look for it.
    pub(super) fn take_turn(&self, announcement: &serde_json::Value) -> Result<(), AppError> {
        if let Some(path) = self.ready_file() {
            super::sockets::announce(announcement, &path).map_err(AppError::Start)?;
        }
        self.turn.begin();
        Ok(())
    }

    /// Takes the place of a predecessor once this process can serve; the rules that it has put in force then. `None`:
    /// asked to end before.
    pub(super) async fn take_over(
        &mut self,
        mut conversation: Conversation,
        followed: Vec<(Earlier, OwnedFd)>,
        announcement: &serde_json::Value,
        workers: &mut Workers,
    ) -> Result<Option<Option<Rules>>, AppError> {
        let mut ready = self.ready.subscribe();
        let ready = async {
            if ready.wait_for(|ready| *ready).await.is_err() {
                std::future::pending::<()>().await;
            }
        };
        let beginning = self.drain.beginning();
        tokio::select! {
            taken = conversation.take(ready) => taken.map_err(AppError::Start)?,
            () = beginning.cancelled() => return Ok(None),
            died = workers.died() => return Err(AppError::Failed(died)),
            Some(ended) = super::next_failure(&mut self.tasks) => return Err(AppError::Failed(ended)),
        }
        let rules = self.install_rules(&workers.ports)?;
        self.take_turn(announcement)?;
        let mut all = vec![conversation];
        for (earlier, stream) in followed {
            all.push(Conversation::new(earlier, stream).map_err(start)?);
        }
        for conversation in all {
            let (drain, relieved, turn) = (self.drain.clone(), self.relieved.clone(), self.turn.clone());
            let within = self.settings.drain.deadline.0;
            self.tasks.spawn(async move {
                conversation.follow(drain, within, relieved, turn).await;
                ""
            });
        }
        Ok(Some(rules))
    }

    /// Starts successors when somebody asks for one.
    pub(super) fn follow_successors(&mut self, program: Program, giver: &Arc<Giver>) -> Result<(), AppError> {
        let socket = self.settings.socket();
        let successors = Successors::new(program, Arc::clone(giver), socket);
        self.serving = successors.serving.subscribe();
        let follow = successors.follow().map_err(start)?;
        self.lasting.spawn(async move {
            follow.await;
            ""
        });
        Ok(())
    }

    /// Waits for the end of the process that this one has started to take its place; the exit code.
    pub(super) async fn outlive(&mut self) -> u8 {
        if !self.turn.is_over() {
            return 0;
        }
        // The conversations are over, or there is nothing left to say.
        self.tasks.shutdown().await;
        let mut serving = self.serving.clone();
        loop {
            match *serving.borrow_and_update() {
                Serving::Other => return 0,
                Serving::Ended(code) => return code,
                Serving::Own | Serving::Child(_) => {}
            }
            if serving.changed().await.is_err() {
                return 1;
            }
        }
    }

    pub(super) fn follow_signals(&mut self) -> Result<(), AppError> {
        let mut terminate = signal(SignalKind::terminate()).map_err(start)?;
        let mut interrupt = signal(SignalKind::interrupt()).map_err(start)?;
        let mut moved = signal(SignalKind::hangup()).map_err(start)?;
        let (drain, serving) = (self.drain.clone(), self.serving.clone());
        self.lasting.spawn(async move {
            loop {
                tokio::select! {
                    _ = terminate.recv() => if !successor::pass(&serving, Signal::TERM) {
                        if drain.begun() { drain.application_gone() } else { drain.begin() }
                    },
                    _ = interrupt.recv() => if !successor::pass(&serving, Signal::INT) {
                        drain.application_gone();
                    },
                    // Its own file is reopened elsewhere.
                    _ = moved.recv() => drop(successor::pass(&serving, Signal::HUP)),
                }
            }
        });
        if !self.settings.waits_for_application() {
            let drain = self.drain.clone();
            self.tasks.spawn(async move {
                drain.beginning().cancelled().await;
                drain.application_gone();
                ""
            });
        }
        if self.settings.until_stdin_closes {
            let drain = self.drain.clone();
            // A thread of its own: standard input may be anything, and reading it can block for ever. It dies with the
            // process.
            std::thread::Builder::new()
                .name("weft-stdin".into())
                .spawn(move || {
                    let _ = std::io::copy(&mut std::io::stdin().lock(), &mut std::io::sink());
                    tracing::info!("standard input closed: the application is gone");
                    drain.application_gone();
                })
                .map_err(start)?;
        }
        Ok(())
    }
}
