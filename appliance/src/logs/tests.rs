//! Logs with a real journal and real windows, in this process.

mod power;

use std::time::Duration;

use backlot_windows::{Order, Query, Reach};
use opentelemetry_proto::tonic::common::v1::any_value::Value as Any;
use opentelemetry_proto::tonic::common::v1::{AnyValue, KeyValue};
use opentelemetry_proto::tonic::logs::v1::{LogRecord as OtlpRecord, ResourceLogs, ScopeLogs};
use opentelemetry_proto::tonic::resource::v1::Resource;

use super::schema::answer;
use super::*;
use crate::clock::{Clock, SystemClock};
use crate::edge::otlp::{ExportLogsServiceRequest, Sink};
use crate::signals::redact::Redactor;
use crate::tasks::Stages;
use crate::telemetry_journal::TelemetryJournal;

fn text(value: &str) -> Option<AnyValue> {
    Some(AnyValue { value: Some(Any::StringValue(value.into())) })
}

fn pair(key: &str, value: &str) -> KeyValue {
    KeyValue { key: key.into(), value: text(value), ..KeyValue::default() }
}

fn request(records: Vec<OtlpRecord>) -> ExportLogsServiceRequest {
    let resource = Resource {
        attributes: vec![pair("service.name", "backlot-agent"), pair("host.name", "gpu-7")],
        ..Resource::default()
    };
    let scope_logs = vec![ScopeLogs { log_records: records, ..ScopeLogs::default() }];
    ExportLogsServiceRequest {
        resource_logs: vec![ResourceLogs { resource: Some(resource), scope_logs, ..ResourceLogs::default() }],
    }
}

fn record(time_ns: u64, body: &str) -> OtlpRecord {
    OtlpRecord { time_unix_nano: time_ns, body: text(body), severity_number: 17, ..OtlpRecord::default() }
}

fn everything(query: Query) -> Search {
    Search {
        query,
        from_ns: i64::MIN,
        to_ns: i64::MAX,
        order: Order::Newest,
        limit: 1000,
        after: None,
        bytes_max: usize::MAX,
    }
}

struct Running {
    logs: Logs,
    stages: Stages,
    journal: TelemetryJournal,
}

fn run(dir: &Path) -> Running {
    run_with(dir, &config::Logs::default())
}

fn run_with(dir: &Path, config: &config::Logs) -> Running {
    let mut options = backlot_journal::Options::new(dir);
    options.segment_bytes = 64 << 20;
    options.record_bytes_max = 16 << 20;
    options.reserve_bytes = 1 << 16;
    let (journal, _) = TelemetryJournal::open(dir, options).unwrap();
    let clock: Arc<dyn Clock> = Arc::new(SystemClock::new());
    let redactor = Redactor::new(&config::Redaction::default()).unwrap();
    let common =
        Common { journal: journal.clone(), redactor, limits: config::SignalsConfig::default(), clock, cold: None };
    let (logs, _) = Logs::build(dir, config, &common).unwrap();
    let stages = Stages::new(&[("stores", Duration::from_secs(20))]);
    logs.start(&stages.stage("stores"));
    Running { logs, stages, journal }
}

async fn found(logs: &Logs, query: &str) -> Vec<LogRecord> {
    let found = logs.search(everything(parse(query, crate::clock::Now::default()).unwrap())).await.unwrap();
    found.hits.iter().map(|hit| serde_json::from_str(&answer(hit.position, &hit.source).unwrap()).unwrap()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_acknowledged_is_found_at_once_and_once_after_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let now_ns = SystemClock::new().now().wall_ms * 1_000_000;
    let Running { logs, stages, journal } = run(dir.path());
    for batch in 0..5_u64 {
        let records =
            (0..20).map(|i| record(now_ns + batch * 20 + i, &format!("frame {i} of batch {batch}"))).collect();
        let partial = logs.export(request(records)).await.unwrap();
        assert_eq!((partial.accepted, partial.rejected), (20, 0));
        assert_eq!(found(&logs, "frame").await.len() as u64, (batch + 1) * 20);
    }
    let records = found(&logs, "service:backlot-agent level:error \"batch 3\" host:gpu*").await;
    assert_eq!(records.len(), 20);
    assert_eq!(records[0].body, "frame 19 of batch 3");
    stages.stop().await;
    journal.close();
    drop((logs, journal));

    let Running { logs, stages, .. } = run(dir.path());
    let mut ids: Vec<_> = found(&logs, "*").await.into_iter().map(|record| record.id).collect();
    ids.dedup();
    assert_eq!(ids.len(), 100);
    stages.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn odd_records_are_kept_within_bounds() {
    let dir = tempfile::tempdir().unwrap();
    let Running { logs, stages, .. } = run(dir.path());
    let mut odd = record(1, &"word ".repeat(500_000));
    odd.attributes = (0..10_000).map(|i| pair(&format!("key.{i}"), "value")).collect();
    odd.trace_id = vec![1, 2, 3];
    let far = record(u64::MAX, "from the year 2262 at least");
    let mut changing = record(0, "no time of its own");
    changing.severity_number = 0;
    changing.severity_text = "Warning".into();
    changing.attributes = vec![pair("retries", "many")];
    let mut number = record(0, "counted");
    let three = AnyValue { value: Some(Any::IntValue(3)) };
    number.attributes = vec![KeyValue { key: "retries".into(), value: Some(three), ..KeyValue::default() }];
    logs.export(request(vec![odd, far, changing, number])).await.unwrap();

    let long = &found(&logs, "key.5:value").await[0];
    assert!(long.truncated && long.body.len() <= BODY_BYTES_MAX && long.dropped_attributes > 9_000);
    assert_eq!((long.trace_id.as_deref(), long.time.as_str()), (None, "1970-01-01T00:00:00.000000001Z"));
    assert_eq!(found(&logs, "2262").await.len(), 1);
    assert_eq!(found(&logs, "retries:many").await[0].level.as_deref(), Some("warn"));
    assert_eq!(found(&logs, "retries:[2 TO 4]").await[0].body, "counted");
    assert_eq!(found(&logs, "retries:*").await.len(), 2);
    stages.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn streams_are_told_by_their_resource_and_counted() {
    let dir = tempfile::tempdir().unwrap();
    let Running { logs, stages, .. } = run(dir.path());
    let now_ns = SystemClock::new().now().wall_ms * 1_000_000;
    let other = Resource { attributes: vec![pair("host.name", "gpu-8"), pair("team", "light")], ..Resource::default() };
    let mut sent = request((0..3).map(|i| record(now_ns + i, "frame")).collect());
    sent.resource_logs.push(ResourceLogs {
        resource: Some(other),
        scope_logs: vec![ScopeLogs { log_records: vec![record(now_ns, "frame lost")], ..ScopeLogs::default() }],
        ..ResourceLogs::default()
    });
    logs.export(sent).await.unwrap();
    let all = (i64::MIN, i64::MAX);
    let streams = logs.streams(&Query::All, all, 10, Reach::Everywhere).await.unwrap();
    let told: Vec<_> =
        streams.iter().map(|stream| (stream.resource["host.name"].as_str().unwrap(), stream.count)).collect();
    assert_eq!(told, [("gpu-7", 3), ("gpu-8", 1)]);
    assert_eq!(*streams[1].resource, *serde_json::json!({"host.name": "gpu-8", "team": "light"}).as_object().unwrap());
    assert_eq!(
        logs.streams(&Query::text("body", "lost"), all, 10, Reach::Everywhere).await.unwrap(),
        [streams[1].clone()]
    );
    assert_eq!(logs.streams(&Query::All, all, 1, Reach::Everywhere).await.unwrap(), [streams[0].clone()]);
    assert_eq!(found(&logs, &format!("stream:{}", streams[0].key)).await.len(), 3);
    stages.stop().await;
}
