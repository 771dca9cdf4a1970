//! Chunks: samples of one series in time order, compressed as they come (Gorilla: deltas of deltas, XOR of floats).
//!
//! A regular series costs one bit for each time and one for each value that stays. Values come back to the bit, NaN and
//! staleness markers included.

use super::model::Sample;

/// Samples after which a chunk is closed.
pub(super) const CHUNK_SAMPLES_MAX: usize = 120;

/// How many bits a delta of deltas takes, behind a prefix of ones.
const DELTA_BITS: [u32; 4] = [14, 17, 20, 64];

/// A chunk that takes samples.
#[derive(Clone, Debug, Default)]
pub(super) struct Chunk {
    bytes: Vec<u8>,
    /// Bits used of the last byte; 0 when it is full or there is none.
    bits: u32,
    count: usize,
    first_ms: i64,
    last: Last,
}

/// Where the next sample goes on from.
#[derive(Clone, Copy, Debug, Default)]
struct Last {
    t_ms: i64,
    delta_ms: i64,
    value: u64,
    leading: u32,
    /// Bits that differed; 0 before any did.
    significant: u32,
}

impl Chunk {
    pub(super) fn len(&self) -> usize {
        self.count
    }

    pub(super) fn is_empty(&self) -> bool {
        self.count == 0
    }

    pub(super) fn first_ms(&self) -> i64 {
        self.first_ms
    }

    pub(super) fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Appends a sample; times must not fall.
    pub(super) fn push(&mut self, sample: Sample) {
        let value = sample.value.to_bits();
        if self.count == 0 {
            self.write(sample.t_ms as u64, 64);
            self.write(value, 64);
            self.first_ms = sample.t_ms;
            self.last = Last { t_ms: sample.t_ms, value, ..Last::default() };
        } else {
            let delta_ms = sample.t_ms.wrapping_sub(self.last.t_ms);
            self.write_delta(delta_ms.wrapping_sub(self.last.delta_ms));
            self.last.t_ms = sample.t_ms;
            self.last.delta_ms = delta_ms;
            self.write_value(value);
        }
        self.count += 1;
    }

    fn write_delta(&mut self, change: i64) {
        if change == 0 {
            return self.write(0, 1);
        }
        let zigzag = ((change << 1) ^ (change >> 63)) as u64;
        for (ones, bits) in (1..).zip(DELTA_BITS) {
            if bits == 64 {
                self.write(0b1111, 4);
                return self.write(zigzag, 64);
            }
            if zigzag < 1 << bits {
                self.write((1 << (ones + 1)) - 2, ones + 1); // that many ones, then a zero
                return self.write(zigzag, bits);
            }
        }
    }

    fn write_value(&mut self, value: u64) {
        let differs = value ^ self.last.value;
        self.last.value = value;
        if differs == 0 {
            return self.write(0, 1);
        }
        let (leading, trailing) = (differs.leading_zeros().min(31), differs.trailing_zeros());
        let Last { leading: had_leading, significant: had, .. } = self.last;
        if had > 0 && leading >= had_leading && trailing >= 64 - had_leading - had {
            self.write(0b10, 2);
            self.write(differs >> (64 - had_leading - had), had);
            return;
        }
        let significant = 64 - leading - trailing;
        self.write(0b11, 2);
        self.write(u64::from(leading), 5);
        self.write(u64::from(significant - 1), 6);
        self.write(differs >> trailing, significant);
        (self.last.leading, self.last.significant) = (leading, significant);
    }

    /// The lowest `bits` of `word`, highest first.
    fn write(&mut self, word: u64, mut bits: u32) {
        while bits > 0 {
            if self.bits == 0 {
                self.bytes.push(0);
            }
            let room = 8 - self.bits;
            let taken = room.min(bits);
            let part = (word >> (bits - taken)) as u8 & (0xff >> (8 - taken));
            if let Some(last) = self.bytes.last_mut() {
                *last |= part << (room - taken);
            }
            self.bits = (self.bits + taken) % 8;
            bits -= taken;
        }
    }
}

/// The samples of a chunk of `count`. Ends early, without a panic, where the bytes do.
pub(super) fn samples(bytes: &[u8], count: usize) -> impl Iterator<Item = Sample> + '_ {
    let mut bits = Bits { bytes, at: 0 };
    let mut last: Option<Last> = None;
    (0..count).map_while(move |_| {
        let next = match last {
            None => Last { t_ms: bits.read(64)? as i64, value: bits.read(64)?, ..Last::default() },
            Some(last) => bits.next(last)?,
        };
        last = Some(next);
        Some(Sample { t_ms: next.t_ms, value: f64::from_bits(next.value) })
    })
}

struct Bits<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl Bits<'_> {
    fn read(&mut self, mut bits: u32) -> Option<u64> {
        let mut word = 0_u64;
        while bits > 0 {
            let byte = *self.bytes.get(self.at / 8)?;
            let used = (self.at % 8) as u32;
            let taken = (8 - used).min(bits);
            let part = (byte >> (8 - used - taken)) & (0xff >> (8 - taken));
            word = word << taken | u64::from(part);
            self.at += taken as usize;
            bits -= taken;
        }
        Some(word)
    }

    fn next(&mut self, last: Last) -> Option<Last> {
        let mut next = last;
        let mut ones = 0;
        while ones < 4 && self.read(1)? == 1 {
            ones += 1;
        }
        let change = match ones {
            0 => 0,
            ones => {
                let zigzag = self.read(DELTA_BITS[ones - 1])?;
                (zigzag >> 1) as i64 ^ -((zigzag & 1) as i64)
            }
        };
        next.delta_ms = last.delta_ms.wrapping_add(change);
        next.t_ms = last.t_ms.wrapping_add(next.delta_ms);
        if self.read(1)? == 0 {
            return Some(next);
        }
        if self.read(1)? == 1 {
            next.leading = self.read(5)? as u32;
            next.significant = self.read(6)? as u32 + 1;
        }
        let trailing = 64_u32.checked_sub(next.leading)?.checked_sub(next.significant)?;
        if next.significant == 0 {
            return None;
        }
        next.value ^= self.read(next.significant)? << trailing;
        Some(next)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::metrics::model::STALE_BITS;

    fn chunk(samples: &[Sample]) -> Chunk {
        let mut chunk = Chunk::default();
        samples.iter().for_each(|&sample| chunk.push(sample));
        chunk
    }

    proptest! {
        #[test]
        fn any_samples_come_back_to_the_bit(pairs in proptest::collection::vec((any::<i64>(), any::<u64>()), 0..200)) {
            let given: Vec<Sample> =
                pairs.into_iter().map(|(t_ms, bits)| Sample { t_ms, value: f64::from_bits(bits) }).collect();
            let chunk = chunk(&given);
            let read: Vec<Sample> = samples(chunk.bytes(), chunk.len()).collect();
            prop_assert_eq!(read, given);
        }

        #[test]
        fn series_as_they_are_come_back_too(
            start in 0_i64..4_000_000_000_000,
            steps in proptest::collection::vec((0_i64..20_000, prop_oneof![
                Just(1.0), Just(f64::NAN), Just(f64::from_bits(STALE_BITS)), Just(f64::INFINITY), Just(-0.0), -1e6..1e6_f64,
            ]), 1..150),
        ) {
            let mut t_ms = start;
            let given: Vec<Sample> = steps.into_iter().map(|(step, value)| { t_ms += step; Sample { t_ms, value } }).collect();
            let chunk = chunk(&given);
            prop_assert_eq!(samples(chunk.bytes(), chunk.len()).collect::<Vec<_>>(), given);
        }

        #[test]
        fn garbage_ends_early(bytes: Vec<u8>, count in 0_usize..500) {
            prop_assert!(samples(&bytes, count).count() <= count);
        }
    }

    #[test]
    fn a_regular_series_takes_two_bits_a_sample() {
        let given: Vec<Sample> =
            (0..120).map(|at| Sample { t_ms: 1_700_000_000_000 + at * 15_000, value: 42.0 }).collect();
        assert!(chunk(&given).bytes().len() <= 16 + 4 + 30, "{}", chunk(&given).bytes().len());
    }
}
