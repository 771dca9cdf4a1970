//! The metric catalogue: each metric is declared here once, with unit and meaning, and everything else refers to it.
//!
//! Names are Prometheus's, as they appear on `/metrics`, in dashboards and in rules: base unit last,
//! counters end in `_total`. Job, attempt and trace ids are never labels.

/// What kind of number a metric is.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Kind {
    Counter,
    Gauge,
    /// With upper bounds of its buckets, in the metric's unit.
    Histogram(&'static [f64]),
}

/// One metric: name, unit (UCUM), labels and what it says.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Metric {
    pub name: &'static str,
    pub kind: Kind,
    /// UCUM: `s`, `By`, `1`, `{request}`.
    pub unit: &'static str,
    pub labels: &'static [&'static str],
    pub help: &'static str,
}

/// From a tenth of a millisecond to 30 s: a request or a disk write.
pub const LATENCY_S: &[f64] =
    &[0.0001, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0];
/// From a tenth of a second to two hours: a phase of a job.
pub const PHASE_S: &[f64] = &[0.1, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0, 1800.0, 3600.0, 7200.0];

macro_rules! catalogue {
    ($($id:ident = $kind:expr, $name:literal, $unit:literal, [$($label:literal),*], $help:literal;)*) => {
        $(#[doc = $help] pub const $id: Metric = Metric { name: $name, kind: $kind, unit: $unit, labels: &[$($label),*], help: $help };)*
        /// Every metric, for the reference page and the tests of dashboards and rules.
        pub const ALL: &[Metric] = &[$($id),*];
    };
}

catalogue! {
    DOOR_REQUESTS = Kind::Counter, "backlot_door_requests_total", "{request}", ["door", "operation", "code"], "Requests answered, by door, operation and status code.";
    DOOR_DURATION = Kind::Histogram(LATENCY_S), "backlot_door_request_duration_seconds", "s", ["door", "operation"], "Time from the first byte of a request to the head of its answer.";
    DOOR_BYTES_IN = Kind::Counter, "backlot_door_received_bytes_total", "By", ["door"], "Body bytes received.";
    DOOR_BYTES_OUT = Kind::Counter, "backlot_door_sent_bytes_total", "By", ["door"], "Body bytes sent.";
    DOOR_IN_FLIGHT = Kind::Gauge, "backlot_door_in_flight_requests", "{request}", ["door"], "Requests being answered.";
    DOOR_REFUSED = Kind::Counter, "backlot_door_refused_total", "{request}", ["door", "reason"], "Requests refused before they reached a capability.";

    QUEUE_MESSAGES = Kind::Gauge, "backlot_queue_messages", "{message}", ["queue", "state"], "Messages by state: ready, in_flight, delayed.";
    QUEUE_OLDEST = Kind::Gauge, "backlot_queue_oldest_message_age_seconds", "s", ["queue"], "Age of the oldest message that is ready.";
    QUEUE_OPERATIONS = Kind::Counter, "backlot_queue_operations_total", "{operation}", ["queue", "operation"], "Messages sent, received, deleted, redriven, expired.";
    QUEUE_IS_DLQ = Kind::Gauge, "backlot_queue_is_dlq", "{flag}", ["queue"], "1 for a queue that another queue redrives to.";

    JOBS = Kind::Gauge, "backlot_jobs", "{job}", ["type", "status"], "Jobs that have not ended, by type and status.";
    JOBS_ENDED = Kind::Counter, "backlot_jobs_ended_total", "{job}", ["type", "status"], "Jobs ended, by type and final status.";
    JOB_ATTEMPTS = Kind::Counter, "backlot_job_attempts_total", "{attempt}", ["type", "outcome"], "Attempts ended, by outcome.";
    JOB_PHASE_DURATION = Kind::Histogram(PHASE_S), "backlot_job_phase_duration_seconds", "s", ["type", "phase"], "Time each phase of an attempt took.";
    JOB_WEBHOOKS = Kind::Counter, "backlot_job_webhook_deliveries_total", "{event}", ["webhook", "outcome"], "Events of jobs that webhooks were told: delivered, retried, dead, dropped.";
    JOB_TENANTS_FOLDED = Kind::Gauge, "backlot_job_tenants_folded", "{tenant}", [], "Owners and keys counted with others because there were too many, since the start.";

    AGENT_LAST_SEEN = Kind::Gauge, "backlot_agent_last_seen_timestamp_seconds", "s", ["agent"], "When a registered agent was last heard, as Unix time.";
    AGENT_STOPPED = Kind::Gauge, "backlot_agent_stopped", "{flag}", ["agent"], "1 for an agent that said that it ends.";

    ARTIFACT_OBJECTS = Kind::Gauge, "backlot_artifact_objects", "{object}", ["bucket"], "Objects stored.";
    ARTIFACT_PREVIEWS = Kind::Counter, "backlot_artifact_previews_total", "{preview}", ["outcome"], "Pictures and facts made of artifacts: `made` or `failed`.";
    ARTIFACT_BYTES = Kind::Gauge, "backlot_artifact_stored_bytes", "By", ["bucket"], "Bytes of the objects stored.";
    ARTIFACT_NONCURRENT_BYTES = Kind::Gauge, "backlot_artifact_noncurrent_bytes", "By", ["bucket"], "Bytes of versions that are kept and no longer current.";
    ARTIFACT_LIFECYCLE = Kind::Counter, "backlot_artifact_lifecycle_total", "{action}", ["action"], "What lifecycle rules have done: `expired` objects, `version`s and `marker`s removed, `upload`s aborted, `moved` objects.";

    UPSTREAM_UP = Kind::Gauge, "backlot_upstream_up", "{flag}", [], "1 while the other S3 that the artifact store is a door to answers as it should, 0 while it does not.";
    UPSTREAM_REQUESTS = Kind::Counter, "backlot_upstream_requests_total", "{request}", ["outcome"], "Requests that went on to the other S3: answered, error (its own 5xx), away, silent, busy, credentials, elsewhere, request.";
    UPSTREAM_DURATION = Kind::Histogram(LATENCY_S), "backlot_upstream_request_duration_seconds", "s", [], "Time from a request to the other S3 to the head of its answer.";
    ARTIFACT_DAMAGED = Kind::Gauge, "backlot_artifact_damaged", "{object}", [], "Objects whose bytes were found damaged or missing and are not mended.";
    ARTIFACT_WRITE_FAILURES = Kind::Counter, "backlot_artifact_write_failures_total", "{write}", ["reason"], "Writes of objects' bytes that the disk did not take: full, read_only, other.";
    ARTIFACT_SCRUBBED = Kind::Counter, "backlot_artifact_scrubbed_bytes_total", "By", [], "Bytes of objects that the scrubber has read and compared.";
    ARTIFACT_SCRUB_ENDED = Kind::Gauge, "backlot_artifact_scrub_ended_timestamp_seconds", "s", [], "When the scrubber last came to the end of everything, as Unix time.";
    ARTIFACT_COLD_BYTES = Kind::Gauge, "backlot_artifact_cold_bytes", "By", ["bucket"], "Bytes of objects that are in the cold tier, old versions included.";
    ARTIFACT_COLD_MOVED = Kind::Counter, "backlot_artifact_cold_moves_total", "{object}", ["outcome"], "Objects moved between here and the cold tier: moved, returned, failed, away (the other S3 did not take or give it; tried again).";
    ARTIFACT_COLD_MOVED_BYTES = Kind::Counter, "backlot_artifact_cold_moved_bytes_total", "By", ["outcome"], "Bytes of objects moved into the cold tier and returned from it.";
    ARTIFACT_COLD_READ = Kind::Counter, "backlot_artifact_cold_read_bytes_total", "By", [], "Bytes read from the cold tier.";
    ARTIFACT_COLD_READ_DURATION = Kind::Histogram(LATENCY_S), "backlot_artifact_cold_read_duration_seconds", "s", [], "Time from asking the cold tier for bytes to the head of its answer.";
    ARTIFACT_COLD_READ_FAILURES = Kind::Counter, "backlot_artifact_cold_read_failures_total", "{read}", ["reason"], "Reads that the cold tier did not serve: away, busy.";
    ARTIFACT_COLD_LOOSE = Kind::Gauge, "backlot_artifact_cold_loose", "{blob}", [], "Blobs in the cold tier that nothing refers to and that are not deleted yet.";
    ARTIFACT_QUOTA = Kind::Gauge, "backlot_artifact_quota_bytes", "By", ["bucket"], "Most bytes that a bucket with a quota may hold, old versions included.";
    ARTIFACT_EVENTS = Kind::Counter, "backlot_artifact_events_total", "{event}", ["bucket", "outcome"], "Events of buckets: told (to a queue, or to the outbox of webhooks), dropped.";
    ARTIFACT_ACCESS_LINES = Kind::Counter, "backlot_artifact_access_lines_total", "{line}", ["outcome"], "Lines of the server access log: delivered into their target buckets, dropped.";

    TELEMETRY_ACCEPTED = Kind::Counter, "backlot_telemetry_accepted_total", "{item}", ["signal"], "Log records, spans and samples made durable.";
    TELEMETRY_REFUSED = Kind::Counter, "backlot_telemetry_refused_total", "{item}", ["signal", "reason"], "Log records, spans and samples refused.";
    REDACTED = Kind::Counter, "backlot_redacted_total", "{value}", ["signal", "rule"], "Values taken out of log records and spans before they were written, by the key or rule that asked for it.";
    WINDOWS_BYTES = Kind::Gauge, "backlot_windows_size_bytes", "By", ["signal", "class"], "Bytes of log and span windows on disk, by retention class.";
    WINDOWS_DROPPED = Kind::Counter, "backlot_windows_dropped_total", "{window}", ["signal", "class", "reason"], "Windows that went: age, class_bytes (its class had more than its bytes), total (all together had).";
    WINDOWS_DROPPED_RECORDS = Kind::Counter, "backlot_windows_dropped_records_total", "{record}", ["signal", "class", "reason"], "Log records and spans in windows that went.";
    WINDOWS_COLD_MOVED = Kind::Counter, "backlot_windows_cold_moves_total", "{window}", ["signal", "outcome"], "Log and span windows moved to the other S3: moved, away (it did not take one; tried again), failed (one could not be read or packed here).";
    WINDOWS_COLD_MOVED_BYTES = Kind::Counter, "backlot_windows_cold_moved_bytes_total", "By", ["signal"], "Bytes of windows moved to the other S3.";
    WINDOWS_COLD_BYTES = Kind::Gauge, "backlot_windows_cold_bytes", "By", ["signal", "class"], "Bytes of log and span windows in the other S3, by retention class.";
    WINDOWS_COLD_LOOSE = Kind::Gauge, "backlot_windows_cold_loose", "{window}", ["signal"], "What is in the other S3 of windows that went or whose move ended early, and is not deleted yet.";
    WINDOWS_COLD_READS = Kind::Counter, "backlot_windows_cold_reads_total", "{read}", ["signal", "outcome"], "Reads of searches in the other S3: read, away (no answer), missing, damaged.";
    WINDOWS_COLD_READ = Kind::Counter, "backlot_windows_cold_read_bytes_total", "By", [], "Bytes of windows read from the other S3.";
    WINDOWS_COLD_READ_DURATION = Kind::Histogram(LATENCY_S), "backlot_windows_cold_read_duration_seconds", "s", [], "Time of one read of a window in the other S3, to its last byte.";
    WINDOWS_COLD_CACHE = Kind::Counter, "backlot_windows_cold_cache_total", "{read}", ["outcome"], "Reads of cold windows that the cache had whole, and others: hit, miss.";
    WINDOWS_COLD_CACHE_BYTES = Kind::Gauge, "backlot_windows_cold_cache_bytes", "By", [], "Bytes of cold windows in the cache on disk.";
    WINDOWS_COLD_UNREACHED = Kind::Counter, "backlot_windows_cold_unreached_total", "{search}", ["signal"], "Searches that lacked windows because the other S3 did not answer.";
    CLOUDWATCH_LOGS_REFUSED = Kind::Counter, "backlot_cloudwatch_logs_refused_total", "{item}", ["operation", "reason"], "Log events and calls of CloudWatch Logs that were refused for want of room or for their time: too_old, too_new, throttled, limit, unavailable; and events that a live tail left out: sampled.";
    INDEXED_NAMES = Kind::Gauge, "backlot_indexed_names", "{name}", ["signal", "kind"], "Services, and names of attributes, that log records or spans are found by.";
    UNINDEXED_VALUES = Kind::Counter, "backlot_unindexed_values_total", "{value}", ["signal", "kind"], "Services and attributes that were kept and not indexed, because there are too many names.";
    SYSLOG_MESSAGES = Kind::Counter, "backlot_syslog_messages_total", "{message}", ["transport", "outcome"], "Messages by syslog: taken, cut (taken, and longer than syslog.line_bytes_max), dropped.";
    SERIES = Kind::Gauge, "backlot_metrics_series", "{series}", [], "Series in the memory head.";

    JOURNAL_SYNC_DURATION = Kind::Histogram(LATENCY_S), "backlot_journal_sync_duration_seconds", "s", ["journal"], "Time of one fdatasync.";
    JOURNAL_BYTES = Kind::Gauge, "backlot_journal_size_bytes", "By", ["journal"], "Bytes of all segments.";
    JOURNAL_FULL = Kind::Gauge, "backlot_journal_full", "{flag}", ["journal"], "1 when disk or budget have no room for the next segment: what adds something is refused.";
    JOURNAL_GROUP_RECORDS = Kind::Counter, "backlot_journal_records_total", "{record}", ["journal"], "Records made durable.";

    ALERT_DELIVERIES = Kind::Counter, "backlot_alert_deliveries_total", "{notification}", ["receiver", "outcome"], "Notifications sent, retried, given up.";

    AGENT_GPU_UTILISATION = Kind::Gauge, "backlot_agent_gpu_utilisation_ratio", "1", ["agent", "gpu"], "Share of time in which a kernel ran, 0 to 1.";
    AGENT_GPU_MEMORY = Kind::Gauge, "backlot_agent_gpu_memory_used_bytes", "By", ["agent", "gpu"], "GPU memory in use.";
    AGENT_CPU = Kind::Gauge, "backlot_agent_cpu_utilisation_ratio", "1", ["agent"], "Share of the host's CPU time in use, 0 to 1.";
    AGENT_MEMORY = Kind::Gauge, "backlot_agent_memory_used_bytes", "By", ["agent"], "Host memory in use.";
    AGENT_WORKER_RESTARTS = Kind::Counter, "backlot_agent_worker_restarts_total", "{restart}", ["agent", "reason"], "Worker processes that ended early and were started again.";
    AGENT_JOBS_TOGETHER = Kind::Counter, "backlot_agent_jobs_together_total", "{job}", ["agent"], "Jobs that were given to a worker together with others of their model and shape.";
    AGENT_MODELS_WANTED = Kind::Counter, "backlot_agent_models_wanted_total", "{model}", ["agent", "outcome"], "Models of the store that jobs named: hit (in the agent's cache), miss (fetched, or waited for).";
    AGENT_MODEL_FETCHED_BYTES = Kind::Counter, "backlot_agent_model_fetched_bytes_total", "By", ["agent"], "Bytes of models that came from the store.";
    AGENT_MODEL_FETCH_SECONDS = Kind::Counter, "backlot_agent_model_fetch_seconds_total", "s", ["agent"], "Time that fetching models took, each from its begin until it was compared and named.";
    AGENT_MODEL_EVICTIONS = Kind::Counter, "backlot_agent_model_evictions_total", "{model}", ["agent"], "Models that left the cache to make room for others.";
    AGENT_MODEL_CACHE_BYTES = Kind::Gauge, "backlot_agent_model_cache_bytes", "By", ["agent"], "Bytes of models in the cache, those under way counted whole.";
    AGENT_SPOOL_BYTES = Kind::Gauge, "backlot_agent_spool_size_bytes", "By", ["agent"], "Events waiting on disk for the appliance.";
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_follow_prometheus_and_are_unique() {
        let mut names: Vec<_> = ALL.iter().map(|metric| metric.name).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), ALL.len());
        for metric in ALL {
            assert!(metric.name.starts_with("backlot_"), "{}", metric.name);
            assert_eq!(metric.kind == Kind::Counter, metric.name.ends_with("_total"), "{}", metric.name);
            assert!(
                metric.labels.iter().all(|label| !matches!(*label, "job" | "attempt" | "trace")),
                "{}",
                metric.name
            );
        }
    }
}
