//! A page of the jobs that a query finds, and their counts.

use backlot_windows::{Order, Position, Query, Search};
use backlot_wire::JobStatus;

use super::super::list::{Filter, PAGE_BYTES_MAX, Page, json_bytes};
use super::super::{Jobs, JobsError};
use super::{Asked, Counts, Index, SearchError, parse};

impl Jobs {
    fn index(&self) -> Result<&Index, JobsError> {
        self.book.index.get().ok_or_else(|| SearchError::Closed.into())
    }

    /// What a filter asks for, its query among it.
    ///
    /// # Errors
    /// [`JobsError::Query`] points at the character.
    pub(in crate::jobs) fn asked(&self, filter: &Filter) -> Result<Asked, JobsError> {
        let text = filter.query.as_deref().unwrap_or_default();
        let mut asked = parse(text, self.book.clock.now()).map_err(|error| JobsError::Query {
            text: text.to_owned(),
            at: error.at,
            problem: error.to_string(),
        })?;
        let mut all = vec![asked.query];
        if !filter.statuses.is_empty() {
            let status = |status: &JobStatus| Query::keyword("status", status.as_str());
            all.push(Query::Or(filter.statuses.iter().map(status).collect()));
        }
        for (name, value) in
            [("type", &filter.kind), ("user", &filter.user), ("project", &filter.project), ("queue", &filter.queue)]
        {
            all.extend(value.as_ref().map(|value| Query::keyword(name, value)));
        }
        all.extend(filter.labels.iter().map(|(name, value)| Query::text(&format!("labels.{name}"), value)));
        let ns = |ms: u64| i64::try_from(ms).unwrap_or(i64::MAX).saturating_mul(1_000_000);
        if let Some(since) = filter.since {
            asked.from_ns = asked.from_ns.max(ns(since.unix_ms()));
        }
        if let Some(until) = filter.until {
            asked.to_ns = asked.to_ns.min(ns(until.unix_ms()).saturating_sub(1));
        }
        asked.query = if all.len() == 1 { all.remove(0) } else { Query::And(all) };
        Ok(asked)
    }

    /// The jobs that a query finds, newest first. Those that changed before the call are found as they are.
    ///
    /// # Errors
    /// [`JobsError::Query`] points at the character; [`JobsError::Search`].
    pub async fn search(&self, filter: &Filter) -> Result<Page, JobsError> {
        let asked = self.asked(filter)?;
        let after = match filter.search_after {
            Some(after) => Some(after),
            None if filter.has_cursor() => {
                return Err(JobsError::Invalid("`cursor` is none that a search gave".into()));
            }
            None => None,
        };
        let index = self.index()?;
        index.caught_up().await;
        let (ids, next) = self.found(asked, after, filter.limit).await?;
        let jobs = self.clone();
        let read = tokio::task::spawn_blocking(move || jobs.read_found(ids, next));
        let mut page = read.await.map_err(|error| JobsError::Store(error.to_string()))??;
        page.remaking = index.remaking();
        Ok(page)
    }

    /// Ids with their positions, newest first, and whether there may be more.
    pub(in crate::jobs) async fn found(
        &self,
        asked: Asked,
        after: Option<Position>,
        limit: usize,
    ) -> Result<(Vec<(String, Position)>, bool), JobsError> {
        let Asked { query, from_ns, to_ns } = asked;
        let search = Search { query, from_ns, to_ns, order: Order::Newest, limit, after, bytes_max: usize::MAX };
        let found = self.index()?.search(search).await?;
        let id = |hit: backlot_windows::Hit| (String::from_utf8_lossy(&hit.source).into_owned(), hit.position);
        Ok((found.hits.into_iter().map(id).collect(), found.more))
    }

    /// The ids of the newest jobs that `asked` finds, once what happened before the call can be found.
    pub(in crate::jobs) async fn found_now(&self, asked: Asked, limit: usize) -> Result<Vec<String>, JobsError> {
        self.index()?.caught_up().await;
        let (found, _) = self.found(asked, None, limit).await?;
        Ok(found.into_iter().map(|(id, _)| id).collect())
    }

    fn read_found(&self, ids: Vec<(String, Position)>, more: bool) -> Result<Page, JobsError> {
        let mut page = Page::default();
        let (total, mut bytes) = (ids.len(), 0);
        for (done, (id, position)) in ids.into_iter().enumerate() {
            if let Some(tracked) = self.find(&id)? {
                let job = tracked.job();
                bytes += json_bytes(&job);
                page.jobs.push(job);
            }
            let last = done + 1 == total;
            if (last && more) || (!last && bytes >= PAGE_BYTES_MAX) {
                page.cursor = Some(Filter::search_cursor(position));
                break;
            }
        }
        Ok(page)
    }

    /// How many jobs a filter finds, by status, type and project.
    ///
    /// # Errors
    /// As [`Jobs::search`].
    pub async fn counts(&self, filter: &Filter) -> Result<Counts, JobsError> {
        let asked = self.asked(filter)?;
        let index = self.index()?;
        index.caught_up().await;
        Ok(index.counts(asked).await?)
    }

    /// How many jobs `asked` finds, once what happened before the call can be found.
    pub(in crate::jobs) async fn count_found(&self, asked: Asked) -> Result<u64, JobsError> {
        let index = self.index()?;
        index.caught_up().await;
        Ok(index.count(asked).await?)
    }
}
