//! Conditions of a statement: an operator, a key, and the values that it is held against.

use std::net::IpAddr;

use serde_json::Value;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::ITEMS_MAX;
use super::pattern::Pattern;

#[derive(Clone, Debug)]
pub(super) struct Condition {
    operator: Operator,
    /// A key without a value does not fail it.
    if_exists: bool,
    of: Of,
    /// In lower case.
    key: String,
    values: Vec<Pattern>,
}

/// How a key with several values is judged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Of {
    One,
    Any,
    All,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Operator {
    test: Test,
    negated: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Test {
    Text,
    TextWithoutCase,
    Like,
    Number(Order),
    Date(Order),
    Bool,
    Address,
    /// Whether the key is absent.
    Null,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Order {
    Equal,
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
}

impl Order {
    fn holds<T: PartialOrd>(self, asked: &T, value: &T) -> bool {
        match self {
            Self::Equal => asked == value,
            Self::Less => asked < value,
            Self::LessOrEqual => asked <= value,
            Self::Greater => asked > value,
            Self::GreaterOrEqual => asked >= value,
        }
    }
}

impl Operator {
    fn named(name: &str) -> Option<Self> {
        let is = |test| Some(Self { test, negated: false });
        let not = |test| Some(Self { test, negated: true });
        let order = |name: &str| match name {
            "Equals" => Some((Order::Equal, false)),
            "NotEquals" => Some((Order::Equal, true)),
            "LessThan" => Some((Order::Less, false)),
            "LessThanEquals" => Some((Order::LessOrEqual, false)),
            "GreaterThan" => Some((Order::Greater, false)),
            "GreaterThanEquals" => Some((Order::GreaterOrEqual, false)),
            _ => None,
        };
        match name {
            "StringEquals" => is(Test::Text),
            "StringNotEquals" => not(Test::Text),
            "StringEqualsIgnoreCase" => is(Test::TextWithoutCase),
            "StringNotEqualsIgnoreCase" => not(Test::TextWithoutCase),
            "StringLike" | "ArnLike" | "ArnEquals" => is(Test::Like),
            "StringNotLike" | "ArnNotLike" | "ArnNotEquals" => not(Test::Like),
            "Bool" => is(Test::Bool),
            "IpAddress" => is(Test::Address),
            "NotIpAddress" => not(Test::Address),
            "Null" => is(Test::Null),
            _ => {
                let numeric = name.strip_prefix("Numeric").and_then(order);
                let date = name.strip_prefix("Date").and_then(order);
                let numeric = numeric.map(|(order, negated)| Self { test: Test::Number(order), negated });
                numeric.or(date.map(|(order, negated)| Self { test: Test::Date(order), negated }))
            }
        }
    }

    /// Whether one value of the request meets one value of the policy. What is no number, date or address meets nothing.
    fn meets(self, pattern: &Pattern, asked: &str, values: &dyn Fn(&str) -> Vec<String>) -> bool {
        let filled = pattern.filled(values);
        match self.test {
            Test::Text => filled.equals(asked, |pattern, asked| pattern == asked),
            Test::TextWithoutCase => {
                filled.equals(asked, |pattern, asked| pattern.to_lowercase() == asked.to_lowercase())
            }
            Test::Like => filled.matches(asked),
            Test::Bool => pattern.text().eq_ignore_ascii_case(asked),
            Test::Number(order) => {
                matches!((number(asked), number(pattern.text())), (Some(asked), Some(value)) if order.holds(&asked, &value))
            }
            Test::Date(order) => {
                matches!((date(asked), date(pattern.text())), (Some(asked), Some(value)) if order.holds(&asked, &value))
            }
            Test::Address => asked.parse().is_ok_and(|asked| within(pattern.text(), asked)),
            Test::Null => false,
        }
    }

    /// Whether `text` can be a value of this operator.
    fn takes(self, text: &str) -> bool {
        match self.test {
            Test::Text | Test::TextWithoutCase | Test::Like => true,
            Test::Bool | Test::Null => text.eq_ignore_ascii_case("true") || text.eq_ignore_ascii_case("false"),
            Test::Number(_) => number(text).is_some(),
            Test::Date(_) => date(text).is_some(),
            Test::Address => network(text).is_some(),
        }
    }
}

fn number(text: &str) -> Option<f64> {
    text.parse().ok().filter(|number: &f64| number.is_finite())
}

/// RFC 3339, a day, or seconds since 1970.
fn date(text: &str) -> Option<OffsetDateTime> {
    if let Ok(seconds) = text.parse::<i64>() {
        return OffsetDateTime::from_unix_timestamp(seconds).ok();
    }
    let day = || OffsetDateTime::parse(&format!("{text}T00:00:00Z"), &Rfc3339).ok();
    OffsetDateTime::parse(text, &Rfc3339).ok().or_else(day)
}

/// `address/bits` or an address alone.
fn network(text: &str) -> Option<(IpAddr, u8)> {
    let (address, bits) = text.split_once('/').map_or((text, None), |(address, bits)| (address, Some(bits)));
    let address: IpAddr = address.parse().ok()?;
    let most = if address.is_ipv4() { 32 } else { 128 };
    let bits = bits.map_or(Some(most), |bits| bits.parse().ok())?;
    (bits <= most).then_some((address, bits))
}

fn within(net: &str, address: IpAddr) -> bool {
    let Some((base, bits)) = network(net) else { return false };
    let number = |address: IpAddr| match address {
        IpAddr::V4(address) => u128::from(address.to_bits()) << 96,
        IpAddr::V6(address) => address.to_bits(),
    };
    // A caller over an IPv6 socket may be an IPv4 address.
    let address = address.to_canonical();
    let mask = if bits == 0 { 0 } else { u128::MAX << (128 - u32::from(bits)) };
    base.is_ipv4() == address.is_ipv4() && (number(base) ^ number(address)) & mask == 0
}

/// Reads the element `Condition`.
///
/// # Errors
/// What is wrong with it.
pub(super) fn read(element: &Value) -> Result<Vec<Condition>, String> {
    let Value::Object(operators) = element else { return Err("has a Condition that is an object".into()) };
    let mut conditions = Vec::new();
    for (name, keys) in operators {
        let unknown = || format!("has no condition operator `{name}`");
        let (of, plain) = match name.split_once(':') {
            Some(("ForAnyValue", plain)) => (Of::Any, plain),
            Some(("ForAllValues", plain)) => (Of::All, plain),
            Some(_) => return Err(unknown()),
            None => (Of::One, name.as_str()),
        };
        let shorter = plain.strip_suffix("IfExists").filter(|plain| *plain != "Null");
        let (plain, if_exists) = shorter.map_or((plain, false), |plain| (plain, true));
        let operator = Operator::named(plain).ok_or_else(unknown)?;
        let Value::Object(keys) = keys else { return Err(format!("has keys in the condition `{name}`")) };
        for (key, wanted) in keys {
            let values = values(wanted)?;
            if values.is_empty() || values.len() > ITEMS_MAX || conditions.len() >= ITEMS_MAX {
                return Err(format!("has 1 to {ITEMS_MAX} values for the condition key `{key}`"));
            }
            if let Some(wrong) = values.iter().find(|value| !operator.takes(value)) {
                return Err(format!("has no value `{wrong}` for {name}"));
            }
            let values = values.into_iter().map(Pattern::new).collect();
            conditions.push(Condition { operator, if_exists, of, key: key.to_ascii_lowercase(), values });
        }
    }
    Ok(conditions)
}

fn values(wanted: &Value) -> Result<Vec<String>, String> {
    let text = |value: &Value| match value {
        Value::String(text) => Ok(text.clone()),
        Value::Bool(bool) => Ok(bool.to_string()),
        Value::Number(number) => Ok(number.to_string()),
        _ => Err("has texts, numbers or booleans as values of conditions".to_owned()),
    };
    match wanted {
        Value::Array(items) => items.iter().map(text).collect(),
        one => Ok(vec![text(one)?]),
    }
}

impl Condition {
    pub(super) fn key(&self) -> &str {
        &self.key
    }

    pub(super) fn holds(&self, values: &dyn Fn(&str) -> Vec<String>) -> bool {
        let asked = values(&self.key);
        if self.operator.test == Test::Null {
            let wants_absent = self.values.iter().any(|value| value.text().eq_ignore_ascii_case("true"));
            return asked.is_empty() == wants_absent;
        }
        if asked.is_empty() {
            // Of no value, none differs: a negated operator holds, and so does one about all of them.
            return self.if_exists || self.of == Of::All || (self.operator.negated && self.of == Of::One);
        }
        let meets = |asked: &String| {
            self.values.iter().any(|pattern| self.operator.meets(pattern, asked, values)) != self.operator.negated
        };
        match self.of {
            Of::Any => asked.iter().any(meets),
            Of::One | Of::All => asked.iter().all(meets),
        }
    }

    /// Whether it holds only for callers that somebody has chosen.
    pub(super) fn names_who(&self) -> bool {
        const WHO: [&str; 7] = [
            "aws:sourceip",
            "aws:sourcearn",
            "aws:sourceaccount",
            "aws:principalarn",
            "aws:principalaccount",
            "aws:userid",
            "aws:username",
        ];
        let fixed = |value: &Pattern| match self.operator.test {
            Test::Address => network(value.text()).is_some_and(|(_, bits)| bits >= 8),
            Test::Text | Test::TextWithoutCase | Test::Like => !value.text().contains(['*', '?', '$']),
            _ => false,
        };
        WHO.contains(&self.key.as_str())
            && !self.operator.negated
            && !self.if_exists
            && self.of != Of::All
            && self.values.iter().all(fixed)
    }
}
