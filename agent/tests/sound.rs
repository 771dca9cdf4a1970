//! `audio.denoise` from file to file: what goes, what stays, and that nothing moves.
//!
//! Files are made by ffmpeg. Without it, a test says so and passes.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test panics with what went wrong; that is its report")]

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};

use backlot_agent::infer::{Context, Engine, EngineOptions, Failure, FailureClass, Made, Report, Task, run};
use serde_json::{Value, json};

struct Desk {
    dir: tempfile::TempDir,
    test: &'static str,
    runs: usize,
}

impl Desk {
    /// `None` where there is no ffmpeg.
    fn new(test: &'static str) -> Option<Self> {
        let there = Command::new("ffmpeg").arg("-version").output().is_ok();
        if !there {
            println!("SKIPPED {test}: no ffmpeg");
        }
        there.then(|| Self { dir: tempfile::tempdir().unwrap(), test, runs: 0 })
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn make(&self, name: &str, arguments: &[&str]) -> PathBuf {
        let path = self.path(name);
        let made = Command::new("ffmpeg").args(["-nostdin", "-v", "error", "-y"]).args(arguments).arg(&path).output();
        let made = made.unwrap();
        assert!(made.status.success(), "{}: {name}: {}", self.test, String::from_utf8_lossy(&made.stderr));
        path
    }

    /// A file of f64 samples, encoded as `name`'s ending and `arguments` say.
    fn sound(&self, name: &str, rate: u32, channels: usize, samples: &[f64], arguments: &[&str]) -> PathBuf {
        let raw = self.path("raw.f64");
        std::fs::write(&raw, samples.iter().flat_map(|value| value.to_le_bytes()).collect::<Vec<_>>()).unwrap();
        let (rate, channels) = (rate.to_string(), channels.to_string());
        let input = ["-f", "f64le", "-ar", &rate, "-ac", &channels, "-i", raw.to_str().unwrap()];
        self.make(name, &[&input[..], arguments].concat())
    }

    /// All samples of a file's sound, from the file's beginning on.
    fn samples(&self, path: &Path) -> Vec<f64> {
        let input = path.to_str().unwrap();
        let raw =
            self.make("decoded.f64", &["-i", input, "-map", "0:a:0", "-af", "aresample=first_pts=0", "-f", "f64le"]);
        let bytes = std::fs::read(raw).unwrap();
        bytes.chunks_exact(8).map(|value| f64::from_le_bytes(value.try_into().unwrap())).collect()
    }

    fn denoise(&mut self, input: &Path, parameters: Value) -> Result<Made, Failure> {
        let never = AtomicBool::new(false);
        self.denoise_until(input, parameters, &never)
    }

    fn denoise_until(&mut self, input: &Path, parameters: Value, cancel: &AtomicBool) -> Result<Made, Failure> {
        self.runs += 1;
        let output_dir = self.path(&format!("out-{}", self.runs));
        std::fs::create_dir(&output_dir).unwrap();
        let mut engine = Engine::new(EngineOptions { threads: 1, ..Default::default() });
        let Value::Object(parameters) = parameters else { panic!("an object") };
        let task = Task { kind: "audio.denoise".into(), parameters, inputs: vec![input.to_owned()], output_dir };
        let (mut percents, mut phases) = (Vec::new(), Vec::new());
        let mut report = |report| match report {
            Report::Percent(percent) => percents.push(percent),
            Report::Phase(phase) => phases.push(phase),
            _ => {}
        };
        let made = run(&task, &mut Context { engine: &mut engine, cancel, report: &mut report });
        if made.is_ok() {
            assert!(percents.is_sorted() && percents.last() == Some(&100.0), "{percents:?}");
            assert_eq!(phases, ["load", "infer", "post"]);
        }
        made.map(|mut made| made.remove(0))
    }
}

/// The voice of the tests of speech, at its 16 kHz.
fn voice() -> Vec<f64> {
    let file = std::fs::read(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/speech/voice.wav")).unwrap();
    file[44..].chunks_exact(2).map(|b| f64::from(i16::from_le_bytes([b[0], b[1]])) / 32_768.0).collect()
}

/// Noise that is the same on every run.
fn noise(count: usize, loud: f64, mut state: u64) -> Vec<f64> {
    let mut next = move || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) as f64 / f64::from(1_u32 << 31) * 2.0 - 1.0
    };
    (0..count).map(|_| next() * loud).collect()
}

fn sum(a: &[f64], b: &[f64]) -> Vec<f64> {
    a.iter().zip(b).map(|(a, b)| a + b).collect()
}

fn power(samples: &[f64]) -> f64 {
    samples.iter().map(|value| value * value).sum::<f64>() / samples.len().max(1) as f64
}

/// By how many samples `late` is behind `early` in the middle of them, by the correlation of what changes from sample to sample (of low
/// tones alone it would be too flat), up to 1,200 either way: more than a frame of the network, or of AAC.
fn lag(early: &[f64], late: &[f64]) -> i64 {
    const MOST: usize = 1_200;
    let changes = |samples: &[f64]| -> Vec<f64> { samples.windows(2).map(|pair| pair[1] - pair[0]).collect() };
    let (early, late) = (changes(early), changes(late));
    let (from, count) = (early.len() / 5, early.len().min(60_000) / 3);
    let early = &early[from..from + count];
    let scores = (0..=2 * MOST).map(|lag| {
        let late = &late[from + lag - MOST..][..count];
        let mut sum = 0.0;
        for at in 0..count {
            sum += early[at] * late[at];
        }
        (lag as i64 - MOST as i64, sum)
    });
    scores.max_by(|a, b| a.1.total_cmp(&b.1)).unwrap().0
}

/// How much louder the signal is than all that differs from it, in dB.
fn snr(clean: &[f64], other: &[f64]) -> f64 {
    let rest: Vec<f64> = clean.iter().zip(other).map(|(a, b)| a - b).collect();
    10.0 * (power(clean) / power(&rest)).log10()
}

#[test]
fn noise_goes_and_speech_stays_where_it_was() {
    let Some(mut desk) = Desk::new("noise_goes_and_speech_stays_where_it_was") else { return };
    let clean = voice();
    let noisy = sum(&clean, &noise(clean.len(), 0.1, 1));
    let input = desk.sound("take 1.wav", 16_000, 1, &noisy, &["-c:a", "pcm_s24le"]);
    let made = desk.denoise(&input, json!({})).unwrap();
    assert_eq!(
        (made.path.file_name().unwrap().to_str().unwrap(), made.content_type),
        ("take_1-denoised.wav", "audio/wav")
    );
    let result = desk.samples(&made.path);
    assert_eq!(result.len(), clean.len(), "as long as before, to the sample");
    assert_eq!(lag(&clean, &result), 0);
    let (before, after) = (snr(&clean, &noisy), snr(&clean, &result));
    println!("signal to noise: {before:.1} dB before, {after:.1} dB after");
    assert!(after > before + 4.0, "{before} dB before, {after} dB after");
    // The pause in the middle holds noise alone.
    let pause = 40_000..44_200;
    let gone = 10.0 * (power(&noisy[pause.clone()]) / power(&result[pause])).log10();
    assert!(gone > 15.0, "{gone} dB of the noise in the pause are gone");
    let said = |name: &str| made.extra[name].as_f64().unwrap();
    assert!(said("rms_after_dbfs") < said("rms_before_dbfs") && said("samples") as usize == clean.len());
}

#[test]
fn silence_stays_silence_and_no_strength_changes_no_bit() {
    let Some(mut desk) = Desk::new("silence_stays_silence_and_no_strength_changes_no_bit") else { return };
    let silence = desk.sound("silence.flac", 44_100, 2, &vec![0.0; 60_000], &["-c:a", "flac"]);
    let made = desk.denoise(&silence, json!({})).unwrap();
    assert_eq!(made.extra["rms_after_dbfs"], Value::Null);
    let result = desk.samples(&made.path);
    assert!(result.len() == 60_000 && result.iter().all(|value| *value == 0.0));
    for (name, codec) in [("a.wav", "pcm_s16le"), ("b.wav", "pcm_s24le"), ("c.flac", "flac"), ("d.wav", "pcm_f32le")] {
        let input = desk.sound(name, 44_100, 2, &noise(50_002, 0.4, 3), &["-c:a", codec]);
        let made = desk.denoise(&input, json!({"strength": "0"})).unwrap();
        assert_eq!(desk.samples(&made.path), desk.samples(&input), "{name}");
    }
}

#[test]
fn a_sound_comes_out_in_the_format_it_came_in_and_in_time() {
    let Some(mut desk) = Desk::new("a_sound_comes_out_in_the_format_it_came_in_and_in_time") else { return };
    let clean = voice();
    let noisy = sum(&clean, &noise(clean.len(), 0.01, 5));
    for (name, arguments, ending, exact) in [
        ("a.flac", &["-sample_fmt", "s32", "-c:a", "flac"][..], "flac", true),
        ("b.mp3", &["-ar", "44100", "-c:a", "libmp3lame"], "mp3", false),
        ("c.m4a", &["-ar", "44100", "-c:a", "aac"], "m4a", false),
        ("d.ogg", &["-ar", "48000", "-c:a", "libopus"], "opus", false),
        ("e.aiff", &["-ar", "96000", "-c:a", "pcm_s24be"], "wav", true),
        ("f.m4a", &["-c:a", "alac"], "m4a", true),
    ] {
        let input = desk.sound(name, 16_000, 1, &noisy, arguments);
        let made = desk.denoise(&input, json!({"strength": 0.9})).unwrap();
        assert_eq!(made.path.extension().unwrap(), ending, "{name}");
        let (before, after) = (desk.samples(&input), desk.samples(&made.path));
        if exact {
            assert_eq!(before.len(), after.len(), "{name}");
        }
        assert_eq!(lag(&before, &after), 0, "{name} has moved");
    }
}

#[test]
fn a_clip_keeps_its_picture_and_its_sound_stays_in_time_with_it() {
    let Some(mut desk) = Desk::new("a_clip_keeps_its_picture_and_its_sound_stays_in_time_with_it") else { return };
    let clean = voice();
    let noisy = sum(&clean, &noise(clean.len(), 0.01, 7));
    let wav = desk.sound("noisy.wav", 16_000, 1, &noisy, &["-ar", "48000", "-ac", "2"]);
    let wav = wav.to_str().unwrap();
    let picture = ["-f", "lavfi", "-i", "testsrc2=size=64x48:rate=25:duration=6"];
    let codecs = ["-c:v", "libx264", "-pix_fmt", "yuv420p", "-c:a"];
    for (name, offset, codec) in
        [("a.mp4", "0", "aac"), ("late.mp4", "0.5", "aac"), ("b.mkv", "0.25", "flac"), ("c.mov", "0", "pcm_s24le")]
    {
        let sound = ["-itsoffset", offset, "-i", wav];
        let clip = desk.make(name, &[&picture[..], &sound, &codecs, &[codec]].concat());
        let made = desk.denoise(&clip, json!({})).unwrap();
        assert_eq!(made.path.extension(), clip.extension());
        let picture = |path: &Path| {
            let input = path.to_str().unwrap();
            let sums = desk.make("frames.md5", &["-i", input, "-map", "0:v", "-c", "copy", "-f", "framemd5"]);
            let text = std::fs::read_to_string(sums).unwrap();
            let md5s: Vec<String> = text
                .lines()
                .filter(|line| !line.starts_with('#'))
                .filter_map(|line| Some(line.rsplit_once(',')?.1.to_owned()))
                .collect();
            assert_eq!(md5s.len(), 150);
            md5s
        };
        assert_eq!(picture(&clip), picture(&made.path), "{name}: the picture is copied");
        let (before, after) = (desk.samples(&clip), desk.samples(&made.path));
        let left = |samples: &[f64]| -> Vec<f64> { samples.iter().step_by(2).copied().collect() };
        let (before, after) = (left(&before), left(&after));
        // MP4 and Matroska write beginnings in whole milliseconds.
        let moved = lag(&before, &after);
        let allowed = if offset == "0" { 0 } else { 48 };
        assert!(moved.abs() <= allowed, "{name}: the sound has moved by {moved} samples");
    }
}

#[test]
fn what_is_no_sound_is_refused_for_good_and_says_why() {
    let Some(mut desk) = Desk::new("what_is_no_sound_is_refused_for_good_and_says_why") else { return };
    let empty = desk.path("empty.wav");
    std::fs::write(&empty, "").unwrap();
    let text = desk.path("text.wav");
    std::fs::write(&text, "Four score and seven years ago").unwrap();
    let list = desk.path("list.mp4");
    std::fs::write(&list, "#EXTM3U\n#EXTINF:1,\nfile:///etc/passwd\n").unwrap();
    let mut spoilt = noise(9_600, 0.1, 9);
    spoilt[5_000] = f64::NAN;
    let nan = desk.sound("nan.wav", 48_000, 1, &spoilt, &["-c:a", "pcm_f64le"]);
    let many = desk.sound("many.wav", 48_000, 100, &vec![0.0; 48_000], &["-c:a", "pcm_f64le"]);
    let silent = desk.make("silent.mp4", &["-f", "lavfi", "-i", "testsrc2=size=64x48:rate=5:duration=1"]);
    let nothing = desk.sound("nothing.wav", 48_000, 1, &[], &["-c:a", "pcm_s16le"]);
    for (input, words) in [
        (&empty, "0 bytes"),
        (&text, "cannot be read"),
        (&list, "cannot be read"),
        (&nan, "sample 5000 of channel 0 is NaN"),
        (&many, "100 channels"),
        (&silent, "no sound"),
        (&nothing, "no samples"),
    ] {
        let failure = desk.denoise(input, json!({})).unwrap_err();
        assert!(failure.message.contains(words), "{input:?}: {failure}");
        assert_eq!(failure.class, FailureClass::Permanent, "{input:?}");
        assert!(!failure.message.contains(desk.dir.path().to_str().unwrap()), "{failure}");
    }
}

#[test]
fn a_long_sound_takes_no_memory_and_a_cancel_ends_it() {
    let Some(mut desk) = Desk::new("a_long_sound_takes_no_memory_and_a_cancel_ends_it") else { return };
    let source = "anoisesrc=duration=1800:sample_rate=48000:amplitude=0.1";
    let input = desk.make("long.wav", &["-f", "lavfi", "-i", source, "-c:a", "pcm_s16le"]);
    let resident = || {
        let status = std::fs::read_to_string("/proc/self/status").unwrap();
        let line = status.lines().find(|line| line.starts_with("VmHWM:")).unwrap().to_owned();
        line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap()
    };
    let before = resident();
    let cancel = AtomicBool::new(false);
    // Half an hour is 173 MB, and eight times that on its way; the first three minutes say as much of memory as all of it.
    let failure = std::thread::scope(|scope| {
        let out = desk.path("out-1");
        let cancel = &cancel;
        scope.spawn(move || {
            let file = out.join("long-denoised.wav");
            for _ in 0..12_000 {
                if std::fs::metadata(&file).is_ok_and(|data| data.len() > 17_280_000) {
                    break;
                }
                std::thread::sleep(std::time::Duration::from_millis(10));
            }
            cancel.store(true, Ordering::Relaxed);
        });
        desk.denoise_until(&input, json!({}), cancel).unwrap_err()
    });
    assert!(failure.cancelled, "{failure}");
    let grown_kib = resident() - before;
    assert!(grown_kib < 100_000, "memory has grown by {grown_kib} KiB");
    let done = std::fs::metadata(desk.path("out-1/long-denoised.wav")).unwrap().len();
    assert!(done > 17_280_000, "only {done} bytes were written in two minutes");
}
