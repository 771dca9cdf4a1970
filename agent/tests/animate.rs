//! `video.generate` against diffusers' Stable Video Diffusion, block by block and from end to end, on tiny random weights.
//!
//! See `fixtures/diffusion/make_animate.py` for where the numbers come from. Without ffmpeg what makes clips says so and passes.

#![allow(clippy::unwrap_used, reason = "a test panics with what went wrong; that is its report")]

mod host;
mod tiny;

use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use backlot_agent::frames::clip;
use backlot_agent::frames::ffmpeg::Tools;
use backlot_agent::infer::choice::{Precision, Wish};
use backlot_agent::infer::cpu::Cpu;
use backlot_agent::infer::executor::{ExecError, Executor, Input, Output, Program};
use backlot_agent::infer::graph::{Graph, GraphError, Plan, TensorType};
use backlot_agent::infer::models::svd::{Model, vision};
use backlot_agent::infer::models::vae;
use backlot_agent::infer::sampler::{Sampler, Schedule};
use backlot_agent::infer::weights::Weights;
use backlot_agent::infer::{Engine, EngineOptions, Made, Report, noise, plan};
use host::{Host, inputs};
use serde_json::{Value, json};
use tiny::{fixtures, made, off, picture, psnr, values};

const FRAMES: usize = 3;
const TOLERANCE: f32 = 1e-4;

fn model() -> (tempfile::TempDir, Model) {
    let dir = tempfile::tempdir().unwrap();
    tiny::write_folder("svd", &dir.path().join("svd"));
    let model = Model::open(&dir.path().join("svd")).unwrap();
    (dir, model)
}

fn compute(graph: Graph, weights: &Weights, inputs: &[(&[usize], &[f32])]) -> Vec<Vec<f32>> {
    let inputs: Vec<_> = inputs.iter().map(|(shape, data)| Input { shape, data }).collect();
    let mut program = Cpu::new(2, 256 << 20).unwrap().load(graph.fuse(), weights).unwrap();
    let made = program.run(&inputs, &AtomicBool::new(false), &mut |_, _| {}).unwrap();
    made.into_iter().map(|output| output.data.to_vec()).collect()
}

/// What the UNet makes of so many clips, and the values of the nodes of these names.
fn predict(model: &Model, clips: usize, names: &[String]) -> Vec<Vec<f32>> {
    let mut graph = model.unet_graph().unwrap();
    for name in names {
        let node = graph.nodes().iter().find(|node| node.name == *name).unwrap_or_else(|| panic!("there is no {name}"));
        let value = node.outputs[0];
        graph.output(value);
    }
    let n = clips * FRAMES;
    let latents = &picture("input.clip", [2 * FRAMES, 8, 4, 8])[..n * 4 * 8 * 8];
    let context = &values("input.context", &[2, 1, 16])[..clips * 16];
    let ids = &[6.0, 127.0, 0.02, 11.0, 30.0, 0.5][..clips * 3];
    let numbers: Vec<f32> = (0..n).map(|frame| (frame % FRAMES) as f32).collect();
    let times = vec![0.7; clips];
    let inputs: [(&[usize], &[f32]); 6] = [
        (&[n, 4, 8, 8], latents),
        (&[clips], &times),
        (&[clips, 16], context),
        (&[clips * 3], ids),
        (&[n], &numbers),
        (&[clips, FRAMES], &numbers),
    ];
    compute(graph, &model.unet_weights, &inputs)
}

#[test]
fn each_block_is_diffusers_and_so_is_the_whole() {
    let theirs = made("svd");
    let (_dir, model) = model();
    let (mut checked, mut temporal) = (0, 0);
    let named: Vec<String> =
        theirs.names().iter().filter_map(|name| name.strip_prefix("unet.").map(str::to_owned)).collect();
    let named: Vec<&String> = named.iter().filter(|name| *name != "two").collect();
    // A block along the frames ends with what it adds to what comes in.
    let nodes = named.iter().flat_map(|name| match name.strip_suffix(".temporal_res_block") {
        Some(block) => vec![format!("{name}.conv2"), format!("{block}.spatial_res_block")],
        None if name.ends_with("embed") || name.ends_with("embedding") => vec![format!("{name}.linear_2")],
        None => vec![(*name).clone()],
    });
    let nodes: Vec<String> = nodes.collect();
    let mut ours = predict(&model, 1, &nodes).into_iter();
    let whole = off(&ours.next().unwrap(), &theirs.get("unet").1);
    assert!(whole < TOLERANCE, "the whole is off by {whole}");
    for name in named {
        let mut made = ours.next().unwrap();
        if name.ends_with(".temporal_res_block") {
            made.iter_mut().zip(ours.next().unwrap()).for_each(|(added, came)| *added += came);
            temporal += 1;
        }
        let off = off(&made, &theirs.get(&format!("unet.{name}")).1);
        assert!(off < TOLERANCE, "{name} is off by {off}");
        checked += 1;
    }
    // Residual blocks down, in the middle and up; transformers with their places; two embeddings.
    let (blocks, transformers) = (6 + 2 + 9, 4 + 1 + 6);
    assert_eq!((checked, temporal), (2 * blocks + 2 * transformers + 2, blocks));
    let two = off(&predict(&model, 2, &[])[0], &theirs.get("unet.two").1);
    assert!(two < TOLERANCE, "two clips are off by {two}");
}

#[test]
fn the_vae_decodes_frames_together_and_encodes_pictures_as_diffusers_does() {
    let (theirs, (_dir, model)) = (made("svd"), model());
    let latents = picture("input.latents", [FRAMES, 4, 4, 6]);
    let inputs: [(&[usize], &[f32]); 2] = [(&[FRAMES, 4, 6, 4], &latents), (&[1, FRAMES], &[0.0; FRAMES])];
    let decoded = compute(model.decoder_graph().unwrap(), &model.vae_weights, &inputs).remove(0);
    let pixels = picture("input.picture", [1, 3, 32, 48]);
    let moments = compute(vae::encoder(&model.vae), &model.vae_weights, &[(&[1, 32, 48, 3], &pixels)]).remove(0);
    for (name, ours) in [("vae.decoded", decoded), ("vae.moments", moments)] {
        let off = off(&ours, &theirs.get(name).1);
        assert!(off < TOLERANCE, "{name} is off by {off}");
    }
}

#[test]
fn the_encoder_of_pictures_sees_what_transformers_sees() {
    let (theirs, (_dir, model)) = (made("svd"), model());
    // The fixture's picture is normed already; this one is not yet.
    let (mean, deviation) = ([0.481_454_66, 0.457_827_5, 0.408_210_73], [0.268_629_54, 0.261_302_58, 0.275_777_11]);
    let normed = picture("input.pixels", [1, 3, 224, 224]).into_iter().map(f64::from).enumerate();
    let plain = normed.map(|(i, value)| ((value * deviation[i % 3] + mean[i % 3]) * 2.0 - 1.0) as f32);
    let plain: Vec<f32> = plain.collect();
    let patches = vision::patches(&model.vision, &plain);
    let places: Vec<f32> = (0..17).map(|place| place as f32).collect();
    let inputs: [(&[usize], &[f32]); 3] = [(&[1, 16, 3 * 56 * 56], &patches), (&[1, 1], &[0.0]), (&[1, 17], &places)];
    let ours = compute(vision::graph(&model.vision), &model.vision_weights, &inputs).remove(0);
    let off = off(&ours, &theirs.get("image_encoder").1);
    assert!(off < TOLERANCE, "off by {off}");
}

#[test]
fn a_picture_is_blurred_and_resized_for_the_encoder_as_diffusers_does() {
    let theirs = made("svd");
    for (height, width) in [(130, 70), (16, 100), (9, 5)] {
        let ours = vision::resized(&picture("input.large", [1, 3, height, width]), [height, width], [16, 16]);
        let off = off(&ours, &theirs.get(&format!("resized.{height}x{width}")).1);
        assert!(off < 2e-5, "{height}x{width} is off by {off}");
    }
    // A single pixel has no neighbours to be mirrored at.
    assert!(vision::resized(&[0.5; 3], [1, 1], [16, 16]).iter().all(|value| (value - 0.5).abs() < 1e-6));
}

#[test]
fn the_sampler_takes_the_steps_that_diffusers_takes() {
    let theirs = made("svd");
    let schedule = Schedule::read(&fixtures().join("svd/scheduler/scheduler_config.json")).unwrap();
    for steps in [1, 4, 25] {
        let mut sampler = Sampler::continuous(&schedule, steps).unwrap();
        let get = |what: &str| theirs.get(&format!("scheduler.{steps}.{what}")).1;
        let (moments, inputs, samples) = (get("timesteps"), get("inputs"), get("samples"));
        let mut latents: Vec<f32> = noise::normal(5, noise::FIRST, 16).iter().map(|x| x * sampler.start()).collect();
        for index in 0..steps {
            assert!((sampler.moment(index) - moments[index]).abs() < 1e-6, "step {index} of {steps}");
            let scaled: Vec<f32> = latents.iter().map(|x| x * sampler.input_scale(index)).collect();
            assert!(off(&scaled, &inputs[index * 16..][..16]) < 2e-5, "input of step {index} of {steps}");
            sampler.step(index, &picture(&format!("input.output.{index}"), [1, 4, 2, 2]), &mut latents, &[]);
            let off = off(&latents, &samples[index * 16..][..16]);
            // One step from the largest noise to none leaves what their floats round away: 700 times 2^-23.
            assert!(off < if steps == 1 { 1e-4 } else { 2e-5 }, "step {index} of {steps} is off by {off}");
        }
    }
    let plain = Schedule::stable_diffusion(backlot_agent::infer::sampler::Prediction::V);
    assert!(Sampler::continuous(&plain, 4).unwrap_err().contains("moments"));
}

fn has_ffmpeg(test: &str) -> bool {
    let has = Command::new("ffmpeg").arg("-version").output().is_ok();
    if !has {
        println!("SKIPPED {test}: no ffmpeg");
    }
    has
}

fn host(wish: Wish, precision: Precision) -> Host {
    let mut host = Host::on(wish, precision, &["svd"]);
    host.kind = "video.generate";
    host
}

fn ask(more: Value) -> Value {
    let mut all = json!({
        "model": "svd", "seed": 1, "width": 64, "height": 64, "decode_chunk": 8, "preview_every": 0, "checkpoint_every": 0,
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
    let theirs = made("svd");
    let chunks = json!({"steps": 4, "frames": 4, "fps": 12, "motion_bucket_id": 40, "noise_aug_strength": 0.3,
        "guidance_min": 2, "guidance_max": 4, "decode_chunk": 3});
    let unguided = json!({"steps": 3, "guidance_min": 1, "guidance_max": 1});
    for (name, count, rate, mut more) in
        [("plain", 3, 7, json!({"steps": 6})), ("chunks", 4, 12, chunks), ("unguided", 3, 7, unguided)]
    {
        // Every step leaves one; the last of them stands before the last step.
        more["checkpoint_every"] = 1.into();
        let mut last = None;
        let made = host.heard(ask(more), &[&picture], &mut |said, _| {
            if let Report::Checkpoint(file) = said {
                last = Some(std::fs::read(file).unwrap());
            }
        });
        let made = made.unwrap();
        let off = off(&latents(&last.unwrap()), &theirs.get(&format!("{name}.latents")).1);
        assert!(off < 1e-3, "{name}: latents are off by {off}");
        // Their frames through the same encoder: it does to both what it does.
        let (shape, values) = theirs.get(&format!("{name}.frames"));
        assert_eq!(shape, [count, 64, 64, 3]);
        let bytes: Vec<u8> = values.iter().map(|value| (value * 255.0).round() as u8).collect();
        let file = host.dir.path().join(format!("{name}.mp4"));
        let mut next = |at: usize| Ok(bytes[at * 64 * 64 * 3..][..64 * 64 * 3].to_vec());
        clip::write(&Tools::default(), (64, 64), rate, count, &file, &AtomicBool::new(false), &mut next).unwrap();
        let psnr = psnr(&frames(&made[0].path), &frames(&file));
        assert!(psnr > 35.0, "{name}: {psnr} dB");
        let Made { content_type, width, height, model, extra, .. } = &made[0];
        assert_eq!((*content_type, *width, *height, model.as_str()), ("video/mp4", 64, 64, "svd"));
        assert_eq!((&extra["frames"], &extra["frame_rate"]), (&json!(count), &json!(format!("{rate}/1"))));
        assert_eq!((&extra["seed"], &extra["executor"]), (&json!(1), &json!("cpu")));
    }
}

#[test]
fn wgpu_makes_the_clips_that_the_cpu_makes() {
    if !has_ffmpeg("wgpu_makes_the_clips_that_the_cpu_makes") {
        return;
    }
    let more = json!({"steps": 2, "checkpoint_every": 1});
    let mut made = Vec::new();
    for (wish, precision) in
        [(Wish::Cpu, Precision::Auto), (Wish::WgpuSoftware, Precision::F32), (Wish::WgpuSoftware, Precision::F16)]
    {
        let mut last = None;
        let mut host = host(wish, precision);
        let (picture, _) = inputs(host.dir.path());
        let ended = host.heard(ask(more.clone()), &[&picture], &mut |said, _| {
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

/// The CPU with less memory than a step with two clips takes, or decoding all of a wide frame.
struct Narrow {
    cpu: Cpu,
    refused: Arc<AtomicUsize>,
}

struct NarrowProgram {
    whole: Box<dyn Program>,
    refused: Arc<AtomicUsize>,
}

impl Executor for Narrow {
    fn name(&self) -> &'static str {
        "cpu"
    }

    fn load(&self, graph: Graph, weights: &Weights) -> Result<Box<dyn Program>, ExecError> {
        Ok(Box::new(NarrowProgram { whole: self.cpu.load(graph, weights)?, refused: Arc::clone(&self.refused) }))
    }
}

impl Program for NarrowProgram {
    fn plan(&self, inputs: &[TensorType]) -> Result<Plan, GraphError> {
        self.whole.plan(inputs)
    }

    fn run(
        &mut self,
        inputs: &[Input<'_>],
        cancel: &AtomicBool,
        progress: &mut dyn FnMut(usize, usize),
    ) -> Result<Vec<Output<'_>>, ExecError> {
        let too_much = match (inputs.len(), inputs[0].shape) {
            (6, _) => inputs[1].shape[0] > 1,
            (2, [_, _, width, 4]) => *width > 64,
            _ => false,
        };
        if too_much {
            self.refused.fetch_add(1, Ordering::Relaxed);
            return Err(ExecError::Memory { needed_bytes: 2, allowed_bytes: 1 });
        }
        self.whole.run(inputs, cancel, progress)
    }
}

#[test]
fn what_takes_too_much_memory_goes_clip_by_clip_and_in_tiles() {
    if !has_ffmpeg("what_takes_too_much_memory_goes_clip_by_clip_and_in_tiles") {
        return;
    }
    let wide = || ask(json!({"steps": 1, "frames": 2, "width": 1024}));
    let mut host = host(Wish::Cpu, Precision::Auto);
    let (picture, _) = inputs(host.dir.path());
    let whole = host.run(wide(), &[&picture]).unwrap();
    let refused = Arc::new(AtomicUsize::new(0));
    let executor = Narrow { cpu: Cpu::new(2, 1 << 30).unwrap(), refused: Arc::clone(&refused) };
    let options = EngineOptions { models_dir: host.models(), threads: 2, executor: Wish::Cpu, ..Default::default() };
    host.engine = Engine::with_executor(options, Box::new(executor));
    let parts = host.run(wide(), &[&picture]).unwrap();
    assert_eq!(refused.load(Ordering::Relaxed), 2, "a step, and the frames");
    // The norms of a tile see less than those of the whole.
    let psnr = psnr(&frames(&parts[0].path), &frames(&whole[0].path));
    assert!(psnr > 20.0, "{psnr} dB");
}

#[test]
fn an_interrupted_clip_goes_on_from_its_checkpoint_to_the_same_clip() {
    if !has_ffmpeg("an_interrupted_clip_goes_on_from_its_checkpoint_to_the_same_clip") {
        return;
    }
    let mut host = host(Wish::Cpu, Precision::Auto);
    let (picture, _) = inputs(host.dir.path());
    let more = json!({"steps": 8, "checkpoint_every": 3, "preview_every": 5, "seed": null});
    let (mut kept, mut previews) = (None, 0);
    let whole = host.heard(ask(more.clone()), &[&picture], &mut |said, _| match said {
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
    let again = host.heard(ask(more), &[&picture], &mut |said, _| {
        if let Report::Percent(percent) = said {
            percents.push(percent);
        }
    });
    let again = again.unwrap();
    // Five of eight steps were left, and a clip to decode.
    assert!((percents[1] - 100.0 / 6.0).abs() < 0.01 && percents.is_sorted(), "{percents:?}");
    assert_eq!((percents.len(), percents.last()), (7, Some(&100.0)));
    assert_eq!(again[0].extra["seed"], whole[0].extra["seed"]);
    assert_eq!(std::fs::read(&again[0].path).unwrap(), std::fs::read(&whole[0].path).unwrap());
}

#[test]
fn a_cancel_takes_effect_within_one_step_and_while_frames_are_decoded() {
    if !has_ffmpeg("a_cancel_takes_effect_within_one_step_and_while_frames_are_decoded") {
        return;
    }
    let mut host = host(Wish::Cpu, Precision::Auto);
    let (picture, _) = inputs(host.dir.path());
    for (at, steps) in [(1, 50), (3, 2)] {
        let mut seen = 0;
        host.cancel.store(false, Ordering::Relaxed);
        let ended = host.heard(ask(json!({"steps": steps, "decode_chunk": 1})), &[&picture], &mut |said, cancel| {
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
    tiny::write_folder("sd15", &host.models().join("sd15"));
    tiny::write_motion(&host.models().join("motion/tiny"));
    let (picture, mask) = inputs(host.dir.path());
    let (one, two) = ([picture.as_path()], [picture.as_path(), mask.as_path()]);
    for (more, inputs, words) in [
        (json!({}), &[][..], "takes one input: the picture"),
        (json!({}), &two, "takes one input: the picture"),
        (json!({"width": 72}), &one, "`width` is 72; this model takes multiples of 32"),
        (json!({"frames": 65}), &one, "`frames` is 65; it is 1 to 64"),
        (json!({"model": "none"}), &one, "this host has sd15, svd"),
        (json!({"model": "sd15"}), &one, "`motion` is missing: `sd15` makes no clip of a picture alone"),
        (json!({"prompt": "a castle"}), &one, "`motion` is missing: a clip of a prompt needs"),
        (json!({"width": 4096, "height": 4096, "frames": 64}), &one, "bytes of memory"),
    ] {
        let message = host.refused(ask(more.clone()), inputs);
        assert!(message.contains(words), "{more}: {message}");
    }
    let with_modules = json!({"model": "svd", "motion": "tiny", "prompt": "a castle"});
    assert!(host.refused(with_modules, &[]).contains("it is for `video.generate`, without a `motion`"));
    host.kind = "image.generate";
    let message = host.refused(json!({"model": "svd", "prompt": "a castle"}), &[]);
    assert!(message.contains("makes clips of a picture: it is for `video.generate`"), "{message}");
    host.kind = "video.generate";
    for (file, field, value, words) in [
        ("unet/config.json", "block_out_channels", json!([32, 60, 64]), "`block_out_channels` is 60"),
        ("unet/config.json", "num_attention_heads", json!([3, 4, 4]), "`num_attention_heads` is 3"),
        ("unet/config.json", "projection_class_embeddings_input_dim", json!(25), "only 24 is understood"),
        ("unet/config.json", "in_channels", json!(9), "takes 9 channels"),
        ("unet/config.json", "num_frames", json!(1_000), "`num_frames` is 1000"),
        ("unet/config.json", "down_block_types", json!(["DownBlock2D", "x", "y"]), "`DownBlock2D`"),
        ("vae/config.json", "layers_per_block", json!(3), "`layers_per_block` is 3"),
        ("vae/config.json", "scaling_factor", json!(0.0), "`scaling_factor` is 0"),
        ("image_encoder/config.json", "image_size", json!(336), "`image_size` is 336"),
        ("image_encoder/config.json", "projection_dim", json!(24), "pictures have 24 features"),
        ("image_encoder/config.json", "hidden_act", json!("relu"), "`hidden_act`"),
        ("scheduler/scheduler_config.json", "timestep_type", json!("discrete"), "v-prediction"),
        ("scheduler/scheduler_config.json", "sigma_max", json!(0.001), "v-prediction"),
        ("unet/config.json", "transformer_layers_per_block", json!([2, 2, 1]), "is missing"),
    ] {
        let place = host.models().join("svd").join(file);
        let good = std::fs::read(&place).unwrap();
        let mut config = tiny::json(&place);
        config[field] = value;
        std::fs::write(&place, config.to_string()).unwrap();
        let message = host.refused(ask(json!({})), &one);
        assert!(message.contains(words), "{field}: {message}");
        std::fs::write(&place, good).unwrap();
    }
    let place = host.models().join("svd/unet/diffusion_pytorch_model.safetensors");
    let mut tensors = tiny::tensors("svd", "unet");
    for (damage, words) in [(Some(f32::NAN), "NaN"), (None, "is missing")] {
        let name = "mid_block.resnets.0.time_mixer.mix_factor".to_owned();
        match damage {
            Some(value) => tensors.insert(name.clone(), (vec![1], vec![value])),
            None => tensors.remove(&name),
        };
        std::fs::write(&place, tiny::safetensors(&tensors)).unwrap();
        let message = host.refused(ask(json!({})), &one);
        assert!(message.contains(&name) && message.contains(words), "{message}");
    }
    std::fs::write(&place, tiny::safetensors(&tiny::tensors("svd", "unet"))).unwrap();
    assert!(host.run(ask(json!({"steps": 1, "frames": 1})), &one).is_ok(), "what was refused is not remembered");
}

#[test]
fn a_clip_has_as_many_frames_as_the_model_was_trained_with_and_the_pictures_shape() {
    if !has_ffmpeg("a_clip_has_as_many_frames_as_the_model_was_trained_with_and_the_pictures_shape") {
        return;
    }
    let mut host = host(Wish::Cpu, Precision::Auto);
    let picture = host.dir.path().join("wide.png");
    image::RgbImage::from_fn(300, 80, |x, y| image::Rgb([x as u8, y as u8, 90])).save(&picture).unwrap();
    let made = host.run(json!({"model": "svd", "steps": 1}), &[&picture]).unwrap();
    // Trained with 64 by 64 pixels: as many in all, in multiples of 32.
    assert_eq!((made[0].width, made[0].height, &made[0].extra["frames"]), (128, 32, &json!(FRAMES)));
}

#[test]
fn what_a_model_of_clips_needs_is_planned_without_loading_it() {
    let (dir, _model) = model();
    let needs = plan::vram(&dir.path().join("svd")).unwrap();
    let of = |width: u32, height: u32, precision: &str| {
        let found = |need: &&backlot_wire::model::VramNeed| {
            (need.width, need.height, need.precision.as_str()) == (width, height, precision)
        };
        needs.iter().find(found).unwrap_or_else(|| panic!("{needs:?}"))
    };
    let (small, large, wide) = (of(64, 64, "f16"), of(1024, 576, "f16"), of(64, 64, "f32"));
    assert!(small.values_bytes < large.values_bytes && small.weights_bytes == large.weights_bytes, "{needs:?}");
    assert!(small.weights_bytes < wide.weights_bytes && wide.weights_bytes < 2 * small.weights_bytes, "{needs:?}");
}
