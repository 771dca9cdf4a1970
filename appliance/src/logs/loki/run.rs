//! Runs a query: asks the windows for what they know, reads the rest record by record, within bounds.

mod counts;
mod plan;

use std::sync::Arc;

use backlot_windows::{Hit, Order, Query, Reach};

use super::answer::Refused;
use super::evaluate::{Gathered, Series, Steps, Value, evaluate};
use super::logql::{LogExpr, Matcher, Metric, RangeAggregate};
use super::pipeline::{Line, apply};
use super::streams::{Selection, line_of, narrowed, select, selects};
use crate::logs::Logs;
use crate::logs::pages::{Cost, Pages};
use plan::Plan;

/// Most streams that one query looks at.
const STREAMS_MAX: usize = 5000;
/// Most bytes of lines and labels in one answer.
const ANSWER_BYTES_MAX: usize = 64 << 20;

/// Runs one query and counts what it costs.
pub(super) struct Run {
    logs: Logs,
    pub(super) cost: Cost,
}

impl Run {
    pub(super) fn new(logs: &Logs) -> Self {
        Self { cost: Cost::new(logs), logs: logs.clone() }
    }

    pub(super) fn took_ms(&self) -> u64 {
        self.cost.took_ms(&self.logs)
    }

    /// The streams that a selector means and that have records from the first to the second moment, both included.
    pub(super) async fn select(&self, matchers: &[Matcher], range: (i64, i64)) -> Result<Selection, Refused> {
        let streams = self.logs.streams(&Query::All, range, STREAMS_MAX + 1, Reach::Everywhere).await?;
        if streams.len() > STREAMS_MAX {
            return Err(Refused::bad(format!(
                "there are more than {STREAMS_MAX} streams in this time range; consider reducing the time range"
            )));
        }
        Ok(select(matchers, streams))
    }

    /// Lines from the first to the second moment, both included, that pass, in `order`.
    pub(super) async fn lines(
        &mut self,
        log: Arc<LogExpr>,
        range: (i64, i64),
        order: Order,
        limit: usize,
    ) -> Result<Vec<Line>, Refused> {
        if range.0 > range.1 {
            return Ok(Vec::new());
        }
        let selection = self.select(&log.matchers, range).await?;
        if selection.streams.is_empty() {
            return Ok(Vec::new());
        }
        let (query, exact) = narrowed(&selection, &log.stages);
        let mut pages = Pages::new(query, range, order, if exact { limit } else { usize::MAX });
        let (mut lines, mut bytes) = (Vec::new(), 0);
        while let Some(hits) = pages.next(&self.logs, &mut self.cost).await? {
            let log = Arc::clone(&log);
            let room = limit - lines.len();
            let passed = blocking(move || {
                let mut passed = Vec::new();
                // Stages may make much of little, so it is watched as they do.
                for line in hits.iter().filter_map(|hit| passing(&log, hit)).take(room) {
                    bytes += line.bytes();
                    if bytes > ANSWER_BYTES_MAX {
                        return Err(Refused::bad(format!(
                            "the answer would have more than {ANSWER_BYTES_MAX} bytes; consider a smaller limit"
                        )));
                    }
                    passed.push(line);
                }
                Ok((passed, bytes))
            });
            let (passed, so_far) = passed.await??;
            bytes = so_far;
            lines.extend(passed);
            if lines.len() >= limit {
                break;
            }
        }
        Ok(lines)
    }

    /// Evaluates `metric` at `steps`.
    pub(super) async fn metric(&mut self, metric: Metric, steps: Steps) -> Result<Value, Refused> {
        let metric = Arc::new(metric);
        let plan = Plan::of(&metric);
        let mut ranges = Vec::new();
        for id in 0..plan.ranges {
            let series = match plan::range(&metric, id) {
                Some(aggregate) => self.range(&metric, aggregate, &plan, steps).await?,
                None => Vec::new(), // folded away
            };
            ranges.push(series);
        }
        blocking(move || evaluate(&metric, steps, &ranges)).await?.map_err(Refused::from)
    }

    /// The series of one aggregation over ranges.
    async fn range(
        &mut self,
        metric: &Arc<Metric>,
        aggregate: &RangeAggregate,
        plan: &Plan,
        steps: Steps,
    ) -> Result<Vec<Series>, Refused> {
        let from_ns = steps.start_ns.saturating_sub(aggregate.offset_ns).saturating_sub(aggregate.range_ns);
        let range = (from_ns.saturating_add(1), steps.end_ns().saturating_sub(aggregate.offset_ns));
        let selection = self.select(&aggregate.log.matchers, range).await?;
        let parting = plan.parting(aggregate);
        let (query, exact) = narrowed(&selection, &aggregate.log.stages);
        if selection.streams.is_empty() {
            return Ok(Gathered::default().at(aggregate, steps)?); // nothing may be an answer, too
        }
        if exact
            && let Some(series) = counts::series(&self.logs, aggregate, &parting, &selection, &query, steps).await?
        {
            return Ok(series);
        }
        let mut pages = Pages::new(query, range, Order::Newest, usize::MAX);
        let mut gathered = Gathered::default();
        let id = aggregate.id;
        let parting = Arc::new(parting);
        while let Some(hits) = pages.next(&self.logs, &mut self.cost).await? {
            let (metric, parting) = (Arc::clone(metric), Arc::clone(&parting));
            gathered = blocking(move || {
                let Some(aggregate) = plan::range(&metric, id) else { return Ok(gathered) };
                for line in hits.iter().filter_map(|hit| passing(&aggregate.log, hit)) {
                    gathered.take(aggregate, &parting, line)?;
                }
                Ok::<_, Refused>(gathered)
            })
            .await??;
        }
        let metric = Arc::clone(metric);
        blocking(move || {
            let Some(aggregate) = plan::range(&metric, id) else { return Ok(Vec::new()) };
            gathered.at(aggregate, steps).map_err(Refused::from)
        })
        .await?
    }
}

/// The line of a record, if it passes.
pub(super) fn passing(log: &LogExpr, hit: &Hit) -> Option<Line> {
    let mut line = line_of(hit.position, &hit.source)?;
    (selects(&log.matchers, &line.labels) && apply(&log.stages, &mut line)).then_some(line)
}

/// Work that keeps a core busy, where it does not keep others waiting.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, Refused> {
    tokio::task::spawn_blocking(work).await.map_err(|error| Refused::from(crate::edge::ApiError::internal(&error)))
}
