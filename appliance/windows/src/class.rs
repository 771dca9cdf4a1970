//! Retention classes: what is kept together, and for how long.
//!
//! Each class has a chain of windows, and another one for its strays. A document belongs to the first class whose query it answers to, as
//! of the moment it is added: windows that are there stay what they are when the classes change. A class that is no longer asked for
//! keeps its windows for as long as it said when it last wrote one.

use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::sync::Arc;

use crate::Options;
use crate::document::Document;
use crate::query::Query;

/// What the class of everything else is called where people read it. Its chain has no name.
pub const DEFAULT_CLASS: &str = "default";
/// Longest name of a class.
const NAME_BYTES_MAX: usize = 32;
/// A class with a small budget has windows of at least so much.
const WINDOW_BYTES_MIN: u64 = 4 << 20;

/// What is kept for a time of its own.
#[derive(Clone, Debug, PartialEq)]
pub struct Class {
    pub name: String,
    /// What belongs to it.
    pub query: Query,
    /// As [`Options::retention_ms`].
    pub retention_ms: u64,
    /// As [`Options::disk_bytes_max`].
    pub disk_bytes_max: u64,
    /// As [`Options::cold_after_ms`].
    pub cold_after_ms: Option<u64>,
}

impl Class {
    /// Whether a class may be called so: it is part of the names of folders.
    #[must_use]
    pub fn is_name(name: &str) -> bool {
        let is_plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_';
        !name.is_empty() && name.len() <= NAME_BYTES_MAX && name != DEFAULT_CLASS && name.bytes().all(is_plain)
    }
}

/// One row of windows, each after the one before.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Chain {
    /// Empty: the default class.
    pub(crate) class: Arc<str>,
    /// What arrived far from its own moment.
    pub(crate) stray: bool,
}

impl Chain {
    /// What the names of its windows begin with.
    pub(crate) fn prefix(&self) -> String {
        let letter = if self.stray { 's' } else { 'w' };
        if self.class.is_empty() { letter.to_string() } else { format!("{letter}.{}", self.class) }
    }

    /// The chain that a window of this name belongs to.
    pub(crate) fn of_window(name: &str) -> Option<Self> {
        let (prefix, _) = name.split_once('-')?;
        let (letter, class) = prefix.split_once('.').map_or((prefix, None), |(letter, class)| (letter, Some(class)));
        let stray = match letter {
            "w" => false,
            "s" => true,
            _ => return None,
        };
        if class.is_some_and(|class| !Class::is_name(class)) {
            return None;
        }
        Some(Self { class: class.unwrap_or_default().into(), stray })
    }

    /// What people call its class.
    pub(crate) fn class_name(&self) -> &str {
        if self.class.is_empty() { DEFAULT_CLASS } else { &self.class }
    }
}

impl Options {
    /// Two chains for each class, the default class first: see [`Options::class_of`].
    pub(crate) fn chains(&self) -> Vec<Chain> {
        let names = std::iter::once("").chain(self.classes.iter().map(|class| class.name.as_str()));
        let chains = names.flat_map(|name| [false, true].map(|stray| Chain { class: name.into(), stray }));
        chains.collect()
    }

    /// The class of a document: 0 is the default, others follow in their order.
    pub(crate) fn class_of(&self, document: &Document) -> usize {
        self.classes.iter().position(|class| class.query.matches(document)).map_or(0, |at| at + 1)
    }

    /// Tells classes from other ones; 0 where there are none.
    pub(crate) fn classes_mark(&self) -> u64 {
        if self.classes.is_empty() {
            return 0;
        }
        let mut hasher = DefaultHasher::new();
        for class in &self.classes {
            (class.name.as_str(), format!("{:?}", class.query)).hash(&mut hasher);
        }
        hasher.finish() | 1
    }

    /// Time and bytes of the class of a chain; `None` when there is no such class any more.
    pub(crate) fn limits(&self, chain: &Chain) -> Option<(u64, u64)> {
        if chain.class.is_empty() {
            return Some((self.retention_ms, self.disk_bytes_max));
        }
        let class = self.classes.iter().find(|class| *class.name == *chain.class)?;
        Some((class.retention_ms, class.disk_bytes_max))
    }

    /// After which age windows of a chain move far away; `None` when they stay.
    pub(crate) fn cold_after_ms(&self, chain: &Chain) -> Option<u64> {
        self.cold.as_ref()?;
        if chain.class.is_empty() {
            return self.cold_after_ms;
        }
        self.classes.iter().find(|class| *class.name == *chain.class)?.cold_after_ms
    }

    /// Most bytes of sources of one window. Only whole windows go, so a small budget has small ones.
    pub(crate) fn window_bytes(&self, chain: &Chain) -> u64 {
        let disk_bytes_max = self.limits(chain).map_or(u64::MAX, |(_, bytes)| bytes);
        self.window_bytes_max.min((disk_bytes_max / 4).max(WINDOW_BYTES_MIN))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_name_of_a_window_says_its_chain() {
        for (class, stray) in [("", false), ("", true), ("debug", false), ("a_1", true)] {
            let chain = Chain { class: class.into(), stray };
            let name = format!("{}-00000000000001-0000000000000002", chain.prefix());
            assert_eq!(Chain::of_window(&name), Some(chain), "{name}");
        }
        for other in ["aside", "w", "x-1-2", "w.-1-2", "w.A-1-2", "w.default-1-2", "wx-1-2"] {
            assert_eq!(Chain::of_window(other), None, "{other}");
        }
    }
}
