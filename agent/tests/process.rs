//! `image.process`, `video.process` and `image.contact-sheet` from file to file, on the CPU and on software Vulkan.
//!
//! Clips are made here by ffmpeg. Without ffmpeg, or without any Vulkan adapter, a test says so and passes.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test panics with what went wrong; that is its report")]

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::AtomicBool;

use backlot_agent::infer::choice::Wish;
use backlot_agent::infer::{Context, Engine, EngineOptions, Failure, FailureClass, Made, Report, Task, run};
use image::{DynamicImage, ImageBuffer, Rgb, RgbImage, Rgba, RgbaImage};
use serde_json::{Value, json};

struct Desk {
    folder: tempfile::TempDir,
    runs: usize,
}

impl Desk {
    fn new() -> Self {
        Self { folder: tempfile::tempdir().unwrap(), runs: 0 }
    }

    fn image(&self, name: &str, image: impl Into<DynamicImage>) -> PathBuf {
        let path = self.folder.path().join(name);
        image.into().save(&path).unwrap();
        path
    }

    /// Makes a clip with ffmpeg; `None` where there is none.
    fn clip(&self, test: &str, name: &str, arguments: &str) -> Option<PathBuf> {
        let path = self.folder.path().join(name);
        let Ok(made) = Command::new("ffmpeg")
            .args(["-nostdin", "-v", "error", "-y"])
            .args(arguments.split_whitespace())
            .arg(&path)
            .output()
        else {
            println!("SKIPPED {test}: no ffmpeg");
            return None;
        };
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        Some(path)
    }

    fn run(&mut self, wish: Wish, kind: &str, inputs: &[&Path], parameters: Value) -> Result<Vec<Made>, Failure> {
        self.runs += 1;
        let output_dir = self.folder.path().join(format!("out-{}", self.runs));
        std::fs::create_dir(&output_dir).unwrap();
        let mut engine = Engine::new(EngineOptions { threads: 2, executor: wish, ..Default::default() });
        let Value::Object(parameters) = parameters else { panic!("an object") };
        let inputs = inputs.iter().map(|path| path.to_path_buf()).collect();
        let task = Task { kind: kind.to_owned(), parameters, inputs, output_dir };
        let (mut percents, mut phases) = (Vec::new(), Vec::new());
        let mut report = |report| match report {
            Report::Percent(percent) => percents.push(percent),
            Report::Phase(phase) => phases.push(phase),
            Report::Preview(_) | Report::Checkpoint(_) | Report::GpuSeconds(_) => {}
        };
        let cancel = AtomicBool::new(false);
        let made = run(&task, &mut Context { engine: &mut engine, cancel: &cancel, report: &mut report });
        if made.is_ok() {
            assert!(percents.is_sorted() && percents.last() == Some(&100.0), "{percents:?}");
            assert_eq!(phases, ["load", "infer", "post"]);
        }
        made
    }

    /// On the CPU, and on software Vulkan where it is: the results, which are alike to `allowed`/255.
    fn both(&mut self, test: &str, inputs: &[&Path], operations: &Value, allowed: u8) -> RgbaImage {
        let parameters = json!({ "operations": operations });
        let cpu = self.run(Wish::Cpu, "image.process", inputs, parameters.clone()).unwrap().remove(0);
        assert_eq!((cpu.extra["executor"].as_str(), cpu.content_type), (Some("cpu"), "image/png"));
        let theirs = image::open(&cpu.path).unwrap().into_rgba8();
        assert_eq!(theirs.dimensions(), (cpu.width, cpu.height));
        let gpu = self.run(Wish::WgpuSoftware, "image.process", inputs, parameters).unwrap().remove(0);
        if gpu.extra["executor"] == "wgpu" {
            let ours = image::open(&gpu.path).unwrap().into_rgba8();
            let worst = ours.iter().zip(theirs.iter()).map(|(a, b)| a.abs_diff(*b)).max().unwrap();
            assert!(ours.dimensions() == theirs.dimensions() && worst <= allowed, "{test}: off by {worst}");
        } else {
            println!("SKIPPED the half on wgpu of {test}: no software Vulkan");
        }
        theirs
    }
}

fn busy(width: u32, height: u32) -> RgbImage {
    RgbImage::from_fn(width, height, |x, y| Rgb([(x * 5 % 256) as u8, (y * 7 % 256) as u8, (x * y % 256) as u8]))
}

#[test]
fn a_picture_goes_through_several_operations_to_a_file() {
    let mut desk = Desk::new();
    let picture = desk.image("shot 1.png", busy(64, 48));
    let mark = desk.image("mark.png", RgbaImage::from_pixel(8, 8, Rgba([255, 0, 0, 128])));
    let lut = desk.folder.path().join("invert.cube");
    let mut cube = String::from("LUT_3D_SIZE 2\n");
    for i in 0..8 {
        cube.push_str(&format!("{} {} {}\n", 1 - i % 2, 1 - i / 2 % 2, 1 - i / 4));
    }
    std::fs::write(&lut, cube).unwrap();
    let operations = json!([
        {"do": "lut", "input": 1},
        {"do": "resize", "width": 32},
        {"do": "over", "input": 2, "left": 20, "top": 10},
    ]);
    let test = "a_picture_goes_through_several_operations_to_a_file";
    let made = desk.both(test, &[&picture, &lut, &mark], &operations, 1);
    assert_eq!(made.dimensions(), (32, 24));
    // The first pixel of the whole was black, so that its surroundings are bright once inverted.
    assert!(made.get_pixel(0, 0).0[..3].iter().all(|value| *value > 200), "{:?}", made.get_pixel(0, 0));
    assert!(made.get_pixel(23, 13).0[0] > made.get_pixel(19, 13).0[0].saturating_sub(60));
    assert!(made.pixels().all(|pixel| pixel.0[3] == 255));

    let grain = json!([{"do": "grain", "strength": 0.1, "size": 2, "seed": 5}]);
    let grey = desk.image("grey.png", RgbImage::from_pixel(40, 40, Rgb([128; 3])));
    let grained = desk.both(test, &[&grey], &grain, 1);
    let distinct: std::collections::BTreeSet<u8> = grained.pixels().map(|pixel| pixel.0[0]).collect();
    assert!(distinct.len() > 20, "{distinct:?}");
}

#[test]
fn a_picture_does_not_differ_from_itself_and_differs_from_another() {
    let mut desk = Desk::new();
    let test = "a_picture_does_not_differ_from_itself_and_differs_from_another";
    let picture = desk.image("a.png", busy(20, 10));
    let mut other = busy(20, 10);
    other.put_pixel(3, 4, Rgb([255, 255, 255]));
    let other = desk.image("b.png", other);
    let difference = json!([{"do": "difference", "input": 1, "gain": 4}]);
    let same = desk.image("same.png", busy(20, 10));
    assert!(desk.both(test, &[&picture, &same], &difference, 0).pixels().all(|pixel| pixel.0 == [0, 0, 0, 255]));
    let made = desk.both(test, &[&picture, &other], &difference, 0);
    let far: Vec<_> = made.enumerate_pixels().filter(|(_, _, pixel)| pixel.0 != [0, 0, 0, 255]).collect();
    assert!(matches!(far.as_slice(), [(3, 4, _)]), "{far:?}");
}

#[test]
fn sixteen_bits_of_high_dynamic_range_become_a_picture_for_a_screen() {
    let mut desk = Desk::new();
    let test = "sixteen_bits_of_high_dynamic_range_become_a_picture_for_a_screen";
    // PQ greys: 0, 100, 203 and 1000 nits.
    let values = [0.0, 0.508, 0.581, 0.7518_f32].map(|value| (value * 65_535.0) as u16);
    let picture = ImageBuffer::<Rgb<u16>, Vec<u16>>::from_fn(4, 1, |x, _| Rgb([values[x as usize]; 3]));
    let picture = desk.image("pq.png", DynamicImage::ImageRgb16(picture));
    let made = desk.both(test, &[&picture], &json!([{"do": "tone-map", "curve": "pq"}]), 1);
    let greys: Vec<u8> = made.pixels().map(|pixel| pixel.0[1]).collect();
    assert!(greys[0] == 0 && greys[3] == 255 && greys.is_sorted(), "{greys:?}");
    // 100 of 203 nits would be 190 on a power of 2.4; the bend leaves it near that.
    assert!((160..=195).contains(&greys[1]), "{greys:?}");
}

#[test]
fn a_contact_sheet_shows_every_picture_once() {
    let mut desk = Desk::new();
    let colours = [[255, 0, 0], [0, 255, 0], [0, 0, 255]];
    let pictures: Vec<PathBuf> = colours
        .iter()
        .enumerate()
        .map(|(at, colour)| desk.image(&format!("{at}.png"), RgbImage::from_pixel(64, 32, Rgb(*colour))))
        .collect();
    let inputs: Vec<&Path> = pictures.iter().map(PathBuf::as_path).collect();
    let parameters = json!({"columns": 2, "width": "32", "height": 32, "gap": 4, "background": "#202020"});
    let made = desk.run(Wish::Cpu, "image.contact-sheet", &inputs, parameters).unwrap().remove(0);
    let sheet = image::open(&made.path).unwrap().into_rgb8();
    assert_eq!(sheet.dimensions(), (76, 76));
    // Pictures of 32 x 16 in the middle of cells of 32 x 32.
    for (x, y, colour) in [(20, 20, colours[0]), (56, 20, colours[1]), (20, 56, colours[2])] {
        assert_eq!(sheet.get_pixel(x, y).0, colour);
    }
    for (x, y) in [(1, 1), (20, 6), (56, 56)] {
        assert_eq!(sheet.get_pixel(x, y).0, [0x20; 3]);
    }
    assert_eq!((&made.extra["columns"], &made.extra["rows"]), (&json!(2), &json!(2)));
    let error = desk.run(Wish::Cpu, "image.contact-sheet", &inputs, json!({"width": 5000})).unwrap_err();
    assert!(error.message.contains("5000 x 180") && error.class == FailureClass::Permanent, "{error}");
}

fn middle_luma(path: &Path) -> u8 {
    let filter = "crop=2:2:iw/2:ih/2,format=gray";
    let arguments =
        ["-v", "error", "-i", path.to_str().unwrap(), "-vf", filter, "-frames:v", "1", "-f", "rawvideo", "-"];
    Command::new("ffmpeg").args(arguments).output().unwrap().stdout[0]
}

#[test]
fn a_clip_of_high_dynamic_range_becomes_one_that_plays_everywhere() {
    let mut desk = Desk::new();
    let test = "a_clip_of_high_dynamic_range_becomes_one_that_plays_everywhere";
    // Limited range, 10 bits: PQ of 203 nits is 0.581, sample 64 + 876 · 0.581 = 573.
    let source = "-f lavfi -i color=black:size=64x36:rate=24:duration=0.5,format=yuv420p10le,geq=lum=573:cb=512:cr=512 \
                  -f lavfi -i sine=duration=0.5 -c:v ffv1 -color_primaries bt2020 -color_trc smpte2084 \
                  -colorspace bt2020nc -color_range tv -c:a aac";
    let Some(clip) = desk.clip(test, "hdr.mkv", source) else { return };
    let refused =
        desk.run(Wish::Cpu, "video.process", &[&clip], json!({"operations": [{"do": "resize", "width": 32}]}));
    assert!(refused.unwrap_err().message.contains("high dynamic range"));
    let operations = json!([{"do": "tone-map"}, {"do": "resize", "width": 33}]);
    for wish in [Wish::Cpu, Wish::WgpuSoftware] {
        let made = desk.run(wish, "video.process", &[&clip], json!({"operations": operations})).unwrap().remove(0);
        assert_eq!((made.width, made.height, made.content_type), (34, 20, "video/mp4"));
        assert_eq!((&made.extra["frames"], &made.extra["sound"]), (&json!(12), &json!(true)));
        let entries = "stream=pix_fmt,color_transfer,color_space,nb_frames";
        let said = Command::new("ffprobe")
            .args(["-v", "error", "-select_streams", "v", "-of", "csv=p=0", "-show_entries", entries])
            .arg(&made.path)
            .output()
            .unwrap();
        assert_eq!(String::from_utf8_lossy(&said.stdout).trim(), "yuv420p,bt709,bt709,12");
        // 203 nits come to lie somewhat below white, so that 1000 can be it.
        let luma = middle_luma(&made.path);
        assert!((190..=235).contains(&luma), "{wish:?}: {luma}");
    }
}

#[test]
fn a_clip_that_is_not_changed_keeps_its_colours() {
    let mut desk = Desk::new();
    let test = "a_clip_that_is_not_changed_keeps_its_colours";
    let source = "-f lavfi -i color=0xc04020:size=32x32:rate=10:duration=0.3,format=yuv420p -c:v ffv1 \
                  -colorspace smpte170m -color_range tv";
    let Some(clip) = desk.clip(test, "sd.mkv", source) else { return };
    let operations = json!([{"do": "grain", "strength": 0}]);
    let made = desk.run(Wish::Cpu, "video.process", &[&clip], json!({"operations": operations})).unwrap().remove(0);
    // Through BT.601 in and BT.709 out the RGB is the same.
    let arguments =
        ["-v", "error", "-i", made.path.to_str().unwrap(), "-vf", "scale=in_color_matrix=bt709,format=rgb24"];
    let raw = Command::new("ffmpeg").args(arguments).args(["-frames:v", "1", "-f", "rawvideo", "-"]).output().unwrap();
    for (made, wanted) in raw.stdout[..3].iter().zip([0xc0, 0x40, 0x20]) {
        assert!(made.abs_diff(wanted) <= 4, "{:?}", &raw.stdout[..3]);
    }
}

#[test]
fn what_cannot_be_worked_on_is_refused_permanently_and_in_words() {
    let mut desk = Desk::new();
    let picture = desk.image("a.png", busy(20, 10));
    let text = desk.folder.path().join("not.cube");
    std::fs::write(&text, "hello\n").unwrap();
    for (kind, inputs, operations, words) in [
        ("image.process", vec![&picture], json!([{"do": "lut", "input": 3}]), "names input 3; the job has 1"),
        ("image.process", vec![&picture], json!([{"do": "lut", "input": 0}]), "none is left"),
        (
            "image.process",
            vec![&picture, &text],
            json!([{"do": "lut", "input": 1}]),
            "line 1: `hello` is not understood",
        ),
        (
            "image.process",
            vec![&picture, &text],
            json!([{"do": "over", "input": 1}]),
            "operation 0: the input is no PNG",
        ),
        ("image.process", vec![&text], json!([{"do": "resize", "width": 9}]), "no PNG, JPEG or WebP"),
        ("image.process", vec![&picture], json!([{"do": "resize", "width": 100_000_000}]), "operation 0: a size of"),
        ("image.process", vec![&picture], json!([{"do": "grain", "strength": 7}]), "a strength of 7 is not 0 to 1"),
        (
            "image.process",
            vec![&picture, &picture],
            json!([{"do": "difference", "input": 1, "gain": -1}]),
            "gain of -1",
        ),
        ("video.process", vec![&text], json!([{"do": "resize", "width": 9}]), "cannot be read"),
    ] {
        let inputs: Vec<&Path> = inputs.into_iter().map(PathBuf::as_path).collect();
        let failure = desk.run(Wish::Cpu, kind, &inputs, json!({"operations": operations})).unwrap_err();
        assert!(failure.message.contains(words), "{failure}");
        assert_eq!(failure.class, FailureClass::Permanent, "{failure}");
    }
}
