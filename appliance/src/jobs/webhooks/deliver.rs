//! Tells the webhooks: one task for each, started and ended as they are defined and taken away.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::time::Duration;

use backlot_wire::metrics::JOB_WEBHOOKS;
use bytes::Bytes;
use futures::future::join_all;
use opentelemetry::KeyValue;
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use super::super::search::{self, Asked};
use super::super::{Jobs, settings};
use super::event;
use super::line::{Line, Next, Outcome};
use super::{AT_PREFIX, Definition, Deliveries, outbox, sign};
use crate::clock::Now;
use crate::outgoing::{Courier, Target};
use crate::tasks::Stage;
use crate::telemetry;

/// How often the outbox is looked at when nothing says that there is something.
const LOOK_EVERY: Duration = Duration::from_secs(2);
/// After news, until the catalogue has them.
const SETTLE: Duration = Duration::from_millis(5);
/// How often it is written down how far a webhook has been told.
const WRITTEN_EVERY_MS: u64 = 1_000;
/// Largest body; of a job that is larger the parameters are left out.
const BODY_BYTES_MAX: usize = 256 * 1024;
const DAY_MS: u64 = 86_400_000;

/// One webhook, opened.
struct Teller {
    name: String,
    target: Target,
    secret: Vec<u8>,
    definition: Definition,
    courier: Courier,
}

impl Jobs {
    /// Starts telling.
    pub(in crate::jobs) fn start_webhooks(&self, stage: &Stage) {
        let (jobs, stage, stop) = (self.clone(), stage.clone(), stage.stopping());
        stage.clone().spawn("jobs webhooks", async move {
            let courier = match Courier::new(super::line::AT_ONCE) {
                Ok(courier) => courier,
                Err(problem) => {
                    tracing::error!(problem, "webhooks are not told");
                    stop.cancelled().await;
                    return;
                }
            };
            let mut running: HashMap<String, (Definition, CancellationToken)> = HashMap::new();
            loop {
                let defined = jobs.book.webhooks.defined.lock().clone();
                running.retain(|name, (definition, ended)| {
                    let stays = defined.get(name) == Some(definition);
                    if !stays {
                        ended.cancel();
                    }
                    stays
                });
                for (name, definition) in defined {
                    if let Entry::Vacant(vacant) = running.entry(name) {
                        let ended = stop.child_token();
                        jobs.start_telling(&stage, vacant.key(), &definition, &courier, ended.clone());
                        vacant.insert((definition, ended));
                    }
                }
                tokio::select! {
                    () = stop.cancelled() => return,
                    () = jobs.book.webhooks.changed.notified() => {}
                }
            }
        });
    }

    /// One attempt to tell the webhook `name` something that is no event of a job, signed like those; any 2xx is success.
    ///
    /// # Errors
    /// A sentence without secrets.
    pub async fn post_to_webhook(&self, name: &str, id: &str, body: Vec<u8>) -> Result<(), String> {
        let definition = self.book.webhooks.defined.lock().get(name).cloned();
        let definition = definition.ok_or_else(|| format!("there is no webhook `{name}`"))?;
        let opened = self
            .unsealed(name, &definition)
            .and_then(|sealed| Some((Target::parse(&sealed.url).ok()?, sign::secret_bytes(&sealed.secret).ok()?)));
        let (target, secret) = opened.ok_or("its secret does not open with this master key; set it again")?;
        let courier = match self.book.webhooks.courier.get() {
            Some(courier) => courier.clone(),
            None => {
                let made = Courier::new(super::line::AT_ONCE)?;
                self.book.webhooks.courier.get_or_init(|| made).clone()
            }
        };
        let posted =
            courier.post(&target, &signed_headers(&secret, id, self.book.clock.now(), &body), body.into()).await;
        self.note(name, |deliveries| match &posted {
            Ok(()) => deliveries.delivered += 1,
            Err(problem) => {
                deliveries.retried += 1;
                deliveries.problem = Some(problem.clone());
            }
        });
        posted
    }

    fn start_telling(
        &self,
        stage: &Stage,
        name: &str,
        definition: &Definition,
        courier: &Courier,
        ended: CancellationToken,
    ) {
        let opened = self
            .unsealed(name, definition)
            .and_then(|sealed| Some((Target::parse(&sealed.url).ok()?, sign::secret_bytes(&sealed.secret).ok()?)));
        let Some((target, secret)) = opened else {
            tracing::error!(webhook = name, "its secret does not open with this master key; set it again");
            self.note(name, |deliveries| {
                deliveries.problem = Some("its secret does not open with this master key; set it again".into());
            });
            return;
        };
        let teller =
            Teller { name: name.to_owned(), target, secret, definition: definition.clone(), courier: courier.clone() };
        let jobs = self.clone();
        stage.spawn_short(async move { jobs.tell(teller, ended).await });
    }

    async fn tell(&self, teller: Teller, ended: CancellationToken) {
        let told = settings::load::<u64>(self.book.catalogue(), &format!("{AT_PREFIX}{}", teller.name));
        // The key is the whole name, so that what is behind it is empty.
        let told = told.ok().and_then(|found| found.into_iter().find(|(rest, _)| rest.is_empty()));
        let mut line = Line::new(told.map_or(0, |(_, at)| at));
        let (mut written, mut written_ms) = (line.told, 0);
        loop {
            let news = self.book.webhooks.news.notified();
            if let Err(error) = self.fill(&mut line).await {
                tracing::error!(webhook = teller.name, error, "the outbox does not read");
            }
            let now = self.book.clock.now();
            let wait = match line.next(now) {
                Next::Tell(some) => {
                    tokio::select! {
                        // An attempt that is cut off counts as not made: it comes again.
                        () = ended.cancelled() => break,
                        () = self.tell_some(&teller, &mut line, some) => {}
                    }
                    None
                }
                Next::At { mono_ms } => Some(Duration::from_millis(mono_ms - now.mono_ms).min(LOOK_EVERY)),
                Next::Idle => Some(LOOK_EVERY),
            };
            self.note(&teller.name, |deliveries| deliveries.waiting = line.len());
            let now = self.book.clock.now();
            let due = now.mono_ms.saturating_sub(written_ms) >= WRITTEN_EVERY_MS;
            if line.told > written && due && self.write_told(&teller.name, line.told).await {
                (written, written_ms) = (line.told, now.mono_ms);
            }
            if let Some(wait) = wait {
                // What is told and not written yet is written soon.
                let wait = if line.told > written { wait.min(Duration::from_millis(WRITTEN_EVERY_MS)) } else { wait };
                tokio::select! {
                    () = ended.cancelled() => break,
                    () = news => tokio::time::sleep(SETTLE).await,
                    () = tokio::time::sleep(wait) => {}
                }
            }
            if ended.is_cancelled() {
                break;
            }
        }
        // Not of one that was taken away: that would bring its position back.
        if line.told > written && self.book.webhooks.defined.lock().contains_key(&teller.name) {
            self.write_told(&teller.name, line.told).await;
        }
    }

    /// Reads events into the line, as far as there is room.
    async fn fill(&self, line: &mut Line) -> Result<(), String> {
        let (after, room) = line.wants();
        if room == 0 {
            return Ok(());
        }
        let catalogue = self.book.catalogue().clone();
        let read = tokio::task::spawn_blocking(move || outbox::after(&catalogue, after, room)).await;
        let found = read.map_err(|error| error.to_string())?.map_err(|error| error.to_string())?;
        found.into_iter().for_each(|(lsn, entry)| line.push(lsn, entry));
        Ok(())
    }

    async fn tell_some(&self, teller: &Teller, line: &mut Line, some: Vec<(u64, event::Entry)>) {
        let age_ms_max = u64::from(self.book.config.webhook_days) * DAY_MS;
        let tell = some.iter().map(|(lsn, entry)| self.tell_one(teller, *lsn, entry));
        let results = join_all(tell).await;
        let now = self.book.clock.now();
        for ((lsn, entry), result) in some.iter().zip(results) {
            let outcome = match &result {
                Ok(told) => {
                    line.done(*lsn, *told);
                    if !told {
                        continue; // not wanted by this one
                    }
                    Outcome::Told
                }
                Err(_) => line.failed(*lsn, now, age_ms_max, rand::random::<f64>()),
            };
            self.count(teller, now, entry, outcome, result.err());
        }
    }

    /// One attempt. False: the webhook does not want the event.
    async fn tell_one(&self, teller: &Teller, lsn: u64, entry: &event::Entry) -> Result<bool, String> {
        if !teller.definition.events.contains(&entry.event) {
            return Ok(false);
        }
        let (jobs, id) = (self.clone(), entry.job.clone());
        let found = tokio::task::spawn_blocking(move || jobs.find(&id)).await.map_err(|error| error.to_string())?;
        let Some(tracked) = found.map_err(|error| error.to_string())? else { return Ok(false) };
        let now = self.book.clock.now();
        if !teller.definition.query.is_empty() {
            let Asked { query, from_ns, to_ns } =
                search::parse(&teller.definition.query, now).map_err(|error| error.to_string())?;
            let document = search::document(&tracked);
            if !(from_ns..=to_ns).contains(&document.time_ns) || !query.matches(&document) {
                return Ok(false);
            }
        }
        let body = body(entry, &serde_json::to_value(tracked.job()).map_err(|error| error.to_string())?);
        let id = format!("msg_{lsn:016x}");
        let headers = signed_headers(&teller.secret, &id, now, &body);
        teller.courier.post(&teller.target, &headers, Bytes::from(body)).await.map(|()| true)
    }

    fn count(&self, teller: &Teller, now: Now, entry: &event::Entry, outcome: Outcome, problem: Option<String>) {
        let word = match outcome {
            Outcome::Told => "delivered",
            Outcome::Again => "retried",
            Outcome::Dead => "dead",
        };
        let labels = [KeyValue::new("webhook", teller.name.clone()), KeyValue::new("outcome", word)];
        telemetry::counter(&JOB_WEBHOOKS).add(1, &labels);
        if outcome == Outcome::Dead {
            tracing::error!(
                webhook = teller.name,
                job = entry.job,
                event = entry.event.as_str(),
                problem,
                "gave up an event"
            );
        }
        self.note(&teller.name, |deliveries| {
            match outcome {
                Outcome::Told => {
                    deliveries.delivered += 1;
                    deliveries.delivered_at = Some(now.timestamp());
                }
                Outcome::Again => deliveries.retried += 1,
                Outcome::Dead => deliveries.dead += 1,
            }
            if problem.is_some() && deliveries.problem.is_none() {
                tracing::warn!(
                    webhook = teller.name,
                    target = teller.target.shown(),
                    problem,
                    "a webhook cannot be told"
                );
            }
            deliveries.problem = problem;
        });
    }

    fn note(&self, name: &str, change: impl FnOnce(&mut Deliveries)) {
        change(self.book.webhooks.deliveries.lock().entry(name.to_owned()).or_default());
    }

    async fn write_told(&self, name: &str, told: u64) -> bool {
        let record = match settings::record(&format!("{AT_PREFIX}{name}"), Some(&told)) {
            Ok(record) => record,
            Err(error) => unreachable!("a number is small: {error}"),
        };
        let written = self.write_settings(vec![record]).await;
        if let Err(error) = &written {
            tracing::warn!(webhook = name, %error, "how far a webhook was told was not written; it is tried again");
        }
        written.is_ok()
    }
}

fn signed_headers(secret: &[u8], id: &str, now: Now, body: &[u8]) -> [(&'static str, String); 4] {
    let timestamp_s = now.wall_ms / 1_000;
    [
        ("content-type", "application/json".to_owned()),
        ("webhook-signature", sign::signature(secret, id, timestamp_s, body)),
        ("webhook-id", id.to_owned()),
        ("webhook-timestamp", timestamp_s.to_string()),
    ]
}

/// The body: what happened, and the job as it is.
fn body(entry: &event::Entry, job: &Value) -> Vec<u8> {
    let make = |job: &Value, cut: bool| {
        let mut body = json!({
            "type": format!("job.{}", entry.event.as_str()),
            "timestamp": entry.at,
            "data": {"job": job, "attempt": entry.attempt},
        });
        if cut {
            body["data"]["parameters_left_out"] = json!(true);
        }
        body.to_string().into_bytes()
    };
    let whole = make(job, false);
    if whole.len() <= BODY_BYTES_MAX {
        return whole;
    }
    let mut small = job.clone();
    for list in ["outputs", "attempts", "partial"] {
        if let Some(list) = small[list].as_array_mut() {
            let surplus = list.len().saturating_sub(10);
            list.drain(..surplus);
        }
    }
    if let Some(spec) = small["spec"].as_object_mut() {
        spec.retain(|name, _| {
            matches!(name.as_str(), "job_id" | "type" | "user_id" | "project_id" | "labels" | "priority")
        });
    }
    make(&small, true)
}

#[cfg(test)]
mod tests {
    use backlot_wire::Timestamp;

    use super::super::event::Event;
    use super::*;

    #[test]
    fn the_body_of_a_large_job_is_bounded_and_says_so() {
        let entry = event::Entry { job: "j".into(), event: Event::Failed, at: Timestamp(0), attempt: Some(2) };
        let read = |job: &Value| serde_json::from_slice::<Value>(&body(&entry, job)).unwrap();
        let small = json!({"id": "j", "spec": {"type": "x", "parameters": {"a": 1}}});
        let told = read(&small);
        assert_eq!((told["type"].as_str(), &told["data"]["job"]), (Some("job.failed"), &small));
        let large = json!({"id": "j", "spec": {"type": "x", "parameters": {"script": "y".repeat(900_000)}}, "attempts": [1, 2]});
        assert!(body(&entry, &large).len() < BODY_BYTES_MAX);
        let told = read(&large);
        assert_eq!(
            (told["data"]["parameters_left_out"].as_bool(), told["data"]["job"]["spec"]["type"].as_str()),
            (Some(true), Some("x"))
        );
    }
}
