//! The scrubber: reads everything that is stored, at a bounded rate, and compares it with its checksums.
//!
//! It goes through the versions in the order of their names and keeps its place in `scrub.json`, so that a restart
//! goes on and does not begin again. What it finds it writes into [`super::health`]; what was known to be damaged it looks at first.
//! Parts of uploads that are not completed are not read. Of what is in the cold tier it asks for size and checksum, unless it is told to read that too.
//!
//! Absent: a good copy from a replica. There is none yet; the way back is to put again, to bring the file back, or to delete.

use std::path::PathBuf;
use std::time::Duration;

use backlot_wire::Timestamp;
use backlot_wire::metrics::{ARTIFACT_SCRUB_ENDED, ARTIFACT_SCRUBBED};
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use super::Artifacts;
use super::blobs::blocking;
use super::error::ArtifactError;
use super::health::{Damage, Named};
use super::verify::Pace;
use super::walk::Position;
use crate::master::write_private;
use crate::telemetry::{counter, gauge};

const FORMAT: u32 = 1;
/// Longest time that a crash throws the scrubber back.
const SAVE_EVERY_MS: u64 = 10_000;
/// How often it looks whether it is time, and whether what was damaged has been put again.
const LOOK_EVERY: Duration = Duration::from_secs(10);
/// Pause after something that is not damage, such as a catalogue that cannot be read.
const RETRY_AFTER: Duration = Duration::from_secs(60);
const DAY_MS: u64 = 24 * 3600 * 1000;

/// One time through everything.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Round {
    pub begun_at: Timestamp,
    /// Versions read so far, and their bytes as they lie on the disk.
    pub versions: u64,
    pub bytes: u64,
    pub damaged: u64,
    /// In the cold tier, which did not answer.
    #[serde(default)]
    pub unreached: u64,
    /// Absent while it goes on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ended_at: Option<Timestamp>,
}

/// What `scrub.json` holds.
#[derive(Serialize, Deserialize)]
struct Kept {
    format: u32,
    #[serde(default)]
    position: Option<Position>,
    #[serde(default)]
    current: Option<Round>,
    #[serde(default)]
    last: Option<Round>,
    #[serde(default)]
    damages: Vec<Damage>,
}

/// How far the scrubber is.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ScrubStatus {
    /// The round that goes on.
    pub current: Option<Round>,
    /// The last that came to its end.
    pub last: Option<Round>,
    pub bytes_s_max: u64,
    pub damaged: Vec<Damage>,
    /// Damaged objects that are only counted.
    pub more: u64,
}

#[derive(Default)]
struct State {
    position: Option<Position>,
    current: Option<Round>,
    last: Option<Round>,
}

pub(super) struct Scrubber {
    path: PathBuf,
    state: Mutex<State>,
    asked: Notify,
}

impl Scrubber {
    /// Reads what an earlier run has kept; what is not understood is as if there were nothing.
    pub(super) fn open(path: PathBuf) -> (Self, Vec<Damage>) {
        let kept = std::fs::read(&path).ok().and_then(|text| serde_json::from_slice::<Kept>(&text).ok());
        let kept = kept.filter(|kept| kept.format == FORMAT);
        let (state, damages) = kept.map_or_else(Default::default, |kept| {
            (State { position: kept.position, current: kept.current, last: kept.last }, kept.damages)
        });
        (Self { path, state: Mutex::new(state), asked: Notify::new() }, damages)
    }
}

pub(super) async fn run(artifacts: Artifacts, stop: CancellationToken) {
    loop {
        let pause = tokio::select! {
            () = stop.cancelled() => return,
            done = artifacts.scrub_when_due() => match done {
                Ok(()) => LOOK_EVERY,
                Err(error) => {
                    tracing::warn!(%error, "the scrubber could not go on; it tries again");
                    RETRY_AFTER
                }
            },
        };
        tokio::select! {
            () = stop.cancelled() => return,
            () = artifacts.0.scrubber.asked.notified() => artifacts.begin_round(),
            () = tokio::time::sleep(pause) => {}
        }
    }
}

impl Artifacts {
    /// Begins a round now, unless one goes on.
    pub fn scrub_now(&self) {
        self.0.scrubber.asked.notify_one();
    }

    #[must_use]
    pub fn scrub_status(&self) -> ScrubStatus {
        let (damaged, more) = self.0.stores.health.damages();
        let state = self.0.scrubber.state.lock();
        let bytes_s_max = self.0.config.scrub_bytes_s;
        ScrubStatus { current: state.current.clone(), last: state.last.clone(), bytes_s_max, damaged, more }
    }

    pub(super) fn begin_round(&self) {
        let mut state = self.0.scrubber.state.lock();
        if state.current.is_none() {
            state.current = Some(Round { begun_at: self.now().timestamp(), ..Round::default() });
            state.position = Some(Position::default());
        }
    }

    async fn scrub_when_due(&self) -> Result<(), ArtifactError> {
        self.look_at_damages()?;
        let now_ms = self.now().wall_ms;
        let is_due = {
            let state = self.0.scrubber.state.lock();
            let period_ms = u64::from(self.0.config.scrub_days) * DAY_MS;
            // The first round begins a period after the first start: until then nothing is old.
            let begun = state.last.as_ref().map_or(0, |last| last.begun_at.0);
            period_ms > 0 && state.current.is_none() && begun > 0 && now_ms >= begun + period_ms
        };
        if is_due {
            self.begin_round();
        }
        if self.0.scrubber.state.lock().last.is_none() {
            // Counted as a round of nothing, so that the period runs.
            let round = Round { begun_at: Timestamp(now_ms), ended_at: Some(Timestamp(now_ms)), ..Round::default() };
            self.0.scrubber.state.lock().last = Some(round);
            self.save_scrub().await;
        }
        if self.0.scrubber.state.lock().current.is_some() {
            self.scrub_round().await?;
        } else if self.0.stores.health.take_news() {
            self.save_scrub().await;
        }
        Ok(())
    }

    /// Goes on from where it is to the end of everything.
    pub(super) async fn scrub_round(&self) -> Result<(), ArtifactError> {
        let mut pace = Pace::new(self.0.config.scrub_bytes_s);
        if self.0.scrubber.state.lock().position == Some(Position::default()) {
            self.0.stores.health.forget_more();
        }
        for damage in self.0.stores.health.damages().0 {
            self.scrub_one(&damage.object, &mut pace).await?;
        }
        let mut saved_ms = self.now().mono_ms;
        loop {
            let position = self.0.scrubber.state.lock().position.clone().unwrap_or_default();
            let Some((met, next)) = self.walk(&position).await? else { break };
            for met in met {
                let (before, damaged) = (pace.read, self.scrub_row(&met.object, &met.row, &mut pace).await?);
                let bytes = pace.read - before;
                counter(&ARTIFACT_SCRUBBED).add(bytes, &[]);
                if let Some(round) = &mut self.0.scrubber.state.lock().current {
                    round.versions += 1;
                    round.bytes += bytes;
                    round.damaged += u64::from(damaged);
                }
            }
            self.0.scrubber.state.lock().position = Some(next);
            if self.now().mono_ms >= saved_ms + SAVE_EVERY_MS {
                saved_ms = self.now().mono_ms;
                self.save_scrub().await;
            }
        }
        let ended_at = self.now().timestamp();
        {
            let mut state = self.0.scrubber.state.lock();
            let round = state.current.take().unwrap_or_default();
            tracing::info!(
                versions = round.versions,
                bytes = round.bytes,
                damaged = round.damaged,
                "read everything stored"
            );
            state.last = Some(Round { ended_at: Some(ended_at), ..round });
            state.position = None;
        }
        #[allow(clippy::cast_precision_loss, reason = "a gauge is a float")]
        gauge(&ARTIFACT_SCRUB_ENDED).record(ended_at.0 as f64 / 1000.0, &[]);
        self.save_scrub().await;
        Ok(())
    }

    async fn scrub_one(&self, object: &Named, pace: &mut Pace) -> Result<(), ArtifactError> {
        match self.stored_version(object)? {
            Some(row) => self.scrub_row(object, &row, pace).await.map(drop),
            None => {
                self.0.stores.health.mended(object);
                Ok(())
            }
        }
    }

    /// Whether it is damaged.
    async fn scrub_row(
        &self,
        object: &Named,
        row: &super::model::ObjectRow,
        pace: &mut Pace,
    ) -> Result<bool, ArtifactError> {
        let problem = match self.verify(object, row, pace).await {
            Err(ArtifactError::ColdAway(_) | ArtifactError::ColdBusy) => {
                // No damage, and no reason to leave the rest unread.
                if let Some(round) = &mut self.0.scrubber.state.lock().current {
                    round.unreached += 1;
                }
                return Ok(self.0.stores.health.is_damaged(object));
            }
            problem => problem?,
        };
        let is_damaged = problem.is_some();
        match problem {
            Some(problem) => self.0.stores.health.damaged(object.clone(), problem),
            None => self.0.stores.health.mended(object),
        }
        Ok(is_damaged)
    }

    /// Objects that were damaged and have been put again or deleted are so no more.
    pub(super) fn look_at_damages(&self) -> Result<(), ArtifactError> {
        for damage in self.0.stores.health.damages().0 {
            if self.stored_version(&damage.object)?.is_none() {
                self.0.stores.health.mended(&damage.object);
            }
        }
        Ok(())
    }

    async fn save_scrub(&self) {
        let kept = {
            let state = self.0.scrubber.state.lock();
            Kept {
                format: FORMAT,
                position: state.position.clone(),
                current: state.current.clone(),
                last: state.last.clone(),
                damages: self.0.stores.health.damages().0,
            }
        };
        let path = self.0.scrubber.path.clone();
        let written = blocking(move || {
            let text = serde_json::to_vec(&kept).map_err(std::io::Error::other)?;
            write_private(&path, &text).map_err(std::io::Error::other)
        });
        if let Err(error) = written.await {
            tracing::warn!(%error, "could not keep the scrubber's place; after a restart it reads some of it again");
        }
    }
}
