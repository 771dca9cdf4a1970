//! A row on its way through a query: a record at first, later what the commands have made of it.

use std::cell::OnceCell;

use serde_json::Value;

use super::value::Val;

/// A record as it goes in.
#[derive(Debug, Default)]
pub(in crate::logs::cloudwatch) struct Input {
    pub(in crate::logs::cloudwatch) time_ms: i64,
    pub(in crate::logs::cloudwatch) ingested_ms: i64,
    pub(in crate::logs::cloudwatch) message: String,
    pub(in crate::logs::cloudwatch) stream: String,
    /// Account and group.
    pub(in crate::logs::cloudwatch) log: String,
    pub(in crate::logs::cloudwatch) ptr: String,
    /// What stands in it under names; `None`: the object that the line is.
    pub(in crate::logs::cloudwatch) fields: Option<Value>,
}

pub(super) struct Row<'a> {
    input: Option<&'a Input>,
    read: OnceCell<Value>,
    /// What commands have made, the newest last.
    made: Vec<(String, Val)>,
}

impl<'a> Row<'a> {
    pub(super) fn of(input: &'a Input) -> Self {
        Self { input: Some(input), read: OnceCell::new(), made: Vec::new() }
    }

    pub(super) fn made_of(made: Vec<(String, Val)>) -> Self {
        Self { input: None, read: OnceCell::new(), made }
    }

    pub(super) fn put(&mut self, name: String, value: Val) {
        self.made.push((name, value));
    }

    pub(super) fn get(&self, name: &str) -> Val {
        if let Some((_, value)) = self.made.iter().rev().find(|(made, _)| made == name) {
            return value.clone();
        }
        let Some(input) = self.input else { return Val::Missing };
        match name {
            "@timestamp" => Val::Time(input.time_ms),
            "@ingestionTime" => Val::Time(input.ingested_ms),
            "@message" => Val::Text(input.message.clone()),
            "@logStream" => Val::Text(input.stream.clone()),
            "@log" => Val::Text(input.log.clone()),
            "@ptr" => Val::Text(input.ptr.clone()),
            name => {
                let fields = match &input.fields {
                    Some(fields) => fields,
                    None => self.read.get_or_init(|| read(&input.message)),
                };
                find(fields, name).map_or(Val::Missing, Val::of_json)
            }
        }
    }
}

fn read(message: &str) -> Value {
    super::super::event::object_of(message).map_or(Value::Null, Value::Object)
}

/// A value by its dotted name: each part a name or a place in an array, or several parts that are one name.
fn find<'a>(value: &'a Value, name: &str) -> Option<&'a Value> {
    let inner = |head: &str| match value {
        Value::Object(object) => object.get(head),
        Value::Array(values) => values.get(head.parse::<usize>().ok()?),
        _ => None,
    };
    if let Some(found) = inner(name) {
        return Some(found);
    }
    // The longest part first, as attributes stand under dotted names.
    name.rmatch_indices('.').find_map(|(at, _)| find(inner(&name[..at])?, &name[at + 1..]))
}
