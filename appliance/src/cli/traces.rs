//! `backlot traces`: find traces, and show one as a tree.

use std::collections::{HashMap, HashSet};
use std::process::ExitCode;

use clap::{Args, Subcommand};
use serde_json::Value;

use super::client::{escaped, path};
use super::output::{left_out, line, one_line};
use super::{CliError, Client};

/// Cells of the bar that shows when a span was.
const BAR_CELLS: u64 = 30;
/// Deepest indentation.
const INDENT_MAX: usize = 24;

#[derive(Debug, Subcommand)]
pub(super) enum TracesCommand {
    /// Find traces with a span that answers. The query language is described in docs/traces.md: `service:agent status:error duration:>2s`.
    Search(Box<SearchArguments>),
    /// Show a trace: its spans below those that called them. `*` marks what its end waited for.
    Show {
        /// 32 hex digits.
        id: String,
        #[arg(long)]
        json: bool,
    },
}

#[derive(Debug, Args)]
pub(super) struct SearchArguments {
    #[arg(default_value = "")]
    query: String,
    #[arg(long)]
    service: Option<String>,
    /// Name of a span.
    #[arg(long)]
    operation: Option<String>,
    #[arg(long)]
    job: Option<String>,
    /// Only traces with a span that failed; it is the one that answers.
    #[arg(long)]
    errors: bool,
    /// Of a span: 250ms, 1.5s, 2m.
    #[arg(long)]
    min_duration: Option<String>,
    #[arg(long)]
    max_duration: Option<String>,
    /// Of the whole trace.
    #[arg(long)]
    min_trace_duration: Option<String>,
    #[arg(long)]
    max_trace_duration: Option<String>,
    /// RFC 3339, or how long ago: 15m, 2h, 7d.
    #[arg(long)]
    from: Option<String>,
    #[arg(long)]
    to: Option<String>,
    /// Most traces.
    #[arg(long, default_value_t = 20)]
    limit: usize,
    /// Those whose span took longest come first; otherwise the newest.
    #[arg(long)]
    longest: bool,
    #[arg(long)]
    json: bool,
}

pub(super) async fn run(command: TracesCommand, client: &Client) -> Result<ExitCode, CliError> {
    match command {
        TracesCommand::Search(arguments) => search(&arguments, client).await,
        TracesCommand::Show { id, json } => show(&id, json, client).await,
    }
}

async fn search(arguments: &SearchArguments, client: &Client) -> Result<ExitCode, CliError> {
    let mut cursor = String::new();
    let mut printed = 0;
    while printed < arguments.limit {
        let limit = (arguments.limit - printed).min(200).to_string();
        let given = [
            ("query", Some(arguments.query.as_str())),
            ("service", arguments.service.as_deref()),
            ("operation", arguments.operation.as_deref()),
            ("job", arguments.job.as_deref()),
            ("status", arguments.errors.then_some("error")),
            ("min_duration", arguments.min_duration.as_deref()),
            ("max_duration", arguments.max_duration.as_deref()),
            ("min_trace_duration", arguments.min_trace_duration.as_deref()),
            ("max_trace_duration", arguments.max_trace_duration.as_deref()),
            ("from", arguments.from.as_deref()),
            ("to", arguments.to.as_deref()),
            ("order", Some(if arguments.longest { "longest" } else { "newest" })),
            ("limit", Some(limit.as_str())),
            ("cursor", Some(cursor.as_str()).filter(|cursor| !cursor.is_empty())),
        ];
        let page: Value = client.get(&path("/v1/traces", &given)).await?;
        for trace in page["traces"].as_array().into_iter().flatten() {
            line(if arguments.json { trace.to_string() } else { brief(trace) })?;
            printed += 1;
        }
        left_out(&page);
        match page["next_cursor"].as_str() {
            Some(next) => cursor = next.to_owned(),
            None => break,
        }
    }
    Ok(ExitCode::SUCCESS)
}

async fn show(id: &str, json: bool, client: &Client) -> Result<ExitCode, CliError> {
    let base = path(&format!("/v1/traces/{}", escaped(id)), &[]);
    let base = base.trim_end_matches('?');
    let trace: Value = client.get(base).await?;
    if json {
        line(trace)?;
        return Ok(ExitCode::SUCCESS);
    }
    let critical: Value = client.get(&format!("{base}/critical-path")).await?;
    for text in tree(&trace, &critical) {
        line(text)?;
    }
    Ok(ExitCode::SUCCESS)
}

/// A trace of a list: when, how long, what, how large.
fn brief(trace: &Value) -> String {
    let text = |name: &str| one_line(trace[name].as_str().unwrap_or_default());
    let count = |name: &str| trace[name].as_u64().unwrap_or(0);
    let start = i64::try_from(count("start_ns")).unwrap_or(i64::MAX);
    let time = crate::signals::rfc3339_ns(start);
    let time = time.get(..23).unwrap_or(&time);
    let mut line = format!(
        "{time} {} {:>9} {}: {} spans={}",
        text("trace_id"),
        length(count("duration_ns")),
        text("service"),
        text("name"),
        count("spans")
    );
    for (name, shown) in [("errors", "errors"), ("missing", "missing")] {
        if count(name) > 0 {
            line.push_str(&format!(" {shown}={}", count(name)));
        }
    }
    if !text("job").is_empty() {
        line.push_str(&format!(" job={}", text("job")));
    }
    line
}

/// Nanoseconds as people read them.
fn length(ns: u64) -> String {
    let ns_of = ns as f64;
    match ns {
        0..1_000 => format!("{ns}ns"),
        1_000..1_000_000 => format!("{:.1}us", ns_of / 1e3),
        1_000_000..1_000_000_000 => format!("{:.1}ms", ns_of / 1e6),
        1_000_000_000..120_000_000_000 => format!("{:.2}s", ns_of / 1e9),
        _ => format!("{:.1}m", ns_of / 60e9),
    }
}

/// The lines that show a trace.
fn tree(trace: &Value, critical: &Value) -> Vec<String> {
    let empty = Vec::new();
    let spans = trace["spans"].as_array().unwrap_or(&empty);
    let id = |value: &Value, name: &str| value[name].as_str().unwrap_or_default().to_owned();
    let mut children: HashMap<String, Vec<&Value>> = HashMap::new();
    let roots: HashSet<_> =
        trace["roots"].as_array().into_iter().flatten().filter_map(|id| id.as_str().map(str::to_owned)).collect();
    for span in spans.iter().filter(|span| !roots.contains(&id(span, "span_id"))) {
        children.entry(id(span, "parent_span_id")).or_default().push(span);
    }
    let parts = critical["spans"].as_array().into_iter().flatten();
    let waited: HashMap<_, _> = parts.map(|part| (id(part, "span_id"), part["critical_ns"].as_u64())).collect();
    let missing = trace["missing"].as_array().into_iter().flatten().filter_map(Value::as_str);
    let missing: HashSet<_> = missing.collect();
    let (start, end) = (trace["start_ns"].as_u64().unwrap_or(0), trace["end_ns"].as_u64().unwrap_or(0));
    let whole = end.saturating_sub(start);
    let mut lines = vec![format!("{} {} in {} spans", id(trace, "trace_id"), length(whole), spans.len())];
    // Roots last: what is taken from the end is shown next.
    let mut next: Vec<(&Value, usize)> =
        spans.iter().filter(|span| roots.contains(&id(span, "span_id"))).map(|span| (span, 0)).rev().collect();
    while let Some((span, depth)) = next.pop() {
        let parent = id(span, "parent_span_id");
        if depth == 0 && missing.contains(parent.as_str()) {
            lines.push(format!(
                "{}   (its parent {parent} is not here)",
                " ".repeat(usize::try_from(BAR_CELLS).unwrap_or(0))
            ));
        }
        let begin = span["start_ns"].as_u64().unwrap_or(0).saturating_sub(start);
        let ns = span["duration_ns"].as_u64().unwrap_or(0);
        let span_id = id(span, "span_id");
        let mark = if waited.contains_key(&span_id) { '*' } else { ' ' };
        let service = one_line(span["service"].as_str().unwrap_or("-"));
        let name = one_line(&id(span, "name"));
        let mut line = format!(
            "{} {mark} {}{service}: {name} {}",
            bar(begin, ns, whole),
            "  ".repeat(depth.min(INDENT_MAX)),
            length(ns)
        );
        if let Some(Some(critical_ns)) = waited.get(&span_id) {
            line.push_str(&format!(" ({} waited for)", length(*critical_ns)));
        }
        if span["status"]["code"] == "error" {
            line.push_str(&format!(" ERROR {}", one_line(span["status"]["message"].as_str().unwrap_or_default())));
        }
        lines.push(line.trim_end().to_owned());
        let below = children.remove(&span_id).unwrap_or_default();
        next.extend(below.into_iter().rev().map(|span| (span, depth + 1)));
    }
    for from in trace["linked_from"].as_array().into_iter().flatten() {
        let what = one_line(&format!("{}: {}", from["service"].as_str().unwrap_or("-"), id(from, "name")));
        lines.push(format!("linked from {what} of trace {}", id(from, "trace_id")));
    }
    if trace["truncated"] == true {
        lines.push("there are more spans than these".to_owned());
    }
    lines
}

/// When a span was within the whole.
fn bar(begin_ns: u64, ns: u64, whole_ns: u64) -> String {
    let cell = |at: u64| {
        let cell = u128::from(at) * u128::from(BAR_CELLS) / u128::from(whole_ns.max(1));
        usize::try_from(cell.min(u128::from(BAR_CELLS))).unwrap_or(0)
    };
    let cells = usize::try_from(BAR_CELLS).unwrap_or(0);
    let from = cell(begin_ns).min(cells - 1);
    let to = cell(begin_ns.saturating_add(ns)).max(from + 1);
    format!("{}{}{}", " ".repeat(from), "=".repeat(to - from), " ".repeat(cells - to))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_trace_is_a_tree_with_what_its_end_waited_for() {
        let trace = json!({
            "trace_id": "t", "start_ns": 0, "end_ns": 3_000_000_000_u64, "roots": ["a", "o"], "missing": ["gone"],
            "spans": [
                {"span_id": "a", "name": "attempt", "service": "agent", "start_ns": 0, "duration_ns": 3_000_000_000_u64, "status": {"code": "unset"}},
                {"span_id": "b", "parent_span_id": "a", "name": "infer\u{1b}", "service": "agent", "start_ns": 1_000_000_000, "duration_ns": 2_000_000_000,
                 "status": {"code": "error", "message": "out of memory"}},
                {"span_id": "o", "parent_span_id": "gone", "name": "stray", "start_ns": 0, "duration_ns": 5, "status": {"code": "unset"}},
            ],
        });
        let critical = json!({"spans": [{"span_id": "b", "critical_ns": 2_000_000_000}]});
        assert_eq!(
            tree(&trace, &critical),
            [
                "t 3.00s in 3 spans",
                "==============================   agent: attempt 3.00s",
                "          ==================== *   agent: infer\u{fffd} 2.00s (2.00s waited for) ERROR out of memory",
                "                                 (its parent gone is not here)",
                "=                                -: stray 5ns",
            ]
        );
    }

    #[test]
    fn a_bar_never_leaves_its_cells() {
        for (begin, ns, whole) in [(0, 0, 0), (5, u64::MAX, 3), (u64::MAX, 1, 1), (0, u64::MAX, u64::MAX), (9, 1, 10)] {
            assert_eq!(bar(begin, ns, whole).len(), usize::try_from(BAR_CELLS).unwrap());
        }
    }
}
