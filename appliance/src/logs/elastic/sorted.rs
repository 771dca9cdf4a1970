//! Hits in the order of fields other than time: every record that answers is read, and the first ones are kept.
//!
//! A record has its least value of a field where that rises and its greatest where it falls; one without a value comes last, or where `missing`
//! says. What is equal in all that is asked for is in the order of arrival.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::sync::Arc;

use backlot_windows::{Hit, Order};
use serde_json::{Value as Json, json};

use super::Refused;
use super::fields::{Field, Key, OrderedNumber, number_json};
use super::question::{Question, check};
use super::search::Request;
use crate::logs::Logs;
use crate::logs::pages::{Cost, Pages};
use crate::logs::schema::read as document_of;

/// Most keys of one order.
const KEYS_MAX: usize = 10;
/// Most bytes of the hits that are kept.
const BYTES_MAX: usize = 64 << 20;
const MS_NS: i64 = 1_000_000;

/// One of the things that hits are ordered by.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct SortKey {
    pub(super) by: By,
    pub(super) descending: bool,
    missing_first: bool,
}

#[derive(Clone, Debug, PartialEq)]
pub(super) enum By {
    Time,
    /// The order of arrival.
    Arrival,
    Field(Field),
}

impl SortKey {
    /// Reads `sort`; scores are left out, since nothing has one.
    pub(super) fn read_all(sort: &Json) -> Result<Vec<Self>, Refused> {
        let keys: Vec<&Json> = match sort {
            Json::Array(keys) => keys.iter().collect(),
            key => vec![key],
        };
        if keys.len() > KEYS_MAX {
            return Err(Refused::illegal(format!("[sort] has at most {KEYS_MAX} keys here")));
        }
        let read = keys.into_iter().map(Self::read).collect::<Result<Vec<_>, _>>()?;
        Ok(read.into_iter().flatten().collect())
    }

    fn read(key: &Json) -> Result<Option<Self>, Refused> {
        let (name, options) = match key {
            Json::String(name) => (name.as_str(), &Json::Null),
            Json::Object(key) => {
                let mut entries = key.iter();
                let (Some((name, options)), None) = (entries.next(), entries.next()) else {
                    return Err(Refused::parsing("[sort] malformed, one field is expected"));
                };
                (name.as_str(), options)
            }
            _ => return Err(Refused::parsing("[sort] malformed, a name or an object is expected")),
        };
        if let Json::Object(options) = options {
            check(options, "sort", &["order", "unmapped_type", "missing", "format", "numeric_type", "mode"])?;
        }
        let descending = match options.as_str().or_else(|| options["order"].as_str()) {
            Some("desc") => true,
            Some("asc") => false,
            None => name == "_score",
            Some(_) => return Err(Refused::illegal("[sort] has the orders asc and desc")),
        };
        let missing_first = match options["missing"].as_str() {
            None | Some("_last") => false,
            Some("_first") => true,
            Some(_) => return Err(Refused::illegal("[missing] of [sort] is _first or _last here")),
        };
        let by = match name {
            "_score" => return Ok(None),
            "_doc" | "_shard_doc" | "_id" => By::Arrival,
            name => match Field::named(name) {
                Field::Time => By::Time,
                Field::Body => {
                    return Err(Refused::illegal(
                        "Fielddata is disabled on [message]: it is a text, which has no order. Use a keyword field instead",
                    ));
                }
                Field::Index | Field::Id => {
                    return Err(Refused::illegal(format!("sorting by [{name}] is not supported")));
                }
                field => By::Field(field),
            },
        };
        if let Some(mode) = options["mode"].as_str()
            && mode != if descending { "max" } else { "min" }
        {
            return Err(Refused::illegal("[mode] of [sort] is min for asc and max for desc here"));
        }
        Ok(Some(Self { by, descending, missing_first }))
    }

    fn rank(&self, key: Option<Key>) -> Rank {
        match (key, self.descending) {
            (None, _) if self.missing_first => Rank::First,
            (None, _) => Rank::Last,
            (Some(Key::Number(number)), false) => Rank::Number(number),
            (Some(Key::Text(text)), false) => Rank::Text(text),
            (Some(Key::Text(text)), true) => Rank::TextDown(Reverse(text)),
            (Some(Key::Number(number)), true) => Rank::NumberDown(Reverse(number)),
        }
    }

    /// Where a hit stands, by this key.
    fn of(&self, hit: &Hit, document: &backlot_windows::Document) -> Rank {
        let number = |number: f64| Some(Key::Number(OrderedNumber(number)));
        self.rank(match &self.by {
            By::Time => number(hit.position.time_ns.div_euclid(MS_NS) as f64),
            By::Arrival => number(hit.position.seq as f64),
            By::Field(field) if self.descending => field.keys(document).pop_last(),
            By::Field(field) => field.keys(document).pop_first(),
        })
    }

    /// Reads what [`Rank::json`] has written.
    fn told(&self, value: &Json) -> Result<Rank, Refused> {
        Ok(self.rank(match value {
            Json::Null => None,
            Json::Number(number) => Some(Key::Number(OrderedNumber(number.as_f64().unwrap_or(0.0)))),
            Json::String(text) => Some(Key::Text(text.clone())),
            _ => return Err(Refused::parsing("[search_after] is the [sort] of an earlier hit")),
        }))
    }
}

/// Where a hit stands by one key: they are all of one direction, and compared in the order that they are declared in.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Rank {
    First,
    Number(OrderedNumber),
    Text(String),
    TextDown(Reverse<String>),
    NumberDown(Reverse<OrderedNumber>),
    Last,
}

impl Rank {
    fn json(&self) -> Json {
        match self {
            Self::First | Self::Last => Json::Null,
            Self::Number(OrderedNumber(number)) | Self::NumberDown(Reverse(OrderedNumber(number))) => {
                number_json(*number)
            }
            Self::Text(text) | Self::TextDown(Reverse(text)) => Json::from(text.as_str()),
        }
    }
}

/// A hit that is kept, ordered by where it stands.
struct Kept {
    ranks: Vec<Rank>,
    hit: Hit,
}

impl Kept {
    fn place(&self) -> (&[Rank], u64) {
        (&self.ranks, self.hit.position.seq)
    }
}

impl PartialEq for Kept {
    fn eq(&self, other: &Self) -> bool {
        self.place() == other.place()
    }
}
impl Eq for Kept {}
impl PartialOrd for Kept {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}
impl Ord for Kept {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.place().cmp(&other.place())
    }
}

/// The first of those that were offered.
struct First {
    keys: Arc<Vec<SortKey>>,
    after: Option<Vec<Rank>>,
    wanted: usize,
    heap: BinaryHeap<Kept>,
    bytes: usize,
}

impl First {
    fn offer(&mut self, hit: Hit) -> Result<(), Refused> {
        let document = document_of(&hit.source);
        let ranks: Vec<Rank> = self.keys.iter().map(|key| key.of(&hit, &document)).collect();
        if self.after.as_ref().is_some_and(|after| ranks <= *after) {
            return Ok(());
        }
        self.bytes += hit.source.len();
        self.heap.push(Kept { ranks, hit });
        if self.heap.len() > self.wanted {
            self.bytes -= self.heap.pop().map_or(0, |last| last.hit.source.len());
        }
        if self.bytes > BYTES_MAX {
            let problem =
                format!("the hits have more than {BYTES_MAX} bytes: ask for fewer, and go on with search_after");
            return Err(Refused::illegal(problem));
        }
        Ok(())
    }
}

/// The hits of a request that is ordered by fields, each with what it is sorted by, and how many answer in all.
pub(super) async fn hits(logs: &Logs, request: &Request, cost: &mut Cost) -> Result<(Vec<(Hit, Json)>, u64), Refused> {
    let Question { query, range } = request.question.clone();
    let keys = Arc::new(request.keys.clone());
    let after = match &request.after_values {
        None => None,
        Some(values) if values.len() == keys.len() => {
            let ranks = keys.iter().zip(values).map(|(key, value)| key.told(value));
            Some(ranks.collect::<Result<Vec<_>, _>>()?)
        }
        Some(_) => return Err(Refused::illegal("search_after has as many values as the sort has keys")),
    };
    let wanted = request.from + request.size;
    let mut first = First { keys, after, wanted, heap: BinaryHeap::new(), bytes: 0 };
    let mut pages = Pages::new(query, range, Order::Newest, usize::MAX);
    let mut matched = 0;
    while let Some(page) = pages.next(logs, cost).await? {
        matched += page.len() as u64;
        let work = tokio::task::spawn_blocking(move || {
            page.into_iter().try_for_each(|hit| first.offer(hit))?;
            Ok::<_, Refused>(first)
        });
        first = work.await.map_err(|error| crate::edge::ApiError::internal(&error))??;
    }
    let sorted = first.heap.into_sorted_vec().into_iter().skip(request.from);
    let told = sorted.map(|Kept { ranks, hit }| (hit, json!(ranks.iter().map(Rank::json).collect::<Vec<_>>())));
    Ok((told.collect(), matched))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ranks(sort: &Json, values: &[Json]) -> Vec<Rank> {
        let keys = SortKey::read_all(sort).unwrap();
        keys.iter().zip(values).map(|(key, value)| key.told(value).unwrap()).collect()
    }

    #[test]
    fn values_are_ordered_each_way_and_what_is_missing_comes_last_or_first() {
        let values = [json!(null), json!(1), json!(2.5), json!("a"), json!("b")];
        for (sort, order) in [
            (json!("x"), [1, 2, 3, 4, 0]),
            (json!({"x": "desc"}), [4, 3, 2, 1, 0]),
            (json!({"x": {"order": "desc", "missing": "_first"}}), [0, 4, 3, 2, 1]),
        ] {
            let mut places: Vec<usize> = (0..values.len()).collect();
            places.sort_by_key(|at| ranks(&sort, &values[*at..=*at]));
            assert_eq!(places, order, "{sort}");
            for value in &values {
                assert_eq!(ranks(&sort, std::slice::from_ref(value))[0].json(), *value);
            }
        }
        let two = json!([{"x": "desc"}, "_score", {"y": "asc"}]);
        assert!(ranks(&two, &[json!(2), json!("b")]) < ranks(&two, &[json!(1), json!("a")]));
        assert!(ranks(&two, &[json!(2), json!("a")]) < ranks(&two, &[json!(2), json!("b")]));
        for wrong in [
            json!("message"),
            json!({"x": "up"}),
            json!(7),
            json!({"x": {"mode": "avg"}}),
            json!({"x": "asc", "y": "asc"}),
        ] {
            assert!(SortKey::read_all(&wrong).is_err(), "{wrong}");
        }
    }
}
