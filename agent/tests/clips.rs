//! Clips from file to file through the real ffmpeg, and what is no clip.
//!
//! The clips are made here by ffmpeg from test patterns. Without ffmpeg or the models a test says so and passes.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test panics with what went wrong; that is its report")]

mod models;

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};

use backlot_agent::infer::{Context, Engine, EngineOptions, Failure, FailureClass, Made, Report, Task, run};
use serde_json::{Map, json};

fn ready(test: &str) -> Option<PathBuf> {
    if Command::new("ffmpeg").arg("-version").output().is_err() {
        println!("SKIPPED {test}: no ffmpeg");
        return None;
    }
    models::folder(test)
}

/// Makes a file in `folder` with ffmpeg.
fn make(folder: &Path, name: &str, arguments: &str) -> PathBuf {
    let path = folder.join(name);
    let made = Command::new("ffmpeg")
        .args(["-nostdin", "-v", "error", "-y"])
        .args(arguments.split_whitespace())
        .arg(&path)
        .output()
        .unwrap();
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    path
}

fn upscale(models: &Path, folder: &Path, input: PathBuf, scale: u32) -> Result<Vec<Made>, Failure> {
    let mut engine = Engine::new(EngineOptions { models_dir: models.to_path_buf(), threads: 2, ..Default::default() });
    let output_dir = folder.join("out");
    std::fs::create_dir_all(&output_dir).unwrap();
    let parameters = Map::from_iter([("scale".to_owned(), json!(scale))]);
    let task = Task { kind: "video.upscale".to_owned(), parameters, inputs: vec![input], output_dir };
    let mut percents = Vec::new();
    let mut report = |report| {
        if let Report::Percent(percent) = report {
            percents.push(percent);
        }
    };
    let cancel = AtomicBool::new(false);
    let made = run(&task, &mut Context { engine: &mut engine, cancel: &cancel, report: &mut report });
    assert!(percents.is_sorted() && (made.is_err() || percents.last() == Some(&100.0)), "{percents:?}");
    made
}

fn look(path: &Path, what: &str) -> String {
    let options = ["-v", "error", "-of", "csv=p=0", "-show_entries", what];
    let said = Command::new("ffprobe").args(options).arg(path).output().unwrap();
    String::from_utf8(said.stdout).unwrap().split_whitespace().collect::<Vec<_>>().join(" ")
}

#[test]
fn a_clip_with_sound_keeps_its_length_its_rate_and_its_sound() {
    let Some(models) = ready("a_clip_with_sound_keeps_its_length_its_rate_and_its_sound") else { return };
    let folder = tempfile::tempdir().unwrap();
    let source = "-f lavfi -i testsrc2=size=48x32:rate=30000/1001:duration=0.5 -f lavfi -i sine=duration=0.5 \
                  -c:v libx264 -pix_fmt yuv420p -c:a aac";
    let input = make(folder.path(), "in.mp4", source);
    let made = upscale(&models, folder.path(), input.clone(), 2).unwrap().remove(0);
    assert_eq!((made.width, made.height, made.content_type), (96, 64, "video/mp4"));
    assert_eq!((&made.extra["frames"], &made.extra["sound"]), (&json!(15), &json!(true)));
    assert_eq!(
        look(&made.path, "stream=codec_name,width,height,pix_fmt,r_frame_rate"),
        "h264,96,64,yuv420p,30000/1001 aac,0/0"
    );
    assert_eq!(look(&made.path, "stream=nb_frames").split(' ').next(), Some("15"));
    let sound = |path: &Path| {
        let arguments = ["-v", "error", "-i", path.to_str().unwrap(), "-map", "0:a", "-c", "copy", "-f", "md5", "-"];
        String::from_utf8(Command::new("ffmpeg").args(arguments).output().unwrap().stdout).unwrap()
    };
    assert_eq!(sound(&input), sound(&made.path), "the sound is the same bits");
    // It shows what it showed: shrunk again, it is close to the original.
    let (a, b) = (made.path.to_str().unwrap(), input.to_str().unwrap());
    let graph = "[0:v]scale=48:32[a];[a][1:v]psnr";
    let said = Command::new("ffmpeg").args(["-i", a, "-i", b, "-lavfi", graph, "-f", "null", "-"]).output().unwrap();
    let said = String::from_utf8_lossy(&said.stderr).into_owned();
    let psnr = said.split("average:").nth(1).and_then(|rest| rest.split(' ').next()?.parse::<f64>().ok());
    assert!(psnr.is_some_and(|psnr| psnr > 22.0), "{psnr:?}: {said}");
}

#[test]
fn odd_sides_become_even_by_one() {
    let Some(models) = ready("odd_sides_become_even_by_one") else { return };
    let folder = tempfile::tempdir().unwrap();
    let input = make(
        folder.path(),
        "in.mkv",
        "-f lavfi -i testsrc2=size=40x30:rate=5:duration=0.6 -vf format=bgr0,crop=35:21 -c:v ffv1",
    );
    let made = upscale(&models, folder.path(), input, 3).unwrap().remove(0);
    assert_eq!((made.width, made.height, &made.extra["frames"]), (106, 64, &json!(3)));
    assert_eq!(look(&made.path, "stream=width,height"), "106,64");
}

#[test]
fn a_clip_that_is_turned_is_upscaled_upright() {
    let Some(models) = ready("a_clip_that_is_turned_is_upscaled_upright") else { return };
    let folder = tempfile::tempdir().unwrap();
    let flat = make(folder.path(), "flat.mp4", "-f lavfi -i testsrc2=size=48x32:rate=5:duration=0.4 -pix_fmt yuv420p");
    let turn = format!("-i {} -c copy -metadata:s:v rotate=90", flat.display());
    let input = make(folder.path(), "turned.mp4", &turn);
    if look(&input, "stream_side_data=rotation").is_empty() {
        println!("SKIPPED a_clip_that_is_turned_is_upscaled_upright: this ffmpeg does not write the turn");
        return;
    }
    let made = upscale(&models, folder.path(), input, 2).unwrap().remove(0);
    assert_eq!((made.width, made.height), (64, 96));
}

#[test]
fn what_is_no_clip_fails_permanently_with_a_reason() {
    let Some(models) = ready("what_is_no_clip_fails_permanently_with_a_reason") else { return };
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    let good = make(
        folder.path(),
        "good.mp4",
        "-f lavfi -i testsrc2=size=64x48:rate=10:duration=3 -pix_fmt yuv420p -movflags +faststart",
    );
    let bytes = std::fs::read(&good).unwrap();
    std::fs::write(at("empty.mp4"), b"").unwrap();
    std::fs::write(at("text.mp4"), "a text that calls itself a clip\n".repeat(50)).unwrap();
    std::fs::write(at("list.mp4"), format!("#EXTM3U\n#EXTINF:3,\nfile:{}\n", good.display())).unwrap();
    std::fs::write(at("ffconcat.mp4"), format!("ffconcat version 1.0\nfile '{}'\n", good.display())).unwrap();
    std::fs::write(at("cut.mp4"), &bytes[..bytes.len() / 2]).unwrap();
    let mut hurt = bytes.clone();
    let from = bytes.windows(4).position(|window| window == b"mdat").unwrap() + 2000;
    hurt[from..].iter_mut().step_by(3).for_each(|byte| *byte = 0xAA);
    std::fs::write(at("hurt.mp4"), hurt).unwrap();
    make(folder.path(), "sound.mp4", "-f lavfi -i sine=duration=0.2 -c:a aac");
    make(
        folder.path(),
        "hdr.mp4",
        "-f lavfi -i testsrc2=size=64x48:rate=10:duration=0.3 -c:v libx265 -pix_fmt yuv420p10le -color_primaries bt2020 \
         -color_trc smpte2084 -colorspace bt2020nc -x265-params log-level=none",
    );
    let uneven = "-f lavfi -i testsrc2=size=64x48:rate=10:duration=2 -vf select='not(between(n,5,11))' -fps_mode vfr -pix_fmt yuv420p";
    make(folder.path(), "uneven.mp4", uneven);
    for (name, words) in [
        ("empty.mp4", "empty (0 bytes)"),
        ("text.mp4", "Invalid data found"),
        ("list.mp4", "cannot be read"),
        ("ffconcat.mp4", "cannot be read"),
        ("cut.mp4", "cut"),
        ("hurt.mp4", "cannot be read"),
        ("sound.mp4", "no moving picture"),
        ("hdr.mp4", "high dynamic range"),
        ("uneven.mp4", "variable frame rate"),
    ] {
        let failure = upscale(&models, folder.path(), at(name), 2).map(|made| made[0].path.clone()).unwrap_err();
        assert_eq!(failure.class, FailureClass::Permanent, "{name}: {failure}");
        assert!(failure.message.contains(words), "{name}: {failure}");
        assert!(!failure.message.contains(folder.path().to_str().unwrap()), "{name} shows a path: {failure}");
        let _ = std::fs::remove_dir_all(folder.path().join("out"));
    }
}

#[test]
fn a_cancelled_clip_ends_at_once_and_leaves_no_process() {
    let Some(models) = ready("a_cancelled_clip_ends_at_once_and_leaves_no_process") else { return };
    let folder = tempfile::tempdir().unwrap();
    let input = make(folder.path(), "long.mp4", "-f lavfi -i testsrc2=size=64x48:rate=10:duration=60 -pix_fmt yuv420p");
    let mut engine = Engine::new(EngineOptions { models_dir: models, threads: 2, ..Default::default() });
    let parameters = Map::new();
    let output_dir = folder.path().to_path_buf();
    let task = Task { kind: "video.upscale".to_owned(), parameters, inputs: vec![input], output_dir };
    let cancel = AtomicBool::new(false);
    let mut report = |report| {
        if matches!(report, Report::Percent(_)) {
            cancel.store(true, Ordering::Relaxed);
        }
    };
    let failure = run(&task, &mut Context { engine: &mut engine, cancel: &cancel, report: &mut report }).unwrap_err();
    assert!(failure.cancelled);
    let mine = folder.path().to_str().unwrap();
    let others = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    let left = others.filter_map(|entry| std::fs::read(entry.path().join("cmdline")).ok());
    let left: Vec<_> = left.filter(|line| String::from_utf8_lossy(line).contains(mine)).collect();
    assert!(left.is_empty(), "{left:?}");
}
