//! What policies say to questions.

use serde_json::json;

use super::*;

const ADA: Caller<'_> =
    Caller { account_number: "123456789012", account_name: "ada", canonical_id: "ab12", key_id: "BLK1" };

fn judged(
    statements: Value,
    caller: Option<Caller<'_>>,
    action: &str,
    resource: &str,
    given: &[(&str, &str)],
) -> Verdict {
    let policy = Policy::parse(&json!({"Version": "2012-10-17", "Statement": statements}).to_string()).unwrap();
    let values = |key: &str| {
        let of_key = given.iter().filter(|(name, _)| *name == key);
        of_key.map(|(_, value)| (*value).to_owned()).collect::<Vec<_>>()
    };
    policy.judge(&Question { caller, action, resource, values: &values })
}

fn allow(principal: &Value) -> Value {
    json!({"Effect": "Allow", "Principal": principal, "Action": "s3:Get*", "Resource": "arn:aws:s3:::b/*"})
}

#[test]
fn a_statement_speaks_of_its_principals_actions_and_resources_alone() {
    let ask = |principal: Value, caller| judged(allow(&principal), caller, "s3:GetObject", "arn:aws:s3:::b/k", &[]);
    for everyone in [json!("*"), json!({"AWS": "*"}), json!({"AWS": ["x", "*"]})] {
        assert_eq!(ask(everyone.clone(), None), Verdict::Allowed, "{everyone}");
        assert_eq!(ask(everyone, Some(ADA)), Verdict::Allowed);
    }
    for ada in [
        json!({"AWS": "123456789012"}),
        json!({"AWS": "arn:aws:iam::123456789012:root"}),
        json!({"AWS": "arn:aws:iam::ada:root"}),
        json!({"AWS": "arn:aws:iam::ada:user/BLK1"}),
        json!({"CanonicalUser": "AB12"}),
    ] {
        assert_eq!(ask(ada.clone(), Some(ADA)), Verdict::Allowed, "{ada}");
        assert_eq!(ask(ada.clone(), None), Verdict::Silent, "{ada}");
        assert_eq!(
            ask(ada, Some(Caller { account_number: "9", account_name: "b", canonical_id: "c", key_id: "k" })),
            Verdict::Silent
        );
    }
    assert_eq!(ask(json!({"Service": "logging.s3.amazonaws.com"}), Some(ADA)), Verdict::Silent);
    let everyone = json!("*");
    assert_eq!(judged(allow(&everyone), None, "S3:getobject", "arn:aws:s3:::b/k", &[]), Verdict::Allowed, "no case");
    assert_eq!(judged(allow(&everyone), None, "s3:PutObject", "arn:aws:s3:::b/k", &[]), Verdict::Silent);
    assert_eq!(judged(allow(&everyone), None, "s3:GetObject", "arn:aws:s3:::b", &[]), Verdict::Silent);
}

#[test]
fn a_denial_wins_and_what_is_not_named_is_meant_by_not() {
    let statements = json!([allow(&json!("*")), {"Effect": "Deny", "NotPrincipal": {"AWS": "ada"}, "NotAction": "s3:Put*",
        "NotResource": "arn:aws:s3:::b/open/*"}]);
    let ask = |caller, resource| judged(statements.clone(), caller, "s3:GetObject", resource, &[]);
    assert_eq!(ask(None, "arn:aws:s3:::b/k"), Verdict::Denied);
    assert_eq!(ask(Some(ADA), "arn:aws:s3:::b/k"), Verdict::Allowed);
    assert_eq!(ask(None, "arn:aws:s3:::b/open/k"), Verdict::Allowed);
}

#[test]
fn conditions_hold_as_aws_has_them() {
    let ask = |condition: Value, given: &[(&str, &str)]| {
        let mut statement = allow(&json!("*"));
        statement["Condition"] = condition;
        judged(statement, None, "s3:GetObject", "arn:aws:s3:::b/k", given) == Verdict::Allowed
    };
    let ip = [("aws:sourceip", "10.1.2.3")];
    assert!(ask(json!({"IpAddress": {"aws:SourceIp": ["192.168.0.0/16", "10.0.0.0/8"]}}), &ip));
    assert!(!ask(json!({"IpAddress": {"aws:SourceIp": "10.1.2.4"}}), &ip));
    assert!(ask(json!({"IpAddress": {"aws:SourceIp": "0.0.0.0/0"}}), &ip));
    assert!(ask(json!({"IpAddress": {"aws:SourceIp": "::/0"}}), &[("aws:sourceip", "fd00::1")]));
    assert!(ask(json!({"IpAddress": {"aws:SourceIp": "10.0.0.0/8"}}), &[("aws:sourceip", "::ffff:10.1.2.3")]));
    assert!(!ask(json!({"NotIpAddress": {"aws:SourceIp": "10.0.0.0/8"}}), &ip));
    assert!(ask(json!({"NotIpAddress": {"aws:SourceIp": "11.0.0.0/8"}}), &ip));
    let acl = [("s3:x-amz-acl", "public-read")];
    assert!(ask(json!({"StringLike": {"s3:x-amz-acl": "public*"}}), &acl));
    assert!(!ask(json!({"StringEquals": {"s3:x-amz-acl": "public*"}}), &acl));
    assert!(!ask(json!({"StringLike": {"s3:x-amz-acl": "public*"}}), &[]));
    assert!(ask(json!({"StringNotEquals": {"s3:x-amz-acl": "private"}}), &[]), "an absent key differs");
    assert!(ask(json!({"StringEqualsIfExists": {"s3:x-amz-acl": "private"}}), &[]));
    assert!(!ask(json!({"StringEqualsIfExists": {"s3:x-amz-acl": "private"}}), &acl));
    assert!(ask(json!({"Null": {"s3:x-amz-acl": "true"}}), &[]) && !ask(json!({"Null": {"s3:x-amz-acl": true}}), &acl));
    assert!(ask(json!({"Null": {"s3:x-amz-acl": "false"}}), &acl));
    let secure = [("aws:securetransport", "false")];
    assert!(ask(json!({"Bool": {"aws:SecureTransport": "false"}}), &secure));
    assert!(!ask(json!({"Bool": {"aws:SecureTransport": true}}), &secure));
    assert!(ask(json!({"NumericLessThanEquals": {"s3:max-keys": "10"}}), &[("s3:max-keys", "10")]));
    assert!(!ask(json!({"NumericLessThan": {"s3:max-keys": 10}}), &[("s3:max-keys", "x")]));
    let now = [("aws:currenttime", "2026-11-22T23:00:00Z")];
    assert!(ask(json!({"DateGreaterThan": {"aws:CurrentTime": "2026-11-22"}}), &now));
    assert!(!ask(json!({"DateLessThan": {"aws:CurrentTime": "2026-11-22T22:00:00Z"}}), &now));
    let tags = [("s3:requestobjecttagkeys", "a"), ("s3:requestobjecttagkeys", "b")];
    assert!(ask(json!({"ForAnyValue:StringEquals": {"s3:RequestObjectTagKeys": "a"}}), &tags));
    assert!(!ask(json!({"ForAllValues:StringEquals": {"s3:RequestObjectTagKeys": "a"}}), &tags));
    assert!(ask(json!({"ForAllValues:StringEquals": {"s3:RequestObjectTagKeys": "a"}}), &[]));
    let both = json!({"Bool": {"aws:SecureTransport": "false"}, "StringEquals": {"s3:x-amz-acl": "public-read"}});
    assert!(!ask(both, &secure), "all must hold");
}

#[test]
fn a_policy_is_public_when_anybody_may_do_something() {
    let public = |statement: Value| Policy::parse(&json!({"Statement": statement}).to_string()).unwrap().is_public();
    let with = |condition: Value| {
        let mut statement = allow(&json!("*"));
        statement["Condition"] = condition;
        statement
    };
    assert!(public(allow(&json!("*"))));
    assert!(!public(allow(&json!({"AWS": "ada"}))));
    assert!(!public(with(json!({"IpAddress": {"aws:SourceIp": "10.0.0.0/32"}}))));
    assert!(public(with(json!({"IpAddress": {"aws:SourceIp": "0.0.0.0/0"}}))));
    assert!(public(with(json!({"StringLike": {"aws:PrincipalArn": "arn:*"}}))));
    assert!(public(with(json!({"Bool": {"aws:SecureTransport": "true"}}))));
    let mut denied = allow(&json!("*"));
    denied["Effect"] = json!("Deny");
    assert!(!public(denied));
}

#[test]
fn what_is_no_policy_is_refused_with_a_reason() {
    let good = allow(&json!("*"));
    for (field, value) in [
        ("Effect", json!("Maybe")),
        ("Principal", json!("ada")),
        ("Principal", json!({"Nobody": "x"})),
        ("Principal", json!({"AWS": "arn:aws:iam::*:root"})),
        ("NotPrincipal", json!("*")),
        ("Action", json!([])),
        ("Action", json!(7)),
        ("Condition", json!({"StringAlmost": {"a": "b"}})),
        ("Condition", json!({"IpAddress": {"aws:SourceIp": "10.0.0.0/33"}})),
        ("Condition", json!({"NumericEquals": {"s3:max-keys": "many"}})),
        ("Condition", json!({"ForSome:StringEquals": {"a": "b"}})),
        ("Surprise", json!("x")),
    ] {
        let mut statement = good.clone();
        statement[field] = value;
        assert!(Policy::parse(&json!({"Statement": statement}).to_string()).is_err(), "{statement}");
    }
    for bad in ["", "[]", "{}", r#"{"Statement":[]}"#, r#"{"Statement":[7]}"#, r#"{"Version":"2012","Statement":{}}"#] {
        assert!(Policy::parse(bad).is_err(), "{bad}");
    }
}
