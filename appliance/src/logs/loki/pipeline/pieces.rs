//! `| pattern "<ip> - <_> <status>"`: literal stretches with names between them.

use super::Line;

/// Most captures.
const CAPTURES_MAX: usize = 64;

#[derive(Debug, PartialEq, Eq)]
pub(in crate::logs::loki) struct Pieces(Vec<Piece>);

#[derive(Debug, PartialEq, Eq)]
enum Piece {
    Literal(String),
    /// `None`: `<_>`, which is thrown away.
    Capture(Option<String>),
}

impl Pieces {
    /// # Errors
    /// A sentence that says what is wrong.
    pub(in crate::logs::loki) fn parse(text: &str) -> Result<Self, String> {
        let mut pieces: Vec<Piece> = Vec::new();
        let mut rest = text;
        let mut captures = 0;
        while !rest.is_empty() {
            if let Some((name, after)) = capture(rest) {
                if let Some(Piece::Capture(_)) = pieces.last() {
                    return Err(format!(
                        "found consecutive captures before <{name}>: something must stand between them"
                    ));
                }
                captures += 1;
                if captures > CAPTURES_MAX {
                    return Err(format!("more than {CAPTURES_MAX} captures"));
                }
                pieces.push(Piece::Capture((name != "_").then(|| name.to_owned())));
                rest = after;
                continue;
            }
            let end = rest[1.min(rest.len())..].find('<').map_or(rest.len(), |at| at + 1);
            let end = rest.ceil_char_boundary(end);
            match pieces.last_mut() {
                Some(Piece::Literal(literal)) => literal.push_str(&rest[..end]),
                _ => pieces.push(Piece::Literal(rest[..end].to_owned())),
            }
            rest = &rest[end..];
        }
        let is_named = |piece: &Piece| matches!(piece, Piece::Capture(Some(_)));
        if pieces.iter().any(is_named) { Ok(Self(pieces)) } else { Err("at least one capture is required".to_owned()) }
    }

    /// The regular expression of a line filter `|>`, in which `<_>` is anything.
    pub(in crate::logs::loki) fn line_expression(text: &str) -> String {
        let literals: Vec<_> = text.split("<_>").map(regex::escape).collect();
        format!("(?s)^{}$", literals.join(".*?"))
    }

    /// Adds what stands between the literals. A line that has other ones is left as far as it does not fit.
    pub(super) fn take_apart(&self, line: &mut Line) {
        let text = line.text.clone();
        let mut rest = &*text;
        let mut pieces = self.0.as_slice();
        if let [Piece::Literal(literal), after @ ..] = pieces {
            let Some(after_it) = rest.strip_prefix(literal.as_str()) else { return };
            (rest, pieces) = (after_it, after);
        }
        while let [Piece::Capture(name), after @ ..] = pieces {
            let end = match after {
                [Piece::Literal(literal), ..] => rest.find(literal.as_str()).map(|at| (at, literal.len())),
                _ => None,
            };
            // Without what should follow, the rest of the line is the value, and nothing comes after it.
            let (value, length) = end.map_or((rest, None), |(at, length)| (&rest[..at], Some(at + length)));
            if let Some(name) = name {
                line.labels.extract(name, value);
            }
            let Some(length) = length else { return };
            rest = &rest[length..];
            pieces = &after[1..];
        }
    }
}

/// `<name>` at the beginning of a text, and what follows it.
fn capture(text: &str) -> Option<(&str, &str)> {
    let (name, after) = text.strip_prefix('<')?.split_once('>')?;
    let is_name = !name.is_empty()
        && !name.starts_with(|c: char| c.is_ascii_digit())
        && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_');
    is_name.then_some((name, after))
}
