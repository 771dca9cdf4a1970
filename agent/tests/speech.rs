//! `audio.speech-segments` with silero-vad's real weights against what silero-vad's own program says.
//!
//! `fixtures/speech/make.py` makes the sound and the numbers. Without the weights, or without ffmpeg, a test says so and passes.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test panics with what went wrong; that is its report")]

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::AtomicBool;

use backlot_agent::infer::cpu::Cpu;
use backlot_agent::infer::models::{Table, default_folder, speech};
use backlot_agent::infer::weights::Weights;
use backlot_agent::infer::{Context, Engine, EngineOptions, Failure, FailureClass, Made, Task, run};
use backlot_agent::sound::speech::{Rules, segments};
use serde::Deserialize;
use serde_json::{Map, Value, json};

#[derive(Deserialize)]
struct Expected {
    probabilities: Vec<f32>,
    cases: Vec<Case>,
}

#[derive(Deserialize)]
struct Case {
    /// Those of the sound where absent.
    odds: Option<Vec<f32>>,
    samples: u64,
    threshold: f64,
    min_speech_duration_ms: f64,
    min_silence_duration_ms: f64,
    speech_pad_ms: f64,
    found: Vec<(u64, u64)>,
}

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/speech").join(name)
}

fn expected() -> Expected {
    serde_json::from_slice(&std::fs::read(fixture("expected.json")).unwrap()).unwrap()
}

fn models(test: &str) -> Option<PathBuf> {
    let folder = default_folder();
    let there = folder.join(speech::FILE).is_file();
    if !there {
        println!("SKIPPED {test}: no {} in {}", speech::FILE, folder.display());
    }
    there.then_some(folder)
}

fn ffmpeg(test: &str, arguments: &[&str], to: &Path) -> bool {
    let Ok(made) = Command::new("ffmpeg").args(["-nostdin", "-v", "error", "-y"]).args(arguments).arg(to).output()
    else {
        println!("SKIPPED {test}: no ffmpeg");
        return false;
    };
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    true
}

#[test]
fn segments_are_those_of_the_reference_program() {
    let expected = expected();
    for (number, case) in expected.cases.iter().enumerate() {
        #[allow(clippy::cast_possible_truncation, reason = "the reference counts in f64, the network in f32")]
        let rules = Rules {
            threshold: case.threshold as f32,
            threshold_end: (case.threshold - 0.15) as f32,
            min_speech_s: case.min_speech_duration_ms / 1_000.0,
            min_silence_s: case.min_silence_duration_ms / 1_000.0,
            pad_s: case.speech_pad_ms / 1_000.0,
        };
        let odds = case.odds.as_ref().unwrap_or(&expected.probabilities);
        let found: Vec<(u64, u64)> =
            segments(odds, case.samples, &rules).iter().map(|one| (one.start, one.end)).collect();
        assert_eq!(found, case.found, "case {number}");
    }
    let all: usize = expected.cases.iter().map(|case| case.found.len()).sum();
    assert!(all > 60, "the cases hold only {all} segments");
}

#[test]
fn the_network_gives_the_probabilities_of_the_reference() {
    let Some(folder) = models("the_network_gives_the_probabilities_of_the_reference") else { return };
    let expected = expected().probabilities;
    assert!(expected.iter().any(|odds| *odds > 0.9) && expected.iter().any(|odds| *odds < 0.1));
    let weights = Table::of_this_build().unwrap().map(&folder, speech::FILE).unwrap();
    let cpu = Cpu::new(2, 64 << 20).unwrap();
    let mut vad = speech::Vad::load(&Weights::safetensors(&weights).unwrap(), &cpu).unwrap();
    let file = std::fs::read(fixture("voice.wav")).unwrap();
    let mut samples: Vec<f32> =
        file[44..].chunks_exact(2).map(|b| f32::from(i16::from_le_bytes([b[0], b[1]])) / 32_768.0).collect();
    samples.resize(samples.len().next_multiple_of(512), 0.0);
    let never = AtomicBool::new(false);
    // In one go, and window by window after a new beginning: what it remembers goes over batches.
    for piece in [samples.len(), 512] {
        vad.begin();
        let mut found = Vec::new();
        for piece in samples.chunks(piece) {
            vad.push(piece, &never, &mut found).unwrap();
        }
        assert_eq!(found.len(), expected.len());
        let worst = found.iter().zip(&expected).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
        assert!(worst < 1e-3, "off by {worst}");
        println!("probabilities are within {worst} of the reference's");
    }
    let stop = AtomicBool::new(true);
    assert!(vad.push(&samples, &stop, &mut Vec::new()).is_err(), "a cancel ends it");
}

fn ask(models: &Path, input: &Path, out: &Path, parameters: Value) -> Result<Vec<Made>, Failure> {
    let mut engine = Engine::new(EngineOptions { models_dir: models.to_owned(), threads: 2, ..Default::default() });
    let Value::Object(parameters) = parameters else { panic!("an object") };
    std::fs::create_dir_all(out).unwrap();
    let task = Task {
        kind: "audio.speech-segments".into(),
        parameters,
        inputs: vec![input.to_owned()],
        output_dir: out.to_owned(),
    };
    let cancel = AtomicBool::new(false);
    run(&task, &mut Context { engine: &mut engine, cancel: &cancel, report: &mut |_| {} })
}

fn found(made: &Made) -> Vec<(f64, f64)> {
    let text = std::fs::read(&made.path).unwrap();
    let whole: Value = serde_json::from_slice(&text).unwrap();
    let at = |one: &Value, key: &str| one[key].as_f64().unwrap();
    whole["segments"].as_array().unwrap().iter().map(|one| (at(one, "start_s"), at(one, "end_s"))).collect()
}

#[test]
fn speech_is_found_at_its_time_whatever_the_rate_the_channels_and_the_container() {
    let test = "speech_is_found_at_its_time_whatever_the_rate_the_channels_and_the_container";
    let Some(models) = models(test) else { return };
    let dir = tempfile::tempdir().unwrap();
    let voice = fixture("voice.wav");
    let wav = voice.to_str().unwrap();
    let picture = "color=size=32x32:rate=25:duration=8";
    let late = ["-f", "lavfi", "-i", picture, "-itsoffset", "1.5", "-i", wav, "-c:v", "libx264", "-c:a", "aac"];
    let forms: [(&str, &[&str], f64); 3] = [
        ("a.wav", &["-i", wav], 0.0),
        ("b.flac", &["-i", wav, "-ac", "2", "-ar", "44100"], 0.0),
        ("late.mp4", &late, 1.5),
    ];
    let reference: Vec<(f64, f64)> =
        expected().cases[0].found.iter().map(|(a, b)| (*a as f64 / 16e3, *b as f64 / 16e3)).collect();
    assert!(!reference.is_empty());
    for (name, arguments, later_s) in forms {
        let path = dir.path().join(name);
        if !ffmpeg(test, arguments, &path) {
            return;
        }
        let formats = json!({"formats": ["json", "vtt", "csv"]});
        let made = ask(&models, &path, &dir.path().join(format!("out-{name}")), formats).unwrap();
        assert_eq!(
            made.iter().map(|one| one.content_type).collect::<Vec<_>>(),
            ["application/json", "text/vtt", "text/csv"]
        );
        let found = found(&made[0]);
        assert_eq!(found.len(), reference.len(), "{name}: {found:?}, not {reference:?}");
        for (own, other) in found.iter().zip(&reference) {
            // One window more or less at another rate.
            let off = (own.0 - other.0 - later_s).abs().max((own.1 - other.1 - later_s).abs());
            assert!(off <= 0.065, "{name}: {found:?}, not {reference:?} after {later_s}");
        }
        let vtt = std::fs::read_to_string(&made[1].path).unwrap();
        assert!(vtt.starts_with("WEBVTT\n\n00:00:0") && vtt.matches(" --> ").count() == found.len(), "{vtt}");
        assert_eq!(std::fs::read_to_string(&made[2].path).unwrap().lines().count(), found.len() + 1);
    }
}

#[test]
fn a_sound_without_speech_has_no_segments_and_a_host_without_the_model_says_so() {
    let test = "a_sound_without_speech_has_no_segments_and_a_host_without_the_model_says_so";
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("tone.wav");
    if !ffmpeg(test, &["-f", "lavfi", "-i", "sine=frequency=440:duration=3:sample_rate=22050"], &path) {
        return;
    }
    let missing = ask(&dir.path().join("none"), &path, &dir.path().join("o"), Value::Object(Map::new())).unwrap_err();
    assert_eq!(missing.class, FailureClass::Permanent);
    assert!(missing.message.contains("model missing"), "{missing}");
    let Some(models) = models(test) else { return };
    let made = ask(&models, &path, &dir.path().join("p"), json!({})).unwrap();
    assert_eq!((found(&made[0]).len(), made[0].extra["duration_s"].as_f64()), (0, Some(3.0)));
}
