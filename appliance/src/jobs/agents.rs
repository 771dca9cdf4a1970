//! Who may take jobs: the agents that registered, what they can run, and when they were last heard.
//!
//! An agent that signs a name which nobody registered gets nothing; the log says so once. What an agent can run survives
//! a restart, so that it need not wait for its next registration to be given work.

use std::collections::{BTreeMap, BTreeSet};

use backlot_wire::{AgentInfo, AgentRegistration, Timestamp, job::is_name};
use serde::{Deserialize, Serialize};

use crate::catalogue::{Batch, Catalogue, CatalogueError, Table};
use crate::clock::Now;
use crate::control::{Kind, Record};

/// Most registered agents.
pub(super) const AGENTS_MAX: usize = 1_000;
/// An agent that was silent for so long makes room for a new one.
const FORGOTTEN_AFTER_MS: u64 = 24 * 3_600_000;
/// A registration that says nothing new is journalled this often, so that "last seen" survives a restart roughly.
const REFRESHED_AFTER_MS: u64 = 600_000;
const STRANGERS_MAX: usize = 1_000;
const STORED_BYTES_MAX: usize = 3_500;
const TEXT_BYTES_MAX: usize = 256;
const VERSION: u8 = 1;

/// An agent as it is stored. `forgotten` ends the record.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Stored {
    info: AgentInfo,
    #[serde(default)]
    drain_asked: bool,
    #[serde(default)]
    forgotten: bool,
}

#[derive(Clone, Debug)]
struct Known {
    info: AgentInfo,
    /// An operator wants it to take nothing more.
    drain_asked: bool,
    stored_at_ms: u64,
}

/// The registry. The caller's lock makes it safe to share.
#[derive(Default)]
pub(super) struct Agents {
    known: BTreeMap<String, Known>,
    strangers: BTreeSet<String>,
}

/// Why an agent was not registered.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum AgentError {
    #[error("{0}")]
    Invalid(String),
    #[error("{AGENTS_MAX} agents are registered and none of them has been silent for a day")]
    Full,
}

impl Agents {
    /// Takes a registration. The records, if any, are to be durable before the answer.
    pub(super) fn register(
        &mut self,
        now: Now,
        name: &str,
        registration: AgentRegistration,
    ) -> Result<(AgentInfo, Vec<Record>), AgentError> {
        check(name, &registration).map_err(AgentError::Invalid)?;
        let mut records = Vec::new();
        if !self.known.contains_key(name) && self.known.len() >= AGENTS_MAX {
            records.push(self.forget_the_most_silent(now)?);
        }
        self.strangers.remove(name);
        let at = now.timestamp();
        let known = self.known.entry(name.to_owned()).or_insert_with(|| Known {
            info: AgentInfo { name: name.to_owned(), first_seen_at: at, ..AgentInfo::default() },
            drain_asked: false,
            stored_at_ms: 0,
        });
        // Attempts and what is loaded come and go, and are of no use after a restart.
        let lasting = |registration: &AgentRegistration| AgentRegistration {
            attempts: Vec::new(),
            loaded: Vec::new(),
            ..registration.clone()
        };
        let news = lasting(&known.info.registration) != lasting(&registration);
        known.info.registration = registration;
        known.info.last_seen_at = at;
        if news || now.wall_ms.saturating_sub(known.stored_at_ms) >= REFRESHED_AFTER_MS {
            known.stored_at_ms = now.wall_ms;
            records.push(encode(known, false));
        }
        Ok((known.shown(), records))
    }

    /// Asks an agent to take nothing more, or takes that back.
    pub(super) fn drain(&mut self, name: &str, drain: bool) -> Option<(AgentInfo, Record)> {
        let known = self.known.get_mut(name)?;
        known.drain_asked = drain;
        Some((known.shown(), encode(known, false)))
    }

    /// Drops an agent that will not come back.
    pub(super) fn forget(&mut self, name: &str) -> Option<Record> {
        self.known.remove(name).map(|known| encode(&known, true))
    }

    /// An agent was heard.
    pub(super) fn seen(&mut self, now: Now, name: &str) {
        if let Some(known) = self.known.get_mut(name) {
            known.info.last_seen_at = now.timestamp();
        }
    }

    /// What a registered agent that takes jobs can run. `None` for others; a stranger's name is logged once.
    pub(super) fn taking(&mut self, name: &str) -> Option<&AgentRegistration> {
        let Some(known) = self.known.get(name) else {
            if self.strangers.len() < STRANGERS_MAX && self.strangers.insert(name.to_owned()) {
                tracing::warn!(agent = name, "asks for jobs and has not registered: it gets none");
            }
            return None;
        };
        (!known.drain_asked && !known.info.registration.draining).then_some(&known.info.registration)
    }

    pub(super) fn drains(&self, name: &str) -> bool {
        self.known.get(name).is_some_and(|known| known.drain_asked)
    }

    /// All, by name.
    pub(super) fn all(&self) -> Vec<AgentInfo> {
        self.known.values().map(Known::shown).collect()
    }

    /// When each was last heard, and whether it said that it ends.
    pub(super) fn last_seen(&self) -> impl Iterator<Item = (&str, Timestamp, bool)> {
        self.known.iter().map(|(name, known)| (name.as_str(), known.info.last_seen_at, known.info.registration.stopped))
    }

    /// Reads what the catalogue holds.
    pub(super) fn load(catalogue: &Catalogue) -> Result<Self, CatalogueError> {
        let mut agents = Self::default();
        for (key, value) in catalogue.range(Table::Agents, &[], &[], AGENTS_MAX)? {
            let name = String::from_utf8_lossy(&key).into_owned();
            match decode(&value) {
                Ok(stored) => {
                    let stored_at_ms = stored.info.last_seen_at.unix_ms();
                    let known = Known { info: stored.info, drain_asked: stored.drain_asked, stored_at_ms };
                    agents.known.insert(name, known);
                }
                // It registers again within half a minute.
                Err(problem) => tracing::warn!(agent = name, problem, "stored registration is not understood"),
            }
        }
        Ok(agents)
    }

    fn forget_the_most_silent(&mut self, now: Now) -> Result<Record, AgentError> {
        let silent = self.known.iter().min_by_key(|(_, known)| known.info.last_seen_at);
        let name = silent
            .filter(|(_, known)| now.wall_ms.saturating_sub(known.info.last_seen_at.unix_ms()) > FORGOTTEN_AFTER_MS)
            .map(|(name, _)| name.clone());
        name.and_then(|name| self.forget(&name)).ok_or(AgentError::Full)
    }
}

impl Known {
    fn shown(&self) -> AgentInfo {
        let mut info = self.info.clone();
        info.registration.draining |= self.drain_asked;
        info
    }
}

fn check(name: &str, registration: &AgentRegistration) -> Result<(), String> {
    if !is_name(name) {
        return Err("an agent's name is 1 to 128 letters, digits, `.`, `_`, `-`".into());
    }
    let AgentRegistration { version, host, types, models, loaded, gpus, labels, instance_type, attempts, .. } =
        registration;
    let short = |text: &String| text.len() <= TEXT_BYTES_MAX;
    let bounded = short(version)
        && short(host)
        && instance_type.as_ref().is_none_or(short)
        && types.len() <= 64
        && models.len() <= 512
        && models.iter().all(short)
        && loaded.len() <= 512
        && loaded.iter().all(short)
        && gpus.len() <= 64
        && gpus.iter().all(|gpu| short(&gpu.name) && short(&gpu.executor))
        && labels.len() <= 64
        && labels.iter().all(|(key, value)| short(key) && short(value))
        && attempts.len() <= 256
        && attempts.iter().all(|attempt| attempt.len() <= 2 * TEXT_BYTES_MAX);
    if !bounded {
        return Err("a registration holds at most 64 types, 512 models, 64 GPUs, 64 labels and 256 attempts, \
                    in texts of at most 256 bytes"
            .into());
    }
    match types.iter().find(|kind| !is_name(kind)) {
        Some(kind) => Err(format!("`{kind}` is no job type: 1 to 128 letters, digits, `.`, `_`, `-`")),
        None => Ok(()),
    }
}

fn encode(known: &Known, forgotten: bool) -> Record {
    let mut info = known.info.clone();
    info.registration.attempts.clear();
    info.registration.loaded.clear();
    let bytes = |info: &AgentInfo| {
        let stored = Stored { info: info.clone(), drain_asked: known.drain_asked, forgotten };
        let mut payload = vec![VERSION];
        if let Err(error) = serde_json::to_writer(&mut payload, &stored) {
            unreachable!("an agent is JSON: {error}"); // plain data with string keys
        }
        payload
    };
    let mut payload = bytes(&info);
    if payload.len() > STORED_BYTES_MAX {
        info.registration.models.clear();
        payload = bytes(&info);
    }
    if payload.len() > STORED_BYTES_MAX {
        // Without its types it is given nothing until it registers again, half a minute after a restart at most.
        let AgentRegistration { host, stopped, .. } = info.registration;
        info.registration = AgentRegistration { host, stopped, ..AgentRegistration::default() };
        payload = bytes(&info);
    }
    Record { kind: Kind::Agent, payload }
}

fn decode(payload: &[u8]) -> Result<Stored, String> {
    match payload.split_first() {
        Some((&VERSION, json)) => serde_json::from_slice(json).map_err(|error| format!("agent record: {error}")),
        Some((version, _)) => Err(format!("agent record of version {version}; this is version {VERSION}")),
        None => Err("empty agent record".into()),
    }
}

/// What a record changes in the catalogue.
pub(super) fn project(payload: &[u8], batch: &mut Batch) -> Result<(), String> {
    let stored = decode(payload)?;
    if stored.forgotten {
        batch.delete(Table::Agents, stored.info.name.into_bytes());
    } else {
        batch.put(Table::Agents, stored.info.name.into_bytes(), payload);
    }
    Ok(())
}

/// For fuzzing.
pub(super) fn fuzz_record(payload: &[u8]) {
    let _ = decode(payload);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(s: u64) -> Now {
        Now { mono_ms: s * 1_000, wall_ms: s * 1_000 }
    }

    fn runs(kind: &str) -> AgentRegistration {
        AgentRegistration { types: vec![kind.into()], ..AgentRegistration::default() }
    }

    #[test]
    fn a_registration_is_journalled_when_it_says_something_new() {
        let mut agents = Agents::default();
        let records = |agents: &mut Agents, s, registration| agents.register(at(s), "a", registration).unwrap().1.len();
        assert_eq!(records(&mut agents, 1_000, runs("x")), 1);
        assert_eq!(records(&mut agents, 1_030, runs("x")), 0);
        let busy = AgentRegistration { attempts: vec!["j.1".into()], loaded: vec!["m".into()], ..runs("x") };
        assert_eq!(records(&mut agents, 1_060, busy), 0, "attempts come and go");
        assert_eq!(records(&mut agents, 1_090, runs("y")), 1);
        assert_eq!(records(&mut agents, 1_700, runs("y")), 1, "last seen, now and then");
    }

    #[test]
    fn a_stranger_and_a_draining_agent_take_nothing() {
        let mut agents = Agents::default();
        assert!(agents.taking("a").is_none());
        agents.register(at(1), "a", runs("x")).unwrap();
        assert!(agents.taking("a").is_some());
        assert!(agents.drain("a", true).unwrap().0.registration.draining);
        assert!(agents.taking("a").is_none() && agents.drains("a"));
        agents.register(at(2), "a", runs("x")).unwrap();
        assert!(agents.taking("a").is_none(), "a registration does not undo what an operator asked for");
        agents.drain("a", false).unwrap();
        assert!(agents.taking("a").is_some());
    }

    #[test]
    fn a_full_registry_forgets_only_the_long_silent() {
        let mut agents = Agents::default();
        for n in 0..AGENTS_MAX as u64 {
            agents.register(at(n), &format!("a{n}"), runs("x")).unwrap();
        }
        assert_eq!(agents.register(at(2_000), "new", runs("x")).unwrap_err(), AgentError::Full);
        let (_, records) = agents.register(at(100_000), "new", runs("x")).unwrap();
        assert_eq!(records.len(), 2);
        assert!(!agents.known.contains_key("a0") && agents.known.contains_key("a1"));
    }

    #[test]
    fn a_large_registration_is_stored_without_its_models() {
        let models: Vec<String> = (0..500).map(|n| format!("model-{n:0>20}")).collect();
        let known = Known {
            info: AgentInfo {
                name: "a".into(),
                registration: AgentRegistration { models, ..runs("x") },
                ..AgentInfo::default()
            },
            drain_asked: true,
            stored_at_ms: 0,
        };
        let record = encode(&known, false);
        let stored = decode(&record.payload).unwrap();
        assert!(record.payload.len() <= STORED_BYTES_MAX && stored.drain_asked);
        assert_eq!((stored.info.registration.types.len(), stored.info.registration.models.len()), (1, 0));
    }

    #[test]
    fn what_is_out_of_bounds_is_refused() {
        for (name, registration) in [
            ("a b", runs("x")),
            ("", runs("x")),
            ("a", runs("no type")),
            ("a", AgentRegistration { host: "h".repeat(300), ..runs("x") }),
            ("a", AgentRegistration { types: vec!["x".into(); 65], ..runs("x") }),
        ] {
            assert!(matches!(Agents::default().register(at(1), name, registration), Err(AgentError::Invalid(_))));
        }
    }
}
