//! Whose turn it is, as the queue asks: the shares and limits behind one lock, kept up with every change of a job.

use std::sync::Arc;

use backlot_journal::Class as Space;
use backlot_wire::{JobSpec, JobStatus};
use parking_lot::{Mutex, RwLock};

use super::classes::Classes;
use super::limits::{ENTRIES_MAX, Limits, Scope, Setting};
use super::model::Tracked;
use super::shares::{Ahead, Hold, Owner, Place, Shares, Stand};
use super::{Jobs, JobsError, settings};
use crate::catalogue::{Catalogue, CatalogueError};
use crate::clock::{Clock, Now};
use crate::queue::{Class, Tenant, Turn};

/// Where limits stand among the settings.
const PREFIX: &str = "limit/";

pub(super) struct Turns {
    shares: Mutex<Shares>,
    classes: Arc<RwLock<Classes>>,
    clock: Arc<dyn Clock>,
    /// One change of the limits at a time, so that memory has them in the journal's order.
    setting: tokio::sync::Mutex<()>,
}

impl Turns {
    /// `lines` are those of the configuration, which has been checked.
    pub(super) fn new(lines: &[String], classes: Arc<RwLock<Classes>>, clock: Arc<dyn Clock>) -> Self {
        let limits = Limits::configured(lines).unwrap_or_else(|problem| {
            tracing::error!(problem, "jobs.limits is not understood; no limits hold");
            Limits::default()
        });
        Self { shares: Mutex::new(Shares::new(limits)), classes, clock, setting: tokio::sync::Mutex::new(()) }
    }

    /// Takes the limits that were set in earlier runs.
    pub(super) fn load(&self, catalogue: &Catalogue) -> Result<(), CatalogueError> {
        let mut shares = self.shares.lock();
        for (key, setting) in settings::load::<Setting>(catalogue, PREFIX)? {
            if let Some((scope, name)) =
                key.split_once('/').and_then(|(scope, name)| Some((Scope::parse(scope)?, name)))
            {
                shares.limits_mut().set(scope, name, Some(setting));
            }
        }
        Ok(())
    }

    pub(super) fn tenant(&self, spec: &JobSpec) -> Tenant {
        self.shares.lock().tenant(&owner(spec))
    }

    pub(super) fn turn(&self, now: Now, queue: &str, tenant: Tenant) -> Turn {
        self.shares.lock().turn(now.mono_ms, queue, tenant)
    }

    /// A job has changed, or, without a `before`, has come into memory.
    pub(super) fn moved(&self, before: Option<&Tracked>, after: &Tracked) {
        if before.is_some_and(|before| stands_alike(before, after)) {
            return;
        }
        let stood = before.map_or(Stand::Aside, |before| self.stand(before));
        let stands = self.stand(after);
        let (was, is) = (before.map(|before| owner(&before.spec)), owner(&after.spec));
        let changed_hands = was.as_ref().is_some_and(|was| *was != is);
        if stood == stands && !changed_hands {
            return;
        }
        let now_mono_ms = self.clock.now().mono_ms;
        let (head, fresh) = (&after.head, before.is_some());
        let mut shares = self.shares.lock();
        let mut moved = |owner: &Owner, from: &Stand, to: &Stand| {
            shares.moved(now_mono_ms, &head.id, owner, &head.queue, (from, to), fresh);
        };
        match was.filter(|_| changed_hands) {
            // A retry may put a job into another project.
            Some(was) => {
                moved(&was, &stood, &Stand::Aside);
                moved(&is, &Stand::Aside, &stands);
            }
            None => moved(&is, &stood, &stands),
        }
    }

    fn stand(&self, tracked: &Tracked) -> Stand {
        match (tracked.head.status, tracked.live()) {
            (JobStatus::Queued, _) => Stand::InLine(self.place(tracked)),
            (_, Some(live)) => Stand::Running { attempt: live.number, agent: live.agent.clone() },
            (_, None) => Stand::Aside,
        }
    }

    /// Where a job stands in line.
    pub(super) fn place(&self, tracked: &Tracked) -> Place {
        Place {
            queue: tracked.head.queue.clone(),
            priority: tracked.spec.priority,
            class: self.classes.write().of(&tracked.spec).unwrap_or_default(),
            since_ms: tracked.head.waiting_since.unix_ms(),
        }
    }

    /// What keeps a job from beginning now, by limits and rates.
    pub(super) fn holds(&self, now: Now, tracked: &Tracked) -> Vec<Hold> {
        self.shares.lock().holds(now.mono_ms, &tracked.head.queue, &owner(&tracked.spec))
    }

    pub(super) fn ahead(&self, place: &Place, competes: impl Fn(Class) -> bool) -> Ahead {
        self.shares.lock().ahead(place, competes)
    }

    pub(super) fn running_on(&self, agent: &str) -> usize {
        self.shares.lock().running_on(agent)
    }

    /// Owners and keys that were counted with others because there were too many.
    pub(super) fn folded(&self) -> u64 {
        self.shares.lock().folded()
    }

    /// Looks at shares and limits, under their lock.
    pub(super) fn look<T>(&self, look: impl FnOnce(&Shares) -> T) -> T {
        look(&self.shares.lock())
    }
}

/// Whether a change is none of where a job stands, seen cheaply: progress is told every few seconds.
fn stands_alike(before: &Tracked, after: &Tracked) -> bool {
    let live = |tracked: &Tracked| tracked.live().map(|attempt| attempt.number);
    before.head.status == after.head.status
        && live(before) == live(after)
        && before.head.waiting_since == after.head.waiting_since
        && before.head.queue == after.head.queue
        && Arc::ptr_eq(&before.spec, &after.spec)
}

fn owner(spec: &JobSpec) -> Owner {
    Owner {
        project: spec.project_id.clone().unwrap_or_default(),
        user: spec.user_id.clone().unwrap_or_default(),
        kind: spec.kind.clone(),
        rate_key: spec.rate.as_ref().map(|rate| rate.key.clone()),
    }
}

impl Jobs {
    /// Sets what holds for `name`, or with `None` takes away what was set, so that the configuration holds again.
    ///
    /// # Errors
    /// [`JobsError::Invalid`] says what is out of bounds; [`JobsError::NoSuchLimit`]: nothing was set for the name.
    pub async fn limit(&self, scope: Scope, name: &str, setting: Option<Setting>) -> Result<(), JobsError> {
        let turns = &self.book.shares;
        let _one = turns.setting.lock().await;
        let is_set = turns.look(|shares| shares.limits().is_set(scope, name));
        match &setting {
            Some(setting) => setting.check(scope, name).map_err(JobsError::Invalid)?,
            None if is_set => {}
            None => return Err(JobsError::NoSuchLimit { scope: scope.as_str(), name: name.to_owned() }),
        }
        if !is_set && turns.look(|shares| shares.limits().set_len()) >= ENTRIES_MAX {
            return Err(JobsError::Full(format!("{ENTRIES_MAX} limits are set, which is the most; take some away")));
        }
        let key = format!("{PREFIX}{}/{name}", scope.as_str());
        let record = settings::record(&key, setting.as_ref()).map_err(JobsError::Invalid)?;
        let space = if setting.is_some() { Space::Growing } else { Space::Shrinking };
        let permit = self.book.control.reserve(record.payload.len(), space).await?;
        permit.submit(&[record]).acknowledged().await?;
        turns.shares.lock().limits_mut().set(scope, name, setting);
        self.queues.reconsider(); // somebody may wait for what was held back until now
        Ok(())
    }
}
