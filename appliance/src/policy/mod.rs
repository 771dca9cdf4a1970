//! Policies: the JSON in which AWS says who may do what, read and judged.
//!
//! A policy is statements; each allows or denies some principals some actions on some resources under some conditions.
//! A denial wins over every permission, and what no statement speaks of is left to others ([`Verdict::Silent`]).
//!
//! Nothing here knows a service: what an action or a resource is called, and the values that conditions ask for, are handed
//! in. A condition that cannot be judged must not be stored, because a denial that never comes true is none: whoever
//! stores a policy checks its keys ([`Policy::condition_keys`]) first.

mod condition;
mod pattern;

use serde_json::{Map, Value};

use condition::Condition;
pub use pattern::Pattern;

/// Most statements, principals, actions, resources or values of one list; a bound, not a rule of AWS.
const ITEMS_MAX: usize = 1_000;

/// A policy that was read.
#[derive(Clone, Debug)]
pub struct Policy {
    statements: Vec<Statement>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect {
    Allow,
    Deny,
}

/// One statement.
#[derive(Clone, Debug)]
pub struct Statement {
    pub effect: Effect,
    pub principals: Among<Principal>,
    pub actions: Among<Pattern>,
    /// Queues leave it out: the policy is theirs.
    pub resources: Option<Among<Pattern>>,
    conditions: Vec<Condition>,
}

/// `Action` or `NotAction`, and so on.
#[derive(Clone, Debug)]
pub struct Among<T> {
    pub items: Vec<T>,
    /// All but these are meant.
    pub inverted: bool,
}

/// Whom a statement is about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Principal {
    Everyone,
    /// By number or name, alone or as `arn:aws:iam::…:root`.
    Account(String),
    /// `arn:aws:iam::account:user/key`.
    Key {
        account: String,
        key_id: String,
    },
    Canonical(String),
    /// Somebody who never calls here: a service, a role, a federated user.
    Elsewhere,
}

/// Who asks, as principals name it. Nobody who signed: no caller.
#[derive(Clone, Copy, Debug)]
pub struct Caller<'a> {
    pub account_number: &'a str,
    pub account_name: &'a str,
    pub canonical_id: &'a str,
    pub key_id: &'a str,
}

/// A question to a policy.
pub struct Question<'a> {
    pub caller: Option<Caller<'a>>,
    pub action: &'a str,
    pub resource: &'a str,
    /// The values of a condition key, whose name is given in lower case; empty when there are none.
    pub values: &'a dyn Fn(&str) -> Vec<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    Allowed,
    Denied,
    /// No statement speaks of it.
    Silent,
}

impl Policy {
    /// # Errors
    /// What is wrong with it, as the end of a sentence that begins with "a policy".
    pub fn parse(text: &str) -> Result<Self, String> {
        let value: Value = serde_json::from_str(text).map_err(|error| format!("is JSON ({error})"))?;
        let Value::Object(policy) = value else { return Err("is an object with a Statement".into()) };
        match policy.get("Version").map(Value::as_str) {
            None | Some(Some("2012-10-17" | "2008-10-17")) => {}
            Some(_) => return Err("has the Version 2012-10-17 or 2008-10-17".into()),
        }
        let statements = match policy.get("Statement") {
            Some(Value::Array(statements)) => statements.iter().collect(),
            Some(statement @ Value::Object(_)) => vec![statement],
            _ => return Err("is an object with a Statement".into()),
        };
        if statements.is_empty() || statements.len() > ITEMS_MAX {
            return Err("has at least one statement".into());
        }
        let read = |statement: &Value| match statement {
            Value::Object(fields) => Statement::read(fields),
            _ => Err("has statements that are objects".to_owned()),
        };
        Ok(Self { statements: statements.into_iter().map(read).collect::<Result<_, _>>()? })
    }

    #[must_use]
    pub fn statements(&self) -> &[Statement] {
        &self.statements
    }

    /// What the policy says to a question.
    #[must_use]
    pub fn judge(&self, question: &Question<'_>) -> Verdict {
        let mut verdict = Verdict::Silent;
        for statement in self.statements.iter().filter(|statement| statement.speaks_of(question)) {
            match statement.effect {
                Effect::Deny => return Verdict::Denied,
                Effect::Allow => verdict = Verdict::Allowed,
            }
        }
        verdict
    }

    /// Whether it allows something to everybody, whoever and wherever they are.
    #[must_use]
    pub fn is_public(&self) -> bool {
        self.statements.iter().any(|statement| {
            statement.effect == Effect::Allow
                && (statement.principals.inverted || statement.principals.items.contains(&Principal::Everyone))
                && !statement.conditions.iter().any(Condition::names_who)
        })
    }

    /// All condition keys, in lower case.
    pub fn condition_keys(&self) -> impl Iterator<Item = &str> {
        self.statements.iter().flat_map(|statement| statement.conditions.iter().map(Condition::key))
    }
}

impl Statement {
    fn read(fields: &Map<String, Value>) -> Result<Self, String> {
        const KNOWN: [&str; 9] = [
            "Sid",
            "Effect",
            "Principal",
            "NotPrincipal",
            "Action",
            "NotAction",
            "Resource",
            "NotResource",
            "Condition",
        ];
        if let Some(unknown) = fields.keys().find(|name| !KNOWN.contains(&name.as_str())) {
            return Err(format!("has no element `{unknown}` in its statements"));
        }
        let effect = match fields.get("Effect").and_then(Value::as_str) {
            Some("Allow") => Effect::Allow,
            Some("Deny") => Effect::Deny,
            _ => return Err("has the Effect Allow or Deny in each statement".into()),
        };
        let principals = Among::read(fields, "Principal", principals)?.ok_or("has a Principal in each statement")?;
        let patterns = |value: &Value| Ok(texts(value)?.into_iter().map(Pattern::new).collect());
        let actions = Among::read(fields, "Action", patterns)?.ok_or("has an Action in each statement")?;
        let resources = Among::read(fields, "Resource", patterns)?;
        let conditions = fields.get("Condition").map(condition::read).transpose()?.unwrap_or_default();
        Ok(Self { effect, principals, actions, resources, conditions })
    }

    fn speaks_of(&self, question: &Question<'_>) -> bool {
        // Names of actions and services have no case.
        let action = question.action.to_ascii_lowercase();
        self.principals.holds(|principal| principal.is(question.caller))
            && self.actions.holds(|pattern| pattern.lower().matches(&action))
            && self.resources.as_ref().is_none_or(|resources| {
                resources.holds(|pattern| pattern.filled(question.values).matches(question.resource))
            })
            && self.conditions.iter().all(|condition| condition.holds(question.values))
    }
}

impl<T> Among<T> {
    /// `name`, or `Not` before it, but not both.
    fn read(
        fields: &Map<String, Value>,
        name: &str,
        parse: impl Fn(&Value) -> Result<Vec<T>, String>,
    ) -> Result<Option<Self>, String> {
        let not = format!("Not{name}");
        let (value, inverted) = match (fields.get(name), fields.get(&not)) {
            (Some(_), Some(_)) => return Err(format!("has not both {name} and {not} in one statement")),
            (Some(value), None) => (value, false),
            (None, Some(value)) => (value, true),
            (None, None) => return Ok(None),
        };
        let items = parse(value)?;
        if items.is_empty() || items.len() > ITEMS_MAX {
            return Err(format!("has 1 to {ITEMS_MAX} items in {name}"));
        }
        Ok(Some(Self { items, inverted }))
    }

    fn holds(&self, matches: impl Fn(&T) -> bool) -> bool {
        self.items.iter().any(matches) != self.inverted
    }
}

impl Principal {
    fn named(kind: &str, name: &str) -> Result<Self, String> {
        match kind {
            "AWS" if name == "*" => Ok(Self::Everyone),
            "AWS" => Self::of_arn(name),
            "CanonicalUser" => Ok(Self::Canonical(name.to_ascii_lowercase())),
            "Service" | "Federated" if !name.is_empty() => Ok(Self::Elsewhere),
            _ => Err(format!("has no principals of the kind `{kind}`")),
        }
    }

    fn of_arn(name: &str) -> Result<Self, String> {
        let wrong = || format!("has no principal `{name}`");
        let plain = |text: &str| !text.is_empty() && !text.contains(['*', '?', ':']);
        let Some(arn) = name.strip_prefix("arn:aws:iam::").or_else(|| name.strip_prefix("arn:aws:sts::")) else {
            return if plain(name) { Ok(Self::Account(name.to_owned())) } else { Err(wrong()) };
        };
        let (account, who) = arn.split_once(':').ok_or_else(wrong)?;
        if !plain(account) {
            return Err(wrong());
        }
        match (who, who.strip_prefix("user/")) {
            ("root", _) => Ok(Self::Account(account.to_owned())),
            (_, Some(key)) if plain(key) => {
                Ok(Self::Key { account: account.to_owned(), key_id: key.rsplit('/').next().unwrap_or(key).to_owned() })
            }
            (_, None) if plain(who) => Ok(Self::Elsewhere),
            _ => Err(wrong()),
        }
    }

    fn is(&self, caller: Option<Caller<'_>>) -> bool {
        let of =
            |caller: &Caller<'_>, account: &str| caller.account_number == account || caller.account_name == account;
        match (self, caller) {
            (Self::Everyone, _) => true,
            (Self::Account(account), Some(caller)) => of(&caller, account),
            (Self::Key { account, key_id }, Some(caller)) => of(&caller, account) && caller.key_id == key_id,
            (Self::Canonical(id), Some(caller)) => caller.canonical_id == id,
            (Self::Elsewhere, _) | (_, None) => false,
        }
    }
}

fn principals(value: &Value) -> Result<Vec<Principal>, String> {
    match value {
        Value::String(star) if star == "*" => Ok(vec![Principal::Everyone]),
        Value::Object(kinds) => {
            let mut all = Vec::new();
            for (kind, names) in kinds {
                for name in texts(names)? {
                    all.push(Principal::named(kind, &name)?);
                }
            }
            Ok(all)
        }
        _ => Err("has a Principal that is `*` or an object".into()),
    }
}

/// A text or a list of them.
fn texts(value: &Value) -> Result<Vec<String>, String> {
    let wrong = || "has texts, or lists of texts, for names".to_owned();
    match value {
        Value::String(text) => Ok(vec![text.clone()]),
        Value::Array(items) if items.len() <= ITEMS_MAX => {
            items.iter().map(|item| item.as_str().map(str::to_owned).ok_or_else(wrong)).collect()
        }
        _ => Err(wrong()),
    }
}

/// Reads `text` as a policy and judges one question by it, and throws the outcome away: for fuzzing.
pub fn fuzz_policy(text: &str) {
    let Ok(policy) = Policy::parse(text) else { return };
    let values = |key: &str| vec![key.to_owned(), "10.0.0.1".to_owned()];
    let caller = Caller { account_number: "1", account_name: "a", canonical_id: "c", key_id: "k" };
    for caller in [None, Some(caller)] {
        let _ = policy.judge(&Question { caller, action: "s3:GetObject", resource: text, values: &values });
    }
    let _ = (policy.is_public(), policy.condition_keys().count());
}

#[cfg(test)]
mod tests;
