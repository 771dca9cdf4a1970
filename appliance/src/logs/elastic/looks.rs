//! How an answer looks where a client asks for another form of it: `typed_keys` and `rest_total_hits_as_int`.

use serde_json::{Map, Value as Json, json};

use super::Refused;
use super::aggregations::{Aggregation, Kind, Metric};
use super::search::{Request, TOTAL_DEFAULT};

/// What is asked for of the form of an answer.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Looks {
    /// The names of aggregations say what they are: `date_histogram#per_hour`.
    pub(super) typed_keys: bool,
    /// The number of hits is a number.
    pub(super) total_as_int: bool,
}

impl Looks {
    /// The parameters that say so.
    pub(super) const NAMES: [&str; 2] = ["typed_keys", "rest_total_hits_as_int"];

    /// Lets a request be answered so: a plain number of hits is a whole one.
    pub(super) fn ask(self, request: &mut Request) -> Result<(), Refused> {
        match request.total_max {
            _ if !self.total_as_int => {}
            None | Some(u64::MAX) => {}
            Some(TOTAL_DEFAULT) => request.total_max = Some(u64::MAX),
            Some(most) => {
                return Err(Refused::illegal(format!(
                    "[rest_total_hits_as_int] cannot be used if the tracking of total hits is not accurate, got {most}"
                )));
            }
        }
        Ok(())
    }

    pub(super) fn apply(self, aggregations: &[Aggregation], answer: &mut Json) {
        if self.total_as_int {
            let total = answer["hits"]["total"]["value"].as_u64();
            answer["hits"]["total"] = total.map_or(json!(-1), Json::from);
        }
        if self.typed_keys
            && let Some(told) = answer.get_mut("aggregations").and_then(Json::as_object_mut)
        {
            name_all(aggregations, told);
        }
    }
}

/// Puts its type before the name of each aggregation, here and in the buckets below.
fn name_all(aggregations: &[Aggregation], told: &mut Map<String, Json>) {
    for aggregation in aggregations {
        let Some(mut value) = told.remove(&aggregation.name) else { continue };
        let kind = kind_of(&aggregation.kind, &value);
        match value.get_mut("buckets") {
            Some(Json::Array(buckets)) => {
                buckets.iter_mut().filter_map(Json::as_object_mut).for_each(|it| name_all(&aggregation.inner, it));
            }
            Some(Json::Object(buckets)) => {
                let buckets = buckets.iter_mut().filter_map(|(_, bucket)| bucket.as_object_mut());
                buckets.for_each(|it| name_all(&aggregation.inner, it));
            }
            _ => {}
        }
        told.insert(format!("{kind}#{}", aggregation.name), value);
    }
}

fn kind_of(kind: &Kind, told: &Json) -> &'static str {
    match kind {
        Kind::Dates { .. } => "date_histogram",
        Kind::Histogram { .. } => "histogram",
        Kind::Filters(_) => "filters",
        Kind::Terms { .. } => {
            let keys = || told["buckets"].as_array().into_iter().flatten().map(|bucket| &bucket["key"]);
            match () {
                () if keys().next().is_none() || !keys().all(Json::is_number) => "sterms",
                () if keys().all(|key| key.is_i64() || key.is_u64()) => "lterms",
                () => "dterms",
            }
        }
        Kind::Metric { metric, .. } => match metric {
            Metric::Avg => "avg",
            Metric::Sum => "sum",
            Metric::Min => "min",
            Metric::Max => "max",
            Metric::Count => "value_count",
            Metric::Cardinality => "cardinality",
            Metric::Stats => "stats",
            Metric::ExtendedStats => "extended_stats",
            Metric::Percentiles(_) => "tdigest_percentiles",
        },
        Kind::Pipeline(pipeline) => pipeline.answered_as(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::Now;
    use crate::logs::elastic::aggregations;

    #[test]
    fn typed_names_go_down_into_the_buckets() {
        let asked = json!({
            "per_hour": {"date_histogram": {"field": "@timestamp", "fixed_interval": "1h"}, "aggs": {
                "who": {"terms": {"field": "service"}, "aggs": {"took": {"avg": {"field": "ms"}}}},
                "sum": {"sum": {"field": "ms"}},
                "change": {"derivative": {"buckets_path": "sum"}},
            }},
            "levels": {"filters": {"filters": {"bad": {"match_all": {}}}}, "aggs": {"p": {"percentiles": {"field": "ms"}}}},
            "takes": {"terms": {"field": "take"}},
            "parts": {"terms": {"field": "part"}},
        });
        let asked = aggregations::read(&asked, Now::default()).unwrap();
        let mut answer = json!({"hits": {"total": {"value": 7, "relation": "eq"}}, "aggregations": {
            "per_hour": {"buckets": [{"key": 1, "who": {"buckets": [{"key": "a", "took": {"value": 1.0}}]}, "sum": {"value": 2.0}, "change": {"value": 0.0}}]},
            "levels": {"buckets": {"bad": {"doc_count": 1, "p": {"values": {}}}}},
            "takes": {"buckets": [{"key": 3}]},
            "parts": {"buckets": [{"key": 3}, {"key": 0.5}]},
        }});
        Looks { typed_keys: true, total_as_int: true }.apply(&asked, &mut answer);
        assert_eq!(
            answer,
            json!({"hits": {"total": 7}, "aggregations": {
                "date_histogram#per_hour": {"buckets": [{
                    "key": 1, "sterms#who": {"buckets": [{"key": "a", "avg#took": {"value": 1.0}}]}, "sum#sum": {"value": 2.0}, "derivative#change": {"value": 0.0},
                }]},
                "filters#levels": {"buckets": {"bad": {"doc_count": 1, "tdigest_percentiles#p": {"values": {}}}}},
                "lterms#takes": {"buckets": [{"key": 3}]},
                "dterms#parts": {"buckets": [{"key": 3}, {"key": 0.5}]},
            }})
        );
    }

    #[test]
    fn a_plain_number_of_hits_is_a_whole_one() {
        let ask = |body: Json| {
            let mut request = Request::read(&body, Now::default()).unwrap();
            Looks { total_as_int: true, ..Looks::default() }.ask(&mut request).map(|()| request.total_max)
        };
        assert_eq!(ask(json!({})), Ok(Some(u64::MAX)));
        assert_eq!(ask(json!({"track_total_hits": false})), Ok(None));
        assert!(ask(json!({"track_total_hits": 100})).unwrap_err().reason.contains("accurate"));
    }
}
