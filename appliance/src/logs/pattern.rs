//! What a line says but for its numbers and ids: lines of the same shape have the same pattern.
//!
//! A word that has a digit in it is a hole (`step 3 of 30 took 12.5 ms` and `step 4 of 30 took 9 ms` are one pattern), and so is what
//! stands in quotation marks. Holes side by side, with nothing but punctuation between them, are one.

use sha2::{Digest as _, Sha256};

/// So much of a line is looked at: what tells stack traces apart stands at their beginning.
const LOOKED_AT_BYTES: usize = 512;
/// Longest stretch in quotation marks that is taken for a value.
const QUOTED_BYTES_MAX: usize = 200;
/// What stands for a hole.
const HOLE: char = '\u{2423}';

/// The pattern of a line, as people read it.
#[must_use]
pub(super) fn of(body: &str) -> String {
    let body = backlot_windows::clip(body, LOOKED_AT_BYTES);
    let line = body.lines().next().unwrap_or_default();
    let mut made = String::with_capacity(line.len());
    let mut rest = line;
    while let Some(first) = rest.chars().next() {
        if first.is_alphanumeric() {
            let end = rest.find(|c: char| !c.is_alphanumeric()).unwrap_or(rest.len());
            let word = &rest[..end];
            if word.contains(|c: char| c.is_ascii_digit()) {
                hole(&mut made)
            } else {
                made.push_str(word)
            }
            rest = &rest[end..];
        } else if let Some(length) = quoted(rest) {
            hole(&mut made);
            rest = &rest[length..];
        } else {
            made.push(first);
            rest = &rest[first.len_utf8()..];
        }
    }
    made
}

/// The pattern of a line as LogQL writes one: `|>` with it finds the line.
#[must_use]
pub(super) fn for_logql(body: &str) -> String {
    const ANYTHING: &str = "<_>";
    let mut made = of(body).replace(HOLE, ANYTHING);
    let looked_at = backlot_windows::clip(body, LOOKED_AT_BYTES).lines().next().unwrap_or_default();
    if looked_at.len() < body.len() && !made.ends_with(ANYTHING) {
        made.push_str(ANYTHING);
    }
    made
}

/// The name of a line's pattern.
#[must_use]
pub(super) fn key(body: &str) -> String {
    hex::encode(&Sha256::digest(of(body))[..6])
}

fn hole(made: &mut String) {
    let kept = made.trim_end_matches(|c: char| !c.is_alphanumeric() && !c.is_whitespace() && c != HOLE).len();
    if made[..kept].ends_with(HOLE) {
        made.truncate(kept);
    } else {
        made.push(HOLE);
    }
}

/// Bytes of what begins with a quotation mark, if it ends with one soon.
fn quoted(text: &str) -> Option<usize> {
    let mark = text.chars().next().filter(|mark| matches!(mark, '"' | '\'' | '`'))?;
    let inner = backlot_windows::clip(&text[1..], QUOTED_BYTES_MAX);
    inner.find(mark).map(|end| end + 2)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_that_differ_in_numbers_and_ids_are_one_pattern() {
        for (lines, pattern) in [
            (["step 3 of 30 took 12.5 ms", "step 29 of 50 took 1e9 ms"], "step ␣ of ␣ took ␣ ms"),
            (["frame=  12 fps= 3 q=1.0", "frame=  99 fps= 8 q=28.0"], "frame=  ␣ fps= ␣ q=␣"),
            (["job 01KAB failed: file '/a/b.png'", "job 01KZZ9 failed: file '/c d'"], "job ␣ failed: file ␣"),
            (["GET /v1/jobs/01KAB-7 200", "GET /v1/jobs/9f3c-ff00 200"], "GET /␣/jobs/␣ ␣"),
            (["", "\n"], ""),
            (["don't stop", "don't stop"], "don't stop"),
        ] {
            for line in lines {
                assert_eq!(of(line), pattern);
            }
        }
        assert_eq!(for_logql("step 3 of 30"), "step <_> of <_>");
        assert_eq!(for_logql("Traceback:\n  more"), "Traceback:<_>");
        assert_ne!(key("heartbeat"), key("received a job"));
        assert_eq!(key("gpu 3 at 71 C"), key("gpu 12 at 40 C"));
        assert!(of(&"9".repeat(100_000)).len() < 10);
    }
}
