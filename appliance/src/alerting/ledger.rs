//! What alerting keeps, as keys with values in the control journal. The newest record of a key is its value; a record without
//! a value takes the key away.

use std::collections::BTreeMap;

use backlot_journal::{Class, Lsn};
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

use crate::control::{Commit, Control, ControlError, Kind, Permit, Record};

const VERSION: u8 = 1;

#[derive(Serialize, Deserialize)]
struct Entry<'a> {
    key: &'a str,
    /// JSON, as a text, so that equal values are equal bytes. Absent: the key goes.
    value: Option<&'a str>,
}

struct Kept {
    lsn: Lsn,
    value: String,
}

pub(super) struct Ledger {
    control: Control,
    kept: Mutex<BTreeMap<String, Kept>>,
}

impl Ledger {
    pub(super) fn new(control: Control) -> Self {
        Self { control, kept: Mutex::new(BTreeMap::new()) }
    }

    pub(super) fn replay(&self, lsn: Lsn, payload: &[u8]) -> Result<(), String> {
        let (key, value) = decode(payload)?;
        let mut kept = self.kept.lock();
        match value {
            Some(value) => drop(kept.insert(key, Kept { lsn, value })),
            None => drop(kept.remove(&key)),
        }
        Ok(())
    }

    pub(super) fn relocate(&self, lsn: Lsn, payload: &[u8], permit: Permit) -> Option<Commit> {
        let (key, _) = decode(payload).ok()?;
        let mut kept = self.kept.lock();
        let live = kept.get_mut(&key).filter(|kept| kept.lsn == lsn)?;
        let commit = permit.submit(&[Record { kind: Kind::Alert, payload: payload.to_vec() }]);
        live.lsn = commit.lsns.first().copied().unwrap_or(lsn);
        Some(commit)
    }

    pub(super) fn live_bytes(&self) -> u64 {
        self.kept.lock().iter().map(|(key, kept)| (key.len() + kept.value.len() + 64) as u64).sum()
    }

    pub(super) fn holds(&self, key: &str) -> bool {
        self.kept.lock().contains_key(key)
    }

    /// All keys with their values, in the order of the keys.
    pub(super) fn all(&self) -> Vec<(String, String)> {
        self.kept.lock().iter().map(|(key, kept)| (key.clone(), kept.value.clone())).collect()
    }

    /// Makes each key of `wanted` have its value, and takes away every other key that begins with one of `prefixes`:
    /// in one journal group, durable when this returns. One caller at a time.
    pub(super) async fn make_equal(
        &self,
        mut wanted: BTreeMap<String, Option<String>>,
        prefixes: &[&str],
    ) -> Result<(), ControlError> {
        {
            let kept = self.kept.lock();
            let gone = kept.keys().filter(|key| prefixes.iter().any(|prefix| key.starts_with(prefix)));
            let gone: Vec<String> = gone.filter(|key| !wanted.contains_key(*key)).cloned().collect();
            wanted.extend(gone.into_iter().map(|key| (key, None)));
            wanted.retain(|key, value| kept.get(key).map(|kept| &kept.value) != value.as_ref());
        }
        if wanted.is_empty() {
            return Ok(());
        }
        let records: Vec<Record> = wanted.iter().map(|(key, value)| encode(key, value.as_deref())).collect();
        let bytes = records.iter().map(|record| record.payload.len() + 32).sum();
        // That the disk is full must be told on a full disk; alerts are bounded, and they are few.
        let permit = self.control.reserve(bytes, Class::Shrinking).await?;
        let commit = {
            let mut kept = self.kept.lock();
            let commit = permit.submit(&records);
            for ((key, value), lsn) in wanted.into_iter().zip(&commit.lsns) {
                match value {
                    Some(value) => drop(kept.insert(key, Kept { lsn: *lsn, value })),
                    None => drop(kept.remove(&key)),
                }
            }
            commit
        };
        commit.acknowledged().await
    }
}

fn encode(key: &str, value: Option<&str>) -> Record {
    let mut payload = vec![VERSION];
    // Two texts always become JSON.
    payload.extend(serde_json::to_vec(&Entry { key, value }).unwrap_or_default());
    Record { kind: Kind::Alert, payload }
}

fn decode(payload: &[u8]) -> Result<(String, Option<String>), String> {
    #[derive(Deserialize)]
    struct Owned {
        key: String,
        value: Option<String>,
    }
    match payload {
        [VERSION, json @ ..] => {
            let Owned { key, value } =
                serde_json::from_slice(json).map_err(|error| format!("alert record: {error}"))?;
            Ok((key, value))
        }
        [version, ..] => Err(format!("alert record of the later version {version}")),
        [] => Err("empty alert record".into()),
    }
}

/// Reads `payload` as a record of alerting and throws the outcome away: for fuzzing.
pub fn fuzz_journal(payload: &[u8]) {
    let _ = decode(payload);
}
