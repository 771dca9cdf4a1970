//! Why a job waits: reasons that an operator can do something about, the decisive first.
//!
//! Each reason has a code for programs, a sentence for people, and the numbers in it. Nothing is guessed: what is said of agents is
//! what they registered, what is said of limits is what the queue goes by.

use backlot_wire::{AgentInfo, JobStatus, Requirements};
use serde::Serialize;
use serde_json::{Value, json};

use super::classes::{carries, meets};
use super::limits::Scope;
use super::model::Tracked;
use super::shares::{BucketName, Hold};
use super::{Jobs, JobsError};
use crate::clock::Now;

/// An agent that was not heard for so long takes nothing, as far as anybody knows. They register every half minute.
const SILENT_AFTER_MS: u64 = 90_000;

/// Jobs that are named in one reason.
const NAMED_MAX: usize = 10;

/// One reason.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Reason {
    /// A stable word, such as `project_limit`.
    pub code: &'static str,
    pub sentence: String,
    pub numbers: Value,
}

/// Why a job does not run.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Why {
    pub id: String,
    pub status: JobStatus,
    /// The decisive one first; none for a job that runs or has ended.
    pub reasons: Vec<Reason>,
}

fn reason(code: &'static str, sentence: impl Into<String>, numbers: Value) -> Reason {
    Reason { code, sentence: sentence.into(), numbers }
}

impl Jobs {
    /// Why job `id` waits.
    ///
    /// # Errors
    /// [`JobsError::NoSuchJob`].
    pub fn why(&self, id: &str) -> Result<Why, JobsError> {
        let tracked = self.find(id)?.ok_or_else(|| JobsError::NoSuchJob(id.to_owned()))?;
        let now = self.book.clock.now();
        let reasons = match tracked.head.status {
            JobStatus::Queued => self.in_line(now, &tracked),
            JobStatus::Scheduled => vec![scheduled(now, &tracked)],
            JobStatus::Waiting => vec![self.waits_for_jobs(&tracked)?],
            JobStatus::Running | JobStatus::Succeeded | JobStatus::Failed | JobStatus::Cancelled => Vec::new(),
        };
        Ok(Why { id: tracked.head.id.clone(), status: tracked.head.status, reasons })
    }

    /// The jobs that come first, as far as a sentence holds them.
    fn waits_for_jobs(&self, tracked: &Tracked) -> Result<Reason, JobsError> {
        let (mut left, mut named) = (0, Vec::new());
        for (job, _) in tracked.spec.waits_for() {
            let Some(status) = self.find(job)?.map(|known| known.head.status) else { continue };
            if status.is_final() || named.iter().any(|(known, _)| known == job) {
                continue;
            }
            left += 1;
            if named.len() < NAMED_MAX {
                named.push((job.to_owned(), status));
            }
        }
        let words: Vec<_> = named.iter().map(|(job, status)| format!("`{job}` ({})", status.as_str())).collect();
        let more = if left > named.len() { format!(" and {} more", left - named.len()) } else { String::new() };
        let jobs: Vec<_> = named.into_iter().map(|(job, _)| job).collect();
        let sentence = format!("{} first: {}{more}", count(left, "other job"), words.join(", "));
        Ok(reason("waits_for_jobs", sentence, json!({"jobs": jobs, "left": left})))
    }

    fn in_line(&self, now: Now, tracked: &Tracked) -> Vec<Reason> {
        let turns = &self.book.shares;
        let agents = self.book.agents.lock().all();
        let suited: Vec<&AgentInfo> = agents.iter().filter(|agent| suits(agent, tracked)).collect();
        let mut reasons = Vec::new();
        let queue = &tracked.head.queue;
        if self.queues.overview("").iter().any(|known| known.name == *queue && known.flow == "paused") {
            let sentence = format!("queue `{queue}` is paused: nothing is received from it");
            reasons.push(reason("queue_paused", sentence, json!({"queue": queue})));
        }
        let nobody = nobody_fits(now, tracked, &agents);
        let is_anybody = nobody.is_none();
        reasons.extend(nobody);
        reasons.extend(turns.holds(now, tracked).iter().map(|hold| held(now, hold)));
        let taking: Vec<&AgentInfo> =
            suited.into_iter().filter(|agent| !agent.registration.draining && is_heard(now, agent)).collect();
        let running: usize = taking.iter().map(|agent| turns.running_on(&agent.name)).sum();
        if is_anybody && !taking.is_empty() && taking.iter().all(|agent| turns.running_on(&agent.name) > 0) {
            let sentence = format!(
                "every agent that fits is busy: {} with {}",
                count(taking.len(), "agent"),
                count(running, "attempt")
            );
            reasons.push(reason("agents_busy", sentence, json!({"agents": taking.len(), "running": running})));
        }
        reasons.extend(self.behind(tracked, &taking));
        if reasons.is_empty() {
            reasons.push(reason("next", "nothing stands before it: the next worker that asks gets it", json!({})));
        }
        reasons
    }

    /// Who stands before it, among those that the same agents could take.
    fn behind(&self, tracked: &Tracked, taking: &[&AgentInfo]) -> Option<Reason> {
        let place = self.book.shares.place(tracked);
        let competing: Vec<_> = {
            let classes = self.book.classes.read();
            let any = |class| taking.is_empty() || taking.iter().any(|agent| classes.fits(&agent.registration, class));
            classes.all().filter(|class| any(*class)).collect()
        };
        let ahead = self.book.shares.ahead(&place, |class| competing.binary_search(&class).is_ok());
        if ahead.of_higher_priority + ahead.of_its_own == 0 {
            return None;
        }
        let higher = (ahead.of_higher_priority > 0)
            .then(|| format!("{} of higher priority (up to {})", ahead.of_higher_priority, ahead.highest));
        let own =
            (ahead.of_its_own > 0).then(|| format!("{} of its own priority ({})", ahead.of_its_own, place.priority));
        let who: Vec<String> = higher.into_iter().chain(own).collect();
        let sentence =
            format!("behind {} on queue `{}`; shares of projects may change the order", who.join(" and "), place.queue);
        let numbers = json!({
            "higher_priority": ahead.of_higher_priority,
            "highest_priority": ahead.highest,
            "own_priority": ahead.of_its_own,
            "priority": place.priority,
        });
        Some(reason("behind", sentence, numbers))
    }
}

fn is_heard(now: Now, agent: &AgentInfo) -> bool {
    now.wall_ms.saturating_sub(agent.last_seen_at.unix_ms()) <= SILENT_AFTER_MS
}

fn suits(agent: &AgentInfo, tracked: &Tracked) -> bool {
    agent.registration.types.contains(&tracked.spec.kind) && meets(&agent.registration, &tracked.spec.requirements)
}

/// Why no agent would take it, if none would.
fn nobody_fits(now: Now, tracked: &Tracked, agents: &[AgentInfo]) -> Option<Reason> {
    let (kind, requirements) = (&tracked.spec.kind, &tracked.spec.requirements);
    if agents.is_empty() {
        let sentence = "no agent is registered; a plain SQS consumer of its queue may take it";
        return Some(reason("no_agents", sentence, json!({"agents": 0})));
    }
    let of_type: Vec<&AgentInfo> = agents.iter().filter(|agent| agent.registration.types.contains(kind)).collect();
    if of_type.is_empty() {
        let sentence = format!("none of {} runs the type `{kind}`", count(agents.len(), "agent"));
        return Some(reason("no_agent_of_type", sentence, json!({"agents": agents.len(), "type": kind})));
    }
    let suited: Vec<&&AgentInfo> = of_type.iter().filter(|agent| meets(&agent.registration, requirements)).collect();
    if suited.is_empty() {
        return Some(lacking(requirements, kind, &of_type));
    }
    let drained = suited.iter().filter(|agent| agent.registration.draining).count();
    let silent = suited.iter().filter(|agent| !agent.registration.draining && !is_heard(now, agent)).count();
    if drained + silent < suited.len() {
        return None;
    }
    let numbers = json!({"agents": suited.len(), "drained": drained, "silent": silent});
    let code = if drained >= silent { "agents_drained" } else { "agents_silent" };
    let sentence = format!(
        "no agent that fits takes jobs: of {}, {drained} drained and {silent} silent for more than {} s",
        suited.len(),
        SILENT_AFTER_MS / 1_000
    );
    Some(reason(code, sentence, numbers))
}

/// What those that run the type lack: the requirement that none of them meets, or the combination.
fn lacking(requirements: &Requirements, kind: &str, of_type: &[&AgentInfo]) -> Reason {
    let gpus = || of_type.iter().flat_map(|agent| &agent.registration.gpus);
    let agents = of_type.len();
    let none = format!("none of {} that run{} `{kind}`", count(agents, "agent"), if agents == 1 { "s" } else { "" });
    for (name, value) in &requirements.labels {
        if !of_type.iter().any(|agent| agent.registration.labels.get(name) == Some(value)) {
            let numbers = json!({"agents": agents, "label": name, "value": value});
            return reason("no_agent_with_label", format!("{none} has the label {name}={value}"), numbers);
        }
    }
    let alone = |requirements: &Requirements| gpus().any(|gpu| carries(gpu, requirements));
    if let Some(wanted_gb) = requirements.vram_gb
        && !alone(&Requirements { vram_gb: Some(wanted_gb), ..Requirements::default() })
    {
        let best_gb = gpus().map(|gpu| gpu.vram_bytes as f64 / 1e9).fold(0.0, f64::max);
        let best_gb = (best_gb * 10.0).round() / 10.0;
        let sentence = format!("{none} has a GPU with {wanted_gb} GB; the best has {best_gb}");
        return reason(
            "no_agent_with_vram",
            sentence,
            json!({"agents": agents, "wanted_gb": wanted_gb, "best_gb": best_gb}),
        );
    }
    if let Some(arch) = &requirements.arch
        && !alone(&Requirements { arch: Some(arch.clone()), ..Requirements::default() })
    {
        let mut there: Vec<u32> = gpus().filter_map(|gpu| gpu.sm).collect();
        there.sort_unstable();
        there.dedup();
        let list: Vec<String> = there.iter().map(|sm| format!("sm_{sm}")).collect();
        let list = if list.is_empty() { "none".to_owned() } else { list.join(", ") };
        let sentence = format!("{none} has a GPU of {arch}; there is {list}");
        return reason("no_agent_with_arch", sentence, json!({"agents": agents, "wanted": arch, "there": there}));
    }
    let sentence = format!("{none} meets all requirements at once; each of them is met by some");
    reason("no_agent_with_all", sentence, json!({"agents": agents}))
}

fn held(now: Now, hold: &Hold) -> Reason {
    match hold {
        Hold::Limit { scope, name, running, most } => {
            let (code, what) = match scope {
                Scope::Project => ("project_limit", "project"),
                Scope::User => ("user_limit", "user"),
                Scope::Type | Scope::Queue | Scope::Key => ("type_limit", "type"),
            };
            let sentence = format!("{what} `{name}` is at its limit: {running} of {most} run");
            reason(code, sentence, json!({"name": name, "running": running, "running_max": most}))
        }
        Hold::Rate { bucket, at_mono_ms } => {
            let (of, name) = match bucket {
                BucketName::Queue(name) => ("queue", name),
                BucketName::Key(name) => ("key", name),
            };
            let wait_s = at_mono_ms.saturating_sub(now.mono_ms) as f64 / 1_000.0;
            let sentence = format!("the rate of {of} `{name}` is used up; next token in {wait_s:.1} s");
            reason("rate_limit", sentence, json!({"of": of, "name": name, "next_s": wait_s}))
        }
    }
}

fn scheduled(now: Now, tracked: &Tracked) -> Reason {
    let Some(at) = tracked.head.runs_after else {
        return reason("scheduled", "its time has come; it is queued within a second", json!({}));
    };
    let left_s = at.unix_ms().saturating_sub(now.wall_ms) as f64 / 1_000.0;
    let failures = tracked.head.failures;
    let why = if failures > 0 { format!(", to rest after failure {failures}") } else { String::new() };
    let numbers = json!({"runs_after": at, "left_s": left_s, "failures": failures});
    reason("scheduled", format!("scheduled for {at}{why}"), numbers)
}

fn count(n: usize, what: &str) -> String {
    format!("{n} {what}{}", if n == 1 { "" } else { "s" })
}

#[cfg(test)]
mod tests {
    use backlot_wire::{AgentRegistration, GpuInfo, JobSpec, Timestamp};

    use super::*;

    const NOW: Now = Now { mono_ms: 1_000_000, wall_ms: 1_000_000 };

    fn agent(name: &str, types: &[&str], gpu: Option<(u64, u32)>) -> AgentInfo {
        let gpus = gpu.map(|(gb, sm)| GpuInfo { vram_bytes: gb * 1_000_000_000, sm: Some(sm), ..GpuInfo::default() });
        let registration = AgentRegistration {
            types: types.iter().map(|kind| (*kind).to_owned()).collect(),
            gpus: gpus.into_iter().collect(),
            ..AgentRegistration::default()
        };
        AgentInfo { name: name.into(), registration, last_seen_at: Timestamp(NOW.wall_ms), ..AgentInfo::default() }
    }

    fn job(spec: &str) -> Tracked {
        Tracked::sent(NOW, "jobs", "m", "j".into(), JobSpec::parse(spec).unwrap(), 0)
    }

    fn nobody(spec: &str, agents: &[AgentInfo]) -> (&'static str, String) {
        let reason = nobody_fits(NOW, &job(spec), agents);
        reason.map_or(("", String::new()), |reason| (reason.code, reason.sentence))
    }

    #[test]
    fn what_the_agents_lack_is_said_with_the_best_that_there_is() {
        let agents = [
            agent("a", &["x"], Some((16, 86))),
            agent("b", &["x"], Some((12, 90))),
            agent("c", &["y"], Some((80, 90))),
        ];
        assert_eq!(nobody(r#"{"type":"x"}"#, &[]).0, "no_agents");
        assert_eq!(nobody(r#"{"type":"z"}"#, &agents).0, "no_agent_of_type");
        let (code, sentence) = nobody(r#"{"type":"x","requirements":{"vram_gb":24}}"#, &agents);
        assert_eq!(
            (code, sentence.as_str()),
            ("no_agent_with_vram", "none of 2 agents that run `x` has a GPU with 24 GB; the best has 16")
        );
        assert_eq!(nobody(r#"{"type":"x","requirements":{"arch":"sm_100+"}}"#, &agents).0, "no_agent_with_arch");
        assert_eq!(nobody(r#"{"type":"x","requirements":{"labels":{"zone":"b"}}}"#, &agents).0, "no_agent_with_label");
        let both = r#"{"type":"x","requirements":{"vram_gb":14,"arch":"sm_90"}}"#;
        assert_eq!(nobody(both, &agents).0, "no_agent_with_all", "each has one half of it");
        assert_eq!(nobody(r#"{"type":"x","requirements":{"vram_gb":14}}"#, &agents).0, "");
    }

    #[test]
    fn agents_that_take_nothing_are_told_apart() {
        let mut agents = [agent("a", &["x"], None), agent("b", &["x"], None)];
        agents[0].registration.draining = true;
        assert_eq!(nobody(r#"{"type":"x"}"#, &agents).0, "", "the other one takes jobs");
        agents[1].last_seen_at = Timestamp(NOW.wall_ms - SILENT_AFTER_MS - 1);
        assert_eq!(nobody(r#"{"type":"x"}"#, &agents).0, "agents_drained");
        agents[0].registration.draining = false;
        agents[0].last_seen_at = Timestamp(0);
        assert_eq!(nobody(r#"{"type":"x"}"#, &agents).0, "agents_silent");
    }

    #[test]
    fn limits_and_rates_are_said_with_their_numbers() {
        let limit = held(NOW, &Hold::Limit { scope: Scope::User, name: "anna".into(), running: 5, most: 5 });
        assert_eq!((limit.code, limit.sentence.as_str()), ("user_limit", "user `anna` is at its limit: 5 of 5 run"));
        let rate = held(NOW, &Hold::Rate { bucket: BucketName::Key("api".into()), at_mono_ms: NOW.mono_ms + 3_000 });
        assert_eq!((rate.code, rate.numbers["next_s"].as_f64()), ("rate_limit", Some(3.0)));
        let mut resting = job(r#"{"type":"x"}"#);
        resting.head.runs_after = Some(Timestamp(NOW.wall_ms + 60_000));
        resting.head.failures = 2;
        let reason = scheduled(NOW, &resting);
        assert!(reason.sentence.contains("failure 2") && reason.numbers["left_s"] == 60.0, "{reason:?}");
    }
}
