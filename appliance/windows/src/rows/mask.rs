//! Takes a text apart into what stays, its template, and what changes from line to line, its slots; and puts it together again.
//!
//! In a template a byte below [`MARKS_END`] is a mark, where a slot was. Digits become a number that tells `7` from `07`; runs of letters and
//! digits that look like an id, an id; what people wrote, a text, if the grain says so.

use std::ops::Range;

/// Digits, at most 18 of them.
const DIGITS: u8 = 1;
/// An id for the second time; the next byte says which of this line's.
const AGAIN: u8 = 2;
const ID: u8 = 3;
const TEXT: u8 = 4;
const MARKS_END: u8 = 5;

/// Most digits that are one number.
const DIGITS_MAX: usize = 18;
/// A run of letters and digits is an id from this length on, or from the second when it is hexadecimal.
const ID_BYTES: usize = 16;
const HEX_BYTES: usize = 6;
const UUID_BYTES: usize = 36;
/// So many of a line's first ids are recognised when they come again.
const AGAIN_MAX: usize = 32;
/// A value with a blank in it, or longer than this, is what somebody wrote.
const WORD_BYTES: usize = 40;

/// What of a text is left out of its template.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Grain {
    /// Numbers and ids.
    Fine,
    /// And JSON strings of more than a word.
    Wordy,
    /// And all JSON strings that are values.
    Coarse,
}

impl Grain {
    pub(super) const ALL: [Self; 3] = [Self::Fine, Self::Wordy, Self::Coarse];
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Slot {
    /// As [`put_digits`] reads it.
    Digits(u64),
    Id(Range<usize>),
    Text(Range<usize>),
}

/// A text that was taken apart.
#[derive(Default)]
pub(super) struct Masked {
    pub(super) template: Vec<u8>,
    /// In the order of their marks.
    pub(super) slots: Vec<Slot>,
    /// How many of them are texts.
    pub(super) texts: usize,
    ids: Vec<Range<usize>>,
}

/// Whether a text has bytes that would be taken for marks.
pub(super) fn has_marks(text: &[u8]) -> bool {
    text.iter().any(|byte| *byte < MARKS_END)
}

impl Masked {
    pub(super) fn take_apart(&mut self, text: &[u8], grain: Grain) {
        self.template.clear();
        self.slots.clear();
        self.ids.clear();
        self.texts = 0;
        let mut begin = 0;
        if grain != Grain::Fine {
            for value in json_strings(text) {
                if is_written(&text[value.clone()], grain) {
                    self.take(text, begin..value.start);
                    begin = value.end;
                    self.template.push(TEXT);
                    self.slots.push(Slot::Text(value));
                    self.texts += 1;
                }
            }
        }
        self.take(text, begin..text.len());
    }

    fn take(&mut self, text: &[u8], part: Range<usize>) {
        let (mut plain, mut at) = (part.start, part.start);
        while at < part.end {
            let run = Run::at(text, at, part.end);
            if !run.has_digits() {
                at = run.range.end.max(at + 1);
                continue;
            }
            if run.range.len() == 8 && text[at..part.end].get(..UUID_BYTES).is_some_and(is_uuid) {
                self.template.extend_from_slice(&text[plain..at]);
                self.put_id(text, at..at + UUID_BYTES);
                at += UUID_BYTES;
            } else if run.is_id() {
                self.template.extend_from_slice(&text[plain..at]);
                at = run.range.end;
                self.put_id(text, run.range);
            } else {
                while at < run.range.end {
                    let digits = text[at..run.range.end].iter().take_while(|byte| byte.is_ascii_digit()).count();
                    if digits == 0 {
                        at += 1;
                        continue;
                    }
                    self.template.extend_from_slice(&text[plain..at]);
                    self.template.push(DIGITS);
                    self.slots.push(Slot::Digits(digits_number(&text[at..at + digits])));
                    at += digits;
                    plain = at;
                }
                continue;
            }
            plain = at;
        }
        self.template.extend_from_slice(&text[plain..part.end]);
    }

    fn put_id(&mut self, text: &[u8], range: Range<usize>) {
        let before = self.ids.iter().position(|id| text[id.clone()] == text[range.clone()]);
        if let Some(number) = before.filter(|number| *number < AGAIN_MAX) {
            self.template.extend_from_slice(&[AGAIN, number as u8]);
            return;
        }
        self.template.push(ID);
        self.ids.push(range.clone());
        self.slots.push(Slot::Id(range));
    }
}

/// Letters and digits behind one another.
struct Run {
    range: Range<usize>,
    /// Of [`class`], all together.
    classes: u8,
}

const DIGIT: u8 = 1;
const LOWER_HEX: u8 = 2;
const UPPER_HEX: u8 = 4;
const LETTER: u8 = 8;

const CLASSES: [u8; 256] = {
    let mut classes = [0; 256];
    let mut byte = 0;
    while byte < 256 {
        classes[byte] = match byte as u8 {
            b'0'..=b'9' => DIGIT,
            b'a'..=b'f' => LOWER_HEX,
            b'A'..=b'F' => UPPER_HEX,
            b'g'..=b'z' | b'G'..=b'Z' => LETTER,
            _ => 0,
        };
        byte += 1;
    }
    classes
};

impl Run {
    /// The run that begins at `at`; empty when none does. `0x` before hexadecimal is a run of its own.
    fn at(text: &[u8], at: usize, end: usize) -> Self {
        let mut run = Self { range: at..at, classes: 0 };
        for byte in &text[at..end] {
            let class = CLASSES[usize::from(*byte)];
            if class == 0 {
                break;
            }
            run.classes |= class;
            run.range.end += 1;
        }
        if run.range.len() > 2 && text[at..].starts_with(b"0x") {
            return Self { range: at..at + 2, classes: LETTER };
        }
        run
    }

    fn has_digits(&self) -> bool {
        self.classes & DIGIT != 0
    }

    fn is_id(&self) -> bool {
        let is_hex = self.classes | DIGIT | LOWER_HEX == DIGIT | LOWER_HEX
            || self.classes | DIGIT | UPPER_HEX == DIGIT | UPPER_HEX;
        match self.range.len() {
            bytes if self.classes == DIGIT => bytes > DIGITS_MAX,
            bytes => bytes >= ID_BYTES || bytes >= HEX_BYTES && is_hex,
        }
    }
}

/// Lower case, with its hyphens.
fn is_uuid(text: &[u8]) -> bool {
    text.len() == UUID_BYTES
        && text.iter().enumerate().all(|(at, byte)| match at {
            8 | 13 | 18 | 23 => *byte == b'-',
            _ => matches!(byte, b'0'..=b'9' | b'a'..=b'f'),
        })
}

/// The strings that are values of members of objects, without their quotes.
struct JsonStrings<'a> {
    text: &'a [u8],
    at: usize,
}

fn json_strings(text: &[u8]) -> JsonStrings<'_> {
    JsonStrings { text, at: 0 }
}

impl Iterator for JsonStrings<'_> {
    type Item = Range<usize>;

    fn next(&mut self) -> Option<Range<usize>> {
        let begin = self.at + self.text[self.at..].windows(3).position(|three| three == b"\":\"")? + 3;
        let mut end = begin;
        while *self.text.get(end)? != b'"' {
            end += if self.text[end] == b'\\' { 2 } else { 1 };
        }
        self.at = end;
        Some(begin..end)
    }
}

/// Whether a value is what somebody wrote, and not one of a few words or an id.
fn is_written(value: &[u8], grain: Grain) -> bool {
    let run = Run::at(value, 0, value.len());
    let is_id = run.range.len() == value.len() && run.has_digits() && run.is_id() || is_uuid(value);
    let is_word = value.len() <= WORD_BYTES && !value.contains(&b' ');
    !is_id && (grain == Grain::Coarse || grain == Grain::Wordy && !is_word)
}

/// A number for digits that tells how many there are: those of one digit come first, then those of two.
fn digits_number(digits: &[u8]) -> u64 {
    let value = digits.iter().fold(0, |value, digit| value * 10 + u64::from(digit - b'0'));
    value + SHORTER[digits.len() - 1]
}

/// How many texts of digits are shorter than so many digits and one.
const SHORTER: [u64; DIGITS_MAX] = {
    let mut shorter = [0; DIGITS_MAX];
    let (mut digits, mut texts) = (1, 10);
    while digits < DIGITS_MAX {
        shorter[digits] = shorter[digits - 1] + texts;
        texts *= 10;
        digits += 1;
    }
    shorter
};

/// Writes the digits that became `number`.
pub(super) fn put_digits(number: u64, to: &mut Vec<u8>) {
    let digits = SHORTER.partition_point(|shorter| *shorter <= number).max(1);
    let mut value = number - SHORTER[digits - 1];
    let begin = to.len();
    to.resize(begin + digits, b'0');
    for digit in to[begin..].iter_mut().rev() {
        *digit = b'0' + (value % 10) as u8;
        value /= 10;
    }
}

/// How the bytes of an id were made.
const AS_IT_IS: u64 = 0;
const LOWER: u64 = 1;
const UPPER: u64 = 2;
const UUID: u64 = 3;

/// Writes an id in as few bytes as its look allows, with their number and its look before them.
pub(super) fn condense(id: &[u8], to: &mut Vec<u8>) {
    let pairs = |digits: &[u8]| -> Option<Vec<u8>> {
        let (pairs, []) = digits.as_chunks::<2>() else { return None };
        pairs.iter().map(|[high, low]| Some(hex_digit(*high)? << 4 | hex_digit(*low)?)).collect()
    };
    let has = |class: u8| id.iter().any(|byte| CLASSES[usize::from(*byte)] == class);
    let (look, bytes) = if is_uuid(id) {
        let digits: Vec<u8> = id.iter().copied().filter(|byte| *byte != b'-').collect();
        (UUID, pairs(&digits))
    } else {
        (if has(UPPER_HEX) { UPPER } else { LOWER }, pairs(id).filter(|_| !(has(UPPER_HEX) && has(LOWER_HEX))))
    };
    let (look, bytes) = bytes.as_deref().map_or((AS_IT_IS, id), |bytes| (look, bytes));
    super::put_number(to, (bytes.len() as u64) << 2 | look);
    to.extend_from_slice(bytes);
}

fn hex_digit(digit: u8) -> Option<u8> {
    char::from(digit).to_digit(16).and_then(|value| u8::try_from(value).ok())
}

/// Reads what [`condense`] wrote off the front of `from`.
pub(super) fn expand(from: &mut &[u8], to: &mut Vec<u8>) -> Option<()> {
    let number = super::take_number(from)?;
    let bytes = from.split_off(..usize::try_from(number >> 2).ok()?)?;
    let digits = if number & 3 == UPPER { b"0123456789ABCDEF" } else { b"0123456789abcdef" };
    match number & 3 {
        AS_IT_IS => to.extend_from_slice(bytes),
        look => {
            for (at, byte) in bytes.iter().enumerate() {
                if look == UUID && matches!(at, 4 | 6 | 8 | 10) {
                    to.push(b'-');
                }
                to.extend([digits[usize::from(byte >> 4)], digits[usize::from(byte & 15)]]);
            }
        }
    }
    Some(())
}

/// A part of a template.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Mark<'a> {
    Plain(&'a [u8]),
    Digits,
    Id,
    Text,
    /// The number of an id of this line.
    Again(usize),
}

/// The parts of a template; `None` for what is no part of one.
pub(super) fn marks(template: &[u8]) -> impl Iterator<Item = Option<Mark<'_>>> {
    let mut rest = template;
    std::iter::from_fn(move || {
        let first = *rest.first()?;
        if first >= MARKS_END {
            let bytes = rest.iter().position(|byte| *byte < MARKS_END).unwrap_or(rest.len());
            return rest.split_off(..bytes).map(|plain| Some(Mark::Plain(plain)));
        }
        rest.split_off_first();
        Some(match first {
            DIGITS => Some(Mark::Digits),
            ID => Some(Mark::Id),
            TEXT => Some(Mark::Text),
            AGAIN => rest.split_off_first().map(|number| Mark::Again(usize::from(*number))),
            _ => None,
        })
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn template(text: &str, grain: Grain) -> String {
        let mut masked = Masked::default();
        masked.take_apart(text.as_bytes(), grain);
        let shown = masked.template.iter().map(|byte| match *byte {
            DIGITS => '#',
            AGAIN => '=',
            ID => '@',
            TEXT => '~',
            byte => char::from(byte),
        });
        shown.filter(|c| *c >= ' ').collect()
    }

    #[test]
    fn numbers_and_ids_are_taken_out_and_words_stay() {
        for (text, expected) in [
            ("step 12 of 50 took 0.05 ms on sd15", "step # of # took #.# ms on sd#"),
            ("job 0b9f2c1e-12ab-4cde-8f00-1234567890ab ended", "job @ ended"),
            ("trace e911710e56cd7b273db64e0182da290a, e911710e56cd7b273db64e0182da290a", "trace @, ="),
            ("[mp4 @ 0x55f0a1b2] of 01K9B4DFF8D1F101A963B08EF1", "[mp# @ 0x@] of @"),
            ("at 1700000000000000000 and 170000000000000000", "at @ and #"),
            ("decade of facade, café", "decade of facade, caf\u{c3}\u{a9}"),
        ] {
            assert_eq!(template(text, Grain::Fine), expected);
        }
        let line = r#"{"level":"info","body":"a \"red\" fox","user":"bob","id":"e911710e56cd7b27","n":1}"#;
        assert_eq!(template(line, Grain::Wordy), r#"{"level":"info","body":"~","user":"bob","id":"@","n":#}"#);
        assert_eq!(template(line, Grain::Coarse), r#"{"level":"~","body":"~","user":"~","id":"@","n":#}"#);
    }

    proptest! {
        #[test]
        fn digits_come_back_with_their_zeros(digits in "[0-9]{1,18}") {
            let mut written = b"x".to_vec();
            put_digits(digits_number(digits.as_bytes()), &mut written);
            prop_assert_eq!(written, format!("x{digits}").into_bytes());
        }

        #[test]
        fn ids_come_back_as_they_looked(id in "[0-9a-f]{0,40}|[0-9A-F]{0,40}|[0-9a-fA-F]{0,20}|\\PC{0,20}|[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}") {
            let (mut condensed, mut written) = (Vec::new(), Vec::new());
            condense(id.as_bytes(), &mut condensed);
            prop_assert!(condensed.len() <= id.len() + 2);
            let mut rest = condensed.as_slice();
            prop_assert!(expand(&mut rest, &mut written).is_some() && rest.is_empty());
            prop_assert_eq!(written, id.into_bytes());
        }

        #[test]
        fn any_number_has_digits(number: u64) {
            put_digits(number, &mut Vec::new());
        }
    }
}
