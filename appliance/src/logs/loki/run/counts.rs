//! Counting without reading: `sum by (level) (count_over_time({…} |= "x" [1m]))` and the like are tallies of the windows.

use std::collections::BTreeMap;

use backlot_windows::{Query, STRETCHES_MAX, Told, Want};

use crate::logs::Logs;
use crate::logs::loki::answer::Refused;
use crate::logs::loki::evaluate::{LabelSet, Parting, Series, Steps, counted, grouped};
use crate::logs::loki::logql::{RangeAggregate, RangeOp};
use crate::logs::loki::streams::{LEVEL, LEVELS, Selection, no_level};
use crate::logs::schema::STREAM;

/// Most histograms, one after the other, that one range is counted with.
const PARTS_MAX: usize = 16;

/// The series of an aggregation whose lines are exactly what answers to `query`. `None`: they have to be read.
pub(super) async fn series(
    logs: &Logs,
    aggregate: &RangeAggregate,
    parting: &Parting,
    selection: &Selection,
    query: &Query,
    steps: Steps,
) -> Result<Option<Vec<Series>>, Refused> {
    let counts_records = match aggregate.op {
        RangeOp::CountOverTime => true,
        RangeOp::Rate | RangeOp::AbsentOverTime => aggregate.unwrap.is_none(),
        _ => false,
    };
    let Some(stretches) = Stretches::of(aggregate, steps).filter(|_| counts_records && knows(parting, selection))
    else {
        return Ok(None);
    };
    let keeps = |name: &str| match &parting.grouping {
        None => true,
        Some(grouping) => grouping.names.iter().any(|named| named == name) != grouping.without,
    };
    let by_level = keeps(LEVEL);
    let by_stream =
        selection.streams.iter().any(|stream| stream.labels.keys().any(|name| name != LEVEL && keeps(name)));
    let mut found = BTreeMap::<LabelSet, Vec<u64>>::new();
    let mut put = |labels: LabelSet, first: usize, counts: &[u64]| {
        let labels = parting.grouping.as_ref().map_or(labels.clone(), |grouping| grouped(&labels, grouping));
        let all = found.entry(labels).or_insert_with(|| vec![0; stretches.count]);
        for (all, count) in all[first..].iter_mut().zip(counts) {
            *all += count;
        }
    };
    if by_stream {
        let levels: Vec<Option<&str>> =
            if by_level { LEVELS.iter().copied().map(Some).chain([None]).collect() } else { vec![None] };
        for level in levels {
            let of_level = match level {
                _ if !by_level => query.clone(),
                Some(level) => Query::And(vec![query.clone(), Query::keyword(LEVEL, level)]),
                None => Query::And(vec![query.clone(), no_level()]),
            };
            for part in stretches.parts() {
                let histogram = histogram(logs, &of_level, &part, stretches.length_ns, Some(STREAM)).await?;
                if !is_complete(&histogram) {
                    return Ok(None);
                }
                for (key, counts) in &histogram.by {
                    // One that appeared since the streams were listed is not asked for.
                    let Some(stream) = selection.streams.iter().find(|stream| stream.key == *key) else { continue };
                    let mut labels = stream.labels.clone();
                    if let Some(level) = level {
                        labels.insert(LEVEL.to_owned(), level.to_owned());
                    }
                    put(labels, part.first, counts);
                }
            }
        }
    } else {
        for part in stretches.parts() {
            let histogram = histogram(logs, query, &part, stretches.length_ns, by_level.then_some(LEVEL)).await?;
            let mut rest = histogram.counts;
            for (level, counts) in &histogram.by {
                for (rest, count) in rest.iter_mut().zip(counts) {
                    *rest = rest.saturating_sub(*count);
                }
                put(LabelSet::from([(LEVEL.to_owned(), level.clone())]), part.first, counts);
            }
            if rest.iter().any(|count| *count > 0) {
                put(LabelSet::new(), part.first, &rest);
            }
        }
    }
    Ok(Some(counted(aggregate, steps, stretches.length_ns, found.into_iter().collect())?))
}

/// Whether what parts the lines is known of streams: a name that a record may have of its own is not.
fn knows(parting: &Parting, selection: &Selection) -> bool {
    // A resource's own `level` would have to be told from none.
    if selection.streams.iter().any(|stream| stream.labels.contains_key(LEVEL)) {
        return false;
    }
    parting.metadata.iter().all(|name| {
        let is_level = matches!(name.as_str(), LEVEL | "detected_level");
        is_level || selection.streams.iter().all(|stream| stream.labels.contains_key(name))
    })
}

/// Whether every record is in the series of a stream: more streams than are told apart would be missing.
fn is_complete(histogram: &backlot_windows::Histogram) -> bool {
    let told: u64 = histogram.by.iter().flat_map(|(_, counts)| counts).sum();
    told == histogram.counts.iter().sum::<u64>()
}

async fn histogram(
    logs: &Logs,
    query: &Query,
    part: &Part,
    length_ns: i64,
    by: Option<&str>,
) -> Result<backlot_windows::Histogram, Refused> {
    let want = Want::Histogram { step_ns: length_ns, origin_ns: part.range.0, by: by.map(str::to_owned) };
    let counts = logs.store.tally(query.clone(), part.range, vec![want]).await?;
    match counts.told.into_iter().next() {
        Some(Told::Histogram(histogram)) => Ok(histogram),
        _ => Ok(backlot_windows::Histogram::default()),
    }
}

/// The lengths of time whose counts add up to those of every step.
struct Stretches {
    begin_ns: i64,
    length_ns: i64,
    count: usize,
}

/// As many of them as one histogram counts.
struct Part {
    first: usize,
    /// Both ends included.
    range: (i64, i64),
}

impl Stretches {
    fn of(aggregate: &RangeAggregate, steps: Steps) -> Option<Self> {
        let length_ns = if steps.count > 1 { divisor(aggregate.range_ns, steps.step_ns) } else { aggregate.range_ns };
        let first_ns = steps.start_ns.checked_sub(aggregate.offset_ns)?;
        let begin_ns = first_ns.checked_sub(aggregate.range_ns)?.checked_add(1)?;
        let end_ns = steps.end_ns().checked_sub(aggregate.offset_ns)?;
        let count = (i128::from(end_ns) - i128::from(begin_ns) + 1) / i128::from(length_ns.max(1));
        let count = usize::try_from(count).ok().filter(|count| *count <= PARTS_MAX * STRETCHES_MAX)?;
        Some(Self { begin_ns, length_ns, count })
    }

    fn parts(&self) -> impl Iterator<Item = Part> {
        let at = |stretch: usize| self.begin_ns + self.length_ns * i64::try_from(stretch).unwrap_or(i64::MAX);
        (0..self.count).step_by(STRETCHES_MAX).map(move |first| {
            let end = (first + STRETCHES_MAX).min(self.count);
            Part { first, range: (at(first), at(end) - 1) }
        })
    }
}

/// The greatest length that divides both.
fn divisor(mut a: i64, mut b: i64) -> i64 {
    while b != 0 {
        (a, b) = (b, a % b);
    }
    a.max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stretches_cover_every_range_of_every_step() {
        assert_eq!((divisor(300, 60), divisor(60, 300), divisor(90, 60), divisor(7, 3)), (60, 60, 30, 1));
        let stretches = Stretches { begin_ns: 101, length_ns: 10, count: 2 * STRETCHES_MAX + 1 };
        let parts: Vec<_> = stretches.parts().map(|part| (part.first, part.range)).collect();
        let at = |stretch: usize| 101 + 10 * i64::try_from(stretch).unwrap();
        assert_eq!(
            parts,
            [
                (0, (101, at(STRETCHES_MAX) - 1)),
                (STRETCHES_MAX, (at(STRETCHES_MAX), at(2 * STRETCHES_MAX) - 1)),
                (2 * STRETCHES_MAX, (at(2 * STRETCHES_MAX), at(2 * STRETCHES_MAX + 1) - 1)),
            ]
        );
    }
}
