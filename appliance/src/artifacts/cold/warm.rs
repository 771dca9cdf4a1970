//! The way back: versions come from the cold tier to the disk, because somebody wants them near or wants to leave that tier.

use std::sync::Arc;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::remote::{Name, RemoteError};
use super::{ArtifactError, Artifacts, ColdRun, Fetch, body_id};
use crate::artifacts::blobs::{HEADER_BYTES, Returning, Settling, blocking};
use crate::artifacts::blocks::Summing;
use crate::artifacts::checksums::Verifier;
use crate::artifacts::health::Named;
use crate::artifacts::label;
use crate::artifacts::model::{Body, Extent, Place, Tier};
use crate::artifacts::verify::{Pace, Run, agrees};
use crate::artifacts::versions::Version;
use crate::artifacts::versions::listing::VersionQuery;

/// Versions looked at at once.
const PAGE: usize = 200;
/// Bytes fetched at once.
const BATCH_BYTES: u64 = 1 << 20;
/// Most prefixes that wait to be brought back.
const WALKS_MAX: usize = 100;

/// What is to come back.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WarmAsked {
    pub bucket: String,
    /// A key; or, where it is empty or ends with `/`, everything under it.
    #[serde(default)]
    pub key: String,
    /// Whether versions that are not current come too.
    #[serde(default)]
    pub versions: bool,
}

/// How far one of these is.
#[derive(Clone, Debug)]
pub(super) struct Walk {
    asked: WarmAsked,
    after: Option<(String, Option<Uuid>)>,
}

impl std::fmt::Display for Walk {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "s3://{}/{}", self.asked.bucket, self.asked.key)
    }
}

impl Artifacts {
    /// Brings versions back, after those that were asked for before. Nobody remembers it over a restart.
    ///
    /// # Errors
    /// [`ArtifactError::NoSuchBucket`]; [`ArtifactError::ColdAway`] where there is no cold tier;
    /// [`ArtifactError::InvalidRequest`] when too many are waiting.
    pub fn warm(&self, asked: WarmAsked) -> Result<(), ArtifactError> {
        self.bucket(&asked.bucket)?;
        self.0.cold.slot.remote()?;
        let mut orders = self.0.cold.orders.lock();
        if orders.back.iter().any(|walk| walk.asked == asked) {
            return Ok(());
        }
        if orders.back.len() >= WALKS_MAX {
            return Err(ArtifactError::InvalidRequest(format!("{WALKS_MAX} prefixes are waiting to be brought back")));
        }
        orders.back.push_back(Walk { asked, after: None });
        drop(orders);
        self.0.cold.wake.notify_one();
        Ok(())
    }

    /// One page of a walk, whose end is its end in the queue.
    ///
    /// # Errors
    /// The other S3 is away: the page is done again.
    pub(super) async fn warm_page(&self, walk: Walk) -> Result<(), ArtifactError> {
        let WarmAsked { bucket, key, versions } = &walk.asked;
        let query = VersionQuery { prefix: key.clone(), delimiter: None, after: walk.after, max: PAGE };
        let page = match self.list_versions(bucket, query).await {
            Err(ArtifactError::NoSuchBucket(_)) => {
                self.0.cold.orders.lock().back.pop_front();
                return Ok(());
            }
            page => page?,
        };
        let is_prefix = key.is_empty() || key.ends_with('/');
        for listed in page.entries {
            let Version::Object(row) = listed.version else { continue };
            if row.cold_class().is_none() || !(is_prefix || listed.key == *key) || !(*versions || listed.is_latest) {
                continue;
            }
            let object = Named::of(bucket, &listed.key, &row);
            self.0.cold.begun(&object);
            match self.move_back(&object).await {
                Ok(Some(bytes)) => self.0.cold.counted("returned", bytes),
                Ok(None) => {} // gone or back since
                Err(error @ (ArtifactError::ColdAway(_) | ArtifactError::ColdBusy)) => return Err(error),
                Err(error) => {
                    tracing::warn!(bucket, key = listed.key, %error, "could not bring an object back");
                    self.0.cold.failed("failed", &error);
                    if matches!(error, ArtifactError::Full | ArtifactError::ReadOnly) {
                        self.0.cold.orders.lock().back.pop_front();
                        return Ok(()); // nothing else would fit either
                    }
                }
            }
        }
        let mut orders = self.0.cold.orders.lock();
        match (page.next, orders.back.front_mut()) {
            (Some(after), Some(walk)) => walk.after = Some(after),
            _ => drop(orders.back.pop_front()),
        }
        Ok(())
    }

    /// Brings a version back; gives its bytes. `None` where it is another by now or is here.
    ///
    /// # Errors
    /// [`ArtifactError::ColdAway`], [`ArtifactError::Full`]; [`ArtifactError::Damaged`], and it stays where it is.
    pub(in super::super) async fn move_back(&self, object: &Named) -> Result<Option<u64>, ArtifactError> {
        let Some(row) = self.stored_version(object)?.filter(|row| row.cold_class().is_some()) else { return Ok(None) };
        let extents = self.extents(&row)?;
        let (mut pace, mut bytes) = (self.0.cold.pace(), 0);
        let cold = |extent: &Extent| if let Place::Cold(id, _) = extent.place { Some(id) } else { None };
        // Files that only wait for their readers to end are the version's again.
        self.0.pins.spare(body_id(&row), &extents.iter().filter_map(cold).collect::<Vec<_>>());
        let mut settled = Vec::with_capacity(extents.len());
        for extent in &extents {
            let Some(id) = cold(extent) else { continue };
            let run = Run::of(extent, row.seal.is_some());
            bytes += HEADER_BYTES + run.stored;
            settled.push(self.fetch_blob(object, run, id, &mut pace).await?);
        }
        let loose = match &row.body {
            Body::Parts(body) => ColdRun::of_parts(*body, extents.iter()),
            Body::One(extent) => match extent.place {
                Place::Cold(blob, copy) => vec![ColdRun { body: blob, copy, blobs: vec![blob] }],
                _ => Vec::new(),
            },
        };
        let here = |place: &Place| match place {
            Place::Cold(id, _) => Place::File(*id),
            other => other.clone(),
        };
        let tier = Tier::Back(self.now().wall_ms);
        let is_back = self.replace(object, &row, tier, here, (Vec::new(), loose), || settled).await?;
        Ok(is_back.then_some(bytes))
    }

    /// Fetches a blob whole, verified; durable under its name when this answers.
    async fn fetch_blob(&self, object: &Named, run: Run, id: Uuid, pace: &mut Pace) -> Result<Settling, ArtifactError> {
        let failed = ArtifactError::write("bring a blob back");
        let blobs = self.0.stores.blobs.clone();
        let mut returning: Returning = blocking(move || blobs.take_back(id)).await.map_err(&failed)?;
        let wrong = |problem: String| {
            self.0.stores.health.damaged(object.clone(), problem.clone());
            ArtifactError::Damaged { bucket: object.bucket.clone(), key: object.key.clone(), problem }
        };
        // Of the bytes behind the header, which comes first.
        let mut sums = run.has_table.then(Summing::default);
        let mut is_header = true;
        let mut fetching = self.fetching(object, run)?;
        while let Some(data) = fetching.next(pace).await? {
            let data = data.map_err(wrong)?;
            let appended = blocking(move || {
                if let Some(sums) = sums.as_mut().filter(|_| !is_header) {
                    sums.update(&data);
                }
                returning.append(&data).map(|()| (returning, sums))
            });
            (returning, sums) = appended.await.map_err(&failed)?;
            is_header = false;
        }
        let table = sums.map(Summing::finish).unwrap_or_default();
        returning = blocking(move || returning.append(&table).map(|()| returning)).await.map_err(&failed)?;
        blocking(move || returning.settle()).await.map_err(&failed)
    }

    /// Reads a blob in the cold tier from its header to its end.
    pub(in super::super) fn fetching(&self, object: &Named, run: Run) -> Result<Fetching, ArtifactError> {
        let Place::Cold(blob, copy) = run.place else {
            return Err(ArtifactError::fault("read from the cold tier")("the blob is not there".into()));
        };
        let (remote, total) = (self.0.cold.slot.remote()?, HEADER_BYTES + run.stored);
        let fetch = Fetch::new(remote, Name { blob, copy }, (0, total), total);
        let verifier = Some(Box::default());
        Ok(Fetching { fetch, object: object.clone(), run, position: 0, verifier })
    }
}

/// A blob in the cold tier that is read whole and verified.
pub(in super::super) struct Fetching {
    fetch: Fetch,
    object: Named,
    run: Run,
    position: u64,
    verifier: Option<Box<Verifier>>,
}

impl Fetching {
    /// The next bytes, header first; `None` behind the last, whose checksum was right. Inside: what is wrong with the blob.
    pub(in super::super) async fn next(
        &mut self,
        pace: &mut Pace,
    ) -> Result<Option<Result<Arc<Vec<u8>>, String>>, ArtifactError> {
        let total = HEADER_BYTES + self.run.stored;
        if self.position == total {
            return Ok(None);
        }
        let length = match self.position {
            0 => HEADER_BYTES,
            position => BATCH_BYTES.min(total - position),
        };
        let data = match self.fetch.read(usize::try_from(length).unwrap_or_default()).await {
            Ok(data) => Arc::new(data),
            Err(RemoteError::Missing) => return Ok(Some(Err("its blob is missing in the cold tier".into()))),
            Err(RemoteError::Wrong(problem)) => return Ok(Some(Err(problem))),
            Err(RemoteError::Away(problem)) => return Err(ArtifactError::ColdAway(problem)),
            Err(RemoteError::Busy) => return Err(ArtifactError::ColdBusy),
        };
        pace.took(length).await;
        let is_header = self.position == 0;
        self.position += length;
        if is_header {
            let found = label::read(&data);
            if let Err(problem) = found.and_then(|found| agrees(&found, &self.object, self.run.stored, self.run.crc)) {
                return Ok(Some(Err(problem)));
            }
        }
        let Some(mut verifier) = self.verifier.take() else { return Ok(Some(Err("it failed before".into()))) };
        if !is_header {
            let same = Arc::clone(&data);
            let checked = blocking(move || {
                verifier.update(&same);
                Ok(verifier)
            });
            verifier = checked.await.map_err(ArtifactError::io("check a blob"))?;
        }
        if self.position < total {
            self.verifier = Some(verifier);
        } else if verifier.finish() != self.run.crc {
            return Ok(Some(Err("the checksum of a blob does not match".into())));
        }
        Ok(Some(Ok(data)))
    }
}
