//! Who reads through the http door: the same rules as over S3.

use std::net::IpAddr;

use axum::extract::FromRequestParts;
use http::HeaderMap;
use http::request::Parts;

use super::{Action, Ask, Caller, Facts, Holder, Named};
use crate::artifacts::Artifacts;
use crate::artifacts::error::ArtifactError;
use crate::edge::{ApiError, Peer, Viewer};

/// A caller with a key, and what conditions can ask of the request.
pub(crate) struct Reader {
    caller: Caller,
    headers: HeaderMap,
    address: Option<IpAddr>,
}

impl<S: Send + Sync> FromRequestParts<S> for Reader {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ApiError> {
        let Viewer(principal) = Viewer::from_request_parts(parts, state).await?;
        let holder = Holder { key_id: principal.key_id, role: principal.role, account: principal.account };
        let address = parts.extensions.get::<Peer>().map(|peer| peer.0.ip());
        Ok(Self { caller: Caller { holder: Some(holder) }, headers: parts.headers.clone(), address })
    }
}

impl Reader {
    #[must_use]
    pub(crate) fn owns(&self, bucket: &crate::artifacts::BucketInfo) -> bool {
        self.caller.owns(&bucket.owner)
    }

    /// Whether `operation` is permitted on `bucket`, or on an object of it.
    ///
    /// # Errors
    /// [`ArtifactError::AccessDenied`].
    pub(crate) fn permit(
        &self,
        artifacts: &Artifacts,
        operation: &str,
        bucket: &str,
        key: Option<&str>,
    ) -> Result<(), ArtifactError> {
        let action = Action::of(operation).ok_or(ArtifactError::AccessDenied)?;
        let (headers, caller, now_ms) = (&self.headers, &self.caller, artifacts.now().wall_ms);
        let facts = Facts { headers, query: "", caller, address: self.address, now_ms };
        let object = Named { artifacts, bucket, key, version: None };
        let values = |name: &str| facts.values(name, &object);
        artifacts.permit(&Ask { caller, action, bucket, key, version: None, values: &values })
    }
}
