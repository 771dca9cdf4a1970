//! Messages of AWS's event stream: a head, headers, a payload, each with its checksum.

use bytes::{BufMut as _, Bytes, BytesMut};
use serde_json::Value;

/// Type of a header whose value is a text.
const TEXT: u8 = 7;

/// An event of a name.
pub(super) fn event(name: &str, payload: &Value) -> Bytes {
    message(&[(":message-type", "event"), (":event-type", name), (":content-type", "application/json")], payload)
}

/// An exception, which ends the stream.
pub(super) fn exception(name: &str, message_text: &str) -> Bytes {
    let payload = serde_json::json!({"message": message_text});
    let headers = [(":message-type", "exception"), (":exception-type", name), (":content-type", "application/json")];
    message(&headers, &payload)
}

fn message(headers: &[(&str, &str)], payload: &Value) -> Bytes {
    let mut head = BytesMut::new();
    for (name, value) in headers {
        // Names and values are ours, and short.
        head.put_u8(u8::try_from(name.len()).unwrap_or(u8::MAX));
        head.put_slice(name.as_bytes());
        head.put_u8(TEXT);
        head.put_u16(u16::try_from(value.len()).unwrap_or(u16::MAX));
        head.put_slice(value.as_bytes());
    }
    let payload = payload.to_string();
    let total = 4 + 4 + 4 + head.len() + payload.len() + 4;
    let mut whole = BytesMut::with_capacity(total);
    whole.put_u32(u32::try_from(total).unwrap_or(u32::MAX)); // an update is bounded
    whole.put_u32(u32::try_from(head.len()).unwrap_or(u32::MAX));
    whole.put_u32(crc32(&whole));
    whole.put_slice(&head);
    whole.put_slice(payload.as_bytes());
    whole.put_u32(crc32(&whole));
    whole.freeze()
}

fn crc32(bytes: &[u8]) -> u32 {
    let mut crc = flate2::Crc::new();
    crc.update(bytes);
    crc.sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_has_its_lengths_headers_and_checksums() {
        let whole = event("sessionStart", &serde_json::json!({"a": 1}));
        let number = |at: usize| u32::from_be_bytes(*whole[at..].first_chunk().unwrap());
        assert_eq!(number(0) as usize, whole.len());
        assert_eq!(number(8), crc32(&whole[..8]));
        assert_eq!(number(whole.len() - 4), crc32(&whole[..whole.len() - 4]));
        let payload = &whole[12 + number(4) as usize..whole.len() - 4];
        assert_eq!(payload, br#"{"a":1}"#);
        assert_eq!(&whole[12..12 + 14], b"\x0d:message-type");
        assert_eq!(crc32(b"123456789"), 0xCBF4_3926);
    }
}
