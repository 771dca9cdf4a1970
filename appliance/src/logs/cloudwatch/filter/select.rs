//! `$.a.b[0]`: values of a JSON object by their path.

use serde_json::Value;

use super::scan::Scanner;

/// Most steps of a path.
const STEPS_MAX: usize = 32;
/// Most values that stars lead to.
const VALUES_MAX: usize = 1_000;

#[derive(Clone, Debug, PartialEq, Eq)]
enum Step {
    Name(String),
    At(usize),
    /// `[*]` or `.*`.
    Each,
}

/// The path of a value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Selector(Vec<Step>);

impl Selector {
    /// Reads a path, which begins with `$`.
    pub(super) fn take(scanner: &mut Scanner<'_>) -> Result<Self, String> {
        if !scanner.take("$") {
            return Err(format!(
                "Invalid filter pattern: a selector such as $.name is missing before {}",
                scanner.rest()
            ));
        }
        let mut steps = Vec::new();
        loop {
            match scanner.peek() {
                Some('.') => {
                    scanner.next();
                    let name = scanner.bare(|sign| sign.is_whitespace() || ".[]=!<>()&|}".contains(sign));
                    steps.push(match name {
                        "" => return Err("Invalid filter pattern: a name is missing in a selector".into()),
                        "*" => Step::Each,
                        name => Step::Name(name.to_owned()),
                    });
                }
                Some('[') => {
                    scanner.next();
                    let step = match scanner.peek() {
                        Some('"') => Step::Name(scanner.quoted()?),
                        Some('\'') => {
                            scanner.next();
                            let name = scanner.bare(|sign| sign == '\'').to_owned();
                            scanner.next();
                            Step::Name(name)
                        }
                        _ => match scanner.bare(|sign| sign == ']') {
                            "*" => Step::Each,
                            at => Step::At(
                                at.parse()
                                    .map_err(|_| format!("Invalid filter pattern: [{at}] is no place in an array"))?,
                            ),
                        },
                    };
                    if scanner.next() != Some(']') {
                        return Err("Invalid filter pattern: a square bracket is not closed in a selector".into());
                    }
                    steps.push(step);
                }
                _ => break,
            }
            if steps.len() > STEPS_MAX {
                return Err(format!("Invalid filter pattern: a selector has more than {STEPS_MAX} steps"));
            }
        }
        Ok(Self(steps))
    }

    /// The values that it leads to.
    pub(super) fn values<'a>(&self, root: &'a Value) -> Vec<&'a Value> {
        let mut found = Vec::new();
        walk(root, &self.0, &mut found);
        found
    }
}

fn walk<'a>(value: &'a Value, steps: &[Step], found: &mut Vec<&'a Value>) {
    if found.len() >= VALUES_MAX {
        return;
    }
    let Some((step, rest)) = steps.split_first() else {
        found.push(value);
        return;
    };
    match (step, value) {
        (Step::Name(name), Value::Object(object)) => match object.get(name) {
            Some(value) => walk(value, rest, found),
            None => walk_dotted(object, name, rest, found),
        },
        (Step::At(at), Value::Array(values)) => {
            if let Some(value) = values.get(*at) {
                walk(value, rest, found);
            }
        }
        (Step::Each, Value::Array(values)) => values.iter().for_each(|value| walk(value, rest, found)),
        (Step::Each, Value::Object(object)) => object.values().for_each(|value| walk(value, rest, found)),
        _ => {}
    }
}

/// Attributes stand under dotted names: `a` then `b` is `a.b`.
fn walk_dotted<'a>(object: &'a serde_json::Map<String, Value>, name: &str, steps: &[Step], found: &mut Vec<&'a Value>) {
    let mut dotted = name.to_owned();
    for (at, step) in steps.iter().enumerate() {
        let Step::Name(name) = step else { return };
        dotted.push('.');
        dotted.push_str(name);
        if let Some(value) = object.get(&dotted) {
            return walk(value, &steps[at + 1..], found);
        }
    }
}
