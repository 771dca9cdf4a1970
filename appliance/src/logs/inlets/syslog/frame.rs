//! Where one message ends and the next begins on a connection (RFC 6587): counted by its sender, or ended by a line break. Both
//! may come on one connection; a message that begins with a number and a space is counted.

use bytes::{Buf as _, BytesMut};

/// Most digits of a count.
const DIGITS_MAX: usize = 9;

/// One message, without its line break.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Frame {
    pub(super) bytes: Vec<u8>,
    /// It was longer than is taken, and this is its beginning.
    pub(super) cut: bool,
}

/// Takes a connection's bytes apart, in at most `bytes_max` and what is handed in at once.
pub(super) struct Framer {
    bytes_max: usize,
    buffer: BytesMut,
    skip: Skip,
    /// Bytes of the buffer that have no line break.
    searched: usize,
}

/// What is left of a message that was too long.
enum Skip {
    Nothing,
    Bytes(usize),
    Line,
}

enum Head {
    /// This many digits count this many bytes.
    Count(usize, usize),
    Line,
    /// Only digits so far.
    Unknown,
}

impl Framer {
    pub(super) fn new(bytes_max: usize) -> Self {
        Self { bytes_max, buffer: BytesMut::new(), skip: Skip::Nothing, searched: 0 }
    }

    /// Where to put what comes. Take all messages out before the next bytes.
    pub(super) fn buffer(&mut self) -> &mut BytesMut {
        &mut self.buffer
    }

    /// The next whole message, or the beginning of one that is too long.
    pub(super) fn next(&mut self) -> Option<Frame> {
        loop {
            match self.skip {
                Skip::Nothing => {}
                Skip::Bytes(left) => {
                    let now = left.min(self.buffer.len());
                    self.buffer.advance(now);
                    if now < left {
                        self.skip = Skip::Bytes(left - now);
                        return None;
                    }
                }
                Skip::Line => match memchr::memchr(b'\n', &self.buffer) {
                    Some(at) => self.buffer.advance(at + 1),
                    None => {
                        self.buffer.clear();
                        return None;
                    }
                },
            }
            self.skip = Skip::Nothing;
            // Some senders end a counted message with a line break or NUL all the same.
            let between = self.buffer.iter().take_while(|byte| matches!(byte, b'\n' | b'\r' | 0)).count();
            self.buffer.advance(between);
            self.searched = self.searched.saturating_sub(between);
            let max = self.bytes_max;
            match head(&self.buffer) {
                Head::Unknown => return None,
                Head::Count(digits, count) => {
                    if self.buffer.len() < digits + 1 + count.min(max) {
                        return None;
                    }
                    self.buffer.advance(digits + 1);
                    self.searched = 0;
                    if count > max {
                        self.skip = Skip::Bytes(count - max);
                    }
                    let bytes = self.buffer.split_to(count.min(max));
                    if let Some(frame) = frame(&bytes, count > max) {
                        return Some(frame);
                    }
                }
                Head::Line => {
                    let found = memchr::memchr(b'\n', &self.buffer[self.searched..]).map(|at| at + self.searched);
                    let end = found.unwrap_or(self.buffer.len());
                    if found.is_none() && end <= max {
                        self.searched = end;
                        return None;
                    }
                    self.searched = 0;
                    let bytes = self.buffer.split_to(end.min(max));
                    if end > max {
                        self.skip = Skip::Line;
                    }
                    if let Some(frame) = frame(&bytes, end > max) {
                        return Some(frame);
                    }
                }
            }
        }
    }

    /// What came of a message whose sender went away in its middle.
    pub(super) fn end(&mut self) -> Option<Frame> {
        let rest = self.buffer.split();
        if matches!(self.skip, Skip::Nothing) { frame(&rest, false) } else { None }
    }
}

fn frame(bytes: &[u8], cut: bool) -> Option<Frame> {
    let end = bytes.iter().rposition(|byte| !matches!(byte, b'\n' | b'\r' | 0)).map_or(0, |at| at + 1);
    (end > 0).then(|| Frame { bytes: bytes[..end].to_vec(), cut })
}

fn head(buffer: &[u8]) -> Head {
    if !matches!(buffer.first(), Some(b'1'..=b'9')) {
        return Head::Line;
    }
    let digits = buffer.iter().take(DIGITS_MAX + 1).take_while(|byte| byte.is_ascii_digit()).count();
    match buffer.get(digits) {
        None => Head::Unknown,
        Some(b' ') if digits <= DIGITS_MAX => {
            let count = buffer[..digits].iter().fold(0_usize, |count, digit| count * 10 + usize::from(digit - b'0'));
            Head::Count(digits, count)
        }
        Some(_) => Head::Line,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// All messages of what comes in pieces of these sizes.
    fn framed(bytes: &[u8], pieces: &[usize], max: usize) -> Vec<(String, bool)> {
        let mut framer = Framer::new(max);
        let mut frames = Vec::new();
        let mut rest = bytes;
        for size in pieces.iter().copied().cycle() {
            let (piece, behind) = rest.split_at(size.clamp(1, 8).min(rest.len()));
            framer.buffer().extend_from_slice(piece);
            frames.extend(std::iter::from_fn(|| framer.next()));
            assert!(framer.buffer().len() <= max + DIGITS_MAX + 1);
            rest = behind;
            if rest.is_empty() {
                break;
            }
        }
        frames.extend(framer.end());
        frames.into_iter().map(|frame| (String::from_utf8_lossy(&frame.bytes).into_owned(), frame.cut)).collect()
    }

    #[test]
    fn counted_messages_and_lines_are_told_apart_and_long_ones_cut() {
        let bytes = b"5 <1>ab<13>line\r\n\n12 <1>two\nlines\n<2>far too long for this\n31 <3>counted and far too long too<4>end";
        let expected = [
            ("<1>ab", false),
            ("<13>line", false),
            ("<1>two\nlines", false),
            ("<2>far too lon", true),
            ("<3>counted and", true),
            ("<4>end", false),
        ];
        for pieces in [&[1][..], &[8], &[3, 1, 4]] {
            let frames = framed(bytes, pieces, 14);
            assert_eq!(frames, expected.map(|(text, cut)| (text.to_owned(), cut)), "{pieces:?}");
        }
        assert_eq!(
            framed(b"2024 years\n", &[8], 14),
            [("2024 years".to_owned(), false)],
            "what seems to be counted and ends early is kept whole"
        );
        assert_eq!(
            framed(b"1234567890 a\n12", &[8], 14),
            [("1234567890 a".to_owned(), false), ("12".to_owned(), false)]
        );
    }

    proptest! {
        #[test]
        fn the_pieces_in_which_bytes_come_make_no_difference(
            bytes in proptest::collection::vec(prop_oneof![Just(b'\n'), Just(b' '), b'0'..=b'9', Just(b'<'), any::<u8>()], 1..200),
            pieces in proptest::collection::vec(1..8_usize, 1..6),
        ) {
            prop_assert_eq!(framed(&bytes, &pieces, 20), framed(&bytes, &[8], 20));
        }

        #[test]
        fn what_is_sent_is_what_is_read(messages in proptest::collection::vec(("<[a-z ]{1,19}", any::<bool>()), 1..20)) {
            let mut sent = Vec::new();
            for (message, is_counted) in &messages {
                let framed = if *is_counted { format!("{} {message}", message.len()) } else { format!("{message}\n") };
                sent.extend(framed.into_bytes());
            }
            let read: Vec<_> = framed(&sent, &[3], 20).into_iter().map(|(text, _)| text).collect();
            prop_assert_eq!(read, messages.into_iter().map(|(message, _)| message).collect::<Vec<_>>());
        }
    }
}
