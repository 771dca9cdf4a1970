//! Sessions of the dashboard: a random token, kept as its SHA-256, for twelve hours after its last use.

use std::collections::HashMap;

use parking_lot::Mutex;
use sha2::{Digest, Sha256};

use super::Principal;

/// How long an unused session lives, in seconds.
pub const SESSION_LIFE_S: u64 = 12 * 3600;
/// Most sessions at once; the one unused the longest goes first.
const SESSIONS_MAX: usize = 1_000;

#[derive(Default)]
pub(super) struct Sessions {
    by_hash: Mutex<HashMap<[u8; 32], (Principal, u64)>>,
}

impl Sessions {
    pub(super) fn begin(&self, token: &str, principal: Principal, mono_ms: u64) {
        let mut sessions = self.by_hash.lock();
        sessions.retain(|_, (_, used_ms)| is_alive(*used_ms, mono_ms));
        if sessions.len() >= SESSIONS_MAX
            && let Some(oldest) = sessions.iter().min_by_key(|(_, (_, used_ms))| *used_ms).map(|(hash, _)| *hash)
        {
            sessions.remove(&oldest);
        }
        sessions.insert(hash(token), (principal, mono_ms));
    }

    pub(super) fn check(&self, token: &str, mono_ms: u64) -> Option<Principal> {
        let mut sessions = self.by_hash.lock();
        let (principal, used_ms) = sessions.get_mut(&hash(token))?;
        is_alive(*used_ms, mono_ms).then(|| {
            *used_ms = mono_ms;
            principal.clone()
        })
    }

    pub(super) fn end(&self, token: &str) {
        self.by_hash.lock().remove(&hash(token));
    }

    pub(super) fn end_all(&self, key_id: &str) {
        self.by_hash.lock().retain(|_, (principal, _)| principal.key_id != key_id);
    }
}

fn is_alive(used_ms: u64, mono_ms: u64) -> bool {
    mono_ms.saturating_sub(used_ms) < SESSION_LIFE_S * 1000
}

fn hash(token: &str) -> [u8; 32] {
    Sha256::digest(token.as_bytes()).into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::identity::{Account, Role};

    #[test]
    fn a_session_lives_twelve_hours_after_its_last_use() {
        let sessions = Sessions::default();
        let ada = Principal { key_id: "BLKA".into(), role: Role::Viewer, account: Account::house() };
        sessions.begin("t", ada.clone(), 0);
        assert_eq!(sessions.check("t", 11 * 3_600_000), Some(ada.clone()));
        assert_eq!(sessions.check("t", 22 * 3_600_000), Some(ada));
        assert_eq!(sessions.check("t", 35 * 3_600_000), None);
        assert_eq!(sessions.check("other", 0), None);
    }

    #[test]
    fn the_number_of_sessions_is_bounded_and_a_revoked_key_is_signed_out() {
        let sessions = Sessions::default();
        for n in 0..=SESSIONS_MAX as u64 {
            let key_id = format!("BLK{}", n % 2);
            sessions.begin(&n.to_string(), Principal { key_id, role: Role::Viewer, account: Account::house() }, n);
        }
        assert_eq!(sessions.by_hash.lock().len(), SESSIONS_MAX);
        assert!(sessions.check("0", 2000).is_none());
        sessions.end_all("BLK1");
        assert!(sessions.check("1", 2000).is_none());
        assert!(sessions.check("2", 2000).is_some());
    }
}
