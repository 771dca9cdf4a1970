//! A bucket's row, and how much is in it.

use serde::{Deserialize, Serialize};

use super::is_false;
use crate::artifacts::lock::DefaultRetention;
use crate::identity::Account;

#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde calls it with a reference")]
fn is_none(count: &u64) -> bool {
    *count == 0
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(in super::super) struct BucketRow {
    #[serde(rename = "t")]
    pub created_ms: u64,
    #[serde(rename = "r")]
    pub region: String,
    #[serde(rename = "v", default, skip_serializing_if = "Versioning::is_never")]
    pub versioning: Versioning,
    /// Whether its objects may be locked. Never taken back.
    #[serde(rename = "l", default, skip_serializing_if = "is_false")]
    pub lock: bool,
    /// What locks an object that is put without a retention.
    #[serde(rename = "d", default, skip_serializing_if = "Option::is_none")]
    pub default_retention: Option<DefaultRetention>,
    /// Whose it is.
    #[serde(rename = "o", default, skip_serializing_if = "Account::is_house")]
    pub owner: Account,
}

/// What becomes of an object that is put over or deleted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Versioning {
    /// It goes, and the bucket has never kept one.
    #[default]
    #[serde(rename = "n")]
    Never,
    /// It stays, under its id.
    #[serde(rename = "e")]
    Enabled,
    /// The `null` version goes; those with ids stay.
    #[serde(rename = "s")]
    Suspended,
}

impl Versioning {
    #[allow(clippy::trivially_copy_pass_by_ref, reason = "serde calls it with a reference")]
    fn is_never(&self) -> bool {
        *self == Self::Never
    }
}

/// How much is in a bucket. Absolute, so that applying it twice is applying it once.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(in super::super) struct Counts {
    #[serde(rename = "o")]
    pub objects: u64,
    #[serde(rename = "b")]
    pub bytes: u64,
    #[serde(rename = "u")]
    pub uploads: u64,
    /// Objects that are no longer current, and their bytes.
    #[serde(rename = "n", default, skip_serializing_if = "is_none")]
    pub noncurrent: u64,
    #[serde(rename = "m", default, skip_serializing_if = "is_none")]
    pub noncurrent_bytes: u64,
    #[serde(rename = "d", default, skip_serializing_if = "is_none")]
    pub markers: u64,
    /// How much of all that is in the cold tier.
    #[serde(rename = "c", default, skip_serializing_if = "is_none")]
    pub cold: u64,
    #[serde(rename = "k", default, skip_serializing_if = "is_none")]
    pub cold_bytes: u64,
}

impl Counts {
    /// Whether nothing is left but uploads.
    pub(in super::super) fn is_empty(&self) -> bool {
        self.objects == 0 && self.noncurrent == 0 && self.markers == 0
    }
}
