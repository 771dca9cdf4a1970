//! Exemplars: single measurements that say in which trace they were taken.
//!
//! The newest of each series are kept, and the newest of all: when there are too many, those that came first go. They are in memory, come
//! through the journal with their samples, and stand in a file beside the head's snapshot, so that a restart keeps them.

use std::collections::{HashMap, VecDeque};
use std::io::{self, Write as _};
use std::path::Path;

use opentelemetry_proto::tonic::metrics::v1::{Exemplar as OtlpExemplar, exemplar};

use super::api_otlp::ms;
use super::codec::{Malformed, Reader, Writer};
use super::model::{Labels, Pair, Selector};
use super::{files, naming};
use crate::signals::attributes::id;

/// Most exemplars of one series.
pub(super) const PER_SERIES_MAX: usize = 10;
/// Most of all series together.
const TOTAL_MAX: usize = 20_000;
/// Characters of what an exemplar says beside its trace and span.
const CHARS_MAX: usize = 128;
const MAGIC: &[u8; 8] = b"BKMEXM\x00\x01";

/// A measurement and where it was taken: `trace_id`, `span_id`, and attributes that its series does not have.
#[derive(Clone, Debug)]
pub(super) struct Exemplar {
    pub(super) t_ms: i64,
    pub(super) value: f64,
    pub(super) labels: Labels,
}

/// Equal to the bit: two NaNs may be equal.
impl PartialEq for Exemplar {
    fn eq(&self, other: &Self) -> bool {
        self.t_ms == other.t_ms && self.value.to_bits() == other.value.to_bits() && self.labels == other.labels
    }
}

impl Exemplar {
    /// Where a measurement was taken, if it says so. What else it says is kept as far as it is short.
    pub(super) fn of(given: &OtlpExemplar) -> Option<Self> {
        let (trace_id, span_id) = (id(&given.trace_id, 16)?, id(&given.span_id, 8));
        let mut pairs: Vec<Pair> = vec![("trace_id".into(), trace_id.into())];
        pairs.extend(span_id.map(|span_id| ("span_id".into(), span_id.into())));
        let others = given.filtered_attributes.iter().map(|one| (naming::label(&one.key), naming::value_text(one)));
        let mut others: Vec<_> = others.collect();
        others.sort();
        let mut room = CHARS_MAX;
        for (name, value) in others {
            let chars = name.chars().count() + value.chars().count();
            if chars <= room && name != "trace_id" && name != "span_id" {
                room -= chars;
                pairs.push((name.into(), value.into()));
            }
        }
        let value = match given.value? {
            exemplar::Value::AsDouble(value) => value,
            exemplar::Value::AsInt(value) => value as f64,
        };
        Some(Self { t_ms: ms(given.time_unix_nano), value, labels: Labels::new(pairs) })
    }

    pub(super) fn write(&self, out: &mut Writer) {
        out.signed(self.t_ms);
        out.float(self.value);
        out.labels(&self.labels);
    }

    pub(super) fn read(from: &mut Reader<'_>) -> Result<Self, Malformed> {
        Ok(Self { t_ms: from.signed()?, value: from.float()?, labels: from.labels()? })
    }
}

/// The exemplars that are kept.
#[derive(Debug, Default)]
pub(super) struct Exemplars {
    /// In the order of their moments, each with its number.
    by_series: HashMap<Labels, VecDeque<(u64, Exemplar)>>,
    /// Series and number of each in the order of arrival; some have gone since.
    arrived: VecDeque<(Labels, u64)>,
    next: u64,
    kept: usize,
}

impl Exemplars {
    /// Keeps an exemplar, unless it is there already or older than all that its series may have. Exporters send the same one again.
    pub(super) fn add(&mut self, series: &Labels, exemplar: Exemplar) {
        let of_series = self.by_series.entry(series.clone()).or_default();
        if of_series.iter().any(|(_, known)| *known == exemplar) {
            return;
        }
        let at = of_series.partition_point(|(_, known)| known.t_ms <= exemplar.t_ms);
        if of_series.len() >= PER_SERIES_MAX {
            if at == 0 {
                return;
            }
            of_series.pop_front();
            of_series.insert(at - 1, (self.next, exemplar));
        } else {
            of_series.insert(at, (self.next, exemplar));
            self.kept += 1;
        }
        self.arrived.push_back((series.clone(), self.next));
        self.next += 1;
        while self.kept > TOTAL_MAX {
            self.drop_first();
        }
        if self.arrived.len() > 2 * TOTAL_MAX {
            let by_series = &self.by_series;
            self.arrived.retain(|(series, number)| {
                by_series.get(series).is_some_and(|known| known.iter().any(|(other, _)| other == number))
            });
        }
    }

    fn drop_first(&mut self) {
        let Some((series, number)) = self.arrived.pop_front() else { return };
        let Some(known) = self.by_series.get_mut(&series) else { return };
        let before = known.len();
        known.retain(|(other, _)| *other != number);
        self.kept -= before - known.len();
        if known.is_empty() {
            self.by_series.remove(&series);
        }
    }

    /// Those of the series that `selector` means between two moments, both included, by series, each earliest first.
    pub(super) fn select(&self, selector: &Selector, from_ms: i64, to_ms: i64) -> Vec<(Labels, Vec<Exemplar>)> {
        let of_series = |(labels, known): (&Labels, &VecDeque<(u64, Exemplar)>)| {
            let within = |exemplar: &&Exemplar| exemplar.t_ms >= from_ms && exemplar.t_ms <= to_ms;
            let found: Vec<_> = known.iter().map(|(_, exemplar)| exemplar).filter(within).cloned().collect();
            (!found.is_empty()).then(|| (labels.clone(), found))
        };
        let meant = self.by_series.iter().filter(|(labels, _)| selector.matches(labels));
        let mut found: Vec<_> = meant.filter_map(of_series).collect();
        found.sort_by(|a, b| a.0.cmp(&b.0));
        found
    }

    pub(super) fn encode(&self) -> Vec<u8> {
        let mut out = Writer::default();
        out.bytes.extend(MAGIC);
        out.number(self.kept as u64);
        for (series, number) in &self.arrived {
            let known = self.by_series.get(series).and_then(|known| known.iter().find(|(other, _)| other == number));
            if let Some((_, exemplar)) = known {
                out.labels(series);
                exemplar.write(&mut out);
            }
        }
        out.bytes
    }

    fn decode(body: &[u8]) -> Result<Self, Malformed> {
        let mut from = Reader::new(body);
        if from.take(MAGIC.len())? != MAGIC {
            return Err(Malformed("it is no file of exemplars, or of a later version"));
        }
        let mut made = Self::default();
        for _ in 0..from.count()? {
            let series = from.labels()?;
            made.add(&series, Exemplar::read(&mut from)?);
        }
        Ok(made)
    }

    /// Reads the file at `path`. One that is missing or damaged has none: what is lost are examples.
    pub(super) fn open(path: &Path) -> Self {
        let read = || -> Result<Self, String> {
            let bytes = match std::fs::read(path) {
                Ok(bytes) => bytes,
                Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Self::default()),
                Err(error) => return Err(error.to_string()),
            };
            let (body, crc) = bytes.split_last_chunk::<4>().ok_or("it is too short")?;
            if crc32c::crc32c(body).to_le_bytes() != *crc {
                return Err("its checksum does not fit".to_owned());
            }
            Self::decode(body).map_err(|problem| problem.to_string())
        };
        read().unwrap_or_else(|problem| {
            tracing::warn!(problem, path = %path.display(), "the exemplars are not read; there are none for now");
            Self::default()
        })
    }

    /// Makes the file at `path` be `bytes`.
    pub(super) fn save(path: &Path, bytes: &[u8]) -> io::Result<()> {
        files::replace(path, |out| {
            out.write_all(bytes)?;
            let crc = out.crc;
            out.write_all(&crc.to_le_bytes())
        })
    }
}

/// Reads `body` as a file of exemplars, and throws the outcome away: for fuzzing.
pub(super) fn fuzz_body(body: &[u8]) {
    let _ = Exemplars::decode(body);
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::model::Matcher;
    use super::*;

    fn series(number: usize) -> Labels {
        Labels::from_texts(&[("__name__", "x_bucket"), ("le", &number.to_string())])
    }

    fn exemplar(t_ms: i64) -> Exemplar {
        Exemplar { t_ms, value: 0.5, labels: Labels::from_texts(&[("trace_id", "ab")]) }
    }

    fn all() -> Selector {
        Selector { alternatives: vec![vec![Matcher::equal("__name__", "x_bucket")]] }
    }

    #[test]
    fn a_series_keeps_its_newest_and_one_that_came_twice_once() {
        let mut kept = Exemplars::default();
        for t_ms in [5, 1, 9, 5, 20, 21, 22, 23, 24, 25, 26, 27, 0] {
            kept.add(&series(1), exemplar(t_ms));
        }
        let moments = |from, to| -> Vec<i64> {
            let found = kept.select(&all(), from, to);
            found.into_iter().flat_map(|(_, of)| of).map(|exemplar| exemplar.t_ms).collect()
        };
        assert_eq!(moments(i64::MIN, i64::MAX), [5, 9, 20, 21, 22, 23, 24, 25, 26, 27]);
        assert_eq!(moments(9, 20), [9, 20]);
        assert_eq!(kept.select(&Selector { alternatives: vec![vec![Matcher::equal("le", "2")]] }, 0, 99), []);
    }

    #[test]
    fn of_too_many_the_first_go_and_nothing_grows() {
        let mut kept = Exemplars::default();
        for at in 0..3 * TOTAL_MAX {
            kept.add(&series(at), exemplar(1));
        }
        // The series that stay get new ones: what they push out leaves nothing behind.
        for t_ms in 2..100 {
            (3 * TOTAL_MAX - 1_000..3 * TOTAL_MAX).for_each(|at| kept.add(&series(at), exemplar(t_ms)));
        }
        assert!(kept.kept <= TOTAL_MAX && kept.arrived.len() <= 2 * TOTAL_MAX + 1);
        let really: usize = kept.by_series.values().map(VecDeque::len).sum();
        assert_eq!((really, kept.by_series.values().all(|known| !known.is_empty())), (kept.kept, true));
        assert!(kept.select(&all(), 99, 99).len() == 1_000);
    }

    #[test]
    fn a_restart_keeps_them_and_damage_is_no_fault() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("exemplars.snapshot");
        assert_eq!(Exemplars::open(&path).kept, 0);
        let mut kept = Exemplars::default();
        for at in 0..30 {
            kept.add(&series(at % 3), exemplar(at as i64));
        }
        Exemplars::save(&path, &kept.encode()).unwrap();
        let found = |of: &Exemplars| of.select(&all(), i64::MIN, i64::MAX);
        assert_eq!(found(&Exemplars::open(&path)), found(&kept));
        let mut bytes = std::fs::read(&path).unwrap();
        bytes[20] ^= 1;
        std::fs::write(&path, &bytes).unwrap();
        assert_eq!(Exemplars::open(&path).kept, 0);
    }

    proptest! {
        #[test]
        fn garbage_is_an_error_and_no_panic(bytes: Vec<u8>) {
            let _ = Exemplars::decode(&bytes);
            let _ = Exemplars::decode(&[MAGIC.as_slice(), &bytes].concat());
        }
    }
}
