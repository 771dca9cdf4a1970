//! Takes noise out of speech, with RNNoise's network (by `nnnoiseless`, whose weights are part of it).
//!
//! The network works at 48 kHz. Of sounds with that rate or a higher one, what it takes out is brought back to the sound's own rate and
//! subtracted: what it leaves alone stays as it was, and so does what lies above 24 kHz. Of sounds with a lower rate, what it leaves is brought back, and
//! the last tenth of their band goes. What is below its own hearing (a filter at some 15 Hz stands before it) stays, and nothing is turned in phase. Each channel has a network of its own. Nothing is late: what the
//! network answers belongs to the frame before the one it was given, and that is undone here, so each sample that
//! goes in comes out in its place.

use std::collections::VecDeque;

use nnnoiseless::DenoiseState;

use super::SAMPLE_MAX;
use super::resample::Resampler;

const NETWORK_HZ: u32 = 48_000;
/// The network was trained on samples of 16 bits.
const FULL_SCALE: f32 = 32_768.0;
const FRAME: usize = DenoiseState::FRAME_SIZE;

/// A sound on its way.
pub struct Denoiser {
    channels: Vec<Channel>,
    strength: f64,
    /// The channels answer with what stays, not with what goes.
    answers_whole: bool,
    /// Interleaved samples whose noise is not known yet.
    waiting: VecDeque<f64>,
    taken: u64,
    pub loudness: Loudness,
}

/// Sums of squares of what went in and what came out.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Loudness {
    before: f64,
    after: f64,
    samples: u64,
}

impl Loudness {
    /// Root mean square before and after, in dB below full scale; `None` for silence.
    #[must_use]
    pub fn dbfs(&self) -> (Option<f64>, Option<f64>) {
        let of = |sum: f64| {
            let mean = sum / (self.samples.max(1)) as f64;
            (mean > 0.0).then(|| (mean.log10() * 1_000.0).round() / 100.0)
        };
        (of(self.before), of(self.after))
    }
}

/// A sample that is no sound.
#[derive(Clone, Copy, Debug, PartialEq, thiserror::Error)]
#[error("sample {sample} of channel {channel} is {value}, which is no sound")]
pub struct NoSound {
    pub sample: u64,
    pub channel: usize,
    pub value: f64,
}

impl Denoiser {
    /// `strength` 1 takes all out that the network takes for noise, 0 nothing.
    #[must_use]
    pub fn new(rate_hz: u32, channels: usize, strength: f64) -> Self {
        Self {
            channels: (0..channels).map(|_| Channel::new(rate_hz)).collect(),
            strength,
            answers_whole: rate_hz < NETWORK_HZ,
            waiting: VecDeque::new(),
            taken: 0,
            loudness: Loudness::default(),
        }
    }

    /// Takes whole interleaved samples and appends those that are done by now.
    ///
    /// # Errors
    /// [`NoSound`] for NaN, infinity and values far over full scale: after one, a network would never be well again.
    pub fn push(&mut self, samples: &[f64], to: &mut Vec<f64>) -> Result<(), NoSound> {
        let count = self.channels.len();
        if let Some(at) = samples.iter().position(|value| !value.is_finite() || value.abs() > SAMPLE_MAX) {
            let sample = self.taken + (at / count) as u64;
            return Err(NoSound { sample, channel: at % count, value: samples[at] });
        }
        self.taken += (samples.len() / count) as u64;
        self.waiting.extend(samples);
        for (number, channel) in self.channels.iter_mut().enumerate() {
            let own: Vec<f32> = samples.iter().skip(number).step_by(count).map(|value| *value as f32).collect();
            channel.push(&own);
        }
        self.give(to);
        Ok(())
    }

    /// The rest: in all, as many samples as were taken.
    pub fn finish(&mut self, to: &mut Vec<f64>) {
        self.channels.iter_mut().for_each(Channel::finish);
        self.give(to);
    }

    fn give(&mut self, to: &mut Vec<f64>) {
        let count = self.channels.len();
        let known = self.channels.iter().map(|channel| channel.answers.len()).min().unwrap_or(0);
        let ready = known.min(self.waiting.len() / count.max(1));
        let mut answers: Vec<_> = self.channels.iter_mut().map(|channel| channel.answers.drain(..ready)).collect();
        let samples = self.waiting.drain(..ready * count);
        for (at, sample) in samples.enumerate() {
            let answer = f64::from(answers[at % count].next().unwrap_or_default());
            let noise = if self.answers_whole { sample - answer } else { answer };
            let clean = sample - self.strength * noise;
            self.loudness.before += sample * sample;
            self.loudness.after += clean * clean;
            to.push(clean);
        }
        self.loudness.samples += (ready * count) as u64;
    }
}

/// One channel at the network's rate.
struct Channel {
    network: Box<DenoiseState<'static>>,
    up: Option<Resampler>,
    down: Option<Resampler>,
    /// Samples at the network's rate that are no whole frame yet.
    pending: Vec<f32>,
    hearing: Hearing,
    /// The frame that the next answer belongs to, and as the network heard it.
    before: Option<(Vec<f32>, Vec<f32>)>,
    answers_whole: bool,
    /// What goes, or what stays, at the sound's rate.
    answers: VecDeque<f32>,
}

impl Channel {
    fn new(rate_hz: u32) -> Self {
        let other = rate_hz != NETWORK_HZ;
        Self {
            network: DenoiseState::new(),
            up: other.then(|| Resampler::new(rate_hz, NETWORK_HZ)),
            down: other.then(|| Resampler::new(NETWORK_HZ, rate_hz)),
            pending: Vec::new(),
            hearing: Hearing::default(),
            before: None,
            answers_whole: rate_hz < NETWORK_HZ,
            answers: VecDeque::new(),
        }
    }

    fn push(&mut self, samples: &[f32]) {
        match &mut self.up {
            Some(up) => up.push(samples, &mut self.pending),
            None => self.pending.extend_from_slice(samples),
        }
        self.frames();
    }

    fn finish(&mut self) {
        if let Some(up) = &mut self.up {
            up.finish(&mut self.pending);
        }
        // One more frame of silence brings the answer for the last one.
        self.pending.resize(self.pending.len().next_multiple_of(FRAME) + FRAME, 0.0);
        self.frames();
        if let Some(down) = &mut self.down {
            let mut rest = Vec::new();
            down.finish(&mut rest);
            self.answers.extend(rest);
        }
    }

    fn frames(&mut self) {
        let whole = self.pending.len() / FRAME * FRAME;
        let mut made = [0.0; FRAME];
        for frame in self.pending[..whole].chunks_exact(FRAME) {
            let scaled: Vec<f32> = frame.iter().map(|value| value * FULL_SCALE).collect();
            self.network.process_frame(&mut made, &scaled);
            let heard = self.hearing.of(frame);
            let Some((was, heard)) = self.before.replace((frame.to_vec(), heard)) else { continue };
            let noise = heard.iter().zip(&made).map(|(heard, is)| heard - is / FULL_SCALE);
            let answer: Vec<f32> = if self.answers_whole {
                was.iter().zip(noise).map(|(was, noise)| was - noise).collect()
            } else {
                noise.collect()
            };
            match &mut self.down {
                Some(down) => {
                    let mut own = Vec::new();
                    down.push(&answer, &mut own);
                    self.answers.extend(own);
                }
                None => self.answers.extend(answer),
            }
        }
        self.pending.drain(..whole);
    }
}

/// The filter that stands before the network: what it takes away is not what the network took for noise.
#[derive(Default)]
struct Hearing([f64; 2]);

impl Hearing {
    fn of(&mut self, samples: &[f32]) -> Vec<f32> {
        let Self([first, second]) = self;
        let filter = |sample: &f32| {
            let sample = f64::from(*sample);
            let heard = sample + *first;
            *first = *second - 2.0 * sample + 1.995_99 * heard;
            *second = sample - 0.996 * heard;
            heard as f32
        };
        samples.iter().map(filter).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all(rate: u32, channels: usize, strength: f64, samples: &[f64], piece: usize) -> Vec<f64> {
        let mut denoiser = Denoiser::new(rate, channels, strength);
        let mut made = Vec::new();
        for piece in samples.chunks(piece * channels) {
            denoiser.push(piece, &mut made).unwrap();
        }
        denoiser.finish(&mut made);
        made
    }

    /// Noise, the same on every run.
    fn noise(samples: usize, loud: f64) -> Vec<f64> {
        let mut state = 1_u64;
        let mut next = move || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 33) as f64 / f64::from(1_u32 << 31) * 2.0 - 1.0
        };
        (0..samples).map(|_| next() * loud).collect()
    }

    fn power(samples: &[f64]) -> f64 {
        samples.iter().map(|value| value * value).sum::<f64>() / samples.len() as f64
    }

    #[test]
    fn as_many_samples_come_out_as_went_in_whatever_the_pieces_and_the_rate() {
        for (rate, count, piece) in
            [(48_000, 1, 1), (48_000, 479, 480), (48_000, 5_000, 7), (44_100, 4_411, 4_096), (8_000, 801, 100)]
        {
            assert_eq!(all(rate, 2, 1.0, &noise(count * 2, 0.1), piece).len(), count * 2, "{rate} Hz, {count}");
        }
        assert!(all(48_000, 1, 1.0, &[], 1).is_empty());
    }

    #[test]
    fn silence_stays_silence_and_strength_zero_changes_no_bit() {
        for rate in [48_000, 44_100] {
            assert!(all(rate, 1, 1.0, &vec![0.0; 20_000], 1_000).iter().all(|value| *value == 0.0));
            let sound = noise(20_000, 0.3);
            assert_eq!(all(rate, 1, 0.0, &sound, 1_000), sound);
        }
    }

    #[test]
    fn steady_noise_goes_and_half_the_strength_leaves_half_of_it() {
        for rate in [48_000_u32, 16_000, 44_100] {
            let sound = noise(rate as usize * 3, 0.05);
            let tail = rate as usize * 2;
            let gone = power(&sound[tail..]) / power(&all(rate, 1, 1.0, &sound, 4_096)[tail..]);
            assert!(gone > 10.0, "{rate} Hz: the noise has {gone} times the power of what is left");
            let half = power(&sound[tail..]) / power(&all(rate, 1, 0.5, &sound, 4_096)[tail..]);
            assert!((2.0..5.0).contains(&half), "{rate} Hz: {half}");
        }
    }

    #[test]
    fn channels_do_not_hear_each_other() {
        let left = noise(48_000, 0.1);
        let both: Vec<f64> = left.iter().flat_map(|value| [*value, 0.0]).collect();
        let made = all(48_000, 2, 1.0, &both, 3_000);
        let alone = all(48_000, 1, 1.0, &left, 3_000);
        assert!(made.chunks_exact(2).zip(&alone).all(|(pair, alone)| pair[0] == *alone && pair[1] == 0.0));
    }

    #[test]
    fn what_is_no_sound_is_refused_with_its_place() {
        let mut denoiser = Denoiser::new(48_000, 2, 1.0);
        let mut made = Vec::new();
        denoiser.push(&[0.0; 10], &mut made).unwrap();
        let error = denoiser.push(&[0.0, 0.0, 0.0, f64::NAN], &mut made).unwrap_err();
        assert_eq!((error.sample, error.channel), (6, 1));
        assert!(error.to_string().contains("NaN"));
        assert!(denoiser.push(&[1e30, 0.0], &mut made).is_err());
    }
}
