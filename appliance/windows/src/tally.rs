//! Counting what answers to a question: when, of which values, how large. One walk over each window serves all that is wanted.
//!
//! Documents are sorted by time, so a stretch of time is a stretch of documents; the values of a keyword are its terms, so
//! counting them is counting postings; numbers stand in columns. Texts have no terms of their own: their values are counted in the
//! sources of the newest documents, up to a bound, and the answer says of how many.

use std::collections::{BTreeSet, HashMap};

use sketches_ddsketch::{Config, DDSketch};
use tantivy::columnar::DynamicColumn;
use tantivy::schema::IndexRecordOption;
use tantivy::{DocAddress, DocSet as _, SegmentReader, TERMINATED};

use crate::document::{Document, Value, keyword_key};
use crate::index::{IndexFault, TIME, column_path, id_term, keyword_term, text_term};
use crate::walk::{self, Asked, Fault, Range, Read};
use crate::windows::Cancel;

/// Most stretches of time of one histogram.
pub const STRETCHES_MAX: usize = 2000;
/// Most values of one name that are told apart; those that come later are counted together.
const VALUES_MAX: usize = 100_000;
/// As above, where each has a histogram.
const SERIES_MAX: usize = 500;
/// Most sources that are read to count the values of a text.
const SAMPLE_MAX: usize = 20_000;
/// Terms between two looks at the cancel flag.
const CANCEL_EVERY: usize = 256;

/// What is to be told of the documents that answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Want {
    /// How many in each stretch of `step_ns`, and for each value of the keyword `by`. One of the stretches begins at `origin_ns`, if it is
    /// within what is asked for, or would.
    Histogram { step_ns: i64, origin_ns: i64, by: Option<String> },
    /// How many of each value, the most frequent `limit` of them.
    Values { name: String, limit: usize },
    /// Of the numbers of a name: how many, the least, the greatest, their mean and percentiles.
    Numbers { name: String },
}

/// How many documents in each stretch of time.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Histogram {
    /// Where the first stretch begins, a multiple of the step away from the origin.
    pub begin_ns: i64,
    pub step_ns: i64,
    pub counts: Vec<u64>,
    /// By value, the most frequent first. A document without a value is in none.
    pub by: Vec<(String, Vec<u64>)>,
}

/// The most frequent values of a name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Values {
    pub top: Vec<(String, u64)>,
    /// Documents with values that are not among the top.
    pub others: u64,
    /// Set where values were counted in the sources of the newest documents: of so many of them.
    pub sampled: Option<u64>,
}

/// What numbers are like.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Numbers {
    pub count: u64,
    pub min: f64,
    pub max: f64,
    pub mean: f64,
    /// Percent and number, right within one percent of the number.
    pub percentiles: Vec<(f64, f64)>,
}

/// Percentiles that are told.
const PERCENTS: [f64; 6] = [1.0, 25.0, 50.0, 90.0, 95.0, 99.0];

/// One answer for each [`Want`].
#[derive(Clone, Debug, PartialEq)]
pub enum Told {
    Histogram(Histogram),
    Values(Values),
    Numbers(Numbers),
}

/// Gathers what is wanted, window by window, the newest first.
pub(crate) struct Tally {
    pub(crate) matched: u64,
    range: Range,
    parts: Vec<Part>,
}

enum Part {
    Histogram(Stretches),
    Values { name: String, limit: usize, counted: Counted, others: u64, sample: Sample },
    Numbers { name: String, sketch: Box<DDSketch> },
}

type Counted = HashMap<String, u64>;

/// How many sources were read for the values of a text, and how many of them had one.
#[derive(Default)]
struct Sample {
    read: usize,
    counted: u64,
}

struct Stretches {
    begin_ns: i64,
    step_ns: i64,
    counts: Vec<u64>,
    by: Option<(String, HashMap<String, Vec<u64>>)>,
}

impl Stretches {
    fn new(range: Range, step_ns: i64, origin_ns: i64, by: Option<&String>) -> Result<Self, String> {
        let step_ns = step_ns.max(1);
        let (from, origin, step) = (i128::from(range.from_ns), i128::from(origin_ns), i128::from(step_ns));
        let begin_ns = i64::try_from(origin + (from - origin).div_euclid(step) * step).unwrap_or(i64::MIN);
        let stretches = (i128::from(range.to_ns) - i128::from(begin_ns)).max(0) / i128::from(step_ns) + 1;
        let stretches = usize::try_from(stretches).ok().filter(|stretches| *stretches <= STRETCHES_MAX);
        let Some(stretches) = stretches else {
            return Err(format!("a histogram has at most {STRETCHES_MAX} stretches; make them longer"));
        };
        let by = by.map(|name| (name.clone(), HashMap::new()));
        Ok(Self { begin_ns, step_ns, counts: vec![0; stretches], by })
    }

    /// Which stretch a moment of the range lies in.
    fn at(&self, time_ns: i64) -> usize {
        let at = (i128::from(time_ns) - i128::from(self.begin_ns)) / i128::from(self.step_ns);
        usize::try_from(at).unwrap_or(0).min(self.counts.len() - 1)
    }
}

/// The documents of one segment that answer.
enum Set {
    /// All from the first to before the second.
    Run(u32, u32),
    /// Those whose bit is set, counted from the first.
    Bits { begin: u32, end: u32, bits: Vec<u64> },
}

impl Set {
    fn bounds(&self) -> (u32, u32) {
        match self {
            Self::Run(begin, end) | Self::Bits { begin, end, .. } => (*begin, *end),
        }
    }

    /// Of a document within the bounds.
    fn has(&self, document: u32) -> bool {
        match self {
            Self::Run(..) => true,
            Self::Bits { begin, bits, .. } => {
                let at = document - begin;
                bits[at as usize / 64] >> (at % 64) & 1 == 1
            }
        }
    }

    fn count(&self) -> u64 {
        match self {
            Self::Run(begin, end) => u64::from(end.saturating_sub(*begin)),
            Self::Bits { bits, .. } => bits.iter().map(|word| u64::from(word.count_ones())).sum(),
        }
    }

    fn iter(&self) -> impl Iterator<Item = u32> {
        let (begin, end) = self.bounds();
        (begin..end).filter(|document| self.has(*document))
    }
}

impl Tally {
    /// # Errors
    /// A sentence when a histogram would have too many stretches.
    pub(crate) fn new(range: Range, wants: &[Want]) -> Result<Self, String> {
        let part = |want: &Want| {
            Ok(match want {
                Want::Histogram { step_ns, origin_ns, by } => {
                    Part::Histogram(Stretches::new(range, *step_ns, *origin_ns, by.as_ref())?)
                }
                Want::Values { name, limit } => Part::Values {
                    name: name.clone(),
                    limit: *limit,
                    counted: Counted::new(),
                    others: 0,
                    sample: Sample::default(),
                },
                Want::Numbers { name } => {
                    Part::Numbers { name: name.clone(), sketch: Box::new(DDSketch::new(Config::defaults())) }
                }
            })
        };
        Ok(Self { matched: 0, range, parts: wants.iter().map(part).collect::<Result<_, String>>()? })
    }

    /// Counts within `range` alone; histograms stay as long as they were asked for.
    pub(crate) fn within(self, range: Range) -> Self {
        Self { range, ..self }
    }

    /// Counts a document that is in no window yet and answers.
    pub(crate) fn take(&mut self, document: &Document) {
        self.matched += 1;
        for part in &mut self.parts {
            match part {
                Part::Histogram(stretches) => {
                    let at = stretches.at(document.time_ns);
                    stretches.counts[at] += 1;
                    let length = stretches.counts.len();
                    if let Some((name, by)) = &mut stretches.by {
                        for value in keywords(document, name) {
                            if let Some(series) = series(by, value, length) {
                                series[at] += 1;
                            }
                        }
                    }
                }
                Part::Values { name, counted, others, sample, .. } => {
                    let mut texts = false;
                    keywords(document, name).into_iter().for_each(|value| add(counted, others, value, 1));
                    for value in document.values(name) {
                        if let Value::Id(value) | Value::Text(value) = value {
                            texts = true;
                            add(counted, others, value, 1);
                        }
                    }
                    sample.counted += u64::from(texts);
                }
                Part::Numbers { name, sketch } => {
                    for value in document.values(name) {
                        if let Value::Number(number) = value {
                            sketch.add(*number);
                        }
                    }
                }
            }
        }
    }

    /// Counts what answers in one window.
    pub(crate) fn walk(&mut self, asked: &Asked<'_>, is_all: bool, read: Read, cancel: &Cancel) -> Result<(), Fault> {
        for (ordinal, reader) in asked.searcher.segment_readers().iter().enumerate() {
            if reader.max_doc() == 0 {
                continue;
            }
            let set = self.set(asked, is_all, ordinal, reader, cancel)?;
            self.matched += set.count();
            if set.count() == 0 {
                continue;
            }
            let ordinal = u32::try_from(ordinal).map_err(|_| IndexFault::damage("has too many segments"))?;
            for part in &mut self.parts {
                match part {
                    Part::Histogram(stretches) => histogram(stretches, asked, reader, &set, cancel)?,
                    Part::Values { name, counted, others, sample, .. } => {
                        each_keyword(asked, reader, name, &set, cancel, &mut |value, count| {
                            add(counted, others, value, count);
                        })?;
                        if has_texts(asked, reader, name)? {
                            sample_texts(asked, ordinal, name, &set, read, counted, others, sample, cancel)?;
                        }
                    }
                    Part::Numbers { name, sketch } => numbers(reader, name, &set, sketch)?,
                }
                if cancel.is_cancelled() {
                    return Err(Fault::Cancelled);
                }
            }
        }
        Ok(())
    }

    fn set(
        &self,
        asked: &Asked<'_>,
        is_all: bool,
        ordinal: usize,
        reader: &SegmentReader,
        cancel: &Cancel,
    ) -> Result<Set, Fault> {
        let time = reader.fast_fields().i64(TIME)?.first_or_default_col(0);
        let (begin, end) = walk::span(&*time, reader.max_doc(), self.range);
        let end = end.max(begin);
        if is_all {
            return Ok(Set::Run(begin, end));
        }
        let mut bits = vec![0_u64; (end - begin).div_ceil(64) as usize];
        walk::matching(asked, ordinal, reader, self.range, cancel, &mut |document| {
            let at = document - begin;
            bits[at as usize / 64] |= 1 << (at % 64);
        })?;
        Ok(Set::Bits { begin, end, bits })
    }

    /// The answers, in the order of what was wanted.
    pub(crate) fn told(self) -> Vec<Told> {
        let told = |part| match part {
            Part::Histogram(Stretches { begin_ns, step_ns, counts, by }) => {
                let mut by: Vec<_> = by.map(|(_, by)| by.into_iter().collect()).unwrap_or_default();
                by.sort_by_cached_key(|(value, counts): &(String, Vec<u64>)| {
                    (std::cmp::Reverse(counts.iter().sum::<u64>()), value.clone())
                });
                Told::Histogram(Histogram { begin_ns, step_ns, counts, by })
            }
            Part::Values { counted, limit, others, sample, .. } => {
                let mut top: Vec<_> = counted.into_iter().collect();
                top.sort_by(|a, b| b.1.cmp(&a.1).then_with(|| a.0.cmp(&b.0)));
                let rest = top.split_off(limit.min(top.len()));
                let others = others + rest.iter().map(|(_, count)| count).sum::<u64>();
                Told::Values(Values { top, others, sampled: (sample.counted > 0).then_some(sample.counted) })
            }
            Part::Numbers { sketch, .. } => Told::Numbers(told_numbers(&sketch)),
        };
        self.parts.into_iter().map(told).collect()
    }
}

fn told_numbers(sketch: &DDSketch) -> Numbers {
    let count = sketch.count() as u64;
    if count == 0 {
        return Numbers::default();
    }
    let percentiles = PERCENTS.iter().filter_map(|percent| {
        let number = sketch.quantile(percent / 100.0).ok().flatten()?;
        Some((*percent, number))
    });
    Numbers {
        count,
        min: sketch.min().unwrap_or_default(),
        max: sketch.max().unwrap_or_default(),
        mean: sketch.sum().unwrap_or_default() / count as f64,
        percentiles: percentiles.collect(),
    }
}

/// The keywords of a name, each once, as they are in an index.
fn keywords<'a>(document: &'a Document, name: &'a str) -> BTreeSet<&'a str> {
    let keyword = |value: &'a Value| match value {
        Value::Keyword(value) => Some(keyword_key(value)),
        _ => None,
    };
    document.values(name).filter_map(keyword).collect()
}

fn add(counted: &mut Counted, others: &mut u64, value: &str, count: u64) {
    if let Some(known) = counted.get_mut(value) {
        *known += count;
    } else if counted.len() < VALUES_MAX {
        counted.insert(value.to_owned(), count);
    } else {
        *others += count;
    }
}

fn series<'a>(by: &'a mut HashMap<String, Vec<u64>>, value: &str, length: usize) -> Option<&'a mut Vec<u64>> {
    if !by.contains_key(value) {
        if by.len() >= SERIES_MAX {
            return None;
        }
        by.insert(value.to_owned(), vec![0; length]);
    }
    by.get_mut(value)
}

/// Hands each value of a keyword with the number of documents of the set that have it to `take`.
fn each_keyword(
    asked: &Asked<'_>,
    reader: &SegmentReader,
    name: &str,
    set: &Set,
    cancel: &Cancel,
    take: &mut dyn FnMut(&str, u64),
) -> Result<(), Fault> {
    let whole = matches!(set, Set::Run(0, end) if *end == reader.max_doc());
    each_term(asked, reader, name, cancel, &mut |value, info, postings| {
        let count = if whole { u64::from(info) } else { in_set(postings()?, set, &mut |_| {}) };
        if count > 0 {
            take(value, count);
        }
        Ok(())
    })
}

type Postings = tantivy::postings::SegmentPostings;
/// What is done with a value, the number of documents that have it, and a way to these.
type Take<'a> = dyn FnMut(&str, u32, &dyn Fn() -> Result<Postings, Fault>) -> Result<(), Fault> + 'a;

/// Hands each value of a keyword to `take`.
fn each_term(
    asked: &Asked<'_>,
    reader: &SegmentReader,
    name: &str,
    cancel: &Cancel,
    take: &mut Take<'_>,
) -> Result<(), Fault> {
    let inverted = reader.inverted_index(asked.fields.term)?;
    let begin = keyword_term(name, "");
    let failed = |error: std::io::Error| IndexFault { problem: error.to_string(), is_damage: false };
    let mut terms = inverted.terms().range().ge(begin.as_bytes()).into_stream().map_err(failed)?;
    let mut seen = 0_usize;
    while terms.advance() && terms.key().starts_with(begin.as_bytes()) {
        let value = String::from_utf8_lossy(&terms.key()[begin.len()..]).into_owned();
        let info = terms.value().clone();
        let postings = || {
            let postings = inverted.read_postings_from_terminfo(&info, IndexRecordOption::Basic);
            postings.map_err(|error| Fault::Index(failed(error)))
        };
        take(&value, info.doc_freq, &postings)?;
        seen += 1;
        if seen.is_multiple_of(CANCEL_EVERY) && cancel.is_cancelled() {
            return Err(Fault::Cancelled);
        }
    }
    Ok(())
}

/// Hands each document of the set that has the postings to `take`; gives their number.
fn in_set(mut postings: Postings, set: &Set, take: &mut dyn FnMut(u32)) -> u64 {
    let (begin, end) = set.bounds();
    let mut document = if postings.doc() < begin { postings.seek(begin) } else { postings.doc() };
    let mut count = 0;
    while document < end && document != TERMINATED {
        if set.has(document) {
            count += 1;
            take(document);
        }
        document = postings.advance();
    }
    count
}

fn histogram(
    stretches: &mut Stretches,
    asked: &Asked<'_>,
    reader: &SegmentReader,
    set: &Set,
    cancel: &Cancel,
) -> Result<(), Fault> {
    let time = reader.fast_fields().i64(TIME)?.first_or_default_col(0);
    let (begin, end) = set.bounds();
    // Where each stretch ends among the documents, the newest stretch first.
    let (newest, oldest) = (stretches.at(time.get_val(begin)), stretches.at(time.get_val(end - 1)));
    let mut ends = Vec::with_capacity(newest - oldest + 1);
    for at in (oldest..=newest).rev() {
        let before = stretches.begin_ns.saturating_add(stretches.step_ns.saturating_mul(at as i64)).saturating_sub(1);
        let (_, stretch_end) = walk::span(&*time, reader.max_doc(), Range { from_ns: before + 1, to_ns: i64::MAX });
        ends.push((at, if at == oldest { end } else { stretch_end.min(end) }));
    }
    match set {
        Set::Run(..) => {
            let mut from = begin;
            for (at, end) in &ends {
                stretches.counts[*at] += u64::from(end - from);
                from = *end;
            }
        }
        Set::Bits { .. } => spread(set.iter(), &ends, &mut stretches.counts),
    }
    let length = stretches.counts.len();
    if let Some((name, by)) = &mut stretches.by {
        let mut documents = Vec::new();
        each_term(asked, reader, name, cancel, &mut |value, _, postings| {
            documents.clear();
            in_set(postings()?, set, &mut |document| documents.push(document));
            if !documents.is_empty()
                && let Some(series) = series(by, value, length)
            {
                spread(documents.iter().copied(), &ends, series);
            }
            Ok(())
        })?;
    }
    Ok(())
}

/// Counts documents, which rise, in the stretches that they are in.
fn spread(documents: impl Iterator<Item = u32>, ends: &[(usize, u32)], counts: &mut [u64]) {
    let mut ends = ends.iter();
    let Some(mut stretch) = ends.next() else { return };
    for document in documents {
        while document >= stretch.1 {
            match ends.next() {
                Some(next) => stretch = next,
                None => return,
            }
        }
        counts[stretch.0] += 1;
    }
}

/// Whether there are values of the name that have no terms of their own.
fn has_texts(asked: &Asked<'_>, reader: &SegmentReader, name: &str) -> Result<bool, Fault> {
    let failed = |error: std::io::Error| IndexFault { problem: error.to_string(), is_damage: false };
    let inverted = reader.inverted_index(asked.fields.term)?;
    if inverted.terms().get(text_term(name).as_bytes()).map_err(failed)?.is_some() {
        return Ok(true);
    }
    let begin = id_term(name, "");
    let mut ids = inverted.terms().range().ge(begin.as_bytes()).into_stream().map_err(failed)?;
    Ok(ids.advance() && ids.key().starts_with(begin.as_bytes()))
}

#[allow(clippy::too_many_arguments, reason = "one step of a walk, split off for its length")]
fn sample_texts(
    asked: &Asked<'_>,
    ordinal: u32,
    name: &str,
    set: &Set,
    read: Read,
    counted: &mut Counted,
    others: &mut u64,
    sample: &mut Sample,
    cancel: &Cancel,
) -> Result<(), Fault> {
    for document in set.iter() {
        if sample.read >= SAMPLE_MAX {
            break;
        }
        let source = walk::source(asked.searcher, asked.fields, DocAddress::new(ordinal, document))?;
        let mut has_any = false;
        for value in read(&source).values(name) {
            if let Value::Text(value) | Value::Id(value) = value {
                add(counted, others, value, 1);
                has_any = true;
            }
        }
        sample.counted += u64::from(has_any);
        sample.read += 1;
        if sample.read.is_multiple_of(CANCEL_EVERY) && cancel.is_cancelled() {
            return Err(Fault::Cancelled);
        }
    }
    Ok(())
}

fn numbers(reader: &SegmentReader, name: &str, set: &Set, sketch: &mut DDSketch) -> Result<(), Fault> {
    for handle in reader.fast_fields().dynamic_column_handles(&column_path(name))? {
        let failed = |error: std::io::Error| IndexFault { problem: error.to_string(), is_damage: false };
        match handle.open().map_err(failed)? {
            DynamicColumn::I64(column) => {
                set.iter()
                    .flat_map(|document| column.values_for_doc(document))
                    .for_each(|number| sketch.add(number as f64));
            }
            DynamicColumn::U64(column) => {
                set.iter()
                    .flat_map(|document| column.values_for_doc(document))
                    .for_each(|number| sketch.add(number as f64));
            }
            DynamicColumn::F64(column) => {
                set.iter().flat_map(|document| column.values_for_doc(document)).for_each(|number| sketch.add(number));
            }
            _ => {} // only numbers were put there
        }
    }
    Ok(())
}
