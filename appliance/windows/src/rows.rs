//! How the sources of a window are stored: each as a *row*, which names a template and says what differs from it.
//!
//! Lines of a log are much alike. What is alike stands once in the window's [`Tables`]: *templates*, texts with marks where numbers and ids
//! were, and *values*, ids that came more than once. A row is the number of a template and what belongs in the place of its marks, so it
//! takes a tenth of its source before anything is compressed, can be read alone, and is copied as it is when segments merge.
//!
//! A text is tried in three ways, the closest first ([`Grain`]), and a template is taken in when it is needed for the second time, as long as
//! there is room for those of its grain; what fits none is stored as it is. So a window never holds more than [`tables::BYTES_MAX`] of
//! tables, and sources that are nothing alike lose a byte each. Whatever the bytes are, they come back the same.
//!
//! What is absent on purpose: columns. They would be smaller by a tenth, and a line would be read by unpacking a thousand.

mod mask;
mod tables;

use std::collections::HashMap;
use std::collections::hash_map::RandomState;
use std::fs::File;
use std::hash::BuildHasher as _;
use std::sync::Arc;

pub(crate) use mask::Grain;
use mask::{Mark, Masked, Slot};
use tables::{Arena, Kind};
pub(crate) use tables::{FILE, Tables};

/// A longer source is stored as it is.
const TEXT_BYTES_MAX: usize = 64 * 1024;
/// A longer template is not taken in.
const TEMPLATE_BYTES_MAX: usize = 8 * 1024;
/// So many of the templates and values that came once are remembered.
const TEMPLATES_SEEN: usize = 4096;
const VALUES_SEEN: usize = 16 * 1024;

/// Makes rows of sources. One for each window that is written.
pub(crate) struct Packer {
    tables: Arc<Tables>,
    file: File,
    hasher: RandomState,
    /// Number by hash.
    templates: HashMap<u64, usize>,
    values: HashMap<u64, usize>,
    templates_seen: Seen,
    values_seen: Seen,
    masked: Masked,
    condensed: Vec<u8>,
}

impl Packer {
    /// Goes on with the tables of a window, which nobody else writes.
    ///
    /// # Errors
    /// When their file cannot be written.
    pub(crate) fn new(tables: Arc<Tables>) -> std::io::Result<Self> {
        let hasher = RandomState::new();
        let by_hash =
            |arena: &Arena| arena.iter().enumerate().map(|(at, bytes)| (hasher.hash_one(bytes), at)).collect();
        let (templates, values) = tables.with(|held| (by_hash(&held.templates), by_hash(&held.values)));
        Ok(Self {
            file: tables.file()?,
            tables,
            hasher,
            templates,
            values,
            templates_seen: Seen::new(TEMPLATES_SEEN),
            values_seen: Seen::new(VALUES_SEEN),
            masked: Masked::default(),
            condensed: Vec::new(),
        })
    }

    /// The row of a source. It can be unpacked at once, and after a restart when [`Packer::save`] came after it.
    pub(crate) fn pack(&mut self, source: &[u8]) -> Vec<u8> {
        if source.len() <= TEXT_BYTES_MAX && !mask::has_marks(source) {
            let mut texts = None;
            for grain in Grain::ALL {
                self.masked.take_apart(source, grain);
                if texts.replace(self.masked.texts) == Some(self.masked.texts) {
                    continue; // it leaves out nothing more
                }
                if let Some(template) = self.template(grain) {
                    return self.row(template, source);
                }
            }
        }
        let mut row = Vec::with_capacity(source.len() + 1);
        row.push(0);
        row.extend_from_slice(source);
        row
    }

    /// The number of the template that stands in `masked`, if it is known or is now.
    fn template(&mut self, grain: Grain) -> Option<usize> {
        let template = &self.masked.template;
        let hash = self.hasher.hash_one(template.as_slice());
        if let Some(at) = self.templates.get(&hash) {
            let is_same = self.tables.with(|held| held.templates.get(*at) == Some(template));
            return is_same.then_some(*at);
        }
        if template.len() > TEMPLATE_BYTES_MAX || !self.templates_seen.saw(hash) {
            return None;
        }
        let at = self.tables.take_in(Kind::Template(grain), template)?;
        self.templates.insert(hash, at);
        Some(at)
    }

    fn row(&mut self, template: usize, source: &[u8]) -> Vec<u8> {
        let mut row = Vec::with_capacity(64);
        put_number(&mut row, template as u64 + 1);
        for at in 0..self.masked.slots.len() {
            match self.masked.slots[at].clone() {
                Slot::Digits(number) => put_number(&mut row, number),
                Slot::Text(range) => {
                    put_number(&mut row, range.len() as u64);
                    row.extend_from_slice(&source[range]);
                }
                Slot::Id(range) => {
                    self.condensed.clear();
                    mask::condense(&source[range], &mut self.condensed);
                    match self.value() {
                        Some(at) => put_number(&mut row, at as u64 + 1),
                        None => {
                            row.push(0);
                            row.extend_from_slice(&self.condensed);
                        }
                    }
                }
            }
        }
        row
    }

    /// The number of the value that stands in `condensed`, if it is known or is now.
    fn value(&mut self) -> Option<usize> {
        let hash = self.hasher.hash_one(self.condensed.as_slice());
        if let Some(at) = self.values.get(&hash) {
            let is_same = self.tables.with(|held| held.values.get(*at) == Some(&self.condensed));
            return is_same.then_some(*at);
        }
        if !self.values_seen.saw(hash) {
            return None;
        }
        let at = self.tables.take_in(Kind::Value, &self.condensed)?;
        self.values.insert(hash, at);
        Some(at)
    }

    /// Makes durable what rows so far refer to. Answers with the bytes of the file that they need.
    ///
    /// # Errors
    /// When the disk is full, say: nothing that refers to it may be committed then, and the next call tries again.
    pub(crate) fn save(&mut self) -> std::io::Result<u64> {
        self.tables.save(&self.file)
    }
}

/// The source that a row was made of; `None` when it is no row of these tables.
pub(crate) fn unpack(row: &[u8], tables: &Tables) -> Option<Vec<u8>> {
    let mut rest = row;
    let Some(template) = take_number(&mut rest)?.checked_sub(1) else { return Some(rest.to_vec()) };
    tables.with(|held| {
        let template = held.templates.get(usize::try_from(template).ok()?)?;
        let mut source = Vec::with_capacity(template.len() + 4 * rest.len());
        let mut ids = Vec::new();
        for mark in mask::marks(template) {
            match mark? {
                Mark::Plain(text) => source.extend_from_slice(text),
                Mark::Digits => mask::put_digits(take_number(&mut rest)?, &mut source),
                Mark::Text => {
                    let bytes = usize::try_from(take_number(&mut rest)?).ok()?;
                    source.extend_from_slice(rest.split_off(..bytes)?);
                }
                Mark::Id => {
                    let begin = source.len();
                    match take_number(&mut rest)?.checked_sub(1) {
                        Some(at) => mask::expand(&mut held.values.get(usize::try_from(at).ok()?)?, &mut source)?,
                        None => mask::expand(&mut rest, &mut source)?,
                    }
                    ids.push(begin..source.len());
                }
                Mark::Again(number) => source.extend_from_within(ids.get(number)?.clone()),
            }
        }
        rest.is_empty().then_some(source)
    })
}

/// Hashes of what came lately; a new one takes the place of another.
struct Seen(Vec<u64>);

impl Seen {
    fn new(places: usize) -> Self {
        Self(vec![0; places])
    }

    /// Whether it came before; from now on it did.
    fn saw(&mut self, hash: u64) -> bool {
        let places = self.0.len() as u64;
        let place = &mut self.0[usize::try_from(hash % places).unwrap_or(0)];
        std::mem::replace(place, hash) == hash
    }
}

/// Seven bits a byte, the least first; all but the last have the eighth.
fn put_number(to: &mut Vec<u8>, mut number: u64) {
    while number > 127 {
        to.push(0x80 | (number & 0x7f) as u8);
        number >>= 7;
    }
    to.push(number as u8);
}

fn take_number(from: &mut &[u8]) -> Option<u64> {
    let mut number = 0_u64;
    for shift in (0..64).step_by(7) {
        let byte = *from.split_off_first()?;
        let bits = u64::from(byte & 0x7f);
        number |= bits.checked_shl(shift).filter(|moved| moved >> shift == bits)?;
        if byte < 0x80 {
            return Some(number);
        }
    }
    None
}

/// Reads `bytes` as tables and as a row, and throws the outcome away: for fuzzing.
pub fn fuzz_rows(bytes: &[u8]) {
    let tables = Tables::parse(bytes);
    let _ = unpack(bytes, &tables);
}

#[cfg(test)]
mod tests;
