//! Stages, as queries write them, on lines.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;
use crate::logs::loki::logql::{Expr, parse};

fn stages(text: &str) -> Vec<Stage> {
    match parse(&format!("{{app=\"x\"}} {text}")) {
        Ok(Expr::Logs(log)) => log.stages,
        other => panic!("{text}: {other:?}"),
    }
}

fn line(text: &str, metadata: &[(&str, &str)]) -> Line {
    let mut labels = Labels::default();
    labels.set(Kind::Stream, "app", "x".into());
    for (name, value) in metadata {
        labels.set(Kind::Metadata, name, (*value).into());
    }
    Line { time_ns: 1_763_812_800_000_000_000, seq: 0, text: text.into(), labels }
}

/// The line and its labels, but for `app`; `None`: it did not pass.
fn ran(stages: &[Stage], mut line: Line) -> Option<(String, BTreeMap<String, String>)> {
    apply(stages, &mut line).then(|| {
        let labels = line.labels.iter().filter(|(name, ..)| &***name != "app");
        (line.text.to_string(), labels.map(|(name, value, _)| (name.to_string(), value.to_string())).collect())
    })
}

fn labels(text: &str, of: &str) -> Vec<(String, String)> {
    let (_, mut labels) = ran(&stages(text), line(of, &[])).expect("the line passes");
    labels.remove("__error_details__");
    labels.into_iter().collect()
}

fn pairs(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
    pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}

#[test]
fn parsers_take_lines_apart() {
    let document = r#"{"a": 1, "app": "y", "b": {"c-d": "e", "f": [1]}, "t": true, "n": null, "s": ["p", {"q": "r"}]}"#;
    for (stage, of, expected) in [
        ("| json", document, &[("a", "1"), ("app_extracted", "y"), ("b_c_d", "e"), ("t", "true")][..]),
        (
            "| json first=\"s[0]\", q=\"s[1].q\", gone=\"z.y\", t",
            document,
            &[("first", "p"), ("q", "r"), ("t", "true")],
        ),
        ("| json", "no json", &[("__error__", "JSONParserErr")]),
        ("| json", "[1]", &[("__error__", "JSONParserErr")]),
        (
            "| logfmt",
            r#"level=warn msg="say \"no\"" took=5ms empty= flag a.b=c"#,
            &[("a_b", "c"), ("level", "warn"), ("msg", "say \"no\""), ("took", "5ms")],
        ),
        ("| logfmt --keep-empty took, e=\"empty\"", "took=5ms empty= x=y", &[("took", "5ms")]),
        ("| logfmt --strict", "a=\"open", &[("__error__", "LogfmtParserErr")]),
        (
            r#"| pattern "<ip> - <_> \"<verb> <path>\"""#,
            r#"10.0.0.1 - bob "GET /x y""#,
            &[("ip", "10.0.0.1"), ("path", "/x y"), ("verb", "GET")],
        ),
        (r#"| pattern "[<a>] <b>""#, "no brackets", &[]),
        (r#"| pattern "<a>: <b>""#, "no colon", &[("a", "no colon")]),
        (r#"| regexp "(?P<verb>\\w+) (?P<code>\\d+)""#, "GET 200", &[("code", "200"), ("verb", "GET")]),
        (r#"| regexp "(?P<verb>\\d+)""#, "GET", &[]),
        ("| unpack", r#"{"_entry": "the line", "pod": "p"}"#, &[("pod", "p")]),
        (r#"| logfmt | label_format b=a, c="{{.x | ToUpper}}!""#, "a=1 x=y", &[("b", "1"), ("c", "Y!"), ("x", "y")]),
        ("| logfmt | drop a, b=\"2\", c=~\"x.*\"", "a=1 b=2 c=3", &[("c", "3")]),
        ("| logfmt | keep a, app", "a=1 b=2", &[("a", "1")]),
    ] {
        assert_eq!(labels(stage, of), pairs(expected), "{stage}");
    }
    // What its sender wrote as JSON was taken apart when it arrived.
    let (_, found) = ran(&stages("| json | status >= 500"), line("handled", &[("status", "502")])).unwrap();
    assert_eq!(found.into_iter().collect::<Vec<_>>(), pairs(&[("status", "502")]));
    let (_, found) = ran(&stages("| json code=\"status\""), line("handled", &[("status", "502")])).unwrap();
    assert_eq!(found["code"], "502");
}

#[test]
fn filters_let_lines_pass_as_loki_does() {
    let of = "status=502 took=1.5s size=10KB host=a";
    for (stage, passes) in [
        ("|= \"502\" |= \"host\"", true),
        ("|= \"nothing\" or \"took\"", true),
        ("!= \"nothing\" or \"took\"", false),
        ("|~ \"host=[ab]\" !~ \"^x\"", true),
        ("|> \"status=<_> took=<_>\"", true),
        ("|> \"<_>size=<_> host\"", false),
        ("!> \"took<_>\"", true),
        ("| logfmt | status >= 500 and took < 2s", true),
        ("| logfmt | status < 500 or took > 2s", false),
        ("| logfmt | size > 9KB, host=\"a\"", true),
        ("| logfmt | size = 10000B host!=\"b\"", true),
        ("| logfmt | gone > 1", false),
        ("| logfmt | gone=\"\"", true),
        ("| logfmt | host=~\"a|b\" | (status=501 or (status=502 and took>=1500ms))", true),
        ("| logfmt | host > 1 | __error__=\"LabelFilterErr\"", true),
        ("| logfmt | host > 1 | __error__=\"\"", false),
        ("| json | __error__=\"\"", false),
    ] {
        assert_eq!(ran(&stages(stage), line(of, &[])).is_some(), passes, "{stage}");
    }
}

#[test]
fn lines_are_written_anew() {
    for (template, expected) in [
        ("{{.a}}-{{ .b }}", "1-two"),
        ("{{ __line__ | trunc 3 }} {{.gone}}|", "a=1 |"),
        ("{{ .b | replace \"t\" \"T\" | trimSuffix \"o\" }}", "Tw"),
        ("{{ default \"none\" .gone }} {{ upper (trimPrefix \"t\" .b) }}", "none WO"),
        ("{{ alignLeft 5 .b }}|{{ alignRight 5 .b }}|{{ .b | trunc -2 }}", "two  |  two|wo"),
        ("x {{- .a -}} y", "x1y"),
        ("{{ __timestamp__ }}", "2025-11-22T12:00:00.000000000Z"),
    ] {
        let template = template.replace('"', "\\\"");
        let stages = stages(&format!("| logfmt | line_format \"{template}\""));
        assert_eq!(ran(&stages, line("a=1 b=two", &[])).unwrap().0, expected, "{template}");
    }
    let coloured = "\u{1b}[31;1mred\u{1b}[0m and plain\u{1b}[";
    assert_eq!(ran(&stages("| decolorize"), line(coloured, &[])).unwrap().0, "red and plain");
    let bomb = stages(&format!("| line_format `{{{{ replace \"a\" \"{}\" __line__ }}}}`", "b".repeat(8000)));
    assert!(ran(&bomb, line(&"a".repeat(1 << 20), &[])).unwrap().0.len() <= 1 << 20);
}

proptest! {
    #[test]
    fn no_line_makes_a_stage_panic(
        text in prop_oneof!["[ -~é\n\u{1b}]{0,60}", "[a-c=\" \\\\{}:,\\[\\]0-9.]{0,40}"],
        stage in prop::sample::select(vec![
            "| json", "| json a=\"b[0].c\"", "| logfmt", "| logfmt --strict a", "| pattern \"<a> = <b>\"", "| unpack",
            "| regexp \"(?P<a>.)=(?P<b>.*)\"", "| decolorize", "| logfmt | a > 1 or b < 2s", "|> \"a<_>b\"",
            "| line_format \"{{ __line__ | trunc 2 | alignRight 4 | replace `a` `bb` }}\"", "| logfmt | a > 3KB",
        ]),
    ) {
        ran(&stages(stage), line(&text, &[]));
    }
}
