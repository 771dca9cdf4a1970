//! Aggregations that are counts of records, by time and by a field that is found as a whole: the windows count them without reading a record.

use backlot_windows::{Histogram, Told, Values, Want};

use super::collected::{BucketKey, Collected};
use super::{Aggregation, Kind};
use crate::edge::ApiError;
use crate::logs::Logs;
use crate::logs::elastic::Refused;
use crate::logs::elastic::fields::{Field, Key};
use crate::logs::elastic::question::Question;
use crate::logs::moments::Interval;

/// Values that a histogram tells apart at most; with as many there may be more.
const SERIES_MAX: usize = 500;
const VALUES_MAX: usize = 50_000;

/// The shape of what the windows can count.
struct Shape<'a> {
    /// Length and a beginning of the buckets of time.
    dates: Option<(i64, i64)>,
    terms: Option<(&'a str, Option<&'a str>)>,
    terms_first: bool,
}

impl<'a> Shape<'a> {
    fn of(aggregations: &'a [Aggregation]) -> Option<Self> {
        let mut shape = Self { dates: None, terms: None, terms_first: false };
        let mut within = aggregations;
        // What is made of the buckets when they are there changes nothing.
        while within.first().is_some_and(|aggregation| aggregation.pipeline().is_none()) {
            let (aggregation, others) = within.split_first()?;
            if others.iter().any(|other| other.pipeline().is_none()) {
                return None;
            }
            match &aggregation.kind {
                Kind::Dates { interval: Interval::Fixed { length_ns, origin_ns }, zone_ns, .. }
                    if shape.dates.is_none() =>
                {
                    shape.dates = Some((*length_ns, origin_ns - zone_ns));
                }
                Kind::Terms { field: Field::Keyword(name), missing, .. } if shape.terms.is_none() => {
                    shape.terms = Some((name, missing.as_deref()));
                    shape.terms_first = shape.dates.is_none();
                }
                _ => return None,
            }
            within = &aggregation.inner;
        }
        (shape.dates.is_some() || shape.terms.is_some()).then_some(shape)
    }

    fn path(&self, moment_ns: Option<i64>, value: Option<&str>) -> Vec<BucketKey> {
        let mut path: Vec<_> = moment_ns.map(BucketKey::Moment).into_iter().collect();
        if let Some(value) = value {
            let key = BucketKey::Value(Key::Text(value.to_owned()));
            path.insert(if self.terms_first { 0 } else { path.len() }, key);
        }
        path
    }
}

/// What is counted, and how many records answer. `None`: the records have to be read.
pub(in crate::logs::elastic) async fn counted(
    logs: &Logs,
    question: &Question,
    aggregations: &[Aggregation],
) -> Result<Option<(Collected, u64)>, Refused> {
    let Some(shape) = Shape::of(aggregations) else { return Ok(None) };
    let Some(range) = logs.store.extent_now(question.range.0, question.range.1).await else {
        return Ok(Some((Collected::default(), 0)));
    };
    let want = match (shape.dates, shape.terms) {
        (Some((step_ns, origin_ns)), terms) => {
            Want::Histogram { step_ns, origin_ns, by: terms.map(|(name, _)| name.to_owned()) }
        }
        (None, Some((name, _))) => Want::Values { name: name.to_owned(), limit: VALUES_MAX },
        (None, None) => return Ok(None),
    };
    let counts = match logs.store.tally(question.query.clone(), range, vec![want]).await {
        Ok(counts) => counts,
        // More stretches than the windows count at once.
        Err(ApiError { status: http::StatusCode::BAD_REQUEST, .. }) => return Ok(None),
        Err(error) => return Err(error.into()),
    };
    let mut collected = Collected::default();
    let whole = match counts.told.into_iter().next() {
        Some(Told::Histogram(told)) => take_histogram(&mut collected, aggregations, &shape, told)?,
        Some(Told::Values(told)) => take_values(&mut collected, aggregations, &shape, told, counts.matched)?,
        _ => false,
    };
    Ok(whole.then_some((collected, counts.matched)))
}

fn take_histogram(
    collected: &mut Collected,
    aggregations: &[Aggregation],
    shape: &Shape<'_>,
    told: Histogram,
) -> Result<bool, Refused> {
    let Histogram { begin_ns, step_ns, counts: mut rest, by } = told;
    if by.len() >= SERIES_MAX {
        return Ok(false);
    }
    let at =
        |stretch: usize| begin_ns.saturating_add(step_ns.saturating_mul(i64::try_from(stretch).unwrap_or(i64::MAX)));
    for (value, counts) in &by {
        for (stretch, count) in counts.iter().enumerate().filter(|(_, count)| **count > 0) {
            rest[stretch] = rest[stretch].saturating_sub(*count);
            collected.add(aggregations, &shape.path(Some(at(stretch)), Some(value)), *count)?;
        }
    }
    let missing = shape.terms.and_then(|(_, missing)| missing);
    for (stretch, count) in rest.into_iter().enumerate().filter(|(_, count)| *count > 0) {
        let path = match shape.terms {
            // A record without a value is in no bucket of values, but in that of its time.
            Some(_) if missing.is_none() && shape.terms_first => Vec::new(),
            _ => shape.path(Some(at(stretch)), missing),
        };
        collected.add(aggregations, &path, count)?;
    }
    Ok(true)
}

fn take_values(
    collected: &mut Collected,
    aggregations: &[Aggregation],
    shape: &Shape<'_>,
    told: Values,
    matched: u64,
) -> Result<bool, Refused> {
    if told.others > 0 {
        return Ok(false);
    }
    let mut rest = matched;
    for (value, count) in &told.top {
        rest = rest.saturating_sub(*count);
        collected.add(aggregations, &shape.path(None, Some(value)), *count)?;
    }
    if rest > 0 {
        let path = shape
            .terms
            .and_then(|(_, missing)| missing)
            .map_or_else(Vec::new, |missing| shape.path(None, Some(missing)));
        collected.add(aggregations, &path, rest)?;
    }
    Ok(true)
}
