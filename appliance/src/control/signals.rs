//! What a journal says of itself on `/metrics`.

use std::sync::Arc;

use backlot_journal::{Journal, Options};
use backlot_wire::metrics::{JOURNAL_BYTES, JOURNAL_FULL, JOURNAL_GROUP_RECORDS, JOURNAL_SYNC_DURATION};
use opentelemetry::KeyValue;

use crate::telemetry;

/// Has the journal called `name` report each sync. Call it before the journal is opened and after the meter is installed.
pub fn instrument_journal(options: &mut Options, name: &'static str) {
    let label = [KeyValue::new("journal", name)];
    let (duration, records) =
        (telemetry::histogram(&JOURNAL_SYNC_DURATION), telemetry::counter(&JOURNAL_GROUP_RECORDS));
    options.on_sync = Some(Arc::new(move |synced| {
        duration.record(synced.took.as_secs_f64(), &label);
        records.add(synced.records, &label);
    }));
}

/// Reports what the journal takes on disk. Called now and then.
pub fn report_journal(journal: &Journal, name: &'static str) {
    let (stats, label) = (journal.stats(), [KeyValue::new("journal", name)]);
    telemetry::gauge(&JOURNAL_BYTES).record(stats.disk_bytes as f64, &label);
    telemetry::gauge(&JOURNAL_FULL).record(f64::from(u8::from(stats.full)), &label);
}
