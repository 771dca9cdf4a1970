//! Where events are read from: the groups and streams that a call names, as a question to the log store, and what of its
//! answer is really theirs.
//!
//! A group that CloudWatch made is found by its id. Records that came by other ways are in groups that nobody made: one
//! for each service, `/backlot/{service}`, with a stream for each host.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::Arc;

use backlot_windows::{Order, Position, Query, Reach, Search, Told, Want};
use parking_lot::Mutex;

use super::event::{Event, GROUP_ID, OTHERS, STREAM_ID, group_of_service, stream_of_host};
use super::fault;
use super::fields;
use super::groups::{GroupError, Groups};
use super::rows::GroupRow;
use crate::edge::aws::AwsError;
use crate::logs::Logs;
use crate::logs::schema::BODY;

/// Most services and hosts that are told apart.
const OTHERS_MAX: usize = 1_000;
/// How long a list of services is believed.
const SERVICES_FRESH_MS: u64 = 5_000;
/// Streams that are asked for by their ids; of more, all events of the group are looked at.
const STREAM_IDS_MAX: usize = 512;
/// Events of one search.
pub(super) const PAGE_EVENTS: usize = 1_000;
/// Shortest part of a word that is looked up among all words.
const INFIX_BYTES_MIN: usize = 3;
/// How long an estimate of a group's bytes is believed.
const STORED_FRESH_MS: u64 = 60_000;
/// Events whose sizes stand for those of their group.
const STORED_SAMPLE: usize = 100;
/// What CloudWatch counts for an event beside its message.
const EVENT_OVERHEAD_BYTES: usize = 26;
/// Bytes of one search, as they are stored.
const PAGE_BYTES: usize = 4 << 20;

/// Reads events. Cheap to clone.
#[derive(Clone)]
pub(super) struct Source {
    pub(super) logs: Logs,
    pub(super) groups: Groups,
    /// When they were listed, and which they were.
    services: Arc<Mutex<(u64, Arc<Vec<String>>)>>,
    /// When a group's bytes were estimated, by its name.
    stored: Arc<Mutex<HashMap<String, (u64, u64)>>>,
}

/// A group that events are read from.
#[derive(Clone, Debug)]
pub(super) enum Target {
    Kept(GroupRow),
    /// Records of these services that came by other ways.
    Others {
        name: String,
        services: Vec<String>,
    },
}

impl Target {
    pub(super) fn query(&self) -> Query {
        match self {
            Self::Kept(row) => Query::text(GROUP_ID, &row.id),
            Self::Others { services, .. } => {
                let of = services.iter().map(|service| Query::keyword("service", service));
                Query::And(vec![Query::Or(of.collect()), others()])
            }
        }
    }
}

fn others() -> Query {
    Query::Not(Box::new(Query::Exists { name: GROUP_ID.to_owned() }))
}

/// Which streams are meant.
#[derive(Clone, Debug, Default)]
pub(super) enum Streams {
    #[default]
    All,
    Named(HashSet<String>),
    Beginning(Vec<String>),
}

impl Streams {
    pub(super) fn admits(&self, name: &str) -> bool {
        match self {
            Self::All => true,
            Self::Named(names) => names.contains(name),
            Self::Beginning(prefixes) => prefixes.iter().any(|prefix| name.starts_with(prefix.as_str())),
        }
    }
}

/// Events of some groups.
#[derive(Clone)]
pub(super) struct Selection {
    pub(super) query: Query,
    streams: Streams,
    /// The earliest moment that the retention of a group leaves, by its id.
    floors_ns: HashMap<String, i64>,
    /// The earliest of those.
    pub(super) floor_ns: i64,
    /// Names of groups that nobody made.
    others: BTreeSet<String>,
    groups: Groups,
}

impl Selection {
    /// Whether an event is one of those that are meant: of a stream that is there, and not older than its group keeps.
    pub(super) fn admits(&self, event: &Event) -> bool {
        let there = match &event.ids {
            Some((group, stream)) => {
                let floor_ns = self.floors_ns.get(group);
                floor_ns.is_some_and(|floor_ns| event.position.time_ns >= *floor_ns)
                    && self.groups.has(group, &event.stream, stream)
            }
            None => self.others.contains(&event.group),
        };
        there && self.streams.admits(&event.stream)
    }
}

/// Some of the events that answer, and how far was looked.
#[derive(Default)]
pub(super) struct Page {
    pub(super) events: Vec<Event>,
    /// Records looked at, and bytes of them.
    pub(super) looked: usize,
    pub(super) bytes: usize,
    /// The last one looked at; to go on from.
    pub(super) last: Option<Position>,
    pub(super) more: bool,
}

pub(super) type Test = Arc<dyn Fn(&Event) -> bool + Send + Sync>;

/// What is asked of a selection.
#[derive(Clone)]
pub(super) struct Asked {
    pub(super) from_ns: i64,
    pub(super) to_ns: i64,
    pub(super) order: Order,
    pub(super) after: Option<Position>,
    pub(super) limit: usize,
    pub(super) bytes_max: usize,
    pub(super) test: Option<Test>,
}

impl Asked {
    pub(super) fn all(from_ns: i64, to_ns: i64, order: Order) -> Self {
        Self { from_ns, to_ns, order, after: None, limit: PAGE_EVENTS, bytes_max: PAGE_BYTES, test: None }
    }
}

impl Source {
    pub(super) fn new(logs: Logs, groups: Groups) -> Self {
        Self { logs, groups, services: Arc::default(), stored: Arc::default() }
    }

    /// The group of a name.
    pub(super) async fn target(&self, name: &str) -> Result<Target, AwsError> {
        match self.groups.group(name) {
            Ok(row) => return Ok(Target::Kept(row)),
            Err(GroupError::NoSuchGroup) if name.starts_with(OTHERS) => {}
            Err(error) => return Err(fault::of_groups(error)),
        }
        for fresh_ms in [SERVICES_FRESH_MS, 0] {
            let services = self.services(fresh_ms).await?;
            let of_name = services.iter().filter(|service| group_of_service(service) == name);
            let services: Vec<_> = of_name.cloned().collect();
            if !services.is_empty() {
                return Ok(Target::Others { name: name.to_owned(), services });
            }
        }
        Err(fault::of_groups(GroupError::NoSuchGroup))
    }

    /// Services whose records came by other ways, as they were `fresh_ms` ago at most.
    pub(super) async fn services(&self, fresh_ms: u64) -> Result<Arc<Vec<String>>, AwsError> {
        let now_ms = self.logs.store.now().mono_ms;
        {
            let known = self.services.lock();
            if known.0 > 0 && now_ms.saturating_sub(known.0) < fresh_ms {
                return Ok(Arc::clone(&known.1));
            }
        }
        let services = Arc::new(self.values(others(), "service").await?);
        *self.services.lock() = (now_ms.max(1), Arc::clone(&services));
        Ok(services)
    }

    /// Names of the streams of a group that nobody made.
    pub(super) async fn hosts(&self, target: &Target) -> Result<BTreeSet<String>, AwsError> {
        let hosts = self.values(target.query(), "host").await?;
        let mut names: BTreeSet<String> = hosts.iter().map(|host| stream_of_host(Some(host))).collect();
        let without = Query::Not(Box::new(Query::Exists { name: "host".to_owned() }));
        let without = Query::And(vec![target.query(), without]);
        if self.first(without, Order::Newest, i64::MIN).await?.is_some() {
            names.insert(stream_of_host(None));
        }
        Ok(names)
    }

    async fn values(&self, query: Query, name: &str) -> Result<Vec<String>, AwsError> {
        let want = Want::Values { name: name.to_owned(), limit: OTHERS_MAX };
        let counts = self.logs.store.tally_within_reach(query, (i64::MIN, i64::MAX), vec![want], Reach::Here).await;
        let counts = counts.map_err(fault::of_search)?;
        Ok(match counts.told.into_iter().next() {
            Some(Told::Values(values)) => values.top.into_iter().map(|(value, _)| value).collect(),
            _ => Vec::new(),
        })
    }

    /// About how many bytes the events of a group are, as CloudWatch counts them: how many there are, times the mean size of the newest ones.
    /// Events of streams that were deleted are among them until their windows go.
    pub(super) async fn stored_bytes(&self, name: &str) -> Result<u64, AwsError> {
        let now_ms = self.logs.store.now().mono_ms;
        let known = self.stored.lock().get(name).copied();
        if let Some((_, bytes)) = known.filter(|(at_ms, _)| now_ms.saturating_sub(*at_ms) < STORED_FRESH_MS) {
            return Ok(bytes);
        }
        let target = self.target(name).await?;
        let selection = self.selection(&[target], Streams::All);
        let range = (selection.floor_ns, i64::MAX);
        // Of windows in the other S3 nothing is brought here for an estimate.
        let query = selection.query.clone();
        let counted = self.logs.store.tally_within_reach(query, range, Vec::new(), Reach::Here).await;
        let counted = counted.map_err(fault::of_search)?;
        let sample = Asked { limit: STORED_SAMPLE, ..Asked::all(range.0, range.1, Order::Newest) };
        let sample = self.page(&selection, sample).await?.events;
        let sizes = sample.iter().map(|event| event.message.len() + EVENT_OVERHEAD_BYTES).sum::<usize>();
        let bytes = (counted.matched as f64 * sizes as f64 / sample.len().max(1) as f64).round() as u64;
        if bytes > 0 {
            let mut stored = self.stored.lock();
            if stored.len() >= OTHERS_MAX {
                stored.clear();
            }
            stored.insert(name.to_owned(), (now_ms, bytes));
        }
        Ok(bytes)
    }

    /// The events of `targets` that are in `streams`.
    pub(super) fn selection(&self, targets: &[Target], streams: Streams) -> Selection {
        self.select(targets, streams, true)
    }

    /// The same for those that are still to come, of streams that are still to be made too.
    pub(super) fn following(&self, targets: &[Target], streams: Streams) -> Selection {
        self.select(targets, streams, false)
    }

    /// `narrowed`: the streams that there are now are asked for by their ids.
    fn select(&self, targets: &[Target], streams: Streams, narrowed: bool) -> Selection {
        let wall_ms = self.logs.store.now().wall_ms;
        let mut selection = Selection {
            query: Query::Nothing,
            floors_ns: HashMap::new(),
            floor_ns: i64::MAX,
            others: BTreeSet::new(),
            groups: self.groups.clone(),
            streams,
        };
        let mut queries = Vec::new();
        for target in targets {
            let mut query = target.query();
            let mut floor_ns = i64::MIN;
            match target {
                Target::Kept(row) => {
                    floor_ns = floor_of(row, wall_ms);
                    selection.floors_ns.insert(row.id.clone(), floor_ns);
                    if narrowed && !matches!(selection.streams, Streams::All) {
                        let streams = &selection.streams;
                        let named = self.groups.streams(&row.name, |stream| streams.admits(&stream.row.name));
                        let named = named.unwrap_or_default();
                        if named.len() <= STREAM_IDS_MAX {
                            query =
                                Query::Or(named.iter().map(|stream| Query::text(STREAM_ID, &stream.row.id)).collect());
                        }
                    }
                }
                Target::Others { name, .. } => drop(selection.others.insert(name.clone())),
            }
            selection.floor_ns = selection.floor_ns.min(floor_ns);
            queries.push(query);
        }
        selection.query = if queries.len() == 1 { queries.remove(0) } else { Query::Or(queries) };
        selection
    }

    /// The next records of a selection, and those of them that are meant and pass the test.
    pub(super) async fn page(&self, selection: &Selection, asked: Asked) -> Result<Page, AwsError> {
        let Asked { from_ns, to_ns, order, after, limit, bytes_max, test } = asked;
        let from_ns = from_ns.max(selection.floor_ns);
        if from_ns > to_ns {
            return Ok(Page::default());
        }
        let search = Search { query: selection.query.clone(), from_ns, to_ns, order, limit, after, bytes_max };
        let found = self.logs.search(search).await.map_err(fault::of_search)?;
        let selection = selection.clone();
        let read = tokio::task::spawn_blocking(move || {
            let bytes = found.hits.iter().map(|hit| hit.source.len()).sum();
            let admitted = found.hits.iter().filter_map(Event::of).filter(|event| selection.admits(event));
            Page {
                events: admitted.filter(|event| test.as_ref().is_none_or(|test| test(event))).collect(),
                looked: found.hits.len(),
                bytes,
                last: found.hits.last().map(|hit| hit.position),
                more: found.more,
            }
        });
        read.await.map_err(|error| {
            tracing::error!(%error, "read log events");
            fault::internal()
        })
    }

    /// The first event in an order, if there is one.
    pub(super) async fn first(&self, query: Query, order: Order, from_ns: i64) -> Result<Option<Event>, AwsError> {
        let search =
            Search { query, from_ns, to_ns: i64::MAX, order, limit: 1, after: None, bytes_max: fields::MESSAGE_BYTES };
        let found = self.logs.search(search).await.map_err(fault::of_search)?;
        Ok(found.hits.first().and_then(Event::of))
    }
}

/// The earliest moment that a group's retention leaves.
pub(super) fn floor_of(row: &GroupRow, wall_ms: u64) -> i64 {
    let Some(days) = row.retention_days else { return i64::MIN };
    let floor_ms = wall_ms.saturating_sub(u64::from(days) * 86_400_000);
    i64::try_from(floor_ms.saturating_mul(1_000_000)).unwrap_or(i64::MAX)
}

/// Narrows a question down to lines that may hold `text`: those with the words within it, and with words that its first and its last one may
/// be the ends of. A line that the store has taken apart must be looked at, and so must all lines where nothing is known of the
/// text's words. What is asked here the index answers by itself: were it to read the lines, they would be read twice.
pub(super) fn may_hold(text: &str) -> Query {
    let name = || BODY.to_owned();
    let part_of = |word: &str| {
        let (begins, ends) = (text.starts_with(word), text.ends_with(word));
        match (begins, ends) {
            (false, false) => Some(Query::text(BODY, word)),
            // Letters other than these may change with what stands beside them; of few letters, most words would have them.
            (false, true) if word.is_ascii() => Some(Query::WordPrefix { name: name(), prefix: word.to_owned() }),
            (true, _) if word.len() >= INFIX_BYTES_MIN && word.is_ascii() => {
                Some(Query::WordInfix { name: name(), part: word.to_owned() })
            }
            _ => None,
        }
    };
    let words: Vec<_> = backlot_windows::words(text).filter_map(part_of).collect();
    if words.is_empty() {
        return Query::All;
    }
    Query::Or(vec![Query::And(words), Query::Exists { name: super::event::ORIGINAL.to_owned() }])
}
