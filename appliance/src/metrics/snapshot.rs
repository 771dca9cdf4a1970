//! The head on disk: so that a restart reads one file and the journal from there on, and the journal's old segments can go.
//!
//! Magic, then the head as it was at one journal position, then a CRC32C of all that. The chunks stand as they are in memory.

use std::io::{self, Write};
use std::path::Path;

use backlot_journal::Lsn;

use super::chunk::samples;
use super::codec::{Malformed, Reader, Writer};
use super::files;
use super::head::{Head, HeadSeries, Sealed};
use super::model::Sample;
use super::record::{read_metadata, write_metadata};

const MAGIC: &[u8; 8] = b"BKMSNP\x00\x01";

/// Why a snapshot is not read. What it held and the journal no longer has is lost; whoever reads says so.
#[derive(Debug, thiserror::Error)]
pub(super) enum SnapshotError {
    #[error("read: {0}")]
    Io(#[from] io::Error),
    #[error("it is damaged: {0}")]
    Damaged(#[from] Malformed),
}

/// The bytes of `head`, into which all records before `lsn` have gone.
pub(super) fn encode(head: &Head, lsn: Lsn) -> Vec<u8> {
    let mut out = Writer::default();
    out.bytes.extend(MAGIC);
    out.number(lsn.0);
    out.signed(head.valid_from_ms);
    out.number(head.metadata.len() as u64);
    for (name, metadata) in &head.metadata {
        write_metadata(&mut out, name, metadata);
    }
    out.number(head.len() as u64);
    for series in head.live() {
        out.labels(&series.labels);
        let open = series.closed();
        out.number((series.sealed.len() + usize::from(open.is_some())) as u64);
        for chunk in series.sealed.iter().map(AsRef::as_ref).chain(&open) {
            out.signed(chunk.min_ms);
            out.signed(chunk.max_ms);
            out.number(chunk.count as u64);
            out.blob(&chunk.bytes);
        }
        out.signed(series.last.t_ms);
        out.float(series.last.value);
        out.number(series.late.len() as u64);
        for sample in &series.late {
            out.signed(sample.t_ms);
            out.float(sample.value);
        }
    }
    out.bytes
}

/// Makes the snapshot at `path` be `bytes`.
pub(super) fn write(path: &Path, bytes: &[u8]) -> io::Result<()> {
    files::replace(path, |out| {
        out.write_all(bytes)?;
        let crc = out.crc;
        out.write_all(&crc.to_le_bytes())
    })
}

/// The head and the position from which to go on; `None` when there is no snapshot.
pub(super) fn read(path: &Path, series_max: usize) -> Result<Option<(Head, Lsn)>, SnapshotError> {
    let bytes = match std::fs::read(path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error.into()),
    };
    let body_bytes = bytes.len().checked_sub(4).ok_or(Malformed("it is too short"))?;
    let (body, crc) = bytes.split_at(body_bytes);
    if crc != crc32c::crc32c(body).to_le_bytes() {
        return Err(Malformed("its checksum does not fit").into());
    }
    Ok(Some(decode(body, series_max)?))
}

fn decode(body: &[u8], series_max: usize) -> Result<(Head, Lsn), Malformed> {
    let mut from = Reader::new(body);
    if from.take(MAGIC.len())? != MAGIC {
        return Err(Malformed("it is no snapshot, or of a later version"));
    }
    let lsn = Lsn(from.number()?);
    let mut head = Head::new(series_max);
    head.valid_from_ms = from.signed()?;
    for _ in 0..from.count()? {
        let (name, metadata) = read_metadata(&mut from)?;
        head.metadata.insert(name, metadata);
    }
    for _ in 0..from.count()? {
        let mut series = HeadSeries::new(from.labels()?);
        let chunks = from.count()?;
        for at in 0..chunks {
            let (min_ms, max_ms) = (from.signed()?, from.signed()?);
            let count = usize::try_from(from.number()?).map_err(|_| Malformed("a chunk is too large"))?;
            let bytes = from.blob()?;
            if at + 1 == chunks {
                samples(bytes, count).for_each(|sample| series.push(sample)); // goes on where it was
            } else {
                series.sealed.push(Sealed { min_ms, max_ms, count, bytes: bytes.into() }.into());
            }
        }
        series.last = Sample { t_ms: from.signed()?, value: from.float()? };
        for _ in 0..from.count()? {
            series.late.push(Sample { t_ms: from.signed()?, value: from.float()? });
        }
        head.insert(series);
    }
    Ok((head, lsn))
}

/// For fuzzing.
pub(super) fn fuzz_body(bytes: &[u8]) {
    let _ = decode(bytes, 100);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::model::{Labels, Selector, stale_marker};
    use crate::metrics::record::{Batch, Point, Step};

    #[test]
    fn a_head_comes_back_whole_and_goes_on() {
        let mut head = Head::new(100);
        let point = |t_ms, value| Point { t_ms, value, step: Step::Value };
        let points: Vec<Point> =
            (0..300).map(|at| point(at * 10, at as f64)).chain([point(5, 0.5), point(3000, stale_marker())]).collect();
        let series: Vec<(Labels, Vec<Point>)> = (0..5)
            .map(|at: i32| (Labels::from_texts(&[("__name__", "x"), ("n", &at.to_string())]), points.clone()))
            .collect();
        head.apply(&Batch { series: series.clone(), ..Batch::default() }, |refusal| panic!("{refusal:?}"));
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("head.snapshot");
        write(&path, &encode(&head, Lsn(77))).unwrap();
        let (mut back, lsn) = read(&path, 100).unwrap().unwrap();
        assert_eq!(lsn, Lsn(77));
        let all = Selector { alternatives: vec![vec![]] };
        let of = |head: &Head| {
            let mut taken = head.take(&all, i64::MIN, i64::MAX);
            taken.sort_by(|a, b| a.labels.cmp(&b.labels));
            taken.iter().map(|taken| (taken.labels.clone(), taken.samples(i64::MIN, i64::MAX))).collect::<Vec<_>>()
        };
        let more = Batch {
            series: series.iter().map(|(labels, _)| (labels.clone(), vec![point(4000, 1.0)])).collect(),
            ..Batch::default()
        };
        assert_eq!(of(&back), of(&head));
        assert_eq!(back.apply(&more, |_| {}), head.apply(&more, |_| {}));
        assert_eq!(of(&back), of(&head));

        let mut bytes = std::fs::read(&path).unwrap();
        bytes[40] ^= 1;
        std::fs::write(&path, bytes).unwrap();
        assert!(matches!(read(&path, 100), Err(SnapshotError::Damaged(_))));
        assert!(read(&folder.path().join("none"), 100).unwrap().is_none());
    }
}
