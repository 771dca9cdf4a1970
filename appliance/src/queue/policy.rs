//! A queue's access policy: kept and given back as text, and changed by `AddPermission` and `RemovePermission`.
//!
//! Nothing here decides who may do what: keys have roles, and no policy widens or narrows them. `docs/sqs.md` says so.

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::model::{QueueError, QueueName};
use super::redrive::is_account;

/// Longest policy (AWS).
const POLICY_BYTES_MAX: usize = 8_192;
/// Most statements of a policy (AWS).
const STATEMENTS_MAX: usize = 20;
/// Most actions of one permission (AWS).
const ACTIONS_MAX: usize = 7;
/// Most accounts of one permission: so many principals a policy has at most (AWS).
const ACCOUNTS_MAX: usize = 50;

/// Actions that may be given to others by `AddPermission`; the rest is for the owner alone.
const ACTIONS: &[&str] = &[
    "*",
    "ChangeMessageVisibility",
    "DeleteMessage",
    "GetQueueAttributes",
    "GetQueueUrl",
    "ReceiveMessage",
    "SendMessage",
];

/// A policy that was read once and found to be one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub(super) struct Policy(String);

/// One `AddPermission`.
#[derive(Clone, Debug)]
pub(super) struct Permission {
    pub label: String,
    pub accounts: Vec<String>,
    pub actions: Vec<String>,
}

impl Policy {
    /// # Errors
    /// What is wrong with it.
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        if text.len() > POLICY_BYTES_MAX {
            return Err(format!("it has at most {POLICY_BYTES_MAX} bytes"));
        }
        let policy = crate::policy::Policy::parse(text).map_err(|problem| format!("it {problem}"))?;
        if policy.statements().len() > STATEMENTS_MAX {
            return Err(format!("it has 1 to {STATEMENTS_MAX} statements, each with Effect, Principal and Action"));
        }
        Ok(Self(text.to_owned()))
    }

    pub(super) fn text(&self) -> &str {
        &self.0
    }

    /// `before` with one permission more on the queue `arn`.
    ///
    /// # Errors
    /// [`QueueError::InvalidParameter`], [`QueueError::Full`].
    pub(super) fn grant(before: Option<&Self>, arn: &str, permission: &Permission) -> Result<Self, QueueError> {
        permission.check()?;
        let mut policy = before.and_then(|policy| serde_json::from_str(&policy.0).ok()).unwrap_or_else(
            || json!({"Version": "2008-10-17", "Id": format!("{arn}/SQSDefaultPolicy"), "Statement": []}),
        );
        let mut statements = statements_of(&policy);
        if statements.iter().any(|statement| sid(statement) == Some(&permission.label)) {
            return Err(invalid("Label", &permission.label, "Already exists"));
        }
        statements.push(permission.statement(arn));
        if statements.len() > STATEMENTS_MAX {
            return Err(QueueError::Full(format!("a policy has at most {STATEMENTS_MAX} statements")));
        }
        policy["Statement"] = Value::Array(statements);
        let text = policy.to_string();
        if text.len() > POLICY_BYTES_MAX {
            return Err(QueueError::Full(format!("a policy has at most {POLICY_BYTES_MAX} bytes")));
        }
        Ok(Self(text))
    }

    /// `before` without the permission `label`. `None`: it was the last one.
    ///
    /// # Errors
    /// [`QueueError::InvalidParameter`] where there is none.
    pub(super) fn revoke(before: Option<&Self>, label: &str) -> Result<Option<Self>, QueueError> {
        let policy: Option<Value> = before.and_then(|policy| serde_json::from_str(&policy.0).ok());
        let missing = || invalid("Label", label, "can't find label");
        let mut policy = policy.ok_or_else(missing)?;
        let mut statements = statements_of(&policy);
        let count = statements.len();
        statements.retain(|statement| sid(statement) != Some(label));
        if statements.len() == count {
            return Err(missing());
        }
        if statements.is_empty() {
            return Ok(None);
        }
        policy["Statement"] = Value::Array(statements);
        Ok(Some(Self(policy.to_string())))
    }
}

impl Permission {
    fn check(&self) -> Result<(), QueueError> {
        // The same letters and length as a standard queue's name.
        if QueueName::parse(&self.label).is_none_or(|label| label.is_fifo()) {
            let reason = "Can only include alphanumeric characters, hyphens, or underscores. 1 to 80 in length";
            return Err(invalid("Label", &self.label, reason));
        }
        if self.accounts.len() > ACCOUNTS_MAX {
            return Err(QueueError::Full(format!("a permission has at most {ACCOUNTS_MAX} accounts")));
        }
        if let Some(account) = self.accounts.iter().find(|account| !is_account(account)) {
            return Err(invalid("PrincipalId", account, "Unable to verify"));
        }
        if self.actions.len() > ACTIONS_MAX {
            return Err(QueueError::Full(format!("a permission has at most {ACTIONS_MAX} actions")));
        }
        if let Some(action) = self.actions.iter().find(|action| !ACTIONS.contains(&action.as_str())) {
            return Err(invalid("ActionName", action, "Only the queue owner is allowed to invoke this action"));
        }
        Ok(())
    }

    fn statement(&self, arn: &str) -> Value {
        let principals = self.accounts.iter().map(|account| format!("arn:aws:iam::{account}:root"));
        let actions = self.actions.iter().map(|action| format!("SQS:{action}"));
        json!({
            "Sid": self.label, "Effect": "Allow", "Principal": {"AWS": one_or_many(principals.collect())},
            "Action": one_or_many(actions.collect()), "Resource": arn,
        })
    }
}

/// A list of one is written as its only item, as AWS does.
fn one_or_many(mut items: Vec<String>) -> Value {
    match items.len() {
        1 => json!(items.remove(0)),
        _ => json!(items),
    }
}

fn statements_of(policy: &Value) -> Vec<Value> {
    match policy.get("Statement") {
        Some(Value::Array(statements)) => statements.clone(),
        Some(statement @ Value::Object(_)) => vec![statement.clone()],
        _ => Vec::new(),
    }
}

fn sid(statement: &Value) -> Option<&str> {
    statement.get("Sid").and_then(Value::as_str)
}

fn invalid(name: &'static str, value: &str, reason: &str) -> QueueError {
    let shown: String = value.chars().take(100).collect();
    let problem = format!("Value {shown} for parameter {name} is invalid. Reason: {reason}.");
    QueueError::InvalidParameter { name, problem }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ARN: &str = "arn:aws:sqs:us-east-1:000000000000:shots";

    fn permission(label: &str, accounts: &[&str], actions: &[&str]) -> Permission {
        let owned = |items: &[&str]| items.iter().map(|item| (*item).to_owned()).collect();
        Permission { label: label.to_owned(), accounts: owned(accounts), actions: owned(actions) }
    }

    #[test]
    fn permissions_come_and_go_and_the_last_takes_the_policy_with_it() {
        let first = Policy::grant(None, ARN, &permission("a", &["111111111111"], &["SendMessage"])).unwrap();
        let value: Value = serde_json::from_str(first.text()).unwrap();
        assert_eq!(value["Id"], json!(format!("{ARN}/SQSDefaultPolicy")));
        let statement = json!({"Sid": "a", "Effect": "Allow", "Principal": {"AWS": "arn:aws:iam::111111111111:root"},
            "Action": "SQS:SendMessage", "Resource": ARN});
        assert_eq!(value["Statement"], json!([statement]));
        assert!(Policy::parse(first.text()).is_ok());
        let two = permission("b", &["111111111111", "222222222222"], &["SendMessage", "*"]);
        let both = Policy::grant(Some(&first), ARN, &two).unwrap();
        assert!(both.text().contains(r#"["SQS:SendMessage","SQS:*"]"#), "{}", both.text());
        assert!(Policy::grant(Some(&both), ARN, &two).is_err(), "a label stands once");
        let back = Policy::revoke(Some(&both), "b").unwrap().unwrap();
        assert_eq!(back, first);
        assert_eq!(Policy::revoke(Some(&back), "a").unwrap(), None);
        assert!(Policy::revoke(Some(&back), "c").is_err() && Policy::revoke(None, "a").is_err());
    }

    #[test]
    fn what_cannot_be_given_is_refused_by_name() {
        for (bad, named) in [
            (permission("a b", &["111111111111"], &["SendMessage"]), "Label"),
            (permission("a", &["1"], &["SendMessage"]), "PrincipalId"),
            (permission("a", &["111111111111"], &["CreateQueue"]), "ActionName"),
        ] {
            let refused = Policy::grant(None, ARN, &bad);
            assert!(matches!(refused, Err(QueueError::InvalidParameter { name, .. }) if name == named), "{bad:?}");
        }
        let mut policy = None;
        for n in 0..20 {
            policy = Policy::grant(policy.as_ref(), ARN, &permission(&n.to_string(), &["111111111111"], &["*"])).ok();
        }
        let more = Policy::grant(policy.as_ref(), ARN, &permission("more", &["111111111111"], &["*"]));
        assert!(matches!(more, Err(QueueError::Full(_))), "{more:?}");
    }

    #[test]
    fn only_a_policy_is_taken_as_one() {
        let good =
            r#"{"Version":"2012-10-17","Statement":{"Effect":"Allow","Principal":"*","Action":"sqs:SendMessage"}}"#;
        assert_eq!(Policy::parse(good).unwrap().text(), good);
        let long = format!(r#"{{"Id":"{}","Statement":[]}}"#, "x".repeat(9_000));
        for bad in ["", "{", "{}", "[]", r#"{"Statement":[]}"#, r#"{"Statement":[{"Effect":"Allow"}]}"#, &long] {
            assert!(Policy::parse(bad).is_err(), "{bad}");
        }
    }
}
