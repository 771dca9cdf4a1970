//! Where a value stands in a JSON document: `servers[0].name`, `headers["user-agent"]`.

use serde_json::Value;

/// Most steps.
const STEPS_MAX: usize = 32;

#[derive(Debug, PartialEq, Eq)]
pub(in crate::logs::loki) struct JsonPath(Vec<Step>);

#[derive(Debug, PartialEq, Eq)]
enum Step {
    Key(String),
    Index(usize),
}

impl JsonPath {
    /// # Errors
    /// A sentence that says what is wrong.
    pub(in crate::logs::loki) fn parse(text: &str) -> Result<Self, String> {
        let wrong = || {
            format!(
                "cannot parse expression [{}]: a path is such as servers[0].name or headers[\"user-agent\"]",
                backlot_windows::clip(text, 80)
            )
        };
        let mut steps = Vec::new();
        let mut rest = text.trim();
        while !rest.is_empty() {
            if steps.len() >= STEPS_MAX {
                return Err(wrong());
            }
            if let Some(inner) = rest.strip_prefix('[') {
                if let Some(quoted) = inner.strip_prefix('"') {
                    let (key, after) = quoted.split_once("\"]").ok_or_else(wrong)?;
                    steps.push(Step::Key(key.to_owned()));
                    rest = after;
                } else {
                    let (index, after) = inner.split_once(']').ok_or_else(wrong)?;
                    steps.push(Step::Index(index.trim().parse().map_err(|_| wrong())?));
                    rest = after;
                }
            } else {
                let key = if steps.is_empty() { rest } else { rest.strip_prefix('.').ok_or_else(wrong)? };
                let end = key.find(['.', '[']).unwrap_or(key.len());
                if end == 0 || key[..end].contains([' ', '"', ']']) {
                    return Err(wrong());
                }
                steps.push(Step::Key(key[..end].to_owned()));
                rest = &key[end..];
            }
        }
        if steps.is_empty() { Err(wrong()) } else { Ok(Self(steps)) }
    }

    pub(super) fn find<'a>(&self, document: &'a Value) -> Option<&'a Value> {
        self.0.iter().try_fold(document, |value, step| match step {
            Step::Key(key) => value.get(key),
            Step::Index(index) => value.get(index),
        })
    }

    /// The name that the value has once its document is taken apart.
    pub(super) fn flat_name(&self) -> String {
        let names = self.0.iter().map(|step| match step {
            Step::Key(key) => super::sanitize(key),
            Step::Index(index) => index.to_string(),
        });
        names.collect::<Vec<_>>().join("_")
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn paths_lead_to_values() {
        let document = json!({"servers": [{"name": "a"}, {"name": "b"}], "headers": {"user-agent": "x"}, "n": 1});
        for (path, expected) in [
            ("servers[1].name", Some(json!("b"))),
            ("headers[\"user-agent\"]", Some(json!("x"))),
            ("[\"n\"]", Some(json!(1))),
            ("servers[7]", None),
            ("n.deeper", None),
        ] {
            assert_eq!(JsonPath::parse(path).unwrap().find(&document).cloned(), expected, "{path}");
        }
        for wrong in ["", ".", "a..b", "a[", "a[x]", "a b", "[\"x"] {
            assert!(JsonPath::parse(wrong).is_err(), "{wrong}");
        }
    }
}
