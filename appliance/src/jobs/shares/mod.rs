//! Whose turn it is: fairness between projects, limits of running jobs, rates. Pure; the time is handed in.
//!
//! **Shares.** Each project has a *reckoning*: the time that its attempts have taken, divided by its share. Of those that may run, the one
//! with the smallest reckoning is next. An attempt is reckoned when it begins, by what attempts of its type take as a rule, and set right
//! when it ends, so that many that begin at once are shared out as well. A project that comes back after a rest begins where the others are: nobody saves up
//! turns by waiting. One that had to wait (for its limit, or for an agent that fits) may be owed a bounded time.
//!
//! **Limits** of running jobs hold per project, user and type; an attempt counts from its receive to its end, over a restart too.
//! **Rates** of starts hold per queue and per key.
//!
//! Invariants: an entry of the limits is never passed by a receive (one that is lowered takes nothing away from those that run);
//! a project that waits and may run is reached, however small its share.
//!
//! Absent on purpose: reckonings are not kept over a restart. All begin level then.

mod bucket;
mod line;
#[cfg(test)]
mod tests;

use std::collections::HashMap;

use self::bucket::Buckets;
pub(super) use self::bucket::Name as BucketName;
use self::line::Lines;
pub(super) use self::line::{Ahead, Place};
use super::limits::{Limits, Scope};
use crate::queue::{Tenant, Turn};

/// Most tenants of one run of the process. Further ones are those of their project and type.
pub(super) const TENANTS_MAX: usize = 65_536;
/// Of these, so many are kept for tenants that stand for a project and a type alone.
const TENANTS_FOLDED: usize = 8_192;
/// What an attempt is taken to last before one of its type has ended.
const ATTEMPT_MS_DEFAULT: u64 = 60_000;
/// Most types whose attempts are timed; others are taken to last as long as the default.
const TYPES_MAX: usize = 1_024;
/// A project is owed at most the time of so long an attempt, at a share of 1.
const OWED_MS_MAX: u64 = 600_000;
/// Past so many projects, those that rest are forgotten.
const PROJECTS_SWEEP: usize = 10_000;
/// A reckoning is in millionths of a millisecond at a share of 1.
const RECKONED: u64 = 1_000_000;

/// Whose job it is, as far as shares and limits go. Empty: nobody's.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(super) struct Owner {
    pub project: String,
    pub user: String,
    pub kind: String,
    pub rate_key: Option<String>,
}

/// Where a job stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Stand {
    /// Neither in line nor running.
    Aside,
    InLine(Place),
    /// With the number of the attempt and the agent that has it.
    Running {
        attempt: u32,
        agent: Option<String>,
    },
}

#[derive(Clone, Debug, Default)]
struct Project {
    waiting: usize,
    running: usize,
    reckoning: u64,
}

/// An attempt that runs.
#[derive(Clone, Debug)]
struct Charge {
    owner: Owner,
    agent: Option<String>,
    began_mono_ms: u64,
    reckoned_ms: u64,
}

/// Why a job may not begin, each with its numbers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Hold {
    Limit { scope: Scope, name: String, running: usize, most: usize },
    Rate { bucket: BucketName, at_mono_ms: u64 },
}

#[derive(Debug, Default)]
pub(super) struct Shares {
    limits: Limits,
    tenants: HashMap<Owner, Tenant>,
    /// That of tenant `n` is at `n - 1`.
    owners: Vec<Owner>,
    folded: u64,
    projects: HashMap<String, Project>,
    users: HashMap<String, usize>,
    kinds: HashMap<String, usize>,
    /// By job.
    running: HashMap<String, Charge>,
    by_agent: HashMap<String, usize>,
    lines: Lines,
    buckets: Buckets,
    /// What an attempt of a type takes as a rule.
    lasts_ms: HashMap<String, u64>,
    /// The reckoning of the project that was served last: where one that comes back begins.
    level: u64,
}

impl Shares {
    pub(super) fn new(limits: Limits) -> Self {
        Self { limits, ..Self::default() }
    }

    pub(super) fn limits(&self) -> &Limits {
        &self.limits
    }

    pub(super) fn limits_mut(&mut self) -> &mut Limits {
        &mut self.limits
    }

    /// The tenant of `owner`. Where there are too many, that of its project and type, whose user and key then are not limited
    /// before they run; and where these are too many, tenant 0, which is nobody.
    pub(super) fn tenant(&mut self, owner: &Owner) -> Tenant {
        if let Some(known) = self.tenants.get(owner) {
            return *known;
        }
        if self.owners.len() < TENANTS_MAX - TENANTS_FOLDED {
            return self.add_tenant(owner.clone());
        }
        self.folded += 1;
        let plain = Owner { project: owner.project.clone(), kind: owner.kind.clone(), ..Owner::default() };
        match self.tenants.get(&plain) {
            Some(known) => *known,
            None if self.owners.len() < TENANTS_MAX => self.add_tenant(plain),
            None => Tenant(0),
        }
    }

    fn add_tenant(&mut self, owner: Owner) -> Tenant {
        self.owners.push(owner.clone());
        let tenant = Tenant(u32::try_from(self.owners.len()).unwrap_or(0)); // bounded far below
        self.tenants.insert(owner, tenant);
        tenant
    }

    /// How often an owner or a key had to be counted with others, because there were too many.
    pub(super) fn folded(&self) -> u64 {
        self.folded + self.buckets.folded
    }

    /// Whether a message of `tenant` on `queue` may be received now, and how soon.
    pub(super) fn turn(&self, now_mono_ms: u64, queue: &str, tenant: Tenant) -> Turn {
        let nobody = Owner::default();
        let index = (tenant.0 as usize).checked_sub(1);
        let owner = index.and_then(|index| self.owners.get(index)).unwrap_or(&nobody);
        if self.limit_reached(owner).is_some() {
            return Turn::AtLimit;
        }
        match self.rate_reached(now_mono_ms, queue, owner) {
            Some((_, at_mono_ms)) => Turn::NotBefore { mono_ms: at_mono_ms },
            None => Turn::May { rank: self.reckoning(&owner.project) },
        }
    }

    fn reckoning(&self, project: &str) -> u64 {
        let least = self.level.saturating_sub(OWED_MS_MAX * RECKONED);
        self.projects.get(project).map_or(self.level, |project| project.reckoning.max(least))
    }

    fn limit_reached<'a>(&self, owner: &'a Owner) -> Option<(Scope, &'a str, usize, usize)> {
        let project = (Scope::Project, owner.project.as_str(), self.projects.get(&owner.project).map(|p| p.running));
        let user = (Scope::User, owner.user.as_str(), self.users.get(&owner.user).copied());
        let kind = (Scope::Type, owner.kind.as_str(), self.kinds.get(&owner.kind).copied());
        let named = [project, user, kind].into_iter().filter(|(_, name, _)| !name.is_empty());
        named.filter_map(|(scope, name, running)| Some((scope, name, running?))).find_map(|(scope, name, running)| {
            let most = self.limits.running_max(scope, name)?;
            (running >= most).then_some((scope, name, running, most))
        })
    }

    /// The bucket that has its next token last, where one of them has none now.
    fn rate_reached(&self, now_mono_ms: u64, queue: &str, owner: &Owner) -> Option<(BucketName, u64)> {
        let next = |(name, rate)| (self.buckets.next_mono_ms(now_mono_ms, &name, rate), name);
        let latest = self.rates(queue, owner).into_iter().flatten().map(next).max()?;
        (latest.0 > now_mono_ms).then_some((latest.1, latest.0))
    }

    fn rates(&self, queue: &str, owner: &Owner) -> [Option<(BucketName, super::limits::Rate)>; 2] {
        let of_queue = self.limits.queue_rate(queue).map(|rate| (BucketName::Queue(queue.to_owned()), rate));
        let of_key = owner.rate_key.as_ref().and_then(|key| {
            let rate = self.limits.key_rate(key)?;
            Some((BucketName::Key(key.clone()), rate))
        });
        [of_queue, of_key]
    }

    /// What keeps a job of `owner` on `queue` from beginning now.
    pub(super) fn holds(&self, now_mono_ms: u64, queue: &str, owner: &Owner) -> Vec<Hold> {
        let limit = self.limit_reached(owner).map(|(scope, name, running, most)| Hold::Limit {
            scope,
            name: name.to_owned(),
            running,
            most,
        });
        let rate = self.rate_reached(now_mono_ms, queue, owner);
        let rate = rate.map(|(bucket, at_mono_ms)| Hold::Rate { bucket, at_mono_ms });
        limit.into_iter().chain(rate).collect()
    }

    /// Who stands before `place`.
    pub(super) fn ahead(&self, place: &Place, competes: impl Fn(crate::queue::Class) -> bool) -> Ahead {
        self.lines.ahead(place, competes)
    }

    /// Attempts that `agent` has under way.
    pub(super) fn running_on(&self, agent: &str) -> usize {
        self.by_agent.get(agent).copied().unwrap_or(0)
    }

    /// How many jobs of a project, user or type run, and of a project how many wait.
    pub(super) fn usage(&self, scope: Scope, name: &str) -> (usize, Option<usize>) {
        let project = self.projects.get(name);
        match scope {
            Scope::Project => (project.map_or(0, |p| p.running), Some(project.map_or(0, |p| p.waiting))),
            Scope::User => (self.users.get(name).copied().unwrap_or(0), None),
            Scope::Type => (self.kinds.get(name).copied().unwrap_or(0), None),
            Scope::Queue | Scope::Key => (0, None),
        }
    }

    /// Projects with jobs that wait or run, those that have most first.
    pub(super) fn projects(&self, limit: usize) -> Vec<(String, usize, usize)> {
        let busy = self.projects.iter().filter(|(_, project)| project.waiting + project.running > 0);
        let mut busy: Vec<_> = busy.map(|(name, project)| (name.clone(), project.running, project.waiting)).collect();
        busy.sort_by(|a, b| (b.1 + b.2).cmp(&(a.1 + a.2)).then_with(|| a.0.cmp(&b.0)));
        busy.truncate(limit);
        busy
    }

    /// A job of `owner` went from one stand to another. `fresh` is false for one that was found running at a start: it takes
    /// no token again.
    pub(super) fn moved(
        &mut self,
        now_mono_ms: u64,
        id: &str,
        owner: &Owner,
        queue: &str,
        moved: (&Stand, &Stand),
        fresh: bool,
    ) {
        let (before, after) = moved;
        if before == after {
            return;
        }
        if let Stand::InLine(place) = before {
            self.lines.leave(place);
            if let Some(project) = self.projects.get_mut(&owner.project) {
                project.waiting = project.waiting.saturating_sub(1);
            }
        }
        if matches!(before, Stand::Running { .. }) {
            self.release(now_mono_ms, id);
        }
        match after {
            Stand::Aside => {}
            Stand::InLine(place) => {
                self.lines.enter(place);
                self.active(&owner.project).waiting += 1;
            }
            Stand::Running { agent, .. } => self.charge(now_mono_ms, id, owner, queue, agent.as_ref(), fresh),
        }
        if self.projects.len() > PROJECTS_SWEEP {
            let level = self.level;
            self.projects.retain(|_, p| p.waiting + p.running > 0 || p.reckoning > level);
        }
    }

    /// The project, which begins where the others are if it had nothing to do.
    fn active(&mut self, project: &str) -> &mut Project {
        let level = self.level;
        let known = self.projects.entry(project.to_owned()).or_default();
        if known.waiting + known.running == 0 {
            known.reckoning = known.reckoning.max(level);
        }
        known
    }

    fn charge(&mut self, now_mono_ms: u64, id: &str, owner: &Owner, queue: &str, agent: Option<&String>, fresh: bool) {
        if fresh {
            for (name, rate) in self.rates(queue, owner).into_iter().flatten() {
                self.buckets.take(now_mono_ms, &name, rate);
            }
        }
        let reckoned_ms = self.lasts_ms.get(&owner.kind).copied().unwrap_or(ATTEMPT_MS_DEFAULT);
        let reckoned = reckoned(reckoned_ms, self.limits.share(&owner.project));
        let begins = self.reckoning(&owner.project);
        // A job that was received comes out of the line a moment before: its project is no newcomer.
        let project = self.projects.entry(owner.project.clone()).or_default();
        project.reckoning = project.reckoning.max(begins).saturating_add(reckoned);
        project.running += 1;
        self.level = self.level.max(begins);
        *self.users.entry(owner.user.clone()).or_default() += 1;
        *self.kinds.entry(owner.kind.clone()).or_default() += 1;
        if let Some(agent) = agent {
            *self.by_agent.entry(agent.clone()).or_default() += 1;
        }
        let charge = Charge { owner: owner.clone(), agent: agent.cloned(), began_mono_ms: now_mono_ms, reckoned_ms };
        self.running.insert(id.to_owned(), charge);
    }

    fn release(&mut self, now_mono_ms: u64, id: &str) {
        let Some(Charge { owner, agent, began_mono_ms, reckoned_ms }) = self.running.remove(id) else { return };
        let took_ms = now_mono_ms.saturating_sub(began_mono_ms);
        let share = self.limits.share(&owner.project);
        if let Some(project) = self.projects.get_mut(&owner.project) {
            project.running = project.running.saturating_sub(1);
            let spent = project.reckoning.saturating_sub(reckoned(reckoned_ms, share));
            project.reckoning = spent.saturating_add(reckoned(took_ms, share));
        }
        if self.lasts_ms.len() < TYPES_MAX || self.lasts_ms.contains_key(&owner.kind) {
            // An eighth of the news each time: one odd attempt does not change the rule.
            let known = self.lasts_ms.get(&owner.kind).copied();
            let lasts_ms = known.map_or(took_ms, |lasts_ms| (lasts_ms * 7).saturating_add(took_ms) / 8);
            self.lasts_ms.insert(owner.kind.clone(), lasts_ms.clamp(1, 86_400_000));
        }
        let agent = agent.as_ref().map(|name| (&mut self.by_agent, name));
        for (counts, name) in [(&mut self.users, &owner.user), (&mut self.kinds, &owner.kind)].into_iter().chain(agent)
        {
            if let Some(count) = counts.get_mut(name) {
                *count = count.saturating_sub(1);
                if *count == 0 {
                    counts.remove(name);
                }
            }
        }
    }
}

fn reckoned(ms: u64, share: f64) -> u64 {
    // Shares are 0.01 to 1,000, times below a day: far from the ends of both types.
    (ms.clamp(1, 86_400_000) as f64 * RECKONED as f64 / share) as u64
}
