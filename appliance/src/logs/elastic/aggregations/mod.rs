//! What is to be counted: reads the aggregations of a request, evaluates them record by record, or from the windows' counts.

mod collected;
mod counted;
mod pipelines;
mod script;

use serde_json::{Map, Value as Json};

use super::Refused;
use super::dates::written_as;
use super::fields::Field;
use super::lucene::lucene;
use super::question::{check, object};
use crate::clock::Now;
use crate::logs::moments::{Edge, Interval, moment_ns, zone_ns};
use backlot_windows::Query;

pub(super) use collected::Collected;
pub(super) use counted::counted;
use pipelines::Pipeline;

/// Most aggregations of a request, and how deep they stand in each other.
const COUNT_MAX: usize = 100;
const DEPTH_MAX: usize = 8;
/// Most buckets of an answer, as in Elasticsearch.
pub(super) const BUCKETS_MAX: usize = 65_536;
/// Most buckets of one terms aggregation.
const TERMS_MAX: usize = 10_000;
const TERMS_DEFAULT: usize = 10;
const PERCENTS: [f64; 7] = [1.0, 5.0, 25.0, 50.0, 75.0, 95.0, 99.0];

/// One aggregation and those within it.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Aggregation {
    pub(super) name: String,
    pub(super) kind: Kind,
    pub(super) inner: Vec<Aggregation>,
}

#[derive(Clone, Debug, PartialEq)]
pub(super) enum Kind {
    Dates {
        interval: Interval,
        zone_ns: i64,
        min_count: u64,
        bounds: Option<(i64, i64)>,
        format: Option<String>,
    },
    Histogram {
        field: Field,
        interval: f64,
        min_count: u64,
    },
    Terms {
        field: Field,
        size: usize,
        min_count: u64,
        order: Order,
        missing: Option<String>,
    },
    /// Names and what they ask for.
    Filters(Vec<(String, Query)>),
    Metric {
        field: Field,
        metric: Metric,
    },
    /// Made of the buckets that it stands in.
    Pipeline(Pipeline),
}

impl Aggregation {
    fn pipeline(&self) -> Option<&Pipeline> {
        match &self.kind {
            Kind::Pipeline(pipeline) => Some(pipeline),
            _ => None,
        }
    }
}

/// How terms are ordered.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Order {
    pub(super) by: OrderBy,
    pub(super) descending: bool,
}

#[derive(Clone, Debug, PartialEq)]
pub(super) enum OrderBy {
    Count,
    Key,
    /// A metric within each bucket, and which of its values.
    Metric(String, Option<String>),
}

#[derive(Clone, Debug, PartialEq)]
pub(super) enum Metric {
    Avg,
    Sum,
    Min,
    Max,
    Count,
    /// Of different values.
    Cardinality,
    Stats,
    ExtendedStats,
    Percentiles(Vec<f64>),
}

/// Reads `aggs`.
pub(super) fn read(aggregations: &Json, now: Now) -> Result<Vec<Aggregation>, Refused> {
    let mut left = COUNT_MAX;
    read_all(aggregations, now, 0, &mut left)
}

fn read_all(aggregations: &Json, now: Now, depth: usize, left: &mut usize) -> Result<Vec<Aggregation>, Refused> {
    if depth > DEPTH_MAX {
        return Err(Refused::illegal(format!("aggregations stand at most {DEPTH_MAX} deep in each other here")));
    }
    let one = |(name, body): (&String, &Json)| {
        *left = left
            .checked_sub(1)
            .ok_or_else(|| Refused::illegal(format!("a request has at most {COUNT_MAX} aggregations here")))?;
        read_one(name, object(body, name)?, now, depth, left)
    };
    object(aggregations, "aggs")?.iter().map(one).collect()
}

fn read_one(
    name: &str,
    body: &Map<String, Json>,
    now: Now,
    depth: usize,
    left: &mut usize,
) -> Result<Aggregation, Refused> {
    let is_inner = |name: &str| matches!(name, "aggs" | "aggregations");
    let mut kinds = body.iter().filter(|(kind, _)| !is_inner(kind) && *kind != "meta");
    let (Some((kind, options)), None) = (kinds.next(), kinds.next()) else {
        return Err(Refused::parsing(format!(
            "Expected one aggregation type in [{}]",
            backlot_windows::clip(name, 80)
        )));
    };
    let options = object(options, kind)?;
    let kind = match kind.as_str() {
        "date_histogram" => dates(options, now)?,
        "histogram" => histogram(options)?,
        "terms" => terms(options)?,
        "filters" => filters(options, now)?,
        other => match Pipeline::read(other, options)? {
            Some(_) if depth == 0 => {
                let problem = format!("aggregation [{name}] must stand within one that has buckets");
                return Err(Refused::new("action_request_validation_exception", problem));
            }
            Some(pipeline) => Kind::Pipeline(pipeline),
            None => metric(other, options)?,
        },
    };
    let inner = match body.iter().find(|(name, _)| is_inner(name)) {
        Some(_) if matches!(kind, Kind::Metric { .. } | Kind::Pipeline(_)) => {
            return Err(Refused::new(
                "aggregation_initialization_exception",
                format!("Aggregator [{name}] cannot accept sub-aggregations"),
            ));
        }
        Some((_, inner)) => {
            let has_order = matches!(kind, Kind::Dates { .. } | Kind::Histogram { .. });
            pipelines::in_order(name, has_order, read_all(inner, now, depth + 1, left)?)?
        }
        None => Vec::new(),
    };
    if let Kind::Terms { order: Order { by: OrderBy::Metric(by, _), .. }, .. } = &kind
        && !inner.iter().any(|inner| inner.name == *by && matches!(inner.kind, Kind::Metric { .. }))
    {
        return Err(Refused::new("aggregation_execution_exception", format!("Invalid aggregation order path [{by}]")));
    }
    Ok(Aggregation { name: name.to_owned(), kind, inner })
}

fn field(options: &Map<String, Json>, kind: &str) -> Result<Field, Refused> {
    let name = options.get("field").and_then(Json::as_str).filter(|name| !name.is_empty());
    name.map(Field::named).ok_or_else(|| {
        Refused::illegal(format!("Required one of fields [field, script], but none were specified in [{kind}]"))
    })
}

/// A number, which may be written as a text.
fn number(value: &Json) -> Option<f64> {
    value.as_f64().or_else(|| value.as_str()?.parse().ok()).filter(|number: &f64| number.is_finite())
}

fn min_count(options: &Map<String, Json>, default: u64) -> Result<u64, Refused> {
    let Some(value) = options.get("min_doc_count") else { return Ok(default) };
    let number = number(value).filter(|number| *number >= 0.0);
    number
        .map(|number| number as u64)
        .ok_or_else(|| Refused::illegal("[min_doc_count] must be greater than or equal to 0"))
}

fn dates(options: &Map<String, Json>, now: Now) -> Result<Kind, Refused> {
    const NAMES: [&str; 10] = [
        "field",
        "fixed_interval",
        "calendar_interval",
        "interval",
        "min_doc_count",
        "extended_bounds",
        "format",
        "time_zone",
        "offset",
        "order",
    ];
    check(options, "date_histogram", &NAMES)?;
    if field(options, "date_histogram")? != Field::Time {
        return Err(Refused::illegal("the only field of dates is [@timestamp]"));
    }
    let text = |name: &str| options.get(name).and_then(Json::as_str);
    let interval = match (text("fixed_interval"), text("calendar_interval"), text("interval")) {
        (Some(text), None, None) => Interval::fixed(text),
        (None, Some(text), None) => Interval::calendar(text),
        (None, None, Some(text)) => Interval::calendar(text).or_else(|| Interval::fixed(text)),
        _ => return Err(Refused::illegal("Invalid interval specified, must be non-null and non-empty, and only one")),
    };
    let interval = interval.ok_or_else(|| Refused::illegal("failed to parse the interval of [date_histogram]"))?;
    if text("offset").is_some_and(|offset| !matches!(offset, "0" | "0s" | "0ms")) {
        return Err(Refused::illegal("[offset] is not supported in [date_histogram]"));
    }
    if options.get("order").is_some_and(|order| order["_key"] != "asc") {
        return Err(Refused::illegal("[date_histogram] is in the order of time here"));
    }
    let zone_ns = match text("time_zone") {
        None => 0,
        Some(zone) => zone_ns(zone).ok_or_else(|| {
            Refused::illegal(format!(
                "the time zone [{}] is not supported: UTC, or an offset such as +01:00",
                backlot_windows::clip(zone, 80)
            ))
        })?,
    };
    let format = text("format").map(str::to_owned);
    written_as(0, format.as_deref())?; // a format that is not known is refused before anything is counted
    let bounds = match options.get("extended_bounds") {
        None => None,
        Some(bounds) => {
            let bounds = object(bounds, "extended_bounds")?;
            let end = |name: &str, edge| {
                let value =
                    bounds.get(name).ok_or_else(|| Refused::parsing(format!("[extended_bounds] needs [{name}]")))?;
                let text = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
                moment_ns(&text, Some(format.as_deref().unwrap_or("epoch_millis")), edge, now)
                    .map_err(|problem| Refused::new("parse_exception", problem))
            };
            Some((end("min", Edge::First)?, end("max", Edge::First)?))
        }
    };
    Ok(Kind::Dates { interval, zone_ns, min_count: min_count(options, 0)?, bounds, format })
}

fn histogram(options: &Map<String, Json>) -> Result<Kind, Refused> {
    check(options, "histogram", &["field", "interval", "min_doc_count"])?;
    let interval = options.get("interval").and_then(number).filter(|interval| *interval > 0.0);
    let interval = interval.ok_or_else(|| Refused::illegal("[interval] must be >0 for histogram aggregation"))?;
    Ok(Kind::Histogram { field: field(options, "histogram")?, interval, min_count: min_count(options, 0)? })
}

fn terms(options: &Map<String, Json>) -> Result<Kind, Refused> {
    const NAMES: [&str; 8] = [
        "field",
        "size",
        "order",
        "min_doc_count",
        "missing",
        "shard_size",
        "execution_hint",
        "show_term_doc_count_error",
    ];
    check(options, "terms", &NAMES)?;
    let field = field(options, "terms")?;
    check_keys(&field)?;
    let size = match options.get("size") {
        None => TERMS_DEFAULT,
        Some(value) => match number(value) {
            // Old versions meant everything by 0, and Grafana still sends it for some of its queries.
            Some(0.0) => TERMS_MAX,
            Some(size) if (1.0..=TERMS_MAX as f64).contains(&size) => size as usize,
            _ => return Err(Refused::illegal(format!("[size] of [terms] is 1 to {TERMS_MAX}"))),
        },
    };
    let order = match options.get("order") {
        None => Order { by: OrderBy::Count, descending: true },
        Some(Json::Array(orders)) => match orders.first() {
            Some(order) => order_of(order)?, // the others part what is equal; the key does that here
            None => return Err(Refused::parsing("[order] of [terms] must not be empty")),
        },
        Some(order) => order_of(order)?,
    };
    let missing =
        options.get("missing").map(|missing| missing.as_str().map_or_else(|| missing.to_string(), str::to_owned));
    Ok(Kind::Terms { field, size, min_count: min_count(options, 1)?, order, missing })
}

/// Values of a field must be such that buckets can be made of them.
fn check_keys(field: &Field) -> Result<(), Refused> {
    match field {
        Field::Body => Err(Refused::illegal(
            "Fielddata is disabled on [message]: it is a text of which no buckets are made. Use a keyword field instead",
        )),
        Field::Time | Field::Id | Field::Index => {
            Err(Refused::illegal(format!("the values of [{}] are not told apart here", field.name())))
        }
        Field::Keyword(_) | Field::Span | Field::Attribute(_) => Ok(()),
    }
}

fn order_of(order: &Json) -> Result<Order, Refused> {
    let wrong = || Refused::parsing("[order] of [terms] is one name with asc or desc");
    let mut entries = object(order, "order")?.iter();
    let (Some((by, direction)), None) = (entries.next(), entries.next()) else { return Err(wrong()) };
    let descending = match direction.as_str().map(str::to_ascii_lowercase).as_deref() {
        Some("desc") => true,
        Some("asc") => false,
        _ => return Err(wrong()),
    };
    let by = match by.as_str() {
        "_count" => OrderBy::Count,
        "_key" | "_term" => OrderBy::Key,
        path => match path.split_once(['.', '[']) {
            Some((name, of)) => OrderBy::Metric(name.to_owned(), Some(of.trim_end_matches(']').to_owned())),
            None => OrderBy::Metric(path.to_owned(), None),
        },
    };
    Ok(Order { by, descending })
}

fn filters(options: &Map<String, Json>, now: Now) -> Result<Kind, Refused> {
    check(options, "filters", &["filters"])?;
    let filters = object(options.get("filters").unwrap_or(&Json::Null), "filters")?;
    let one = |(name, query): (&String, &Json)| {
        // Grafana's own filters are query strings with more around them than a query takes.
        let text = query.get("query_string").and_then(|query| query.get("query")).and_then(Json::as_str);
        let query = match text {
            Some(text) => lucene(text, now)?,
            None => super::question::Question::read(query, now)?.whole(),
        };
        Ok::<_, Refused>((name.clone(), query))
    };
    Ok(Kind::Filters(filters.iter().map(one).collect::<Result<_, _>>()?))
}

fn metric(kind: &str, options: &Map<String, Json>) -> Result<Kind, Refused> {
    let metric = match kind {
        "avg" => Metric::Avg,
        "sum" => Metric::Sum,
        "min" => Metric::Min,
        "max" => Metric::Max,
        "value_count" => Metric::Count,
        "cardinality" => Metric::Cardinality,
        "stats" => Metric::Stats,
        "extended_stats" => Metric::ExtendedStats,
        "percentiles" => {
            let percents = match options.get("percents").and_then(Json::as_array) {
                None => PERCENTS.to_vec(),
                Some(percents) => {
                    let percents: Option<Vec<f64>> = percents.iter().map(number).collect();
                    let fit = |percents: &Vec<f64>| {
                        percents.len() <= 100 && percents.iter().all(|percent| (0.0..=100.0).contains(percent))
                    };
                    percents.filter(fit).ok_or_else(|| Refused::illegal("percent must be in [0,100]"))?
                }
            };
            Metric::Percentiles(percents)
        }
        other => {
            let problem = format!("Unknown aggregation type [{}]", backlot_windows::clip(other, 80));
            return Err(Refused::parsing(problem));
        }
    };
    let names: &[&str] = match metric {
        Metric::Cardinality => &["field", "precision_threshold"],
        Metric::Percentiles(_) => &["field", "percents"],
        Metric::ExtendedStats => &["field", "sigma"],
        _ => &["field"],
    };
    check(options, kind, names)?;
    let field = field(options, kind)?;
    if metric == Metric::Cardinality {
        check_keys(&field)?;
    }
    Ok(Kind::Metric { field, metric })
}

#[cfg(test)]
mod tests;
