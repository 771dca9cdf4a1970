//! What can be said of a query before anything is read.

use std::collections::{BTreeMap, BTreeSet};

use crate::logs::loki::evaluate::Parting;
use crate::logs::loki::logql::{AggregateOp, Grouping, Metric, RangeAggregate, RangeOp};

#[derive(Debug, Default)]
pub(super) struct Plan {
    /// How many aggregations over ranges there are at most.
    pub(super) ranges: usize,
    /// Groupings of the sums that stand right around a range: what they throw away need not be gathered.
    sums: BTreeMap<usize, Grouping>,
    /// Labels that the query names outside of its pipelines.
    names: BTreeSet<String>,
}

impl Plan {
    pub(super) fn of(metric: &Metric) -> Self {
        let mut plan = Self::default();
        plan.take(metric);
        plan
    }

    fn take(&mut self, metric: &Metric) {
        match metric {
            Metric::Number(_) | Metric::Vector(_) => {}
            Metric::Range(range) => {
                self.ranges = self.ranges.max(range.id + 1);
                self.name(range.grouping.as_ref());
            }
            Metric::Aggregate(aggregate) => {
                self.name(Some(&aggregate.grouping));
                if let Metric::Range(range) = &aggregate.of
                    && aggregate.op == AggregateOp::Sum
                    && matches!(
                        range.op,
                        RangeOp::Rate | RangeOp::CountOverTime | RangeOp::BytesRate | RangeOp::BytesOverTime
                    )
                {
                    self.sums.insert(range.id, aggregate.grouping.clone());
                }
                self.take(&aggregate.of);
            }
            Metric::Binary(binary) => {
                if binary.matching.on {
                    self.names.extend(binary.matching.names.iter().cloned());
                }
                if let Some(many) = &binary.matching.many {
                    self.names.extend(many.include.iter().cloned());
                }
                self.take(&binary.left);
                self.take(&binary.right);
            }
            Metric::LabelReplace(replace) => {
                self.names.insert(replace.from.clone());
                self.take(&replace.of);
            }
        }
    }

    fn name(&mut self, grouping: Option<&Grouping>) {
        if let Some(grouping) = grouping.filter(|grouping| !grouping.without) {
            self.names.extend(grouping.names.iter().cloned());
        }
    }

    pub(super) fn parting(&self, aggregate: &RangeAggregate) -> Parting {
        let grouping = aggregate.grouping.clone().or_else(|| self.sums.get(&aggregate.id).cloned());
        Parting { grouping, metadata: self.names.iter().cloned().collect() }
    }
}

/// The aggregation over a range with this number.
pub(super) fn range(metric: &Metric, id: usize) -> Option<&RangeAggregate> {
    match metric {
        Metric::Number(_) | Metric::Vector(_) => None,
        Metric::Range(aggregate) => (aggregate.id == id).then_some(aggregate),
        Metric::Aggregate(aggregate) => range(&aggregate.of, id),
        Metric::Binary(binary) => range(&binary.left, id).or_else(|| range(&binary.right, id)),
        Metric::LabelReplace(replace) => range(&replace.of, id),
    }
}
