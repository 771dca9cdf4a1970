//! How many messages a protobuf body holds, before it is unpacked into memory.

/// Most messages of one body. A full body of 16 MiB made of short attributes has about a million.
pub(super) const MESSAGES_MAX: usize = 1_000_000;
/// Nesting that is followed; prost refuses more than a hundred levels anyway.
const DEPTH_MAX: usize = 100;

/// Which fields of a message are messages, and of what shape.
pub struct Shape(&'static [(u32, &'static Shape)]);

static LEAF: Shape = Shape(&[]);
static ANY: Shape = Shape(&[(5, &Shape(&[(1, &ANY)])), (6, &Shape(&[(1, &KEY_VALUE)]))]);
static KEY_VALUE: Shape = Shape(&[(2, &ANY)]);
static RESOURCE: Shape = Shape(&[(1, &KEY_VALUE), (3, &LEAF)]);
static SCOPE: Shape = Shape(&[(3, &KEY_VALUE)]);
static LOG_RECORD: Shape = Shape(&[(5, &ANY), (6, &KEY_VALUE)]);
static EVENT: Shape = Shape(&[(3, &KEY_VALUE)]);
static LINK: Shape = Shape(&[(4, &KEY_VALUE)]);
static SPAN: Shape = Shape(&[(9, &KEY_VALUE), (11, &EVENT), (13, &LINK), (15, &LEAF)]);
static EXEMPLAR: Shape = Shape(&[(7, &KEY_VALUE)]);
static NUMBER_POINT: Shape = Shape(&[(5, &EXEMPLAR), (7, &KEY_VALUE)]);
static NUMBERS: Shape = Shape(&[(1, &NUMBER_POINT)]);
static HISTOGRAM: Shape = Shape(&[(1, &Shape(&[(8, &EXEMPLAR), (9, &KEY_VALUE)]))]);
static EXPONENTIAL: Shape = Shape(&[(1, &Shape(&[(1, &KEY_VALUE), (8, &LEAF), (9, &LEAF), (11, &EXEMPLAR)]))]);
static SUMMARY: Shape = Shape(&[(1, &Shape(&[(6, &LEAF), (7, &KEY_VALUE)]))]);
static METRIC: Shape =
    Shape(&[(5, &NUMBERS), (7, &NUMBERS), (9, &HISTOGRAM), (10, &EXPONENTIAL), (11, &SUMMARY), (12, &KEY_VALUE)]);

macro_rules! request {
    ($item:expr) => {
        Shape(&[(1, &Shape(&[(1, &RESOURCE), (2, &Shape(&[(1, &SCOPE), (2, $item)]))]))])
    };
}
pub(super) static LOGS: Shape = request!(&LOG_RECORD);
pub(super) static SPANS: Shape = request!(&SPAN);
pub(super) static METRICS: Shape = request!(&METRIC);

/// Whether `body` holds at most [`MESSAGES_MAX`] messages. What is no protobuf is left to the decoder to refuse.
pub(super) fn are_few(body: &[u8], shape: &Shape) -> bool {
    let mut left = MESSAGES_MAX;
    count(body, shape, DEPTH_MAX, &mut left);
    left > 0
}

fn count(mut body: &[u8], shape: &Shape, depth: usize, left: &mut usize) {
    while let Some(key) = varint(&mut body) {
        if *left == 0 {
            return;
        }
        let skipped = match key & 7 {
            0 => varint(&mut body).map(|_| ()),
            1 => take(&mut body, 8).map(|_| ()),
            5 => take(&mut body, 4).map(|_| ()),
            2 => varint(&mut body).and_then(|length| usize::try_from(length).ok()).and_then(|length| {
                let inner = take(&mut body, length)?;
                if let Some((_, shape)) = shape.0.iter().find(|(field, _)| u64::from(*field) == key >> 3) {
                    *left = left.saturating_sub(1);
                    if depth > 0 {
                        count(inner, shape, depth - 1, left);
                    }
                }
                Some(())
            }),
            _ => None,
        };
        if skipped.is_none() {
            return;
        }
    }
}

fn varint(body: &mut &[u8]) -> Option<u64> {
    let mut value = 0_u64;
    for shift in (0..64).step_by(7) {
        let (first, rest) = body.split_first()?;
        *body = rest;
        value |= u64::from(first & 0x7f) << shift;
        if first & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}

fn take<'a>(body: &mut &'a [u8], bytes: usize) -> Option<&'a [u8]> {
    let (taken, rest) = body.split_at_checked(bytes)?;
    *body = rest;
    Some(taken)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_body_of_empty_records_is_too_many() {
        let nested = |field: u8, inner: &[u8]| {
            let mut out = vec![field << 3 | 2];
            let mut length = inner.len();
            while length >= 0x80 {
                out.push((length & 0x7f) as u8 | 0x80);
                length >>= 7;
            }
            out.push(length as u8);
            out.extend(inner);
            out
        };
        let body = |records: usize| nested(1, &nested(2, &[0x12, 0].repeat(records)));
        assert!(are_few(&body(900_000), &LOGS));
        assert!(!are_few(&body(1_100_000), &LOGS));
        assert!(are_few(&[0xff; 100], &LOGS), "garbage is for the decoder to refuse");
    }
}
