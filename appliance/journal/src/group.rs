//! A group on its way to the disk, and those who wait for it.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use parking_lot::{Condvar, Mutex};

use crate::folder;

/// A preallocated file that becomes a segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Supply {
    Spare,
    Reserve,
    Collect,
}

impl Supply {
    pub(crate) fn file_name(self) -> &'static str {
        match self {
            Self::Spare => folder::SPARE,
            Self::Reserve => folder::RESERVE,
            Self::Collect => folder::COLLECT,
        }
    }
}

/// Records that will be made durable by one sync.
pub(crate) struct Group {
    /// Base of its segment.
    pub(crate) base: u64,
    /// Position of its header.
    pub(crate) lsn: u64,
    /// The group is the first of its segment, which is made of this.
    pub(crate) opens: Option<Supply>,
    pub(crate) body: Vec<u8>,
    pub(crate) records: u64,
    /// How many submits it gathered.
    pub(crate) submits: usize,
    pub(crate) done: Arc<Done>,
}

/// The end of one group: one allocation for all who wait for it, and one wake for each of them.
#[derive(Default)]
pub(crate) struct Done {
    state: Mutex<State>,
    finished: Condvar,
}

#[derive(Default)]
struct State {
    /// Whether the group became durable.
    outcome: Option<bool>,
    wakers: Vec<Waker>,
}

impl Done {
    /// A group that will never be durable.
    pub(crate) fn refused() -> Arc<Self> {
        let done = Self::default();
        done.finish(false);
        Arc::new(done)
    }

    pub(crate) fn finish(&self, durable: bool) {
        let mut state = self.state.lock();
        state.outcome = Some(durable);
        let wakers = std::mem::take(&mut state.wakers);
        drop(state);
        self.finished.notify_all();
        wakers.into_iter().for_each(Waker::wake);
    }

    pub(crate) fn wait_blocking(&self) -> bool {
        let mut state = self.state.lock();
        loop {
            match state.outcome {
                Some(durable) => return durable,
                None => self.finished.wait(&mut state),
            }
        }
    }

    pub(crate) fn wait(&self) -> Wait<'_> {
        Wait { done: self, slot: None }
    }
}

/// Resolves with whether the group became durable.
pub(crate) struct Wait<'a> {
    done: &'a Done,
    /// Where its waker stands; it stays there until the group is finished, even when this is dropped.
    slot: Option<usize>,
}

impl Future for Wait<'_> {
    type Output = bool;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<bool> {
        let done = self.done;
        let mut state = done.state.lock();
        if let Some(durable) = state.outcome {
            return Poll::Ready(durable);
        }
        match self.slot {
            Some(slot) => state.wakers[slot].clone_from(context.waker()),
            None => {
                self.slot = Some(state.wakers.len());
                state.wakers.push(context.waker().clone());
            }
        }
        Poll::Pending
    }
}
