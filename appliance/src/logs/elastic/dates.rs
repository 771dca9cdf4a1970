//! Dates in answers.

use super::Refused;

/// A moment as a request wants it written.
pub(super) fn written_as(ns: i64, format: Option<&str>) -> Result<String, Refused> {
    let full = crate::signals::rfc3339_ns(ns);
    let seconds = full.split('.').next().unwrap_or_default();
    Ok(match format.and_then(|format| format.split("||").next()) {
        None
        | Some("strict_date_optional_time" | "date_optional_time" | "strict_date_time" | "date_time" | "iso8601") => {
            format!("{seconds}.{:03}Z", ns.rem_euclid(1_000_000_000) / 1_000_000)
        }
        Some("strict_date_optional_time_nanos") => full,
        Some("epoch_millis") => ns.div_euclid(1_000_000).to_string(),
        Some("epoch_second") => ns.div_euclid(1_000_000_000).to_string(),
        Some("yyyy-MM-dd" | "strict_date" | "date") => backlot_windows::clip(seconds, 10).to_owned(),
        Some(other) => {
            return Err(Refused::illegal(format!(
                "the format [{}] of dates is not supported",
                backlot_windows::clip(other, 80)
            )));
        }
    })
}
