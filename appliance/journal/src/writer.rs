//! The one thread that writes: takes what has gathered, writes it, syncs it, wakes those who wait.

use std::fs::File;
use std::io::{self, IoSlice};
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use crate::Synced;
use crate::format::{GROUP_HEADER_BYTES, GroupHeader, SEGMENT_HEADER_BYTES, SegmentHeader};
use crate::group::{Group, Supply};
use crate::log::{Prepared, SegmentFile, Shared, start_segment};

/// Buffers above this are not kept for the next group.
const RECYCLED_BYTES_MAX: usize = 4 * 1024 * 1024;

/// Longest time for which a group waits for those whom the last one woke.
const PATIENCE_MAX: Duration = Duration::from_millis(2);
/// Shorter waits are not worth a sleep.
const PATIENCE_MIN: Duration = Duration::from_micros(20);
/// Part of the difference by which a measured pace moves the known one.
const PACE_WEIGHT: f64 = 0.125;
/// What remains of the known pace from one group to the next, so that it is measured again now and then.
const PACE_KEPT: f64 = 0.999;

/// What the last groups tell about the next: callers come in a circle, each with its next record once the last is durable.
///
/// A group that waits for all of them saves a sync and the wake that goes with it, much of which is the same for every size; it
/// costs the time in which they come, while the disk rests. So callers who come within the time of a sync are awaited. Where they are
/// slower, those who are there go at once, and the others come while these are being synced.
#[derive(Default)]
struct Circle {
    /// Submits of those who waited during the last sync and of those whom it woke.
    submits: usize,
    /// How long the last sync took.
    sync: Duration,
    /// Seconds from one submit to the next while the disk rests.
    pace_s: f64,
}

impl Circle {
    /// How many submits the next group waits for, and how long at most.
    fn awaited(&self) -> (usize, Duration) {
        let patience = self.sync.min(PATIENCE_MAX);
        let comes_s = self.pace_s * self.submits as f64;
        match self.submits {
            2.. if patience >= PATIENCE_MIN && comes_s <= patience.as_secs_f64() => (self.submits, patience),
            _ => (0, Duration::ZERO),
        }
    }

    /// While the disk rested for `waited`, so many submits came.
    fn came(&mut self, submits: usize, waited: Duration) {
        let pace_s = waited.as_secs_f64() / submits.max(1) as f64;
        self.pace_s += (pace_s - self.pace_s) * PACE_WEIGHT;
    }
}

/// Writes until the journal closes or a write fails.
pub(crate) fn run(shared: &Shared, mut file: Arc<File>) {
    let mut circle = Circle::default();
    while let Some((group, body, durable)) = next_group(shared, &mut circle) {
        if let Err(error) = write(shared, &mut file, group, body, durable, &mut circle) {
            (shared.options.on_fatal)(&error);
            break; // only a test's `on_fatal` returns
        }
    }
    // Whoever still waits will not be served.
    let mut state = shared.state.lock();
    state.closing = true;
    let left: Vec<Group> = state.pending.drain(..).collect();
    state.in_flight = None;
    drop(state);
    left.iter().for_each(|group| group.done.finish(false));
    shared.room_changed();
    shared.keeper.notify_all();
}

/// Waits for records: the group, its body, and what is durable before it. `None` when the journal closes and all is written.
#[allow(clippy::disallowed_methods, reason = "measures its callers; what is written does not depend on it")]
fn next_group(shared: &Shared, circle: &mut Circle) -> Option<(Group, Arc<Vec<u8>>, u64)> {
    let (mut awaited, patience) = circle.awaited();
    circle.pace_s *= PACE_KEPT;
    let mut state = shared.state.lock();
    loop {
        if state.pending.is_empty() && state.may_roll() {
            start_segment(&mut state);
        }
        let gathers = state.pending_submits < awaited;
        if state.pending.is_empty() {
            if state.closing {
                return None;
            }
            shared.writer.wait(&mut state);
        } else if gathers && !state.closing && state.pending.len() == 1 {
            let (before, began) = (state.pending_submits, std::time::Instant::now());
            state.wake_at = awaited;
            shared.writer.wait_for(&mut state, patience);
            state.wake_at = 1;
            circle.came(state.pending_submits - before, began.elapsed());
            awaited = 0;
        } else {
            let mut group = state.pending.pop_front()?;
            state.pending_submits -= group.submits;
            // In the same breath, so that a reader finds its records at every moment.
            let body = Arc::new(std::mem::take(&mut group.body));
            state.in_flight = Some((group.lsn, Arc::clone(&body)));
            return Some((group, body, shared.durable.load(Ordering::Acquire)));
        }
    }
}

fn write(
    shared: &Shared,
    file: &mut Arc<File>,
    group: Group,
    body: Arc<Vec<u8>>,
    durable: u64,
    circle: &mut Circle,
) -> io::Result<()> {
    let Group { base, lsn, opens, records, submits, done, body: _ } = group;
    let written = (|| {
        if let Some(supply) = opens {
            *file = open_segment(shared, supply, base)?;
        }
        let header = GroupHeader {
            base,
            lsn,
            durable,
            body_bytes: body.len() as u32, // `reserve` has bounded it
            body_checksum: crc32c::crc32c(&body),
        };
        write_group(file, &header.encode(shared.id), &body, lsn - base)?;
        #[allow(clippy::disallowed_methods, reason = "measures the disk; no decision depends on it")]
        let began = std::time::Instant::now();
        file.sync_data()?;
        Ok(began.elapsed())
    })();
    let took = match written {
        Ok(took) => took,
        Err(error) => {
            shared.state.lock().closing = true;
            done.finish(false);
            return Err(error);
        }
    };
    let bytes = GROUP_HEADER_BYTES + body.len();
    {
        let mut state = shared.state.lock();
        let end = lsn + bytes as u64;
        shared.durable.store(end, Ordering::Release);
        state.in_flight = None;
        state.pending_bytes -= bytes;
        if let Some(segment) = state.segments.back_mut() {
            segment.end = end;
            segment.bytes = segment.bytes.max(end - base);
        }
        state.counts.records += records;
        state.counts.groups += 1;
        state.counts.written_bytes += bytes as u64;
        if let Ok(mut buffer) = Arc::try_unwrap(body)
            && buffer.capacity() <= RECYCLED_BYTES_MAX
        {
            buffer.clear();
            state.recycled = buffer;
        }
        circle.submits = submits + state.pending_submits;
        circle.sync = took;
    }
    done.finish(true);
    shared.room_changed();
    if let Some(on_sync) = &shared.options.on_sync {
        on_sync(Synced { took, records, bytes: bytes as u64 });
    }
    Ok(())
}

/// Makes a prepared file the segment at `base`. All groups before it are durable.
fn open_segment(shared: &Shared, supply: Supply, base: u64) -> io::Result<Arc<File>> {
    let name = supply.file_name();
    let file = match shared.state.lock().prepared(supply) {
        Prepared::Taken(file) => Arc::clone(file),
        _ => return Err(io::Error::other("the file of the next segment was not prepared")),
    };
    file.write_all_at(&SegmentHeader { id: shared.id, base }.encode(), 0)?;
    file.sync_data()?;
    shared.folder.name_segment(name, base)?;
    let bytes = file.metadata()?.len();
    let mut state = shared.state.lock();
    *state.prepared(supply) = Prepared::Wanted;
    if let Some(closed) = state.segments.back_mut() {
        let closed = closed.base;
        state.to_trim.push(closed);
        state.note_open(closed);
    }
    let end = base + SEGMENT_HEADER_BYTES as u64;
    state.segments.push_back(SegmentFile { base, end, bytes, file: Some(Arc::clone(&file)) });
    shared.keeper.notify_one();
    Ok(file)
}

fn write_group(file: &File, header: &[u8], body: &[u8], offset: u64) -> io::Result<()> {
    let written = loop {
        match rustix::io::pwritev(file, &[IoSlice::new(header), IoSlice::new(body)], offset) {
            Err(rustix::io::Errno::INTR) => {}
            Err(errno) => return Err(errno.into()),
            Ok(written) => break written,
        }
    };
    // A short write is finished piece by piece.
    if written < header.len() {
        file.write_all_at(&header[written..], offset + written as u64)?;
    }
    let from = written.saturating_sub(header.len());
    file.write_all_at(&body[from..], offset + (header.len() + from) as u64)
}
