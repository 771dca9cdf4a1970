//! A queue's tags: up to 50 names with values, which mean nothing to the queue.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::model::QueueError;

/// Most tags of a queue (AWS).
const TAGS_MAX: usize = 50;
/// Longest key and value, in characters (AWS).
const KEY_CHARS_MAX: usize = 128;
const VALUE_CHARS_MAX: usize = 256;

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub(super) struct Tags(BTreeMap<String, String>);

impl Tags {
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(super) fn all(&self) -> &BTreeMap<String, String> {
        &self.0
    }

    /// These tags with `more` laid over them.
    ///
    /// # Errors
    /// [`QueueError::InvalidParameter`] that names the tag.
    pub(super) fn with(mut self, more: &BTreeMap<String, String>) -> Result<Self, QueueError> {
        for (key, value) in more {
            check("Tag.Key", key, 1, KEY_CHARS_MAX)?;
            check("Tag.Value", value, 0, VALUE_CHARS_MAX)?;
            if key.to_ascii_lowercase().starts_with("aws:") {
                return Err(invalid("Tag.Key", key, "the prefix aws: is reserved"));
            }
            self.0.insert(key.clone(), value.clone());
        }
        if self.0.len() > TAGS_MAX {
            let problem = format!("A queue has at most {TAGS_MAX} tags; this would make {}.", self.0.len());
            return Err(QueueError::InvalidParameter { name: "Tags", problem });
        }
        Ok(self)
    }

    /// These tags without those of `keys` that are there.
    pub(super) fn without(mut self, keys: &[String]) -> Self {
        for key in keys {
            self.0.remove(key);
        }
        self
    }
}

fn check(name: &'static str, text: &str, least: usize, most: usize) -> Result<(), QueueError> {
    let plain = |character: char| character.is_alphanumeric() || " _.:/=+-@".contains(character);
    if !(least..=most).contains(&text.chars().count()) {
        return Err(invalid(name, text, &format!("it has {least} to {most} characters")));
    }
    if !text.chars().all(plain) {
        return Err(invalid(name, text, "it has letters, digits, spaces and _ . : / = + - @"));
    }
    Ok(())
}

fn invalid(name: &'static str, value: &str, reason: &str) -> QueueError {
    let shown: String = value.chars().take(100).collect();
    let problem = format!("Value {shown} for parameter {name} is invalid. Reason: {reason}.");
    QueueError::InvalidParameter { name, problem }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn one(key: &str, value: &str) -> Result<Tags, QueueError> {
        Tags::default().with(&BTreeMap::from([(key.to_owned(), value.to_owned())]))
    }

    #[test]
    fn fifty_tags_are_taken_and_one_more_is_not() {
        let many = |count: usize| (0..count).map(|n| (format!("k{n}"), String::new())).collect::<BTreeMap<_, _>>();
        let full = Tags::default().with(&many(50)).unwrap();
        assert!(full.clone().with(&many(50)).is_ok(), "the same keys again");
        assert!(matches!(full.clone().with(&many(51)), Err(QueueError::InvalidParameter { name: "Tags", .. })));
        assert_eq!(full.without(&["k1".into(), "none".into()]).all().len(), 49);
    }

    #[test]
    fn keys_and_values_have_bounds_and_letters() {
        for (key, value) in [("k", ""), ("Größe", "3 = +-@_.:/"), (&*"k".repeat(128), &*"ä".repeat(256))] {
            assert!(one(key, value).is_ok(), "{key}={value}");
        }
        for (key, value) in
            [("", "v"), (&*"k".repeat(129), "v"), ("k", &*"v".repeat(257)), ("k\n", "v"), ("k", "<"), ("AWS:k", "v")]
        {
            assert!(one(key, value).is_err(), "{key}={value}");
        }
    }
}
