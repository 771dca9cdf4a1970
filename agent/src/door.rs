//! The appliance's http door as an agent uses it: registration and attempt events.

use std::time::Duration;

use backlot_wire::{AgentRegistration, AttemptEvents, Directive, EventsAnswer};
use base64::Engine as _;
use bytes::Bytes;
use http::{Method, Request, StatusCode};
use serde::Deserialize;

use crate::http_client::HttpClient;

/// An answer that takes longer is none: the next try may find an appliance that is back.
const TIMEOUT: Duration = Duration::from_secs(5);

#[derive(Clone, Debug, thiserror::Error)]
pub enum DoorError {
    /// Nobody answered, or somebody who cannot take it now. The same again later may work.
    #[error("{0}")]
    Away(String),
    /// It was understood and refused: the same again would be refused again.
    #[error("the appliance refused it with {status}: {message}")]
    Refused { status: u16, message: String },
}

/// Cheap to clone.
#[derive(Clone)]
pub struct Door {
    client: HttpClient,
    base: String,
    authorization: String,
}

/// `Authorization` of the http and OTLP doors for an access key.
#[must_use]
pub fn basic(id: &str, secret: &str) -> String {
    format!("Basic {}", base64::engine::general_purpose::STANDARD.encode(format!("{id}:{secret}")))
}

impl Door {
    #[must_use]
    pub fn new(client: HttpClient, base: &str, authorization: String) -> Self {
        Self { client, base: base.trim_end_matches('/').to_owned(), authorization }
    }

    /// Says what this agent can run. The answer may ask it to drain.
    ///
    /// # Errors
    /// [`DoorError`].
    pub async fn register(&self, name: &str, registration: &AgentRegistration) -> Result<Directive, DoorError> {
        #[derive(Default, Deserialize)]
        struct Answer {
            #[serde(default)]
            directive: Directive,
        }
        let answer = self.send(Method::PUT, &format!("/v1/agents/{name}"), registration).await?;
        Ok(serde_json::from_slice::<Answer>(&answer).unwrap_or_default().directive)
    }

    /// Reports what happened to an attempt; without events it is a heartbeat.
    ///
    /// # Errors
    /// [`DoorError`].
    pub async fn report(&self, attempt: &str, events: &AttemptEvents) -> Result<EventsAnswer, DoorError> {
        let answer = self.send(Method::POST, &format!("/v1/attempts/{attempt}/events"), events).await?;
        serde_json::from_slice(&answer)
            .map_err(|error| DoorError::Away(format!("an answer that is none of the appliance's: {error}")))
    }

    async fn send(&self, method: Method, path: &str, body: &impl serde::Serialize) -> Result<Bytes, DoorError> {
        let refused = |message: String| DoorError::Refused { status: 0, message };
        let body = serde_json::to_vec(body).map_err(|error| refused(error.to_string()))?;
        let request = Request::builder()
            .method(method)
            .uri(format!("{}{path}", self.base))
            .header(http::header::AUTHORIZATION, &self.authorization)
            .header(http::header::CONTENT_TYPE, "application/json")
            .body(Bytes::from(body))
            .map_err(|error| refused(error.to_string()))?;
        let answer = self.client.send(request, TIMEOUT).await.map_err(|error| DoorError::Away(error.to_string()))?;
        let status = answer.status();
        if status.is_success() {
            return Ok(answer.into_body());
        }
        let message = String::from_utf8_lossy(answer.body()).chars().take(500).collect();
        // A key that is not taken is the operator's to mend: what was to be reported must outlast that.
        let later = matches!(
            status,
            StatusCode::UNAUTHORIZED
                | StatusCode::FORBIDDEN
                | StatusCode::REQUEST_TIMEOUT
                | StatusCode::TOO_MANY_REQUESTS
        );
        if later || status.is_server_error() {
            return Err(DoorError::Away(format!("{status}: {message}")));
        }
        Err(DoorError::Refused { status: status.as_u16(), message })
    }
}
