//! Checksums of blocks, behind the bytes of a blob: so that a range is checked by the blocks it touches alone.
//!
//! A blob that is not encrypted ends with a table: a CRC-32C for each 64 KiB of its bytes, in pages of 1,024, each of which begins with
//! a mark and the CRC of its number and its entries. It lies in the same file, so that whoever moves the file moves it too. No header and no
//! row tells of it: the file's length does. Blobs of earlier versions end with their bytes, and ranges of those are not checked.
//!
//! What is encrypted has a tag for each chunk and no table; what lies in a pack is small, and always checked whole.

use std::fs::File;
use std::io;

use super::blobs::{HEADER_BYTES, read_up_to};
use super::seal::stored_bytes;

/// Bytes that one checksum is of.
pub(super) const BLOCK_BYTES: u64 = 64 * 1024;
/// Checksums in one page.
const PAGE_BLOCKS: u64 = 1024;
const MARK: [u8; 4] = *b"BLK1";
/// Mark and checksum of a page.
const PAGE_HEAD_BYTES: u64 = 8;

/// Bytes of the table of a run of `size` bytes.
#[must_use]
fn table_bytes(size: u64) -> u64 {
    let blocks = size.div_ceil(BLOCK_BYTES);
    blocks * 4 + blocks.div_ceil(PAGE_BLOCKS) * PAGE_HEAD_BYTES
}

/// What a blob's length says of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Shape {
    /// Its bytes, and nothing behind them.
    Bare,
    /// A table behind its bytes.
    Table,
    /// Neither: so many bytes were expected.
    Wrong(u64),
}

/// What a file of `file_bytes` is, if it is to hold a run of `size` bytes.
#[must_use]
pub(super) fn shape(file_bytes: u64, size: u64, is_sealed: bool) -> Shape {
    let bare = HEADER_BYTES + if is_sealed { stored_bytes(size) } else { size };
    match file_bytes {
        bytes if bytes == bare => Shape::Bare,
        bytes if !is_sealed && bytes == bare + table_bytes(size) => Shape::Table,
        _ => Shape::Wrong(bare),
    }
}

/// The table of a run, made as its bytes come.
#[derive(Default)]
pub(super) struct Summing {
    sums: Vec<u32>,
    /// Of the block that is being filled.
    sum: u32,
    filled: u64,
}

impl Summing {
    pub(super) fn update(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let room = usize::try_from(BLOCK_BYTES - self.filled).unwrap_or_default();
            let (now, later) = bytes.split_at(bytes.len().min(room));
            self.sum = crc32c::crc32c_append(self.sum, now);
            self.filled += now.len() as u64;
            if self.filled == BLOCK_BYTES {
                self.end_block();
            }
            bytes = later;
        }
    }

    fn end_block(&mut self) {
        self.sums.push(self.sum);
        (self.sum, self.filled) = (0, 0);
    }

    /// The table as it lies behind the bytes.
    pub(super) fn finish(mut self) -> Vec<u8> {
        if self.filled > 0 {
            self.end_block();
        }
        let mut table = Vec::new();
        for (number, sums) in (0_u64..).zip(self.sums.chunks(PAGE_BLOCKS as usize)) {
            let entries: Vec<u8> = sums.iter().flat_map(|sum| sum.to_le_bytes()).collect();
            table.extend_from_slice(&MARK);
            table.extend_from_slice(&page_sum(number, &entries).to_le_bytes());
            table.extend_from_slice(&entries);
        }
        table
    }
}

fn page_sum(number: u64, entries: &[u8]) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c(&number.to_le_bytes()), entries)
}

/// The entries of page `number`.
fn read_page(page: &[u8], number: u64) -> Result<Vec<u32>, String> {
    let damaged = || format!("page {number} of its checksums is damaged");
    let (mark, rest) = page.split_first_chunk::<4>().ok_or_else(damaged)?;
    let (sum, entries) = rest.split_first_chunk::<4>().ok_or_else(damaged)?;
    if *mark != MARK || page_sum(number, entries) != u32::from_le_bytes(*sum) {
        return Err(damaged());
    }
    let (entries, _) = entries.as_chunks::<4>();
    Ok(entries.iter().map(|entry| u32::from_le_bytes(*entry)).collect())
}

/// The table of a blob that is being read.
pub(super) struct Table {
    /// Of the run.
    size: u64,
    /// The page that was read last.
    page: Option<(u64, Vec<u32>)>,
}

impl Table {
    pub(super) fn new(size: u64) -> Self {
        Self { size, page: None }
    }

    /// Compares whole blocks, of which the first has the number `first`, with the table. The run's last block may be shorter.
    pub(super) fn check(&mut self, file: &File, first: u64, blocks: &[u8]) -> io::Result<Result<(), String>> {
        for (number, block) in (first..).zip(blocks.chunks(BLOCK_BYTES as usize)) {
            let page = number / PAGE_BLOCKS;
            if self.page.as_ref().is_none_or(|(held, _)| *held != page) {
                match self.read(file, page)? {
                    Ok(sums) => self.page = Some((page, sums)),
                    Err(problem) => return Ok(Err(problem)),
                }
            }
            let sums = self.page.as_ref().map(|(_, sums)| sums.as_slice()).unwrap_or_default();
            let at = usize::try_from(number % PAGE_BLOCKS).unwrap_or_default();
            if sums.get(at) != Some(&crc32c::crc32c(block)) {
                return Ok(Err(format!("the checksum of block {number} of a blob does not match")));
            }
        }
        Ok(Ok(()))
    }

    fn read(&self, file: &File, page: u64) -> io::Result<Result<Vec<u32>, String>> {
        let blocks = self.size.div_ceil(BLOCK_BYTES).saturating_sub(page * PAGE_BLOCKS).min(PAGE_BLOCKS);
        let begin = HEADER_BYTES + self.size + page * (PAGE_HEAD_BYTES + PAGE_BLOCKS * 4);
        let mut bytes = vec![0; usize::try_from(PAGE_HEAD_BYTES + blocks * 4).map_err(io::Error::other)?];
        let read = read_up_to(file, &mut bytes, begin)?;
        Ok(read_page(&bytes[..read], page))
    }
}

/// Whether the table behind a run of `size` bytes is the one that its bytes make. A blob without one has none to be wrong.
pub(super) fn check_table(file: &File, size: u64, made: Summing) -> io::Result<Result<(), String>> {
    match shape(file.metadata()?.len(), size, false) {
        Shape::Bare => Ok(Ok(())),
        Shape::Wrong(_) => Ok(Err("what lies behind its bytes is not the table of their checksums".into())),
        Shape::Table => {
            let made = made.finish();
            let mut kept = vec![0; made.len()];
            let read = read_up_to(file, &mut kept, HEADER_BYTES + size)?;
            let same = read == made.len() && kept == made;
            Ok(if same { Ok(()) } else { Err("the table of its blocks' checksums is damaged".into()) })
        }
    }
}

/// For fuzzing.
pub(super) fn fuzz(bytes: &[u8]) {
    let _ = (read_page(bytes, 0), read_page(bytes, u64::MAX));
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::FileExt;

    use super::*;

    /// A file that holds `bytes` and their table.
    fn file(bytes: &[u8]) -> File {
        let mut made = Summing::default();
        bytes.chunks(10_007).for_each(|piece| made.update(piece));
        let table = made.finish();
        assert_eq!(table.len() as u64, table_bytes(bytes.len() as u64));
        let file = tempfile::tempfile().unwrap();
        file.write_all_at(bytes, HEADER_BYTES).unwrap();
        file.write_all_at(&table, HEADER_BYTES + bytes.len() as u64).unwrap();
        file
    }

    fn summed(bytes: &[u8]) -> Summing {
        let mut made = Summing::default();
        made.update(bytes);
        made
    }

    #[test]
    fn each_block_is_told_from_any_other_also_where_a_page_ends() {
        let block = BLOCK_BYTES as usize;
        let bytes: Vec<u8> =
            (0..PAGE_BLOCKS as usize * block + 2 * block + 5).map(|at| (at / block % 251) as u8).collect();
        let size = bytes.len() as u64;
        let disk = file(&bytes);
        assert_eq!(shape(disk.metadata().unwrap().len(), size, false), Shape::Table);
        let last = PAGE_BLOCKS as usize;
        for first in [0, 7, last - 1, last, last + 1] {
            let end = ((first + 3) * block).min(bytes.len());
            let check =
                |number: usize| Table::new(size).check(&disk, number as u64, &bytes[first * block..end]).unwrap();
            assert_eq!(check(first), Ok(()), "{first}");
            assert!(check(first + 1).is_err(), "{first}");
        }
        assert_eq!(check_table(&disk, size, summed(&bytes)).unwrap(), Ok(()));
        assert!(check_table(&disk, size, summed(&bytes[1..])).unwrap().is_err());
    }

    #[test]
    fn a_damaged_table_vouches_for_nothing_and_only_its_page_is_lost() {
        let block = BLOCK_BYTES as usize;
        let bytes = vec![7; PAGE_BLOCKS as usize * block + block];
        let (size, disk) = (bytes.len() as u64, file(&bytes));
        disk.write_all_at(&[0xff], HEADER_BYTES + size + 100).unwrap();
        let check = |number: u64| Table::new(size).check(&disk, number, &bytes[..block]).unwrap();
        assert!(check(500).unwrap_err().contains("page 0"));
        assert_eq!(check(PAGE_BLOCKS), Ok(()));
        assert!(check_table(&disk, size, summed(&bytes)).unwrap().is_err());
        disk.set_len(HEADER_BYTES + size).unwrap();
        assert_eq!(check_table(&disk, size, summed(&bytes)).unwrap(), Ok(()), "it has none");
        for length in 0..20 {
            fuzz(&vec![0x42; length]);
        }
    }

    #[test]
    fn a_length_says_what_lies_there() {
        let bytes = |size: u64, more: u64| HEADER_BYTES + size + more;
        for size in [0, 1, BLOCK_BYTES, BLOCK_BYTES + 1, 5 << 30] {
            assert_eq!(shape(bytes(size, 0), size, false), Shape::Bare);
            if size > 0 {
                assert_eq!(shape(bytes(size, table_bytes(size)), size, false), Shape::Table);
                assert_eq!(
                    shape(bytes(size, table_bytes(size)), size, true),
                    Shape::Wrong(HEADER_BYTES + stored_bytes(size))
                );
            }
            assert_eq!(shape(bytes(size, 1), size, false), Shape::Wrong(bytes(size, 0)));
        }
        assert_eq!(shape(HEADER_BYTES + stored_bytes(9), 9, true), Shape::Bare);
    }
}
