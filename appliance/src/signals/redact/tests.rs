use opentelemetry_proto::tonic::common::v1::{ArrayValue, KeyValueList};
use opentelemetry_proto::tonic::logs::v1::{LogRecord, ResourceLogs, ScopeLogs};
use opentelemetry_proto::tonic::trace::v1::span::{Event, Link};
use opentelemetry_proto::tonic::trace::v1::{ResourceSpans, ScopeSpans, Span, Status};
use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::config::{Redaction, RedactionRule};

const MARK: &str = "[redacted]";

fn rule(name: &str, pattern: &str) -> RedactionRule {
    RedactionRule { name: name.into(), pattern: pattern.into() }
}

fn rules(rule: Vec<RedactionRule>) -> Rules {
    Rules::new(&Redaction { rule, ..Redaction::default() }).unwrap()
}

fn without(rules: &Rules, text: &str) -> String {
    let mut text = text.to_owned();
    rules.pass().text(&mut text);
    text
}

fn text(text: &str) -> Option<AnyValue> {
    Some(AnyValue { value: Some(Any::StringValue(text.into())) })
}

fn pair(key: &str, value: Option<AnyValue>) -> KeyValue {
    KeyValue { key: key.into(), value, ..KeyValue::default() }
}

#[test]
fn the_value_of_a_key_is_taken_out_however_the_text_is_written() {
    let rules = rules(Vec::new());
    let cases = [
        (r#"{"a":1,"password":"x","b":"y"}"#, r#"{"a":1,"password":"[redacted]","b":"y"}"#),
        (r#"{"Password" : "a\"b\\" , "b":2}"#, r#"{"Password" : "[redacted]" , "b":2}"#),
        (r#"{"token":{"a":["}"]},"b":{"api-key":17}}"#, r#"{"token":"[redacted]","b":{"api-key":"[redacted]"}}"#),
        (r#"{"secret":null,"pass\u0077ord":"x"}"#, r#"{"secret":"[redacted]","pass\u0077ord":"[redacted]"}"#),
        (r#"{"m":"{\"token\":\"x\\\"y\",\"n\":1}"}"#, r#"{"m":"{\"token\":\"[redacted]\",\"n\":1}"}"#),
        (r#"{"m":"no \"password\": hunter2 here"}"#, r#"{"m":"no \"password\": \"[redacted]\""}"#),
        (
            r#"got 5" tape and {"authorization":"Bearer x"} there"#,
            r#"got 5" tape and {"authorization":"[redacted]"} there"#,
        ),
        (
            "headers={'Authorization': b'Bearer x', 'Accept': '*'}",
            "headers={'Authorization': '[redacted]', 'Accept': '*'}",
        ),
        (r#"{"password":"cut o"#, r#"{"password":"[redacted]""#),
        (r#"{"a":{"cookie":["x", {"#, r#"{"a":{"cookie":"[redacted]""#),
        ("{\"token\": Sensitive}\n\"n\": 1", "{\"token\": \"[redacted]\"}\n\"n\": 1"),
        ("don't say 'password' aloud: it's one", "don't say 'password' aloud: it's one"),
        (r#"{"passwords":1,"max_tokens":2,"token_count":3}"#, r#"{"passwords":1,"max_tokens":2,"token_count":3}"#),
    ];
    for (before, after) in cases {
        assert_eq!(without(&rules, before), after);
    }
}

#[test]
fn a_pattern_takes_out_what_it_matches_or_its_group_and_sees_through_escapes() {
    let rules = rules(vec![
        rule("aws", r"AKIA[0-9A-Z]{16}"),
        rule("userinfo", r"https?://[^/\s:@]*:(?<secret>[^@/\s]+)@"),
        rule("mail", r"[\w.]+@[\w.]+\.\w+"),
    ]);
    let key = "AKIAABCDEFGHIJKLMNOP";
    assert_eq!(without(&rules, &format!("a {key} and {key}.")), "a [redacted] and [redacted].");
    assert_eq!(without(&rules, "GET https://anna:geheim@a.b/c"), "GET https://anna:[redacted]@a.b/c");
    let hidden = r#"{"msg":"by anna\u0040studio.example","n":12345678901234567890}"#;
    let read: Value = serde_json::from_str(&without(&rules, hidden)).unwrap();
    assert_eq!(read, json!({"msg": "by [redacted]", "n": 12_345_678_901_234_567_890_u64}));
    assert_eq!(without(&rules, "nothing"), "nothing");
}

#[test]
fn everything_of_logs_and_spans_that_can_hold_a_secret_is_looked_at_and_counted() {
    let rules = rules(vec![rule("hunter", "hunter[0-9]")]);
    let list = |values| Some(AnyValue { value: Some(values) });
    let deep = KeyValueList {
        values: vec![
            pair("TOKEN", list(Any::IntValue(5))),
            pair("a", list(Any::ArrayValue(ArrayValue { values: vec![text("hunter1").unwrap()] }))),
        ],
    };
    let pairs = || {
        vec![
            pair("http.request.header.authorization", list(Any::ArrayValue(ArrayValue::default()))),
            pair("deep", list(Any::KvlistValue(deep.clone()))),
            pair("bytes", list(Any::BytesValue(b"hunter2".to_vec()))),
            pair("kept", text("as it is")),
        ]
    };
    let resource = || Some(Resource { attributes: pairs(), ..Resource::default() });
    let scope = || Some(InstrumentationScope { attributes: pairs(), name: "hunter3".into(), ..Default::default() });
    let record = LogRecord {
        body: text(r#"{"cookie":"a","msg":"hunter4"}"#),
        attributes: pairs(),
        event_name: "hunter5".into(),
        severity_text: "hunter6".into(),
        ..LogRecord::default()
    };
    let scope_logs = vec![ScopeLogs { scope: scope(), log_records: vec![record], ..ScopeLogs::default() }];
    let mut logs = ExportLogsServiceRequest {
        resource_logs: vec![ResourceLogs { resource: resource(), scope_logs, ..ResourceLogs::default() }],
    };
    let mut span =
        Span { name: "hunter7".into(), trace_state: "a=hunter8".into(), attributes: pairs(), ..Span::default() };
    span.status = Some(Status { message: "hunter9".into(), ..Status::default() });
    span.events = vec![Event { name: "hunter0".into(), attributes: pairs(), ..Event::default() }];
    span.links = vec![Link { trace_state: "b=hunter1".into(), attributes: pairs(), ..Link::default() }];
    let scope_spans = vec![ScopeSpans { scope: scope(), spans: vec![span], ..ScopeSpans::default() }];
    let mut traces = ExportTraceServiceRequest {
        resource_spans: vec![ResourceSpans { resource: resource(), scope_spans, ..ResourceSpans::default() }],
    };

    let counted = |pass: Pass<'_>| {
        let counts = pass.counts.into_iter().enumerate().filter(|(_, count)| *count > 0);
        counts.map(|(at, count)| (rules.name(at).to_owned(), count)).collect::<Vec<_>>()
    };
    let expected = |sets: u64, cookies: u64, texts: u64| {
        let mut counts = vec![("authorization".to_owned(), sets)];
        counts.extend((cookies > 0).then(|| ("cookie".to_owned(), cookies)));
        counts.extend([("token".to_owned(), sets), ("hunter".to_owned(), 2 * sets + texts)]);
        counts
    };
    let mut pass = rules.pass();
    logs.redact(&mut pass);
    assert_eq!(counted(pass), expected(3, 1, 4));
    let mut pass = rules.pass();
    traces.redact(&mut pass);
    assert_eq!(counted(pass), expected(5, 0, 6));
    for kept in [serde_json::to_string(&logs).unwrap(), serde_json::to_string(&traces).unwrap()] {
        assert!(!kept.contains("hunter") && kept.contains("as it is"), "{kept}");
    }
}

#[test]
fn a_rule_that_is_wrong_is_named_with_what_is_wrong() {
    let wrong = |keys: &[&str], mark: &str, rule: Vec<RedactionRule>| {
        let keys = keys.iter().map(|key| (*key).to_owned()).collect();
        check(&Redaction { keys, mark: mark.into(), rule }).unwrap_err()
    };
    assert!(wrong(&[], MARK, vec![rule("open", "a(b")]).contains("rule `open`"));
    assert!(wrong(&[], MARK, vec![rule("empty", "a*")]).contains("matches where there is nothing"));
    assert!(wrong(&[], MARK, vec![rule("huge", r"\w{1000}{1000}")]).contains("rule `huge`"));
    assert!(wrong(&[], MARK, vec![rule("a", "b"), rule("a", "c")]).contains("another one"));
    assert!(wrong(&["pässword"], MARK, Vec::new()).contains("pässword"));
    assert!(wrong(&[], "\"", Vec::new()).contains("mark"));
    assert!(check(&Redaction::default()).is_ok());
}

#[test]
fn marks_longer_than_what_they_stand_for_do_not_multiply_a_text() {
    let rules = rules(vec![rule("letter", "x")]);
    let without = without(&rules, &"x".repeat(1 << 20));
    assert!(without.len() < (1 << 20) + 100_000 && !without.contains('x'));
}

/// What is right, obviously: the values of keys in JSON that was read.
fn reference(keys: &Keys, value: Value) -> Value {
    match value {
        Value::Object(entries) => {
            let entry = |(name, value): (String, Value)| match keys.find(&name) {
                Some(_) => (name, json!(MARK)),
                None => (name, reference(keys, value)),
            };
            entries.into_iter().map(entry).collect()
        }
        Value::Array(values) => values.into_iter().map(|value| reference(keys, value)).collect(),
        other => other,
    }
}

fn any_json() -> impl Strategy<Value = Value> {
    let name = || prop_oneof![Just("password".to_owned()), Just("api_key".to_owned()), r#"[a-c"'\\:{},é \n]{0,5}"#];
    let plain = prop_oneof![
        Just(Value::Null),
        any::<i32>().prop_map(Value::from),
        r#"[a-c"'\\:{}\[\],é \n]{0,8}"#.prop_map(Value::from),
    ];
    plain.prop_recursive(4, 24, 4, move |inner| {
        prop_oneof![
            proptest::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            proptest::collection::btree_map(name(), inner, 0..4).prop_map(|entries| entries.into_iter().collect()),
        ]
    })
}

proptest! {
    #[test]
    fn json_without_its_keys_is_what_the_reference_makes_of_it(value in any_json(), is_pretty: bool, levels in 0..3_usize) {
        let rules = rules(Vec::new());
        let mut written = if is_pretty { serde_json::to_string_pretty(&value) } else { serde_json::to_string(&value) }.unwrap();
        for _ in 0..levels {
            written = json!({"m": written}).to_string();
        }
        let mut read: Value = serde_json::from_str(&without(&rules, &written)).unwrap();
        for _ in 0..levels {
            read = serde_json::from_str(read["m"].as_str().unwrap()).unwrap();
        }
        prop_assert_eq!(read, reference(&rules.keys, value));
    }

    #[test]
    fn no_text_makes_it_panic_and_nothing_is_left_for_a_second_time(
        text in r#"(token|"token"|'token'|\\|\\u0074|["':{}\[\],a \né]){0,24}"#,
    ) {
        fuzz_text(&text);
    }
}

/// Not a test: tells what redaction costs beside the other work on a record.
#[test]
#[ignore = "a measurement: cargo test --lib --release -- --ignored --nocapture cost_of"]
#[allow(clippy::disallowed_methods, clippy::print_stdout, reason = "it measures")]
fn cost_of_redaction() {
    use prost::Message as _;
    let body = r#"{"level":"info","msg":"frame 17 of shot 42 rendered in 1834 ms on gpu 3","shot":"42","frame":17,"ms":1834.5,"path":"/mnt/out/17.exr"}"#;
    let record = |at: usize| LogRecord {
        body: if at.is_multiple_of(2) { text(body) } else { text("frame 17 of shot 42 rendered in 1834 ms on gpu 3") },
        attributes: ["code.file.path", "thread.name", "gpu.index", "job.id", "render.samples", "http.request.method"]
            .map(|name| pair(name, text("some value or other")))
            .to_vec(),
        ..LogRecord::default()
    };
    let scope_logs = vec![ScopeLogs { log_records: (0..20_000).map(record).collect(), ..ScopeLogs::default() }];
    let request =
        ExportLogsServiceRequest { resource_logs: vec![ResourceLogs { scope_logs, ..ResourceLogs::default() }] };
    let bytes = request.encode_to_vec();
    let time = |work: &mut dyn FnMut()| {
        let begin = std::time::Instant::now();
        work();
        begin.elapsed().as_secs_f64() * 1e3
    };
    let decode = time(&mut || drop(ExportLogsServiceRequest::decode(bytes.as_slice())));
    let index = time(&mut || drop(crate::logs::records(&request, 0, 0)));
    let patterns = vec![
        rule("aws", r"AKIA[0-9A-Z]{16}"),
        rule("userinfo", r"https?://[^/\s:@]*:(?<secret>[^@/\s]+)@"),
        rule("bearer", r"(?i)bearer\s+(?<secret>[\w.~+/=-]+)"),
    ];
    for (name, rules) in [("keys", rules(Vec::new())), ("keys and 3 patterns", rules(patterns))] {
        let mut request = request.clone();
        let redact = time(&mut || request.redact(&mut rules.pass()));
        println!("{} MB: decode {decode:.0} ms, records {index:.0} ms, {name} {redact:.0} ms", bytes.len() >> 20);
    }
}
