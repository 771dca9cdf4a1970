//! Logs from the OTLP doors.

use futures::FutureExt;
use futures::future::BoxFuture;

use super::Logs;
use crate::edge::otlp::{ExportLogsServiceRequest, OtlpError, Partial, Sink};
use crate::signals::ITEMS_MAX;

impl Sink<ExportLogsServiceRequest> for Logs {
    fn export(&self, request: ExportLogsServiceRequest) -> BoxFuture<'_, Result<Partial, OtlpError>> {
        async move {
            let scopes = request.resource_logs.iter().flat_map(|group| &group.scope_logs);
            let records: usize = scopes.map(|scope| scope.log_records.len()).sum();
            if records > ITEMS_MAX {
                return Err(OtlpError::TooLarge(format!("a request holds at most {ITEMS_MAX} log records")));
            }
            if records > 0 {
                self.store.keep(request).await?;
            }
            Ok(Partial { accepted: records as u64, ..Partial::default() })
        }
        .boxed()
    }
}
