//! The part of a sent record that its sender wrote. It stays as it is for the message's life; only heads are written again.

use super::super::model::{AttributeValue, MessageAttribute};
use super::HEAD_BYTES;
use super::reader::{Reader, put, utf8};

/// What a sender wrote.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(in crate::queue) struct Content {
    pub body: String,
    pub attributes: Vec<MessageAttribute>,
    pub trace_header: Option<String>,
    pub sender_id: String,
    pub group_id: Option<String>,
    /// The sender's, or the SHA-256 of the body; on FIFO queues alone.
    pub deduplication_id: Option<String>,
}

/// The message's group and the id by which it is told from those sent before.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(in crate::queue) struct Marks<'a> {
    pub group_id: Option<&'a str>,
    pub deduplication_id: Option<&'a str>,
}

const TRACE_HEADER: u8 = 1;
const GROUP_ID: u8 = 2;
const DEDUPLICATION_ID: u8 = 4;

impl Content {
    /// Bytes of the sent record that holds this.
    pub(in crate::queue) fn record_bytes(&self) -> usize {
        let attributes: usize =
            self.attributes.iter().map(|a| 13 + a.name.len() + a.data_type.len() + a.value.bytes().len()).sum();
        let optional = |text: &Option<String>| text.as_ref().map_or(0, |text| 4 + text.len());
        let marks = optional(&self.group_id) + optional(&self.deduplication_id);
        let trace_header = self.trace_header.as_ref().map_or(0, String::len);
        HEAD_BYTES + 1 + 4 + self.sender_id.len() + 4 + trace_header + marks + 1 + attributes + self.body.len()
    }

    /// A sent record whose head is still blank: [`super::Head::fill`] writes it.
    pub(in crate::queue) fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(self.record_bytes());
        out.resize(HEAD_BYTES, 0);
        put(&mut out, self.sender_id.as_bytes());
        let flag = |is_there: bool, flag: u8| if is_there { flag } else { 0 };
        out.push(
            flag(self.trace_header.is_some(), TRACE_HEADER)
                | flag(self.group_id.is_some(), GROUP_ID)
                | flag(self.deduplication_id.is_some(), DEDUPLICATION_ID),
        );
        put(&mut out, self.trace_header.as_deref().unwrap_or_default().as_bytes());
        for text in [&self.group_id, &self.deduplication_id].into_iter().flatten() {
            put(&mut out, text.as_bytes());
        }
        out.push(u8::try_from(self.attributes.len()).unwrap_or(u8::MAX)); // at most ten, checked at the edge
        for attribute in self.attributes.iter().take(usize::from(u8::MAX)) {
            put(&mut out, attribute.name.as_bytes());
            put(&mut out, attribute.data_type.as_bytes());
            out.push(u8::from(matches!(attribute.value, AttributeValue::Binary(_))));
            put(&mut out, attribute.value.bytes());
        }
        out.extend(self.body.as_bytes());
        out
    }

    /// # Errors
    /// A sentence that says what was expected.
    pub(in crate::queue) fn decode(content: &[u8]) -> Result<Self, String> {
        let mut from = Reader(content);
        let (sender_id, trace_header, marks) = beginning(&mut from)?;
        let mut attributes = Vec::new();
        for _ in 0..from.u8()? {
            let (name, data_type) = (from.text()?, from.text()?);
            let binary = from.u8()? != 0;
            let value = if binary {
                AttributeValue::Binary(from.bytes()?.to_vec())
            } else {
                AttributeValue::Text(from.text()?)
            };
            attributes.push(MessageAttribute { name, data_type, value });
        }
        Ok(Self {
            body: utf8(from.0)?,
            attributes,
            trace_header: trace_header.map(str::to_owned),
            sender_id: sender_id.to_owned(),
            group_id: marks.group_id.map(str::to_owned),
            deduplication_id: marks.deduplication_id.map(str::to_owned),
        })
    }

    /// Reads nothing but the marks, which stand near the beginning. Content that cannot be read has none.
    pub(in crate::queue) fn marks(content: &[u8]) -> Marks<'_> {
        beginning(&mut Reader(content)).map(|(.., marks)| marks).unwrap_or_default()
    }
}

/// Sender, trace header and marks.
fn beginning<'a>(from: &mut Reader<'a>) -> Result<(&'a str, Option<&'a str>, Marks<'a>), String> {
    let sender_id = from.str()?;
    let flags = from.u8()?;
    if flags & !(TRACE_HEADER | GROUP_ID | DEDUPLICATION_ID) != 0 {
        return Err(format!("content of a queue record has unknown flags {flags}"));
    }
    let trace_header = Some(from.str()?).filter(|_| flags & TRACE_HEADER != 0);
    let mut marks = Marks::default();
    if flags & GROUP_ID != 0 {
        marks.group_id = Some(from.str()?);
    }
    if flags & DEDUPLICATION_ID != 0 {
        marks.deduplication_id = Some(from.str()?);
    }
    Ok((sender_id, trace_header, marks))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn content_survives(body in ".{0,200}", sender in "[A-Z0-9]{0,20}", trace in proptest::option::of(".{0,40}"),
            group in proptest::option::of(".{0,40}"), deduplication in proptest::option::of(".{0,40}"),
            attributes in proptest::collection::vec((".{1,9}", "[a-z]{1,9}", proptest::option::of(".{0,9}"), proptest::collection::vec(any::<u8>(), 0..9)), 0..10)) {
            let attributes = attributes.into_iter().map(|(name, data_type, text, bytes)| MessageAttribute {
                name, data_type, value: text.map_or(AttributeValue::Binary(bytes), AttributeValue::Text),
            }).collect();
            let content = Content {
                body, attributes, trace_header: trace, sender_id: sender, group_id: group, deduplication_id: deduplication,
            };
            let encoded = content.encode();
            prop_assert!(encoded.len() <= content.record_bytes());
            let encoded = &encoded[HEAD_BYTES..];
            let marks = Content::marks(encoded);
            prop_assert_eq!(marks.group_id, content.group_id.as_deref());
            prop_assert_eq!(marks.deduplication_id, content.deduplication_id.as_deref());
            prop_assert_eq!(Content::decode(encoded), Ok(content));
        }

        #[test]
        fn garbage_is_refused_without_a_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let _ = Content::decode(&bytes);
            let _ = Content::marks(&bytes);
        }
    }
}
