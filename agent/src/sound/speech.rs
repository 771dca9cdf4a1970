//! From the probability of speech in each window to segments with a beginning and an end.
//!
//! Speech begins with a window at or above `threshold`, and ends where the probability falls below `threshold_end` and
//! does not come back to `threshold` for `min_silence_s`. What lies between both thresholds changes nothing. Shorter segments than
//! `min_speech_s` are dropped; the others are padded, and two paddings that would meet share what is between them. The rules
//! are those of silero-vad's own program, so that the same numbers give the same segments.

/// Samples a second that windows are counted in.
pub const RATE_HZ: u32 = 16_000;
/// Samples of a window.
pub const WINDOW: usize = 512;

#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Rules {
    pub threshold: f32,
    pub threshold_end: f32,
    pub min_speech_s: f64,
    pub min_silence_s: f64,
    pub pad_s: f64,
}

/// A piece of speech, in samples of [`RATE_HZ`].
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Segment {
    pub start: u64,
    pub end: u64,
    /// Mean over its windows, without the padding.
    pub probability: f32,
}

/// Finds the segments of a sound of `samples` samples.
#[must_use]
pub fn segments(probabilities: &[f32], samples: u64, rules: &Rules) -> Vec<Segment> {
    let in_samples = |seconds: f64| seconds * f64::from(RATE_HZ);
    let (min_speech, min_silence) = (in_samples(rules.min_speech_s), in_samples(rules.min_silence_s));
    let at = |window: usize| (window * WINDOW) as u64;
    let mut found: Vec<Segment> = Vec::new();
    let mut keep = |first: usize, end: usize, end_sample: u64| {
        let start = at(first);
        if end_sample.saturating_sub(start) as f64 > min_speech {
            let windows = &probabilities[first..end];
            let probability = windows.iter().sum::<f32>() / windows.len().max(1) as f32;
            found.push(Segment { start, end: end_sample, probability });
        }
    };
    // First window of the speech under way, and of the silence that may end it.
    let (mut speech, mut silence) = (None, None);
    for (window, probability) in probabilities.iter().enumerate() {
        if *probability >= rules.threshold {
            silence = None;
            speech = speech.or(Some(window));
        } else if let Some(first) = speech
            && *probability < rules.threshold_end
        {
            let end = *silence.get_or_insert(window);
            if (at(window) - at(end)) as f64 >= min_silence {
                keep(first, end, at(end));
                (speech, silence) = (None, None);
            }
        }
    }
    if let Some(first) = speech {
        keep(first, probabilities.len(), samples);
    }
    pad(&mut found, in_samples(rules.pad_s), samples);
    found
}

fn pad(segments: &mut [Segment], pad: f64, samples: u64) {
    // Fractions of a sample are dropped, as a program that counts in whole ones does.
    let before = |start: u64| (start as f64 - pad).max(0.0) as u64;
    let after = |end: u64| (end as f64 + pad).min(samples as f64) as u64;
    if let Some(first) = segments.first_mut() {
        first.start = before(first.start);
    }
    for index in 0..segments.len() {
        let Some(next) = segments.get(index + 1).map(|next| next.start) else {
            segments[index].end = after(segments[index].end);
            break;
        };
        let between = next - segments[index].end;
        if (between as f64) < 2.0 * pad {
            segments[index].end += between / 2;
            segments[index + 1].start = next - between / 2;
        } else {
            segments[index].end = after(segments[index].end);
            segments[index + 1].start = before(next);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const RULES: Rules =
        Rules { threshold: 0.5, threshold_end: 0.35, min_speech_s: 0.25, min_silence_s: 0.1, pad_s: 0.03 };

    /// Windows of silence and speech, as lengths that take turns.
    fn windows(lengths: &[usize]) -> Vec<f32> {
        lengths.iter().enumerate().flat_map(|(at, count)| std::iter::repeat_n((at % 2) as f32, *count)).collect()
    }

    fn ends(probabilities: &[f32], rules: &Rules) -> Vec<(u64, u64)> {
        let samples = (probabilities.len() * WINDOW) as u64;
        segments(probabilities, samples, rules).iter().map(|segment| (segment.start, segment.end)).collect()
    }

    #[test]
    fn speech_is_padded_and_short_pauses_and_clicks_are_passed_over() {
        // 10 windows of silence, 20 of speech, a pause of two, 20 of speech, silence, a click of three, silence.
        let sound = windows(&[10, 20, 2, 20, 30, 3, 30]);
        assert_eq!(ends(&sound, &RULES), [(10 * 512 - 480, 52 * 512 + 480)]);
        let eager = Rules { min_silence_s: 0.03, min_speech_s: 0.0, pad_s: 0.0, ..RULES };
        assert_eq!(ends(&sound, &eager).len(), 3);
    }

    #[test]
    fn between_both_thresholds_nothing_changes() {
        let mut sound = windows(&[10, 20, 0]);
        sound.extend([0.4; 30]);
        sound.extend([0.0; 30]);
        assert_eq!(ends(&sound, &RULES), [(10 * 512 - 480, 60 * 512 + 480)], "0.4 goes on what was speech");
        assert!(ends(&[0.4; 60], &RULES).is_empty(), "and begins none");
    }

    #[test]
    fn speech_up_to_the_end_ends_with_the_sound_and_paddings_share_what_is_between() {
        let sound = windows(&[0, 20]);
        let one = segments(&sound, 20 * 512 - 100, &RULES);
        assert_eq!((one[0].start, one[0].end, one[0].probability), (0, 20 * 512 - 100, 1.0));
        let wide = Rules { pad_s: 1.0, ..RULES };
        assert_eq!(ends(&windows(&[0, 20, 11, 20]), &wide), [(0, 25 * 512 + 256), (25 * 512 + 256, 51 * 512)]);
    }

    proptest! {
        #[test]
        fn segments_are_in_order_and_inside_of_the_sound(
            probabilities in proptest::collection::vec(0.0_f32..1.0, 0..200), pad_s in 0.0..2.0, min_speech_s in 0.0..0.5,
            min_silence_s in 0.0..0.5,
        ) {
            let rules = Rules { pad_s, min_speech_s, min_silence_s, ..RULES };
            let samples = (probabilities.len() * WINDOW) as u64;
            let found = segments(&probabilities, samples, &rules);
            prop_assert!(found.iter().all(|one| one.start < one.end && one.end <= samples));
            prop_assert!(found.windows(2).all(|pair| pair[0].end <= pair[1].start));
            prop_assert!(found.iter().all(|one| (0.0..=1.0).contains(&one.probability)));
        }
    }
}
