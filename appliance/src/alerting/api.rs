//! What alerting says of itself: `/v1/alerts` and `/v1/rules` for the dashboard, `/api/v1/rules` and `/api/v1/alerts` for Grafana.

use std::collections::BTreeMap;

use axum::extract::State as With;
use axum::routing::get;
use axum::{Json, Router};
use backlot_alerts::rules::Rule;
use backlot_alerts::{Alert, Evaluation, Health, RuleReport, State};
use backlot_wire::Timestamp;
use serde_json::{Value, json};

use super::Alerting;
use crate::edge::Viewer;

/// The routes of alerting on the http door.
pub fn routes(alerting: Alerting) -> Router {
    Router::new()
        .route("/v1/alerts", get(alerts))
        .route("/v1/rules", get(rules))
        .route("/api/v1/alerts", get(prometheus_alerts))
        .route("/api/v1/rules", get(prometheus_rules))
        .with_state(alerting)
}

fn time(since: backlot_alerts::Since) -> String {
    Timestamp(since.wall_ms).to_rfc3339()
}

/// Seconds and moment of an evaluation, as Prometheus says that there was none yet.
fn evaluation(last: Option<Evaluation>) -> (f64, String) {
    match last {
        Some(Evaluation { at, took_ms }) => (took_ms as f64 / 1000.0, Timestamp(at.wall_ms).to_rfc3339()),
        None => (0.0, "0001-01-01T00:00:00Z".to_owned()),
    }
}

fn texts(templates: &BTreeMap<String, backlot_alerts::Template>) -> BTreeMap<&str, &str> {
    templates.iter().map(|(name, template)| (name.as_str(), template.source())).collect()
}

/// The worst of a rule's alerts.
fn state(alerts: &[&Alert]) -> &'static str {
    let any = |state| alerts.iter().any(|alert| alert.state == state);
    if any(State::Firing) {
        "firing"
    } else if any(State::Pending) {
        "pending"
    } else {
        "inactive"
    }
}

fn health(health: &Health) -> (&'static str, Option<&str>) {
    match health {
        Health::Unknown => ("unknown", None),
        Health::Ok => ("ok", None),
        Health::Error(problem) => ("err", Some(problem)),
    }
}

fn alert_json(alert: &Alert) -> Value {
    json!({
        "name": alert.labels.get(backlot_alerts::ALERT_NAME),
        "state": alert.state,
        "labels": alert.labels,
        "annotations": alert.annotations,
        "value": alert.value.to_string(),
        "active_at": time(alert.active),
        "fired_at": alert.fired.map(time),
        "resolved_at": alert.resolved.map(time),
    })
}

async fn alerts(With(alerting): With<Alerting>, _: Viewer) -> Json<Value> {
    let state = alerting.shared.state.lock();
    Json(json!({"alerts": state.engine.alerts().map(alert_json).collect::<Vec<_>>()}))
}

async fn rules(With(alerting): With<Alerting>, _: Viewer) -> Json<Value> {
    let shared = &alerting.shared;
    let held = shared.state.lock();
    let rule = |report: &RuleReport<'_>| {
        let (health, problem) = health(report.health);
        let Rule { alert, expr, for_ms, keep_firing_for_ms, labels, annotations } = report.rule;
        json!({
            "group": report.group, "alert": alert, "expr": expr, "state": state(&report.alerts),
            "for_s": *for_ms as f64 / 1000.0, "keep_firing_for_s": *keep_firing_for_ms as f64 / 1000.0,
            "labels": texts(labels), "annotations": texts(annotations),
            "health": health, "error": problem,
            "alerts": report.alerts.iter().map(|alert| alert_json(alert)).collect::<Vec<_>>(),
        })
    };
    let receivers: Vec<Value> = shared
        .receivers
        .iter()
        .map(|receiver| {
            let (waiting, problem) = held.outbox.of_receiver(&receiver.name);
            json!({"name": receiver.name, "target": receiver.target, "waiting": waiting, "error": problem})
        })
        .collect();
    Json(json!({"rules": held.engine.report().iter().map(rule).collect::<Vec<_>>(), "receivers": receivers}))
}

/// Prometheus knows no resolved alert.
fn prometheus_alert(alert: &&Alert) -> Option<Value> {
    (alert.state != State::Resolved).then(|| {
        let value = format!("{:e}", alert.value);
        json!({
            "labels": alert.labels, "annotations": alert.annotations, "state": alert.state,
            "activeAt": time(alert.active), "value": value,
        })
    })
}

async fn prometheus_alerts(With(alerting): With<Alerting>, _: Viewer) -> Json<Value> {
    let held = alerting.shared.state.lock();
    let alerts: Vec<Value> = held.engine.alerts().filter_map(|alert| prometheus_alert(&alert)).collect();
    Json(json!({"status": "success", "data": {"alerts": alerts}}))
}

async fn prometheus_rules(With(alerting): With<Alerting>, _: Viewer) -> Json<Value> {
    let shared = &alerting.shared;
    let held = shared.state.lock();
    let report = held.engine.report();
    let rule = |report: &RuleReport<'_>| {
        let (health, problem) = health(report.health);
        let (evaluation_s, evaluated_at) = evaluation(report.last);
        let mut rule = json!({
            "type": "alerting", "name": report.rule.alert, "query": report.rule.expr, "state": state(&report.alerts),
            "duration": report.rule.for_ms as f64 / 1000.0, "keepFiringFor": report.rule.keep_firing_for_ms as f64 / 1000.0,
            "labels": texts(&report.rule.labels), "annotations": texts(&report.rule.annotations), "health": health,
            "alerts": report.alerts.iter().filter_map(prometheus_alert).collect::<Vec<_>>(),
            "evaluationTime": evaluation_s, "lastEvaluation": evaluated_at,
        });
        if let Some(problem) = problem {
            rule["lastError"] = problem.into();
        }
        rule
    };
    let groups: Vec<Value> = held
        .engine
        .groups()
        .map(|group| {
            let interval_ms = group.interval_ms.unwrap_or(shared.config.interval_s.saturating_mul(1000));
            let of_group: Vec<_> = report.iter().filter(|one| one.group == group.name).collect();
            // Its rules are evaluated one after the other.
            let (first, last) = (of_group.first().and_then(|one| one.last), of_group.last().and_then(|one| one.last));
            let whole = first.zip(last).map(|(first, last)| {
                let end_ms = last.at.mono_ms.saturating_add(last.took_ms);
                Evaluation { at: first.at, took_ms: end_ms.saturating_sub(first.at.mono_ms) }
            });
            let (evaluation_s, evaluated_at) = evaluation(whole);
            json!({
                "name": group.name, "file": "", "interval": interval_ms as f64 / 1000.0, "limit": 0,
                "rules": of_group.into_iter().map(rule).collect::<Vec<_>>(),
                "evaluationTime": evaluation_s, "lastEvaluation": evaluated_at,
            })
        })
        .collect();
    Json(json!({"status": "success", "data": {"groups": groups}}))
}
