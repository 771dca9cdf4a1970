//! The entry points of the fuzz targets over seeded garbage: noise, and damaged copies of what is right.
//!
//! `fuzz/` looks further, with a nightly compiler and hours of time; this runs everywhere and always the same.
#![allow(clippy::unwrap_used, reason = "a test ends where it cannot go on")]

#[path = "../../tests/hostile/garbage.rs"]
mod garbage;

use backlot::clock::Now;
use backlot::edge::otlp::{Encoding, decode};

use garbage::{over_garbage, over_text};

const JOB: &str = r#"{"job_id":"j-1","type":"image.upscale","user_id":"u","labels":{"shot":"42"},"parameters":{"scale":4,"deep":[[{"a":[1.5e3]}]]},
    "inputs":[{"uri":"s3://studio/in.png"}],"output":{"prefix":"s3://studio/out/"},"priority":"high","requirements":{"vram_gb":12,"arch":"sm_80+"},
    "limits":{"soft_s":1,"hard_s":2},"retry":{"failures":3,"backoff_s":1},"created_at":"9999-12-31T23:59:59.999-23:59",
    "traceparent":"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01","colour_space":"rec709"}"#;

#[test]
fn a_job_that_is_taken_can_be_read_back_whatever_it_was() {
    let deep =
        |levels: usize| format!(r#"{{"type":"x","parameters":{{"a":{}{}}}}}"#, "[".repeat(levels), "]".repeat(levels));
    over_text(4_000, &[JOB, &deep(60), &deep(64), &deep(126)], backlot::jobs::fuzz_spec);
}

#[test]
fn no_configuration_makes_the_program_panic() {
    let file = "[edge]\nhttp = \"127.0.0.1:0\"\nin_flight_max = 5\n[alerting]\nrules_files = [\"a\"]\nEDGE_AWS=x\nEDGE_INSECURE=true\n";
    over_text(300, &[file], backlot::config::fuzz_parse);
}

#[test]
fn no_record_of_the_control_journal_makes_its_follower_panic() {
    let queue = [
        &b"\x0e\0\x01\x01\x03\0\0\0{\"name\":\"q\"}"[..],
        b"\x06\0\x01\x03\x03\0\0\0\x06\0\x01\x02\x03\0\0\0",
        &[&[61, 0, 1, 4, 3, 0, 0, 0][..], &[7; 55]].concat(),
        &[&[26, 0, 1, 6, 3, 0, 0, 0][..], &[7; 20]].concat(),
        // A message that moved into the last place of all.
        &[&[35, 0, 3, 9, 3, 0, 0, 0][..], &[7; 16], &[4, 0, 0, 0, 0], &[0xff; 8]].concat(),
    ];
    over_garbage(4_000, &queue, backlot::queue::fuzz_journal);
    let whole = format!("\x01{{\"record\":\"whole\",\"spec\":{JOB},\"head\":{{}}}}");
    let patch = "\x01{\"record\":\"patch\",\"head\":{\"id\":\"a\",\"queue\":\"jobs\",\"status\":\"queued\",\"created_at\":0,\"updated_at\":0,\"revision\":9,\"message_id\":\"m\",\"waiting_since\":0},\
        \"attempts\":[{\"id\":\"a.1\",\"number\":1,\"started_at\":0}],\"error\":\"cleared\"}";
    let flow = "\x01{\"record\":\"flow\",\"id\":\"f\",\"revision\":1,\"digest\":\"d\",\"queue\":\"jobs\",\"on_failure\":\"fail\",\"created_at\":0,\
        \"status\":\"running\",\"sender_id\":\"s\",\"jobs\":[\"a\"],\"counts\":{\"failed\":1}}";
    let schedule = "\x01{\"record\":\"schedule\",\"name\":\"nightly\",\"order\":{\"cron\":\"*/5 1-3 31 feb-12/2 sun\",\"timezone\":\"Europe/Berlin\",\"job\":{}},\
        \"created_at\":0,\"updated_at\":0,\"sender_id\":\"s\",\"seen_at\":9}";
    let setting = "\x01{\"key\":\"limit/user/anna\",\"value\":{\"running_max\":3,\"url\":\"http://a\",\"events\":[\"job.failed\"]}}";
    let seeds = [whole.as_bytes(), patch.as_bytes(), flow.as_bytes(), schedule.as_bytes(), setting.as_bytes()];
    over_garbage(4_000, &seeds, backlot::jobs::fuzz_journal);
    let key =
        b"\x01{\"put\":{\"key_id\":\"BLK1\",\"role\":\"viewer\",\"note\":\"n\",\"created_at\":7,\"wrapped\":\"AA==\"}}";
    over_garbage(2_000, &[key], backlot::identity::fuzz_journal);
    over_garbage(2_000, &[b"\x01{\"key\":\"group/a\",\"value\":\"{}\"}"], backlot::alerting::fuzz_journal);
}

#[test]
fn nothing_that_is_found_on_disk_makes_its_reader_panic() {
    // A bucket's record in CBOR; a label's map with a length that is not there; what a snapshot begins with.
    let record = b"\x01\xa1\x6aBucketMade\xa2\x66bucket\x61b\x63row\xa2\x61t\x05\x61r\x69us-east-1";
    over_garbage(4_000, &[record, b"\x01\xa1\x61v\x50\x9f\xbf\x7f", &[0x81; 300]], backlot::artifacts::fuzz_stored);
    over_garbage(
        2_000,
        &[b"BKLTSNAP\x01\0\0\0\x05\0\0\0\0\0\0\0\x03\0\0\0\x01\0\0\0abcd"],
        backlot::catalogue::fuzz_snapshot,
    );
    over_garbage(4_000, &[&[1, 1, 1, 1, 120, 1, 1, 5, 1, 1, 2, 3]], backlot::metrics::fuzz_stored);
    let meta = r#"{"index_settings":{"docstore_blocksize":262144},"segments":[],"payload":"{\"version\":1,\"applied\":5,\"min_ns\":1,\"max_ns\":2,\"documents\":1,\"bytes\":9,\"first_arrival_ms\":1,\"last_arrival_ms\":2,\"closed\":false}"}"#;
    over_text(2_000, &[meta], backlot_windows::fuzz_meta);
    let tables = b"BLROWS01\x06\0\0\0\xd9\x70\x70\x1dt\x04a\x01\x03\x02v\x03\x09\xab\xcd";
    over_garbage(4_000, &[tables, b"\x01\x05\x01"], backlot_windows::fuzz_rows);
}

#[test]
fn no_head_of_a_request_makes_a_door_panic() {
    let signed = "POST /000000000000/q?Action=SendMessage HTTP\nhost: a\nx-amz-date: 20261122T120000Z\nx-amz-target: AmazonSQS.SendMessage\n\
        authorization: AWS4-HMAC-SHA256 Credential=AK/20261122/us-east-1/sqs/aws4_request, SignedHeaders=host;x-amz-date, Signature=ab\n\nAction=SendMessage&a=%20";
    let basic = "GET /v1/jobs\nauthorization: Basic dGVzdDp0ZXN0\ncookie: backlot_session=abc; x=y\norigin: http://a\nhost: a\nsmithy-protocol: rpc-v2-cbor\n\n";
    over_text(4_000, &[&signed.replace(" HTTP\n", "\n"), basic], backlot::edge::fuzz_head);
}

#[test]
fn no_value_of_a_request_makes_a_door_panic() {
    let seeds = [
        "bytes=0-18446744073709551615",
        "bytes=-5",
        "bytes=5-",
        "bytes=0-1, 5-,,-3",
        "YS8Aw6k=",
        "0192f3a4b5c6d7e8f90a1b2c3d4e5f60",
        "\"etag\", W/\"x\"",
        "Sun, 06 Nov 1994 08:49:37 GMT",
        "7d",
        "99999999999999999999w",
        "2026-11-22T12:00:00+23:59",
        "1700000000.5",
        "1h30m",
        "status=queued,running&label.shot=42&cursor=00ff00ff00ff00ff00ff&limit=5",
        "query=sum%28up%29&match[]=a",
        "X-Amz-Credential=A%2F1%2Fr%2Fs3%2Faws4_request&X-Amz-Expires=60",
        "Signature=x&Expires=18446744073709551615",
        "8000000000000000ffffffffffffffff",
    ];
    over_text(4_000, &seeds, |text| {
        backlot::artifacts::api_s3::fuzz_values(text);
        backlot::logs::fuzz_values(text);
        backlot::traces::fuzz_values(text);
        backlot::signals::redact::fuzz_text(text);
        backlot::metrics::fuzz_values(text);
        backlot::queue::fuzz_receipt(text);
        let pairs = text.split('&').filter_map(|pair| pair.split_once('='));
        let pairs: Vec<_> = pairs.map(|(name, value)| (name.to_owned(), value.to_owned())).collect();
        let _ = backlot::jobs::Filter::parse(&pairs);
    });
}

#[test]
fn nothing_that_another_s3_says_makes_the_door_panic() {
    let list = "<ListBucketResult><EncodingType>url</EncodingType><IsTruncated>true</IsTruncated><NextContinuationToken>a</NextContinuationToken>\
        <Contents><Key>a%2Fb+c</Key><Size>7</Size><ETag>&quot;x&quot;</ETag><LastModified>2026-11-22T12:00:00.000Z</LastModified></Contents></ListBucketResult>";
    let buckets = "<L><Buckets><Bucket><Name>acme-a</Name><CreationDate>2026-11-22T12:00:00Z</CreationDate></Bucket></Buckets></L>";
    let error = "<Error><Code>RequestTimeTooSkewed</Code><Message>m</Message></Error>";
    let request = "/bucket/a%2Bb//c?versionId=x&prefix=a+b%2F&X-Amz-Signature=0&Signature=1&uploads";
    over_text(2_000, &[list, buckets, error, request, "https://s3.example:443"], backlot::artifacts::door::fuzz);
}

#[test]
fn no_form_makes_its_reader_panic_and_none_is_read_otherwise_in_other_pieces() {
    let form = b"\x07--b\r\nContent-Disposition: form-data; name=\"key\"\r\n\r\na/${filename}\r\n--b\r\nContent-Disposition: form-data; name=\"success_action_redirect\"\r\n\r\nhttp://x.example/?a#b\r\n--b\r\nContent-Disposition: form-data; name=\"tagging\"\r\n\r\n<Tagging><TagSet><Tag><Key>a</Key><Value>b</Value></Tag></TagSet></Tagging>\r\n--b\r\nContent-Disposition: form-data; name=\"file\"; filename*=UTF-8''a%20b\r\n\r\n\r\n--x\r\n--b--\r\n";
    over_garbage(3_000, &[form], backlot::artifacts::api_s3::fuzz_form);
}

#[test]
fn no_query_makes_its_parser_panic() {
    over_text(
        4_000,
        &[
            r#"level:error service:agent "out of memory" gpu.index:[1 TO 3] -(a OR b) x:>5"#,
            r"body:/a(b|c)*\/[0-9]+?/ /^x$/ span:ab*",
        ],
        |text| {
            if let Err(error) = backlot::logs::parse(text, Now::default()) {
                assert!(error.at <= text.chars().count(), "points outside of {text:?}");
            }
        },
    );
    let promql = r#"sum by (job) (rate(http_requests_total{code=~"5..",job!="a"}[5m] offset 1h)) / on(job) group_left up > bool 0.5"#;
    over_text(1_000, &[promql], |text| drop(backlot::metrics::promql::parse(text)));
}

#[test]
fn no_pattern_or_query_of_cloudwatch_makes_its_reader_panic() {
    let line = r#"{"level":"error","took_s":3.5,"a":{"b":[1,"x"]}}"#;
    let patterns = [
        r#"{ ($.level = "err*" || $.a.b[1] != %x+%) && $.took_s >= 3e0 && $.c NOT EXISTS }"#,
        r#"[ip, user != "a*", status = 4* || status = %5..%, ..., size > 10]"#,
        r#"?a ?"b c" -%d[0-9]% "e\"f""#,
    ];
    over_text(4_000, &patterns, |text| backlot::logs::cloudwatch::fuzz_filter(text, line));
    let queries = [
        "fields @timestamp, a.b.0 as x | filter level like /(?i)err|b*/ and not took_s in [1, 'x'] | sort x desc | limit 20",
        "parse @message 'a=*, b=*' as c, `d-e` | stats count(*) as n, avg(c) / 2 ^ 3, pct(c, 95.5) by bin(5m), substr(d, 1, 2) | dedup n",
    ];
    over_text(4_000, &queries, |text| backlot::logs::cloudwatch::fuzz_insights(text, line));
    over_garbage(
        1_000,
        &[b"\x01{\"group\":{\"id\":\"g\",\"name\":\"n\",\"created_ms\":1,\"tags\":{\"a\":\"b\"}}}"],
        |bytes| {
            backlot::logs::cloudwatch::fuzz_journal(bytes);
        },
    );
}

#[test]
fn no_lines_of_a_log_make_a_door_panic() {
    let lines = "{\"ts\":1763812800.5,\"msg\":\"a\",\"x\":{\"y\":[1,null]}}\nTraceback (most recent call last):\n  File\nE: no\n\n\
        During handling of the above exception\nCaused by: x\nthread 'a' panicked at b:\nstack backtrace:\n";
    let bulk = "{\"index\":{\"_index\":\"a\",\"_id\":\"7\"}}\n{\"message\":\"b\",\"@timestamp\":\"2026-01-02T03:04:05Z\"}\n{\"update\":{}}\n{}\n{\"delete\":{}}\n";
    let push = r#"{"streams":[{"stream":{"a":"b"},"values":[["1763812800000000000","line",{"c":"d"}],["5","x"]]}]}"#;
    let packed = b"\x1a\x64\x0a\x18\x0a\x07{a=\"b\"}\x12\x0d\x0a\x04\x08\x01\x10\x02\x12\x05hello";
    let seeds = [lines.as_bytes(), bulk.as_bytes(), push.as_bytes(), packed, br#"{a="b", c="\"d\u00e9" ,}"#];
    over_garbage(4_000, &seeds, |bytes| {
        backlot::logs::fuzz_lines(bytes);
        backlot::logs::fuzz_bulk(bytes);
        backlot::logs::fuzz_push(bytes);
    });
}

#[test]
fn no_export_request_makes_a_door_panic() {
    let json = r#"{"resourceLogs":[{"resource":{"attributes":[{"key":"a","value":{"arrayValue":{"values":[{"intValue":"5"}]}}}]},"scopeLogs":[{"logRecords":[{"timeUnixNano":"1","body":{"stringValue":"x"},"traceId":"0af7651916cd43dd8448eb211c80319c"}]}]}]}"#;
    let protobuf = b"\x0a\x1a\x12\x18\x12\x16\x09\x01\0\0\0\0\0\0\0\x2a\x0b\x0a\x09something";
    over_garbage(2_000, &[json.as_bytes(), protobuf], |bytes| {
        for encoding in [Encoding::Protobuf, Encoding::Json] {
            let _ = decode(bytes, encoding).map(|request| backlot::logs::fuzz_export(&request));
            let _ = decode(bytes, encoding).map(|request| backlot::traces::fuzz_export(&request));
            let _ = decode(bytes, encoding).map(|request| backlot::metrics::fuzz_export(&request));
        }
    });
}
