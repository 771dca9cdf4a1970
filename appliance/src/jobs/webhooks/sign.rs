//! How a webhook's body is signed: the Standard Webhooks scheme, version 1.
//!
//! `webhook-signature` is `v1,` and the base64 of HMAC-SHA256 over `{id}.{timestamp}.{body}`, under the bytes of the secret. A secret is shown
//! as `whsec_` and their base64.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use ring::hmac;
use ring::rand::{SecureRandom, SystemRandom};

const PREFIX: &str = "whsec_";
const BYTES: std::ops::RangeInclusive<usize> = 24..=64;
const BYTES_MADE: usize = 32;

/// A new secret, as it is shown once.
pub(super) fn new_secret() -> Result<String, String> {
    let mut bytes = [0; BYTES_MADE];
    SystemRandom::new().fill(&mut bytes).map_err(|_| "the system gave no random bytes".to_owned())?;
    Ok(format!("{PREFIX}{}", BASE64.encode(bytes)))
}

/// The bytes of a secret as it is shown.
///
/// # Errors
/// A sentence that does not repeat it.
pub(super) fn secret_bytes(secret: &str) -> Result<Vec<u8>, String> {
    let bytes = secret.strip_prefix(PREFIX).and_then(|text| BASE64.decode(text).ok());
    bytes.filter(|bytes| BYTES.contains(&bytes.len())).ok_or_else(|| {
        format!(
            "`secret` is `{PREFIX}` and the base64 of {} to {} bytes; leave it out to have one made",
            BYTES.start(),
            BYTES.end()
        )
    })
}

/// The value of `webhook-signature`.
pub(super) fn signature(secret: &[u8], id: &str, timestamp_s: u64, body: &[u8]) -> String {
    let key = hmac::Key::new(hmac::HMAC_SHA256, secret);
    let mut context = hmac::Context::with_key(&key);
    context.update(format!("{id}.{timestamp_s}.").as_bytes());
    context.update(body);
    format!("v1,{}", BASE64.encode(context.sign()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_signature_is_what_another_implementation_makes() {
        // python: base64(hmac.new(b"0123456789abcdef01234567", b'msg_1.1700000000.{"a":1}', sha256).digest())
        let secret = secret_bytes("whsec_MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3").unwrap();
        assert_eq!(signature(&secret, "msg_1", 1_700_000_000, br#"{"a":1}"#), format!("v1,{EXPECTED}"));
    }

    const EXPECTED: &str = "WUgAXU8H0NQ1/7M+TtMwKma2b74a3/TCgekiM3YUdN8=";

    #[test]
    fn a_made_secret_is_a_good_one_and_a_bad_one_is_not_repeated() {
        let secret = new_secret().unwrap();
        assert_eq!(secret_bytes(&secret).unwrap().len(), BYTES_MADE);
        for bad in ["", "hunter2", "whsec_", "whsec_aHVudGVyMg==", "whsec_???"] {
            let problem = secret_bytes(bad).unwrap_err();
            assert!(bad.len() < 7 || !problem.contains(bad), "{problem}");
        }
    }
}
