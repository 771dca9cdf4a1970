//! Entries of JSON, or of a Python dictionary, anywhere within a text: whatever stands after `"key":`.
//!
//! The text is not parsed: it may be a line with JSON in its middle, JSON within a string of JSON, or cut off. A key is what lies between two quotes
//! before a colon, and its value ends where the same quoting ends; what has no end is taken out to the end of the text. JSON that is read afterwards
//! reads the same but for what was taken out. One pass, in time proportional to the text.

use memchr::{memchr_iter, memchr2};

use super::keys::Keys;

/// Longest name that is looked at, as it is written.
const WRITTEN_BYTES_MAX: usize = 512;
/// Times that a name may have been escaped.
const ESCAPED_MAX: usize = 3;

/// `text` without the values of `keys`; `None` where that is `text` itself.
pub(super) fn redacted(text: &str, keys: &Keys, mark: &str, counts: &mut [u64]) -> Option<String> {
    let bytes = text.as_bytes();
    let (mut made, mut copied) = (String::new(), 0);
    let (mut before, mut at) = (None, 0);
    while let Some(found) = memchr2(b'"', b'\'', &bytes[at..]) {
        let quote = at + found;
        at = quote + 1;
        let Some(begin) = before.replace(at) else { continue };
        let colon = skip_spaces(bytes, at);
        if bytes.get(colon) != Some(&b':') || quote - begin > WRITTEN_BYTES_MAX {
            continue;
        }
        let slashes = slashes_before(bytes, begin, quote);
        if !(slashes + 1).is_power_of_two() {
            continue; // the name itself ends with a backslash
        }
        let Some(rule) = find(keys, &text[begin..quote - slashes]) else { continue };
        let value = Value::at(bytes, skip_spaces(bytes, colon + 1), slashes);
        made.push_str(&text[copied..value.begin]);
        let quoted = char::from(value.quote.unwrap_or(bytes[quote]));
        for part in [mark, ""] {
            made.extend(std::iter::repeat_n('\\', slashes));
            made.push(quoted);
            made.push_str(part);
        }
        counts[rule] += 1;
        copied = value.end;
        at = value.end;
        before = Some(at);
    }
    if copied == 0 {
        return None;
    }
    made.push_str(&text[copied..]);
    Some(made)
}

fn find(keys: &Keys, written: &str) -> Option<usize> {
    if !written.contains('\\') {
        return keys.find(written);
    }
    let mut name = written.to_owned();
    for _ in 0..ESCAPED_MAX {
        if !name.contains('\\') {
            break;
        }
        name = serde_json::from_str(&format!("\"{name}\"")).ok()?;
    }
    keys.find(&name)
}

fn skip_spaces(bytes: &[u8], mut at: usize) -> usize {
    while bytes.get(at).is_some_and(u8::is_ascii_whitespace) {
        at += 1;
    }
    at
}

/// Backslashes in front of `at`, down to `begin`.
fn slashes_before(bytes: &[u8], begin: usize, at: usize) -> usize {
    bytes[begin..at].iter().rev().take_while(|byte| **byte == b'\\').count()
}

struct Value {
    begin: usize,
    end: usize,
    /// The quotes around it, if it has some.
    quote: Option<u8>,
}

impl Value {
    /// The value that begins at `begin`, where quotes have `slashes` backslashes in front of them.
    fn at(bytes: &[u8], begin: usize, slashes: usize) -> Self {
        // Python writes b'…' and the like.
        let has_letter = matches!(bytes.get(begin), Some(b'b' | b'B' | b'u' | b'r' | b'f'))
            && matches!(bytes.get(begin + 1), Some(b'"' | b'\''));
        let opening = begin + usize::from(has_letter);
        let is_escaped = bytes[opening.min(bytes.len())..].iter().take_while(|byte| **byte == b'\\').count() == slashes;
        match bytes.get(opening + slashes) {
            Some(quote @ (b'"' | b'\'')) if is_escaped => {
                Self { begin, end: string_end(bytes, opening + slashes + 1, *quote, slashes), quote: Some(*quote) }
            }
            _ => match bytes.get(begin) {
                Some(b'{' | b'[' | b'(') => Self { begin, end: nested_end(bytes, begin, slashes), quote: None },
                _ => Self { begin, end: bare_end(bytes, begin, slashes), quote: None },
            },
        }
    }
}

/// Where the string ends whose text begins at `begin`: after its closing quote, or before the quote that closes what it lies in.
fn string_end(bytes: &[u8], begin: usize, quote: u8, slashes: usize) -> usize {
    let mut from = begin;
    for found in memchr_iter(quote, &bytes[begin..]) {
        let at = begin + found;
        let run = slashes_before(bytes, from, at);
        if run < slashes {
            return at - run;
        }
        if run % (2 * (slashes + 1)) == slashes {
            return at + 1;
        }
        from = at + 1;
    }
    bytes.len()
}

/// Where the list or map ends that begins at `begin`.
fn nested_end(bytes: &[u8], begin: usize, slashes: usize) -> usize {
    let (mut depth, mut at) = (0_usize, begin);
    while let Some(byte) = bytes.get(at) {
        match byte {
            b'{' | b'[' | b'(' => depth += 1,
            b'}' | b']' | b')' => {
                depth -= 1;
                if depth == 0 {
                    return at + 1;
                }
            }
            b'"' | b'\'' => {
                let run = slashes_before(bytes, begin, at);
                if run < slashes {
                    return at - run;
                }
                at = string_end(bytes, at + 1, *byte, slashes);
                continue;
            }
            _ => {}
        }
        at += 1;
    }
    bytes.len()
}

/// Where a number, a word, or whatever stands without quotes ends.
fn bare_end(bytes: &[u8], begin: usize, slashes: usize) -> usize {
    let mut at = begin;
    while let Some(byte) = bytes.get(at) {
        match byte {
            b',' | b'}' | b']' | b')' | b'\n' | b'\r' => return at,
            b'"' | b'\'' => {
                // What it lies in ends with a quote that is escaped less.
                let run = slashes_before(bytes, begin, at);
                if run < slashes {
                    return at - run;
                }
            }
            _ => {}
        }
        at += 1;
    }
    at
}

/// Redacts any text with the default keys, and throws the outcome away: for fuzzing.
pub fn fuzz_text(text: &str) {
    let config = crate::config::Redaction::default();
    if let Ok(keys) = Keys::new(&config.keys) {
        let mut counts = vec![0; keys.len()];
        if let Some(without) = redacted(text, &keys, &config.mark, &mut counts) {
            // What was taken out once is not there a second time in another form.
            let again = redacted(&without, &keys, &config.mark, &mut counts).unwrap_or_default();
            assert_eq!(again, without);
        }
    }
}
