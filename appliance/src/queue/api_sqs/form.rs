//! The Query protocol's forms, as the JSON that the newer protocol would have sent.
//!
//! `MessageAttribute.1.Name` and its like become maps and lists; a form has nothing but text, so numbers stay text. Both
//! protocols then go one way.

use std::collections::BTreeMap;

use percent_encoding::percent_decode_str;
use serde_json::{Map, Value};

use super::fault::malformed;
use crate::edge::aws::AwsError;

/// Most fields of a form: ten entries with ten attributes each have 600.
const FIELDS_MAX: usize = 2_000;
/// Most parts of a field's name: `SendMessageBatchRequestEntry.1.MessageAttribute.2.Value.DataType` has six.
const DEPTH_MAX: usize = 8;

enum Node {
    Text(String),
    Tree(BTreeMap<String, Node>),
}

/// Reads a form.
///
/// # Errors
/// `MalformedInput` for what is no form, or too large a one.
pub(super) fn parse(form: &[u8]) -> Result<Value, AwsError> {
    let form = std::str::from_utf8(form).map_err(|_| malformed("The form is not UTF-8."))?;
    let mut root = BTreeMap::new();
    for (count, pair) in form.split('&').filter(|pair| !pair.is_empty()).enumerate() {
        if count >= FIELDS_MAX {
            return Err(malformed(format!("The form has more than {FIELDS_MAX} fields.")));
        }
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        insert(&mut root, &decode(name)?, decode(value)?)?;
    }
    Ok(named(root))
}

fn decode(text: &str) -> Result<String, AwsError> {
    let spaced = text.replace('+', " ");
    let decoded = percent_decode_str(&spaced).decode_utf8();
    decoded.map(std::borrow::Cow::into_owned).map_err(|_| malformed("A field of the form is not UTF-8."))
}

fn insert(root: &mut BTreeMap<String, Node>, name: &str, value: String) -> Result<(), AwsError> {
    let parts: Vec<&str> = name.split('.').collect();
    if parts.len() > DEPTH_MAX {
        return Err(malformed("A field of the form is nested too deeply."));
    }
    let Some((last, path)) = parts.split_last() else { return Ok(()) };
    let mut at = root;
    for part in path {
        let node = at.entry((*part).to_owned()).or_insert_with(|| Node::Tree(BTreeMap::new()));
        match node {
            Node::Tree(tree) => at = tree,
            Node::Text(_) => return Err(malformed(format!("The field {part} is both a value and a list."))),
        }
    }
    match at.get(*last) {
        Some(_) => Err(malformed("A field of the form is given twice.")),
        None => {
            at.insert((*last).to_owned(), Node::Text(value));
            Ok(())
        }
    }
}

/// Gives lists and maps the names and shapes that JSON has for them.
fn named(tree: BTreeMap<String, Node>) -> Value {
    let mut object = Map::new();
    for (name, node) in tree {
        if matches!(&node, Node::Text(text) if text.is_empty() && is_list(&name)) {
            continue; // so botocore writes an empty list
        }
        let (name, value) = match (name.as_str(), node) {
            (_, Node::Text(text)) => (name, Value::String(text)),
            ("Attribute", Node::Tree(list)) => ("Attributes".to_owned(), map(list, "Name")),
            ("Tag", Node::Tree(list)) => ("tags".to_owned(), map(list, "Key")),
            ("MessageAttribute" | "MessageSystemAttribute", Node::Tree(list)) => {
                (format!("{name}s"), map(list, "Name"))
            }
            (
                "AttributeName" | "MessageAttributeName" | "MessageSystemAttributeName" | "TagKey" | "AWSAccountId",
                Node::Tree(list),
            ) => (format!("{name}s"), Value::Array(in_order(list).map(value).collect())),
            ("ActionName", Node::Tree(list)) => {
                ("Actions".to_owned(), Value::Array(in_order(list).map(value).collect()))
            }
            (entry, Node::Tree(list)) if entry.ends_with("BatchRequestEntry") => {
                ("Entries".to_owned(), Value::Array(in_order(list).map(value).collect()))
            }
            (_, node) => (name, value(node)),
        };
        object.insert(name, value);
    }
    Value::Object(object)
}

/// A list, as a form calls it or as the newer protocol does.
fn is_list(name: &str) -> bool {
    const LISTS: &[&str] = &[
        "AWSAccountId",
        "ActionName",
        "Attribute",
        "AttributeName",
        "MessageAttribute",
        "MessageAttributeName",
        "MessageSystemAttribute",
        "MessageSystemAttributeName",
        "Tag",
        "TagKey",
    ];
    let singular = name.strip_suffix('s').unwrap_or(name);
    LISTS.contains(&singular) || matches!(name, "Actions" | "Entries") || name.ends_with("BatchRequestEntry")
}

fn value(node: Node) -> Value {
    match node {
        Node::Text(text) => Value::String(text),
        Node::Tree(tree) => named(tree),
    }
}

/// `1.Name=a&1.Value=b` as `{"a": "b"}`.
fn map(list: BTreeMap<String, Node>, key: &str) -> Value {
    let pair = |node: Node| {
        let Node::Tree(mut tree) = node else { return None };
        let Some(Node::Text(name)) = tree.remove(key) else { return None };
        Some((name, tree.remove("Value").map_or(Value::Null, value)))
    };
    Value::Object(in_order(list).filter_map(pair).collect())
}

/// By their numbers: `10` comes after `9`.
fn in_order(list: BTreeMap<String, Node>) -> impl Iterator<Item = Node> {
    let mut items: Vec<_> = list.into_iter().collect();
    items.sort_by_key(|(number, _)| number.parse::<u64>().unwrap_or(u64::MAX));
    items.into_iter().map(|(_, node)| node)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_form_reads_like_the_json_it_stands_for() {
        let form = b"Action=SendMessageBatch&QueueUrl=http%3A%2F%2Fh%2F0%2Fq\
            &SendMessageBatchRequestEntry.10.Id=b&SendMessageBatchRequestEntry.10.MessageBody=two\
            &SendMessageBatchRequestEntry.2.Id=a&SendMessageBatchRequestEntry.2.MessageBody=one+%26+only\
            &SendMessageBatchRequestEntry.2.MessageAttribute.1.Name=n\
            &SendMessageBatchRequestEntry.2.MessageAttribute.1.Value.DataType=Number\
            &SendMessageBatchRequestEntry.2.MessageAttribute.1.Value.StringValue=7\
            &AttributeName.1=All&Attribute.1.Name=DelaySeconds&Attribute.1.Value=5\
            &Tag.1.Key=k&Tag.1.Value=v&TagKey.1=k&AWSAccountId.2=b&AWSAccountId.1=a&ActionName.1=SendMessage";
        let expected = json!({
            "Action": "SendMessageBatch", "QueueUrl": "http://h/0/q",
            "Entries": [
                {"Id": "a", "MessageBody": "one & only",
                 "MessageAttributes": {"n": {"DataType": "Number", "StringValue": "7"}}},
                {"Id": "b", "MessageBody": "two"},
            ],
            "AttributeNames": ["All"], "Attributes": {"DelaySeconds": "5"},
            "tags": {"k": "v"}, "TagKeys": ["k"], "AWSAccountIds": ["a", "b"], "Actions": ["SendMessage"],
        });
        assert_eq!(parse(form).unwrap(), expected);
    }

    #[test]
    fn a_list_without_a_value_is_none() {
        let form = b"AttributeName=&Tag=&DeleteMessageBatchRequestEntry=&Entries=&Actions=&Label=";
        let expected = json!({"Label": ""});
        assert_eq!(parse(form).unwrap(), expected);
    }

    #[test]
    fn what_contradicts_itself_is_refused() {
        for bad in ["a=1&a=2", "a=1&a.b=2", "a.b=1&a=2", "a=%ff", "a.b.c.d.e.f.g.h.i=1"] {
            assert!(parse(bad.as_bytes()).is_err(), "{bad}");
        }
        let many = "x=1&".repeat(3_000);
        assert!(parse(many.as_bytes()).is_err());
        assert!(parse(&[0xff, b'=', b'1']).is_err());
    }
}
