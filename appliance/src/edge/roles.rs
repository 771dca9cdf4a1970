//! Extractors that say which role a handler needs.

use axum::extract::FromRequestParts;
use http::StatusCode;
use http::request::Parts;

use super::ApiError;
use crate::identity::{Principal, Role};

macro_rules! role {
    ($(#[$doc:meta])* $name:ident, $allowed:expr, $needed:literal) => {
        $(#[$doc])*
        #[derive(Clone, Debug)]
        pub struct $name(pub Principal);

        impl<S: Send + Sync> FromRequestParts<S> for $name {
            type Rejection = ApiError;

            async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, ApiError> {
                let principal = parts.extensions.get::<Principal>().ok_or_else(|| {
                    ApiError::new(StatusCode::UNAUTHORIZED, "unauthenticated", "this needs a key")
                        .hint("send HTTP Basic with an access key id and its secret, or sign in at /")
                })?;
                let allowed: fn(Role) -> bool = $allowed;
                if allowed(principal.role) {
                    return Ok(Self(principal.clone()));
                }
                Err(ApiError::new(
                    StatusCode::FORBIDDEN,
                    "forbidden",
                    format!("key {} has the role {:?}; this needs {}", principal.key_id, principal.role, $needed),
                )
                .hint("make a key with `backlot key create --role …`"))
            }
        }
    };
}

role!(
    /// Any key.
    Viewer, |_| true, "any"
);
role!(
    /// A key that may change things.
    Operator, Role::operates, "operator or admin"
);
role!(
    /// An agent's key, or one that may change things.
    Worker, Role::works, "agent, operator or admin"
);
role!(
    /// An admin's key.
    Admin, |role| role == Role::Admin, "admin"
);
