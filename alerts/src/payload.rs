//! A notification as Alertmanager's webhook says it: version 4, so that existing receivers read it.

use std::collections::BTreeMap;

use serde_json::{Value, json};
use time::OffsetDateTime;

use crate::ALERT_NAME;
use crate::engine::State;
use crate::notify::{Notification, NotifiedAlert, fingerprint};

/// One line for a subject: at most 100 characters, as SNS wants it.
#[must_use]
pub fn subject(notification: &Notification) -> String {
    let firing = notification.alerts.iter().filter(|alert| alert.state == State::Firing).count();
    let (word, count) = if firing > 0 { ("FIRING", firing) } else { ("RESOLVED", notification.alerts.len()) };
    let mut line = format!("[{word}:{count}] {}", notification.alert);
    if let [only] = notification.alerts.as_slice()
        && let Some(summary) = only.annotations.get("summary")
    {
        line = format!("[{word}] {summary}");
    }
    line.chars().filter(|c| (' '..='~').contains(c)).take(100).collect()
}

/// The body of Alertmanager's webhook.
#[must_use]
pub fn alertmanager_json(notification: &Notification, external_url: &str) -> Value {
    let common = |of: fn(&NotifiedAlert) -> &BTreeMap<String, String>| -> BTreeMap<&String, &String> {
        let mut alerts = notification.alerts.iter().map(of);
        let Some(first) = alerts.next() else { return BTreeMap::new() };
        first.iter().filter(|(name, value)| alerts.clone().all(|other| other.get(*name) == Some(value))).collect()
    };
    let alerts: Vec<Value> = notification
        .alerts
        .iter()
        .map(|alert| {
            json!({
                "status": word(alert.state),
                "labels": alert.labels,
                "annotations": alert.annotations,
                "startsAt": rfc3339(alert.starts_at_ms),
                // Alertmanager's word for "it goes on".
                "endsAt": alert.ends_at_ms.map_or_else(|| "0001-01-01T00:00:00Z".to_owned(), rfc3339),
                "generatorURL": format!("{external_url}/alerts"),
                "fingerprint": fingerprint(&alert.labels),
            })
        })
        .collect();
    json!({
        "version": "4",
        "groupKey": format!("{{}}:{{{ALERT_NAME}={:?}}}", notification.alert),
        "truncatedAlerts": notification.left_out,
        "status": if notification.is_firing() { "firing" } else { "resolved" },
        "receiver": notification.receiver,
        "groupLabels": {ALERT_NAME: notification.alert},
        "commonLabels": common(|alert| &alert.labels),
        "commonAnnotations": common(|alert| &alert.annotations),
        "externalURL": external_url,
        "alerts": alerts,
    })
}

fn word(state: State) -> &'static str {
    if state == State::Resolved { "resolved" } else { "firing" }
}

fn rfc3339(ms: u64) -> String {
    let moment =
        OffsetDateTime::from_unix_timestamp_nanos(i128::from(ms) * 1_000_000).unwrap_or(OffsetDateTime::UNIX_EPOCH);
    let (year, month, day) = moment.to_calendar_date();
    let (hour, minute, second, milli) = moment.to_hms_milli();
    format!("{year:04}-{:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{milli:03}Z", u8::from(month))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_notification_reads_like_alertmanagers() {
        let alert = |queue: &str, state| NotifiedAlert {
            state,
            labels: BTreeMap::from([("alertname".into(), "A".into()), ("queue".into(), queue.into())]),
            annotations: BTreeMap::from([("summary".into(), format!("{queue} is bad — really"))]),
            starts_at_ms: 1_700_000_000_123,
            ends_at_ms: (state == State::Resolved).then_some(1_700_000_060_000),
        };
        let mut notification = Notification {
            receiver: "webhook".into(),
            alert: "A".into(),
            alerts: vec![alert("a", State::Firing), alert("b", State::Resolved)],
            left_out: 0,
            made_at_ms: 1_700_000_060_000,
        };
        let json = alertmanager_json(&notification, "http://127.0.0.1:7070");
        assert_eq!((&json["status"], &json["commonLabels"]), (&json!("firing"), &json!({"alertname": "A"})));
        assert_eq!(json["alerts"][0]["startsAt"], "2023-11-14T22:13:20.123Z");
        assert_eq!(json["alerts"][0]["endsAt"], "0001-01-01T00:00:00Z");
        assert_eq!(json["alerts"][1]["status"], "resolved");
        assert_eq!(json["groupKey"], "{}:{alertname=\"A\"}");
        assert_eq!(subject(&notification), "[FIRING:1] A");
        notification.alerts.remove(0);
        assert_eq!(subject(&notification), "[RESOLVED] b is bad  really");
    }
}
