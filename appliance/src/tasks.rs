//! Supervised background tasks, in stages that stop in order.
//!
//! Each task is idempotent, wakes by signal and by timer, and needs no message to be right. A task that ends before it was
//! told to ends the process with its name: a half-running appliance would be worse than a restart.

use std::future::Future;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// Tasks that stop together.
#[derive(Clone)]
pub struct Stage {
    pub name: &'static str,
    grace: Duration,
    stop: CancellationToken,
    tasks: TaskTracker,
    ended: mpsc::UnboundedSender<&'static str>,
}

impl Stage {
    /// Cancelled when this stage is to stop. Tasks select on it; doors stop accepting at it.
    #[must_use]
    pub fn stopping(&self) -> CancellationToken {
        self.stop.clone()
    }

    /// Runs `task` until it ends by itself, which it may only do after [`Stage::stopping`].
    pub fn spawn(&self, name: &'static str, task: impl Future<Output = ()> + Send + 'static) {
        let (stop, ended) = (self.stop.clone(), self.ended.clone());
        let running = tokio::spawn(task);
        self.tasks.spawn(async move {
            let outcome = running.await;
            if let Err(error) = &outcome {
                tracing::error!(task = name, %error, "task panicked");
            }
            if !stop.is_cancelled() {
                let _ = ended.send(name); // nobody listens only when the process is already ending
            }
        });
    }

    /// Runs a piece of work that may end whenever it likes: one connection, one delivery.
    pub fn spawn_short(&self, work: impl Future<Output = ()> + Send + 'static) {
        self.tasks.spawn(work);
    }
}

/// All stages, in the order in which they stop.
pub struct Stages {
    stages: Vec<Stage>,
    ended: mpsc::UnboundedReceiver<&'static str>,
}

impl Stages {
    /// `names` with the grace of each, first to stop first.
    #[must_use]
    pub fn new(names: &[(&'static str, Duration)]) -> Self {
        // Bounded in fact: one message per supervised task, and their number is fixed at the start.
        let (sender, ended) = mpsc::unbounded_channel();
        let stage = |&(name, grace): &(&'static str, Duration)| Stage {
            name,
            grace,
            stop: CancellationToken::new(),
            tasks: TaskTracker::new(),
            ended: sender.clone(),
        };
        Self { stages: names.iter().map(stage).collect(), ended }
    }

    /// The stage called `name`; a name that was not given to [`Stages::new`] is a fault of the program.
    #[must_use]
    pub fn stage(&self, name: &str) -> Stage {
        match self.stages.iter().find(|stage| stage.name == name) {
            Some(stage) => stage.clone(),
            None => unreachable!("no stage is called {name}"),
        }
    }

    /// Resolves with the name of the first task that ended before it was told to.
    pub async fn first_to_end(&mut self) -> &'static str {
        self.ended.recv().await.unwrap_or("supervisor")
    }

    /// Stops stage after stage, each within its grace.
    pub async fn stop(self) {
        for stage in &self.stages {
            stage.stop.cancel();
            stage.tasks.close();
            if timeout(stage.grace, stage.tasks.wait()).await.is_err() {
                tracing::warn!(stage = stage.name, "did not drain within its grace");
            }
        }
    }
}
