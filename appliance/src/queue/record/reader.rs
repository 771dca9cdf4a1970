//! Reading and writing the fields of a record: fixed numbers, and bytes after their length.

use super::super::model::MessageId;

pub(super) fn put(out: &mut Vec<u8>, bytes: &[u8]) {
    out.extend(u32::try_from(bytes.len()).unwrap_or(u32::MAX).to_le_bytes()); // messages end at 1 MiB
    out.extend(bytes);
}

pub(super) fn utf8(bytes: &[u8]) -> Result<String, String> {
    str_of(bytes).map(str::to_owned)
}

fn str_of(bytes: &[u8]) -> Result<&str, String> {
    std::str::from_utf8(bytes).map_err(|_| "text of a queue record is not UTF-8".to_owned())
}

/// What is left of a record.
pub(super) struct Reader<'a>(pub &'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, count: usize) -> Result<&'a [u8], String> {
        let (taken, rest) = self.0.split_at_checked(count).ok_or("queue record ends early")?;
        self.0 = rest;
        Ok(taken)
    }

    pub(super) fn array<const N: usize>(&mut self) -> Result<[u8; N], String> {
        self.take(N)?.try_into().map_err(|_| "queue record ends early".to_owned())
    }

    pub(super) fn u8(&mut self) -> Result<u8, String> {
        Ok(u8::from_le_bytes(self.array()?))
    }

    pub(super) fn u32(&mut self) -> Result<u32, String> {
        Ok(u32::from_le_bytes(self.array()?))
    }

    pub(super) fn u64(&mut self) -> Result<u64, String> {
        Ok(u64::from_le_bytes(self.array()?))
    }

    pub(super) fn message(&mut self) -> Result<MessageId, String> {
        Ok(MessageId(self.array()?))
    }

    pub(super) fn bytes(&mut self) -> Result<&'a [u8], String> {
        let count = self.u32()?;
        self.take(usize::try_from(count).unwrap_or(usize::MAX))
    }

    pub(super) fn str(&mut self) -> Result<&'a str, String> {
        str_of(self.bytes()?)
    }

    pub(super) fn text(&mut self) -> Result<String, String> {
        self.str().map(str::to_owned)
    }
}
