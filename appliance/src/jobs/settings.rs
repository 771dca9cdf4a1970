//! What an operator has set for jobs, one key and one value at a time: limits, webhooks, bulk actions.
//!
//! Durable as a record of [`Kind::Setting`], and kept in the catalogue from then on; a record without a value takes its key
//! away. A key's first part, up to the slash, says whose it is.

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::catalogue::{Batch, Catalogue, CatalogueError, Table, VALUE_BYTES_MAX};
use crate::control::{Kind, Record};

const VERSION: u8 = 1;
const KEY_BYTES_MAX: usize = 512;
const PAGE: usize = 1_000;

#[derive(Serialize, Deserialize)]
struct Stored {
    key: String,
    /// Absent: the key goes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    value: Option<Value>,
}

/// The record that sets `key`, or with `None` takes it away.
///
/// # Errors
/// A sentence, when it is too large to be kept.
pub(super) fn record<T: Serialize>(key: &str, value: Option<&T>) -> Result<Record, String> {
    let value = value.map(serde_json::to_value).transpose().map_err(|error| error.to_string())?;
    let mut payload = vec![VERSION];
    let stored = Stored { key: key.to_owned(), value };
    serde_json::to_writer(&mut payload, &stored).map_err(|error| error.to_string())?;
    let bytes = payload.len();
    if bytes > VALUE_BYTES_MAX || key.len() > KEY_BYTES_MAX {
        return Err(format!("{bytes} bytes are more than the {VALUE_BYTES_MAX} that can be kept of it"));
    }
    Ok(Record { kind: Kind::Setting, payload })
}

fn decode(payload: &[u8]) -> Result<Stored, String> {
    match payload.split_first() {
        Some((&VERSION, json)) => serde_json::from_slice(json).map_err(|error| format!("setting: {error}")),
        Some((version, _)) => Err(format!("setting of version {version}; this is version {VERSION}")),
        None => Err("empty setting".into()),
    }
}

/// The key that a record is about, and whether it sets it.
pub(super) fn key_of(payload: &[u8]) -> Result<(String, bool), String> {
    decode(payload).map(|stored| (stored.key, stored.value.is_some()))
}

/// The value that a record sets; `None`: it takes its key away, or the value is not understood, which is logged.
pub(super) fn value_of<T: DeserializeOwned>(payload: &[u8]) -> Result<Option<T>, String> {
    let Stored { key, value } = decode(payload)?;
    let value = value.map(serde_json::from_value).transpose();
    Ok(value.unwrap_or_else(|error| {
        // An error would stop every start from now on.
        tracing::error!(key, %error, "a setting is not understood");
        None
    }))
}

/// What a record changes in the catalogue.
pub(super) fn project(payload: &[u8], batch: &mut Batch) -> Result<(), String> {
    let stored = decode(payload)?;
    if stored.value.is_some() {
        batch.put(Table::Settings, stored.key.into_bytes(), payload);
    } else {
        batch.delete(Table::Settings, stored.key.into_bytes());
    }
    Ok(())
}

/// Everything whose key begins with `prefix`, by the rest of the key. What is not understood is logged and left out.
pub(super) fn load<T: DeserializeOwned>(
    catalogue: &Catalogue,
    prefix: &str,
) -> Result<Vec<(String, T)>, CatalogueError> {
    let (mut found, mut from) = (Vec::new(), Vec::new());
    loop {
        let page = catalogue.range(Table::Settings, prefix.as_bytes(), &from, PAGE)?;
        let Some((last, _)) = page.last() else { return Ok(found) };
        from = [last.as_slice(), &[0]].concat();
        for (key, payload) in page {
            let name = String::from_utf8_lossy(key.get(prefix.len()..).unwrap_or_default()).into_owned();
            let value = decode(&payload).and_then(|stored| {
                serde_json::from_value(stored.value.unwrap_or_default()).map_err(|error| error.to_string())
            });
            match value {
                Ok(value) => found.push((name, value)),
                Err(problem) => tracing::error!(prefix, name, problem, "a setting is not understood"),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_setting_is_kept_until_it_is_taken_away() {
        let set = record("limit/user/anna", Some(&json!({"running_max": 3}))).unwrap();
        assert_eq!(key_of(&set.payload), Ok(("limit/user/anna".into(), true)));
        let gone = record("limit/user/anna", None::<&Value>).unwrap();
        assert_eq!(key_of(&gone.payload), Ok(("limit/user/anna".into(), false)));
        let mut batch = Batch::default();
        project(&set.payload, &mut batch).unwrap();
        project(&gone.payload, &mut batch).unwrap();
        assert_eq!(batch.changes.iter().map(|(_, _, value)| value.is_some()).collect::<Vec<_>>(), [true, false]);
    }

    #[test]
    fn what_is_too_large_or_of_a_later_version_is_refused() {
        assert!(record("x", Some(&"y".repeat(5_000))).is_err());
        assert!(record(&"k".repeat(600), Some(&1)).is_err());
        assert!(decode(&[]).is_err() && decode(&[9, b'{', b'}']).is_err() && decode(&[VERSION, b'{']).is_err());
    }
}
