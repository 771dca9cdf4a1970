//! The memory head: the newest samples of each series, compressed, and the index that finds series by label.
//!
//! Samples of a series come in time order, or a little late: those go to a small buffer beside the chunks, as long as they are
//! not older than what has gone to blocks. The head follows the journal and asks no clock; the same records in the same
//! order always make the same head, so that a snapshot and the records after it give it back.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::Arc;

use super::chunk::{CHUNK_SAMPLES_MAX, Chunk, samples};
use super::model::{Labels, METRIC_NAME, MatchOp, Matcher, Sample, Selector};
use super::record::{Batch, Metadata, Point, Step};

/// Most late samples that a series holds beside its chunks.
const LATE_SAMPLES_MAX: usize = 256;
/// Most metric names whose metadata is kept.
const METADATA_MAX: usize = 20_000;

/// Why a sample was not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Refusal {
    /// Before what has gone to blocks, or before what may be late.
    TooOld,
    /// Ahead of the clock.
    TooNew,
    /// Late, and the buffer for late samples is full, or a delta that is late: it cannot be added any more.
    OutOfOrder,
    /// There is another value at this moment.
    Duplicate,
    /// There are too many series.
    SeriesLimit,
}

impl Refusal {
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::TooOld => "too_old",
            Self::TooNew => "too_new",
            Self::OutOfOrder => "out_of_order",
            Self::Duplicate => "duplicate",
            Self::SeriesLimit => "series_limit",
        }
    }
}

/// A closed chunk.
#[derive(Debug)]
pub(super) struct Sealed {
    pub(super) min_ms: i64,
    pub(super) max_ms: i64,
    pub(super) count: usize,
    pub(super) bytes: Box<[u8]>,
}

/// One series' samples while they are in memory.
pub(super) struct HeadSeries {
    pub(super) labels: Labels,
    pub(super) sealed: Vec<Arc<Sealed>>,
    pub(super) open: Chunk,
    pub(super) last: Sample,
    /// Sorted by time; never at a moment that a chunk holds too.
    pub(super) late: Vec<Sample>,
}

/// What a reader takes away from the head, to be decoded without its lock.
pub(super) struct Taken {
    pub(super) labels: Labels,
    sealed: Vec<Arc<Sealed>>,
    open: Option<Sealed>,
    late: Vec<Sample>,
}

impl Taken {
    /// Most samples that this may hold.
    pub(super) fn samples_max(&self) -> usize {
        self.sealed.iter().map(|chunk| chunk.count).sum::<usize>()
            + self.open.as_ref().map_or(0, |chunk| chunk.count)
            + self.late.len()
    }

    pub(super) fn samples(&self, from_ms: i64, to_ms: i64) -> Vec<Sample> {
        let chunks = self.sealed.iter().map(AsRef::as_ref).chain(&self.open);
        let mut found: Vec<Sample> = chunks.flat_map(|chunk| samples(&chunk.bytes, chunk.count)).collect();
        if !self.late.is_empty() {
            found.extend(&self.late);
            found.sort_by_key(|sample| sample.t_ms);
        }
        found.retain(|sample| (from_ms..=to_ms).contains(&sample.t_ms));
        found
    }
}

/// All series in memory.
pub(super) struct Head {
    pub(super) series: Vec<Option<HeadSeries>>,
    by_labels: HashMap<Labels, u32>,
    /// Label name, value, series.
    postings: BTreeMap<Arc<str>, BTreeMap<Arc<str>, Vec<u32>>>,
    texts: HashSet<Arc<str>>,
    free: Vec<u32>,
    series_max: usize,
    /// Everything before has gone to blocks.
    pub(super) valid_from_ms: i64,
    pub(super) metadata: BTreeMap<Arc<str>, Metadata>,
}

impl Head {
    pub(super) fn new(series_max: usize) -> Self {
        Self {
            series: Vec::new(),
            by_labels: HashMap::new(),
            postings: BTreeMap::new(),
            texts: HashSet::new(),
            free: Vec::new(),
            series_max,
            valid_from_ms: i64::MIN,
            metadata: BTreeMap::new(),
        }
    }

    pub(super) fn len(&self) -> usize {
        self.by_labels.len()
    }

    pub(super) fn live(&self) -> impl Iterator<Item = &HeadSeries> {
        self.series.iter().flatten()
    }

    /// Whether there is a series of these labels.
    pub(super) fn holds(&self, labels: &Labels) -> bool {
        self.by_labels.contains_key(labels)
    }

    /// Earliest sample held.
    pub(super) fn min_ms(&self) -> Option<i64> {
        self.live().filter_map(HeadSeries::min_ms).min()
    }

    /// Takes a batch; gives how many samples were new, and calls `refused` for each that was not taken.
    pub(super) fn apply(&mut self, batch: &Batch, mut refused: impl FnMut(Refusal)) -> usize {
        for (name, metadata) in &batch.metadata {
            if self.metadata.len() < METADATA_MAX || self.metadata.contains_key(name) {
                self.metadata.insert(name.clone(), metadata.clone());
            }
        }
        let mut taken = 0;
        for (labels, points) in &batch.series {
            for point in points {
                match self.push(labels, *point) {
                    Ok(new) => taken += usize::from(new),
                    Err(refusal) => refused(refusal),
                }
            }
        }
        taken
    }

    /// Whether `point` would be taken; what [`Head::push`] will say, as long as nobody else writes the series.
    pub(super) fn would_take(&self, labels: &Labels, point: Point) -> Result<(), Refusal> {
        if point.t_ms < self.valid_from_ms {
            return Err(Refusal::TooOld);
        }
        match self.by_labels.get(labels).and_then(|&id| self.series[id as usize].as_ref()) {
            Some(series) => series.place(point).map(drop),
            None if self.len() >= self.series_max => Err(Refusal::SeriesLimit),
            None => Ok(()),
        }
    }

    /// True when the sample is new, false when it was there already.
    fn push(&mut self, labels: &Labels, point: Point) -> Result<bool, Refusal> {
        if point.t_ms < self.valid_from_ms {
            return Err(Refusal::TooOld);
        }
        let id = match self.by_labels.get(labels) {
            Some(&id) => id,
            None if self.len() >= self.series_max => return Err(Refusal::SeriesLimit),
            None => self.insert(HeadSeries::new(labels.clone())),
        };
        let Some(series) = &mut self.series[id as usize] else { return Err(Refusal::SeriesLimit) };
        match series.place(point)? {
            Place::Known => return Ok(false),
            Place::End => {
                let value = match point.step {
                    Step::Delta if !series.is_empty() && !series.last.value.is_nan() => series.last.value + point.value,
                    _ => point.value,
                };
                series.push(Sample { t_ms: point.t_ms, value });
            }
            Place::Late(at) => series.late.insert(at, Sample { t_ms: point.t_ms, value: point.value }),
        }
        Ok(true)
    }

    /// Adds a series whose labels are not there yet.
    pub(super) fn insert(&mut self, mut series: HeadSeries) -> u32 {
        let shared: Vec<_> =
            series.labels.iter().map(|(name, value)| (self.shared(name), self.shared(value))).collect();
        series.labels = Labels::new(shared);
        let id = self.free.pop().unwrap_or_else(|| {
            self.series.push(None);
            (self.series.len() - 1) as u32
        });
        self.by_labels.insert(series.labels.clone(), id);
        self.post(&series.labels, id);
        self.series[id as usize] = Some(series);
        id
    }

    fn post(&mut self, labels: &Labels, id: u32) {
        for (name, value) in labels.iter() {
            self.postings.entry(name.clone()).or_default().entry(value.clone()).or_default().push(id);
        }
    }

    fn shared(&mut self, text: &Arc<str>) -> Arc<str> {
        if let Some(known) = self.texts.get(text) {
            return known.clone();
        }
        self.texts.insert(text.clone());
        text.clone()
    }

    /// The series that may match, by the shortest way; each is still to be asked.
    fn candidates(&self, matchers: &[Matcher]) -> Vec<u32> {
        let list = |name: &str, value: &str| self.postings.get(name).and_then(|values| values.get(value));
        let exact = matchers.iter().filter(|matcher| matches!(matcher.op, MatchOp::Equal) && !matcher.value.is_empty());
        let shortest =
            exact.map(|matcher| list(&matcher.name, &matcher.value)).min_by_key(|ids| ids.map_or(0, Vec::len));
        if let Some(ids) = shortest {
            return ids.cloned().unwrap_or_default();
        }
        if let Some(matcher) = matchers.iter().find(|matcher| !matcher.matches("")) {
            let Some(values) = self.postings.get(matcher.name.as_str()) else { return Vec::new() };
            return values
                .iter()
                .filter(|(value, _)| matcher.matches(value))
                .flat_map(|(_, ids)| ids)
                .copied()
                .collect();
        }
        self.by_labels.values().copied().collect()
    }

    /// The series that match, in no order.
    pub(super) fn find(&self, selector: &Selector) -> Vec<&HeadSeries> {
        let ids: BTreeSet<u32> = selector.alternatives.iter().flat_map(|all| self.candidates(all)).collect();
        let series = ids.into_iter().filter_map(|id| self.series.get(id as usize)?.as_ref());
        series.filter(|series| selector.matches(&series.labels)).collect()
    }

    /// What matches and may have samples from `from_ms` to `to_ms`.
    pub(super) fn take(&self, selector: &Selector, from_ms: i64, to_ms: i64) -> Vec<Taken> {
        self.find(selector)
            .into_iter()
            .map(|series| series.take(from_ms, to_ms))
            .filter(|taken| taken.samples_max() > 0)
            .collect()
    }

    /// Forgets everything before `until_ms`, which has gone to a block.
    pub(super) fn cut(&mut self, until_ms: i64) {
        self.valid_from_ms = self.valid_from_ms.max(until_ms);
        for slot in &mut self.series {
            let Some(series) = slot else { continue };
            series.cut(until_ms);
            if series.is_empty() {
                self.by_labels.remove(&series.labels);
                *slot = None;
            }
        }
        self.rebuild();
    }

    fn rebuild(&mut self) {
        self.postings.clear();
        self.texts.clear();
        self.free.clear();
        for id in 0..self.series.len() {
            match self.series[id].as_ref().map(|series| series.labels.clone()) {
                Some(labels) => {
                    self.texts.extend(labels.iter().flat_map(|(name, value)| [name.clone(), value.clone()]));
                    self.post(&labels, id as u32);
                }
                None => self.free.push(id as u32),
            }
        }
        let names = self.postings.get(METRIC_NAME);
        self.metadata.retain(|name, _| {
            // A histogram's series are called `…_bucket` and so on.
            names.is_some_and(|names| {
                names.range(name.clone()..).next().is_some_and(|(found, _)| found.starts_with(name.as_ref()))
            })
        });
    }
}

enum Place {
    End,
    Known,
    Late(usize),
}

impl HeadSeries {
    pub(super) fn new(labels: Labels) -> Self {
        let last = Sample { t_ms: i64::MIN, value: 0.0 };
        Self { labels, sealed: Vec::new(), open: Chunk::default(), last, late: Vec::new() }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.sealed.is_empty() && self.open.is_empty() && self.late.is_empty()
    }

    fn min_ms(&self) -> Option<i64> {
        let chunk =
            self.sealed.first().map(|chunk| chunk.min_ms).or((!self.open.is_empty()).then(|| self.open.first_ms()));
        chunk.into_iter().chain(self.late.first().map(|sample| sample.t_ms)).min()
    }

    fn place(&self, point: Point) -> Result<Place, Refusal> {
        if point.t_ms > self.last.t_ms {
            return Ok(Place::End);
        }
        if point.step == Step::Delta {
            return Err(Refusal::OutOfOrder);
        }
        let same = |known: f64| {
            if known.to_bits() == point.value.to_bits() { Ok(Place::Known) } else { Err(Refusal::Duplicate) }
        };
        if point.t_ms == self.last.t_ms {
            return same(self.last.value);
        }
        match self.late.binary_search_by_key(&point.t_ms, |sample| sample.t_ms) {
            Ok(at) => same(self.late[at].value),
            Err(at) => match self.at(point.t_ms) {
                Some(known) => same(known.value),
                None if self.late.len() >= LATE_SAMPLES_MAX => Err(Refusal::OutOfOrder),
                None => Ok(Place::Late(at)),
            },
        }
    }

    /// The sample that the chunks hold at `t_ms`.
    fn at(&self, t_ms: i64) -> Option<Sample> {
        let around = self.sealed.iter().filter(|chunk| (chunk.min_ms..=chunk.max_ms).contains(&t_ms));
        let sealed = around.flat_map(|chunk| samples(&chunk.bytes, chunk.count));
        sealed.chain(samples(self.open.bytes(), self.open.len())).find(|sample| sample.t_ms == t_ms)
    }

    pub(super) fn push(&mut self, sample: Sample) {
        if self.open.len() >= CHUNK_SAMPLES_MAX {
            self.seal();
        }
        self.open.push(sample);
        self.last = sample;
    }

    fn seal(&mut self) {
        if let Some(sealed) = self.closed() {
            self.sealed.push(Arc::new(sealed));
            self.open = Chunk::default();
        }
    }

    /// The open chunk as it is now.
    pub(super) fn closed(&self) -> Option<Sealed> {
        (!self.open.is_empty()).then(|| Sealed {
            min_ms: self.open.first_ms(),
            max_ms: self.last.t_ms,
            count: self.open.len(),
            bytes: self.open.bytes().into(),
        })
    }

    fn take(&self, from_ms: i64, to_ms: i64) -> Taken {
        let overlaps = |chunk: &Sealed| chunk.max_ms >= from_ms && chunk.min_ms <= to_ms;
        let late = self.late.iter().filter(|sample| (from_ms..=to_ms).contains(&sample.t_ms));
        let open_overlaps = !self.open.is_empty() && self.last.t_ms >= from_ms && self.open.first_ms() <= to_ms;
        Taken {
            labels: self.labels.clone(),
            sealed: self.sealed.iter().filter(|chunk| overlaps(chunk)).cloned().collect(),
            open: if open_overlaps { self.closed() } else { None },
            late: late.copied().collect(),
        }
    }

    fn cut(&mut self, until_ms: i64) {
        self.late.retain(|sample| sample.t_ms >= until_ms);
        let straddles = |chunk: &Sealed| chunk.min_ms < until_ms && chunk.max_ms >= until_ms;
        self.sealed.retain(|chunk| chunk.max_ms >= until_ms);
        for chunk in &mut self.sealed {
            if straddles(chunk) {
                let mut kept = Chunk::default();
                samples(&chunk.bytes, chunk.count)
                    .filter(|sample| sample.t_ms >= until_ms)
                    .for_each(|sample| kept.push(sample));
                *chunk = Arc::new(Sealed {
                    min_ms: kept.first_ms(),
                    max_ms: chunk.max_ms,
                    count: kept.len(),
                    bytes: kept.bytes().into(),
                });
            }
        }
        if !self.open.is_empty() && self.open.first_ms() < until_ms {
            let mut kept = Chunk::default();
            samples(self.open.bytes(), self.open.len())
                .filter(|sample| sample.t_ms >= until_ms)
                .for_each(|sample| kept.push(sample));
            self.open = kept;
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn labels(name: &str) -> Labels {
        Labels::from_texts(&[(METRIC_NAME, name), ("job", "a")])
    }

    fn point(t_ms: i64, value: f64) -> Point {
        Point { t_ms, value, step: Step::Value }
    }

    fn all(name: &str) -> Selector {
        Selector { alternatives: vec![vec![Matcher::equal(METRIC_NAME, name)]] }
    }

    fn read(head: &Head, name: &str) -> Vec<(i64, f64)> {
        let taken = head.take(&all(name), i64::MIN, i64::MAX);
        taken
            .iter()
            .flat_map(|taken| taken.samples(i64::MIN, i64::MAX))
            .map(|sample| (sample.t_ms, sample.value))
            .collect()
    }

    #[test]
    fn a_late_sample_finds_its_place_and_a_second_value_is_refused() {
        let mut head = Head::new(10);
        for t_ms in [10, 30, 40] {
            assert_eq!(head.push(&labels("x"), point(t_ms, t_ms as f64)), Ok(true));
        }
        assert_eq!(head.push(&labels("x"), point(20, 20.0)), Ok(true));
        assert_eq!(head.push(&labels("x"), point(20, 20.0)), Ok(false), "the same again is no news");
        assert_eq!(head.push(&labels("x"), point(30, 99.0)), Err(Refusal::Duplicate));
        assert_eq!(read(&head, "x"), [(10, 10.0), (20, 20.0), (30, 30.0), (40, 40.0)]);
    }

    #[test]
    fn deltas_add_up_and_are_never_added_twice() {
        let mut head = Head::new(10);
        let delta = |t_ms, value| Point { t_ms, value, step: Step::Delta };
        for (t_ms, expected) in [(10, Ok(true)), (20, Ok(true)), (20, Err(Refusal::OutOfOrder)), (30, Ok(true))] {
            assert_eq!(head.push(&labels("x"), delta(t_ms, 5.0)), expected);
        }
        assert_eq!(read(&head, "x"), [(10, 5.0), (20, 10.0), (30, 15.0)]);
    }

    #[test]
    fn series_are_bounded_and_room_comes_back_when_they_end() {
        let mut head = Head::new(2);
        assert!(head.push(&labels("a"), point(10, 1.0)).is_ok());
        assert!(head.push(&labels("b"), point(5000, 1.0)).is_ok());
        assert_eq!(head.push(&labels("c"), point(10, 1.0)), Err(Refusal::SeriesLimit));
        assert_eq!(head.would_take(&labels("c"), point(10, 1.0)), Err(Refusal::SeriesLimit));
        head.cut(1000);
        assert_eq!(head.push(&labels("c"), point(10, 1.0)), Err(Refusal::TooOld));
        assert!(head.push(&labels("c"), point(2000, 1.0)).is_ok());
        assert!(read(&head, "a").is_empty() && !read(&head, "b").is_empty() && !read(&head, "c").is_empty());
    }

    #[test]
    fn a_cut_in_the_middle_of_chunks_keeps_what_is_after_it() {
        let mut head = Head::new(10);
        for t_ms in 0..500 {
            assert!(head.push(&labels("x"), point(t_ms, 1.0)).is_ok());
        }
        head.cut(333);
        assert_eq!(read(&head, "x").iter().map(|(t_ms, _)| *t_ms).collect::<Vec<_>>(), (333..500).collect::<Vec<_>>());
        assert_eq!(head.min_ms(), Some(333));
    }

    proptest! {
        #[test]
        fn the_head_is_a_sorted_map(points in proptest::collection::vec((0_i64..300, 0_u8..3), 0..400)) {
            let mut head = Head::new(10);
            let mut model: BTreeMap<i64, f64> = BTreeMap::new();
            for (t_ms, value) in points {
                let value = f64::from(value);
                match head.push(&labels("x"), point(t_ms, value)) {
                    Ok(true) => prop_assert_eq!(model.insert(t_ms, value), None),
                    Ok(false) => prop_assert_eq!(model.get(&t_ms), Some(&value)),
                    Err(Refusal::Duplicate) => prop_assert!(model.get(&t_ms).is_some_and(|known| *known != value)),
                    Err(refusal) => prop_assert_eq!(refusal, Refusal::OutOfOrder),
                }
            }
            prop_assert_eq!(read(&head, "x"), model.into_iter().collect::<Vec<_>>());
        }
    }
}
