//! Durations as Prometheus writes them: `15s`, `1h30m`.

/// Milliseconds of `text`; `0` is one.
pub(crate) fn parse_ms(text: &str) -> Result<u64, String> {
    let refuse = || format!("`{text}` is no duration such as 30s, 5m or 1h30m");
    if text == "0" {
        return Ok(0);
    }
    let units: [(&str, u64); 7] = [
        ("ms", 1),
        ("y", 31_536_000_000),
        ("w", 604_800_000),
        ("d", 86_400_000),
        ("h", 3_600_000),
        ("m", 60_000),
        ("s", 1000),
    ];
    let (mut rest, mut total, mut last_unit_ms) = (text, 0_u64, u64::MAX);
    if rest.is_empty() {
        return Err(refuse());
    }
    while !rest.is_empty() {
        let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
        let count: u64 = rest[..digits].parse().map_err(|_| refuse())?;
        rest = &rest[digits..];
        let (unit, unit_ms) = units.iter().find(|(unit, _)| rest.starts_with(unit)).ok_or_else(refuse)?;
        if *unit_ms >= last_unit_ms {
            return Err(refuse());
        }
        last_unit_ms = *unit_ms;
        rest = &rest[unit.len()..];
        total = count.checked_mul(*unit_ms).and_then(|ms| total.checked_add(ms)).ok_or_else(refuse)?;
    }
    // A century is more than any rule waits, and keeps every sum of such durations in range.
    if total > 100 * 31_536_000_000 { Err(refuse()) } else { Ok(total) }
}

#[cfg(test)]
mod tests {
    use super::parse_ms;

    #[test]
    fn durations_read_as_in_prometheus() {
        assert_eq!(parse_ms("1h30m"), Ok(5_400_000));
        assert_eq!(parse_ms("0"), Ok(0));
        assert_eq!(parse_ms("0s"), Ok(0));
        for bad in ["", "5", "m", "1m1h", "1s1s", "-1s", "99999999999999999999s", "101y"] {
            assert!(parse_ms(bad).is_err(), "{bad}");
        }
    }
}
