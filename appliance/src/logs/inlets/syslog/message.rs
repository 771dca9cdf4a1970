//! One message of syslog: RFC 5424, RFC 3164 and what programs make of it.
//!
//! Whatever comes is a record. What does not read as a header is text; a message without a priority is `user.notice`, as RFC 3164 has it.

use jiff::civil::{Date, Time};
use jiff::tz::TimeZone;
use jiff::{Timestamp, civil};
use opentelemetry_proto::tonic::common::v1::AnyValue;
use opentelemetry_proto::tonic::common::v1::any_value::Value as Any;
use opentelemetry_proto::tonic::logs::v1::LogRecord;
use serde_json::{Map, Value};

use super::super::of_object;
use crate::logs::model::severity_named;
use crate::signals::attributes::pairs;

const FACILITIES: [&str; 24] = [
    "kern", "user", "mail", "daemon", "auth", "syslog", "lpr", "news", "uucp", "cron", "authpriv", "ftp", "ntp",
    "audit", "alert", "clock", "local0", "local1", "local2", "local3", "local4", "local5", "local6", "local7",
];
/// OTLP's numbers of the eight severities, emergency first.
const SEVERITIES: [i32; 8] = [21, 19, 18, 17, 13, 10, 9, 5];
const MONTHS: [&str; 12] = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
/// `user.notice`.
const PRIORITY: u8 = 13;
/// How far ahead a sender's clock may be: what seems to be later than that is of the year before.
const AHEAD_MS_MAX: u64 = 2 * 86_400_000;
/// Longest name of a program in RFC 3164. The RFC says 32.
const TAG_BYTES_MAX: usize = 64;
/// Longest text that is read as the JSON of a logger.
const JSON_BYTES_MAX: usize = 64 * 1024;
/// What some put in front of their JSON.
const COOKIE: &str = "@cee:";

/// A message taken apart.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Message {
    pub(super) priority: u8,
    pub(super) time_ns: Option<u64>,
    pub(super) host: Option<String>,
    pub(super) app: Option<String>,
    pub(super) process: Option<String>,
    pub(super) id: Option<String>,
    /// Names with their values, in their order.
    pub(super) data: Vec<(String, String)>,
    pub(super) text: String,
}

/// Reads a message. Times without a zone are in `zone`, and without a year in the last year that had them by `now_ms`.
pub(super) fn parse(bytes: &[u8], now_ms: u64, zone: &TimeZone) -> Message {
    let text = String::from_utf8_lossy(bytes);
    let Some((priority, rest)) = priority(&text) else {
        return Message { priority: PRIORITY, text: text.into_owned(), ..Message::default() };
    };
    let known = rest.strip_prefix("1 ").and_then(modern);
    Message { priority, ..known.unwrap_or_else(|| old(rest, now_ms, zone)) }
}

fn priority(text: &str) -> Option<(u8, &str)> {
    let (digits, rest) = text.strip_prefix('<')?.split_once('>')?;
    if !(1..=3).contains(&digits.len()) || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    digits.parse().ok().filter(|priority| *priority < 192).map(|priority| (priority, rest))
}

/// RFC 5424, after its version.
fn modern(text: &str) -> Option<Message> {
    let mut fields = text.splitn(6, ' ');
    let mut field = || fields.next().filter(|field| !field.is_empty());
    let (time, host, app, process, id) = (field()?, field()?, field()?, field()?, field()?);
    let (data, text) = structured(fields.next()?)?;
    let said = |field: &str| (field != "-").then(|| field.to_owned());
    let time_ns = if time == "-" { None } else { Some(rfc3339(time)?) };
    Some(Message {
        priority: 0,
        time_ns,
        host: said(host),
        app: said(app),
        process: said(process),
        id: said(id),
        data,
        text: text.strip_prefix('\u{feff}').unwrap_or(text).to_owned(),
    })
}

fn rfc3339(text: &str) -> Option<u64> {
    let moment: Timestamp = text.parse().ok()?;
    u64::try_from(moment.as_nanosecond()).ok()
}

/// The structured data at the beginning of `text`, and what comes after the space behind it.
fn structured(text: &str) -> Option<(Vec<(String, String)>, &str)> {
    if let Some(rest) = text.strip_prefix('-') {
        return behind(rest).map(|rest| (Vec::new(), rest));
    }
    let (mut data, mut rest) = (Vec::new(), text);
    while let Some(element) = rest.strip_prefix('[') {
        let end = element.find([' ', ']']).filter(|end| *end > 0)?;
        let id = &element[..end];
        rest = &element[end..];
        loop {
            if let Some(after) = rest.strip_prefix(']') {
                rest = after;
                break;
            }
            let (name, after) = rest.trim_start_matches(' ').split_once("=\"")?;
            if name.is_empty() || name.contains([' ', ']', '"']) {
                return None;
            }
            let (value, after) = quoted(after)?;
            data.push((format!("syslog.{id}.{name}"), value));
            rest = after;
        }
    }
    if rest.len() == text.len() {
        return None;
    }
    behind(rest).map(|rest| (data, rest))
}

fn behind(rest: &str) -> Option<&str> {
    if rest.is_empty() { Some(rest) } else { rest.strip_prefix(' ') }
}

/// A value up to its closing quote. Only quotes, brackets and backslashes are escaped.
fn quoted(text: &str) -> Option<(String, &str)> {
    let mut value = String::new();
    let mut letters = text.char_indices();
    while let Some((at, letter)) = letters.next() {
        match letter {
            '"' => return Some((value, &text[at + 1..])),
            '\\' => match letters.next()?.1 {
                escaped @ ('"' | '\\' | ']') => value.push(escaped),
                other => value.extend(['\\', other]),
            },
            letter => value.push(letter),
        }
    }
    None
}

/// RFC 3164, after its priority.
fn old(text: &str, now_ms: u64, zone: &TimeZone) -> Message {
    let Some((time_ns, rest)) = old_time(text, now_ms, zone) else {
        let (app, process, text) = tag(text);
        return Message { app, process, text: text.to_owned(), ..Message::default() };
    };
    let (first, after) = rest.split_once(' ').unwrap_or((rest, ""));
    // A program on the same host leaves the host out.
    let has_host = !first.is_empty() && !first.ends_with(':') && !first.contains('[');
    let (host, rest) = if has_host { (Some(first.to_owned()), after) } else { (None, rest) };
    let (app, process, text) = tag(rest);
    Message { time_ns: Some(time_ns), host, app, process, text: text.to_owned(), ..Message::default() }
}

/// `program[pid]: ` or `program: `, and what comes then.
fn tag(text: &str) -> (Option<String>, Option<String>, &str) {
    let is_name = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.' | '/' | '@' | '(' | ')');
    let end = text.find(|c: char| !is_name(c)).unwrap_or(text.len());
    let (name, rest) = text.split_at(end);
    if name.is_empty() || name.len() > TAG_BYTES_MAX {
        return (None, None, text);
    }
    let (process, rest) = match rest.strip_prefix('[').and_then(|inner| inner.split_once(']')) {
        Some((process, after)) if process.len() <= TAG_BYTES_MAX => (Some(process.to_owned()), after),
        _ => (None, rest),
    };
    match rest.strip_prefix(':') {
        Some(rest) => (Some(name.to_owned()), process, rest.strip_prefix(' ').unwrap_or(rest)),
        None => (None, None, text),
    }
}

/// `Nov  3 06:40:11`, with a year or parts of a second where somebody writes them, or RFC 3339; and what comes after the space behind it.
fn old_time<'a>(text: &'a str, now_ms: u64, zone: &TimeZone) -> Option<(u64, &'a str)> {
    let (first, rest) = text.split_once(' ')?;
    if let Some(time_ns) = rfc3339(first) {
        return Some((time_ns, rest));
    }
    let month = MONTHS.iter().position(|month| *month == first)?;
    let month = i8::try_from(month + 1).ok()?;
    let (day, rest) = rest.trim_start_matches(' ').split_once(' ')?;
    let day: i8 = day.parse().ok()?;
    let (mut clock, mut rest) = rest.split_once(' ').unwrap_or((rest, ""));
    let mut year = None;
    if clock.len() == 4 && clock.bytes().all(|byte| byte.is_ascii_digit()) {
        year = clock.parse::<i16>().ok();
        (clock, rest) = rest.split_once(' ').unwrap_or((rest, ""));
    }
    let clock: Time = clock.strip_suffix(':').unwrap_or(clock).parse().ok()?;
    let at = |year: i16| {
        let date = Date::new(year, month, day).ok()?;
        let moment = civil::DateTime::from_parts(date, clock).to_zoned(zone.clone()).ok()?.timestamp();
        u64::try_from(moment.as_nanosecond()).ok()
    };
    if let Some(year) = year {
        return Some((at(year)?, rest));
    }
    let now = Timestamp::from_millisecond(i64::try_from(now_ms).ok()?).ok()?;
    let this_year = now.to_zoned(zone.clone()).year();
    let latest_ns = now_ms.saturating_add(AHEAD_MS_MAX).saturating_mul(1_000_000);
    let years = [this_year.saturating_add(1), this_year, this_year.saturating_sub(1)];
    let latest = years.into_iter().filter_map(at).find(|time_ns| *time_ns <= latest_ns);
    Some((latest?, rest))
}

/// A message as a record; the host and the program are its resource's.
pub(super) fn record(message: Message, cut: bool) -> LogRecord {
    let Message { priority, time_ns, process, id, data, text, .. } = message;
    let read = logged(&text).map(of_object);
    let said = read.as_ref().is_some_and(|entry| {
        let levels = ["level", "severity", "log.level", "levelname"];
        levels
            .iter()
            .filter_map(|name| entry.attributes.get(*name)?.as_str())
            .any(|level| severity_named(level).is_some())
    });
    let (body, said_ns, mut attributes) = match read {
        Some(entry) => (entry.body, entry.time_ns, entry.attributes),
        None => (text, None, Map::new()),
    };
    let facility = FACILITIES[usize::from(priority >> 3).min(FACILITIES.len() - 1)];
    attributes.insert("syslog.facility".to_owned(), Value::from(facility));
    for (name, value) in [("syslog.procid", process), ("syslog.msgid", id)] {
        if let Some(value) = value {
            attributes.insert(name.to_owned(), Value::String(value));
        }
    }
    attributes.extend(data.into_iter().map(|(name, value)| (name, Value::String(value))));
    if cut {
        attributes.insert("syslog.truncated".to_owned(), Value::Bool(true));
    }
    LogRecord {
        time_unix_nano: said_ns.or(time_ns).unwrap_or(0),
        // A program's own word of its level says more than the priority it is sent with.
        severity_number: if said { 0 } else { SEVERITIES[usize::from(priority & 7)] },
        body: Some(AnyValue { value: Some(Any::StringValue(body)) }),
        attributes: pairs(attributes),
        ..LogRecord::default()
    }
}

/// The object that a logger has written as the message.
fn logged(text: &str) -> Option<Map<String, Value>> {
    let text = text.trim();
    let text = text.strip_prefix(COOKIE).unwrap_or(text).trim_start();
    if text.len() > JSON_BYTES_MAX || !text.starts_with('{') || !text.ends_with('}') {
        return None;
    }
    serde_json::from_str(text).ok()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// 2026-01-01T00:30:00Z
    const NOW_MS: u64 = 1_767_227_400_000;

    fn read(text: &str) -> Message {
        parse(text.as_bytes(), NOW_MS, &TimeZone::UTC)
    }

    fn seconds(message: &Message) -> Option<u64> {
        message.time_ns.map(|time_ns| time_ns / 1_000_000_000)
    }

    fn some(text: &str) -> Option<String> {
        Some(text.to_owned())
    }

    #[test]
    fn the_examples_of_rfc_5424_are_read() {
        let message = read(
            "<34>1 2003-10-11T22:14:15.003Z mymachine.example.com su - ID47 - \u{feff}'su root' failed for lonvick",
        );
        let expected = Message {
            priority: 34,
            time_ns: Some(1_065_910_455_003_000_000),
            host: some("mymachine.example.com"),
            app: some("su"),
            id: some("ID47"),
            text: "'su root' failed for lonvick".into(),
            ..Message::default()
        };
        assert_eq!(message, expected);
        let message = read("<165>1 2003-08-24T05:14:15.000003-07:00 192.0.2.1 myproc 8710 - - %% It's time");
        assert_eq!((message.time_ns, message.process), (Some(1_061_727_255_000_003_000), some("8710")));
        let data =
            r#"[exampleSDID@32473 iut="3" eventSource="Appli\"ca\]tion\\ \n"][examplePriority@32473 class="high"]"#;
        let message = read(&format!("<165>1 - - evntslog - ID47 {data} An application event"));
        let pair = |name: &str, value: &str| (format!("syslog.{name}"), value.to_owned());
        let expected = [
            pair("exampleSDID@32473.iut", "3"),
            pair("exampleSDID@32473.eventSource", r#"Appli"ca]tion\ \n"#),
            pair("examplePriority@32473.class", "high"),
        ];
        assert_eq!((message.data.as_slice(), message.text.as_str()), (&expected[..], "An application event"));
        assert_eq!(read(&format!("<165>1 - h a - - {data}")).text, "");
        assert_eq!(read("<165>1 - h a - - -").host, some("h"));
    }

    #[test]
    fn the_forms_of_rfc_3164_are_read_and_what_is_no_form_is_text() {
        let told = |text: &str| {
            let message = read(text);
            let Message { host, app, process, text, .. } = message.clone();
            (seconds(&message), host, app, process, text)
        };
        let at = |time: &str| Some(time.parse::<Timestamp>().unwrap().as_second().cast_unsigned());
        let none = || None::<String>;
        let cases = [
            (
                "<34>Oct 11 22:14:15 mymachine su[7]: 'su root' failed",
                (at("2025-10-11T22:14:15Z"), some("mymachine"), some("su"), some("7"), "'su root' failed"),
            ),
            // The year is the last one that had the day.
            ("<13>Dec 31 23:59:59 h a: b", (at("2025-12-31T23:59:59Z"), some("h"), some("a"), none(), "b")),
            ("<13>Jan  1 01:00:00 h a: b", (at("2026-01-01T01:00:00Z"), some("h"), some("a"), none(), "b")),
            ("<13>Feb 29 01:00:00 h a: b", (None, none(), none(), none(), "Feb 29 01:00:00 h a: b")),
            ("<13>Feb 29 2024 01:00:00.5: h a: b", (at("2024-02-29T01:00:00Z"), some("h"), some("a"), none(), "b")),
            ("<13>2025-10-11T22:14:15.1+02:00 h a:b", (at("2025-10-11T20:14:15Z"), some("h"), some("a"), none(), "b")),
            ("<13>Jan  1 01:00:00 cron[1]: b", (at("2026-01-01T01:00:00Z"), none(), some("cron"), some("1"), "b")),
            (
                "<13>Jan  1 01:00:00 h no tag here",
                (at("2026-01-01T01:00:00Z"), some("h"), none(), none(), "no tag here"),
            ),
            ("<13>ffmpeg[3]: frame", (None, none(), some("ffmpeg"), some("3"), "frame")),
            ("<13>hello there", (None, none(), none(), none(), "hello there")),
            ("<192>hello", (None, none(), none(), none(), "<192>hello")),
            ("no priority", (None, none(), none(), none(), "no priority")),
            ("<1>1 broken", (None, none(), none(), none(), "1 broken")),
            ("<1>", (None, none(), none(), none(), "")),
        ];
        for (text, (time, host, app, process, rest)) in cases {
            assert_eq!(told(text), (time, host, app, process, rest.to_owned()), "{text}");
        }
        let zone = TimeZone::get("Europe/Berlin").unwrap();
        let message = parse(b"<13>Jul  1 12:00:00 h a: b", NOW_MS, &zone);
        assert_eq!(seconds(&message), at("2025-07-01T10:00:00Z"));
        assert_eq!(parse(b"\xff<1>", NOW_MS, &zone).text, "\u{fffd}<1>");
    }

    #[test]
    fn priorities_become_severities_and_json_says_what_it_is() {
        let made = |text: &str| record(read(text), false);
        let attribute = |record: &LogRecord, name: &str| {
            record.attributes.iter().find(|pair| pair.key == name).and_then(|pair| pair.value.clone())
        };
        let text = |text: &str| Some(AnyValue { value: Some(Any::StringValue(text.into())) });
        let plain = made("<27>Jan  1 01:00:00 h nvidia[4]: Xid 79");
        assert_eq!((plain.severity_number, attribute(&plain, "syslog.facility")), (17, text("daemon")));
        assert_eq!((plain.body.clone(), attribute(&plain, "syslog.procid")), (text("Xid 79"), text("4")));
        let json = made(
            r#"<14>1 2003-10-11T22:14:15Z h app 4 - - @cee: {"msg":"slow","level":"warn","gpu":3,"ts":1763812800}"#,
        );
        assert_eq!((json.severity_number, json.body.clone()), (0, text("slow")));
        assert_eq!(json.time_unix_nano, 1_763_812_800_000_000_000);
        assert_eq!(attribute(&json, "gpu"), Some(AnyValue { value: Some(Any::IntValue(3)) }));
        let json = made(r#"<14>app: {"msg":"slow","level":7}"#);
        assert_eq!(json.severity_number, 9);
        assert!(attribute(&record(read("<1>a"), true), "syslog.truncated").is_some());
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200), priority: u8) {
            record(parse(&bytes, NOW_MS, &TimeZone::UTC), false);
            for head in [format!("<{priority}>1 "), format!("<{priority}>1 - h a - - ["), format!("<{priority}>Jan ")] {
                record(parse(&[head.as_bytes(), &bytes].concat(), NOW_MS, &TimeZone::UTC), false);
            }
        }

        #[test]
        fn what_rfc_5424_writes_is_read_back(
            priority in 0..192_u8,
            (host, app, process, id) in ("[!-~]{1,20}", "[!-~]{1,20}", "[!-~]{1,20}", "[!-~]{1,20}"),
            data in proptest::collection::vec(("[a-z@0-9]{1,9}", "[a-z]{1,9}", "[ -~é]{0,20}"), 0..4),
            text in "[ -~é\n]{0,50}",
            time_s in 0..4_000_000_000_i64,
        ) {
            let escape = |value: &str| value.replace('\\', "\\\\").replace('"', "\\\"").replace(']', "\\]");
            let written: String =
                data.iter().map(|(id, name, value)| format!("[{id} {name}=\"{}\"]", escape(value))).collect();
            let written = if written.is_empty() { "-".to_owned() } else { written };
            let time = Timestamp::from_second(time_s).unwrap();
            let message = read(&format!("<{priority}>1 {time} {host} {app} {process} {id} {written} {text}"));
            let said = |field: String| (field != "-").then_some(field);
            let expected = Message {
                priority,
                time_ns: Some(time_s.cast_unsigned() * 1_000_000_000),
                host: said(host),
                app: said(app),
                process: said(process),
                id: said(id),
                data: data.into_iter().map(|(id, name, value)| (format!("syslog.{id}.{name}"), value)).collect(),
                text,
            };
            prop_assert_eq!(message, expected);
        }
    }
}
