//! Noise that depends on nothing but its seed: Philox 4x32-10 (Salmon, Moraes, Dror and Shaw) on the CPU.
//!
//! Any number of the sequence can be computed without those before it, on every host alike, so that one seed is one picture
//! whatever executor draws it, and a job that goes on elsewhere goes on with the same noise. The 64 bits of the seed are
//! the key; the counter is the place in the sequence and the number of the stream.

/// The stream of the noise that a picture begins as.
pub const FIRST: u32 = 0;
/// The stream of the noise between an input picture's mean and its latents, or on the picture that a clip is made of.
pub const PICTURE: u32 = u32::MAX;
/// The same for what is left of a picture under a mask.
pub const MASKED: u32 = u32::MAX - 1;

/// The stream of the noise that step `index` adds.
#[must_use]
pub fn of_step(index: usize) -> u32 {
    u32::try_from(index).unwrap_or(u32::MAX - 3).saturating_add(1)
}

/// Four words for each counter.
#[must_use]
pub fn philox(counter: [u32; 4], key: [u32; 2]) -> [u32; 4] {
    let (mut x, mut k) = (counter, key);
    for _ in 0..10 {
        let product = |a: u32, b: u32| u64::from(a) * u64::from(b);
        let halves = |p: u64| ((p >> 32) as u32, p as u32);
        let (a_high, a_low) = halves(product(x[0], 0xD251_1F53));
        let (b_high, b_low) = halves(product(x[2], 0xCD9E_8D57));
        x = [b_high ^ x[1] ^ k[0], b_low, a_high ^ x[3] ^ k[1], a_low];
        k = [k[0].wrapping_add(0x9E37_79B9), k[1].wrapping_add(0xBB67_AE85)];
    }
    x
}

/// Standard normal numbers, by Box and Muller's way in f64.
#[must_use]
pub fn normal(seed: u64, stream: u32, count: usize) -> Vec<f32> {
    let key = [seed as u32, (seed >> 32) as u32];
    let unit = |word: u32| (f64::from(word) + 0.5) / 4_294_967_296.0;
    let mut numbers = Vec::with_capacity(count.next_multiple_of(4));
    for block in 0..count.div_ceil(4) as u64 {
        let words = philox([block as u32, (block >> 32) as u32, stream, 0], key).map(unit);
        for pair in words.chunks_exact(2) {
            let radius = (-2.0 * pair[0].ln()).sqrt();
            let (sine, cosine) = (std::f64::consts::TAU * pair[1]).sin_cos();
            numbers.extend([(radius * cosine) as f32, (radius * sine) as f32]);
        }
    }
    numbers.truncate(count);
    numbers
}

/// Noise of a batch: picture `i` has the seed `seed + i`, so that it is the one that this seed makes alone.
#[must_use]
pub fn batch(seed: u64, stream: u32, pictures: usize, count: usize) -> Vec<f32> {
    (0..pictures as u64).flat_map(|i| normal(seed.wrapping_add(i), stream, count)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn philox_gives_the_known_answers_of_its_authors() {
        let zero = philox([0; 4], [0; 2]);
        assert_eq!(zero, [0x6627_e8d5, 0xe169_c58d, 0xbc57_ac4c, 0x9b00_dbd8]);
        let ones = philox([u32::MAX; 4], [u32::MAX; 2]);
        assert_eq!(ones, [0x408f_276d, 0x41c8_3b0e, 0xa20b_c7c6, 0x6d54_51fd]);
        let pi = philox([0x243f_6a88, 0x85a3_08d3, 0x1319_8a2e, 0x0370_7344], [0xa409_3822, 0x299f_31d0]);
        assert_eq!(pi, [0xd16c_fe09, 0x94fd_cceb, 0x5001_e420, 0x2412_6ea1]);
    }

    #[test]
    fn numbers_are_normal_and_do_not_depend_on_how_many_are_asked_for() {
        let numbers = normal(7, FIRST, 100_001);
        let mean = numbers.iter().map(|x| f64::from(*x)).sum::<f64>() / 100_001.0;
        let variance = numbers.iter().map(|x| f64::from(*x).powi(2)).sum::<f64>() / 100_001.0;
        assert!(mean.abs() < 0.02 && (variance - 1.0).abs() < 0.02, "{mean} {variance}");
        assert_eq!(normal(7, FIRST, 9), numbers[..9]);
        assert_ne!(normal(7, of_step(0), 9), numbers[..9]);
        assert_eq!(batch(7, FIRST, 2, 9)[9..], normal(8, FIRST, 9)[..]);
    }
}
