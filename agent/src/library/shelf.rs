//! What lies in the cache: how much, in what order it was used, by whom it is used now, and what has to go.
//!
//! Pure: it counts and decides. Files are made and removed by whoever asks it, and a version of a model counts with all its
//! bytes from the moment at which room was made for it, so that two that come at once do not take the same room.

use std::collections::BTreeMap;

/// A version of a model.
#[derive(Clone, Debug)]
struct Book {
    name: String,
    bytes: u64,
    /// The larger, the later it was used.
    used: u64,
    holders: usize,
    /// All of it is there and was compared with its checksums.
    whole: bool,
}

/// The index of the cache, by digest.
#[derive(Debug)]
pub(super) struct Shelf {
    bytes_max: u64,
    books: BTreeMap<String, Book>,
    uses: u64,
}

/// There is no room for a model.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum NoRoom {
    /// Nor would there be with everything else gone.
    TooLarge { bytes_max: u64 },
    /// Jobs that run use what is there.
    InUse { held_bytes: u64, bytes_max: u64 },
    /// The disk is full of other things.
    Disk { free_bytes: u64 },
}

impl Shelf {
    #[must_use]
    pub(super) fn new(bytes_max: u64) -> Self {
        Self { bytes_max, books: BTreeMap::new(), uses: 0 }
    }

    /// Puts a version there as the one that was used last. It is not held.
    pub(super) fn put(&mut self, digest: &str, name: &str, bytes: u64, whole: bool) {
        self.uses += 1;
        let book = Book { name: name.to_owned(), bytes, used: self.uses, holders: 0, whole };
        self.books.insert(digest.to_owned(), book);
    }

    /// A version has come whole.
    pub(super) fn completed(&mut self, digest: &str) {
        if let Some(book) = self.books.get_mut(digest) {
            book.whole = true;
        }
    }

    /// A version has lost some of its files.
    pub(super) fn damaged(&mut self, digest: &str) {
        if let Some(book) = self.books.get_mut(digest) {
            book.whole = false;
        }
    }

    #[must_use]
    pub(super) fn is_whole(&self, digest: &str) -> bool {
        self.books.get(digest).is_some_and(|book| book.whole)
    }

    #[must_use]
    pub(super) fn is_held(&self, digest: &str) -> bool {
        self.books.get(digest).is_some_and(|book| book.holders > 0)
    }

    /// The whole version of `name` whose digest begins with `digest`, the one used last where there are several.
    #[must_use]
    pub(super) fn whole(&self, name: &str, digest: &str) -> Option<String> {
        let fits = |(at, book): &(&String, &Book)| book.whole && book.name == name && at.starts_with(digest);
        self.books.iter().filter(fits).max_by_key(|(_, book)| book.used).map(|(at, _)| at.clone())
    }

    /// Somebody uses a version: it stays until [`Self::release`].
    pub(super) fn hold(&mut self, digest: &str) {
        self.uses += 1;
        if let Some(book) = self.books.get_mut(digest) {
            book.holders += 1;
            book.used = self.uses;
        }
    }

    pub(super) fn release(&mut self, digest: &str) {
        if let Some(book) = self.books.get_mut(digest) {
            book.holders = book.holders.saturating_sub(1);
        }
    }

    pub(super) fn remove(&mut self, digest: &str) {
        self.books.remove(digest);
    }

    /// What has to go, the longest unused first, so that `bytes` of the version `digest` have room within the bound and on a disk with
    /// `free_bytes`. What is held stays. Nothing is changed here.
    ///
    /// # Errors
    /// [`NoRoom`].
    pub(super) fn room(&self, digest: &str, bytes: u64, free_bytes: u64) -> Result<Vec<String>, NoRoom> {
        if bytes > self.bytes_max {
            return Err(NoRoom::TooLarge { bytes_max: self.bytes_max });
        }
        let others = || self.books.iter().filter(|(at, _)| *at != digest);
        let mut total = others().map(|(_, book)| book.bytes).fold(bytes, u64::saturating_add);
        let mut free_bytes = free_bytes;
        let mut oldest: Vec<(&String, &Book)> = others().filter(|(_, book)| book.holders == 0).collect();
        oldest.sort_by_key(|(_, book)| book.used);
        let mut going = Vec::new();
        for (at, book) in oldest {
            if total <= self.bytes_max && bytes <= free_bytes {
                break;
            }
            total = total.saturating_sub(book.bytes);
            // Of one that is not whole nobody knows how much has come.
            free_bytes = free_bytes.saturating_add(if book.whole { book.bytes } else { 0 });
            going.push(at.clone());
        }
        if total > self.bytes_max {
            let held_bytes = total.saturating_sub(bytes);
            return Err(NoRoom::InUse { held_bytes, bytes_max: self.bytes_max });
        }
        if bytes > free_bytes {
            return Err(NoRoom::Disk { free_bytes });
        }
        Ok(going)
    }

    /// Bytes of all versions, those under way counted whole.
    #[must_use]
    pub(super) fn bytes(&self) -> u64 {
        self.books.values().map(|book| book.bytes).sum()
    }

    /// What is there whole, as `name@digest`, the last used first.
    #[must_use]
    pub(super) fn names(&self) -> Vec<String> {
        let mut whole: Vec<(&String, &Book)> = self.books.iter().filter(|(_, book)| book.whole).collect();
        whole.sort_by_key(|(_, book)| std::cmp::Reverse(book.used));
        whole.into_iter().map(|(at, book)| format!("{}@{at}", book.name)).collect()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_longest_unused_goes_first_and_what_is_held_stays() {
        let mut shelf = Shelf::new(100);
        for digest in ["a", "b", "c"] {
            shelf.put(digest, digest, 30, true);
        }
        assert_eq!(shelf.room("d", 10, 1_000), Ok(vec![]));
        shelf.hold("a");
        assert_eq!(shelf.room("d", 30, 1_000), Ok(vec!["b".into()]), "a was used after b");
        shelf.hold("b");
        assert_eq!(shelf.room("d", 70, 1_000), Err(NoRoom::InUse { held_bytes: 60, bytes_max: 100 }));
        shelf.release("a");
        assert_eq!(shelf.room("d", 70, 1_000), Ok(vec!["c".into(), "a".into()]));
        assert_eq!(shelf.room("d", 101, 1_000), Err(NoRoom::TooLarge { bytes_max: 100 }));
    }

    #[test]
    fn a_full_disk_makes_room_by_what_is_whole() {
        let mut shelf = Shelf::new(1_000);
        shelf.put("a", "m", 30, false);
        shelf.put("b", "m", 30, true);
        assert_eq!(shelf.room("c", 50, 20), Ok(vec!["a".into(), "b".into()]));
        assert_eq!(shelf.room("c", 60, 20), Err(NoRoom::Disk { free_bytes: 50 }));
        assert_eq!(shelf.room("a", 30, 40), Ok(vec![]), "its own bytes are counted once");
    }

    #[test]
    fn a_version_is_found_by_the_beginning_of_its_digest() {
        let mut shelf = Shelf::new(1_000);
        shelf.put("aa1", "m", 1, true);
        shelf.put("aa2", "m", 1, true);
        shelf.put("aa3", "m", 1, false);
        shelf.put("aa4", "n", 1, true);
        assert_eq!(shelf.whole("m", "aa"), Some("aa2".into()));
        shelf.hold("aa1");
        assert_eq!(shelf.whole("m", "aa"), Some("aa1".into()));
        assert_eq!(
            (shelf.whole("m", "aa3"), shelf.names()),
            (None, vec!["m@aa1".into(), "n@aa4".into(), "m@aa2".into()])
        );
    }

    #[derive(Clone, Debug)]
    enum Step {
        Want { digest: u8, bytes: u64, free_bytes: u64 },
        Hold(u8),
        Release(u8),
        Complete(u8),
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            (0..6_u8, 0..70_u64, 0..120_u64).prop_map(|(digest, bytes, free_bytes)| Step::Want {
                digest,
                bytes,
                free_bytes
            }),
            (0..6_u8).prop_map(Step::Hold),
            (0..6_u8).prop_map(Step::Release),
            (0..6_u8).prop_map(Step::Complete),
        ]
    }

    /// The slow, obvious reference: a list in the order of use, from which the front goes while there is no room.
    #[derive(Clone, Debug, PartialEq)]
    struct Line(Vec<(u8, u64, usize, bool)>);

    impl Line {
        fn room(&self, digest: u8, bytes: u64, free_bytes: u64) -> Option<Vec<u8>> {
            let mut left: Vec<_> = self.0.iter().filter(|one| one.0 != digest).copied().collect();
            let (mut gone, mut free_bytes) = (Vec::new(), free_bytes);
            loop {
                if left.iter().map(|one| one.1).sum::<u64>() + bytes <= 100 && bytes <= free_bytes {
                    return Some(gone);
                }
                let at = left.iter().position(|one| one.2 == 0)?;
                let one = left.remove(at);
                free_bytes += if one.3 { one.1 } else { 0 };
                gone.push(one.0);
            }
        }

        fn used(&mut self, digest: u8, change: impl FnOnce(&mut (u8, u64, usize, bool))) {
            if let Some(at) = self.0.iter().position(|one| one.0 == digest) {
                let mut one = self.0.remove(at);
                change(&mut one);
                self.0.push(one);
            }
        }
    }

    proptest! {
        #[test]
        fn what_goes_is_what_a_plain_list_says_and_the_bound_holds(steps in prop::collection::vec(step(), 0..60)) {
            let (mut shelf, mut line) = (Shelf::new(100), Line(Vec::new()));
            for step in steps {
                match step {
                    Step::Want { digest, bytes, free_bytes } => {
                        let name = digest.to_string();
                        let room = shelf.room(&name, bytes, free_bytes);
                        let plain = line.room(digest, bytes, free_bytes);
                        let named = plain.as_ref().map(|gone| gone.iter().map(u8::to_string).collect::<Vec<_>>());
                        prop_assert_eq!(room.clone().ok(), named);
                        if let (Ok(gone), false) = (room, shelf.is_held(&name)) {
                            gone.iter().for_each(|digest| shelf.remove(digest));
                            shelf.put(&name, "m", bytes, false);
                            line.0.retain(|one| one.0 != digest && !plain.as_ref().unwrap().contains(&one.0));
                            line.0.push((digest, bytes, 0, false));
                        }
                    }
                    Step::Hold(digest) => {
                        shelf.hold(&digest.to_string());
                        line.used(digest, |one| one.2 += 1);
                    }
                    Step::Release(digest) => {
                        shelf.release(&digest.to_string());
                        line.0.iter_mut().filter(|one| one.0 == digest).for_each(|one| one.2 = one.2.saturating_sub(1));
                    }
                    Step::Complete(digest) => {
                        shelf.completed(&digest.to_string());
                        line.0.iter_mut().filter(|one| one.0 == digest).for_each(|one| one.3 = true);
                    }
                }
                prop_assert!(shelf.bytes() <= 100);
                let names = line.0.iter().rev().filter(|one| one.3).map(|one| format!("m@{}", one.0)).collect::<Vec<_>>();
                prop_assert_eq!(shelf.names(), names);
            }
        }
    }
}
