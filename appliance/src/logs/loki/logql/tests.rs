//! Queries that are read, errors that point, and texts of any kind.

use proptest::prelude::*;

use super::*;

fn metric(text: &str) -> Metric {
    match parse(text) {
        Ok(Expr::Metric(metric)) => metric,
        other => panic!("{text}: {other:?}"),
    }
}

#[test]
fn queries_of_all_kinds_are_read() {
    for text in [
        r#"{app="x"}"#,
        r#"{app=~"x|y", level!="debug", a!~"b.*",} |= "err" or "warn" != `ok` |~ "(?i)no" !~ "x$" |> "a <_> b""#,
        r#"{app="x"} | json | status >= 500 and (took > 1.5s or size < 10KB), host="a" | line_format "{{.status}} {{ __line__ }}""#,
        r#"{app="x"} | json first="servers[0].name", status | drop a, b="c" | keep status"#,
        r#"{app="x"} | logfmt --strict --keep-empty a, b="c" | decolorize | unpack"#,
        r#"{app="x"} | pattern "<ip> - <_> [<ts>]" | regexp "(?P<verb>\\w+)" | label_format a=b, c="{{.d | ToUpper}}""#,
        r#"{app="x"} | pattern="is a label" "#,
        "# a comment\n{app=\"x\"} # another",
        r#"rate({app="x"}[5m])"#,
        r#"sum by (level, detected_level) (count_over_time({app="x"} | drop __error__[1m]))"#,
        r#"sum(count_over_time({app="x"}[1h30m] |= "x" offset -5m)) without (a)"#,
        r#"quantile_over_time(0.99, {app="x"} | json | unwrap duration(took) | __error__="" [5m] offset 1h) by (host)"#,
        r#"topk(5, sum by (a) (rate(({app="x"} | logfmt)[1m]))) / on (a) group_left (b) vector(2) > bool 1"#,
        r#"label_replace(rate({app="x"}[1m]), "to", "$1", "from", "(.*)") or vector(0) unless vector(1)"#,
        "vector(1)+vector(1)",
        "-1 + 2 * 3 ^ 2 ^ 0.5",
        r#"absent_over_time({app="x"}[1m])"#,
        r#"sort_desc(sum by (a) (bytes_rate({app="x"}[1m])))"#,
    ] {
        // `offset` stands behind the range, wherever that stands.
        let text = text.replace(r#"[1h30m] |= "x" offset -5m"#, r#"[1h30m] offset -5m |= "x""#);
        assert!(parse(&text).is_ok(), "{text}: {:?}", parse(&text).err());
    }
}

#[test]
fn operators_bind_as_in_loki() {
    for (text, value) in [
        ("1 + 2 * 3", 7.0),
        ("2 ^ 3 ^ 2", 512.0),
        ("(1 + 2) * 3", 9.0),
        ("10 - 4 - 3", 3.0),
        ("7 % 4 == 3", 1.0),
        ("-2 ^ 2", 4.0),
        ("1 > 2", 0.0),
    ] {
        assert!(matches!(metric(text), Metric::Number(found) if found == value), "{text}: {:?}", metric(text));
    }
    let Metric::Binary(binary) = metric("vector(1) + vector(2) > vector(3) and vector(4)") else { panic!() };
    assert_eq!(binary.op, BinaryOp::And);
    let Metric::Range(range) = metric(r#"rate({a="b"} | logfmt | unwrap bytes(size) | x="y" [90s] offset 1m)"#) else {
        panic!()
    };
    assert_eq!((range.range_ns, range.offset_ns, range.log.stages.len()), (90_000_000_000, 60_000_000_000, 1));
    let unwrap = range.unwrap.unwrap();
    assert_eq!((unwrap.label.as_str(), unwrap.unit, unwrap.filters.len()), ("size", Unit::Bytes, 1));
}

#[test]
fn errors_are_lokis_and_point_at_the_place() {
    for (text, error) in [
        ("", "parse error at line 1, col 1: syntax error: unexpected $end"),
        ("{", "parse error at line 1, col 2: syntax error: unexpected $end, expecting IDENTIFIER"),
        (r#"{a="b"} |= x"#, "parse error at line 1, col 12: syntax error: unexpected IDENTIFIER, expecting STRING"),
        ("{a=\"b\"}\n| json\n| nonsense", "parse error at line 3, col 3: syntax error: unexpected IDENTIFIER"),
        (r#"rate({a="b"})"#, "parse error at line 1, col 13: syntax error: unexpected ), expecting RANGE"),
        (r#"{a="b}"#, "parse error at line 1, col 4: literal not terminated, or an escape in it that is none"),
        (
            r#"sum_over_time({a="b"}[1m])"#,
            "parse error at line 1, col 1: invalid aggregation sum_over_time without unwrap",
        ),
        (
            r#"count_over_time({a="b"} | unwrap x [1m])"#,
            "parse error at line 1, col 1: invalid aggregation count_over_time with unwrap",
        ),
        (r#"topk(sum(rate({a="b"}[1m])))"#, "parse error at line 1, col 1: parameter required for operation topk"),
        (r#"rate({a="b"}[1m]) by (x)"#, "parse error at line 1, col 1: grouping not allowed for rate aggregation"),
        (r#"{a="b"} | regexp "(x)""#, "parse error at line 1, col 11: at least one named capture must be supplied"),
    ] {
        assert_eq!(parse(text).err().map(|error| error.to_string()).as_deref(), Some(error), "{text}");
    }
    for text in ["{}", r#"{a=~".*"}"#, r#"{a!="b"}"#, r#"{a=""}"#] {
        let error = parse(text).unwrap_err().to_string();
        assert!(error.starts_with("parse error : queries require at least one"), "{error}");
    }
    let deep = "(".repeat(200);
    let many = format!("{{{}}}", r#"a="b","#.repeat(200));
    let wide = vec![r#"rate({a="b"}[1m])"#; 30].join(" + ");
    for text in [
        deep.as_str(),
        many.as_str(),
        wide.as_str(),
        r#"{a="b"} | ip("1.2.3.4")"#,
        r#"{a="b"} |= ip("1.2.3.4")"#,
        r#"{a=~"("}"#,
        r#"{a="b"} |~ "\\w{1000}{1000}""#,
        r#"{a="b"} + 1"#,
        r#"1 and vector(1)"#,
        r#"{a="b"} | pattern "<a><b>""#,
        r#"{a="b"} | pattern "no captures""#,
        r#"{a="b"} | json x="a..b""#,
        r#"{a="b"} | line_format "{{ .a ""#,
        r#"{a="b"} | line_format "{{ if .a }}x{{ end }}""#,
        r#"rate({a="b"}[0s])"#,
        r#"topk(0, rate({a="b"}[1m]))"#,
        r#"{a="b"} | unwrap x"#,
        "vector(1) + bool vector(2)",
    ] {
        assert!(parse(text).is_err(), "{text}");
    }
    assert!(parse(&"x".repeat(BYTES_MAX + 1)).is_err());
}

/// Pieces of the language, put together at random.
fn any_text() -> impl Strategy<Value = String> {
    let pieces = prop::sample::select(vec![
        "{",
        "}",
        "(",
        ")",
        "[5m]",
        "|",
        "|=",
        "!=",
        "=~",
        "\"x\"",
        "`y`",
        "a",
        "app",
        "=",
        ",",
        "json",
        "logfmt",
        "unwrap",
        "rate",
        "sum",
        "by",
        "count_over_time",
        "topk",
        "1",
        "-2.5",
        "5m",
        "3KB",
        "offset",
        "on",
        "and",
        "or",
        "label_format",
        "line_format",
        "\"{{.a}}\"",
        "pattern",
        "\"<a> <b>\"",
        "vector",
        "+",
        "/",
        ">",
        "--strict",
        "é",
        "\n",
        " ",
        "\"",
        "\\",
        "{a=\"b\"}",
        "{a=\"b\"}[1m]",
        "drop",
        "keep",
        "bool",
        "#",
        "quantile_over_time",
        "0.9,",
    ]);
    let written = prop::collection::vec(pieces, 0..24).prop_map(|pieces| pieces.join(" "));
    prop_oneof![written, "[ -~é\n]{0,80}"]
}

proptest! {
    #[test]
    fn no_text_makes_it_panic_or_point_outside(text in any_text()) {
        if let Err(ParseError::At { line, column, .. }) = parse(&text) {
            prop_assert!(line >= 1 && line <= text.lines().count().max(1) + 1);
            prop_assert!(column >= 1 && column <= text.chars().count() + 1);
        }
        let _ = selector(&text);
        let _ = (duration_ns(&text), bytes(&text));
    }
}
