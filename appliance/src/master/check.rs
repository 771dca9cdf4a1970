//! Which master keys the data folder needs: `master.check`, a line of JSON with an id and a MAC of each.

use std::path::Path;

use serde::{Deserialize, Serialize};

use super::source::write_private;
use super::{KeyId, MasterError};

const FORMAT: u32 = 1;

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Check {
    format: u32,
    keys: Vec<Entry>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    id: KeyId,
    check: String,
}

impl Default for Check {
    fn default() -> Self {
        Self { format: FORMAT, keys: Vec::new() }
    }
}

impl Check {
    /// `None` before the first start.
    pub(super) fn read(path: &Path) -> Result<Option<Self>, MasterError> {
        let problem = |problem: String| MasterError::File { path: path.display().to_string(), problem };
        let text = match std::fs::read(path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(problem(error.to_string())),
        };
        let check: Self = serde_json::from_slice(&text).map_err(|error| problem(error.to_string()))?;
        match check.format {
            FORMAT => Ok(Some(check)),
            later => Err(problem(format!("has the format {later}, which a later version wrote"))),
        }
    }

    pub(super) fn write(&self, path: &Path) -> Result<(), MasterError> {
        let text = serde_json::to_vec(self)
            .map_err(|error| MasterError::File { path: path.display().to_string(), problem: error.to_string() })?;
        write_private(path, &text)
    }

    pub(super) fn ids(&self) -> Vec<KeyId> {
        self.keys.iter().map(|key| key.id).collect()
    }

    pub(super) fn agrees(&self, id: KeyId, check: &str) -> bool {
        self.keys.iter().any(|key| key.id == id && key.check == check)
    }

    /// True when it was not there.
    pub(super) fn add(&mut self, id: KeyId, check: &str) -> bool {
        let is_new = !self.keys.iter().any(|key| key.id == id);
        if is_new {
            self.keys.push(Entry { id, check: check.to_owned() });
        }
        is_new
    }

    pub(super) fn remove(&mut self, id: KeyId) -> bool {
        let before = self.keys.len();
        self.keys.retain(|key| key.id != id);
        self.keys.len() < before
    }
}
