//! The start: brings the catalogue up to the journal and hands each follower its records.

use std::sync::Arc;

use backlot_journal::{JournalError, Lsn, Opened};

use super::committer::apply;
use super::{Control, ControlError, Follower, Kind, Route, Routes, StartError};
use crate::clock::Now;

/// What must happen between [`Control::open`] and the first request.
#[must_use = "nothing may be submitted before the replay has run"]
pub struct Replay {
    pub(super) control: Control,
    pub(super) opened: Opened,
}

/// What a start found.
#[derive(Clone, Debug)]
pub struct Replayed {
    pub journal: Opened,
    pub records: u64,
    /// Records that the catalogue had not applied.
    pub applied: u64,
}

impl Replay {
    /// Hands all records to `followers`, oldest first; those that the catalogue lacks are applied to it before. Then starts the
    /// committer. Blocks for as long as it takes to read the journal.
    ///
    /// # Errors
    /// [`StartError::Replay`] with the first record that nobody takes or that its follower does not understand.
    pub fn run(self, followers: &[Arc<dyn Follower>], now: Now) -> Result<Replayed, StartError> {
        let Self { control, opened } = self;
        let routes = Routes::of_followers(followers)?;
        let mut replayed = Replayed { journal: opened, records: 0, applied: 0 };
        let catalogue = control.catalogue();
        let behind_from = catalogue.applied();
        let mut failed = None;
        control
            .journal()
            .scan(Lsn(0), &mut |lsn, record| {
                replayed.records += 1;
                let behind = lsn >= behind_from;
                let done = one(&control, &routes, lsn, record, behind);
                replayed.applied += u64::from(behind);
                failed = done.err();
                failed.is_none()
            })
            .map_err(ControlError::from)?;
        if let Some(error) = failed {
            return Err(error.into());
        }
        let projected = std::array::from_fn(|kind| routes.by_kind[kind].as_ref().is_some_and(|route| route.projects));
        let routes = Arc::new(routes);
        let _ = control.shared.projected.set(projected); // `run` takes the replay, so this is the first time
        *control.shared.routes.lock() = Some(Arc::clone(&routes));
        control.shared.committer.start(catalogue.clone(), routes).map_err(StartError::Thread)?;
        for follower in followers {
            follower.replayed(now);
        }
        Ok(replayed)
    }
}

fn one(control: &Control, routes: &Routes, lsn: Lsn, record: &[u8], behind: bool) -> Result<(), ControlError> {
    let Some((&byte, payload)) = record.split_first() else {
        return Err(JournalError::Damaged(lsn).into());
    };
    let problem = |problem: String| ControlError::Record { lsn, kind: byte, problem };
    let found = Kind::of(byte).and_then(|kind| Some((kind, routes.of(kind)?)));
    let Some((kind, route)) = found else {
        return Err(problem("no part of this program takes records of this kind; a later version wrote it".into()));
    };
    if behind {
        apply(control.catalogue(), routes, kind, lsn, payload)?;
    }
    route.follower.replay(kind, lsn, payload).map_err(problem)
}

impl Routes {
    fn of_followers(followers: &[Arc<dyn Follower>]) -> Result<Self, StartError> {
        let mut routes = Self { followers: followers.to_vec(), ..Self::default() };
        for follower in followers {
            for &kind in follower.kinds() {
                let route = Route { follower: Arc::clone(follower), projects: follower.projects(kind) };
                if routes.by_kind[kind as usize].replace(route).is_some() {
                    return Err(StartError::TwoFollowers(kind));
                }
            }
        }
        Ok(routes)
    }
}
