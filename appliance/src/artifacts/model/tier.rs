//! Where a version is kept: here, or in the cold tier under a class that clients are told.

use serde::{Deserialize, Serialize};

use super::ObjectRow;

/// Where a version's bytes are, and what that means for rules.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Tier {
    #[default]
    #[serde(rename = "h")]
    Here,
    /// Here again, since this moment (Unix milliseconds): the days of a rule that moves it away begin anew, and a date that was then
    /// past is done with.
    #[serde(rename = "w")]
    Back(u64),
    #[serde(rename = "c")]
    Cold(ColdClass),
}

impl Tier {
    #[allow(clippy::trivially_copy_pass_by_ref, reason = "serde calls it with a reference")]
    pub(super) fn is_here(&self) -> bool {
        *self == Self::Here
    }
}

/// S3's classes that are read at once, as the cold tier is. Those that want a restore before each read are none of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ColdClass {
    #[serde(rename = "i")]
    StandardIa,
    #[serde(rename = "o")]
    OnezoneIa,
    #[serde(rename = "t")]
    IntelligentTiering,
    #[serde(rename = "g")]
    GlacierIr,
}

impl ColdClass {
    pub const ALL: [Self; 4] = [Self::StandardIa, Self::OnezoneIa, Self::IntelligentTiering, Self::GlacierIr];

    /// As S3 writes it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::StandardIa => "STANDARD_IA",
            Self::OnezoneIa => "ONEZONE_IA",
            Self::IntelligentTiering => "INTELLIGENT_TIERING",
            Self::GlacierIr => "GLACIER_IR",
        }
    }

    #[must_use]
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|class| class.name() == name)
    }
}

impl ObjectRow {
    /// The storage class that clients are told.
    #[must_use]
    pub fn class(&self) -> &'static str {
        self.cold_class().map_or("STANDARD", ColdClass::name)
    }

    #[must_use]
    pub fn cold_class(&self) -> Option<ColdClass> {
        match self.tier {
            Tier::Cold(class) => Some(class),
            Tier::Here | Tier::Back(_) => None,
        }
    }

    /// When it came back from the cold tier, if it ever did.
    #[must_use]
    pub fn back_ms(&self) -> Option<u64> {
        match self.tier {
            Tier::Back(back_ms) => Some(back_ms),
            Tier::Here | Tier::Cold(_) => None,
        }
    }

    /// Since when it is here, for rules that move it away; at least as late as `since_ms`.
    #[must_use]
    pub fn here_since(&self, since_ms: u64) -> u64 {
        self.back_ms().map_or(since_ms, |back_ms| back_ms.max(since_ms))
    }
}
