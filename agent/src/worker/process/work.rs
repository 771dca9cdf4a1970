//! A worker at work: its lines, the time it may take, and what becomes of its jobs when it ends before them.

use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;
use std::time::Duration;

use backlot_wire::{FailureClass, cause};
use futures::FutureExt;
use tokio::time::Instant;

use super::{DRAIN, Process, Verdict};
use crate::worker::charge::{Account, Ask, Charges, Due, Heard, Member};
use crate::worker::lines::Line;
use crate::worker::protocol::{self, Request};
use crate::worker::room;

/// How often the output folders are looked at.
const LOOK: Duration = Duration::from_secs(1);

impl Process {
    /// Runs one job, or several together. Each hears of its own end, which may come before this returns.
    pub async fn run(&mut self, members: Vec<Member<'_>>) -> Account {
        let mut charges = Charges::new(members, self.launch.hard_limit_s);
        self.said_on_stderr.lock().begin(charges.owners());
        self.work(&mut charges).await;
        self.said_on_stderr.lock().end();
        charges.account
    }

    async fn work(&mut self, charges: &mut Charges<'_>) {
        // Until its jobs have ended in order, nobody knows what state it is in.
        self.usable = false;
        self.early_end = None;
        charges.begin();
        let began = Instant::now();
        let oom_kills = self.oom_kills();
        // What it has said since its last job belongs to nobody: a late `done` must not end this one.
        let has_worked = std::mem::replace(&mut self.has_worked, true);
        while has_worked && let Some(Ok(Some(_))) = self.lines.next().now_or_never() {
            if began.elapsed() > DRAIN {
                let broke = self.broke("talks without a job".into());
                return charges.end_all(broke);
            }
        }
        if self.requests.try_send(begin(charges)).is_err() {
            return charges.end_all(Verdict::failed(FailureClass::Transient, "the worker takes no job"));
        }
        let mut ends = false;
        let mut exited: Option<(ExitStatus, Instant)> = None;
        let mut end_of_output = false;
        let mut look_at = began + LOOK;
        while !charges.is_over() {
            let now = Instant::now();
            if let Some((number, due)) = charges.due(now) {
                self.see_to(charges, number, due).await;
                continue;
            }
            let drained_at = exited.map(|(_, at)| at + DRAIN);
            let next = [charges.next_at(), drained_at, Some(look_at)].into_iter().flatten().min().unwrap_or(look_at);
            let is_time = now >= next;
            tokio::select! {
                biased;
                // A worker that never stops talking is not let off its limits.
                () = std::future::ready(()), if is_time => {
                    if drained_at.is_some_and(|at| now >= at) {
                        end_of_output = true;
                    }
                    if now >= look_at {
                        self.look(charges).await;
                        look_at = Instant::now() + LOOK;
                    }
                }
                line = self.lines.next(), if !end_of_output => match line {
                    Ok(Some(line)) => match self.hear(charges, line) {
                        Ok(Heard::Ended { ends: its }) => ends |= its,
                        Ok(Heard::On) => {}
                        Err(problem) => {
                            self.kill().await;
                            let broke = self.broke(problem);
                            return charges.end_all(broke);
                        }
                    },
                    Ok(None) | Err(_) => end_of_output = true,
                },
                status = self.child.wait(), if exited.is_none() => {
                    let status = status.unwrap_or_else(|_| ExitStatus::from_raw(0));
                    exited = Some((status, Instant::now()));
                }
                () = charges.reordered() => {} // what is to be done stands above
                () = tokio::time::sleep_until(next) => {}
            }
            if charges.is_over() {
                break;
            }
            if let (true, Some((status, _))) = (end_of_output, exited) {
                if status.code() == Some(0) && !self.keep_alive {
                    charges.exited_in_order();
                } else {
                    let died = self.died(status, oom_kills).await;
                    charges.end_all(died);
                }
                return;
            }
        }
        let lives = self.keep_alive && !ends && exited.is_none() && self.group.is_some();
        self.usable = lives && (!charges.is_batch() || self.rests().await);
    }

    /// Waits until a worker has laid down all jobs of its batch: of those that were let go it may not have known yet, and its last
    /// words of them are not to be taken for words of the next job. False: it was killed.
    async fn rests(&mut self) -> bool {
        let silence = async {
            loop {
                match self.lines.next().await {
                    Ok(Some(Line::Whole(line))) if protocol::is_rest(&line) => return true,
                    Ok(Some(_)) => {}
                    Ok(None) | Err(_) => return false,
                }
            }
        };
        let rests = tokio::time::timeout(self.launch.cancel_grace, silence).await.unwrap_or(false);
        if !rests {
            self.kill().await;
        }
        rests
    }

    fn hear(&self, charges: &mut Charges<'_>, line: Line) -> Result<Heard, String> {
        let line = match line {
            Line::Whole(line) => line,
            Line::Cut(start) => {
                let (bytes, start) = (self.launch.line_bytes_max, protocol::start_of(&start));
                return Err(format!("wrote a line of more than {bytes} bytes: `{start}`"));
            }
        };
        if !charges.is_batch() {
            return charges.hear(0, protocol::understand(&line)?);
        }
        let (of, said) = protocol::understand_of(&line)?;
        let number = charges.number_of(&of).ok_or_else(|| {
            let of = protocol::start_of(&of);
            format!("wrote a line of the attempt `{of}`, which it does not have")
        })?;
        charges.hear(number, said)
    }

    async fn see_to(&mut self, charges: &mut Charges<'_>, number: usize, due: Due) {
        match due {
            Due::Ask(ask) => {
                // A worker that has left eight requests unread will not hear this one: alone, its deadline ends it.
                let cancel = charges.task(number).id.clone();
                let _ = self.requests.try_send(Request::Cancel { cancel, reason: ask.reason().into() });
                if charges.in_company() {
                    charges.let_go(number, ask);
                } else {
                    charges.asked(number, ask, Instant::now() + self.launch.cancel_grace);
                }
            }
            Due::Kill => {
                self.kill().await;
                charges.end(number, Verdict::failed(FailureClass::Transient, "the worker did not end when asked"));
            }
            Due::HardLimit(hard_s) => {
                let message = format!("was over its hard limit of {hard_s} s and was ended");
                self.end_by_force(charges, number, Verdict::failed_by(cause::TIMEOUT, message)).await;
            }
        }
    }

    /// Ends a job that is over its bounds: with its worker, unless others have that too.
    async fn end_by_force(&mut self, charges: &mut Charges<'_>, number: usize, verdict: Verdict) {
        if charges.in_company() {
            let reason = Ask::Stop(super::Stop::Cancelled).reason().to_owned();
            let cancel = charges.task(number).id.clone();
            let _ = self.requests.try_send(Request::Cancel { cancel, reason });
        } else {
            self.kill().await;
            self.early_end = Some("limit");
        }
        charges.end(number, verdict);
    }

    /// Ends each job that has written more than it may.
    async fn look(&mut self, charges: &mut Charges<'_>) {
        let most = self.launch.output_bytes_max;
        for number in charges.open() {
            let folder = charges.task(number).output_dir.clone();
            let bytes = tokio::task::spawn_blocking(move || room::bytes_in(&folder, most)).await.unwrap_or(0);
            if bytes > most {
                let message =
                    format!("wrote more than {most} bytes into its output folder (`output_bytes_max`) and was ended");
                let verdict = Verdict::failed(FailureClass::Permanent, message);
                self.end_by_force(charges, number, verdict).await;
            }
        }
    }
}

fn begin(charges: &Charges<'_>) -> Request {
    let mut tasks = charges.tasks();
    match tasks.len() {
        1 => Request::Job { job: Box::new(tasks.remove(0)) },
        _ => Request::Batch { batch: tasks },
    }
}
