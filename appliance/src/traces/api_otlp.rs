//! Spans from the OTLP doors.

use futures::FutureExt;
use futures::future::BoxFuture;

use super::Traces;
use super::model::is_valid;
use crate::edge::otlp::{ExportTraceServiceRequest, OtlpError, Partial, Sink};
use crate::signals::ITEMS_MAX;

impl Sink<ExportTraceServiceRequest> for Traces {
    fn export(&self, mut request: ExportTraceServiceRequest) -> BoxFuture<'_, Result<Partial, OtlpError>> {
        async move {
            let (mut accepted, mut rejected) = (0, 0);
            for scoped in request.resource_spans.iter_mut().flat_map(|group| &mut group.scope_spans) {
                let before = scoped.spans.len();
                scoped.spans.retain(is_valid);
                accepted += scoped.spans.len() as u64;
                rejected += (before - scoped.spans.len()) as u64;
            }
            if accepted + rejected > ITEMS_MAX as u64 {
                return Err(OtlpError::TooLarge(format!("a request holds at most {ITEMS_MAX} spans")));
            }
            if accepted > 0 {
                self.store.keep(request).await?;
            }
            let message = if rejected > 0 { "spans without a valid trace id and span id were not taken" } else { "" };
            Ok(Partial { accepted, rejected, message: message.to_owned() })
        }
        .boxed()
    }
}
