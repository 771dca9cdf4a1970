//! Redaction: what must not be kept is taken out of a request before the journal has it.
//!
//! Two kinds of rules. A *key* takes away whatever stands under that name: an attribute of a record, span, event, link, scope or resource, an entry of
//! a map at any depth, an entry of JSON (or of a Python dictionary) within any text. Names are compared without case, `-` and `_`, by the part after
//! their last dot as well: `api_key` is also `X-Api-Key`'s ending `apiKey`, and `authorization` is also `http.request.header.authorization`.
//! A *pattern* takes away what it matches within any text, or, where it has a group called `secret`, that group alone. Patterns take time in proportion
//! to the text.
//!
//! What is absent on purpose: names themselves are never changed, metrics are not looked at, and nothing is taken out of what was kept before a rule came.

mod keys;
mod patterns;
mod written;

use std::sync::Arc;

use opentelemetry::KeyValue as Label;
use opentelemetry::metrics::Counter;
use opentelemetry_proto::tonic::common::v1::any_value::Value as Any;
use opentelemetry_proto::tonic::common::v1::{AnyValue, InstrumentationScope, KeyValue};
use opentelemetry_proto::tonic::resource::v1::Resource;

use self::keys::Keys;
use self::patterns::Patterns;
use crate::config;
use crate::edge::otlp::{ExportLogsServiceRequest, ExportTraceServiceRequest};
use crate::telemetry;

pub use self::written::fuzz_text;

/// Most rules of each kind.
const RULES_MAX: usize = 256;
const MARK_BYTES_MAX: usize = 32;

/// The rules, ready to be applied. Cheap to clone.
#[derive(Clone)]
pub struct Redactor {
    rules: Arc<Rules>,
    /// Made here, so that a test needs no meter.
    counter: Counter<u64>,
}

struct Rules {
    mark: String,
    keys: Keys,
    patterns: Patterns,
}

impl Redactor {
    /// # Errors
    /// Names the rule that is wrong, and what is.
    pub fn new(config: &config::Redaction) -> Result<Self, String> {
        let rules = Rules::new(config)?;
        Ok(Self { rules: Arc::new(rules), counter: telemetry::counter(&backlot_wire::metrics::REDACTED) })
    }

    /// Takes out of `request` what must not be kept, and counts it.
    pub fn apply(&self, request: &mut impl Redact, signal: &'static str) {
        let mut pass = self.rules.pass();
        request.redact(&mut pass);
        for (rule, count) in pass.counts.into_iter().enumerate().filter(|(_, count)| *count > 0) {
            let rule = self.rules.name(rule).to_owned();
            self.counter.add(count, &[Label::new("signal", signal), Label::new("rule", rule)]);
        }
    }

    /// Whether it is slow enough for a large request to be handed to a thread that may block.
    #[must_use]
    pub fn has_patterns(&self) -> bool {
        !self.rules.patterns.is_empty()
    }
}

/// Checks rules without keeping them.
///
/// # Errors
/// As [`Redactor::new`].
pub fn check(config: &config::Redaction) -> Result<(), String> {
    Rules::new(config).map(drop)
}

impl Rules {
    fn new(config: &config::Redaction) -> Result<Self, String> {
        let config::Redaction { keys, mark, rule } = config;
        let is_plain = |c: char| !c.is_control() && !matches!(c, '"' | '\'' | '\\');
        if mark.is_empty() || mark.len() > MARK_BYTES_MAX || !mark.chars().all(is_plain) {
            return Err(format!("mark has 1 to {MARK_BYTES_MAX} bytes, and neither quotes nor backslashes"));
        }
        if keys.len() > RULES_MAX || rule.len() > RULES_MAX {
            return Err(format!("there are at most {RULES_MAX} keys and {RULES_MAX} rules"));
        }
        Ok(Self { mark: mark.clone(), keys: Keys::new(keys)?, patterns: Patterns::new(rule)? })
    }

    fn pass(&self) -> Pass<'_> {
        Pass { rules: self, counts: vec![0; self.keys.len() + self.patterns.len()] }
    }

    fn name(&self, rule: usize) -> &str {
        rule.checked_sub(self.keys.len()).map_or_else(|| self.keys.name(rule), |at| self.patterns.name(at))
    }
}

/// One request on its way through the rules.
pub struct Pass<'a> {
    rules: &'a Rules,
    /// Of keys first, of patterns then.
    counts: Vec<u64>,
}

impl Pass<'_> {
    fn text(&mut self, text: &mut String) {
        let Rules { mark, keys, patterns } = self.rules;
        let (of_keys, of_patterns) = self.counts.split_at_mut(keys.len());
        if let Some(without) = written::redacted(text, keys, mark, of_keys) {
            *text = without;
        }
        if let Some(without) = patterns.redacted(text, mark, of_patterns) {
            *text = without;
        }
    }

    fn any(&mut self, value: &mut Option<AnyValue>) {
        if let Some(value) = value.as_mut().and_then(|value| value.value.as_mut()) {
            self.value(value);
        }
    }

    fn value(&mut self, value: &mut Any) {
        match value {
            Any::StringValue(text) => self.text(text),
            Any::BytesValue(bytes) => {
                // Bytes that are text may say what text may not.
                if let Ok(text) = std::str::from_utf8(bytes) {
                    let mut without = text.to_owned();
                    self.text(&mut without);
                    if without != text {
                        *bytes = without.into_bytes();
                    }
                }
            }
            Any::ArrayValue(array) => {
                array
                    .values
                    .iter_mut()
                    .filter_map(|element| element.value.as_mut())
                    .for_each(|value| self.value(value));
            }
            Any::KvlistValue(map) => self.pairs(&mut map.values),
            Any::BoolValue(_) | Any::IntValue(_) | Any::DoubleValue(_) | Any::StringValueStrindex(_) => {}
        }
    }

    fn pairs(&mut self, pairs: &mut [KeyValue]) {
        for pair in pairs {
            match self.rules.keys.find(&pair.key) {
                Some(rule) => {
                    self.counts[rule] += 1;
                    pair.value = Some(AnyValue { value: Some(Any::StringValue(self.rules.mark.clone())) });
                }
                None => self.any(&mut pair.value),
            }
        }
    }

    fn source(&mut self, resource: Option<&mut Resource>) {
        if let Some(resource) = resource {
            self.pairs(&mut resource.attributes);
        }
    }

    fn scope(&mut self, scope: Option<&mut InstrumentationScope>) {
        if let Some(scope) = scope {
            self.text(&mut scope.name);
            self.pairs(&mut scope.attributes);
        }
    }
}

/// What has texts and attributes.
pub trait Redact {
    fn redact(&mut self, pass: &mut Pass<'_>);
}

impl Redact for ExportLogsServiceRequest {
    fn redact(&mut self, pass: &mut Pass<'_>) {
        for group in &mut self.resource_logs {
            pass.source(group.resource.as_mut());
            for scoped in &mut group.scope_logs {
                pass.scope(scoped.scope.as_mut());
                for record in &mut scoped.log_records {
                    pass.any(&mut record.body);
                    pass.pairs(&mut record.attributes);
                    pass.text(&mut record.event_name);
                    pass.text(&mut record.severity_text);
                }
            }
        }
    }
}

impl Redact for ExportTraceServiceRequest {
    fn redact(&mut self, pass: &mut Pass<'_>) {
        for group in &mut self.resource_spans {
            pass.source(group.resource.as_mut());
            for scoped in &mut group.scope_spans {
                pass.scope(scoped.scope.as_mut());
                for span in &mut scoped.spans {
                    pass.text(&mut span.name);
                    pass.text(&mut span.trace_state);
                    pass.pairs(&mut span.attributes);
                    if let Some(status) = &mut span.status {
                        pass.text(&mut status.message);
                    }
                    for event in &mut span.events {
                        pass.text(&mut event.name);
                        pass.pairs(&mut event.attributes);
                    }
                    for link in &mut span.links {
                        pass.text(&mut link.trace_state);
                        pass.pairs(&mut link.attributes);
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests;
