//! Keys, roles and sessions: who may call, and as what.
//!
//! One access key serves all doors. Its secret is kept wrapped by the master key, not hashed, because SigV4
//! needs it; bearer tokens of sessions are random and kept hashed, in memory only.

/// What a key may do. Admin may everything; operator acts on jobs, queues, artifacts and alerts; viewer reads; agent
/// takes jobs, reads and writes artifacts, reports attempts and ships signals.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    Admin,
    Operator,
    Viewer,
    Agent,
}

impl Role {
    /// May change queues, jobs, artifacts, alerts.
    #[must_use]
    pub fn operates(self) -> bool {
        matches!(self, Self::Admin | Self::Operator)
    }

    /// May take jobs and report on them, write artifacts, ship signals.
    #[must_use]
    pub fn works(self) -> bool {
        self.operates() || self == Self::Agent
    }
}

/// Who calls: made by the edge from a verified signature, password or session, and put into the request's extensions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Principal {
    pub key_id: String,
    pub role: Role,
}
