//! How much there is of what: `index/volume` and `index/volume_range`, by which Grafana's pages list services and labels.
//!
//! Records are counted in the index, by stream and, where it matters, by level. Their bytes are estimated, as in `index/stats`: the mean size of
//! the newest records of each group, times its count.

use std::collections::{BTreeMap, HashMap};

use axum::extract::State;
use axum::response::Response;
use backlot_windows::{Order, Query, Search, Told, Want};

use super::answer::{Refused, instant, matrix};
use super::api::{Api, MayRead, selectors};
use super::evaluate::{LabelSet, Series, Steps, Value};
use super::logql::Matcher;
use super::params::Params;
use super::run::Run;
use super::streams::{LEVEL, LEVELS, Selection, no_level};
use crate::logs::schema::STREAM;

/// Groups whose sizes are looked at; further ones, which have fewer records, are taken to be like them.
const SIZED_GROUPS: usize = 64;
/// Records whose sizes stand for those of a group.
const SIZED_RECORDS: usize = 20;
const SIZED_BYTES: usize = 1 << 20;

pub(super) async fn volume(viewer: MayRead, State(api): State<Api>, params: Params) -> Result<Response, Refused> {
    viewer?;
    let (start_ns, end_ns) = params.range(api.now_ns())?;
    let run = Run::new(&api.logs);
    let series = volumes(&api, &run, &params, Stretches { start_ns, end_ns, step_ns: None }).await?;
    let steps = Steps { start_ns: end_ns, step_ns: 1, count: 1 };
    Ok(instant(Value::Vector(series), steps, &run))
}

pub(super) async fn volume_range(viewer: MayRead, State(api): State<Api>, params: Params) -> Result<Response, Refused> {
    viewer?;
    let (start_ns, end_ns) = params.range(api.now_ns())?;
    let step_ns = params.steps(api.now_ns())?.step_ns;
    let run = Run::new(&api.logs);
    let stretches = Stretches { start_ns, end_ns, step_ns: Some(step_ns) };
    let series = volumes(&api, &run, &params, stretches).await?;
    // Each stretch stands at its end, as a count over the time before.
    let steps = Steps { start_ns: start_ns.saturating_add(step_ns), step_ns, count: stretches.count() };
    Ok(matrix(Value::Vector(series), steps, &run))
}

/// What is counted: the whole of a time, or each step of it.
#[derive(Clone, Copy)]
struct Stretches {
    start_ns: i64,
    end_ns: i64,
    step_ns: Option<i64>,
}

impl Stretches {
    fn count(self) -> usize {
        let span_ns = i128::from(self.end_ns) - i128::from(self.start_ns);
        let count = self.step_ns.map_or(1, |step_ns| (span_ns + i128::from(step_ns) - 1) / i128::from(step_ns.max(1)));
        usize::try_from(count).unwrap_or(0).max(1)
    }
}

/// What streams are told apart by.
struct Targets {
    /// `None`: all labels.
    names: Option<Vec<String>>,
    /// Each label by itself, instead of all together.
    each: bool,
}

impl Targets {
    fn of(params: &Params, matchers: &[Matcher]) -> Result<Self, Refused> {
        let each = match params.get("aggregateBy") {
            None | Some("series") => false,
            Some("labels") => true,
            Some(other) => return Err(Refused::bad(format!("invalid aggregateBy option: {other:?}"))),
        };
        let named =
            params.get("targetLabels").map(|names| names.split(',').map(|name| name.trim().to_owned()).collect());
        let matched = || matchers.iter().map(|matcher| matcher.name().to_owned()).collect();
        let names = named.or_else(|| (!each && !matchers.is_empty()).then(matched));
        Ok(Self { names, each })
    }

    fn keeps(&self, name: &str) -> bool {
        self.names.as_ref().is_none_or(|names| names.iter().any(|kept| kept == name))
    }

    /// The groups that a stream with these labels belongs to.
    fn groups(&self, mut labels: LabelSet) -> Vec<LabelSet> {
        labels.retain(|name, _| self.keeps(name));
        if self.each {
            labels.into_keys().map(|name| LabelSet::from([(name, String::new())])).collect()
        } else {
            vec![labels]
        }
    }
}

/// Records of streams that are told together.
#[derive(Default)]
struct Group {
    counts: Vec<u64>,
    /// What finds them.
    members: Vec<Query>,
}

/// The volume of each group, the largest first.
async fn volumes(api: &Api, run: &Run, params: &Params, stretches: Stretches) -> Result<Vec<Series>, Refused> {
    let (range, limit) = ((stretches.start_ns, stretches.end_ns), params.limit()?);
    let mut groups = BTreeMap::<LabelSet, Group>::new();
    for matchers in selectors(params)? {
        let targets = Targets::of(params, &matchers)?;
        let selection = run.select(&matchers, range).await?;
        let labels_of: HashMap<&str, &LabelSet> =
            selection.streams.iter().map(|stream| (stream.key.as_str(), &stream.labels)).collect();
        let levels: Vec<Option<&str>> = LEVELS.into_iter().map(Some).chain([None]).collect();
        for level in if targets.keeps(LEVEL) { levels } else { vec![None] } {
            let of_level = level.map_or_else(no_level, |level| Query::keyword(LEVEL, level));
            let of_level = if targets.keeps(LEVEL) { of_level } else { Query::All };
            let query = Query::And(vec![selection.query.clone(), of_level.clone()]);
            for (key, counts) in counted(api, &selection, query, stretches).await? {
                let Some(mut labels) = labels_of.get(key.as_str()).copied().cloned() else { continue };
                labels.extend(level.map(|level| (LEVEL.to_owned(), level.to_owned())));
                for labels in targets.groups(labels) {
                    let group = groups.entry(labels).or_default();
                    group.counts.resize(stretches.count(), 0);
                    group.counts.iter_mut().zip(&counts).for_each(|(all, count)| *all += count);
                    group.members.push(Query::And(vec![Query::keyword(STREAM, &key), of_level.clone()]));
                }
            }
        }
    }
    let mut groups: Vec<_> = groups.into_iter().collect();
    groups.sort_by_key(|(_, group)| std::cmp::Reverse(group.counts.iter().sum::<u64>()));
    let (mut sizes, mut sized) = (0.0, 0.0);
    let mut told = Vec::with_capacity(groups.len());
    for (at, (labels, Group { counts, members })) in groups.into_iter().enumerate() {
        let mut size = if sized > 0.0 { sizes / sized } else { 0.0 };
        if at < SIZED_GROUPS {
            size = mean_size(api, Query::Or(members), range).await?;
            (sizes, sized) = (sizes + size, sized + 1.0);
        }
        let bytes = counts.into_iter().map(|count| (count as f64 * size).round());
        told.push(Series { labels, values: bytes.map(|bytes| (bytes > 0.0).then_some(bytes)).collect() });
    }
    let volume = |series: &Series| series.values.iter().flatten().sum::<f64>();
    told.sort_by(|a, b| volume(b).total_cmp(&volume(a)).then_with(|| a.labels.cmp(&b.labels)));
    told.truncate(limit);
    Ok(told)
}

/// How many records each stream has in each stretch.
async fn counted(
    api: &Api,
    selection: &Selection,
    query: Query,
    stretches: Stretches,
) -> Result<Vec<(String, Vec<u64>)>, Refused> {
    let Stretches { start_ns, end_ns, step_ns } = stretches;
    if selection.streams.is_empty() {
        return Ok(Vec::new());
    }
    let want = match step_ns {
        None => Want::Values { name: STREAM.to_owned(), limit: selection.streams.len() },
        Some(step_ns) => Want::Histogram { step_ns, origin_ns: start_ns, by: Some(STREAM.to_owned()) },
    };
    let told = api.logs.store.tally(query, (start_ns, end_ns), vec![want]).await?.told.into_iter().next();
    Ok(match told {
        Some(Told::Values(values)) => values.top.into_iter().map(|(key, count)| (key, vec![count])).collect(),
        Some(Told::Histogram(histogram)) => {
            let told: u64 = histogram.by.iter().flat_map(|(_, counts)| counts).sum();
            if told < histogram.counts.iter().sum() {
                return Err(Refused::bad(
                    "there are too many streams to tell their volumes apart; consider a narrower selector",
                ));
            }
            let first = (histogram.begin_ns - start_ns) / histogram.step_ns.max(1);
            let placed = |counts: Vec<u64>| {
                let mut all = vec![0; stretches.count()];
                let last = all.len() - 1;
                for (at, count) in counts.into_iter().enumerate() {
                    let at = usize::try_from(first).unwrap_or(0).saturating_add(at);
                    all[at.min(last)] += count; // the end itself belongs to the last stretch
                }
                all
            };
            histogram.by.into_iter().map(|(key, counts)| (key, placed(counts))).collect()
        }
        _ => Vec::new(),
    })
}

async fn mean_size(api: &Api, query: Query, (from_ns, to_ns): (i64, i64)) -> Result<f64, Refused> {
    let (order, limit, bytes_max) = (Order::Newest, SIZED_RECORDS, SIZED_BYTES);
    let search = Search { query, from_ns, to_ns, order, limit, after: None, bytes_max };
    let hits = api.logs.search(search).await?.hits;
    Ok(hits.iter().map(|hit| hit.source.len()).sum::<usize>() as f64 / hits.len().max(1) as f64)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::logs::loki::logql::selector;

    fn groups(parameters: &str, matchers: &str) -> Vec<String> {
        let labels = [("level", "warn"), ("service_name", "ffmpeg"), ("host_name", "gpu-1")];
        let labels = labels.into_iter().map(|(name, value)| (name.to_owned(), value.to_owned())).collect();
        let targets = Targets::of(&Params::of(parameters).unwrap(), &selector(matchers).unwrap()).unwrap();
        let written =
            |labels: LabelSet| labels.iter().map(|(name, value)| format!("{name}={value}")).collect::<Vec<_>>();
        targets.groups(labels).into_iter().map(|labels| written(labels).join(",")).collect()
    }

    #[test]
    fn streams_are_grouped_as_loki_groups_them() {
        let one = r#"{service_name=~".+"}"#;
        assert_eq!(groups("", one), ["service_name=ffmpeg"]);
        assert_eq!(groups("targetLabels=host_name,level", one), ["host_name=gpu-1,level=warn"]);
        assert_eq!(groups("targetLabels=none", one), [""]);
        assert_eq!(groups("aggregateBy=labels", one), ["host_name=", "level=", "service_name="]);
        assert_eq!(groups("aggregateBy=labels&targetLabels=level", one), ["level="]);
        assert!(Targets::of(&Params::of("aggregateBy=x").unwrap(), &[]).is_err());
        let of = |start_ns, end_ns, step_ns| Stretches { start_ns, end_ns, step_ns }.count();
        assert_eq!((of(0, 10, Some(5)), of(0, 11, Some(5)), of(0, 0, Some(5)), of(0, 10, None)), (2, 3, 1, 1));
    }
}
