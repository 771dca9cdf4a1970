//! The upscaler with its real weights: against ncnn's own output, across tiles, and from file to file.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test panics with what went wrong; that is its report")]

mod models;

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use backlot_agent::frames::Rgb;
use backlot_agent::frames::tiles::Upscaler;
use backlot_agent::infer::cpu::Cpu;
use backlot_agent::infer::executor::{ExecError, Executor, Input, Program};
use backlot_agent::infer::models::{Table, upscale};
use backlot_agent::infer::weights::Weights;
use backlot_agent::infer::{Context, Engine, EngineOptions, Failure, FailureClass, Made, Report, Task, run};
use image::{DynamicImage, ImageFormat, RgbImage, RgbaImage};
use serde_json::{Map, Value, json};

const ARENA_BYTES_MAX: usize = 1 << 30;

fn load(folder: &Path, files: &str, scale: u32) -> Box<dyn Program> {
    let table = Table::of_this_build().unwrap();
    let map = |ending: &str| table.map(folder, &format!("{files}.{ending}")).unwrap();
    let (graph, weights) = upscale::read(&map("param"), &map("bin"), scale).unwrap();
    Cpu::new(2, ARENA_BYTES_MAX).unwrap().load(graph, &weights).unwrap()
}

/// Each network on a small pattern, against what ncnn made of it (`tests/python/make_upscale_fixture.py`).
#[test]
fn every_network_agrees_with_ncnn() {
    let Some(folder) = models::folder("every_network_agrees_with_ncnn") else { return };
    let fixture = std::fs::read(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/upscale_ncnn.safetensors")).unwrap();
    let fixture = Weights::safetensors(&fixture.into()).unwrap();
    let input = fixture.get("input").unwrap();
    let data = input.to_f32();
    let table = Table::of_this_build().unwrap();
    for scale in table.models.iter().flat_map(|model| &model.scales) {
        let expected = fixture.get(&scale.files).expect(&scale.files);
        let mut program = load(&folder, &scale.files, scale.scale);
        let input = [Input { shape: &input.shape, data: &data }];
        let made = program.run(&input, &AtomicBool::new(false), &mut |_, _| {}).unwrap().remove(0);
        assert_eq!(made.shape, expected.shape, "{}", scale.files);
        let differences = made.data.iter().zip(expected.to_f32()).map(|(ours, theirs)| (ours - theirs).abs());
        let worst = differences.fold(0.0, f32::max);
        println!("{}: at most {worst:.2e} from ncnn", scale.files);
        assert!(worst < 1e-4, "{}: off by {worst}", scale.files);
    }
}

/// A picture with edges, gradients and fine patterns everywhere, so that a seam has something to break.
fn busy(width: usize, height: usize) -> Rgb {
    let mut picture = Rgb::black(width, height);
    for (i, pixel) in picture.data.chunks_exact_mut(3).enumerate() {
        let (x, y) = (i % width, i / width);
        pixel[0] = if (x / 7 + y / 5) % 2 == 0 { 230 } else { 25 };
        pixel[1] = (x * 255 / width) as u8;
        pixel[2] = ((x * x + y * y) / 9 % 256) as u8;
    }
    picture
}

fn seams(program: &mut dyn Program, scale: usize, overlap: usize, side_max: usize) -> u8 {
    let picture = busy(220, 40);
    let (cancel, mut whole, mut tiled) = (AtomicBool::new(false), Rgb::default(), Rgb::default());
    let mut upscaler = Upscaler::new(program, scale, overlap, ARENA_BYTES_MAX).unwrap();
    assert_eq!(upscaler.tiles(220, 40).len(), 1);
    upscaler.run(&picture, &mut whole, &cancel, &mut |_| {}).unwrap();
    upscaler.side_max = side_max;
    assert!(upscaler.tiles(220, 40).len() >= 2);
    let mut last = 0.0;
    upscaler
        .run(&picture, &mut tiled, &cancel, &mut |share| {
            assert!(share >= last && share <= 1.0);
            last = share;
        })
        .unwrap();
    assert_eq!((last, whole.width, whole.height), (1.0, 220 * scale, 40 * scale));
    whole.data.iter().zip(&tiled.data).map(|(a, b)| a.abs_diff(*b)).max().unwrap()
}

fn overlap(model: &str) -> usize {
    Table::of_this_build().unwrap().models.iter().find(|known| known.name == model).unwrap().overlap_px
}

#[test]
fn tiles_leave_no_seam() {
    let Some(folder) = models::folder("tiles_leave_no_seam") else { return };
    for scale in [2_u32, 3, 4] {
        let mut program = load(&folder, &format!("realesr-animevideov3-x{scale}"), scale);
        let worst = seams(program.as_mut(), scale as usize, overlap("realesr-animevideov3"), 80);
        assert!(worst <= 1, "scale {scale}: a seam of {worst}/255");
    }
}

#[test]
fn tiles_of_the_deep_network_leave_no_seam_that_eight_bits_show() {
    let Some(folder) = models::folder("tiles_of_the_deep_network_leave_no_seam_that_eight_bits_show") else { return };
    let mut program = load(&folder, "realesrgan-x4plus-anime", 4);
    let worst = seams(program.as_mut(), 4, overlap("realesrgan-x4plus-anime"), 136);
    println!("realesrgan-x4plus-anime: seams of {worst}/255");
    assert!(worst <= 1, "a seam of {worst}/255");
}

#[test]
fn not_even_the_smallest_tile_fitting_is_an_error_with_the_numbers() {
    let text = "7767517\n2 2\nInput in 0 1 data\nInterp i 1 1 data out 0=1 1=2.0 2=2.0\n";
    let (graph, weights) = upscale::read(text.as_bytes(), &bytes::Bytes::new(), 2).unwrap();
    let mut program = Cpu::new(1, 1000).unwrap().load(graph, &weights).unwrap();
    let error = Upscaler::new(program.as_mut(), 2, 20, 1000).err().unwrap();
    assert!(matches!(error, ExecError::Memory { needed_bytes: 188_160, allowed_bytes: 1000 }), "{error}");
}

struct Desk {
    folder: tempfile::TempDir,
    engine: Engine,
    reports: Vec<Report>,
    cancel: AtomicBool,
}

impl Desk {
    fn new(models: &Path) -> Self {
        let engine = Engine::new(EngineOptions { models_dir: models.to_path_buf(), threads: 2, ..Default::default() });
        Self { folder: tempfile::tempdir().unwrap(), engine, reports: Vec::new(), cancel: AtomicBool::new(false) }
    }

    fn put(&self, name: &str, bytes: &[u8]) -> std::path::PathBuf {
        let path = self.folder.path().join(name);
        std::fs::write(&path, bytes).unwrap();
        path
    }

    fn image(&self, name: &str, image: &DynamicImage, format: ImageFormat) -> std::path::PathBuf {
        let path = self.folder.path().join(name);
        image.save_with_format(&path, format).unwrap();
        path
    }

    fn run(&mut self, inputs: &[std::path::PathBuf], parameters: Value) -> Result<Vec<Made>, Failure> {
        let output_dir = self.folder.path().join(format!("out-{}", self.reports.len()));
        std::fs::create_dir_all(&output_dir).unwrap();
        let Value::Object(parameters) = parameters else { panic!("an object") };
        let task = Task { kind: "image.upscale".to_owned(), parameters, inputs: inputs.to_vec(), output_dir };
        let reports = &mut self.reports;
        let mut report = |report| reports.push(report);
        run(&task, &mut Context { engine: &mut self.engine, cancel: &self.cancel, report: &mut report })
    }
}

fn rgb(width: u32, height: u32) -> DynamicImage {
    let picture = busy(width as usize, height as usize);
    DynamicImage::ImageRgb8(RgbImage::from_raw(width, height, picture.data).unwrap())
}

#[test]
fn images_of_each_format_go_from_file_to_file() {
    let Some(folder) = models::folder("images_of_each_format_go_from_file_to_file") else { return };
    let mut desk = Desk::new(&folder);
    let soft = DynamicImage::ImageRgb8(RgbImage::from_fn(31, 17, |x, y| {
        image::Rgb([200 + x as u8, 100 + 2 * y as u8, 10 + (x + y) as u8])
    }));
    let inputs = [
        desk.image("a.png", &soft, ImageFormat::Png),
        desk.image("b.jpg", &rgb(16, 9), ImageFormat::Jpeg),
        desk.image("c.webp", &rgb(1, 1), ImageFormat::WebP),
        desk.image("d.png", &DynamicImage::ImageLuma16(rgb(8, 8).to_luma16()), ImageFormat::Png),
    ];
    let made = desk.run(&inputs, json!({"scale": 3})).unwrap();
    let sizes: Vec<_> = made.iter().map(|made| (made.width, made.height)).collect();
    assert_eq!(sizes, [(93, 51), (48, 27), (3, 3), (24, 24)]);
    for made in &made {
        let read = image::open(&made.path).unwrap();
        assert_eq!((read.width(), read.height()), (made.width, made.height));
        assert_eq!((made.content_type, made.scale), ("image/png", 3));
    }
    // The large picture looks like the small one: the mean of each colour stays.
    let (small, large) = (soft.to_rgb8(), image::open(&made[0].path).unwrap().to_rgb8());
    for channel in 0..3 {
        let mean = |image: &RgbImage| {
            image.pixels().map(|pixel| f64::from(pixel.0[channel])).sum::<f64>()
                / f64::from(image.width() * image.height())
        };
        assert!((mean(&small) - mean(&large)).abs() < 4.0, "channel {channel}: {} {}", mean(&small), mean(&large));
    }
    let phases: Vec<_> =
        desk.reports.iter().filter_map(|r| if let Report::Phase(p) = r { Some(*p) } else { None }).collect();
    assert_eq!(phases, ["load", "infer", "post"]);
    let percents: Vec<_> =
        desk.reports.iter().filter_map(|r| if let Report::Percent(p) = r { Some(*p) } else { None }).collect();
    assert!(percents.is_sorted() && percents.last() == Some(&100.0) && percents.len() <= 201, "{percents:?}");
}

#[test]
fn transparency_is_kept() {
    let Some(folder) = models::folder("transparency_is_kept") else { return };
    let mut desk = Desk::new(&folder);
    let half = RgbaImage::from_fn(20, 10, |x, _| image::Rgba([200, 100, 50, if x < 10 { 0 } else { 255 }]));
    let input = desk.image("a.png", &DynamicImage::ImageRgba8(half), ImageFormat::Png);
    let made = desk.run(&[input], json!({"scale": 2})).unwrap();
    let read = image::open(&made[0].path).unwrap();
    assert!(read.color().has_alpha());
    let read = read.to_rgba8();
    assert_eq!((read.get_pixel(4, 10).0[3], read.get_pixel(35, 10).0[3]), (0, 255));
    assert!(read.get_pixel(35, 10).0[0].abs_diff(200) < 12, "{:?}", read.get_pixel(35, 10));
}

#[test]
fn a_loaded_network_serves_the_next_task_and_a_cancelled_one_says_so() {
    let Some(folder) = models::folder("a_loaded_network_serves_the_next_task_and_a_cancelled_one_says_so") else {
        return;
    };
    let mut desk = Desk::new(&folder);
    let input = desk.image("a.png", &rgb(12, 12), ImageFormat::Png);
    let first = desk.run(std::slice::from_ref(&input), json!({})).unwrap();
    let second = desk.run(std::slice::from_ref(&input), json!({})).unwrap();
    assert_eq!(std::fs::read(&first[0].path).unwrap(), std::fs::read(&second[0].path).unwrap());
    desk.cancel.store(true, Ordering::Relaxed);
    assert!(desk.run(&[input], json!({})).unwrap_err().cancelled);
}

/// A PNG of this size whose image data is `data` (already deflated); checksums are right.
fn png(width: u32, height: u32, data: &[u8]) -> Vec<u8> {
    let mut file = b"\x89PNG\r\n\x1a\n".to_vec();
    let header = [&width.to_be_bytes()[..], &height.to_be_bytes(), &[8, 2, 0, 0, 0]].concat();
    for (kind, body) in [(b"IHDR", header.as_slice()), (b"IDAT", data), (b"IEND", &[])] {
        file.extend((body.len() as u32).to_be_bytes());
        let checked = [kind.as_slice(), body].concat();
        file.extend(&checked);
        let mut crc = !0_u32;
        for byte in checked {
            crc ^= u32::from(byte);
            for _ in 0..8 {
                crc = if crc & 1 == 1 { 0xEDB8_8320 ^ (crc >> 1) } else { crc >> 1 };
            }
        }
        file.extend((!crc).to_be_bytes());
    }
    file
}

#[test]
fn a_bad_image_is_a_permanent_failure_with_a_reason() {
    let Some(folder) = models::folder("a_bad_image_is_a_permanent_failure_with_a_reason") else { return };
    let mut desk = Desk::new(&folder);
    let whole = std::fs::read(desk.image("a.png", &rgb(64, 64), ImageFormat::Png)).unwrap();
    for (name, bytes, words) in [
        ("empty.png", Vec::new(), "0 bytes"),
        ("cut.png", whole[..whole.len() / 2].to_vec(), "broken"),
        ("huge.png", png(100_000, 100_000, &[]), "too large"),
        ("wide.png", png(32_000, 32_000, &[]), "pixels"),
        ("liar.png", png(8_000, 8_000, &[0x78, 0x9c, 3, 0, 0, 0, 0, 1]), "broken"),
        ("text.png", b"this is no image at all, and it says so at some length".to_vec(), "no PNG, JPEG or WebP"),
        ("gif.png", b"GIF89a\x01\x00\x01\x00\x00\x00\x00;".to_vec(), "no PNG, JPEG or WebP"),
        ("head.jpg", vec![0xff, 0xd8, 0xff, 0xe0, 0, 16, b'J', b'F', b'I', b'F'], "JPEG"),
        ("head.webp", b"RIFF\x24\x00\x00\x00WEBPVP8 ".to_vec(), "WebP"),
    ] {
        let input = desk.put(name, &bytes);
        let failure = desk.run(&[input], json!({"scale": 2})).unwrap_err();
        assert_eq!(failure.class, FailureClass::Permanent, "{name}: {failure}");
        assert!(failure.message.contains(words), "{name}: {failure}");
    }
}

#[test]
fn a_task_that_cannot_be_is_refused_before_a_model_is_loaded() {
    let mut desk = Desk::new(Path::new("/nowhere"));
    let input = desk.image("a.png", &rgb(4, 4), ImageFormat::Png);
    assert!(desk.run(&[], json!({})).unwrap_err().message.contains("needs an input"));
    let odd = desk.run(std::slice::from_ref(&input), json!({"scale": "NaN"})).unwrap_err();
    assert!(odd.message.contains("`scale`") && odd.class == FailureClass::Permanent);
    assert!(desk.reports.is_empty());
    let missing = desk.run(&[input], json!({})).unwrap_err();
    assert!(missing.message.contains("model missing") && missing.class == FailureClass::Permanent, "{missing}");
    let kind = "image.colourise".to_owned();
    let (inputs, output_dir) = (vec!["/x".into()], desk.folder.path().to_path_buf());
    let task = Task { kind, parameters: Map::new(), inputs, output_dir };
    let mut ctx = Context { engine: &mut desk.engine, cancel: &desk.cancel, report: &mut |_| {} };
    assert!(run(&task, &mut ctx).unwrap_err().message.contains("`image.colourise`"));
}
