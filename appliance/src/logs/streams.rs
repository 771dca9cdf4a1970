//! Streams: who writes. All records of one resource are one stream, and its key says which.
//!
//! There is no list of streams to keep in step with the windows: which there are, and how many records of each, is counted from the terms of
//! the keyword `stream`; what a key stands for is read from one of its records. A key is made of the resource alone, so what was read
//! once stays true.

use std::collections::HashMap;
use std::sync::Arc;

use backlot_windows::{Order, Query, Reach, Search, Told, Values, Want};
use parking_lot::Mutex;
use serde_json::{Map, Value};

use super::Logs;
use super::model::LogRecord;
use super::schema::STREAM;
use crate::edge::ApiError;
use crate::signals::whole;

/// Resources that are remembered; all are forgotten when there are more.
const REMEMBERED_MAX: usize = 10_000;
/// One record.
const RECORD_BYTES_MAX: usize = 2 << 20;

/// Who writes, and how much.
#[derive(Clone, Debug, PartialEq)]
pub struct Stream {
    /// The keyword `stream` of its records.
    pub key: String,
    /// The attributes that make it, under dotted names.
    pub resource: Arc<Map<String, Value>>,
    /// How many of its records answer.
    pub count: u64,
}

type Resource = Arc<Map<String, Value>>;

/// What keys stand for. Cheap to clone.
#[derive(Clone, Default)]
pub(super) struct Resources {
    known: Arc<Mutex<HashMap<String, Resource>>>,
}

impl Resources {
    fn get(&self, key: &str) -> Option<Resource> {
        self.known.lock().get(key).cloned()
    }

    fn put(&self, key: &str, resource: &Resource) {
        let mut known = self.known.lock();
        if known.len() >= REMEMBERED_MAX {
            known.clear();
        }
        known.insert(key.to_owned(), Arc::clone(resource));
    }
}

impl Logs {
    /// The streams that have records which answer to `query` from the first to the second moment (ns, both included), those with the most
    /// records first, `limit` of them. Those of windows that are here alone, if `reach` says so.
    ///
    /// # Errors
    /// As [`Logs::search`].
    pub async fn streams(
        &self,
        query: &Query,
        range: (i64, i64),
        limit: usize,
        reach: Reach,
    ) -> Result<Vec<Stream>, ApiError> {
        let want = Want::Values { name: STREAM.to_owned(), limit };
        let counts = self.store.tally_within_reach(query.clone(), range, vec![want], reach).await?;
        whole(&counts.unreached)?;
        let Some(Told::Values(Values { top, .. })) = counts.told.into_iter().next() else { return Ok(Vec::new()) };
        let mut streams = Vec::with_capacity(top.len());
        for (key, count) in top {
            // Its window may have been dropped since it was counted.
            let Some(resource) = self.resource(&key, range).await? else { continue };
            streams.push(Stream { key, resource, count });
        }
        Ok(streams)
    }

    async fn resource(&self, key: &str, (from_ns, to_ns): (i64, i64)) -> Result<Option<Resource>, ApiError> {
        if let Some(resource) = self.resources.get(key) {
            return Ok(Some(resource));
        }
        let search = Search {
            query: Query::keyword(STREAM, key),
            from_ns,
            to_ns,
            order: Order::Newest,
            limit: 1,
            after: None,
            bytes_max: RECORD_BYTES_MAX,
        };
        let found = self.search(search).await?;
        let Some(hit) = found.hits.first() else { return Ok(None) };
        let record: LogRecord = serde_json::from_slice(&hit.source).map_err(|error| ApiError::internal(&error))?;
        let resource = Arc::new(record.resource);
        self.resources.put(key, &resource);
        Ok(Some(resource))
    }
}
