//! Lines from a process that is not trusted: never more than a bound of them in memory.

use tokio::io::{AsyncBufReadExt, AsyncRead, BufReader};

/// One line, without its end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Line {
    Whole(String),
    /// The first bytes of a line that is longer than the bound. The rest of it is skipped, unread and unkept.
    Cut(String),
}

/// Splits a stream at `\n`. A carriage return ends a line as well, so that progress bars do not grow one line for ever.
#[derive(Debug)]
pub struct Lines<R> {
    reader: BufReader<R>,
    bytes_max: usize,
    line: Vec<u8>,
    skipping: bool,
}

impl<R: AsyncRead + Unpin> Lines<R> {
    pub fn new(reader: R, bytes_max: usize) -> Self {
        Self { reader: BufReader::new(reader), bytes_max, line: Vec::new(), skipping: false }
    }

    /// The next line that is not empty; `None` at the end of the stream. Cancel-safe.
    ///
    /// # Errors
    /// That of the read.
    pub async fn next(&mut self) -> std::io::Result<Option<Line>> {
        loop {
            let chunk = self.reader.fill_buf().await?;
            if chunk.is_empty() {
                let rest = std::mem::take(&mut self.line);
                return Ok((!rest.is_empty()).then(|| Line::Whole(text(&rest))));
            }
            let end = chunk.iter().position(|byte| matches!(byte, b'\n' | b'\r'));
            let taken = end.map_or(chunk.len(), |at| at + 1);
            let content = &chunk[..end.unwrap_or(chunk.len())];
            if self.skipping {
                self.skipping = end.is_none();
                self.reader.consume(taken);
                continue;
            }
            let room = self.bytes_max - self.line.len();
            self.line.extend_from_slice(&content[..content.len().min(room)]);
            let too_long = content.len() > room;
            self.reader.consume(taken);
            if too_long {
                self.skipping = end.is_none();
                return Ok(Some(Line::Cut(text(&std::mem::take(&mut self.line)))));
            }
            if end.is_some() && !self.line.is_empty() {
                return Ok(Some(Line::Whole(text(&std::mem::take(&mut self.line)))));
            }
        }
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    async fn all(bytes: &[u8], max: usize) -> Vec<Line> {
        let mut lines = Lines::new(bytes, max);
        let mut found = Vec::new();
        while let Some(line) = lines.next().await.unwrap() {
            found.push(line);
        }
        found
    }

    #[tokio::test]
    async fn a_line_over_the_bound_is_cut_and_the_next_one_is_whole() {
        let lines = all(b"abc\n0123456789abcdef\n\nlast", 8).await;
        assert_eq!(lines, [Line::Whole("abc".into()), Line::Cut("01234567".into()), Line::Whole("last".into())]);
    }

    #[tokio::test]
    async fn a_progress_bar_without_line_ends_becomes_lines() {
        assert_eq!(all(b"10%\r20%\r", 8).await, [Line::Whole("10%".into()), Line::Whole("20%".into())]);
    }

    proptest! {
        #[test]
        fn nothing_is_longer_than_the_bound_and_short_lines_come_whole(input in proptest::collection::vec(any::<u8>(), 0..400)) {
            let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
            let expected: Vec<String> = input
                .split(|byte| matches!(byte, b'\n' | b'\r'))
                .filter(|line| !line.is_empty())
                .map(|line| String::from_utf8_lossy(&line[..line.len().min(16)]).into_owned())
                .collect();
            let found: Vec<String> = runtime
                .block_on(all(&input, 16))
                .into_iter()
                .map(|line| match line { Line::Whole(text) | Line::Cut(text) => text })
                .collect();
            prop_assert_eq!(found, expected);
        }
    }
}
