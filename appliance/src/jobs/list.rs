//! Lists of jobs, newest first, filtered.
//!
//! A list walks the summaries in the catalogue; one call looks at a bounded number of them and hands back where it stopped,
//! so that a page may be short, or empty, and still have a next one. With a `query` the index is searched instead, see `search`.

use std::collections::BTreeMap;
use std::io::Write;

use backlot_windows::Position;
use backlot_wire::{Job, JobStatus, Timestamp};
use serde::{Deserialize, Serialize};

use super::model::Tracked;
use super::search::Remaking;
use super::store::{self, Summary, time_key};
use super::{Jobs, JobsError};

/// Most jobs of one page.
pub(super) const LIMIT_MAX: usize = 500;
const LIMIT_DEFAULT: usize = 100;
/// Most summaries that one call looks at.
const LOOKED_AT_MAX: usize = 20_000;
/// Past so many bytes of jobs a page ends.
pub(super) const PAGE_BYTES_MAX: usize = 8 * 1024 * 1024;
const TEXT_BYTES_MAX: usize = 256;
/// Before a cursor of a search: a list's is all hex digits.
const SEARCH_CURSOR: &str = "s";

/// Which jobs.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Filter {
    /// Any of these; none means all.
    pub statuses: Vec<JobStatus>,
    pub kind: Option<String>,
    pub user: Option<String>,
    pub project: Option<String>,
    pub queue: Option<String>,
    pub labels: BTreeMap<String, String>,
    /// Created at or after.
    pub since: Option<Timestamp>,
    /// Created before.
    pub until: Option<Timestamp>,
    /// Part of the id or of the error, in any case.
    pub text: Option<String>,
    /// In the query language.
    pub query: Option<String>,
    /// 1 to [`LIMIT_MAX`].
    pub limit: usize,
    cursor: Option<Vec<u8>>,
    pub(super) search_after: Option<Position>,
}

/// Some jobs, newest first.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Page {
    pub jobs: Vec<Job>,
    /// For the next page; absent at the end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cursor: Option<String>,
    /// The index that was searched is being made again, newest jobs first: older ones may be missing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub remaking: Option<Remaking>,
}

impl Filter {
    /// Reads query parameters.
    ///
    /// # Errors
    /// A sentence that names the parameter.
    pub fn parse(parameters: &[(String, String)]) -> Result<Self, String> {
        let mut filter = Self { limit: LIMIT_DEFAULT, ..Self::default() };
        for (name, value) in parameters.iter().filter(|(_, value)| !value.is_empty()) {
            let text = || {
                let short = value.len() <= TEXT_BYTES_MAX;
                short.then(|| value.clone()).ok_or_else(|| format!("`{name}` is longer than {TEXT_BYTES_MAX} bytes"))
            };
            let time = || Timestamp::parse_rfc3339(value).map_err(|problem| format!("`{name}`: {problem}"));
            match name.as_str() {
                "status" => {
                    for word in value.split(',') {
                        filter.statuses.push(status(word)?);
                    }
                }
                "type" => filter.kind = Some(text()?),
                "user" => filter.user = Some(text()?),
                "project" => filter.project = Some(text()?),
                "queue" => filter.queue = Some(text()?),
                "since" => filter.since = Some(time()?),
                "until" => filter.until = Some(time()?),
                "q" => filter.text = Some(text()?.to_lowercase()),
                "limit" => {
                    let limit = value.parse().ok().filter(|limit| (1..=LIMIT_MAX).contains(limit));
                    filter.limit = limit.ok_or_else(|| format!("`limit` is 1 to {LIMIT_MAX}"))?;
                }
                "query" => filter.query = Some(value.clone()),
                "cursor" if value.starts_with(SEARCH_CURSOR) => {
                    filter.search_after = Some(position(value).ok_or("`cursor` is none that a search gave")?);
                }
                "cursor" => {
                    let key = hex::decode(value).ok().filter(|key| key.len() > 8 && key.len() <= 1_024);
                    filter.cursor = Some(key.ok_or("`cursor` is none that a list gave")?);
                }
                other => match other.strip_prefix("label.").filter(|label| !label.is_empty()) {
                    Some(label) if filter.labels.len() < 16 => {
                        filter.labels.insert(label.to_owned(), text()?);
                    }
                    Some(_) => return Err("at most 16 labels can be asked for".into()),
                    None => return Err(format!("`{other}` is no filter of jobs")),
                },
            }
        }
        if filter.query.is_some() && filter.text.is_some() {
            return Err("`q` and `query` do not go together: write what `q` says into the query".into());
        }
        if filter.query.is_none() && filter.search_after.is_some() {
            return Err("`cursor` is of a search, and there is no `query`".into());
        }
        Ok(filter)
    }

    pub(super) fn has_cursor(&self) -> bool {
        self.cursor.is_some()
    }

    pub(super) fn search_cursor(position: Position) -> String {
        format!("{SEARCH_CURSOR}{:016x}{:016x}", position.time_ns, position.seq)
    }

    /// `labels` looks the labels up where the summary does not repeat them.
    fn matches(&self, summary: &Summary, labels: impl FnOnce() -> BTreeMap<String, String>) -> bool {
        let is = |wanted: &Option<String>, value: Option<&str>| wanted.as_deref().is_none_or(|w| value == Some(w));
        let text = |wanted: &String| {
            summary.id.to_lowercase().contains(wanted)
                || summary.error.as_ref().is_some_and(|error| error.to_lowercase().contains(wanted))
        };
        let all_labels = |known: &BTreeMap<String, String>| self.labels.iter().all(|(k, v)| known.get(k) == Some(v));
        (self.statuses.is_empty() || self.statuses.contains(&summary.status))
            && is(&self.kind, Some(&summary.kind))
            && is(&self.user, summary.user.as_deref())
            && is(&self.project, summary.project.as_deref())
            && is(&self.queue, Some(&summary.queue))
            && self.text.as_ref().is_none_or(text)
            && (self.labels.is_empty() || summary.labels.as_ref().map_or_else(|| all_labels(&labels()), all_labels))
    }
}

fn position(cursor: &str) -> Option<Position> {
    let digits = cursor.strip_prefix(SEARCH_CURSOR).filter(|digits| digits.len() == 32 && digits.is_ascii())?;
    let (time_ns, seq) = digits.split_at(16);
    let number = |text: &str| u64::from_str_radix(text, 16).ok();
    Some(Position { time_ns: number(time_ns)?.cast_signed(), seq: number(seq)? })
}

fn status(word: &str) -> Result<JobStatus, String> {
    serde_json::from_value(serde_json::Value::String(word.to_owned())).map_err(|_| {
        format!("`status`: `{word}` is none of scheduled, waiting, queued, running, succeeded, failed, cancelled")
    })
}

impl Jobs {
    /// The jobs that `filter` asks for. Reads the catalogue: not for a thread that serves others.
    ///
    /// # Errors
    /// [`JobsError::Store`] when the catalogue cannot be read.
    pub fn list(&self, filter: &Filter) -> Result<Page, JobsError> {
        let catalogue = self.book.catalogue();
        let until = filter.until.map(|until| time_key(until, ""));
        let mut before = match (filter.cursor.clone(), until) {
            (Some(cursor), Some(until)) => cursor.min(until),
            (Some(only), None) | (None, Some(only)) => only,
            (None, None) => Vec::new(),
        };
        let since = filter.since.map(|since| time_key(since, "")).unwrap_or_default();
        let (mut jobs, mut looked_at, mut bytes) = (Vec::new(), 0, 0);
        loop {
            let page = store::summaries_back(catalogue, &before, LIMIT_MAX)?;
            if page.is_empty() {
                return Ok(Page { jobs, ..Page::default() });
            }
            for (key, stored) in page {
                if key < since {
                    return Ok(Page { jobs, ..Page::default() });
                }
                // What has not ended is fresher in memory.
                let known = self.book.table.lock().get(&stored.id).cloned();
                let summary = known.as_ref().map_or(stored, Summary::of);
                let whole = || known.clone().map_or_else(|| store::read(catalogue, &summary.id), |job| Ok(Some(job)));
                let labels = || whole().ok().flatten().map(|job: Tracked| job.spec.labels.clone()).unwrap_or_default();
                if filter.matches(&summary, labels)
                    && let Some(tracked) = whole()?
                {
                    let job = tracked.job();
                    bytes += json_bytes(&job);
                    jobs.push(job);
                }
                looked_at += 1;
                before = key;
                if jobs.len() >= filter.limit || looked_at >= LOOKED_AT_MAX || bytes >= PAGE_BYTES_MAX {
                    return Ok(Page { jobs, cursor: Some(hex::encode(&before)), ..Page::default() });
                }
            }
        }
    }
}

pub(super) fn json_bytes(job: &Job) -> usize {
    struct Count(usize);
    impl Write for Count {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0 += bytes.len();
            Ok(bytes.len())
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }
    let mut count = Count(0);
    // A job that is no JSON fails when it is written, not here.
    let _ = serde_json::to_writer(&mut count, job);
    count.0
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(parameters: &[(&str, &str)]) -> Result<Filter, String> {
        let owned: Vec<_> = parameters.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        Filter::parse(&owned)
    }

    fn summary() -> Summary {
        Summary {
            id: "Shot-12".into(),
            status: JobStatus::Failed,
            kind: "image.upscale".into(),
            queue: "jobs".into(),
            user: Some("u".into()),
            project: None,
            labels: Some([("scene".to_owned(), "12".to_owned())].into()),
            error: Some("Out of Memory".into()),
        }
    }

    #[test]
    fn each_filter_narrows() {
        for (name, hit, miss) in [
            ("status", "failed,running", "queued"),
            ("type", "image.upscale", "image"),
            ("user", "u", "v"),
            ("queue", "jobs", "others"),
            ("label.scene", "12", "13"),
            ("q", "shot-1", "shot-2"),
            ("q", "out OF", "disk"),
        ] {
            let none = || unreachable!("the summary has its labels");
            assert!(parse(&[(name, hit)]).unwrap().matches(&summary(), none), "{name}={hit}");
            assert!(!parse(&[(name, miss)]).unwrap().matches(&summary(), none), "{name}={miss}");
        }
        assert!(!parse(&[("project", "p")]).unwrap().matches(&summary(), BTreeMap::new));
    }

    #[test]
    fn labels_that_the_summary_lacks_are_looked_up() {
        let bare = Summary { labels: None, ..summary() };
        let filter = parse(&[("label.take", "3")]).unwrap();
        assert!(filter.matches(&bare, || [("take".to_owned(), "3".to_owned())].into()));
        assert!(!filter.matches(&bare, BTreeMap::new));
    }

    #[test]
    fn a_bad_parameter_is_named() {
        for (name, value) in [
            ("status", "done"),
            ("limit", "0"),
            ("limit", "501"),
            ("limit", "x"),
            ("since", "yesterday"),
            ("cursor", "zz"),
            ("colour", "red"),
            ("label.", "x"),
            ("cursor", "s12"),
        ] {
            assert!(parse(&[(name, value)]).unwrap_err().contains(name), "{name}={value}");
        }
        assert_eq!(parse(&[]).unwrap().limit, 100);
        assert!(parse(&[("q", "x"), ("query", "y")]).is_err());
        let at = Position { time_ns: 7, seq: u64::MAX };
        let cursor = Filter::search_cursor(at);
        assert_eq!(parse(&[("query", "y"), ("cursor", &cursor)]).unwrap().search_after, Some(at));
        assert!(parse(&[("cursor", &cursor)]).is_err(), "a search's cursor is no list's");
    }
}
