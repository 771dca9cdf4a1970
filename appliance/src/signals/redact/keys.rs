//! Names whose values are taken out, compared without case, `-` and `_`.

use std::collections::HashMap;

/// Longest name of a rule, and of what is compared.
const KEY_BYTES_MAX: usize = 64;

pub(super) struct Keys {
    names: Vec<String>,
    /// By the name as it is compared.
    rules: HashMap<Vec<u8>, usize>,
    /// The first letters of `rules`: most names of a record end here.
    first: [bool; 256],
}

impl Keys {
    pub(super) fn new(names: &[String]) -> Result<Self, String> {
        let mut keys = Self { names: names.to_vec(), rules: HashMap::new(), first: [false; 256] };
        for (rule, name) in names.iter().enumerate() {
            let mut buffer = [0; KEY_BYTES_MAX];
            let key = compared(name, &mut buffer).filter(|key| !key.is_empty());
            let key = key.ok_or_else(|| {
                format!("keys: `{}` is not 1 to {KEY_BYTES_MAX} ASCII signs", name.chars().take(80).collect::<String>())
            })?;
            keys.first[usize::from(key[0])] = true;
            keys.rules.entry(key.to_vec()).or_insert(rule);
        }
        Ok(keys)
    }

    pub(super) fn len(&self) -> usize {
        self.names.len()
    }

    pub(super) fn name(&self, rule: usize) -> &str {
        &self.names[rule]
    }

    /// The rule that `name` falls under, as a whole or by what follows its last dot.
    pub(super) fn find(&self, name: &str) -> Option<usize> {
        let last = name.rsplit('.').next().unwrap_or(name);
        self.exact(last).or_else(|| if last.len() < name.len() { self.exact(name) } else { None })
    }

    fn exact(&self, name: &str) -> Option<usize> {
        let begin = name.bytes().find(|byte| !is_separator(*byte))?;
        if !self.first[usize::from(begin.to_ascii_lowercase())] {
            return None;
        }
        let mut buffer = [0; KEY_BYTES_MAX];
        self.rules.get(compared(name, &mut buffer)?).copied()
    }
}

fn is_separator(byte: u8) -> bool {
    matches!(byte, b'-' | b'_' | b' ')
}

/// A name as it is compared; `None` for one that is too long or not ASCII.
fn compared<'a>(name: &str, buffer: &'a mut [u8; KEY_BYTES_MAX]) -> Option<&'a [u8]> {
    if name.len() > KEY_BYTES_MAX || !name.is_ascii() {
        return None;
    }
    let mut length = 0;
    for byte in name.bytes().filter(|byte| !is_separator(*byte)) {
        buffer[length] = byte.to_ascii_lowercase();
        length += 1;
    }
    Some(&buffer[..length])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_compared_without_case_and_separators_and_by_their_last_part() {
        let keys = Keys::new(&["authorization".into(), "api_key".into(), "db.secret".into()]).unwrap();
        for (name, rule) in [
            ("Authorization", Some(0)),
            ("http.request.header.authorization", Some(0)),
            ("authorization.kind", None),
            ("apiKey", Some(1)),
            ("API-KEY", Some(1)),
            ("api key", Some(1)),
            ("api_keys", None),
            ("db.secret", Some(2)),
            ("secret", None),
            ("", None),
            ("-", None),
            ("autorisé", None),
        ] {
            assert_eq!(keys.find(name), rule, "{name}");
        }
        for wrong in ["", "_", "schlüssel", &"x".repeat(65)] {
            assert!(Keys::new(&[wrong.into()]).is_err(), "{wrong}");
        }
    }
}
