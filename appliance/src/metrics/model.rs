//! What a series, a sample and a selector are. Plain data, shared by the store, the dialects and PromQL.

use std::sync::Arc;

use regex::Regex;

/// The label that holds a metric's name.
pub const METRIC_NAME: &str = "__name__";

/// Bits of the NaN that says "this series has ended", as Prometheus writes it.
pub const STALE_BITS: u64 = 0x7ff0_0000_0000_0002;

/// The staleness marker.
#[must_use]
pub fn stale_marker() -> f64 {
    f64::from_bits(STALE_BITS)
}

/// Whether `value` is the staleness marker and no ordinary NaN.
#[must_use]
pub fn is_stale(value: f64) -> bool {
    value.to_bits() == STALE_BITS
}

/// One value at one moment, in milliseconds since 1970.
#[derive(Clone, Copy, Debug)]
pub struct Sample {
    pub t_ms: i64,
    pub value: f64,
}

/// Equal to the bit, so that two NaNs may be equal and a marker is not just any NaN.
impl PartialEq for Sample {
    fn eq(&self, other: &Self) -> bool {
        self.t_ms == other.t_ms && self.value.to_bits() == other.value.to_bits()
    }
}

/// One label.
pub type Pair = (Arc<str>, Arc<str>);

/// The labels of a series: sorted by name, each name once, no empty value. Cheap to clone.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Labels(Arc<[Pair]>);

impl Default for Labels {
    fn default() -> Self {
        Self(Arc::from([]))
    }
}

impl Labels {
    /// Sorts the pairs; a later pair of the same name wins, an empty value takes the name away.
    #[must_use]
    pub fn new(mut pairs: Vec<Pair>) -> Self {
        pairs.sort_by(|a, b| a.0.cmp(&b.0)); // stable: of equal names the last one stays below
        let mut kept: Vec<Pair> = Vec::with_capacity(pairs.len());
        for pair in pairs {
            match kept.last_mut() {
                Some(last) if last.0 == pair.0 => *last = pair,
                _ => kept.push(pair),
            }
        }
        kept.retain(|(_, value)| !value.is_empty());
        Self(kept.into())
    }

    #[must_use]
    pub fn from_texts(pairs: &[(&str, &str)]) -> Self {
        Self::new(pairs.iter().map(|(name, value)| (Arc::from(*name), Arc::from(*value))).collect())
    }

    /// The value of `name`; empty when there is none, as PromQL has it.
    #[must_use]
    pub fn get(&self, name: &str) -> &str {
        match self.0.binary_search_by(|(candidate, _)| candidate.as_ref().cmp(name)) {
            Ok(at) => &self.0[at].1,
            Err(_) => "",
        }
    }

    pub fn iter(&self) -> impl ExactSizeIterator<Item = &Pair> {
        self.0.iter()
    }

    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Those labels for whose name `keep` is true.
    #[must_use]
    pub fn filtered(&self, keep: impl Fn(&str) -> bool) -> Self {
        if self.0.iter().all(|(name, _)| keep(name)) {
            return self.clone();
        }
        Self(self.0.iter().filter(|(name, _)| keep(name)).cloned().collect())
    }

    #[must_use]
    pub fn without_name(&self) -> Self {
        self.filtered(|name| name != METRIC_NAME)
    }

    /// The same labels with `name` set to `value`; an empty value takes it away.
    #[must_use]
    pub fn with(&self, name: &str, value: &str) -> Self {
        let mut pairs: Vec<Pair> = self.0.to_vec();
        pairs.push((Arc::from(name), Arc::from(value)));
        Self::new(pairs)
    }

    /// A hash that stays the same over restarts: FNV-1a over names and values.
    #[must_use]
    pub fn stable_hash(&self) -> u64 {
        let mut hash = 0xcbf2_9ce4_8422_2325_u64;
        for text in self.0.iter().flat_map(|(name, value)| [name, value]) {
            for byte in text.bytes().chain([0xff]) {
                hash = (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3);
            }
        }
        // FNV spreads its high bits badly over short texts; one round of a finaliser mends that.
        hash ^= hash >> 33;
        hash = hash.wrapping_mul(0xff51_afd7_ed55_8ccd);
        hash ^ (hash >> 33)
    }
}

/// `{a="1", b="2"}`, as Prometheus prints labels in its errors.
impl std::fmt::Display for Labels {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("{")?;
        for (at, (name, value)) in self.0.iter().enumerate() {
            write!(f, "{}{name}={value:?}", if at == 0 { "" } else { ", " })?;
        }
        f.write_str("}")
    }
}

/// How one label is compared.
#[derive(Clone, Debug)]
pub enum MatchOp {
    Equal,
    NotEqual,
    Regex(Regex),
    NotRegex(Regex),
}

/// One condition on one label; a label that is absent has the empty value.
#[derive(Clone, Debug)]
pub struct Matcher {
    pub name: String,
    pub op: MatchOp,
    pub value: String,
}

impl Matcher {
    #[must_use]
    pub fn equal(name: &str, value: &str) -> Self {
        Self { name: name.to_owned(), op: MatchOp::Equal, value: value.to_owned() }
    }

    #[must_use]
    pub fn matches(&self, value: &str) -> bool {
        match &self.op {
            MatchOp::Equal => self.value == value,
            MatchOp::NotEqual => self.value != value,
            MatchOp::Regex(regex) => regex.is_match(value),
            MatchOp::NotRegex(regex) => !regex.is_match(value),
        }
    }
}

/// Which series: those that meet every matcher of at least one alternative.
#[derive(Clone, Debug, Default)]
pub struct Selector {
    pub alternatives: Vec<Vec<Matcher>>,
}

impl Selector {
    #[must_use]
    pub fn matches(&self, labels: &Labels) -> bool {
        self.alternatives.iter().any(|all| all.iter().all(|matcher| matcher.matches(labels.get(&matcher.name))))
    }
}

/// The samples of one series in time order.
#[derive(Clone, Debug)]
pub struct SeriesSamples {
    pub labels: Labels,
    pub samples: Vec<Sample>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_are_sorted_unique_and_never_empty() {
        let labels = Labels::from_texts(&[("b", "1"), ("a", "x"), ("b", "2"), ("gone", "")]);
        assert_eq!(labels.to_string(), r#"{a="x", b="2"}"#);
        assert_eq!(labels.get("b"), "2");
        assert_eq!(labels.get("gone"), "");
        assert_eq!(labels.with("a", "").to_string(), r#"{b="2"}"#);
        assert_eq!(labels.with("c", "3").len(), 3);
    }

    #[test]
    fn the_stale_marker_is_a_nan_of_its_own() {
        assert!(stale_marker().is_nan() && is_stale(stale_marker()) && !is_stale(f64::NAN));
    }
}
