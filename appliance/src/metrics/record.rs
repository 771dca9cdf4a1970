//! What one journal record of metrics holds: samples with their labels, and what is known of the metrics' names.

use std::sync::Arc;

use super::codec::{Malformed, Reader, Writer};
use super::exemplars::Exemplar;
use super::model::Labels;

/// Of a record without exemplars.
const VERSION: u64 = 1;
/// Exemplars come last.
const VERSION_WITH_EXEMPLARS: u64 = 2;

/// What a value does to its series.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// It is the series' value.
    Value,
    /// It is added to the series' last value: a sum of delta temporality.
    Delta,
}

/// A sample on its way into the head.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Point {
    pub(super) t_ms: i64,
    pub(super) value: f64,
    pub(super) step: Step,
}

/// What a metric is, for `/api/v1/metadata`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Metadata {
    /// `counter`, `gauge`, `histogram`, `summary`, `unknown`.
    pub(super) kind: Arc<str>,
    pub(super) unit: Arc<str>,
    pub(super) help: Arc<str>,
}

/// Samples that are taken together.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Batch {
    pub(super) metadata: Vec<(Arc<str>, Metadata)>,
    pub(super) series: Vec<(Labels, Vec<Point>)>,
    pub(super) exemplars: Vec<(Labels, Exemplar)>,
}

impl Batch {
    pub(super) fn points(&self) -> usize {
        self.series.iter().map(|(_, points)| points.len()).sum()
    }

    pub(super) fn encode(&self) -> Vec<u8> {
        let mut out = Writer::default();
        out.number(if self.exemplars.is_empty() { VERSION } else { VERSION_WITH_EXEMPLARS });
        out.number(self.metadata.len() as u64);
        for (name, metadata) in &self.metadata {
            write_metadata(&mut out, name, metadata);
        }
        out.number(self.series.len() as u64);
        let mut last_ms = 0;
        for (labels, points) in &self.series {
            out.labels(labels);
            out.number(points.len() as u64);
            for point in points {
                out.number(u64::from(point.step == Step::Delta));
                out.signed(point.t_ms.wrapping_sub(last_ms));
                out.float(point.value);
                last_ms = point.t_ms;
            }
        }
        if !self.exemplars.is_empty() {
            out.number(self.exemplars.len() as u64);
            for (series, exemplar) in &self.exemplars {
                out.labels(series);
                exemplar.write(&mut out);
            }
        }
        out.bytes
    }

    pub(super) fn decode(bytes: &[u8]) -> Result<Self, Malformed> {
        let mut from = Reader::new(bytes);
        let version = from.number()?;
        if version != VERSION && version != VERSION_WITH_EXEMPLARS {
            return Err(Malformed("it was written by a later version"));
        }
        let mut batch = Self::default();
        for _ in 0..from.count()? {
            batch.metadata.push(read_metadata(&mut from)?);
        }
        let mut last_ms = 0_i64;
        for _ in 0..from.count()? {
            let labels = from.labels()?;
            let mut points = Vec::new();
            for _ in 0..from.count()? {
                let step = if from.number()? == 1 { Step::Delta } else { Step::Value };
                last_ms = last_ms.wrapping_add(from.signed()?);
                points.push(Point { t_ms: last_ms, value: from.float()?, step });
            }
            batch.series.push((labels, points));
        }
        if version == VERSION_WITH_EXEMPLARS {
            for _ in 0..from.count()? {
                batch.exemplars.push((from.labels()?, Exemplar::read(&mut from)?));
            }
        }
        Ok(batch)
    }
}

pub(super) fn write_metadata(out: &mut Writer, name: &Arc<str>, metadata: &Metadata) {
    for text in [name, &metadata.kind, &metadata.unit, &metadata.help] {
        out.text(text);
    }
}

pub(super) fn read_metadata(from: &mut Reader<'_>) -> Result<(Arc<str>, Metadata), Malformed> {
    Ok((from.text()?, Metadata { kind: from.text()?, unit: from.text()?, help: from.text()? }))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_batch_survives_the_journal() {
        let metadata = Metadata { kind: "counter".into(), unit: "s".into(), help: "Seconds.".into() };
        let points = vec![
            Point { t_ms: 1_700_000_000_000, value: 1.5, step: Step::Delta },
            Point { t_ms: 1_700_000_000_001, value: -0.0, step: Step::Value },
            Point { t_ms: -5, value: 7.0, step: Step::Value },
        ];
        let labels = Labels::from_texts(&[("__name__", "x_total"), ("job", "a")]);
        let mut batch = Batch {
            metadata: vec![("x_total".into(), metadata)],
            series: vec![(labels.clone(), points)],
            exemplars: Vec::new(),
        };
        assert_eq!(Batch::decode(&batch.encode()), Ok(batch.clone()));
        let place = Labels::from_texts(&[("trace_id", "abc"), ("span_id", "d")]);
        batch.exemplars.push((labels, Exemplar { t_ms: -7, value: f64::NAN, labels: place }));
        assert_eq!(Batch::decode(&batch.encode()), Ok(batch));
    }

    proptest! {
        #[test]
        fn garbage_is_an_error_and_no_panic(bytes: Vec<u8>) {
            let _ = Batch::decode(&bytes);
        }
    }
}
