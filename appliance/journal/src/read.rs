//! Reading back: one record by its position, or all from a position on.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use crate::format::{GROUP_HEADER_BYTES, RECORD_HEADER_BYTES, RecordHeader, SegmentHeader, records};
use crate::log::{Shared, State};
use crate::segment::{ReadAt, Step, Walker};
use crate::{JournalError, Lsn};

/// Read at once for a record of unknown length.
const FIRST_READ_BYTES: usize = 4 * 1024;

fn io(error: std::io::Error) -> JournalError {
    JournalError::Io(Arc::new(error))
}

/// Reads one record, from memory or from its file.
pub(crate) fn record(shared: &Shared, lsn: Lsn) -> Result<Vec<u8>, JournalError> {
    match find(shared, lsn) {
        Err(JournalError::Damaged(_)) if shared.is_released(lsn.0) => Err(JournalError::NoRecord(lsn)),
        found => found,
    }
}

fn find(shared: &Shared, lsn: Lsn) -> Result<Vec<u8>, JournalError> {
    let (file, base) = {
        let mut state = shared.state.lock();
        if let Some(found) = in_memory(shared, &state, lsn) {
            return found;
        }
        shared.file_of(&mut state, lsn.0)?
    };
    let mut bytes = vec![0; FIRST_READ_BYTES];
    let offset = lsn.0 - base;
    let filled = file.as_ref().read_at(&mut bytes, offset).map_err(io)?;
    bytes.truncate(filled);
    let header = RecordHeader::decode(&bytes).ok_or(JournalError::Damaged(lsn))?;
    let length = header.length as usize;
    if length > shared.options.segment_bytes as usize {
        return Err(JournalError::Damaged(lsn));
    }
    let wanted = RECORD_HEADER_BYTES + length;
    if filled < wanted {
        bytes.resize(wanted, 0);
        let rest = file.as_ref().read_at(&mut bytes[filled..], offset + filled as u64).map_err(io)?;
        bytes.truncate(filled + rest);
    }
    bytes.truncate(wanted);
    bytes.drain(..RECORD_HEADER_BYTES);
    if header.verifies(shared.id, lsn.0, &bytes) { Ok(bytes) } else { Err(JournalError::Damaged(lsn)) }
}

/// The record at `lsn` if it is not yet in its file.
fn in_memory(shared: &Shared, state: &State, lsn: Lsn) -> Option<Result<Vec<u8>, JournalError>> {
    let flying = state.in_flight.as_ref().map(|(from, body)| (*from, body.as_slice()));
    let waiting = state.pending.iter().map(|group| (group.lsn, group.body.as_slice()));
    let (from, body) = flying.into_iter().chain(waiting).take_while(|&(from, _)| from <= lsn.0).last()?;
    let found = || {
        let at = lsn.0.checked_sub(from + GROUP_HEADER_BYTES as u64)? as usize;
        let header = RecordHeader::decode(body.get(at..)?)?;
        let payload = body.get(at + RECORD_HEADER_BYTES..)?.get(..header.length as usize)?;
        header.verifies(shared.id, lsn.0, payload).then(|| payload.to_vec())
    };
    Some(found().ok_or(JournalError::NoRecord(lsn)))
}

/// Visits each durable record from `from` on. See [`crate::Journal::scan`].
pub(crate) fn scan(shared: &Shared, from: Lsn, visit: &mut dyn FnMut(Lsn, &[u8]) -> bool) -> Result<Lsn, JournalError> {
    let durable = shared.durable.load(Ordering::Acquire);
    let mut position = from.0;
    'segments: while position < durable {
        let (file, base, end) = {
            let mut state = shared.state.lock();
            let Some(segment) = state.segments.iter().find(|segment| position < segment.end) else { break };
            let (base, end) = (segment.base, segment.end.min(durable));
            if end <= position {
                break;
            }
            let (file, _) = shared.file_of(&mut state, base)?;
            (file, base, end)
        };
        let mut walker = Walker::new(file.as_ref(), SegmentHeader { id: shared.id, base });
        walker.stand_at(position).map_err(io)?;
        while walker.position() < end {
            let at = Lsn(walker.position());
            let Ok(header) = walker.peek().map_err(io)? else {
                if shared.is_released(base) {
                    continue 'segments; // as if it had gone before
                }
                return Err(JournalError::Damaged(at));
            };
            if header.end() <= position {
                walker.skip(&header);
                continue;
            }
            let Step::Group(group, body) = walker.step().map_err(io)? else {
                if shared.is_released(base) {
                    continue 'segments;
                }
                return Err(JournalError::Damaged(at));
            };
            for (lsn, payload) in records(body, group.lsn + GROUP_HEADER_BYTES as u64) {
                if lsn < position {
                    continue;
                }
                if !visit(Lsn(lsn), payload) {
                    return Ok(Lsn(lsn + (RECORD_HEADER_BYTES + payload.len()) as u64));
                }
            }
            position = group.end();
        }
        position = position.max(end);
    }
    Ok(Lsn(position.max(from.0)))
}
