//! What a `Range` header asks for.

use crate::artifacts::error::ArtifactError;

/// Bytes of an object, both ends included, as `Range` has them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RangeAsked {
    From { first: u64, last: Option<u64> },
    Last(u64),
}

impl RangeAsked {
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
    use super::*;

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
