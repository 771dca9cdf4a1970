//! Listing keys in order, with a delimiter rolled up, page by page.
//!
//! Pure over any source of ordered keys. A rolled-up prefix costs one page however many keys are under it: the next
//! page begins behind all of them.

/// What to list. `prefix` and `after` are as the client wrote them.
#[derive(Clone, Debug, Default)]
pub struct Query {
    pub prefix: String,
    pub delimiter: Option<String>,
    /// Only what sorts behind this: the last key or common prefix of the page before, or a start.
    pub after: Option<String>,
    /// Most keys and common prefixes together.
    pub max: usize,
}

/// One page.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Page<T> {
    pub entries: Vec<(String, T)>,
    pub common_prefixes: Vec<String>,
    /// Where the next page begins, behind this; `None` when this is the last.
    pub next: Option<String>,
}

/// Keys fetched from the source at once.
const FETCH: usize = 1000;

/// Lists one page. `fetch(from, limit)` gives up to `limit` keys `>= from`, in byte order, all of them within
/// `query.prefix`, until there is none.
///
/// # Errors
/// What `fetch` fails with.
pub(super) fn list<T, E>(
    query: &Query,
    mut fetch: impl FnMut(&[u8], usize) -> Result<Vec<(String, T)>, E>,
) -> Result<Page<T>, E> {
    let rolled = |key: &str| rolled(key, &query.prefix, query.delimiter.as_deref());
    let mut page = Page { entries: Vec::new(), common_prefixes: Vec::new(), next: None };
    if query.max == 0 {
        return Ok(page);
    }
    let mut from = match &query.after {
        None => query.prefix.clone().into_bytes(),
        // A page that ended with a common prefix goes on behind all of its keys.
        Some(after) if rolled(after).as_ref() == Some(after) => behind(after),
        Some(after) => [after.as_bytes(), b"\0"].concat(),
    };
    let mut last: Option<String> = None;
    let limit = FETCH.min(query.max + 1);
    loop {
        let fetched = fetch(&from, limit)?;
        let complete = fetched.len() < limit;
        for (key, value) in fetched {
            if key.as_bytes() < from.as_slice() {
                continue; // under a prefix that was rolled up within this fetch
            }
            if page.entries.len() + page.common_prefixes.len() == query.max {
                page.next = last;
                return Ok(page);
            }
            match rolled(&key) {
                Some(prefix) => {
                    from = behind(&prefix);
                    page.common_prefixes.push(prefix.clone());
                    last = Some(prefix);
                }
                None => {
                    from = [key.as_bytes(), b"\0"].concat();
                    last = Some(key.clone());
                    page.entries.push((key, value));
                }
            }
        }
        if complete {
            return Ok(page);
        }
    }
}

/// The common prefix that a key is rolled up to, if it is.
pub(super) fn rolled(key: &str, prefix: &str, delimiter: Option<&str>) -> Option<String> {
    let rest = key.strip_prefix(prefix)?;
    let delimiter = delimiter.filter(|delimiter| !delimiter.is_empty())?;
    let end = rest.find(delimiter)? + delimiter.len();
    Some(key[..prefix.len() + end].to_owned())
}

/// The first bytes that sort behind everything that begins with `prefix`. UTF-8 has no byte 0xFF, so the last byte can be raised.
pub(super) fn behind(prefix: &str) -> Vec<u8> {
    let mut bytes = prefix.as_bytes().to_vec();
    if let Some(last) = bytes.last_mut() {
        *last += 1;
    }
    bytes
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};
    use std::convert::Infallible;

    use proptest::prelude::*;

    use super::*;

    fn source<'a>(
        keys: &'a BTreeMap<String, u32>,
        prefix: &'a str,
    ) -> impl FnMut(&[u8], usize) -> Result<Vec<(String, u32)>, Infallible> + 'a {
        move |from, limit| {
            let within = keys.iter().filter(|(key, _)| key.starts_with(prefix) && key.as_bytes() >= from);
            Ok(within.map(|(key, value)| (key.clone(), *value)).take(limit).collect())
        }
    }

    /// Everything at once, by definition.
    fn naive(keys: &BTreeMap<String, u32>, query: &Query) -> (Vec<String>, BTreeSet<String>) {
        let (mut entries, mut prefixes) = (Vec::new(), BTreeSet::new());
        for key in keys.keys() {
            let Some(rest) = key.strip_prefix(query.prefix.as_str()) else { continue };
            match query.delimiter.as_deref().and_then(|delimiter| Some((rest.find(delimiter)?, delimiter.len()))) {
                Some((at, length)) => drop(prefixes.insert(key[..query.prefix.len() + at + length].to_owned())),
                None => entries.push(key.clone()),
            }
        }
        (entries, prefixes)
    }

    proptest! {
        #[test]
        fn pages_put_together_are_the_whole_listing(
            names in proptest::collection::btree_set("[ab/é]{1,6}", 0..60),
            prefix in "[ab/]{0,2}",
            delimiter in proptest::option::of("/|a/|é|b"),
            max in 1_usize..8,
        ) {
            let keys: BTreeMap<String, u32> = names.into_iter().zip(0..).collect();
            let mut query = Query { prefix, delimiter, after: None, max };
            let (mut entries, mut prefixes) = (Vec::new(), Vec::new());
            loop {
                let page = list(&query, source(&keys, &query.prefix)).unwrap();
                prop_assert!(page.entries.len() + page.common_prefixes.len() <= max);
                prop_assert!(page.next.is_none() || page.entries.len() + page.common_prefixes.len() == max);
                entries.extend(page.entries.into_iter().map(|(key, _)| key));
                prefixes.extend(page.common_prefixes);
                query.after = page.next;
                if query.after.is_none() { break }
            }
            let (expected, expected_prefixes) = naive(&keys, &query);
            prop_assert_eq!(entries, expected);
            prop_assert_eq!(prefixes, expected_prefixes.into_iter().collect::<Vec<_>>());
        }
    }

    #[test]
    fn no_keys_asked_for_is_an_empty_last_page() {
        let keys = BTreeMap::from([("a".to_owned(), 1)]);
        let page = list(&Query::default(), source(&keys, "")).unwrap();
        assert_eq!((page.entries.len(), page.next), (0, None));
    }

    #[test]
    fn a_prefix_with_many_keys_costs_one_fetch() {
        let keys: BTreeMap<String, u32> = (0..50_000).map(|n| (format!("a/{n}"), n)).chain([("b".into(), 0)]).collect();
        let mut fetches = 0;
        let mut fetch = source(&keys, "");
        let query = Query { delimiter: Some("/".into()), max: 1000, ..Query::default() };
        let page = list(&query, |from: &[u8], limit| {
            fetches += 1;
            fetch(from, limit)
        })
        .unwrap();
        assert_eq!((page.common_prefixes, page.entries.len(), fetches), (vec!["a/".to_owned()], 1, 2));
    }
}
