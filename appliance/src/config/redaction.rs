//! What is taken out of logs and traces.

use serde::{Deserialize, Serialize};

/// A regular expression whose matches are taken out.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RedactionRule {
    /// What it is counted under.
    pub name: String,
    pub pattern: String,
}

/// Names under which programs log what opens doors.
pub(super) fn default_keys() -> Vec<String> {
    const KEYS: &[&str] = &[
        "authorization",
        "proxy-authorization",
        "cookie",
        "set-cookie",
        "password",
        "passwd",
        "passphrase",
        "secret",
        "client_secret",
        "secret_key",
        "secret_access_key",
        "aws_secret_access_key",
        "private_key",
        "api_key",
        "x-api-key",
        "token",
        "access_token",
        "refresh_token",
        "id_token",
        "auth_token",
        "x-auth-token",
        "session_token",
        "aws_session_token",
        "x-amz-security-token",
        "csrf_token",
        "credentials",
    ];
    KEYS.iter().map(|key| (*key).to_owned()).collect()
}
