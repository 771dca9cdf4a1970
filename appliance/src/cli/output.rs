//! What commands print: to people, to a pipe that may be closed before its end, to a disk that may be full.

use std::fmt::Display;
use std::io::{ErrorKind, Write};

use serde::Serialize;
use serde_json::Value;

use super::{CliError, to_json};

/// Prints a line on standard output, made as `println!` makes it. What cannot be written is an error, not a panic.
macro_rules! say {
    ($($word:tt)*) => { $crate::cli::output::line(format_args!($($word)*)) };
}
pub(super) use say;

/// Prints `text` and ends the line.
///
/// # Errors
/// [`CliError::Closed`] when nobody reads on, as `head` does after its last line; [`CliError::Fault`] otherwise.
pub(super) fn line(text: impl Display) -> Result<(), CliError> {
    written(writeln!(std::io::stdout(), "{text}"))
}

/// Prints a thing: as a line of JSON, or in words.
///
/// # Errors
/// As [`line`].
pub(super) fn show<T: Serialize>(thing: &T, json: bool, words: impl FnOnce(&T) -> String) -> Result<(), CliError> {
    if json { line(to_json(thing)?) } else { line(words(thing)) }
}

/// Prints bytes as they are.
///
/// # Errors
/// As [`line`].
pub(super) fn bytes(bytes: &[u8]) -> Result<(), CliError> {
    written(std::io::stdout().write_all(bytes))
}

fn written(result: std::io::Result<()>) -> Result<(), CliError> {
    result.map_err(|error| match error.kind() {
        ErrorKind::BrokenPipe => CliError::Closed,
        _ => CliError::fault("write to standard output", error),
    })
}

/// Says on standard error which windows a search of logs or traces could not look into.
pub(super) fn left_out(page: &Value) {
    for window in page["set_aside"].as_array().into_iter().flatten() {
        eprintln!("backlot: window {window} does not read and was left out");
    }
    for of in page["unreached"].as_array().into_iter().flatten() {
        eprintln!("backlot: window {} was left out: {}", of["window"], of["reason"]);
    }
}

/// Text of others in its lines, without what a terminal would obey.
pub(super) fn printable(text: &str) -> String {
    let harmless = |c: char| !c.is_control() || c == '\n' || c == '\t';
    text.chars().map(|c| if harmless(c) { c } else { '\u{fffd}' }).collect()
}

/// Text of others in one line.
pub(super) fn one_line(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect()
}
