//! What stands in the messages: made from their number, so that whoever receives one knows what it must be.

use rand::Rng;
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use serde_json::{Value, json};

use super::history::Number;

/// Characters that have been trouble in one encoding or another.
const ALPHABET: [char; 24] = [
    'a', 'e', 'n', 'r', 't', ' ', '0', '9', '<', '>', '&', '"', '\'', '\\', '/', '\n', '\r', '\t', 'é', 'ß', '漢',
    '🎬', '\u{fffd}', '%',
];
/// Every so many messages have attributes.
const ATTRIBUTES_EVERY: Number = 4;
/// Numbers from here on are those of large messages, which fill a disk.
pub(super) const LARGE: Number = 1 << 40;

/// A message as it is sent and must be received.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Content {
    pub(super) body: String,
    /// As `MessageAttributes` of a call; null for none.
    pub(super) attributes: Value,
}

impl Content {
    /// The content of message `number` in the round of `seed`.
    pub(super) fn of(seed: u64, number: Number) -> Self {
        let mut dice = ChaCha8Rng::seed_from_u64(seed ^ number.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        let length = match dice.random_range(0..100) {
            _ if number >= LARGE => 60_000,
            0..70 => dice.random_range(0..400),
            70..92 => dice.random_range(400..4_000),
            92..99 => dice.random_range(4_000..16_000),
            _ => dice.random_range(16_000..60_000),
        };
        let mut body = format!("{number}:");
        body.extend((0..length).map(|_| ALPHABET[dice.random_range(0..ALPHABET.len())]));
        let attributes = if number.is_multiple_of(ATTRIBUTES_EVERY) {
            json!({
                "shot": {"DataType": "Number", "StringValue": number.to_string()},
                "mark": {"DataType": "String", "StringValue": body.chars().rev().take(40).collect::<String>() + "."},
            })
        } else {
            Value::Null
        };
        Self { body, attributes }
    }

    /// The number of a message by what was received, and whether it came as it was sent.
    pub(super) fn recognise(seed: u64, message: &Value) -> (Option<Number>, bool) {
        let body = message["Body"].as_str().unwrap_or_default();
        let number = body.split_once(':').and_then(|(number, _)| number.parse().ok());
        let Some(number) = number else { return (None, false) };
        let sent = Self::of(seed, number);
        (Some(number), sent.body == body && sent.attributes == message["MessageAttributes"])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_is_recognised_and_one_changed_byte_is_seen() {
        let Content { body, attributes } = Content::of(7, 12);
        let message = json!({"Body": body, "MessageAttributes": attributes});
        assert_eq!(Content::recognise(7, &message), (Some(12), true));
        assert_eq!(Content::recognise(8, &message), (Some(12), false));
        let mut changed = message.clone();
        changed["Body"] = format!("{body} ").into();
        assert_eq!(Content::recognise(7, &changed), (Some(12), false));
        let mut bare = message;
        bare["MessageAttributes"] = Value::Null;
        assert_eq!(Content::recognise(7, &bare), (Some(12), false));
        assert_eq!(Content::recognise(7, &json!({"Body": "hello"})), (None, false));
    }
}
