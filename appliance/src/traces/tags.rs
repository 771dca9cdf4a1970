//! Attributes that are to be exactly so, as a question: what Jaeger calls tags.

use std::ops::Bound;

use backlot_windows::{Pattern, Query};
use serde_json::{Map, Value};

use super::query::is_root;
use super::schema::{KEYWORDS, KIND, RESERVED, STATUS, TEXT};

/// Most attributes of one question.
const TAGS_MAX: usize = 32;

/// Spans that have each of `tags`. A number in text is found as a number too: Jaeger's users write all values as text.
///
/// # Errors
/// A sentence that says which cannot be asked for.
pub(super) fn having(tags: &Map<String, Value>) -> Result<Vec<Query>, String> {
    if tags.len() > TAGS_MAX {
        return Err(format!("at most {TAGS_MAX} attributes can be asked for at once"));
    }
    tags.iter().map(|(name, value)| one(name, value)).collect()
}

fn one(name: &str, value: &Value) -> Result<Query, String> {
    let text = match value {
        Value::String(text) => text.clone(),
        Value::Bool(_) | Value::Number(_) => value.to_string(),
        _ => return Err(format!("the value of `{}` is to be a text, a number or a boolean", clip(name))),
    };
    // What OpenTelemetry keeps beside the attributes has names among Jaeger's tags.
    match name {
        "error" => {
            let failed = Query::keyword(STATUS, "error");
            return match text.as_str() {
                "true" => Ok(failed),
                "false" => Ok(Query::Not(Box::new(failed))),
                _ => Err("`error` is true or false".to_owned()),
            };
        }
        "span.kind" => return Ok(Query::keyword(KIND, &text.to_lowercase())),
        "otel.status_code" => return Ok(Query::keyword(STATUS, &text.to_lowercase())),
        "otel.status_description" => return Ok(Query::text(TEXT, &text)),
        "otel.scope.name" | "otel.library.name" => return Ok(Query::keyword("scope", &text)),
        "root" if text == "true" => return Ok(is_root()),
        _ => {}
    }
    let pattern = Pattern::new(&regex::escape(&text), true);
    let pattern = pattern.map_err(|problem| format!("the value of `{}`: {problem}", clip(name)))?;
    let attribute = if RESERVED.contains(&name) { format!("attributes.{name}") } else { name.to_owned() };
    let mut some = vec![Query::Matches { name: attribute.clone(), pattern }];
    if let Ok(number) = text.parse::<f64>()
        && number.is_finite()
    {
        some.push(Query::Number { name: attribute, from: Bound::Included(number), to: Bound::Included(number) });
    }
    if KEYWORDS.contains(&name) {
        some.push(Query::keyword(name, &text));
    }
    Ok(Query::Or(some))
}

fn clip(name: &str) -> &str {
    backlot_windows::clip(name, 60)
}

#[cfg(test)]
mod tests {
    use backlot_windows::{Document, Value as Indexed};
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn finds(name: &str, value: Value, document: &Document) -> bool {
        let tags = Map::from_iter([(name.to_owned(), value)]);
        having(&tags).unwrap().iter().all(|query| query.matches(document))
    }

    #[test]
    fn tags_are_compared_as_a_whole_and_numbers_in_text_are_numbers() {
        let mut document = Document::new(0, 0);
        document.add("http.url", Indexed::Text("/render/42?a=b".into()));
        document.add("http.status_code", Indexed::Number(500.0));
        document.add("attributes.job", Indexed::Text("own".into()));
        document.add("job", Indexed::Keyword("j-1".into()));
        document.add("status", Indexed::Keyword("error".into()));
        document.add("tiled", Indexed::Text("true".into()));
        for (name, value, found) in [
            ("http.url", json!("/render/42?a=b"), true),
            ("http.url", json!("/render/42"), false),
            ("http.status_code", json!("500"), true),
            ("http.status_code", json!(500), true),
            ("http.status_code", json!("50"), false),
            ("job", json!("own"), true),
            ("job", json!("j-1"), true),
            ("error", json!("true"), true),
            ("error", json!(false), false),
            ("otel.status_code", json!("ERROR"), true),
            ("tiled", json!(true), true),
        ] {
            assert_eq!(finds(name, value.clone(), &document), found, "{name}={value}");
        }
        for wrong in
            [json!({"error": "perhaps"}), json!({"a": null}), json!({"a": ["b"]}), json!({"a": "x".repeat(2000)})]
        {
            let Value::Object(tags) = wrong else { unreachable!("an object stands there") };
            assert!(having(&tags).is_err());
        }
    }

    proptest! {
        #[test]
        fn any_text_is_found_by_itself(text in "\\PC{1,30}", other in "\\PC{1,30}") {
            let mut document = Document::new(0, 0);
            document.add("t", Indexed::Text(text.clone()));
            prop_assert!(finds("t", json!(text), &document));
            prop_assert_eq!(finds("t", json!(other), &document), text == other);
        }
    }
}
