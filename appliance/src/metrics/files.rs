//! Files that are either whole or not there: written beside their name, synced, renamed, and their folder synced.

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::Path;

/// Counts what is written and sums it up (CRC32C).
pub(super) struct Summed<W> {
    inner: W,
    pub(super) crc: u32,
    pub(super) bytes: u64,
}

impl<W: Write> Write for Summed<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.inner.write(bytes)?;
        self.crc = crc32c::crc32c_append(self.crc, &bytes[..written]);
        self.bytes += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

/// What is left of a file that was never finished.
pub(super) const UNFINISHED: &str = "tmp";

/// Writes the file at `path` by `fill`, in one piece for whoever looks, also after a power cut.
pub(super) fn replace(
    path: &Path,
    fill: impl FnOnce(&mut Summed<BufWriter<File>>) -> io::Result<()>,
) -> io::Result<()> {
    let beside = path.with_extension(UNFINISHED);
    let mut out = Summed { inner: BufWriter::new(File::create(&beside)?), crc: 0, bytes: 0 };
    fill(&mut out)?;
    out.flush()?;
    out.inner.get_ref().sync_all()?;
    std::fs::rename(&beside, path)?;
    match path.parent() {
        Some(folder) => File::open(folder)?.sync_all(),
        None => Ok(()),
    }
}
