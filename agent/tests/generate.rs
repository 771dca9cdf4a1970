//! `image.generate` from end to end against diffusers' pipelines, on tiny random weights.

#![allow(clippy::unwrap_used, reason = "a test panics with what went wrong; that is its report")]

mod host;
mod tiny;

use std::path::Path;
use std::sync::atomic::Ordering;

use backlot_agent::infer::choice::{Precision, Wish};
use backlot_agent::infer::{Made, Report};
use host::{Host, inputs, pixels};
use serde_json::{Value, json};
use tiny::{FORMS, psnr};

/// The pictures together, as diffusers gives a batch.
fn all(made: &[Made]) -> Vec<f32> {
    made.iter().flat_map(|made| pixels(&made.path)).collect()
}

fn ask(form: &str, more: Value) -> Value {
    let mut all = json!({
        "model": form, "prompt": "a photo of an astronaut riding a horse on the moon", "negative_prompt": "blurry, low quality",
        "seed": 1, "width": 64, "height": 64, "steps": 20, "guidance": 7.5, "scheduler": "ddim", "preview_every": 0,
    });
    for (name, value) in more.as_object().unwrap() {
        all[name] = value.clone();
    }
    all
}

#[test]
fn whole_pictures_are_those_of_diffusers_in_every_form() {
    let mut host = Host::new(&FORMS);
    let (picture, mask) = inputs(host.dir.path());
    for form in FORMS {
        let theirs = tiny::made(form);
        let mut check = |name: &str, more: Value, inputs: &[&Path]| {
            let made = host.run(ask(form, more), inputs).unwrap();
            let psnr = psnr(&all(&made), &theirs.get(&format!("{name}.picture")).1);
            assert!(psnr > 50.0, "{form} {name}: {psnr} dB");
        };
        check("text2image", json!({"count": 2}), &[]);
        check("euler_a", json!({"count": 2, "steps": 6, "scheduler": "euler-ancestral", "spacing": "leading"}), &[]);
        let turbo = json!({"count": 2, "steps": 2, "scheduler": "euler", "spacing": "trailing", "guidance": 0});
        check("turbo", turbo, &[]);
        check("image2image", json!({"strength": 0.6}), &[&picture]);
        check("inpaint", json!({"strength": 0.8}), &[&picture, &mask]);
    }
}

#[test]
fn wgpu_makes_the_pictures_that_the_cpu_makes() {
    for precision in [Precision::F32, Precision::F16] {
        let mut host = Host::on(Wish::WgpuSoftware, precision, &FORMS);
        let (picture, mask) = inputs(host.dir.path());
        for form in FORMS {
            let more = json!({"steps": 5, "strength": 0.8, "scheduler": "euler-ancestral"});
            let made = match host.run(ask(form, more.clone()), &[&picture, &mask]) {
                Ok(made) => made,
                Err(failure) if failure.details.get("cause").is_some_and(|cause| cause == "device") => {
                    println!("SKIPPED wgpu_makes_the_pictures_that_the_cpu_makes: {failure}");
                    return;
                }
                Err(failure) => panic!("{form} {precision:?}: {failure:?}"),
            };
            assert_eq!(made[0].extra["executor"], "wgpu");
            let mut cpu = Host::new(&[form]);
            let theirs = cpu.run(ask(form, more), &[&picture, &mask]).unwrap();
            let psnr = psnr(&all(&made), &all(&theirs));
            assert!(psnr > 40.0, "{form} {precision:?}: {psnr} dB");
        }
    }
}

#[test]
fn a_picture_of_a_batch_is_the_one_that_its_seed_makes_alone() {
    let mut host = Host::new(&["sd15"]);
    let more = json!({"count": 3, "steps": 4, "scheduler": "euler-ancestral", "seed": 40});
    let batch = host.run(ask("sd15", more), &[]).unwrap();
    let alone = host.run(ask("sd15", json!({"steps": 4, "scheduler": "euler-ancestral", "seed": 42})), &[]).unwrap();
    assert_eq!(batch[2].extra["seed"], 42);
    assert_eq!(pixels(&batch[2].path), pixels(&alone[0].path));
    assert_ne!(pixels(&batch[1].path), pixels(&alone[0].path));
}

#[test]
fn every_scheduler_makes_a_picture_and_says_how_far_it_is() {
    let mut host = Host::new(&["sdxl"]);
    for scheduler in ["ddim", "euler", "euler-ancestral", "dpm++2m-karras", "lcm"] {
        let (mut phases, mut percents, mut previews) = (Vec::new(), vec![-1.0], 0);
        let more = json!({"scheduler": scheduler, "steps": 6, "preview_every": 2, "checkpoint_every": 0, "negative_prompt": null});
        let made = host.heard(ask("sdxl", more), &[], &mut |said, _| match said {
            Report::Phase(phase) => phases.push(phase),
            Report::Percent(percent) => percents.push(percent),
            Report::Preview(file) => {
                assert_eq!(image::open(file).unwrap().to_rgb8().dimensions(), (32, 32));
                previews += 1;
            }
            Report::Checkpoint(_) | Report::GpuSeconds(_) => panic!("none was asked for, and there is no GPU"),
        });
        let made = made.unwrap();
        assert_eq!((phases, previews), (vec!["load", "infer", "post"], 2), "{scheduler}");
        assert!(percents.is_sorted() && percents.len() > 6 && *percents.last().unwrap() == 100.0, "{percents:?}");
        assert_eq!(made[0].extra["scheduler"], scheduler);
        assert_eq!((made[0].width, made[0].height), (64, 64));
    }
}

#[test]
fn a_cancel_takes_effect_within_one_step() {
    let mut host = Host::new(&["sd15"]);
    let mut seen = 0;
    let more = json!({"steps": 50});
    let ended = host.heard(ask("sd15", more), &[], &mut |said, cancel| {
        if let Report::Percent(percent) = said
            && percent > 0.0
        {
            seen += 1;
            cancel.store(true, Ordering::Relaxed);
        }
    });
    assert!(ended.unwrap_err().cancelled);
    assert_eq!(seen, 1, "a step more was taken");
}

#[test]
fn an_interrupted_run_goes_on_from_its_checkpoint_to_the_same_picture() {
    let mut host = Host::new(&["sd15"]);
    for scheduler in ["dpm++2m-karras", "euler-ancestral"] {
        // Without a seed: the second attempt goes on with the one that the first has drawn.
        let more = json!({"scheduler": scheduler, "checkpoint_every": 6, "seed": null, "count": 2});
        let mut kept = None;
        let whole = host.heard(ask("sd15", more.clone()), &[], &mut |said, _| {
            if let Report::Checkpoint(file) = said {
                kept = kept.take().or(Some(std::fs::read(file).unwrap()));
            }
        });
        let whole = whole.unwrap();
        host.left = kept.clone();
        let mut first = None;
        let again = host.heard(ask("sd15", more.clone()), &[], &mut |said, _| {
            if let Report::Percent(percent) = said
                && percent > 0.0
            {
                first = first.or(Some(percent));
            }
        });
        let again = again.unwrap();
        // 14 of 20 steps were left, and two pictures to decode.
        assert!((first.unwrap() - 100.0 / 16.0).abs() < 0.01, "{first:?}");
        assert_eq!(again[0].extra["seed"], whole[0].extra["seed"]);
        assert_eq!(all(&again), all(&whole), "{scheduler}");
        // Another prompt is another run: what is left does not count.
        host.left = kept;
        let mut other = more;
        other["prompt"] = "a castle".into();
        other["seed"] = whole[0].extra["seed"].clone();
        let other = host.run(ask("sd15", other), &[]).unwrap();
        assert_ne!(all(&other), all(&whole));
    }
}

#[test]
fn what_a_model_cannot_do_is_refused_with_the_reason() {
    let mut host = Host::new(&["sd15"]);
    let (picture, mask) = inputs(host.dir.path());
    assert!(
        host.refused(ask("sd15", json!({"width": 96})), &[])
            .contains("`width` is 96; this model takes multiples of 64")
    );
    assert!(host.refused(ask("sd15", json!({"model": "../sd15"})), &[]).contains("this host has sd15"));
    assert!(host.refused(ask("sd15", json!({"model": "none"})), &[]).contains("this host has sd15"));
    assert!(host.refused(ask("sd15", json!({"strength": 0.01})), &[&picture]).contains("leaves none of 20 steps"));
    assert!(host.refused(ask("sd15", json!({})), &[&picture, &mask, &mask]).contains("at most two inputs"));
    assert!(host.refused(ask("sd15", json!({"scheduler": "lcm", "steps": 51})), &[]).contains("1 to 50 steps"));
    assert!(host.refused(ask("sd15", json!({"loras": ["none"]})), &[]).contains("none.safetensors"));
    let broken = host.dir.path().join("broken.png");
    std::fs::write(&broken, b"no picture").unwrap();
    host.refused(ask("sd15", json!({})), &[&broken]);
}

#[test]
fn damaged_weights_are_refused_with_what_is_wrong() {
    let mut host = Host::new(&["sd15"]);
    let file = host.models().join("sd15/unet/diffusion_pytorch_model.safetensors");
    let good = std::fs::read(&file).unwrap();
    let mut case = |bytes: &[u8], words: &str| {
        // A new file, as the agent's folder has it: the old one may still be mapped.
        std::fs::remove_file(&file).unwrap();
        std::fs::write(&file, bytes).unwrap();
        let message = host.refused(ask("sd15", json!({"steps": 1})), &[]);
        assert!(message.contains(words), "{message}");
    };
    case(&good[..good.len() / 2], "diffusion_pytorch_model.safetensors");
    case(&good[..4], "diffusion_pytorch_model.safetensors");
    case(&[], "diffusion_pytorch_model.safetensors");
    case(&[&u64::MAX.to_le_bytes()[..], &good[8..]].concat(), "diffusion_pytorch_model.safetensors");
    let with = |change: &dyn Fn(&mut tiny::Tensors)| {
        let mut tensors = tiny::tensors("sd15", "unet");
        change(&mut tensors);
        tiny::safetensors(&tensors)
    };
    let nan = with(&|tensors| tensors.get_mut("conv_out.bias").unwrap().1[1] = f32::NAN);
    case(&nan, "weight `conv_out.bias` holds NaN at element 1");
    let missing = with(&|tensors| drop(tensors.remove("mid_block.resnets.0.conv1.weight")));
    case(&missing, "`mid_block.resnets.0.conv1.weight` is missing");
    let turned = with(&|tensors| tensors.get_mut("conv_in.weight").unwrap().0 = vec![4, 16, 3, 3]);
    case(&turned, "`conv_in.weight` has shape [4, 16, 3, 3], not [16, 4, 3, 3]");
    std::fs::write(&file, &good).unwrap();
    assert!(host.run(ask("sd15", json!({"steps": 1})), &[]).is_ok(), "what was refused is not remembered");
}

#[test]
fn a_latent_consistency_model_is_told_its_guidance_as_diffusers_tells_it() {
    let mut host = Host::new(&["sd15"]);
    let (lcm, theirs) = (host.models().join("sd15"), tiny::made("lcm"));
    std::fs::copy(tiny::fixtures().join("lcm/unet/config.json"), lcm.join("unet/config.json")).unwrap();
    std::fs::write(lcm.join("model_index.json"), r#"{"_class_name": "LatentConsistencyModelPipeline"}"#).unwrap();
    let weights = tiny::safetensors(&tiny::tensors("lcm", "unet"));
    std::fs::write(lcm.join("unet/diffusion_pytorch_model.safetensors"), weights).unwrap();
    // Without a word on the sampler it is the one that such a model was made for.
    let more = json!({"steps": 4, "guidance": 8.5, "count": 2, "scheduler": null});
    let made = host.run(ask("sd15", more), &[]).unwrap();
    assert_eq!(made[0].extra["scheduler"], "lcm");
    let psnr = psnr(&all(&made), &theirs.get("picture").1);
    assert!(psnr > 50.0, "{psnr} dB");
    let other = host.run(ask("sd15", json!({"steps": 4, "guidance": 2, "count": 2, "scheduler": "lcm"})), &[]).unwrap();
    assert_ne!(all(&made), all(&other), "the guidance is not heard");
}

#[test]
fn a_long_prompt_is_read_in_parts_to_its_end() {
    let long = "a castle beside the lake in the evening light, cinematic shot, highly detailed, \
                portrait of a woman with red hair "
        .repeat(4);
    let mut host = Host::new(&["sd15", "sdxl"]);
    let theirs = tiny::made("long");
    for (name, more) in [
        ("prompt", json!({"prompt": long, "steps": 10})),
        ("negative", json!({"prompt": "a castle", "negative_prompt": long, "steps": 10})),
    ] {
        let made = host.run(ask("sd15", more), &[]).unwrap();
        let psnr = psnr(&all(&made), &theirs.get(name).1);
        assert!(psnr > 50.0, "{name}: {psnr} dB");
        assert!(!made[0].extra.contains_key("prompt_tokens_cut"));
    }
    // The two encoders of SDXL, and texts of different lengths.
    let more = json!({"prompt": long, "prompt_2": "a castle", "negative_prompt_2": long.repeat(2), "steps": 1});
    assert!(host.run(ask("sdxl", more), &[]).is_ok());
    let made = host.run(ask("sd15", json!({"prompt": "1 ".repeat(601), "steps": 1})), &[]).unwrap();
    assert_eq!(made[0].extra["prompt_tokens_cut"], 1, "eight parts of 75 tokens are read");
}
