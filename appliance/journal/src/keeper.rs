//! The thread beside the writer: keeps the next segment and the reserve allocated, and trims closed segments,
//! so that no group waits for any of it.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use crate::folder;
use crate::log::{Prepared, Shared, State};

/// What collection makes do with, in sixteenths of its file: a segment that went frees a little less than a segment.
const SHORTER: [u64; 5] = [16, 15, 14, 12, 8];

/// Somebody else may have made room on the disk; nobody tells.
const RETRY: Duration = Duration::from_secs(2);

enum Task {
    Trim(u64),
    Collect,
    Reserve,
    Spare,
}

/// Works until the journal closes.
pub(crate) fn run(shared: &Shared) {
    loop {
        let task = {
            let mut state = shared.state.lock();
            loop {
                if state.closing {
                    return;
                }
                if !state.begun {
                    shared.keeper.wait(&mut state);
                    continue;
                }
                if let Some(task) = next(shared, &mut state) {
                    break task;
                }
                let lacks = [&state.spare, &state.reserve].iter().any(|file| matches!(file, Prepared::Full));
                if lacks || state.collect_is_short() {
                    if shared.keeper.wait_for(&mut state, RETRY).timed_out() {
                        state.want_files();
                    }
                } else {
                    shared.keeper.wait(&mut state);
                }
            }
        };
        match task {
            Task::Trim(base) => trim(shared, base),
            Task::Collect => {
                let full = shared.options.collect_bytes();
                let made = prepare(shared, folder::COLLECT, &SHORTER.map(|sixteenths| full / 16 * sixteenths));
                let mut state = shared.state.lock();
                state.collect = made;
                settled(shared, &mut state);
            }
            Task::Reserve => {
                let made = prepare(shared, folder::RESERVE, &[shared.options.reserve_bytes]);
                let mut state = shared.state.lock();
                state.reserve = made;
                settled(shared, &mut state);
            }
            Task::Spare => {
                let made = prepare(shared, folder::SPARE, &[shared.options.segment_bytes]);
                let mut state = shared.state.lock();
                state.full = matches!(made, Prepared::Full);
                state.spare = made;
                settled(shared, &mut state);
            }
        }
    }
}

fn settled(shared: &Shared, state: &mut State) {
    if state.may_roll() {
        shared.writer.notify_one();
    }
    shared.room_changed();
}

/// Collection before the reserve, and the reserve before the spare: whoever frees room must not starve behind those who fill it.
fn next(shared: &Shared, state: &mut State) -> Option<Task> {
    // On a full disk the rest of a closed segment would be lost to others.
    if !state.full
        && let Some(base) = state.to_trim.pop()
    {
        return Some(Task::Trim(base));
    }
    let (used, max) = (state.disk_bytes(), shared.options.disk_bytes_max);
    // Whatever the budget: this is what brings the journal back under it.
    if matches!(state.collect, Prepared::Wanted) {
        return Some(Task::Collect);
    }
    // Until collection has its file, and all of it, nobody is given another.
    let collects = !state.collect_is_short();
    if matches!(state.reserve, Prepared::Wanted) {
        if collects && shared.options.reserve_bytes > 0 && used <= max {
            return Some(Task::Reserve);
        }
        state.reserve = Prepared::Full;
        settled(shared, state);
    }
    if matches!(state.spare, Prepared::Wanted) {
        if collects && used.saturating_add(shared.options.segment_bytes) <= max {
            return Some(Task::Spare);
        }
        state.full = true;
        state.spare = Prepared::Full;
        settled(shared, state);
    }
    None
}

/// The first of `sizes` for which there is room.
fn prepare(shared: &Shared, name: &'static str, sizes: &[u64]) -> Prepared {
    match shared.folder.prepare(name, sizes) {
        Ok((file, bytes)) => Prepared::Ready(Arc::new(file), bytes),
        Err(error) => {
            let full = matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded);
            if !full {
                tracing::warn!(file = name, %error, "allocate a file of the journal");
            }
            Prepared::Full
        }
    }
}

/// Gives back what a closed segment did not use.
fn trim(shared: &Shared, base: u64) {
    let Some(bytes) = closed_bytes(shared, base) else { return };
    let trimmed = shared.folder.open_segment(base, true).and_then(|file| file.set_len(bytes));
    match trimmed {
        Ok(()) => {
            let mut state = shared.state.lock();
            if let Some(segment) = state.segments.iter_mut().find(|segment| segment.base == base) {
                segment.bytes = bytes;
            }
        }
        // The segment may have been released meanwhile.
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => tracing::warn!(segment = base, %error, "trim a closed segment"),
    }
}

fn closed_bytes(shared: &Shared, base: u64) -> Option<u64> {
    let state = shared.state.lock();
    state.segments.iter().find(|segment| segment.base == base).map(|segment| segment.end - base)
}
