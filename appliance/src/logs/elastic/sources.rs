//! A record as clients of Elasticsearch see it.

use backlot_windows::Hit;
use serde_json::{Map, Value as Json, json};

use super::Refused;
use super::dates::written_as;
use super::fields::TIME;
use crate::logs::model::{LogRecord, id_of};
use crate::signals::rfc3339_ns;

/// Index of records whose resource names none.
pub(super) const DEFAULT_INDEX: &str = "logs";
/// Most patterns of fields.
const PATTERNS_MAX: usize = 100;

/// Which fields of a record are answered.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Picked {
    pub(super) none: bool,
    includes: Vec<String>,
    excludes: Vec<String>,
}

impl Picked {
    /// Reads `_source`.
    pub(super) fn read(value: &Json) -> Result<Self, Refused> {
        let wrong = || Refused::parsing("[_source] is true, false, names, or [includes] and [excludes]");
        let names = |value: Option<&Json>| -> Result<Vec<String>, Refused> {
            let names: Option<Vec<String>> = match value {
                None => Some(Vec::new()),
                Some(Json::String(name)) => Some(name.split(',').map(|name| name.trim().to_owned()).collect()),
                Some(Json::Array(names)) => names.iter().map(|name| name.as_str().map(str::to_owned)).collect(),
                Some(_) => None,
            };
            names.filter(|names| names.len() <= PATTERNS_MAX).ok_or_else(wrong)
        };
        match value {
            Json::Bool(all) => Ok(Self { none: !all, ..Self::default() }),
            Json::Object(object) => {
                super::question::check(object, "_source", &["includes", "excludes", "include", "exclude"])?;
                let includes = names(object.get("includes").or_else(|| object.get("include")))?;
                let excludes = names(object.get("excludes").or_else(|| object.get("exclude")))?;
                Ok(Self { none: false, includes, excludes })
            }
            other => Ok(Self { none: false, includes: names(Some(other))?, excludes: Vec::new() }),
        }
    }

    fn has(&self, name: &str) -> bool {
        let any = |patterns: &[String]| patterns.iter().any(|pattern| is_like(name, pattern));
        (self.includes.is_empty() || any(&self.includes)) && !any(&self.excludes)
    }
}

/// Whether a name is like a pattern with `*`, or stands below it.
pub(super) fn is_like(name: &str, pattern: &str) -> bool {
    match pattern.split_once('*') {
        None => name == pattern || name.strip_prefix(pattern).is_some_and(|rest| rest.starts_with('.')),
        Some((begin, rest)) => {
            let Some(after) = name.strip_prefix(begin) else { return false };
            if rest.is_empty() {
                return true;
            }
            // At most as many rounds as the name has bytes for each `*`, and patterns are short.
            let mut at = after;
            let mut parts = rest.split('*').peekable();
            while let Some(part) = parts.next() {
                if parts.peek().is_none() {
                    return at.ends_with(part);
                }
                match at.find(part) {
                    Some(found) => at = &at[found + part.len()..],
                    None => return false,
                }
            }
            true
        }
    }
}

/// A record, and of which index it is.
pub(super) struct Source {
    pub(super) index: String,
    pub(super) fields: Map<String, Json>,
}

/// The record of a hit under the names that clients know. What a record says of its own wins over its resource.
pub(super) fn source_of(hit: &Hit) -> Result<Source, Refused> {
    let record: LogRecord =
        serde_json::from_slice(&hit.source).map_err(|error| crate::edge::ApiError::internal(&error))?;
    let index = index_of(&record.resource).to_owned();
    let mut fields = record.resource;
    fields.remove("index");
    fields.extend(record.attributes);
    let known = [
        ("level", record.level),
        ("service", record.service),
        ("host", record.host),
        ("job", record.job),
        ("attempt", record.attempt),
        ("queue", record.queue),
        ("trace_id", record.trace_id),
        ("span_id", record.span_id),
        ("scope", record.scope),
        ("event", record.event),
        ("message", Some(record.body)),
        (TIME, Some(rfc3339_ns(hit.position.time_ns))),
    ];
    for (name, value) in known {
        if let Some(value) = value {
            fields.insert(name.to_owned(), Json::from(value));
        }
    }
    if let Some(severity) = record.severity {
        fields.insert("severity".to_owned(), Json::from(severity));
    }
    Ok(Source { index, fields })
}

/// The index that a resource names.
pub(super) fn index_of(resource: &Map<String, Json>) -> &str {
    resource.get("index").and_then(Json::as_str).filter(|index| !index.is_empty()).unwrap_or(DEFAULT_INDEX)
}

/// Fields that are asked for beside the source: `fields` and `docvalue_fields`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Wanted {
    pattern: String,
    format: Option<String>,
}

impl Wanted {
    pub(super) fn read(value: &Json) -> Result<Vec<Self>, Refused> {
        let wrong = || Refused::parsing("[fields] is a list of names, or of objects with [field] and [format]");
        let list = value.as_array().filter(|list| list.len() <= PATTERNS_MAX).ok_or_else(wrong)?;
        let one = |value: &Json| match value {
            Json::String(name) => Ok(Self { pattern: name.clone(), format: None }),
            Json::Object(object) => {
                super::question::check(object, "fields", &["field", "format", "include_unmapped"])?;
                let pattern = object.get("field").and_then(Json::as_str).ok_or_else(wrong)?.to_owned();
                let format = object.get("format").and_then(Json::as_str).map(str::to_owned);
                Ok(Self { pattern, format })
            }
            _ => Err(wrong()),
        };
        list.iter().map(one).collect()
    }
}

/// A hit as it is answered.
pub(super) fn hit(hit: &Hit, picked: &Picked, wanted: &[Wanted], sort: Option<Json>) -> Result<Json, Refused> {
    let Source { index, mut fields } = source_of(hit)?;
    let mut answer = json!({"_index": index, "_id": id_of(hit.position.seq), "_score": null});
    let mut values = Map::new();
    for Wanted { pattern, format } in wanted {
        for (name, value) in fields.iter().filter(|(name, _)| is_like(name, pattern)) {
            let value = match format.as_deref() {
                Some(format) if name == TIME => Json::from(written_as(hit.position.time_ns, Some(format))?),
                _ => value.clone(),
            };
            values.insert(name.clone(), if value.is_array() { value } else { json!([value]) });
        }
    }
    if !values.is_empty() {
        answer["fields"] = Json::Object(values);
    }
    if !picked.none {
        fields.retain(|name, _| picked.has(name));
        answer["_source"] = Json::Object(fields);
    }
    if let Some(sort) = sort {
        answer["sort"] = sort;
    }
    Ok(answer)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_like_patterns() {
        for (name, pattern, like) in [
            ("host.name", "host", true),
            ("hostname", "host", false),
            ("gpu.index", "gpu.*", true),
            ("gpu.index", "*.index", true),
            ("gpu.index", "g*.i*x", true),
            ("gpu.index", "g*.z*x", false),
            ("anything", "*", true),
            ("logs-1", "logs-*", true),
            ("aa", "a*a*a", false),
        ] {
            assert_eq!(is_like(name, pattern), like, "{name} {pattern}");
        }
        let picked = Picked::read(&json!({"includes": ["gpu.*", "message"], "excludes": "*.memory"})).unwrap();
        assert_eq!(
            ["gpu.index", "gpu.memory", "message", "level"].map(|name| picked.has(name)),
            [true, false, true, false]
        );
        assert!(Picked::read(&json!(7)).is_err() && Picked::read(&json!(false)).unwrap().none);
    }
}
