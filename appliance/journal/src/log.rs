//! The state that callers, the writer and the keeper share, and the rules of room.
//!
//! Where a record will stand is decided in [`Shared::submit`], at once and under one lock; the writer only carries out.
//! So that a submit can never fail for want of room, [`Shared::reserve`] lends out no more than surely fits:
//! all permitted bytes fit either into what is left of the current segment or, as a whole, into the next file, which
//! is allocated on disk already.

use std::collections::VecDeque;
use std::fs::File;
use std::io;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use parking_lot::{Condvar, Mutex, MutexGuard};
use tokio::sync::Notify;

use crate::folder::Folder;
use crate::format::{GROUP_HEADER_BYTES, JournalId, RECORD_HEADER_BYTES, SEGMENT_HEADER_BYTES, append_record};
use crate::group::{Done, Group, Supply};
use crate::{Class, JournalError, Lsn, Options, Permit, Stats, Submitted};

/// Records that a permit covers, whatever its size.
const PERMIT_RECORDS: usize = 32;
/// And one more for each of so many bytes.
const BYTES_PER_RECORD: usize = 32;
/// Open files of closed segments.
const OPEN_FILES_MAX: usize = 128;

/// A preallocated file.
pub(crate) enum Prepared {
    /// The keeper is to make it.
    Wanted,
    Ready(Arc<File>, u64),
    /// A submit has laid records into it; the writer will name it.
    Taken(Arc<File>),
    /// An old segment is being made into it.
    Recycled,
    /// Disk or budget are full. Asked for again at the next refusal and after each release.
    Full,
    /// This journal does without.
    Absent,
}

impl Prepared {
    /// Room for groups, in bytes.
    fn capacity(&self) -> u64 {
        match self {
            Self::Ready(_, bytes) => bytes.saturating_sub(SEGMENT_HEADER_BYTES as u64),
            _ => 0,
        }
    }

    /// Whether waiting will tell.
    fn undecided(&self) -> bool {
        matches!(self, Self::Wanted | Self::Taken(_) | Self::Recycled)
    }
}

/// One segment that exists on disk.
pub(crate) struct SegmentFile {
    pub(crate) base: u64,
    pub(crate) end: u64,
    /// Length of the file.
    pub(crate) bytes: u64,
    pub(crate) file: Option<Arc<File>>,
}

/// Where the next record goes; ahead of what has been written.
#[derive(Clone, Copy)]
pub(crate) struct Layout {
    pub(crate) base: u64,
    pub(crate) limit: u64,
    pub(crate) end: u64,
}

impl Layout {
    fn left(&self) -> u64 {
        self.limit.saturating_sub(self.end)
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.end == self.base + SEGMENT_HEADER_BYTES as u64
    }
}

pub(crate) struct State {
    pub(crate) layout: Layout,
    /// Oldest first; never empty; the last one is being written.
    pub(crate) segments: VecDeque<SegmentFile>,
    /// Bases of closed segments whose files are open.
    pub(crate) open_files: VecDeque<u64>,
    pub(crate) pending: VecDeque<Group>,
    /// Submits in `pending`.
    pub(crate) pending_submits: usize,
    /// The writer sleeps until so many submits are pending.
    pub(crate) wake_at: usize,
    /// What the writer is writing.
    pub(crate) in_flight: Option<(u64, Arc<Vec<u8>>)>,
    /// Bytes that permits may still submit.
    pub(crate) permitted: usize,
    /// Bytes that are submitted and not durable.
    pub(crate) pending_bytes: usize,
    pub(crate) spare: Prepared,
    pub(crate) reserve: Prepared,
    /// What collection can always go on in, because nobody else may. On a disk that is full it may be shorter than it should be.
    pub(crate) collect: Prepared,
    /// As long as it has to be before anybody else is given room.
    pub(crate) collect_bytes_min: u64,
    /// The last attempt to allocate a spare found no room.
    pub(crate) full: bool,
    /// Closed segments whose files are longer than they need to be.
    pub(crate) to_trim: Vec<u64>,
    /// Somebody has asked for room. Until then nothing is allocated: at a start on a full disk, what little room there is belongs
    /// to those who still open their files.
    pub(crate) begun: bool,
    pub(crate) roll_wanted: bool,
    pub(crate) closing: bool,
    pub(crate) recycled: Vec<u8>,
    pub(crate) counts: Stats,
}

pub(crate) struct Shared {
    pub(crate) options: Options,
    pub(crate) folder: Folder,
    pub(crate) id: JournalId,
    pub(crate) state: Mutex<State>,
    /// Position up to which everything is durable. Set while `state` is locked.
    pub(crate) durable: AtomicU64,
    pub(crate) writer: Condvar,
    pub(crate) keeper: Condvar,
    /// Room may have appeared.
    room: Notify,
    room_blocking: Condvar,
    /// Held while segments are deleted, so that they go oldest first.
    pub(crate) releasing: Mutex<()>,
}

impl Shared {
    pub(crate) fn new(options: Options, folder: Folder, id: JournalId, state: State) -> Self {
        Self {
            options,
            folder,
            id,
            durable: AtomicU64::new(state.layout.end),
            state: Mutex::new(state),
            writer: Condvar::new(),
            keeper: Condvar::new(),
            room: Notify::new(),
            room_blocking: Condvar::new(),
            releasing: Mutex::new(()),
        }
    }

    pub(crate) async fn reserve(self: &Arc<Self>, bytes: usize, class: Class) -> Result<Permit, JournalError> {
        let cost = permit_cost(bytes);
        if let Some(permit) = self.try_reserve(&mut self.state.lock(), bytes, cost, class)? {
            return Ok(permit);
        }
        loop {
            let changed = self.room.notified();
            tokio::pin!(changed);
            {
                let mut state = self.state.lock();
                if let Some(permit) = self.try_reserve(&mut state, bytes, cost, class)? {
                    return Ok(permit);
                }
                changed.as_mut().enable(); // while the lock is held: no change can be missed
            }
            changed.await;
        }
    }

    pub(crate) fn reserve_blocking(self: &Arc<Self>, bytes: usize, class: Class) -> Result<Permit, JournalError> {
        let cost = permit_cost(bytes);
        let mut state = self.state.lock();
        loop {
            if let Some(permit) = self.try_reserve(&mut state, bytes, cost, class)? {
                return Ok(permit);
            }
            self.room_blocking.wait(&mut state);
        }
    }

    /// `None` when waiting may help.
    fn try_reserve(
        self: &Arc<Self>,
        state: &mut State,
        bytes: usize,
        cost: usize,
        class: Class,
    ) -> Result<Option<Permit>, JournalError> {
        if state.closing {
            return Err(JournalError::Closed);
        }
        if !std::mem::replace(&mut state.begun, true) {
            self.keeper.notify_one();
        }
        if cost > self.options.pending_bytes_max {
            return Err(JournalError::TooLarge {
                bytes,
                max: bytes.saturating_sub(cost - self.options.pending_bytes_max),
            });
        }
        let permitted = state.permitted + cost;
        if permitted + state.pending_bytes > self.options.pending_bytes_max {
            return Ok(None);
        }
        let mut room = state.spare.capacity();
        // Collection has the rest of the current segment for itself until it is sure of another file.
        if class == Class::Collecting || state.may_share_segment() {
            room = room.max(state.layout.left());
        }
        if class != Class::Growing {
            room = room.max(state.reserve.capacity());
        }
        if class == Class::Collecting {
            room = room.max(state.collect.capacity());
        }
        if permitted as u64 <= room {
            state.permitted = permitted;
            return Ok(Some(Permit { shared: Arc::clone(self), cost }));
        }
        if state.spare.undecided()
            || state.collect.undecided()
            || (class != Class::Growing && state.reserve.undecided())
        {
            return Ok(None);
        }
        if cost as u64 <= room {
            return Ok(None); // other permits hold the room and will give it back or fill it
        }
        self.want_files(state); // this caller is refused; a later one may not be
        Err(JournalError::Full)
    }

    /// Has the keeper try again to allocate what could not be allocated before.
    pub(crate) fn want_files(&self, state: &mut State) {
        state.begun = true;
        state.want_files();
        self.keeper.notify_one();
    }

    /// Wakes those who wait for room.
    pub(crate) fn room_changed(&self) {
        self.room.notify_waiters();
        self.room_blocking.notify_all();
    }

    pub(crate) fn give_back(&self, cost: usize) {
        self.state.lock().permitted -= cost;
        self.room_changed();
    }

    pub(crate) fn submit<'a>(&self, cost: usize, records: impl Iterator<Item = [&'a [u8]; 2]> + Clone) -> Submitted {
        let (count, bytes) = records.clone().fold((0, 0), |(count, bytes), [prefix, payload]| {
            (count + 1, bytes + RECORD_HEADER_BYTES + prefix.len() + payload.len())
        });
        debug_assert!(
            GROUP_HEADER_BYTES + bytes <= cost,
            "{count} records of {bytes} bytes exceed their permit of {cost}"
        );
        let mut lsns = Vec::with_capacity(count);
        let mut guard = self.state.lock();
        let state = &mut *guard;
        state.permitted -= cost;
        if state.closing {
            let end = Lsn(state.layout.end);
            lsns.resize(count, end);
            return Submitted { lsns, end, done: Done::refused() };
        }
        // One record may go where the current group ends; else a header comes first.
        let open = state.pending.back().is_some_and(|group| group.base == state.layout.base);
        let needed = (bytes + if open { 0 } else { GROUP_HEADER_BYTES }) as u64;
        let rolls = state.roll_wanted && matches!(state.spare, Prepared::Ready(..)) && !state.layout.is_empty();
        if needed > state.layout.left() || rolls {
            start_segment(state);
        }
        let group = open_group(state);
        let Some(last) = state.pending.back_mut().filter(|last| last.lsn == group) else {
            unreachable!("open_group has put it there")
        };
        for parts in records {
            let lsn = state.layout.end;
            append_record(&mut last.body, self.id, lsn, parts);
            state.layout.end += (RECORD_HEADER_BYTES + parts[0].len() + parts[1].len()) as u64;
            lsns.push(Lsn(lsn));
        }
        last.records += count as u64;
        last.submits += 1;
        state.pending_submits += 1;
        let wake = state.pending_submits >= state.wake_at;
        state.pending_bytes += bytes;
        let submitted = Submitted { lsns, end: Lsn(state.layout.end), done: Arc::clone(&last.done) };
        drop(guard);
        if wake {
            self.writer.notify_one();
        }
        submitted
    }

    /// Makes an old segment one of the prepared files, which until then is under way.
    /// An error says that the segment is still there; that its room could not be kept is none.
    pub(crate) fn recycle(&self, base: u64, supply: Supply) -> io::Result<()> {
        let aside = self.folder.set_segment_aside(base);
        let made = aside.as_ref().ok().map(|()| self.folder.recycle(supply.file_name()));
        *self.state.lock().prepared(supply) = match made {
            Some(Ok((file, bytes))) => Prepared::Ready(Arc::new(file), bytes),
            Some(Err(error)) => {
                tracing::warn!(segment = base, %error, "keep the room of an old segment");
                Prepared::Full
            }
            None => Prepared::Full,
        };
        self.room_changed();
        aside
    }

    /// Whether the segment that held `lsn` has gone. Its file may be another by now, for whoever has it open.
    pub(crate) fn is_released(&self, lsn: u64) -> bool {
        self.state.lock().segments.front().is_some_and(|oldest| lsn < oldest.base)
    }

    /// The file of the segment that holds `lsn`, which has been written.
    pub(crate) fn file_of(
        &self,
        state: &mut MutexGuard<'_, State>,
        lsn: u64,
    ) -> Result<(Arc<File>, u64), JournalError> {
        let after = state.segments.partition_point(|segment| segment.base <= lsn);
        let Some(index) = after.checked_sub(1).filter(|&index| lsn < state.segments[index].end) else {
            return Err(JournalError::NoRecord(Lsn(lsn)));
        };
        let base = state.segments[index].base;
        if let Some(file) = &state.segments[index].file {
            return Ok((Arc::clone(file), base));
        }
        let opened = self.folder.open_segment(base, false).map_err(|error| JournalError::Io(Arc::new(error)))?;
        let file = Arc::new(opened);
        state.segments[index].file = Some(Arc::clone(&file));
        state.note_open(base);
        Ok((file, base))
    }
}

impl State {
    pub(crate) fn want_files(&mut self) {
        for prepared in [&mut self.spare, &mut self.reserve] {
            if matches!(prepared, Prepared::Full) {
                *prepared = Prepared::Wanted;
            }
        }
        if self.collect_is_short() {
            self.collect = Prepared::Wanted;
        }
    }

    /// Remembers that the file of a closed segment is open; closes the one that has been open longest when there are too many.
    pub(crate) fn note_open(&mut self, base: u64) {
        self.open_files.push_back(base);
        if self.open_files.len() > OPEN_FILES_MAX
            && let Some(oldest) = self.open_files.pop_front()
            && let Some(segment) = self.segments.iter_mut().find(|segment| segment.base == oldest)
        {
            segment.file = None;
        }
    }

    /// Bytes of all segments.
    pub(crate) fn disk_bytes(&self) -> u64 {
        self.segments.iter().map(|segment| segment.bytes).sum()
    }

    /// Whether collection has less room of its own than it may need.
    pub(crate) fn collect_is_short(&self) -> bool {
        match self.collect {
            Prepared::Ready(_, bytes) => bytes < self.collect_bytes_min,
            Prepared::Full => true,
            Prepared::Wanted | Prepared::Taken(_) | Prepared::Recycled | Prepared::Absent => false,
        }
    }

    pub(crate) fn prepared(&mut self, supply: Supply) -> &mut Prepared {
        match supply {
            Supply::Spare => &mut self.spare,
            Supply::Reserve => &mut self.reserve,
            Supply::Collect => &mut self.collect,
        }
    }

    /// What an old segment of `bytes` should become because the disk has no other room for it. It then counts as wanted no more.
    pub(crate) fn lacking(&mut self, bytes: u64) -> Option<Supply> {
        if !self.full {
            return None;
        }
        let supply = match (&self.collect, &self.reserve) {
            (Prepared::Full, _) => Supply::Collect,
            (Prepared::Ready(_, held), _) if *held < self.collect_bytes_min && *held < bytes => Supply::Collect,
            (Prepared::Ready(..), Prepared::Full) => Supply::Reserve,
            _ => return None,
        };
        *self.prepared(supply) = Prepared::Recycled;
        Some(supply)
    }

    /// Whether others than collection may fill the current segment.
    fn may_share_segment(&self) -> bool {
        match self.collect {
            Prepared::Ready(_, bytes) => bytes >= self.collect_bytes_min,
            Prepared::Absent => true,
            Prepared::Wanted | Prepared::Taken(_) | Prepared::Recycled | Prepared::Full => false,
        }
    }

    /// Whether the writer, being idle, should start a new segment now.
    pub(crate) fn may_roll(&self) -> bool {
        self.roll_wanted && matches!(self.spare, Prepared::Ready(..))
    }
}

/// What a permit for `bytes` takes of the room: with headers, as if it were alone in its group.
fn permit_cost(bytes: usize) -> usize {
    let records = PERMIT_RECORDS + bytes / BYTES_PER_RECORD;
    bytes.saturating_add(GROUP_HEADER_BYTES + records * RECORD_HEADER_BYTES)
}

/// Most bytes for which [`permit_cost`] is no more than `cost`.
pub(crate) fn permit_bytes_max(cost: usize) -> usize {
    let left = cost.saturating_sub(GROUP_HEADER_BYTES + PERMIT_RECORDS * RECORD_HEADER_BYTES);
    left / (BYTES_PER_RECORD + RECORD_HEADER_BYTES) * BYTES_PER_RECORD
}

/// Smallest room in which a record of `bytes` can be permitted.
pub(crate) fn room_for(bytes: usize) -> usize {
    permit_cost(bytes)
}

/// Lays the next group into a new segment.
pub(crate) fn start_segment(state: &mut State) {
    state.roll_wanted = false;
    let base = state.layout.end;
    let permitted = state.permitted as u64;
    let supply = if matches!(state.spare, Prepared::Ready(..)) && permitted <= state.spare.capacity() {
        Supply::Spare
    } else if matches!(state.reserve, Prepared::Ready(..)) && permitted <= state.reserve.capacity() {
        Supply::Reserve
    } else if matches!(state.collect, Prepared::Ready(..)) {
        Supply::Collect
    } else if matches!(state.reserve, Prepared::Ready(..)) {
        Supply::Reserve
    } else {
        return; // only a submit beyond its permit comes here: the segment grows
    };
    let prepared = state.prepared(supply);
    if let Prepared::Ready(file, bytes) = std::mem::replace(prepared, Prepared::Full) {
        *prepared = Prepared::Taken(file);
        state.layout = Layout { base, limit: base + bytes, end: base + SEGMENT_HEADER_BYTES as u64 };
        let mut group = new_group(state);
        group.opens = Some(supply);
        state.pending.push_back(group);
    }
}

/// Position of the group that takes further records, which is the last pending one.
fn open_group(state: &mut State) -> u64 {
    if let Some(last) = state.pending.back()
        && last.base == state.layout.base
    {
        return last.lsn;
    }
    let group = new_group(state);
    let lsn = group.lsn;
    state.pending.push_back(group);
    lsn
}

fn new_group(state: &mut State) -> Group {
    let lsn = state.layout.end;
    state.layout.end += GROUP_HEADER_BYTES as u64;
    state.pending_bytes += GROUP_HEADER_BYTES;
    Group {
        base: state.layout.base,
        lsn,
        opens: None,
        body: std::mem::take(&mut state.recycled),
        records: 0,
        submits: 0,
        done: Arc::default(),
    }
}
