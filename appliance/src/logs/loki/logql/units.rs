//! Lengths of time and sizes, as Go and Loki write them: `1h30m`, `250ms`, `1.5d`, `5KB`, `10MiB`.

/// Units of time and their nanoseconds. Longer names stand before those that they end with or begin with.
const TIMES: [(&str, f64); 10] = [
    ("ns", 1.0),
    ("us", 1e3),
    ("µs", 1e3),
    ("ms", 1e6),
    ("s", 1e9),
    ("m", 60e9),
    ("h", 3600e9),
    ("d", 86_400e9),
    ("w", 604_800e9),
    ("y", 31_536_000e9),
];

const SIZES: [(&str, f64); 17] = [
    ("", 1.0),
    ("b", 1.0),
    ("kb", 1e3),
    ("k", 1e3),
    ("kib", 1024.0),
    ("ki", 1024.0),
    ("mb", 1e6),
    ("m", 1e6),
    ("mib", 1_048_576.0),
    ("mi", 1_048_576.0),
    ("gb", 1e9),
    ("g", 1e9),
    ("gib", 1_073_741_824.0),
    ("gi", 1_073_741_824.0),
    ("tb", 1e12),
    ("tib", 1_099_511_627_776.0),
    ("pb", 1e15),
];

/// A length of time in nanoseconds: numbers with units, one after the other. Nothing beyond 290 years is one.
pub(crate) fn duration_ns(text: &str) -> Option<i64> {
    let (sign, mut rest) = match text.strip_prefix('-') {
        Some(rest) => (-1.0, rest),
        None => (1.0, text),
    };
    if rest == "0" {
        return Some(0);
    }
    let mut total = 0.0;
    if rest.is_empty() {
        return None;
    }
    while !rest.is_empty() {
        let end = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let number: f64 = rest[..end].parse().ok()?;
        rest = &rest[end..];
        let end = rest.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(rest.len());
        let (_, each) = TIMES.iter().find(|(unit, _)| *unit == &rest[..end])?;
        total += number * each;
        rest = &rest[end..];
    }
    (total < 9.2e18).then_some((sign * total) as i64)
}

/// A size in bytes; units are read whatever their case.
pub(crate) fn bytes(text: &str) -> Option<f64> {
    let text = text.trim();
    let end = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let number: f64 = text[..end].parse().ok()?;
    let unit = text[end..].trim().to_ascii_lowercase();
    let (_, each) = SIZES.iter().find(|(name, _)| *name == unit)?;
    Some(number * each)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_and_sizes_are_read_as_go_writes_them() {
        for (text, ns) in [
            ("5m", Some(300_000_000_000)),
            ("1h30m", Some(5_400_000_000_000)),
            ("1.5s", Some(1_500_000_000)),
            ("250ms", Some(250_000_000)),
            ("-2d", Some(-172_800_000_000_000)),
            ("3µs", Some(3000)),
            ("0", Some(0)),
            ("", None),
            ("5", None),
            ("m", None),
            ("5x", None),
            ("1.2.3s", None),
            ("99999999y", None),
        ] {
            assert_eq!(duration_ns(text), ns, "{text}");
        }
        for (text, size) in [
            ("5KB", Some(5000.0)),
            ("1.5MiB", Some(1_572_864.0)),
            ("7", Some(7.0)),
            ("2 gb", Some(2e9)),
            ("x", None),
            ("5q", None),
        ] {
            assert_eq!(bytes(text), size, "{text}");
        }
    }
}
