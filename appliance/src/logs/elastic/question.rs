//! Elasticsearch's query DSL as a question to the windows, and the range of time that it asks for.

use serde_json::{Map, Value as Json};

use super::Refused;
use super::fields::{self, Field};
use super::lucene::lucene;
use crate::clock::Now;
use crate::logs::moments::{Edge, moment_ns, zone_ns};
use backlot_windows::Query;
use std::ops::Bound;

/// Deepest nesting, and most clauses of one query.
const DEPTH_MAX: usize = 32;
const CLAUSES_MAX: usize = 1024;

/// What is asked for.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Question {
    pub(super) query: Query,
    /// Nanoseconds, both ends included.
    pub(super) range: (i64, i64),
}

impl Question {
    pub(super) fn everything() -> Self {
        Self { query: Query::All, range: (i64::MIN, i64::MAX) }
    }

    /// Reads the query of a request.
    pub(super) fn read(query: &Json, now: Now) -> Result<Self, Refused> {
        let mut reader = Reader { now, range: (i64::MIN, i64::MAX), clauses: 0 };
        let query = reader.query(query, true, 0)?;
        Ok(Self { query, range: reader.range })
    }

    /// What is asked for with its range of time as a part of it.
    pub(super) fn whole(self) -> Query {
        let (from_ns, to_ns) = self.range;
        if self.range == (i64::MIN, i64::MAX) {
            self.query
        } else {
            Query::And(vec![self.query, Query::Time { from_ns, to_ns }])
        }
    }

    pub(super) fn and(mut self, query: Query) -> Self {
        if query != Query::All {
            self.query = if self.query == Query::All { query } else { Query::And(vec![query, self.query]) };
        }
        self
    }
}

struct Reader {
    now: Now,
    /// What ranges of time leave that hold for every record that answers: the range of buckets, too.
    range: (i64, i64),
    clauses: usize,
}

impl Reader {
    /// `always`: what is read here holds for all that answers.
    fn query(&mut self, query: &Json, always: bool, depth: usize) -> Result<Query, Refused> {
        self.clauses += 1;
        if depth > DEPTH_MAX || self.clauses > CLAUSES_MAX {
            return Err(Refused::illegal(format!(
                "a query has at most {CLAUSES_MAX} clauses, {DEPTH_MAX} levels deep"
            )));
        }
        let (kind, body) = only(query, "query")?;
        match kind {
            "match_all" => Ok(Query::All),
            "match_none" => Ok(Query::Nothing),
            "bool" => self.boolean(object(body, kind)?, always, depth),
            "constant_score" => {
                let filter = object(body, kind)?.get("filter");
                self.query(
                    filter.ok_or_else(|| Refused::parsing("[constant_score] requires a 'filter' element"))?,
                    always,
                    depth + 1,
                )
            }
            "range" => self.range(object(body, kind)?, always),
            "query_string" | "simple_query_string" => query_string(object(body, kind)?, kind, self.now),
            "exists" => {
                let body = object(body, kind)?;
                check(body, kind, &["field", "boost"])?;
                Ok(Field::named(text(body.get("field"), "[exists] must be provided with a [field]")?).exists())
            }
            "ids" => self.ids(object(body, kind)?),
            "term" | "match" | "match_phrase" | "prefix" | "wildcard" | "regexp" => {
                one_field(object(body, kind)?, kind)
            }
            "terms" => terms(object(body, kind)?),
            "multi_match" => multi_match(object(body, kind)?),
            other => Err(Refused::parsing(format!("unknown query [{}]", backlot_windows::clip(other, 80)))),
        }
    }

    fn ids(&mut self, body: &Map<String, Json>) -> Result<Query, Refused> {
        check(body, "ids", &["values", "type", "boost"])?;
        let values = body.get("values").and_then(Json::as_array);
        let values = values.ok_or_else(|| Refused::parsing("[ids] requires providing a values element"))?;
        self.clauses = self.clauses.saturating_add(values.len());
        if self.clauses > CLAUSES_MAX {
            return Err(Refused::illegal(format!("a query has at most {CLAUSES_MAX} clauses and ids here")));
        }
        let ids: Option<Vec<&str>> = values.iter().map(Json::as_str).collect();
        Ok(fields::ids(ids.ok_or_else(|| Refused::parsing("an id is a text"))?))
    }

    fn boolean(&mut self, body: &Map<String, Json>, always: bool, depth: usize) -> Result<Query, Refused> {
        check(
            body,
            "bool",
            &["must", "filter", "must_not", "should", "minimum_should_match", "boost", "adjust_pure_negative"],
        )?;
        let mut all = Vec::new();
        for name in ["must", "filter"] {
            for clause in list(body.get(name)) {
                all.push(self.query(clause, always, depth + 1)?);
            }
        }
        for clause in list(body.get("must_not")) {
            all.push(Query::Not(Box::new(self.query(clause, false, depth + 1)?)));
        }
        let should: Vec<_> = list(body.get("should")).collect();
        let mut some = Vec::with_capacity(should.len());
        for clause in &should {
            some.push(self.query(clause, always && should.len() == 1 && all.is_empty(), depth + 1)?);
        }
        // Without a score, what only should be does not matter beside what must be.
        let least = match body.get("minimum_should_match") {
            None => usize::from(!body.contains_key("must") && !body.contains_key("filter")),
            Some(Json::Number(number)) if number.as_u64() == Some(0) => 0,
            Some(Json::Number(number)) if number.as_u64() == Some(1) => 1,
            Some(Json::String(text)) if text == "1" => 1,
            Some(_) => return Err(Refused::illegal("[minimum_should_match] is 0 or 1 here")),
        };
        if least > 0 && !some.is_empty() {
            all.push(Query::Or(some));
        }
        all.retain(|query| *query != Query::All);
        Ok(match all.len() {
            0 => Query::All,
            1 => all.remove(0),
            _ => Query::And(all),
        })
    }

    fn range(&mut self, body: &Map<String, Json>, always: bool) -> Result<Query, Refused> {
        let (name, bounds) = only_entry(body, "range")?;
        let bounds = object(bounds, "range")?;
        check(
            bounds,
            "range",
            &[
                "gte",
                "gt",
                "lte",
                "lt",
                "from",
                "to",
                "include_lower",
                "include_upper",
                "format",
                "boost",
                "time_zone",
                "relation",
            ],
        )?;
        let flag = |name: &str| bounds.get(name).and_then(Json::as_bool).unwrap_or(true);
        let given = |name: &str| bounds.get(name).filter(|value| !value.is_null());
        let from = given("gte").map(|value| (value, true)).or_else(|| given("gt").map(|value| (value, false)));
        let from = from.or_else(|| given("from").map(|value| (value, flag("include_lower"))));
        let to = given("lte").map(|value| (value, true)).or_else(|| given("lt").map(|value| (value, false)));
        let to = to.or_else(|| given("to").map(|value| (value, flag("include_upper"))));
        let field = Field::named(name);
        if field == Field::Time {
            if bounds.get("time_zone").is_some_and(|zone| zone_ns(zone.as_str().unwrap_or_default()) != Some(0)) {
                return Err(Refused::illegal(
                    "a [time_zone] other than UTC is not supported; write offsets into the dates",
                ));
            }
            return self.range_of_time(bounds, from, to, always);
        }
        let level = *field.name() == *"level";
        let number = |value: &Json| {
            let number = value.as_f64().or_else(|| value.as_str()?.parse().ok());
            number.ok_or_else(|| Refused::illegal(format!("a range of [{name}] is one of numbers")))
        };
        if level || matches!(field, Field::Keyword(_) | Field::Span | Field::Body | Field::Id | Field::Index) {
            return Err(Refused::illegal(format!("a range of [{name}] is not supported: it is no number and no date")));
        }
        let bound = |end: Option<(&Json, bool)>| {
            Ok::<_, Refused>(match end {
                None => Bound::Unbounded,
                Some((value, true)) => Bound::Included(number(value)?),
                Some((value, false)) => Bound::Excluded(number(value)?),
            })
        };
        Ok(Query::Number { name: field.name().to_owned(), from: bound(from)?, to: bound(to)? })
    }

    fn range_of_time(
        &mut self,
        bounds: &Map<String, Json>,
        from: Option<(&Json, bool)>,
        to: Option<(&Json, bool)>,
        always: bool,
    ) -> Result<Query, Refused> {
        let format = bounds.get("format").and_then(Json::as_str);
        let read = |value: &Json, edge| {
            let text = match value {
                Json::String(text) => text.clone(),
                Json::Number(number) => number
                    .as_i64()
                    .map_or_else(|| format!("{:.0}", number.as_f64().unwrap_or(0.0)), |ms| ms.to_string()),
                _ => return Err(Refused::parsing("a date is a text or a number")),
            };
            // A number in JSON is one of milliseconds however short it is.
            let format = if value.is_number() { format.or(Some("epoch_millis")) } else { format };
            moment_ns(&text, format, edge, self.now).map_err(|problem| Refused::new("parse_exception", problem))
        };
        let (mut from_ns, mut to_ns) = (i64::MIN, i64::MAX);
        if let Some((value, included)) = from {
            from_ns = if included { read(value, Edge::First)? } else { read(value, Edge::Last)?.saturating_add(1) };
        }
        if let Some((value, included)) = to {
            to_ns = if included { read(value, Edge::Last)? } else { read(value, Edge::First)?.saturating_sub(1) };
        }
        if !always {
            return Ok(Query::Time { from_ns, to_ns });
        }
        self.range = (self.range.0.max(from_ns), self.range.1.min(to_ns));
        Ok(Query::All)
    }
}

/// `{"kind": …}`.
fn only<'a>(query: &'a Json, what: &str) -> Result<(&'a str, &'a Json), Refused> {
    only_entry(object(query, what)?, what)
}

fn only_entry<'a>(object: &'a Map<String, Json>, what: &str) -> Result<(&'a str, &'a Json), Refused> {
    let mut entries = object.iter();
    match (entries.next(), entries.next()) {
        (Some((name, value)), None) => Ok((name, value)),
        (None, _) => Err(Refused::illegal(format!("[{what}] malformed, an empty clause was found"))),
        (_, Some(_)) => Err(Refused::parsing(format!("[{what}] malformed, expected one name and found more"))),
    }
}

pub(super) fn object<'a>(value: &'a Json, what: &str) -> Result<&'a Map<String, Json>, Refused> {
    value.as_object().ok_or_else(|| Refused::parsing(format!("[{what}] malformed, it must be an object")))
}

fn text<'a>(value: Option<&'a Json>, problem: &str) -> Result<&'a str, Refused> {
    value.and_then(Json::as_str).ok_or_else(|| Refused::parsing(problem))
}

/// Refuses names that are not known.
pub(super) fn check(body: &Map<String, Json>, what: &str, names: &[&str]) -> Result<(), Refused> {
    match body.keys().find(|name| !names.contains(&name.as_str())) {
        None => Ok(()),
        Some(name) => Err(Refused::parsing(format!("[{what}] does not support [{}]", backlot_windows::clip(name, 80)))),
    }
}

/// One clause, or a list of them.
fn list(value: Option<&Json>) -> impl Iterator<Item = &Json> {
    let (one, some) = match value {
        Some(Json::Array(list)) => (None, Some(list.iter())),
        other => (other, None),
    };
    one.into_iter().chain(some.into_iter().flatten())
}

/// Lucene's language, as this house reads it.
fn query_string(body: &Map<String, Json>, kind: &str, now: Now) -> Result<Query, Refused> {
    const NAMES: [&str; 8] = [
        "query",
        "analyze_wildcard",
        "default_operator",
        "default_field",
        "fields",
        "lenient",
        "boost",
        "allow_leading_wildcard",
    ];
    check(body, kind, &NAMES)?;
    let query = text(body.get("query"), &format!("[{kind}] must be provided with a [query]"))?;
    if body.get("default_operator").and_then(Json::as_str).is_some_and(|operator| operator.eq_ignore_ascii_case("or"))
        && query.trim().contains(char::is_whitespace)
    {
        return Err(Refused::illegal("[default_operator] is AND here: write OR between what may be"));
    }
    let fields = list(body.get("fields")).chain(body.get("default_field"));
    for field in fields {
        if !matches!(field.as_str(), Some("*" | "_all" | "message" | "body")) {
            return Err(Refused::illegal(
                "a word without a field is looked for in [message]; name others in the query",
            ));
        }
    }
    lucene(query, now)
}

/// `{"term": {"level": "error"}}`, or with the value as `value` or `query` of an object.
fn one_field(body: &Map<String, Json>, kind: &str) -> Result<Query, Refused> {
    let (name, value) = only_entry(body, kind)?;
    let field = Field::named(name);
    let (value, options) = match value {
        Json::Object(options) => {
            check(
                options,
                kind,
                &[
                    "value",
                    "query",
                    "operator",
                    "boost",
                    "case_insensitive",
                    "slop",
                    "wildcard",
                    "minimum_should_match",
                    "flags",
                ],
            )?;
            let value = options.get("value").or_else(|| options.get("query")).or_else(|| options.get("wildcard"));
            (value.ok_or_else(|| Refused::parsing(format!("[{kind}] needs a value")))?, Some(options))
        }
        value => (value, None),
    };
    let option = |name: &str| options.and_then(|options| options.get(name));
    for (name, neutral) in
        [("case_insensitive", Json::from(false)), ("slop", Json::from(0)), ("minimum_should_match", Json::from(1))]
    {
        if option(name).is_some_and(|value| *value != neutral) {
            return Err(Refused::illegal(format!("[{kind}] does not support [{name}] here")));
        }
    }
    if kind == "term" {
        return field.term(value);
    }
    let text = match value {
        Json::String(text) => text.clone(),
        Json::Number(_) | Json::Bool(_) => value.to_string(),
        _ => return Err(Refused::parsing(format!("[{kind}] needs a text"))),
    };
    let all = option("operator").and_then(Json::as_str).is_some_and(|operator| operator.eq_ignore_ascii_case("and"));
    match kind {
        "match" => field.matching(&text, all),
        "match_phrase" => field.phrase(&text),
        "prefix" => field.prefix(&text),
        "wildcard" => field.wildcard(&text),
        _ => field.regexp(&text),
    }
}

fn terms(body: &Map<String, Json>) -> Result<Query, Refused> {
    let mut named = body.iter().filter(|(name, _)| *name != "boost");
    let (Some((name, Json::Array(values))), None) = (named.next(), named.next()) else {
        return Err(Refused::parsing("[terms] query requires a field and a list of terms"));
    };
    if values.len() > CLAUSES_MAX {
        return Err(Refused::illegal(format!("[terms] has at most {CLAUSES_MAX} terms here")));
    }
    let field = Field::named(name);
    Ok(Query::Or(values.iter().map(|value| field.term(value)).collect::<Result<_, _>>()?))
}

fn multi_match(body: &Map<String, Json>) -> Result<Query, Refused> {
    check(body, "multi_match", &["query", "fields", "type", "operator", "lenient", "boost"])?;
    let text = text(body.get("query"), "[multi_match] must be provided with a [query]")?;
    let all = body.get("operator").and_then(Json::as_str).is_some_and(|operator| operator.eq_ignore_ascii_case("and"));
    let phrase = match body.get("type").and_then(Json::as_str) {
        None | Some("best_fields" | "most_fields") => false,
        Some("phrase") => true,
        Some(_) => {
            return Err(Refused::illegal("[multi_match] has the types best_fields, most_fields and phrase here"));
        }
    };
    let names: Vec<_> = list(body.get("fields")).filter_map(Json::as_str).collect();
    if names.is_empty() || names.len() > CLAUSES_MAX || names.iter().any(|name| name.contains(['*', '^'])) {
        return Err(Refused::illegal("[multi_match] needs [fields] that are named in full, without boosts"));
    }
    let field =
        |name: &&str| if phrase { Field::named(name).phrase(text) } else { Field::named(name).matching(text, all) };
    Ok(Query::Or(names.iter().map(field).collect::<Result<_, _>>()?))
}

#[cfg(test)]
mod tests;
