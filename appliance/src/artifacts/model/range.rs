//! What a `Range` header asks for.

use crate::artifacts::error::ArtifactError;

/// Most ranges that one answer gives. A header that lists more is ignored, and the whole is given.
const RANGES_MAX: usize = 32;

/// Bytes of an object, both ends included, as `Range` has them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RangeAsked {
    From { first: u64, last: Option<u64> },
    Last(u64),
}

impl RangeAsked {
    /// Reads a `Range` header: one range, or several with commas between. `None`: it is none of bytes, or lists too many; who reads
    /// it acts as if it were not there (RFC 9110 §14.2).
    #[must_use]
    pub fn parse(header: &str) -> Option<Vec<Self>> {
        let (unit, list) = header.split_once('=')?;
        if !unit.trim().eq_ignore_ascii_case("bytes") {
            return None;
        }
        let specs = list.split(',').map(|spec| spec.trim_matches([' ', '\t'])).filter(|spec| !spec.is_empty());
        let ranges = specs.take(RANGES_MAX + 1).map(Self::one).collect::<Option<Vec<_>>>()?;
        (1..=RANGES_MAX).contains(&ranges.len()).then_some(ranges)
    }

    fn one(spec: &str) -> Option<Self> {
        let (first, last) = spec.split_once('-')?;
        let is_number = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
        if !is_number(first) || !is_number(last) {
            return None;
        }
        match (first, last) {
            ("", length) => length.parse().ok().map(Self::Last),
            (first, "") => Some(Self::From { first: first.parse().ok()?, last: None }),
            (first, last) => {
                let (first, last) = (first.parse().ok()?, last.parse().ok()?);
                (first <= last).then_some(Self::From { first, last: Some(last) })
            }
        }
    }

    /// Offset and length of each of `asked` within an object of `size` bytes, in the order asked for. Those that have none of its bytes are left
    /// out; where some overlap, all are put in order and those are one: no byte is given twice.
    ///
    /// # Errors
    /// [`ArtifactError::InvalidRange`] when none is left.
    pub(in super::super) fn resolve_all(asked: &[Self], size: u64) -> Result<Vec<(u64, u64)>, ArtifactError> {
        let found: Vec<_> = asked.iter().filter_map(|range| range.resolve(size).ok()).collect();
        let mut sorted = found.clone();
        sorted.sort_unstable();
        if !sorted.windows(2).any(|pair| pair[0].0 + pair[0].1 > pair[1].0) {
            return if found.is_empty() { Err(ArtifactError::InvalidRange { size }) } else { Ok(found) };
        }
        let mut merged: Vec<(u64, u64)> = Vec::with_capacity(sorted.len());
        for (first, length) in sorted {
            match merged.last_mut() {
                Some((begun, before)) if *begun + *before >= first => {
                    *before = (*before).max(first + length - *begun);
                }
                _ => merged.push((first, length)),
            }
        }
        Ok(merged)
    }

    /// Offset and length within an object of `size` bytes.
    ///
    /// # Errors
    /// [`ArtifactError::InvalidRange`] when it has no byte of the object.
    pub fn resolve(self, size: u64) -> Result<(u64, u64), ArtifactError> {
        let (first, end) = match self {
            Self::From { first, last } => (first, last.map_or(size, |last| last.saturating_add(1).min(size))),
            Self::Last(length) => (size.saturating_sub(length), size),
        };
        if first >= size || first >= end {
            return Err(ArtifactError::InvalidRange { size });
        }
        Ok((first, end - first))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_header_is_read_as_rfc_9110_has_it_or_ignored() {
        let from = |first, last| RangeAsked::From { first, last };
        assert_eq!(RangeAsked::parse("bytes=0-9"), Some(vec![from(0, Some(9))]));
        let several = Some(vec![from(0, Some(9)), from(20, None), RangeAsked::Last(3)]);
        assert_eq!(RangeAsked::parse("bytes=0-9,20-,-3"), several);
        assert_eq!(RangeAsked::parse("Bytes= 0-9 ,\t20-,, -3"), several);
        let many = |count| format!("bytes={}", vec!["1-1"; count].join(","));
        assert!(RangeAsked::parse(&many(RANGES_MAX)).is_some() && RangeAsked::parse(&many(RANGES_MAX + 1)).is_none());
        for ignored in [
            "",
            "bytes",
            "bytes=",
            "bytes=,",
            "bytes=9-0",
            "bytes=a-b",
            "bytes=-",
            "bytes=+1-2",
            "items=0-1",
            "bytes=1-2,x",
        ] {
            assert_eq!(RangeAsked::parse(ignored), None, "{ignored}");
        }
        assert_eq!(RangeAsked::parse(&format!("bytes={}0-", u64::MAX)), None);
    }

    #[test]
    fn ranges_come_as_asked_and_those_that_overlap_come_once() {
        let all = |header: &str, size| RangeAsked::resolve_all(&RangeAsked::parse(header).unwrap(), size);
        assert_eq!(all("bytes=20-29,0-9", 100).unwrap(), [(20, 10), (0, 10)]);
        assert_eq!(all("bytes=20-29,200-", 100).unwrap(), [(20, 10)]);
        assert_eq!(all("bytes=20-29,0-9,25-40,41-41", 100).unwrap(), [(0, 10), (20, 22)]);
        assert!(all("bytes=100-,200-", 100).is_err());
        assert!(all("bytes=0-,-1", 0).is_err());
    }

    proptest! {
        #[test]
        fn several_ranges_are_the_bytes_of_each_and_never_more_than_the_object(
            asked in proptest::collection::vec((0_u64..60, 0_u64..60), 1..8), size in 0_u64..50,
        ) {
            let asked: Vec<_> = asked.into_iter().map(|(first, more)| RangeAsked::From { first, last: Some(first + more) }).collect();
            let each: std::collections::BTreeSet<u64> =
                asked.iter().filter_map(|range| range.resolve(size).ok()).flat_map(|(first, length)| first..first + length).collect();
            let resolved = RangeAsked::resolve_all(&asked, size).unwrap_or_default();
            let given: Vec<u64> = resolved.iter().flat_map(|(first, length)| *first..first + length).collect();
            prop_assert_eq!(given.len(), each.len());
            prop_assert_eq!(given.into_iter().collect::<std::collections::BTreeSet<u64>>(), each);
        }
    }

    #[test]
    fn ranges_resolve_as_http_has_them() {
        let from = |first, last| RangeAsked::From { first, last };
        assert_eq!(from(0, Some(0)).resolve(10).unwrap(), (0, 1));
        assert_eq!(from(5, None).resolve(10).unwrap(), (5, 5));
        assert_eq!(from(5, Some(u64::MAX)).resolve(10).unwrap(), (5, 5));
        assert_eq!(RangeAsked::Last(3).resolve(10).unwrap(), (7, 3));
        assert_eq!(RangeAsked::Last(30).resolve(10).unwrap(), (0, 10));
        for bad in [from(10, None), from(10, Some(12)), RangeAsked::Last(0)] {
            assert!(bad.resolve(10).is_err(), "{bad:?}");
        }
        assert!(from(0, None).resolve(0).is_err());
    }
}
