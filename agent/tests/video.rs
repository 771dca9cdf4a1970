//! `video.generate` against diffusers' AnimateDiff, block by block and from end to end, on tiny random weights.
//!
//! See `fixtures/diffusion/make_video.py` for where the numbers come from. Without ffmpeg what makes clips says so and passes.

#![allow(clippy::unwrap_used, reason = "a test panics with what went wrong; that is its report")]

mod host;
mod tiny;

use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};

use backlot_agent::frames::clip;
use backlot_agent::frames::ffmpeg::Tools;
use backlot_agent::infer::choice::{Precision, Wish};
use backlot_agent::infer::cpu::Cpu;
use backlot_agent::infer::executor::{Executor, Input};
use backlot_agent::infer::models::folder::{self, Model};
use backlot_agent::infer::models::{lora, motion};
use backlot_agent::infer::weights::Weights;
use backlot_agent::infer::{Made, Report};
use host::{Host, inputs};
use serde_json::{Value, json};
use tiny::{made, off, psnr, values};

const FRAMES: usize = 4;
const TOLERANCE: f32 = 1e-4;

/// The input clips, which the script has as `[b, c, f, h, w]`, as `[b · f, h, w, c]`.
fn clips(clips: usize) -> Vec<f32> {
    let (c, f, h, w) = (4, FRAMES, 8, 8);
    let from = values("input.clip", &[2, c, f, h, w]);
    let at = |i: usize| {
        let (channel, x, y, frame, clip) = (i % c, i / c % w, i / c / w % h, i / c / w / h % f, i / c / w / h / f);
        from[(((clip * c + channel) * f + frame) * h + y) * w + x]
    };
    (0..clips * f * h * w * c).map(at).collect()
}

/// The tiny Stable Diffusion 1.5 with the motion modules that `change` makes of the fixture's.
fn model(change: impl FnOnce(&Path)) -> (tempfile::TempDir, Model) {
    let dir = tempfile::tempdir().unwrap();
    tiny::write_folder("sd15", &dir.path().join("sd15"));
    tiny::write_motion(&dir.path().join("motion/tiny"));
    change(&dir.path().join("motion"));
    let mut model = folder::open(&dir.path().join("sd15")).unwrap();
    motion::add(&motion::find(dir.path(), "tiny").unwrap(), &mut model).unwrap();
    (dir, model)
}

/// What the UNet makes of so many clips, and the values of the nodes of these names.
fn predict(model: &Model, count: usize, names: &[String]) -> Vec<Vec<f32>> {
    let mut graph = model.unet_graph();
    for name in names {
        let node = graph.nodes().iter().find(|node| node.name == *name).unwrap_or_else(|| panic!("there is no {name}"));
        let value = node.outputs[0];
        graph.output(value);
    }
    let n = count * FRAMES;
    let context = values("input.context", &[2, 77, 32]);
    let text: Vec<f32> = context.chunks_exact(77 * 32).take(count).flat_map(|one| one.repeat(FRAMES)).collect();
    let (latents, times) = (clips(count), vec![481.0; n]);
    let numbers: Vec<f32> = (0..FRAMES).map(|frame| frame as f32).collect();
    let inputs: [(&[usize], &[f32]); 4] =
        [(&[n, 8, 8, 4], &latents), (&[n], &times), (&[n, 77, 32], &text), (&[FRAMES], &numbers)];
    let inputs: Vec<_> = inputs.iter().map(|(shape, data)| Input { shape, data }).collect();
    let mut program = Cpu::new(2, 256 << 20).unwrap().load(graph.fuse(), &model.unet_weights).unwrap();
    let made = program.run(&inputs, &AtomicBool::new(false), &mut |_, _| {}).unwrap();
    made.into_iter().map(|output| output.data.to_vec()).collect()
}

#[test]
fn each_motion_module_is_diffusers_and_so_is_the_whole() {
    let theirs = made("motion");
    let names: Vec<String> = theirs
        .names()
        .into_iter()
        .filter_map(|name| name.strip_prefix("unet.").filter(|name| name.contains("motion")).map(str::to_owned))
        .collect();
    assert_eq!(names.len(), 8 + 12 + 1);
    let (_dir, model) = model(|_| {});
    let ours = predict(&model, 1, &names);
    let known = ["unet".to_owned()].into_iter().chain(names.iter().map(|name| format!("unet.{name}")));
    for (name, ours) in known.zip(&ours) {
        let off = off(ours, &theirs.get(&name).1);
        assert!(off < TOLERANCE, "{name} is off by {off}");
    }
    let off = off(&predict(&model, 2, &[])[0], &theirs.get("unet.two").1);
    assert!(off < TOLERANCE, "two clips are off by {off}");
}

#[test]
fn modules_without_one_in_the_middle_and_single_files_are_read() {
    let theirs = made("motion");
    let (_dir, without) = model(|folder| {
        let config = folder.join("tiny/config.json");
        let mut fields = tiny::json(&config);
        fields["use_motion_mid_block"] = false.into();
        std::fs::write(config, fields.to_string()).unwrap();
    });
    let off = off(&predict(&without, 1, &[])[0], &theirs.get("unet.without_middle").1);
    assert!(off < TOLERANCE, "without a middle it is off by {off}");

    // The original names, with the positions that such files carry. They do not say how many heads there are, and all of them
    // have eight: the weights are the same, the arithmetic is not.
    let (dir, model) = model(|_| {});
    let mut tensors = tiny::Tensors::new();
    for (name, tensor) in tiny::tensors("motion", "motion") {
        let (head, rest) = name.split_once("motion_modules.").unwrap();
        let (number, rest) = rest.split_once('.').unwrap();
        let rest = rest.replace("attn1", "attention_blocks.0").replace("attn2", "attention_blocks.1");
        let rest = rest.replace("norm1", "norms.0").replace("norm2", "norms.1").replace("norm3", "ff_norm");
        tensors.insert(format!("module.{head}motion_modules.{number}.temporal_transformer.{rest}"), tensor);
    }
    let place = "module.down_blocks.0.motion_modules.0.temporal_transformer.transformer_blocks.0.attention_blocks.0";
    tensors.insert(format!("{place}.pos_encoder.pe"), (vec![1, 24, 16], vec![0.0; 24 * 16]));
    let file = dir.path().join("motion/original.safetensors");
    std::fs::write(&file, tiny::safetensors(&tensors)).unwrap();
    assert_eq!(motion::list(dir.path()), ["original", "tiny"]);
    let mut same = folder::open(&dir.path().join("sd15")).unwrap();
    // Thirty-two groups do not divide sixteen channels: a real module's numbers are refused on this tiny UNet by name.
    let refused = motion::add(&file, &mut same).unwrap_err().to_string();
    assert!(refused.contains("has 8 heads, 32 groups and places for 24 frames"), "{refused}");
    let mut same = folder::open(&dir.path().join("sd15")).unwrap();
    let read: Weights = motion::single(&file).unwrap().1;
    same.unet_weights.join(read).unwrap();
    same.motion.clone_from(&model.motion);
    assert_eq!(predict(&same, 1, &[]), predict(&model, 1, &[]));
}

#[test]
fn a_lora_of_a_motion_module_is_merged() {
    let (dir, mut model) = model(|_| {});
    let before = predict(&model, 1, &[]);
    let layer = "unet.down_blocks.0.motion_modules.0.transformer_blocks.0.attn1.to_q";
    let mut tensors = tiny::Tensors::new();
    for (end, shape) in [("down", [2, 16]), ("up", [16, 2])] {
        tensors.insert(format!("{layer}.lora.{end}.weight"), (shape.to_vec(), vec![0.5; 32]));
    }
    let file = dir.path().join("pan.safetensors");
    std::fs::write(&file, tiny::safetensors(&tensors)).unwrap();
    lora::merge(&file, 1.0, &mut model).unwrap();
    assert!(off(&predict(&model, 1, &[])[0], &before[0]) > 1e-3);
}

fn has_ffmpeg(test: &str) -> bool {
    let has = Command::new("ffmpeg").arg("-version").output().is_ok();
    if !has {
        println!("SKIPPED {test}: no ffmpeg");
    }
    has
}

fn host(wish: Wish, precision: Precision) -> Host {
    let mut host = Host::on(wish, precision, &["sd15"]);
    host.kind = "video.generate";
    tiny::write_motion(&host.models().join("motion/tiny"));
    host
}

fn ask(more: Value) -> Value {
    let mut all = json!({
        "model": "sd15", "motion": "tiny", "prompt": "a photo of an astronaut riding a horse on the moon",
        "negative_prompt": "blurry, low quality", "seed": 1, "width": 64, "height": 64, "frames": FRAMES, "fps": 12,
        "steps": 20, "guidance": 7.5, "scheduler": "ddim", "preview_every": 0, "checkpoint_every": 0,
    });
    for (name, value) in more.as_object().unwrap() {
        all[name] = value.clone();
    }
    all
}

/// The frames of a clip, as ffmpeg decodes them.
fn frames(file: &Path) -> Vec<f32> {
    let arguments = ["-nostdin", "-v", "error", "-i"];
    let rest = ["-f", "rawvideo", "-pix_fmt", "rgb24", "-sws_flags", "accurate_rnd", "pipe:1"];
    let said = Command::new("ffmpeg").args(arguments).arg(file).args(rest).output().unwrap();
    assert!(said.status.success(), "{}", String::from_utf8_lossy(&said.stderr));
    said.stdout.into_iter().map(|value| f32::from(value) / 255.0).collect()
}

fn look(file: &Path, what: &str) -> String {
    let options = ["-v", "error", "-of", "csv=p=0", "-count_frames", "-show_entries", what];
    let said = Command::new("ffprobe").args(options).arg(file).output().unwrap();
    String::from_utf8(said.stdout).unwrap().trim().to_owned()
}

/// The latents in a checkpoint.
fn latents(checkpoint: &[u8]) -> Vec<f32> {
    Weights::safetensors(&checkpoint.to_vec().into()).unwrap().get("latents").unwrap().to_f32()
}

#[test]
fn whole_clips_are_those_of_diffusers() {
    if !has_ffmpeg("whole_clips_are_those_of_diffusers") {
        return;
    }
    let mut host = host(Wish::Cpu, Precision::Auto);
    let (picture, _) = inputs(host.dir.path());
    let theirs = made("motion");
    let dpm = json!({"steps": 8, "scheduler": "dpm++2m-karras", "guidance": 1});
    for (name, more, inputs) in [
        ("ddim", json!({}), vec![]),
        ("euler_a", json!({"steps": 6, "scheduler": "euler-ancestral", "spacing": "leading"}), vec![]),
        ("dpm", dpm, vec![]),
        ("picture", json!({"steps": 10, "strength": 0.6}), vec![picture.as_path()]),
    ] {
        let mut more = more;
        let steps = more["steps"].as_u64().unwrap_or(20);
        // Every step leaves one; the last of them stands before the last step.
        more["checkpoint_every"] = 1.into();
        let mut last = None;
        let made = host.heard(ask(more), &inputs, &mut |said, _| {
            if let Report::Checkpoint(file) = said {
                last = Some(std::fs::read(file).unwrap());
            }
        });
        let made = made.unwrap();
        let off = off(&latents(&last.unwrap()), &theirs.get(&format!("{name}.latents")).1);
        assert!(off < 2e-3, "{name}: latents after {steps} steps are off by {off}");
        // Their frames through the same encoder: it does to both what it does.
        let (shape, values) = theirs.get(&format!("{name}.frames"));
        assert_eq!(shape, [FRAMES, 64, 64, 3]);
        let bytes: Vec<u8> = values.iter().map(|value| (value * 255.0).round() as u8).collect();
        let file = host.dir.path().join(format!("{name}.mp4"));
        let mut next = |at: usize| Ok(bytes[at * 64 * 64 * 3..][..64 * 64 * 3].to_vec());
        clip::write(&Tools::default(), (64, 64), 12, FRAMES, &file, &AtomicBool::new(false), &mut next).unwrap();
        let psnr = psnr(&frames(&made[0].path), &frames(&file));
        assert!(psnr > 35.0, "{name}: {psnr} dB");
        let Made { content_type, width, height, extra, .. } = &made[0];
        assert_eq!((*content_type, *width, *height), ("video/mp4", 64, 64));
        assert_eq!(
            (&extra["frames"], &extra["frame_rate"], &extra["motion"]),
            (&json!(4), &json!("12/1"), &json!("tiny"))
        );
        let said = look(&made[0].path, "stream=codec_name,width,height,r_frame_rate,nb_read_frames");
        assert_eq!(said, "h264,64,64,12/1,4", "{name}");
    }
}

#[test]
fn wgpu_makes_the_clips_that_the_cpu_makes() {
    if !has_ffmpeg("wgpu_makes_the_clips_that_the_cpu_makes") {
        return;
    }
    let more = json!({"steps": 2, "scheduler": "euler", "checkpoint_every": 1});
    let mut made = Vec::new();
    for (wish, precision) in
        [(Wish::Cpu, Precision::Auto), (Wish::WgpuSoftware, Precision::F32), (Wish::WgpuSoftware, Precision::F16)]
    {
        let mut last = None;
        let mut host = host(wish, precision);
        let ended = host.heard(ask(more.clone()), &[], &mut |said, _| {
            if let Report::Checkpoint(file) = said {
                last = Some(std::fs::read(file).unwrap());
            }
        });
        match ended {
            Ok(clip) => made.push((frames(&clip[0].path), latents(&last.unwrap()))),
            Err(failure) if failure.details.get("cause").is_some_and(|cause| cause == "device") => {
                println!("SKIPPED wgpu_makes_the_clips_that_the_cpu_makes: {failure}");
                return;
            }
            Err(failure) => panic!("{precision:?}: {failure:?}"),
        }
    }
    for (other, most) in made[1..].iter().zip([1e-3, 2e-2]) {
        let off = off(&other.1, &made[0].1);
        assert!(off < most, "latents are off by {off}");
        let psnr = psnr(&other.0, &made[0].0);
        assert!(psnr > 35.0, "{psnr} dB");
    }
}

#[test]
fn an_interrupted_clip_goes_on_from_its_checkpoint_to_the_same_clip() {
    if !has_ffmpeg("an_interrupted_clip_goes_on_from_its_checkpoint_to_the_same_clip") {
        return;
    }
    let mut host = host(Wish::Cpu, Precision::Auto);
    let more =
        json!({"scheduler": "dpm++2m-karras", "steps": 10, "checkpoint_every": 4, "preview_every": 5, "seed": null});
    let (mut kept, mut previews) = (None, 0);
    let whole = host.heard(ask(more.clone()), &[], &mut |said, _| match said {
        Report::Checkpoint(file) => kept = kept.take().or(Some(std::fs::read(file).unwrap())),
        Report::Preview(file) => {
            assert_eq!(image::open(file).unwrap().width(), 32);
            previews += 1;
        }
        _ => {}
    });
    let whole = whole.unwrap();
    assert_eq!(previews, 1);
    host.left = kept;
    let mut percents = Vec::new();
    let again = host.heard(ask(more), &[], &mut |said, _| {
        if let Report::Percent(percent) = said {
            percents.push(percent);
        }
    });
    let again = again.unwrap();
    // Six of ten steps were left, and a clip to decode.
    assert!((percents[1] - 100.0 / 7.0).abs() < 0.01 && percents.is_sorted(), "{percents:?}");
    assert_eq!(percents.last(), Some(&100.0));
    assert_eq!(again[0].extra["seed"], whole[0].extra["seed"]);
    assert_eq!(std::fs::read(&again[0].path).unwrap(), std::fs::read(&whole[0].path).unwrap());
}

#[test]
fn a_cancel_takes_effect_within_one_step_and_while_frames_are_decoded() {
    if !has_ffmpeg("a_cancel_takes_effect_within_one_step_and_while_frames_are_decoded") {
        return;
    }
    let mut host = host(Wish::Cpu, Precision::Auto);
    for (at, steps) in [(1, 50), (3, 2)] {
        let mut seen = 0;
        host.cancel.store(false, Ordering::Relaxed);
        let ended = host.heard(ask(json!({"steps": steps})), &[], &mut |said, cancel| {
            if let Report::Percent(percent) = said
                && percent > 0.0
            {
                seen += 1;
                if seen == at {
                    cancel.store(true, Ordering::Relaxed);
                }
            }
        });
        assert!(ended.unwrap_err().cancelled);
        assert_eq!(seen, at, "it went on");
    }
}

#[test]
fn what_makes_no_clip_is_refused_with_the_reason() {
    if !has_ffmpeg("what_makes_no_clip_is_refused_with_the_reason") {
        return;
    }
    let mut host = host(Wish::Cpu, Precision::Auto);
    tiny::write_folder("sdxl", &host.models().join("sdxl"));
    let (picture, mask) = inputs(host.dir.path());
    let pickled = host.models().join("motion/pickled.safetensors");
    std::fs::write(&pickled, b"PK\x03\x04 a zip with pickled weights").unwrap();
    let wrong = host.models().join("motion/wrong");
    tiny::write_motion(&wrong);
    let mut config = tiny::json(&wrong.join("config.json"));
    for (more, inputs, words) in [
        (json!({"frames": 25}), vec![], "`frames` is 25; these motion modules have places for 24"),
        (json!({"frames": 0}), vec![], "`frames` is 0; it is 1 to 32"),
        (json!({"motion": null}), vec![], "`motion` is missing"),
        (json!({"motion": "none"}), vec![], "this host has pickled, tiny, wrong"),
        (json!({"motion": "../motion/tiny"}), vec![], "this host has pickled, tiny, wrong"),
        (json!({"motion": "pickled"}), vec![], "pickled.safetensors"),
        (json!({"model": "sdxl"}), vec![], "UNet has 2"),
        (json!({"model": "svd"}), vec![], "this host has"),
        (json!({"count": 2}), vec![], "`count` is unknown"),
        (json!({}), vec![picture.as_path(), mask.as_path()], "at most one input"),
    ] {
        let message = host.refused(ask(more.clone()), &inputs);
        assert!(message.contains(words), "{more}: {message}");
    }
    for (field, value) in [
        ("motion_num_attention_heads", json!(0)),
        ("motion_norm_num_groups", json!(7)),
        ("motion_max_seq_length", json!(1_000_000)),
        ("block_out_channels", json!([16, 32])),
        ("motion_layers_per_block", json!(3)),
        ("conv_in_channels", json!(9)),
    ] {
        let good = std::mem::replace(&mut config[field], value);
        std::fs::write(wrong.join("config.json"), config.to_string()).unwrap();
        let message = host.refused(ask(json!({"motion": "wrong"})), &[]);
        assert!(message.contains("motion/wrong"), "{field}: {message}");
        config[field] = good;
    }
    std::fs::write(wrong.join("config.json"), config.to_string()).unwrap();
    std::fs::write(wrong.join("diffusion_pytorch_model.safetensors"), tiny::safetensors(&tiny::Tensors::new()))
        .unwrap();
    let message = host.refused(ask(json!({"motion": "wrong"})), &[]);
    assert!(message.contains("motion_modules") && message.contains("is missing"), "{message}");
    assert!(host.run(ask(json!({"steps": 1, "frames": 1})), &[]).is_ok(), "what was refused is not remembered");
}
