//! Functions of a calendar: a value is read as Unix seconds, in UTC.

/// The function called `name`, if it is one of these.
pub(super) fn function(name: &str) -> Option<fn(f64) -> f64> {
    Some(match name {
        "minute" => |seconds| field(seconds, |moment| u16::from(moment.minute())),
        "hour" => |seconds| field(seconds, |moment| u16::from(moment.hour())),
        "day_of_week" => |seconds| field(seconds, |moment| u16::from(moment.weekday().number_days_from_sunday())),
        "day_of_month" => |seconds| field(seconds, |moment| u16::from(moment.day())),
        "day_of_year" => |seconds| field(seconds, time::OffsetDateTime::ordinal),
        "days_in_month" => |seconds| field(seconds, |moment| u16::from(moment.month().length(moment.year()))),
        "month" => |seconds| field(seconds, |moment| u16::from(u8::from(moment.month()))),
        "year" => |seconds| moment(seconds).map_or(f64::NAN, |moment| f64::from(moment.year())),
        _ => return None,
    })
}

fn moment(seconds: f64) -> Option<time::OffsetDateTime> {
    if seconds.is_nan() {
        return None;
    }
    time::OffsetDateTime::from_unix_timestamp(seconds as i64).ok()
}

fn field(seconds: f64, of: impl Fn(time::OffsetDateTime) -> u16) -> f64 {
    moment(seconds).map_or(f64::NAN, |moment| f64::from(of(moment)))
}

#[cfg(test)]
mod tests {
    use super::function;

    #[test]
    fn a_leap_day_is_read_field_by_field() {
        let leap_day_s = 1_709_211_845.0; // 2024-02-29T13:04:05Z, a Thursday
        let read = |name: &str| function(name).map(|f| f(leap_day_s));
        let names = ["minute", "hour", "day_of_week", "day_of_month", "day_of_year", "days_in_month", "month", "year"];
        let expected = [4.0, 13.0, 4.0, 29.0, 60.0, 29.0, 2.0, 2024.0];
        for (name, expected) in names.into_iter().zip(expected) {
            assert_eq!(read(name), Some(expected), "{name}");
        }
        assert!(function("hour").is_some_and(|f| f(f64::NAN).is_nan() && f(1e300).is_nan()));
    }
}
