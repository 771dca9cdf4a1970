//! Which records are of which index, and questions that say so themselves, by `_index`.
//!
//! Indexes are told apart by the streams that name them, so a question of `_index` is read as one of a field of this name and put into
//! streams once they are known.

use std::collections::BTreeSet;
use std::sync::Arc;

use backlot_windows::{Document, Query, Reach, Value};
use http::StatusCode;

use super::Refused;
use super::aggregations::{Aggregation, Kind};
use super::fields::INDEX;
use super::search::Request;
use super::sources::{DEFAULT_INDEX, index_of, is_like};
use crate::logs::schema::STREAM;
use crate::logs::{Logs, Stream};

/// Most streams among which indexes are looked for.
const STREAMS_MAX: usize = 20_000;

/// Which records are of the indexes that are named.
pub(super) struct Scope {
    pub(super) query: Query,
    pub(super) indexes: BTreeSet<String>,
    known: BTreeSet<String>,
    streams: Vec<Stream>,
}

/// The indexes that `names` means: names and patterns with commas between them, or all.
pub(super) async fn scope(logs: &Logs, names: &str, ignore_unavailable: bool) -> Result<Scope, Refused> {
    let streams = logs.streams(&Query::All, (i64::MIN, i64::MAX), STREAMS_MAX + 1, Reach::Here).await?;
    if streams.len() > STREAMS_MAX {
        return Err(Refused::illegal(format!(
            "there are more than {STREAMS_MAX} streams; their indexes are not told apart"
        )));
    }
    let mut known: BTreeSet<String> = streams.iter().map(|stream| index_of(&stream.resource).to_owned()).collect();
    known.insert(DEFAULT_INDEX.to_owned());
    let mut indexes = BTreeSet::new();
    for name in names.split(',').map(str::trim) {
        let name = if matches!(name, "" | "_all") { "*" } else { name };
        if name.starts_with(['-', '<']) {
            return Err(Refused::illegal(
                "indexes are named, or patterns with *; there are no exclusions and no dates in them",
            ));
        }
        let is_meant = |index: &&String| if name.contains('*') { is_like(index, name) } else { *index == name };
        indexes.extend(known.iter().filter(is_meant).cloned());
        if !name.contains('*') && !known.contains(name) && !ignore_unavailable {
            let reason = format!("no such index [{}]", backlot_windows::clip(name, 255));
            return Err(Refused { status: StatusCode::NOT_FOUND, ..Refused::new("index_not_found_exception", reason) });
        }
    }
    let mut scope = Scope { query: Query::All, indexes, known, streams };
    scope.query = scope.of(&scope.indexes);
    Ok(scope)
}

impl Scope {
    /// Lets `request` ask for records of these indexes alone, and says in streams what it asks of `_index`.
    pub(super) fn narrow(&self, request: &mut Request) {
        let mut question = request.question.clone();
        question.query = self.resolved(question.query);
        request.question = question.and(self.query.clone());
        let mut aggregations = Vec::clone(&request.aggregations);
        aggregations.iter_mut().for_each(|aggregation| self.resolve(aggregation));
        request.aggregations = Arc::new(aggregations);
    }

    fn resolve(&self, aggregation: &mut Aggregation) {
        if let Kind::Filters(filters) = &mut aggregation.kind {
            for (_, query) in filters {
                *query = self.resolved(std::mem::replace(query, Query::Nothing));
            }
        }
        aggregation.inner.iter_mut().for_each(|inner| self.resolve(inner));
    }

    /// The same question, with streams where it asks for an index.
    fn resolved(&self, query: Query) -> Query {
        let all = |some: Vec<Query>| some.into_iter().map(|query| self.resolved(query)).collect();
        match query {
            Query::And(some) => Query::And(all(some)),
            Query::Or(some) => Query::Or(all(some)),
            Query::Not(query) => Query::Not(Box::new(self.resolved(*query))),
            Query::Keyword { ref name, .. }
            | Query::KeywordPrefix { ref name, .. }
            | Query::Matches { ref name, .. }
                if name == INDEX =>
            {
                let is_meant = |index: &&String| {
                    let mut document = Document::default();
                    document.add(INDEX, Value::Keyword((*index).clone()));
                    query.matches(&document)
                };
                self.of(&self.known.iter().filter(is_meant).cloned().collect())
            }
            query => query,
        }
    }

    /// The records of `indexes`.
    fn of(&self, indexes: &BTreeSet<String>) -> Query {
        if indexes.len() == self.known.len() {
            return Query::All;
        }
        let of_them = self.streams.iter().filter(|stream| indexes.contains(index_of(&stream.resource)));
        Query::Or(of_them.map(|stream| Query::keyword(STREAM, &stream.key)).collect())
    }
}
