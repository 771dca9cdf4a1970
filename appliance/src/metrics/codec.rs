//! Bytes of the room's own formats: numbers of variable length, texts, labels. Reading never panics and never trusts a length.

use std::collections::HashMap;
use std::sync::Arc;

use super::model::{Labels, Pair};

/// Longest text that is read back, in bytes; the limits at ingest are far below.
const TEXT_BYTES_MAX: usize = 1 << 20;

/// Bytes that are not what was written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub(super) struct Malformed(pub(super) &'static str);

/// Writes texts once: a text that was seen is a number from then on.
#[derive(Default)]
pub(super) struct Writer {
    pub(super) bytes: Vec<u8>,
    texts: HashMap<Arc<str>, u64>,
}

impl Writer {
    pub(super) fn number(&mut self, mut number: u64) {
        while number >= 0x80 {
            self.bytes.push(number as u8 | 0x80);
            number >>= 7;
        }
        self.bytes.push(number as u8);
    }

    /// Small numbers of either sign stay short.
    pub(super) fn signed(&mut self, number: i64) {
        self.number(((number << 1) ^ (number >> 63)) as u64);
    }

    pub(super) fn float(&mut self, value: f64) {
        self.bytes.extend(value.to_bits().to_le_bytes());
    }

    pub(super) fn blob(&mut self, bytes: &[u8]) {
        self.number(bytes.len() as u64);
        self.bytes.extend(bytes);
    }

    pub(super) fn text(&mut self, text: &Arc<str>) {
        if let Some(&number) = self.texts.get(text) {
            self.number(number + 1);
            return;
        }
        self.texts.insert(text.clone(), self.texts.len() as u64);
        self.number(0);
        self.blob(text.as_bytes());
    }

    pub(super) fn labels(&mut self, labels: &Labels) {
        self.number(labels.len() as u64);
        for (name, value) in labels.iter() {
            self.text(name);
            self.text(value);
        }
    }
}

/// Reads what a [`Writer`] wrote.
pub(super) struct Reader<'a> {
    rest: &'a [u8],
    texts: Vec<Arc<str>>,
}

impl<'a> Reader<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes, texts: Vec::new() }
    }

    #[cfg(test)]
    fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }

    pub(super) fn take(&mut self, bytes: usize) -> Result<&'a [u8], Malformed> {
        let (taken, rest) = self.rest.split_at_checked(bytes).ok_or(Malformed("it ends too early"))?;
        self.rest = rest;
        Ok(taken)
    }

    pub(super) fn byte(&mut self) -> Result<u8, Malformed> {
        Ok(self.take(1)?[0])
    }

    pub(super) fn number(&mut self) -> Result<u64, Malformed> {
        let mut number = 0;
        for shift in (0..64).step_by(7) {
            let byte = self.byte()?;
            number |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return Ok(number);
            }
        }
        Err(Malformed("a number is too long"))
    }

    /// A count of things of at least one byte each, so that it cannot exceed what is left.
    pub(super) fn count(&mut self) -> Result<usize, Malformed> {
        let count = usize::try_from(self.number()?).map_err(|_| Malformed("a count is too large"))?;
        if count > self.rest.len() { Err(Malformed("a count is larger than what follows")) } else { Ok(count) }
    }

    pub(super) fn signed(&mut self) -> Result<i64, Malformed> {
        let number = self.number()?;
        Ok((number >> 1) as i64 ^ -((number & 1) as i64))
    }

    pub(super) fn float(&mut self) -> Result<f64, Malformed> {
        let bytes = self.take(8)?.try_into().map_err(|_| Malformed("it ends too early"))?;
        Ok(f64::from_bits(u64::from_le_bytes(bytes)))
    }

    pub(super) fn blob(&mut self) -> Result<&'a [u8], Malformed> {
        let bytes = self.count()?;
        self.take(bytes)
    }

    pub(super) fn text(&mut self) -> Result<Arc<str>, Malformed> {
        if let Some(known) = self.number()?.checked_sub(1) {
            let index = usize::try_from(known).map_err(|_| Malformed("a text is unknown"))?;
            return self.texts.get(index).cloned().ok_or(Malformed("a text is unknown"));
        }
        let bytes = self.blob()?;
        if bytes.len() > TEXT_BYTES_MAX {
            return Err(Malformed("a text is too long"));
        }
        let text: Arc<str> = std::str::from_utf8(bytes).map_err(|_| Malformed("a text is no UTF-8"))?.into();
        self.texts.push(text.clone());
        Ok(text)
    }

    pub(super) fn labels(&mut self) -> Result<Labels, Malformed> {
        let count = self.count()?;
        let pairs: Vec<Pair> =
            (0..count).map(|_| Ok((self.text()?, self.text()?))).collect::<Result<_, Malformed>>()?;
        Ok(Labels::new(pairs))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn what_is_written_is_read(numbers: Vec<u64>, signed: Vec<i64>, texts: Vec<String>, bits: u64) {
            let mut writer = Writer::default();
            numbers.iter().for_each(|&number| writer.number(number));
            signed.iter().for_each(|&number| writer.signed(number));
            for text in texts.iter().chain(&texts) {
                writer.text(&Arc::from(text.as_str()));
            }
            writer.float(f64::from_bits(bits));
            let mut reader = Reader::new(&writer.bytes);
            for number in numbers {
                prop_assert_eq!(reader.number(), Ok(number));
            }
            for number in signed {
                prop_assert_eq!(reader.signed(), Ok(number));
            }
            for text in texts.iter().chain(&texts) {
                let read = reader.text().unwrap();
                prop_assert_eq!(read.as_ref(), text.as_str());
            }
            prop_assert_eq!(reader.float().unwrap().to_bits(), bits);
            prop_assert!(reader.is_empty());
        }

        #[test]
        fn garbage_is_an_error_and_no_panic(bytes: Vec<u8>) {
            let mut reader = Reader::new(&bytes);
            while reader.labels().is_ok() && !reader.is_empty() {}
        }
    }
}
