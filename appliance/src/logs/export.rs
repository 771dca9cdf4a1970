//! `GET /v1/logs/export`: all records that answer, streamed as NDJSON or CSV.
//!
//! Pages are searched as the reader takes them: one that is slow holds one page, one that leaves ends the search.

use axum::body::Body;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use backlot_windows::{Found, Hit, Search};
use bytes::Bytes;
use http::header;

use super::Logs;
use super::api::{Api, Given, given, order_of, query_of, range_of};
use super::model::LogRecord;
use super::schema::answer;
use crate::edge::{ApiError, Viewer};

/// Records and bytes that are searched for at once.
const PAGE_RECORDS: usize = 1000;
const PAGE_BYTES: usize = 1 << 20;

#[derive(Clone, Copy, PartialEq, Eq)]
enum Format {
    Ndjson,
    Csv,
}

pub(super) async fn download(_: Viewer, State(api): State<Api>, asked: Given) -> Result<Response, ApiError> {
    let given = given(asked, &["query", "from", "to", "order", "format"])?;
    let format = match given.get("format").map_or("ndjson", String::as_str) {
        "ndjson" => Format::Ndjson,
        "csv" => Format::Csv,
        _ => return Err(ApiError::bad_request("format is ndjson or csv")),
    };
    let now = api.logs.store.now();
    let (from_ns, to_ns) = range_of(&given, now)?;
    let search = Search {
        query: query_of(&given, now)?,
        from_ns,
        to_ns,
        order: order_of(&given)?,
        limit: PAGE_RECORDS,
        after: None,
        bytes_max: PAGE_BYTES,
    };
    // The first page before the head of the answer, so that what goes wrong at once has its status.
    let first = api.logs.search(search.clone()).await?;
    let (kind, name) = match format {
        Format::Ndjson => ("application/x-ndjson", "attachment; filename=\"logs.ndjson\""),
        Format::Csv => ("text/csv; charset=utf-8", "attachment; filename=\"logs.csv\""),
    };
    let body = Body::from_stream(pages(api.logs, search, first, format));
    Ok(([(header::CONTENT_TYPE, kind), (header::CONTENT_DISPOSITION, name)], body).into_response())
}

/// What is still to come.
enum Next {
    Head(Found),
    Page(Search),
    End,
}

fn pages(
    logs: Logs,
    search: Search,
    first: Found,
    format: Format,
) -> impl futures::Stream<Item = Result<Bytes, std::io::Error>> + Send {
    futures::stream::unfold(Next::Head(first), move |next| {
        let (logs, search) = (logs.clone(), search.clone());
        async move {
            let (found, mut text) = match next {
                Next::End => return None,
                Next::Head(found) => (found, if format == Format::Csv { CSV_HEAD.to_owned() } else { String::new() }),
                Next::Page(search) => match logs.search(search).await {
                    Ok(found) => (found, String::new()),
                    // The connection ends in the middle, so that nobody takes the part for the whole.
                    Err(error) => return Some((Err(std::io::Error::other(error.message)), Next::End)),
                },
            };
            for hit in &found.hits {
                match format {
                    Format::Ndjson => text.push_str(&answer(hit.position, &hit.source).unwrap_or_default()),
                    Format::Csv => text.push_str(&row(hit)),
                }
                text.push('\n');
            }
            let after = found.hits.last().map(|hit| hit.position).filter(|_| found.more);
            let next = after.map_or(Next::End, |after| Next::Page(Search { after: Some(after), ..search }));
            Some((Ok(Bytes::from(text)), next))
        }
    })
}

const CSV_HEAD: &str =
    "time,level,service,host,job,attempt,queue,trace_id,span_id,scope,event,body,attributes,resource\n";

fn row(hit: &Hit) -> String {
    let text = answer(hit.position, &hit.source).unwrap_or_default();
    let record: LogRecord = serde_json::from_str(&text).unwrap_or_default();
    let attributes = serde_json::Value::Object(record.attributes).to_string();
    let resource = serde_json::Value::Object(record.resource).to_string();
    let some = |value: Option<String>| value.unwrap_or_default();
    let cells = [
        record.time,
        some(record.level),
        some(record.service),
        some(record.host),
        some(record.job),
        some(record.attempt),
        some(record.queue),
        some(record.trace_id),
        some(record.span_id),
        some(record.scope),
        some(record.event),
        record.body,
        attributes,
        resource,
    ];
    cells.iter().map(|cell| quoted(cell)).collect::<Vec<_>>().join(",")
}

/// As RFC 4180 has it. A cell that a spreadsheet would take for a formula is made text.
fn quoted(cell: &str) -> String {
    let formula = cell.starts_with(['=', '+', '-', '@', '\t', '\r']);
    if !formula && !cell.contains([',', '"', '\n', '\r']) {
        return cell.to_owned();
    }
    format!("\"{}{}\"", if formula { "'" } else { "" }, cell.replace('"', "\"\""))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cells_are_quoted_where_they_must_be_and_none_is_a_formula() {
        for (cell, expected) in [
            ("plain", "plain"),
            ("", ""),
            ("a,b", "\"a,b\""),
            ("say \"no\"", "\"say \"\"no\"\"\""),
            ("two\nlines", "\"two\nlines\""),
            ("=cmd()", "\"'=cmd()\""),
        ] {
            assert_eq!(quoted(cell), expected);
        }
    }
}
