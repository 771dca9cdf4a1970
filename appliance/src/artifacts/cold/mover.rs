//! The task that moves versions into the cold tier, and brings them back: one at a time, at a bounded rate.
//!
//! What waits is in memory: after a restart the next visit of a rule hands it over again.

use std::fs::File;
use std::sync::Arc;
use std::time::Duration;

use backlot_journal::Class;
use backlot_wire::metrics::{ARTIFACT_COLD_BYTES, ARTIFACT_COLD_MOVED, ARTIFACT_COLD_MOVED_BYTES, ARTIFACT_LIFECYCLE};
use bytes::Bytes;
use opentelemetry::KeyValue;
use parking_lot::Mutex;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::remote::{Name, PART_BYTES, Remote, RemoteError};
use super::status::Progress;
use super::warm::Walk;
use super::{ArtifactError, Artifacts, Cold, ColdRun, body_id};
use crate::artifacts::blobs::{Blobs, HEADER_BYTES, blocking, read_up_to};
use crate::artifacts::blocks::{Shape, shape};
use crate::artifacts::checksums::Verifier;
use crate::artifacts::health::Named;
use crate::artifacts::label::Found;
use crate::artifacts::model::{Body, ColdClass, Extent, ObjectRow, PartChunk, Place, Tier};
use crate::artifacts::pins::Pin;
use crate::artifacts::record::Change;
use crate::artifacts::verify::{Pace, Run, agrees};
use crate::artifacts::work::Work;
use crate::artifacts::{RuleDid, VersionName, Versioning, new_id};
use crate::telemetry::{counter, gauge};

/// Pause after the other S3 did not answer: the first, and the longest.
const RETRY_PAUSE: Duration = Duration::from_secs(1);
const RETRY_PAUSE_MAX: Duration = Duration::from_secs(60);
/// How often the gauges are set where nothing is moved.
const LOOK_EVERY: Duration = Duration::from_secs(10);

/// A version whose time has come.
#[derive(Clone, Debug)]
pub(super) struct Order {
    pub(super) object: Named,
    pub(super) class: ColdClass,
}

enum Next {
    Out(Order),
    Back(Walk),
}

pub(super) async fn run(artifacts: Artifacts, stop: CancellationToken) {
    let cold = Arc::clone(&artifacts.0.cold);
    let mut pause = RETRY_PAUSE;
    loop {
        artifacts.tell_cold();
        let Some(next) = cold.next() else {
            if std::mem::take(&mut cold.orders.lock().was_full) {
                artifacts.0.lifecycle.look_again();
            }
            tokio::select! {
                () = stop.cancelled() => return,
                () = cold.wake.notified() => {}
                () = tokio::time::sleep(LOOK_EVERY) => {}
            }
            continue;
        };
        let done = tokio::select! {
            () = stop.cancelled() => return,
            done = artifacts.do_next(next) => done,
        };
        cold.progress.lock().moving = None;
        match done {
            Ok(()) => pause = RETRY_PAUSE,
            Err(error) => {
                tracing::warn!(%error, "moving objects pauses");
                let is_away = matches!(error, ArtifactError::ColdAway(_));
                cold.failed(if is_away { "away" } else { "failed" }, &error);
                if is_away {
                    cold.went_away(artifacts.now().mono_ms);
                }
                tokio::select! {
                    () = stop.cancelled() => return,
                    () = tokio::time::sleep(pause) => {}
                }
                pause = (pause * 2).min(RETRY_PAUSE_MAX);
            }
        }
    }
}

impl Cold {
    /// What is moved next; it stays where it waits until it is done. What an operator asks for goes first.
    fn next(&self) -> Option<Next> {
        let orders = self.orders.lock();
        orders.back.front().cloned().map(Next::Back).or_else(|| orders.out.front().cloned().map(Next::Out))
    }

    fn done(&self, order: &Order) {
        let mut orders = self.orders.lock();
        orders.known.remove(&order.object.id);
        orders.out.pop_front();
    }

    pub(super) fn begun(&self, object: &Named) {
        let Named { bucket, key, version, .. } = object;
        self.progress.lock().moving = Some(format!("s3://{bucket}/{key} version {version}"));
    }

    pub(super) fn failed(&self, outcome: &'static str, error: &ArtifactError) {
        let mut progress = self.progress.lock();
        progress.failed += 1;
        progress.problem = Some(error.to_string());
        counter(&ARTIFACT_COLD_MOVED).add(1, &[KeyValue::new("outcome", outcome)]);
    }

    pub(super) fn counted(&self, outcome: &'static str, bytes: u64) {
        let mut progress = self.progress.lock();
        progress.problem = None;
        let (versions, sum) = match outcome {
            "returned" => {
                let Progress { returned, returned_bytes, .. } = &mut *progress;
                (returned, returned_bytes)
            }
            _ => {
                let Progress { moved, moved_bytes, .. } = &mut *progress;
                (moved, moved_bytes)
            }
        };
        *versions += 1;
        *sum += bytes;
        let label = [KeyValue::new("outcome", outcome)];
        counter(&ARTIFACT_COLD_MOVED).add(1, &label);
        counter(&ARTIFACT_COLD_MOVED_BYTES).add(bytes, &label);
    }

    pub(super) fn pace(&self) -> Pace {
        Pace::new(self.bytes_s_max())
    }
}

/// While it lives, what this move writes is not cleaned up.
struct Active<'a>(&'a Mutex<Option<u64>>);

impl Drop for Active<'_> {
    fn drop(&mut self) {
        *self.0.lock() = None;
    }
}

impl Artifacts {
    fn tell_cold(&self) {
        let bytes = gauge(&ARTIFACT_COLD_BYTES);
        for bucket in self.buckets() {
            #[allow(clippy::cast_precision_loss, reason = "a gauge is a float")]
            bytes.record(bucket.cold_bytes as f64, &[KeyValue::new("bucket", bucket.name)]);
        }
    }

    /// # Errors
    /// The other S3 is away: what was next still waits.
    async fn do_next(&self, next: Next) -> Result<(), ArtifactError> {
        let order = match next {
            Next::Back(walk) => return self.warm_page(walk).await,
            Next::Out(order) => order,
        };
        let cold = &self.0.cold;
        cold.begun(&order.object);
        match self.move_out(&order.object, order.class).await {
            Ok(Some(bytes)) => {
                cold.counted("moved", bytes);
                counter(&ARTIFACT_LIFECYCLE).add(1, &[KeyValue::new("action", "moved")]);
                let Named { bucket, key, version, .. } = &order.object;
                let keeps = self.versioning(bucket).is_ok_and(|versioning| versioning != Versioning::Never);
                let name = VersionName::parse(version).filter(|_| keeps);
                self.rule_did(bucket, key, name, RuleDid::Move(order.class.name().to_owned())).await;
            }
            Ok(None) => {} // changed, gone or moved since
            Err(error @ (ArtifactError::ColdAway(_) | ArtifactError::ColdBusy)) => {
                // Last of all, lest one that is not taken there keeps the others here.
                cold.orders.lock().out.rotate_left(1);
                return Err(error);
            }
            Err(error) => {
                let Named { bucket, key, .. } = &order.object;
                tracing::warn!(bucket, key, %error, "could not move an object into the cold tier; its rule tries again");
                cold.failed("failed", &error);
            }
        }
        cold.done(&order);
        Ok(())
    }

    /// Moves a version; gives its bytes there. `None` where it is another by now, is there already, or shares a pack with others.
    ///
    /// # Errors
    /// [`ArtifactError::ColdAway`]; [`ArtifactError::Damaged`], and nothing of it is moved.
    pub(in super::super) async fn move_out(
        &self,
        object: &Named,
        class: ColdClass,
    ) -> Result<Option<u64>, ArtifactError> {
        let remote = self.0.cold.slot.remote()?;
        let Some(row) = self.stored_version(object)?.filter(|row| row.cold_class().is_none()) else { return Ok(None) };
        if self.0.stores.health.is_damaged(object) {
            return Ok(None); // until somebody has mended it
        }
        let body = body_id(&row);
        // Before the parts are read, as readers do.
        let pin = self.0.pins.pin(body);
        let extents = self.extents(&row)?;
        if extents.iter().any(|extent| !matches!(extent.place, Place::File(_))) || extents.is_empty() {
            return Ok(None);
        }
        let copy = new_id(self.now()).as_u64_pair().1;
        let is_sealed = row.seal.is_some();
        let mut runs: Vec<(Uuid, Run)> = Vec::with_capacity(extents.len() + 1);
        for extent in &extents {
            if let Place::File(id) = extent.place {
                runs.push((id, Run::of(extent, is_sealed)));
            }
        }
        if matches!(row.body, Body::Parts(_)) {
            // For a rebuild from the cold tier alone. Its file stays here as well.
            runs.extend(self.manifest_run(body).await?.map(|run| (body, run)));
        }
        let files: Vec<Uuid> =
            runs.iter().map(|(id, _)| *id).filter(|id| matches!(row.body, Body::One(_)) || *id != body).collect();
        let run = ColdRun { body, copy, blobs: runs.iter().map(|(id, _)| *id).collect() };
        *self.0.cold.active.lock() = Some(copy);
        let active = Active(&self.0.cold.active);
        self.begin_cold(run.clone()).await?;
        let (mut pace, mut bytes) = (self.0.cold.pace(), 0);
        let put = async {
            for (blob, run) in runs {
                bytes += self.put_cold(&remote, object, run, Name { blob, copy }, class, &mut pace).await?;
            }
            self.bind(object, &row, class, run, (pin, files)).await
        };
        let bound = put.await;
        drop(active);
        match bound {
            Ok(true) => Ok(Some(bytes)),
            other => {
                self.0.cold.clean_soon(); // what was put is for nobody
                other.map(|_| None)
            }
        }
    }

    /// Puts one blob, and asks whether it is there.
    async fn put_cold(
        &self,
        remote: &Remote,
        object: &Named,
        run: Run,
        name: Name,
        class: ColdClass,
        pace: &mut Pace,
    ) -> Result<u64, ArtifactError> {
        let damaged = |problem: String| {
            self.0.stores.health.damaged(object.clone(), problem.clone());
            ArtifactError::Damaged { bucket: object.bucket.clone(), key: object.key.clone(), problem }
        };
        let away = |error: RemoteError| ArtifactError::ColdAway(error.to_string());
        let (total, crc) = (HEADER_BYTES + run.stored, run.crc);
        let mut reading = self.read_whole(object, run).await?.map_err(damaged)?;
        if total <= PART_BYTES {
            let data = reading.next(total).await.map_err(damaged)?;
            remote.put(name, class, crc, data).await.map_err(away)?;
            pace.took(total).await;
        } else {
            let mut upload = remote.begin(name, class, crc).await.map_err(away)?;
            let parts = async {
                let mut left = total;
                loop {
                    let data = reading.next(left.min(PART_BYTES)).await.map_err(damaged)?;
                    let bytes = data.len() as u64;
                    left -= bytes;
                    upload.part(data).await.map_err(|error| away(error.into()))?;
                    pace.took(bytes).await;
                    if left == 0 {
                        return Ok(());
                    }
                }
            };
            match parts.await {
                Ok(()) => upload.complete().await.map_err(|error| away(error.into()))?,
                Err(error) => {
                    upload.abort().await;
                    return Err(error);
                }
            }
        }
        let told = remote.head(name).await.map_err(away)?;
        if told.bytes != total || told.crc.is_some_and(|told| told != crc) {
            return Err(ArtifactError::ColdAway(format!("it has {} bytes of {total} that were put", told.bytes)));
        }
        Ok(total)
    }

    /// Opens a blob to read all of it.
    async fn read_whole(&self, object: &Named, run: Run) -> Result<Result<Reading, String>, ArtifactError> {
        let Place::File(id) = run.place else { return Ok(Err("it has no file of its own".into())) };
        let (path, named) = (self.0.stores.blobs.path(id), object.clone());
        let opened = blocking(move || {
            let found = Blobs::read_label(&path)?;
            let file = File::open(&path)?;
            let bytes = file.metadata()?.len();
            Ok(found.and_then(|found| agrees(&found, &named, run.stored, run.crc)).and_then(|()| {
                // What checksums of blocks lie behind the bytes stay here.
                match shape(bytes, run.stored, false) {
                    Shape::Wrong(expected) => Err(format!("a blob has {bytes} bytes instead of {expected}")),
                    Shape::Bare | Shape::Table => Ok(file),
                }
            }))
        });
        match opened.await {
            Ok(opened) => Ok(opened.map(|file| Reading {
                file: Arc::new(file),
                position: 0,
                end: HEADER_BYTES + run.stored,
                verifier: Box::default(),
                crc: run.crc,
            })),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Err("its blob is missing".into())),
            Err(error) => Ok(Err(format!("read: {error}"))),
        }
    }

    /// The manifest of an object of parts, where it has a good one.
    async fn manifest_run(&self, body: Uuid) -> Result<Option<Run>, ArtifactError> {
        let path = self.0.stores.blobs.path(body);
        let found = blocking(move || match Blobs::read_label(&path) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            found => found.map(Result::ok),
        });
        let found = found.await.map_err(ArtifactError::io("read a manifest"))?;
        let run = |found: Found| Run {
            place: Place::File(body),
            stored: found.data_bytes,
            crc: found.label.crc,
            has_table: true,
        };
        Ok(found.map(run))
    }

    /// Says that a version is in the cold tier, if it is still the one that was put there. True when it was.
    async fn bind(
        &self,
        object: &Named,
        row: &ObjectRow,
        class: ColdClass,
        run: ColdRun,
        (pin, files): (Pin, Vec<Uuid>),
    ) -> Result<bool, ArtifactError> {
        let (body, copy) = (run.body, run.copy);
        let place = move |place: &Place| match place {
            Place::File(id) => Place::Cold(*id, copy),
            other => other.clone(),
        };
        if !self.replace(object, row, Tier::Cold(class), place, (vec![run], Vec::new()), || ()).await? {
            return Ok(false);
        }
        // Not left to the commit: that might come behind a version's way back.
        let pins = self.0.pins.clone();
        let removed = blocking(move || {
            pins.remove(body, files);
            drop(pin);
            Ok(())
        });
        removed.await.map_err(ArtifactError::io("remove a blob that was moved"))?;
        Ok(true)
    }

    /// Changes where a version's bytes are, if it is still `row` and its bytes are where they were. True when it was.
    pub(super) async fn replace<T: Send + 'static>(
        &self,
        object: &Named,
        row: &ObjectRow,
        tier: Tier,
        place: impl Fn(&Place) -> Place,
        (bound, loose): (Vec<ColdRun>, Vec<ColdRun>),
        kept: impl FnOnce() -> T,
    ) -> Result<bool, ArtifactError> {
        let Named { bucket, key, .. } = object;
        let lock = self.lock(bucket, key).await;
        let same = |now: &ObjectRow| now.body == row.body && now.tier == row.tier;
        let Some(current) = self.stored_version(object)?.filter(same) else { return Ok(false) };
        let elsewhere = |extent: Extent| Extent { place: place(&extent.place), ..extent };
        let (body, before) = match &current.body {
            Body::One(extent) => (Body::One(elsewhere(extent.clone())), Vec::new()),
            Body::Parts(body) => {
                let moved = |(first, mut chunk): (u16, PartChunk)| {
                    for part in &mut chunk.parts {
                        part.extent.place = place(&part.extent.place);
                    }
                    Change::Chunk { body: *body, first, chunk }
                };
                (current.body.clone(), self.chunks(*body)?.into_iter().map(moved).collect())
            }
        };
        let now = ObjectRow { body, tier, ..current.clone() };
        let mut plan = self.held(bucket, key)?.amend(bucket, key, &current, now);
        plan.change.bound = bound;
        plan.change.loose = loose;
        // It makes room, or gives back what was there: a full disk is no reason against it.
        self.carry_out(lock, Class::Shrinking, Work { before, ..Work::of(plan) }, kept).await?;
        Ok(true)
    }
}

/// A blob that is read from its first to its last byte.
struct Reading {
    file: Arc<File>,
    position: u64,
    end: u64,
    /// Of the data behind the header.
    verifier: Box<Verifier>,
    crc: u64,
}

impl Reading {
    /// The next `length` bytes. Those that come last come only if the checksum of all is right.
    ///
    /// # Errors
    /// What is wrong with the blob.
    async fn next(&mut self, length: u64) -> Result<Bytes, String> {
        let (file, position) = (Arc::clone(&self.file), self.position);
        let mut verifier = std::mem::take(&mut self.verifier);
        let read = blocking(move || {
            let mut buffer = vec![0; usize::try_from(length).unwrap_or_default()];
            let bytes = read_up_to(&file, &mut buffer, position)?;
            let header = usize::try_from(HEADER_BYTES.saturating_sub(position)).unwrap_or_default().min(bytes);
            verifier.update(&buffer[header..bytes]);
            Ok((buffer, bytes as u64, verifier))
        });
        let (buffer, bytes, verifier) = read.await.map_err(|error| format!("read: {error}"))?;
        if bytes < length {
            return Err(format!("a blob ends {} bytes early", length - bytes));
        }
        self.position += bytes;
        if self.position < self.end {
            self.verifier = verifier;
        } else if verifier.finish() != self.crc {
            return Err("the checksum of a blob does not match".into());
        }
        Ok(buffer.into())
    }
}
