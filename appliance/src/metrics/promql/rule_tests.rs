//! Runs unit tests of alert rules, in the format of `promtool test rules`, through our PromQL and the alert engine.

use std::collections::{BTreeMap, BTreeSet};

use backlot_alerts::{ALERT_NAME, Element, Engine, Moment, State, rules};
use serde_json::Value;

use super::script::Memory;
use super::{Answer, duration_ms};

/// Texts of a YAML map.
fn texts(value: &Value) -> BTreeMap<String, String> {
    let pairs = value.as_object().into_iter().flatten();
    pairs.map(|(name, text)| (name.clone(), text.as_str().unwrap_or_default().to_owned())).collect()
}

fn ms(value: &Value) -> i64 {
    let text = value.as_str().expect("a duration");
    if text.trim_end_matches(char::is_alphabetic) == "0" { 0 } else { duration_ms(text).expect("a duration") }
}

fn elements(memory: &Memory, expression: &str, t_ms: i64) -> Result<Vec<Element>, String> {
    match memory.instant(expression, t_ms).map_err(|error| error.to_string())? {
        Answer::Vector(series) => Ok(series
            .iter()
            .map(|one| Element {
                labels: one.labels.iter().map(|(name, value)| (name.to_string(), value.to_string())).collect(),
                value: one.samples[0].value,
            })
            .collect()),
        other => Err(format!("no vector: {other:?}")),
    }
}

/// How many expectations were checked.
fn run(rules_text: &str, tests: &Value) -> usize {
    let step_ms = ms(&tests["evaluation_interval"]);
    let mut checked = 0;
    for test in tests["tests"].as_array().expect("tests") {
        let mut memory = Memory::default();
        for series in test["input_series"].as_array().expect("series") {
            let line = format!(
                "{} {}",
                series["series"].as_str().expect("a series"),
                series["values"].as_str().expect("values")
            );
            memory.load(ms(&test["interval"]), &line).expect("a series");
        }
        let mut expected: Vec<&Value> = test["alert_rule_test"].as_array().expect("expectations").iter().collect();
        expected.sort_by_key(|one| ms(&one["eval_time"]));
        let mut engine = Engine::new(rules::parse(rules_text).expect("rules"));
        let mut t_ms = 0;
        for one in expected {
            let until_ms = ms(&one["eval_time"]);
            while t_ms <= until_ms {
                let now = Moment { mono_ms: t_ms as u64, wall_ms: t_ms as u64 };
                let groups: Vec<Vec<String>> =
                    engine.groups().map(|group| group.rules.iter().map(|rule| rule.expr.clone()).collect()).collect();
                for (group, expressions) in groups.iter().enumerate() {
                    for (rule, expression) in expressions.iter().enumerate() {
                        let found = elements(&memory, expression, t_ms).expect("the expression of a rule");
                        engine.evaluated(group, rule, Ok(found), now);
                    }
                }
                t_ms += step_ms;
            }
            let name = one["alertname"].as_str().expect("a name");
            let firing: BTreeSet<_> = engine
                .alerts()
                .filter(|alert| alert.state == State::Firing && alert.labels[ALERT_NAME] == name)
                .map(|alert| {
                    let mut labels = alert.labels.clone();
                    labels.remove(ALERT_NAME);
                    (labels, alert.annotations.clone())
                })
                .collect();
            let wanted: BTreeSet<_> = one["exp_alerts"]
                .as_array()
                .expect("alerts")
                .iter()
                .map(|alert| (texts(&alert["exp_labels"]), texts(&alert["exp_annotations"])))
                .collect();
            assert_eq!(firing, wanted, "{name} at {}", one["eval_time"]);
            checked += 1;
        }
    }
    checked
}

#[test]
fn the_default_rules_pass_their_unit_tests() {
    let text = include_str!("../../../../alerts/rules/backlot.test.yml");
    let tests: Value = serde_yaml_ng::from_str(text).expect("YAML");
    assert_eq!(run(backlot_alerts::DEFAULT_RULES, &tests), 26);
}

#[test]
#[should_panic(expected = "DLQNotEmpty at")]
fn a_rule_that_is_wrong_fails_them() {
    let text = include_str!("../../../../alerts/rules/backlot.test.yml");
    let tests: Value = serde_yaml_ng::from_str(text).expect("YAML");
    run(&backlot_alerts::DEFAULT_RULES.replace("> 0)", "> 5)"), &tests);
}
