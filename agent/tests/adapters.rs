//! What is added to a model before it is loaded (LoRA, textual inversion), and models in one file.

#![allow(clippy::unwrap_used, reason = "a test panics with what went wrong; that is its report")]

mod tiny;

use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;

use backlot_agent::infer::cpu::Cpu;
use backlot_agent::infer::executor::{Executor, Input};
use backlot_agent::infer::graph::Graph;
use backlot_agent::infer::models::folder::{self, Model, Text};
use backlot_agent::infer::models::{clip, inversion, lora, unet};
use backlot_agent::infer::weights::Weights;
use tiny::files::{lora_tensors, single};
use tiny::{Tensors, made, off, picture, safetensors, values};

const TOLERANCE: f32 = 1e-4;

/// A form's folder in a folder of its own.
fn model(form: &str) -> (tempfile::TempDir, Model) {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().join(form);
    tiny::write_folder(form, &folder);
    let model = folder::open(&folder).unwrap();
    (dir, model)
}

fn run(graph: Graph, weights: &Weights, inputs: &[(&[usize], &[f32])]) -> Vec<f32> {
    let mut program = Cpu::new(2, 256 << 20).unwrap().load(graph.fuse(), weights).unwrap();
    let inputs: Vec<_> = inputs.iter().map(|(shape, data)| Input { shape, data }).collect();
    program.run(&inputs, &AtomicBool::new(false), &mut |_, _| {}).unwrap()[0].data.to_vec()
}

fn unet_of(model: &Model) -> Vec<f32> {
    let (latents, text) = (picture("input.latents", [1, 4, 8, 8]), values("input.context", &[1, 77, 32]));
    let inputs: [(&[usize], &[f32]); 3] = [(&[1, 8, 8, 4], &latents), (&[1], &[481.0]), (&[1, 77, 32], &text)];
    run(unet::graph(&model.unet), &model.unet_weights, &inputs)
}

fn text_of(text: &Text, prompt: &str) -> Vec<f32> {
    let ids: Vec<f32> = text.tokenizer.encode(prompt, 77).unwrap().ids.iter().map(|id| *id as f32).collect();
    let places: Vec<f32> = (0..77).map(|place| place as f32).collect();
    run(clip::graph(&text.config, clip::Wanted::Last), &text.weights, &[(&[1, 77], &ids), (&[1, 77], &places)])
}

fn write(dir: &Path, tensors: &Tensors) -> PathBuf {
    let file = dir.join("adapter.safetensors");
    let _ = std::fs::remove_file(&file);
    std::fs::write(&file, safetensors(tensors)).unwrap();
    file
}

#[test]
fn a_lora_is_merged_as_diffusers_fuses_it_in_both_ways_to_name_it() {
    let made = made("sd15");
    let plain = unet_of(&model("sd15").1);
    for style in ["kohya", "diffusers"] {
        let (dir, mut model) = model("sd15");
        let file = write(dir.path(), &lora_tensors(style));
        lora::merge(&file, 0.8, &mut model).unwrap();
        let (unet, text) =
            (unet_of(&model), text_of(&model.texts[0], "a photo of an astronaut riding a horse on the moon"));
        assert!(off(&plain, &unet) > 0.01, "{style} changes nothing");
        let off_unet = off(&unet, &made.get(&format!("lora.{style}.unet")).1);
        let off_text = off(&text, &made.get(&format!("lora.{style}.text")).1);
        assert!(off_unet < TOLERANCE && off_text < TOLERANCE, "{style} is off by {off_unet} and {off_text}");
    }
}

#[test]
fn a_lora_in_the_original_code_s_names_is_the_same_lora() {
    let (dir, mut model) = model("sdxl");
    let square = |name: &str| [(format!("{name}.lora_down.weight"), 2, 32), (format!("{name}.lora_up.weight"), 32, 2)];
    let file = |name: &str| -> Tensors {
        let tensor = |(full, rows, columns): (String, usize, usize)| {
            let seed = if rows < columns { "lora/down" } else { "lora/up" };
            (full, (vec![rows, columns], values(seed, &[rows, columns])))
        };
        square(name).into_iter().map(tensor).collect()
    };
    let name = "up_blocks.1.attentions.2.transformer_blocks.1.attn1.to_q.weight";
    let merged = |model: &mut Model, layer: &str| {
        lora::merge(&write(dir.path(), &file(layer)), 1.0, model).unwrap();
        model.unet_weights.get(name).unwrap().to_f32()
    };
    let ours = merged(&mut model, "lora_unet_up_blocks_1_attentions_2_transformer_blocks_1_attn1_to_q");
    let mut again = folder::open(&dir.path().join("sdxl")).unwrap();
    let before = again.unet_weights.get(name).unwrap().to_f32();
    let theirs = merged(&mut again, "lora_unet_output_blocks_5_1_transformer_blocks_1_attn1_to_q");
    assert!(ours == theirs && ours != before);
}

#[test]
fn a_lora_that_does_not_suit_the_model_is_refused_by_the_name_in_it() {
    let (dir, mut model) = model("sd15");
    let good = "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_q";
    let one = |name: &str, shape: &[usize]| (name.to_owned(), (shape.to_vec(), vec![0.5; shape.iter().product()]));
    for (tensors, words) in [
        (vec![one("lora_unet_nowhere.lora_down.weight", &[2, 16])], "no layer for `lora_unet_nowhere"),
        (vec![one(&format!("{good}.lora_down.weight"), &[2, 16])], "half a pair"),
        (vec![one(&format!("{good}.hada_w1_a"), &[2, 16])], "no part of a LoRA"),
        (vec![one(&format!("{good}.dora_scale"), &[2, 16])], "no part of a LoRA"),
        (
            vec![one(&format!("{good}.lora_down.weight"), &[2, 17]), one(&format!("{good}.lora_up.weight"), &[16, 2])],
            "do not make that",
        ),
        (
            vec![one(&format!("{good}.lora_down.weight"), &[2, 16]), one(&format!("{good}.lora_up.weight"), &[2, 16])],
            "do not make that",
        ),
        (vec![], "has no LoRA"),
    ] {
        let file = write(dir.path(), &tensors.into_iter().collect());
        let error = lora::merge(&file, 1.0, &mut model).unwrap_err().to_string();
        assert!(error.contains(words) && error.contains("adapter.safetensors"), "{error}");
    }
    let mut nan = lora_tensors("kohya");
    nan.get_mut(&format!("{good}.lora_up.weight")).unwrap().1[3] = f32::NAN;
    let error = lora::merge(&write(dir.path(), &nan), 1.0, &mut model).unwrap_err().to_string();
    assert!(error.contains("NaN"), "{error}");
}

#[test]
fn a_word_of_textual_inversion_means_what_it_means_in_diffusers() {
    let (dir, mut model) = model("sd15");
    let rows = Tensors::from([("emb_params".to_owned(), (vec![2, 32], values("inversion/two", &[2, 32])))]);
    inversion::add(&write(dir.path(), &rows), "studio-style", &mut model).unwrap();
    let ours = text_of(&model.texts[0], "a castle, <studio-style>, red");
    let off = off(&ours, &made("sd15").get("inversion.text").1);
    assert!(off < TOLERANCE, "off by {off}");
    let wide = Tensors::from([("emb_params".to_owned(), (vec![2, 33], vec![0.0; 66]))]);
    let error = inversion::add(&write(dir.path(), &wide), "wide", &mut model).unwrap_err().to_string();
    assert!(error.contains("[2, 33]") && error.contains("rows of 32"), "{error}");
}

#[test]
fn a_single_file_is_the_model_that_the_folder_is() {
    for form in tiny::FORMS {
        let (dir, wanted) = model(form);
        let file = dir.path().join("single.safetensors");
        std::fs::write(&file, safetensors(&single(form))).unwrap();
        let vocabulary = dir.path().join("clip-tokenizer");
        std::fs::rename(dir.path().join(form).join("tokenizer"), &vocabulary).unwrap();
        assert_eq!(folder::list(dir.path()), [form, "single"], "both are found");
        let opened = folder::open(&folder::find(dir.path(), "single").unwrap()).unwrap();
        // What shapes do not tell is as in the published models, which these tiny ones are not.
        let mut config = opened.unet.clone();
        let tells = |config: &mut backlot_agent::infer::models::config::Unet| {
            (config.groups, config.sample_size) = (0, None);
            config.levels.iter_mut().for_each(|level| level.heads = 0);
        };
        let mut theirs = wanted.unet.clone();
        tells(&mut config);
        tells(&mut theirs);
        assert_eq!(config, theirs, "{form}");
        assert_eq!((&opened.vae.channels, opened.vae.layers), (&wanted.vae.channels, wanted.vae.layers));
        assert_eq!(opened.vae.scaling, wanted.vae.scaling);
        assert_eq!(opened.schedule.prediction, wanted.schedule.prediction);
        for (ours, theirs) in opened.texts.iter().zip(&wanted.texts) {
            let mut config = ours.config.clone();
            config.heads = theirs.config.heads;
            assert_eq!(config, theirs.config, "{form}");
            same(&ours.weights, &theirs.weights, form);
        }
        same(&opened.unet_weights, &wanted.unet_weights, form);
        same(&opened.vae_weights, &wanted.vae_weights, form);
    }
}

/// Every weight that a graph reads has the same values.
fn same(ours: &Weights, theirs: &Weights, form: &str) {
    assert!(ours.len() > 20);
    for (name, tensor) in ours.iter() {
        let other = theirs.get(name).unwrap_or_else(|| panic!("{form}: {name}"));
        assert!(tensor.shape == other.shape && tensor.to_f32() == other.to_f32(), "{form}: {name}");
    }
}

#[test]
fn a_single_file_that_lacks_a_part_is_refused_with_what_it_lacks() {
    let dir = tempfile::tempdir().unwrap();
    tiny::write_folder("sd15", &dir.path().join("sd15"));
    std::fs::rename(dir.path().join("sd15/tokenizer"), dir.path().join("clip-tokenizer")).unwrap();
    let file = dir.path().join("single.safetensors");
    let good = single("sd15");
    for (without, words) in [
        ("model.diffusion_model.middle_block.1.proj_in.weight", "middle_block.1.proj_in.weight"),
        ("first_stage_model.decoder.mid.attn_1.q.weight", "first_stage_model.decoder.mid.attn_1.q.weight"),
        ("cond_stage_model.transformer.text_model.final_layer_norm.weight", "has no text encoder"),
        ("model.diffusion_model.input_blocks.1.0.in_layers.2.weight", "has no UNet"),
        ("first_stage_model.post_quant_conv.weight", "post_quant_conv"),
    ] {
        let mut bad = good.clone();
        bad.remove(without).unwrap();
        let _ = std::fs::remove_file(&file);
        std::fs::write(&file, safetensors(&bad)).unwrap();
        let Err(error) = folder::open(&file) else { panic!("{without} was not missed") };
        assert!(error.to_string().contains(words), "{error}");
    }
    let _ = std::fs::remove_file(&file);
    std::fs::write(&file, safetensors(&good)).unwrap();
    std::fs::remove_dir_all(dir.path().join("clip-tokenizer")).unwrap();
    let Err(error) = folder::open(&file) else { panic!("a vocabulary from nowhere") };
    assert!(error.to_string().contains("clip-tokenizer"), "{error}");
}
