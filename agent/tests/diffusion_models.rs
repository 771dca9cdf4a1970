//! CLIP, UNet and VAE on the CPU executor against PyTorch and diffusers, block by block, on tiny random weights.
//!
//! See `fixtures/diffusion/make.py` for where the numbers come from.

#![allow(clippy::unwrap_used, reason = "a test panics with what went wrong; that is its report")]

mod tiny;

use std::sync::atomic::AtomicBool;

use backlot_agent::infer::cpu::Cpu;
use backlot_agent::infer::executor::{Executor, Input};
use backlot_agent::infer::graph::{Graph, Op};
use backlot_agent::infer::models::{clip, config, unet, vae};
use backlot_agent::infer::weights::Weights;
use tiny::{FORMS, fixtures, made, off, picture, values};

/// The largest difference from PyTorch, relative to the largest value. Winograd's convolutions take most of it.
const TOLERANCE: f32 = 1e-4;

fn run(graph: Graph, weights: &Weights, inputs: &[(&[usize], &[f32])]) -> Vec<(Vec<usize>, Vec<f32>)> {
    let mut program = Cpu::new(2, 256 << 20).unwrap().load(graph, weights).unwrap();
    let inputs: Vec<_> = inputs.iter().map(|(shape, data)| Input { shape, data }).collect();
    let made = program.run(&inputs, &AtomicBool::new(false), &mut |_, _| {}).unwrap();
    made.into_iter().map(|output| (output.shape, output.data.to_vec())).collect()
}

#[test]
fn the_unet_is_diffusers_block_by_block() {
    for form in FORMS {
        let config = config::Unet::read(&fixtures().join(form).join("unet/config.json")).unwrap();
        let mut graph = unet::graph(&config);
        let made = made(form);
        // Every block that the script looked at: the node of its name, or the convolution in it.
        let mut names = vec!["unet".to_owned()];
        for name in made.names() {
            let Some(block) = name.strip_prefix("unet.") else { continue };
            let ending = if block.contains("samplers") {
                ".conv"
            } else if block.ends_with("embedding") {
                ".linear_2"
            } else {
                ""
            };
            let node = graph.nodes().iter().find(|node| node.name == format!("{block}{ending}"));
            let value = node.unwrap_or_else(|| panic!("{form} has no {block}")).outputs[0];
            graph.output(value);
            names.push(name);
        }
        assert!(names.len() > 20, "{form}: {} blocks", names.len());
        let latents = picture("input.latents", [1, 4, 8, 8]);
        let text = values("input.context", &[1, 77, config.context]);
        let pooled = values("input.pooled", &[1, 24]);
        let sizes = [64.0, 64.0, 0.0, 0.0, 64.0, 64.0];
        let mut inputs: Vec<(&[usize], &[f32])> = vec![(&[1, 8, 8, 4], &latents), (&[1], &[481.0])];
        let text_shape = [1, 77, config.context];
        inputs.push((&text_shape, &text));
        if config.added.is_some() {
            inputs.extend([(&[1, 24][..], &pooled[..]), (&[6], &sizes)]);
        }
        let fused = graph.fuse();
        assert!(fused.nodes().iter().any(|node| matches!(node.op, Op::GroupNorm { silu: true, .. })));
        let outputs = run(fused, &tiny::part(form, "unet"), &inputs);
        for (name, ours) in names.iter().zip(outputs) {
            let theirs = made.get(name);
            assert_eq!(ours.0, theirs.0, "{form} {name}");
            let off = off(&ours.1, &theirs.1);
            assert!(off < TOLERANCE, "{form} {name} is off by {off}");
        }
    }
}

#[test]
fn a_unet_with_a_guidance_embedding_is_diffusers() {
    let config = config::Unet::read(&fixtures().join("lcm/unet/config.json")).unwrap();
    assert_eq!(config.guidance, Some(48));
    let (latents, text) = (picture("input.latents", [1, 4, 8, 8]), values("input.context", &[1, 77, 32]));
    let guidance = [unet::guidance_input(8.5)];
    let inputs: [(&[usize], &[f32]); 4] =
        [(&[1, 8, 8, 4], &latents), (&[1], &[481.0]), (&[1, 77, 32], &text), (&[1], &guidance)];
    let ours = run(unet::graph(&config).fuse(), &tiny::part("lcm", "unet"), &inputs).remove(0);
    // Sinusoids of thousands lose four digits to the angle, there as here.
    let off = off(&ours.1, &made("lcm").get("unet").1);
    assert!(off < 1e-3, "off by {off}");
}

#[test]
fn the_vae_decodes_and_encodes_as_diffusers_does() {
    for form in FORMS {
        let config = config::Vae::read(&fixtures().join(form).join("vae/config.json")).unwrap();
        let (made, weights) = (made(form), tiny::part(form, "vae"));
        let latents = picture("input.latents", [1, 4, 4, 6]);
        let decoded = run(vae::decoder(&config).fuse(), &weights, &[(&[1, 4, 6, 4], &latents)]).remove(0);
        let pixels = picture("input.picture", [1, 3, 32, 48]);
        let moments = run(vae::encoder(&config).fuse(), &weights, &[(&[1, 32, 48, 3], &pixels)]).remove(0);
        for (name, ours) in [("vae.decoded", decoded), ("vae.moments", moments)] {
            let theirs = made.get(name);
            assert_eq!(ours.0, theirs.0, "{form} {name}");
            let off = off(&ours.1, &theirs.1);
            assert!(off < TOLERANCE, "{form} {name} is off by {off}");
        }
    }
}

#[test]
fn the_text_encoders_mean_what_transformers_says() {
    let lists = tiny::json(&fixtures().join("lists.json"));
    for (form, part) in
        [("sd15", "text_encoder"), ("sd21", "text_encoder"), ("sdxl", "text_encoder"), ("sdxl", "text_encoder_2")]
    {
        let config = config::Clip::read(&fixtures().join(form).join(part).join("config.json")).unwrap();
        let (made, weights) = (made(form), tiny::part(form, part));
        for text in [1, 4, 7] {
            let mut ids: Vec<f32> =
                lists["tokens"][text].as_array().unwrap().iter().map(|id| id.as_f64().unwrap() as f32).collect();
            let end = (config.words - 1) as f32;
            let place = ids.iter().position(|id| *id == end).unwrap();
            if form == "sd21" || part == "text_encoder_2" {
                ids[place + 1..].fill(0.0); // these pad with `!`
            }
            let places: Vec<f32> = (0..77).map(|place| place as f32).collect();
            let inputs: [(&[usize], &[f32]); 2] = [(&[1, 77], &ids), (&[1, 77], &places)];
            let check = |name: &str, ours: &[f32]| {
                let off = off(ours, &made.get(&format!("{part}.{text}.{name}")).1);
                assert!(off < TOLERANCE, "{form} {part} text {text} {name} is off by {off}");
            };
            check("last", &run(clip::graph(&config, clip::Wanted::Last), &weights, &inputs)[0].1);
            check("penultimate", &run(clip::graph(&config, clip::Wanted::Penultimate), &weights, &inputs)[0].1);
            let both = run(clip::graph(&config, clip::Wanted::PenultimateAndProjected), &weights, &inputs);
            check("penultimate", &both[0].1);
            assert_eq!(config.projection.is_some(), part == "text_encoder_2");
            if let Some(features) = config.projection {
                check("projected", &both[1].1[place * features..][..features]);
            }
        }
    }
}

#[test]
fn a_configuration_that_the_graphs_do_not_have_is_refused_by_the_name_of_its_field() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("config.json");
    let good = tiny::json(&fixtures().join("sd15/unet/config.json"));
    for (field, value) in [
        ("act_fn", serde_json::json!("mish")),
        ("block_out_channels", serde_json::json!([])),
        ("block_out_channels", serde_json::json!([0, 1, 2, 3])),
        ("time_cond_proj_dim", serde_json::json!(255)),
        ("attention_head_dim", serde_json::json!([1, 2])),
        ("addition_embed_type", serde_json::json!("image")),
        ("class_embed_type", serde_json::json!("timestep")),
        ("resnet_time_scale_shift", serde_json::json!("scale_shift")),
        ("down_block_types", serde_json::json!(["DownBlock2D"])),
        ("layers_per_block", serde_json::json!(1_000_000_000)),
    ] {
        let mut bad = good.clone();
        bad[field] = value;
        std::fs::write(&path, bad.to_string()).unwrap();
        let error = config::Unet::read(&path).unwrap_err().to_string();
        assert!(error.contains(field) && error.contains("config.json"), "{field}: {error}");
    }
    std::fs::write(&path, "{").unwrap();
    assert!(config::Unet::read(&path).is_err() && config::Vae::read(&path).is_err());
    std::fs::write(&path, vec![b' '; 2 << 20]).unwrap();
    assert!(config::Clip::read(&path).unwrap_err().to_string().contains("1 MiB"));
    assert!(config::Clip::read(&dir.path().join("none.json")).unwrap_err().to_string().contains("none.json"));
}
