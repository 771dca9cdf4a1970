//! The labels of a line: those of its stream, those of the record itself, and what was made of the line.

use std::sync::Arc;

pub(in crate::logs::loki) const ERROR: &str = "__error__";
const ERROR_DETAILS: &str = "__error_details__";
/// Most labels of a line: a JSON document may have any number of leaves.
const LABELS_MAX: usize = 400;
/// Longest value that is made of a line.
const VALUE_BYTES_MAX: usize = 64 * 1024;

/// Where a label comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(in crate::logs::loki) enum Kind {
    /// Of the stream: its resource, and the level.
    Stream,
    /// Of the record: what Loki calls structured metadata.
    Metadata,
    /// Made by a stage.
    Parsed,
}

/// Names with values, each name once. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub(in crate::logs::loki) struct Labels(Vec<Label>);

#[derive(Clone, Debug)]
struct Label {
    name: Arc<str>,
    value: Arc<str>,
    kind: Kind,
}

impl Labels {
    pub(in crate::logs::loki) fn get(&self, name: &str) -> Option<&str> {
        self.find(name).map(|label| &*label.value)
    }

    fn find(&self, name: &str) -> Option<&Label> {
        self.0.iter().find(|label| &*label.name == name)
    }

    /// Sets a label, whatever it was before. An empty value takes it away.
    pub(in crate::logs::loki) fn set(&mut self, kind: Kind, name: &str, value: Arc<str>) {
        if value.is_empty() {
            self.remove(name);
        } else if let Some(known) = self.0.iter_mut().find(|label| &*label.name == name) {
            (known.value, known.kind) = (value, kind);
        } else if self.0.len() < LABELS_MAX {
            self.0.push(Label { name: name.into(), value, kind });
        }
    }

    /// Sets a label to what a stage has made.
    pub(in crate::logs::loki) fn write(&mut self, name: &str, value: &str) {
        self.set(Kind::Parsed, name, backlot_windows::clip(value, VALUE_BYTES_MAX).into());
    }

    /// Adds what was found in a line. The stream's own labels stay: then the new one is called `NAME_extracted`.
    pub(in crate::logs::loki) fn extract(&mut self, name: &str, value: &str) {
        if self.find(name).is_some_and(|label| label.kind == Kind::Stream) {
            self.write(&format!("{name}_extracted"), value);
        } else {
            self.write(name, value);
        }
    }

    pub(in crate::logs::loki) fn remove(&mut self, name: &str) -> Option<Arc<str>> {
        let at = self.0.iter().position(|label| &*label.name == name)?;
        Some(self.0.swap_remove(at).value)
    }

    pub(in crate::logs::loki) fn retain(&mut self, keeps: impl Fn(&str, &str) -> bool) {
        self.0.retain(|label| keeps(&label.name, &label.value));
    }

    /// Says that a stage could not read the line. The first error stays.
    pub(in crate::logs::loki) fn fail(&mut self, error: &str, details: &str) {
        if self.find(ERROR).is_none() {
            self.set(Kind::Parsed, ERROR, error.into());
            self.set(Kind::Parsed, ERROR_DETAILS, details.into());
        }
    }

    pub(in crate::logs::loki) fn has_failed(&self) -> bool {
        self.find(ERROR).is_some()
    }

    /// Whether the record itself has any.
    pub(in crate::logs::loki) fn has_metadata(&self) -> bool {
        self.0.iter().any(|label| label.kind == Kind::Metadata)
    }

    /// Takes the record's own as found in its line.
    pub(in crate::logs::loki) fn extract_metadata(&mut self) {
        for label in self.0.iter_mut().filter(|label| label.kind == Kind::Metadata) {
            label.kind = Kind::Parsed;
        }
    }

    /// Name, value and kind of each.
    pub(in crate::logs::loki) fn iter(&self) -> impl Iterator<Item = (&Arc<str>, &Arc<str>, Kind)> {
        self.0.iter().map(|label| (&label.name, &label.value, label.kind))
    }
}

/// A name as labels may be called: letters, digits and `_`, not beginning with a digit.
pub(in crate::logs::loki) fn sanitize(name: &str) -> String {
    let mut made = String::with_capacity(name.len() + 1);
    if name.starts_with(|c: char| c.is_ascii_digit()) {
        made.push('_');
    }
    made.extend(name.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '_' }));
    made
}
