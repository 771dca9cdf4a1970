//! Patterns as Amazon's manual explains them, and against a slow reference.

use proptest::prelude::*;
use serde_json::json;

use super::super::event::object_of;
use super::*;

fn matches(pattern: &str, line: &str) -> bool {
    let pattern = Pattern::parse(pattern).unwrap_or_else(|problem| panic!("{pattern}: {problem}"));
    pattern.matches(line, || object_of(line).map_or(Value::Null, Value::Object))
}

#[test]
fn terms_are_required_optional_or_excluded() {
    let lines =
        ["[ERROR 400] BAD REQUEST", "[ERROR 419] MISSING ARGUMENTS", "[WARN] slow", "Exiting with ERRORCODE: -1"];
    for (pattern, expected) in [
        ("", vec![0, 1, 2, 3]),
        ("ERROR", vec![0, 1, 3]),
        ("error", vec![]),
        ("ERROR ARGUMENTS", vec![1]),
        ("?ERROR ?WARN", vec![0, 1, 2, 3]),
        ("?ARGUMENTS ?slow", vec![1, 2]),
        ("ERROR -ARGUMENTS", vec![0, 3]),
        ("-ERROR", vec![2]),
        (r#""BAD REQUEST""#, vec![0]),
        (r#""REQUEST BAD""#, vec![]),
        (r#"-"[ERROR" ERROR"#, vec![3]),
        ("%ERROR 4[01]%", vec![0, 1]),
        ("%^.WARN% slow", vec![2]),
        ("?slow REQUEST", vec![0]),
    ] {
        let found: Vec<_> = (0..lines.len()).filter(|at| matches(pattern, lines[*at])).collect();
        assert_eq!(found, expected, "{pattern}");
    }
}

#[test]
fn words_are_found_by_their_place() {
    let line = r#"127.0.0.1 - frank [10/Oct/2026:13:25:15 -0700] "GET /index.html HTTP/1.0" 404 1534"#;
    for (pattern, expected) in [
        ("[ip, id, user, time, request, status, bytes]", true),
        ("[ip, id, user, time, request, status]", false),
        ("[ip, id, user, time, request, status = 4*, bytes]", true),
        ("[ip, id, user, time, request, status = 5*, bytes]", false),
        ("[ip, id, user, time, request, status = 404 || status = 410, bytes > 1000]", true),
        ("[ip, id, user, time, request, (status >= 400 && status < 500), bytes]", true),
        (r#"[ip, id, user = "frank", time, request = "*html*", ...]"#, true),
        (r#"[ip, id, user, time, request = "*.html HTTP/1.1", ...]"#, false),
        ("[..., status = 404, bytes]", true),
        ("[..., bytes < 1000]", false),
        ("[ip = %127\\.0\\.0\\.[0-9]+%, ...]", true),
        ("[ip, , user != fr?nk, ...]", true),
        ("[]", false),
    ] {
        assert_eq!(matches(pattern, line), expected, "{pattern}");
    }
    assert!(matches("[level = ERROR, rest]", "ERROR now") && !matches("[level = ERROR, rest]", "ERROR now or never"));
}

#[test]
fn values_of_json_are_compared() {
    let line = json!({
        "eventType": "UpdateTrail", "sourceIPAddress": "111.111.111.111", "arrayKey": ["value", "another value"],
        "objectList": [{"name": "a", "id": 1}, {"name": "b", "id": 2}], "SomeObject": null, "ThisFlag": true,
        "took_s": 3.5, "status": "404", "a.b": "dotted", "deep": {"er": {"n": 7}},
    })
    .to_string();
    for (pattern, expected) in [
        (r#"{ $.eventType = "UpdateTrail" }"#, true),
        (r#"{ $.eventType = UpdateTrail }"#, true),
        (r#"{ $.eventType = "Update*" }"#, true),
        (r#"{ $.eventType != "Update*" }"#, false),
        (r#"{ $.missing != "x" }"#, false),
        (r#"{ $.sourceIPAddress != 123.123.* }"#, true),
        (r#"{ $.arrayKey[0] = "value" }"#, true),
        (r#"{ $.arrayKey[*] = "another*" }"#, true),
        (r#"{ $.arrayKey[2] = "value" }"#, false),
        (r#"{ $.objectList[1].id = 2 }"#, true),
        (r#"{ $.objectList[1].id = 2e0 && $.took_s > 3 && $.took_s <= 3.5 }"#, true),
        (r#"{ ($.took_s > 4) || ($.eventType = %Trail$%) }"#, true),
        (r#"{ $.took_s > 4 || $.eventType = "X" }"#, false),
        (r#"{ $.SomeObject IS NULL }"#, true),
        (r#"{ $.ThisFlag IS TRUE && $.other NOT EXISTS }"#, true),
        (r#"{ $.ThisFlag IS FALSE }"#, false),
        (r#"{ $.status = 404 }"#, true),
        (r#"{ $.status > 400 }"#, false),
        (r#"{ $.a.b = dotted }"#, true),
        (r#"{ $["a.b"] = "dotted" }"#, true),
        (r#"{ $.deep.er.n = 7 }"#, true),
        (r#"{ $.deep EXISTS }"#, true),
        (r#"{ $.took_s=3.5&&$.ThisFlag=true }"#, true),
    ] {
        assert_eq!(matches(pattern, &line), expected, "{pattern}");
    }
    assert!(!matches("{ $.a = 1 }", "no JSON"));
}

#[test]
fn mistakes_are_told() {
    let deep = format!("{{ {} }}", "(".repeat(100));
    for wrong in [
        "\"open",
        "?",
        "-",
        "%open",
        "%(%",
        "%a% %b% %c%",
        "[a",
        "[a b]",
        "[a =]",
        "[..., ...]",
        "{ $.a",
        "{ }",
        "{ a = 1 }",
        "{ $.a = }",
        "{ $.a > x }",
        "{ $.a IS 3 }",
        "{ $.a NOT 3 }",
        "{ $.a = 1 $.b = 2 }",
        "{ $.a[x] = 1 }",
        "{ $. = 1 }",
        "{ ($.a = 1 }",
        "%(a{500}){500}%",
        deep.as_str(),
    ] {
        assert!(Pattern::parse(wrong).is_err(), "{wrong}");
    }
}

#[test]
fn what_every_line_must_have_is_known() {
    let required =
        |text: &str| Pattern::parse(text).unwrap().required().into_iter().map(str::to_owned).collect::<Vec<_>>();
    assert_eq!(required(r#"a "b c" -d %e%"#), ["a", "b c"]);
    assert!(required("?a ?b").is_empty() && required("{ $.a = 1 }").is_empty());
}

/// Terms by the letter of the manual.
fn slowly(terms: &[(char, String)], line: &str) -> bool {
    let of = |sign: char| terms.iter().filter(move |term| term.0 == sign).map(|term| &term.1);
    let has = |term: &String| (0..=line.len()).any(|at| line.get(at..).is_some_and(|rest| rest.starts_with(term)));
    if of(' ').count() + of('-').count() == 0 {
        return of('?').any(has);
    }
    of(' ').all(has) && !of('-').any(has)
}

proptest! {
    #[test]
    fn no_text_makes_a_pattern_panic(
        text in "[a-c%\"?\\-\\[\\]{}$.*,=!<>()&| \\\\A-Zé0-9]{0,60}",
        line in "[a-c\"\\[\\] {}:0-9]{0,40}",
    ) {
        fuzz_filter(&text, &line);
        fuzz_filter(&format!("{{ $.{text} }}"), &line);
        fuzz_filter(&format!("[{text}]"), &line);
    }

    #[test]
    fn terms_find_what_a_scan_finds(
        terms in prop::collection::vec((prop::sample::select(vec![' ', '?', '-']), "[ab]{1,2}"), 1..5),
        line in "[abc ]{0,12}",
    ) {
        let text: Vec<_> = terms.iter().map(|(sign, term)| format!("{sign}\"{term}\"")).collect();
        prop_assert_eq!(matches(&text.join(" "), &line), slowly(&terms, &line), "{:?} in {:?}", terms, line);
    }

    #[test]
    fn stars_stand_for_anything(pattern in "[ab*]{1,6}", line in "[ab]{0,8}") {
        let expression: String = pattern.chars().map(|sign| if sign == '*' { ".*".into() } else { sign.to_string() }).collect();
        let expected = Regex::new(&format!("^{expression}$")).unwrap().is_match(&line);
        let object = json!({"a": line}).to_string();
        prop_assert_eq!(matches(&format!("{{ $.a = \"{pattern}\" }}"), &object), expected);
    }
}
