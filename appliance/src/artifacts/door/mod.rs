//! The whole store as a door to another S3, with `artifacts.engine = "s3"`: the media stay where they are, and everybody asks here.
//!
//! A request is verified as it is for this machine's own store, and its key's role is asked ([`operation`]). Then it goes on, signed anew
//! with the operator's credentials, and the answer comes back as the other S3 gave it, both as streams ([`send`], [`bodies`]). So
//! every operation of the other S3 works, also those that our own store lacks.
//!
//! Invariants: nothing goes on that was not verified, and of a body not the last piece before all of it was; no secret of the operator
//! comes back; an error that is about our credentials is never told as one about the caller's.
//!
//! Absent on purpose: a catalogue, bytes, journal records: nothing is kept here. Versions, locks, lifecycle, encryption, policies, events,
//! quotas and websites are the other S3's. Forms (POST) are refused: their signature is over fields that only the one who signed can
//! write anew. Accounts are no owners of anything there, so only keys of the house pass; whoever has none is refused.

pub mod api_http;
mod api_s3;
mod bodies;
mod examine;
mod headers;
mod keyring;
mod mapping;
mod operation;
mod place;
mod reader;
mod send;
#[cfg(test)]
mod tests;
mod verdict;

use std::sync::Arc;
use std::time::Duration;

use backlot_wire::metrics::UPSTREAM_UP;
use http::Method;
use parking_lot::Mutex;
use tokio_util::sync::CancellationToken;

pub use api_s3::{Closed, service};
pub use examine::{Finding, examine};
pub use reader::ReadError;
pub(super) use reader::{gather, text};
pub use send::Trouble;

use self::keyring::Keyring;
use self::place::{Named, Place};
use self::send::{Call, Sender};
use crate::clock::Clock;
use crate::config::UpstreamConfig;
use crate::tasks::Stage;
use crate::telemetry::gauge;

/// How often the other S3 is asked whether it is there.
const ASK_EVERY: Duration = Duration::from_secs(15);

/// The other S3. Cheap to clone.
#[derive(Clone)]
pub struct Upstream(Arc<Shared>);

struct Shared {
    sender: Sender,
    config: UpstreamConfig,
    clock: Arc<dyn Clock>,
    /// What was wrong when it was last asked.
    trouble: Mutex<Option<Trouble>>,
}

impl Upstream {
    /// Nothing is sent: an appliance starts also while the other S3 is away.
    ///
    /// # Errors
    /// The key of section `upstream` that is wrong, and what it should be.
    pub async fn build(config: &UpstreamConfig, clock: Arc<dyn Clock>) -> Result<Self, (&'static str, String)> {
        let place = Place::new(config).map_err(|problem| ("endpoint", problem))?;
        let keyring = Keyring::new(config.other().credentials_provider().await?, config.region.clone());
        let sender = Sender::new(place, keyring, Arc::clone(&clock), config.connections_max);
        let sender = sender.map_err(|problem| ("endpoint", problem))?;
        Ok(Self(Arc::new(Shared { sender, config: config.clone(), clock, trouble: Mutex::default() })))
    }

    /// Starts asking the other S3 whether it is there.
    pub fn start(&self, stage: &Stage) {
        stage.spawn("other S3", watch(self.clone(), stage.stopping()));
    }

    /// What is wrong with the other S3, as a sentence; `None` while all is well.
    #[must_use]
    pub fn trouble(&self) -> Option<String> {
        self.0.trouble.lock().as_ref().map(ToString::to_string)
    }

    /// Asks for the list of buckets. That it may not be read is an answer, too.
    async fn ask(&self) -> Result<(), Trouble> {
        let call = Call::read(Method::GET, Named::default(), "max-buckets=1".to_owned());
        let outcome = match self.0.sender.send(call).await {
            Ok(answer) if answer.status().is_server_error() => {
                let problem = format!("it answers {}", answer.status());
                Err(Trouble::Away { place: self.0.sender.place.shown(), problem })
            }
            Ok(_) | Err(Trouble::Elsewhere { .. }) => Ok(()),
            Err(trouble) => Err(trouble),
        };
        // Our own crowd is no fault of the other S3.
        if !matches!(outcome, Err(Trouble::Busy)) {
            self.learn(outcome.as_ref().err());
        }
        outcome
    }

    fn learn(&self, found: Option<&Trouble>) {
        let before = std::mem::replace(&mut *self.0.trouble.lock(), found.cloned());
        match (before, found) {
            (None, Some(trouble)) => tracing::error!(%trouble, "the other S3 does not answer as it should"),
            (Some(_), None) => tracing::info!("the other S3 answers again"),
            _ => {}
        }
        gauge(&UPSTREAM_UP).record(if found.is_none() { 1.0 } else { 0.0 }, &[]);
    }
}

/// Reads `text` as each value that comes from a caller or from the other S3, and throws the outcome away: for fuzzing.
pub fn fuzz(text: &str) {
    let _ = (Named::read(None, text), Named::read(Some(text), text));
    let named = Named::object(text, text);
    let query = place::query(text);
    assert_eq!(place::query(&query), query, "what is signed does not change when it is read");
    for (endpoint, bucket_prefix) in [(text, ""), ("http://127.0.0.1:9", "acme-")] {
        let config = UpstreamConfig {
            endpoint: endpoint.into(),
            bucket_prefix: bucket_prefix.into(),
            ..UpstreamConfig::default()
        };
        if let Ok(place) = Place::new(&config) {
            let _ = place.address(&named, &query);
            mapping::fuzz(&place, text);
        }
    }
    let _ = bodies::Trailer::named(text);
    reader::fuzz(text.as_bytes());
    send::fuzz(text);
}

async fn watch(upstream: Upstream, stop: CancellationToken) {
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            _ = upstream.ask() => {}
        }
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(ASK_EVERY) => {}
        }
    }
}
