//! From one sample rate to another, exact in time: sample `m` of the result is the sound at the moment `m / rate`.
//!
//! A windowed sinc (Kaiser, 90 dB) at each of the moments between two samples at which a sample is wanted; for rates with an odd ratio the
//! nearest of 4,096 moments. Before its first and after its last sample a sound is silent.

/// Zero crossings of the sinc on each side.
const CROSSINGS: usize = 64;
/// Kaiser's β for 90 dB.
const BETA: f64 = 8.96;
/// How much of the band below the lower of both rates is kept.
const PASS: f64 = 0.955;
/// Most moments between two samples for which the filter is kept.
const PHASES_MAX: usize = 4_096;

/// One channel on its way.
#[derive(Clone, Debug)]
pub struct Resampler {
    /// The result has `up` samples for `down` of the source.
    up: u64,
    down: u64,
    /// Samples that one sum takes.
    taps: usize,
    phases: usize,
    /// `phases + 1` filters of `taps` values; the last is the first, a sample later.
    filters: Vec<f32>,
    /// Samples that a sum may still need; the first is number `begins - taps / 2` of the source.
    kept: Vec<f32>,
    begins: u64,
    made: u64,
    taken: u64,
}

impl Resampler {
    #[must_use]
    pub fn new(from_hz: u32, to_hz: u32) -> Self {
        let (mut a, mut b) = (from_hz.max(1), to_hz.max(1));
        while b != 0 {
            (a, b) = (b, a % b);
        }
        let (up, down) = (u64::from(to_hz.max(1) / a), u64::from(from_hz.max(1) / a));
        // Where the result has fewer samples, what it cannot hold is taken out.
        let band = (up as f64 / down as f64).min(1.0) * PASS;
        let half = (CROSSINGS as f64 / band).ceil() as usize;
        let (taps, phases) = (2 * half, usize::try_from(up).unwrap_or(PHASES_MAX).min(PHASES_MAX));
        let mut filters = Vec::with_capacity((phases + 1) * taps);
        for phase in 0..=phases {
            let moment = phase as f64 / phases as f64;
            let filter: Vec<f64> = (0..taps)
                .map(|tap| {
                    let distance = tap as f64 + 1.0 - half as f64 - moment;
                    sinc(distance * band) * kaiser(distance / half as f64)
                })
                .collect();
            // The same loudness at each moment.
            let sum: f64 = filter.iter().sum();
            filters.extend(filter.iter().map(|value| (value / sum) as f32));
        }
        Self { up, down, taps, phases, filters, kept: vec![0.0; half - 1], begins: 0, made: 0, taken: 0 }
    }

    /// Takes samples and appends those of the result that are certain by now.
    pub fn push(&mut self, samples: &[f32], to: &mut Vec<f32>) {
        self.kept.extend_from_slice(samples);
        self.taken += samples.len() as u64;
        self.make(self.kept.len(), u64::MAX, to);
    }

    /// The rest: in all, one sample for each moment that is before the source's end.
    pub fn finish(&mut self, to: &mut Vec<f32>) {
        let wanted = (self.taken * self.up).div_ceil(self.down);
        self.kept.resize(self.kept.len() + self.taps, 0.0);
        self.make(self.kept.len(), wanted, to);
    }

    fn make(&mut self, available: usize, wanted: u64, to: &mut Vec<f32>) {
        while self.made < wanted {
            let at = self.made * self.down;
            // What is kept begins `taps / 2 - 1` samples before number `begins`.
            let start = usize::try_from(at / self.up - self.begins).unwrap_or(usize::MAX);
            if start.saturating_add(self.taps) > available {
                break;
            }
            let phase = (at % self.up) as f64 / self.up as f64 * self.phases as f64;
            let filter = &self.filters[phase.round() as usize * self.taps..][..self.taps];
            let window = &self.kept[start..start + self.taps];
            to.push(window.iter().zip(filter).map(|(a, b)| a * b).sum());
            self.made += 1;
        }
        let next = self.made * self.down / self.up;
        let used = usize::try_from(next - self.begins).unwrap_or(usize::MAX).min(self.kept.len());
        self.kept.drain(..used);
        self.begins += used as u64;
    }
}

fn sinc(x: f64) -> f64 {
    let x = x * std::f64::consts::PI;
    if x.abs() < 1e-9 { 1.0 } else { x.sin() / x }
}

/// Kaiser's window from −1 to 1.
fn kaiser(x: f64) -> f64 {
    let inside = 1.0 - x * x;
    if inside <= 0.0 { 0.0 } else { bessel(BETA * inside.sqrt()) / bessel(BETA) }
}

/// The modified Bessel function of order zero.
fn bessel(x: f64) -> f64 {
    let (mut sum, mut term, mut k) = (1.0, 1.0, 1.0);
    while term > sum * 1e-12 {
        term *= (x / 2.0 / k) * (x / 2.0 / k);
        sum += term;
        k += 1.0;
    }
    sum
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn all(from: u32, to: u32, samples: &[f32], piece: usize) -> Vec<f32> {
        let mut resampler = Resampler::new(from, to);
        let mut made = Vec::new();
        for piece in samples.chunks(piece) {
            resampler.push(piece, &mut made);
        }
        resampler.finish(&mut made);
        made
    }

    fn tone(rate: u32, hz: f64, samples: usize) -> Vec<f32> {
        (0..samples).map(|i| (std::f64::consts::TAU * hz * i as f64 / f64::from(rate)).sin() as f32 * 0.5).collect()
    }

    #[test]
    fn a_tone_is_the_same_tone_at_the_same_moment_at_every_rate() {
        for (from, to) in
            [(44_100, 48_000), (48_000, 44_100), (8_000, 48_000), (48_000, 16_000), (96_000, 48_000), (11_127, 48_000)]
        {
            let made = all(from, to, &tone(from, 1_000.0, from as usize / 2), 997);
            let expected = tone(to, 1_000.0, made.len());
            assert_eq!(made.len(), (from as usize / 2 * to as usize).div_ceil(from as usize));
            // The ends of a sound that begins and ends at once ring.
            let inner = to as usize / 50..made.len() - to as usize / 50;
            let worst =
                made[inner.clone()].iter().zip(&expected[inner]).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
            assert!(worst < 3e-4, "{from} to {to}: off by {worst}");
        }
    }

    #[test]
    fn what_the_lower_rate_cannot_hold_is_taken_out() {
        let made = all(48_000, 16_000, &tone(48_000, 11_000.0, 24_000), 480);
        let loudest = made[400..made.len() - 400].iter().map(|value| value.abs()).fold(0.0, f32::max);
        assert!(loudest < 1e-4, "{loudest}");
    }

    proptest! {
        #[test]
        fn pieces_of_any_size_make_the_same(
            samples in proptest::collection::vec(-1.0_f32..1.0, 0..400), piece in 1_usize..90, ratio in 0_usize..4,
        ) {
            let (from, to) = [(44_100, 48_000), (48_000, 16_000), (8_000, 48_000), (48_000, 11_025)][ratio];
            prop_assert_eq!(all(from, to, &samples, piece), all(from, to, &samples, 1_000));
        }
    }
}
