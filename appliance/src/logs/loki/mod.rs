//! Loki's reading calls: LogQL over the log store, for Grafana and logcli.
//!
//! [`logql`] reads a query and compiles what is in it; [`pipeline`] does with one line what the query says; [`evaluate`] computes series.
//! All three are pure. [`streams`] says what Loki's streams are here, [`run`] brings records and counts to the three,
//! and `api`, `answer` and `tail` speak HTTP.
//!
//! What the windows know is asked of them: which streams there are, lines with a text or an expression in them, ids of traces, counts by
//! stream and level. Everything else is evaluated record by record, within bounds on records, bytes, time and series that are
//! answered as errors, never by leaving something out.
//!
//! Differences from Loki, on purpose: a record whose sender wrote JSON was taken apart when it arrived, so `| json` gives its
//! attributes; attributes of records part series only where a query names them; levels are those of OTLP. Absent: sharding, rules,
//! deletion.

mod answer;
mod api;
mod evaluate;
mod fields;
mod logql;
mod params;
mod patterns;
mod pipeline;
mod run;
mod streams;
mod tail;
mod volume;

pub(super) use api::routes;

/// Reads `text` as a query and as a request's values, and throws the outcome away: for fuzzing.
pub fn fuzz_query(text: &str) {
    let _ = logql::parse(text);
    let _ = logql::selector(text);
    let _ = params::Params::of(text);
}
