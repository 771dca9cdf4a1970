//! Retention classes as the configuration has them.

use backlot_windows::{Class, Query};

use super::query::parse_lasting;
use crate::config;

/// Most classes: each has windows, and a writer while something comes.
const CLASSES_MAX: usize = 15;
const DAY_MS: u64 = 86_400_000;

/// The classes of the configuration.
///
/// # Errors
/// Names the class that is wrong, and what is.
pub fn classes(config: &config::Logs) -> Result<Vec<Class>, String> {
    if config.class.len() > CLASSES_MAX {
        return Err(format!("there are at most {CLASSES_MAX} classes"));
    }
    let mut classes: Vec<Class> = Vec::with_capacity(config.class.len());
    for config::LogClass { name, query, days, bytes, cold_days } in &config.class {
        let wrong = |problem: &dyn std::fmt::Display| Err(format!("class `{name}`: {problem}"));
        if !Class::is_name(name) {
            return wrong(&"a name has 1 to 32 of a-z, 0-9 and `_`, and is not `default`");
        }
        if classes.iter().any(|other| other.name == *name) {
            return wrong(&"there is another one of this name");
        }
        if days.is_none() && bytes.is_none() {
            return wrong(&"it needs `days`, `bytes`, or both");
        }
        if [days, bytes, cold_days].contains(&&Some(0)) {
            return wrong(&"`days`, `bytes` and `cold_days` are at least 1");
        }
        let query = match parse_lasting(query) {
            Ok(Query::All | Query::Nothing) => return wrong(&"`match` tells no records from others"),
            Ok(query) => query,
            Err(error) => return wrong(&format!("match: {error}")),
        };
        classes.push(Class {
            name: name.clone(),
            query,
            retention_ms: days.unwrap_or(config.retention_days).saturating_mul(DAY_MS),
            disk_bytes_max: bytes.unwrap_or(u64::MAX),
            cold_after_ms: cold_days.map(|days| days.saturating_mul(DAY_MS)),
        });
    }
    Ok(classes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Vec<Class>, String> {
        classes(&toml::from_str(text).map_err(|error: toml::de::Error| error.to_string())?)
    }

    #[test]
    fn classes_are_read_in_their_order_and_what_they_leave_out_is_the_sections() {
        let text = "retention_days = 9\n[[class]]\nname = \"debug\"\nmatch = \"level:debug\"\ndays = 2\n\
            [[class]]\nname = \"ffmpeg\"\nmatch = \"service:ffmpeg gpu.index:[1 TO 3]\"\nbytes = 5000\n";
        let classes = read(text).unwrap();
        let told: Vec<_> = classes
            .iter()
            .map(|class| (class.name.as_str(), class.retention_ms / DAY_MS, class.disk_bytes_max))
            .collect();
        assert_eq!(told, [("debug", 2, u64::MAX), ("ffmpeg", 9, 5000)]);
        assert_eq!(classes[0].query, parse_lasting("level:debug").unwrap());
    }

    #[test]
    fn a_class_that_is_wrong_is_named_with_what_is_wrong() {
        let class =
            |name: &str, query: &str, rest: &str| format!("[[class]]\nname = {name:?}\nmatch = {query:?}\n{rest}\n");
        for (text, problem) in [
            (class("default", "level:debug", "days = 1"), "default"),
            (class("De bug", "level:debug", "days = 1"), "De bug"),
            (class("debug", "level:debug", ""), "days"),
            (class("debug", "level:debug", "days = 0"), "at least 1"),
            (class("debug", "level:debug", "days = 9\ncold_days = 0"), "at least 1"),
            (class("debug", "level:(", "days = 1"), "match"),
            (class("debug", "*", "days = 1"), "tells no records"),
            (class("debug", "level:debug", "hours = 1"), "hours"),
            (class("debug", "level:debug", "days = 1").repeat(2), "another one"),
            ((0..16).map(|at| class(&format!("c{at}"), "a:b", "days = 1")).collect(), "at most"),
        ] {
            let error = read(&text).unwrap_err();
            assert!(error.contains(problem), "{text}: {error}");
        }
    }
}
