//! Queries as the manual of Insights explains them, and against a slow reference.

use std::collections::BTreeMap;

use proptest::prelude::*;
use serde_json::json;

use super::*;

const BEGIN_MS: i64 = 1_763_812_800_000;

fn inputs(messages: &[String]) -> Vec<Input> {
    let input = |(at, message): (usize, &String)| Input {
        time_ms: BEGIN_MS + i64::try_from(at).unwrap() * 60_000,
        message: message.clone(),
        stream: format!("s{}", at % 2),
        log: "000000000000:app".into(),
        ptr: format!("p{at}"),
        ..Input::default()
    };
    messages.iter().enumerate().map(input).collect()
}

/// The rows of a query over lines, each a minute after the one before, without pointers.
fn rows(query: &str, messages: &[String]) -> Vec<BTreeMap<String, String>> {
    let query = Query::parse(query).unwrap_or_else(|error| panic!("{query}: {error}"));
    let mut inputs = inputs(messages);
    if !query.oldest_first() {
        inputs.reverse();
    }
    let mut run = query.run(1_000);
    for input in &inputs {
        if !run.add(input).unwrap() {
            break;
        }
    }
    let rows = run.finish().unwrap();
    rows.into_iter().map(|row| row.into_iter().filter(|(name, _)| name != "@ptr").collect()).collect()
}

fn column(query: &str, name: &str, messages: &[String]) -> Vec<String> {
    rows(query, messages).into_iter().map(|mut row| row.remove(name).unwrap_or_default()).collect()
}

fn studio() -> Vec<String> {
    [
        json!({"level": "info", "msg": "loaded", "took_s": 2.5, "gpu": {"index": 0}}),
        json!({"level": "error", "msg": "out of memory", "took_s": 10, "gpu": {"index": 1}, "tags": ["a", "b"]}),
        json!({"level": "warn", "msg": "slow", "took_s": 4, "ip": "10.0.0.7"}),
        json!({"level": "error", "msg": "lost a frame", "took_s": "20", "odd-name": "x"}),
    ]
    .iter()
    .map(ToString::to_string)
    .chain(["user=anna, method:GET, latency := 12".to_owned(), "user=ben, method:PUT, latency := 30".to_owned()])
    .collect()
}

#[test]
fn without_commands_there_are_time_and_message_the_newest_first() {
    let found = rows("", &studio());
    assert_eq!(found.len(), 6);
    assert_eq!(found[0]["@timestamp"], "2025-11-22 12:05:00.000");
    assert_eq!(found[5]["@message"], studio()[0]);
    let oldest = column("fields @logStream | sort @timestamp asc | limit 2", "@logStream", &studio());
    assert_eq!(oldest, ["s0", "s1"]);
}

#[test]
fn filters_find_what_they_say() {
    for (filter, expected) in [
        ("level = 'error'", vec![3, 1]),
        ("level != \"error\" and ispresent(level)", vec![2, 0]),
        ("level != \"error\"", vec![5, 4, 2, 0]),
        ("took_s > 3", vec![3, 2, 1]),
        ("took_s >= 10 and took_s <= 20", vec![3, 1]),
        ("gpu.index = 1", vec![1]),
        ("tags.1 = 'b'", vec![1]),
        ("`odd-name` = 'x'", vec![3]),
        ("@message like 'memory'", vec![1]),
        ("@message like /mem.ry|fr[a]me/", vec![3, 1]),
        ("@message =~ /(?i)OUT OF/", vec![1]),
        ("@message not like /level/", vec![5, 4]),
        ("level in ['warn', \"info\"]", vec![2, 0]),
        ("ispresent(level) and level not in ['warn', \"info\"]", vec![3, 1]),
        ("not (level = 'error' or level = 'warn') and took_s + 1 * 2 = 4.5", vec![0]),
        ("strlen(msg) = 4 # slow", vec![2]),
        ("isValidIp(ip)", vec![2]),
        ("@logStream = 's0' and isempty(level)", vec![4]),
        ("@timestamp >= 1763812800000 + 4 * 60000", vec![5, 4]),
        ("took_s / 0 > 1", vec![]),
    ] {
        let found = column(&format!("filter {filter} | fields @timestamp"), "@timestamp", &studio());
        let expected: Vec<_> = expected.iter().map(|minute| format!("2025-11-22 12:0{minute}:00.000")).collect();
        assert_eq!(found, expected, "{filter}");
    }
}

#[test]
fn fields_are_made_named_shown_and_taken_out_of_lines() {
    let lines = studio();
    let row =
        &rows("fields took_s * 2 as twice, toupper(level), concat(msg, '!') | limit 1 | sort twice", &lines[..1])[0];
    assert_eq!(
        (row["twice"].as_str(), row["toupper(level)"].as_str(), row["concat(msg, '!')"].as_str()),
        ("5", "INFO", "loaded!")
    );
    let users = rows(
        "parse @message 'user=*, method:*, latency := *' as @user, @method, @latency | filter ispresent(@user) | display @user, @latency",
        &lines,
    );
    assert_eq!(users.len(), 2);
    assert_eq!(users[0], BTreeMap::from([("@user".into(), "ben".into()), ("@latency".into(), "30".into())]));
    let methods = column(r"parse @message /method:(?<method>\w+)/ | filter ispresent(method)", "method", &lines);
    assert_eq!(methods, ["", ""], "is not shown unless asked for");
    let methods = column(r"parse /method:(?P<method>\w+)/ | fields method | filter method = 'GET'", "method", &lines);
    assert_eq!(methods, ["GET"]);
    let row = &rows(
        "fields coalesce(nothing, level) as l, substr(msg, 1, 3) as s, replace(msg, 'o', '0') as r, bin(1h) as b",
        &lines[..1],
    )[0];
    assert_eq!((row["l"].as_str(), row["s"].as_str(), row["r"].as_str()), ("info", "oad", "l0aded"));
    assert_eq!(row["b"], "2025-11-22 12:00:00.000");
}

#[test]
fn statistics_are_counted_by_groups() {
    let lines = studio();
    let found = rows(
        "stats count(*) as n, avg(took_s), max(took_s), pct(took_s, 50) as p by level | sort n desc, level",
        &lines,
    );
    assert_eq!(found.iter().map(|row| row["n"].as_str()).collect::<Vec<_>>(), ["2", "2", "1", "1"]);
    let errors = found.iter().find(|row| row.get("level").is_some_and(|level| level == "error")).unwrap();
    assert_eq!(
        (errors["avg(took_s)"].as_str(), errors["max(took_s)"].as_str(), errors["p"].as_str()),
        ("15", "20", "15")
    );
    let found = rows("stats count() by bin(2m) | sort bin(2m)", &lines);
    assert_eq!(found[1]["bin(2m)"], "2025-11-22 12:02:00.000");
    assert_eq!(found.iter().map(|row| row["count()"].as_str()).collect::<Vec<_>>(), ["2", "2", "2"]);
    let row = &rows(
        "filter level = 'error' | stats sum(took_s) / count(*) as mean, count_distinct(msg) as d, earliest(msg) as e, latest(msg) as l, stddev(took_s) as s",
        &lines,
    )[0];
    assert_eq!(
        (row["mean"].as_str(), row["d"].as_str(), row["e"].as_str(), row["l"].as_str()),
        ("15", "2", "out of memory", "lost a frame")
    );
    assert_eq!(row["s"], "5");
    assert_eq!(rows("filter level = 'none' | stats count(*) as n", &lines)[0]["n"], "0");
    let twice = rows("stats count(*) as n by level | stats max(n) as most", &lines);
    assert_eq!(twice[0]["most"], "2");
    assert_eq!(column("stats min(@timestamp) as t", "t", &lines), ["2025-11-22 12:00:00.000"]);
    assert_eq!(column("stats count(*) by level | sort count(*) desc | limit 1", "count(*)", &lines), ["2"]);
}

#[test]
fn rows_are_sorted_limited_and_told_apart() {
    let lines = studio();
    assert_eq!(
        column("fields took_s | filter ispresent(took_s) | sort took_s desc", "took_s", &lines),
        ["20", "10", "4", "2.5"]
    );
    assert_eq!(
        column("fields level, took_s | sort level desc, took_s | limit 3", "level", &lines),
        ["warn", "info", "error"]
    );
    assert_eq!(
        column("fields level | filter ispresent(level) | dedup level", "level", &lines),
        ["error", "warn", "info"]
    );
    assert_eq!(
        column("fields level, msg | sort @timestamp asc | dedup level | limit 2", "msg", &lines),
        ["loaded", "out of memory"]
    );
    assert_eq!(column("fields msg | sort took_s desc | display level", "level", &lines)[0], "error");
}

#[test]
fn mistakes_point_at_the_character() {
    let deep = format!("filter {}", "(".repeat(100));
    let long = format!("filter a = 1{}", " or a = 1".repeat(500));
    for (query, at) in [
        ("nonsense", 1),
        ("fields", 7),
        ("fields a,", 10),
        ("filter level =", 15),
        ("filter level like 3", 19),
        ("filter @message like /(/", 25),
        ("filter count(*) > 1", 8),
        ("filter f(x)", 8),
        ("stats level", 12),
        ("stats pct(a)", 12),
        ("stats bin(5)", 7),
        ("limit 0", 8),
        ("limit x", 7),
        ("fields a b", 10),
        ("parse @message 'a*' as x, y", 28),
        ("parse @message /a/", 19),
        ("fields a | pattern @message", 12),
        ("filter a in 'x'", 13),
        ("filter a = 'x", 12),
        (deep.as_str(), 28),
    ] {
        let error = Query::parse(query).unwrap_err();
        assert_eq!(error.at, at, "{query}: {error}");
    }
    assert!(Query::parse(&long).is_err());
}

#[test]
fn what_every_line_must_have_is_known() {
    let required =
        |text: &str| Query::parse(text).unwrap().required().into_iter().map(str::to_owned).collect::<Vec<_>>();
    assert_eq!(
        required("fields a | filter @message like 'x' and b = 1 | filter @message like \"y z\" | limit 3"),
        ["x", "y z"]
    );
    for without in [
        "filter @message like 'x' or a = 1",
        "filter not @message like 'x'",
        "limit 1 | filter @message like 'x'",
        "stats count(*) | filter @message like 'x'",
    ] {
        assert!(required(without).is_empty(), "{without}");
    }
}

proptest! {
    #[test]
    fn no_text_makes_a_query_panic(
        text in "(fields|filter|stats|sort|parse|limit|dedup|display)? ?[a-c@*|,()\\[\\]'\"/`=<>!~+^% .0-9-]{0,40}( as | by | like | in | and | not |count|avg|bin|5m|desc){0,3}[a-c()*0-9]{0,6}",
        lines in "[a-c{}:\"0-9\n ]{0,40}",
    ) {
        fuzz_insights(&text, &lines);
    }

    #[test]
    fn counts_and_sums_are_those_of_a_scan(values in prop::collection::vec((0..4_u8, 0..100_u32), 0..60), least in 0..100_u32) {
        let lines: Vec<_> = values.iter().map(|(kind, n)| json!({"kind": kind, "n": n}).to_string()).collect();
        let mut expected = BTreeMap::<String, (usize, u32, u32)>::new();
        for (kind, n) in values.iter().filter(|(_, n)| *n >= least) {
            let entry = expected.entry(kind.to_string()).or_insert((0, 0, u32::MAX));
            *entry = (entry.0 + 1, entry.1 + n, entry.2.min(*n));
        }
        let query = format!("filter n >= {least} | stats count(*) as c, sum(n) as s, min(n) as m by kind | sort kind asc");
        let found: Vec<_> = rows(&query, &lines).into_iter().map(|row| (row["kind"].clone(), row["c"].clone(), row["s"].clone(), row["m"].clone())).collect();
        let expected: Vec<_> = expected.into_iter().map(|(kind, (c, s, m))| (kind, c.to_string(), s.to_string(), m.to_string())).collect();
        prop_assert_eq!(found, expected);
    }

    #[test]
    fn a_sort_with_a_limit_leaves_what_a_whole_sort_would(values in prop::collection::vec(0..50_u32, 0..200), limit in 1..20_usize) {
        let lines: Vec<_> = values.iter().map(|n| json!({"n": n}).to_string()).collect();
        let found = column(&format!("fields n | sort n desc | limit {limit}"), "n", &lines);
        let mut expected = values.clone();
        expected.sort_by_key(|n| std::cmp::Reverse(*n));
        expected.truncate(limit);
        prop_assert_eq!(found, expected.iter().map(ToString::to_string).collect::<Vec<_>>());
    }
}
