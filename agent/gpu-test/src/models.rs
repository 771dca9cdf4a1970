//! Whole models of Stable Diffusion in their real sizes with random weights, as folders of diffusers: what can be measured
//! where no published weights are. What they make is noise; how long it takes is what it would take.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{BufWriter, Write};
use std::path::Path;

use backlot_agent::infer::graph::Graph;
use backlot_agent::infer::models::config::{Clip, Unet, Vae};
use backlot_agent::infer::models::{clip, unet, vae};
use half::f16;
use serde_json::{Map, Value, json};

use crate::ops::Random;
use crate::pipelines::{Form, real_unet, real_vae};

/// A text file of a form's fixture.
macro_rules! text {
    ($path:literal) => {
        ($path, include_str!(concat!("../../tests/fixtures/diffusion/", $path)))
    };
}

/// Paths in the fixtures and what stands there.
type Texts = [(&'static str, &'static str)];

const SD15: [(&str, &str); 8] = [
    text!("sd15/model_index.json"),
    text!("sd15/scheduler/scheduler_config.json"),
    text!("sd15/tokenizer/merges.txt"),
    text!("sd15/tokenizer/special_tokens_map.json"),
    text!("sd15/tokenizer/tokenizer_config.json"),
    text!("sd15/tokenizer/vocab.json"),
    text!("sd15/unet/config.json"),
    text!("sd15/vae/config.json"),
];
const SD15_TEXT: (&str, &str) = text!("sd15/text_encoder/config.json");
const SDXL: [(&str, &str); 12] = [
    text!("sdxl/model_index.json"),
    text!("sdxl/scheduler/scheduler_config.json"),
    text!("sdxl/tokenizer/merges.txt"),
    text!("sdxl/tokenizer/special_tokens_map.json"),
    text!("sdxl/tokenizer/tokenizer_config.json"),
    text!("sdxl/tokenizer/vocab.json"),
    text!("sdxl/tokenizer_2/merges.txt"),
    text!("sdxl/tokenizer_2/special_tokens_map.json"),
    text!("sdxl/tokenizer_2/tokenizer_config.json"),
    text!("sdxl/tokenizer_2/vocab.json"),
    text!("sdxl/unet/config.json"),
    text!("sdxl/vae/config.json"),
];
const SDXL_TEXTS: [(&str, &str); 2] =
    [text!("sdxl/text_encoder/config.json"), text!("sdxl/text_encoder_2/config.json")];

/// Writes the model into the folder `to`.
///
/// # Errors
/// In words: the disk, or a configuration that does not fit.
pub(crate) fn write(form: Form, to: &Path) -> Result<(), String> {
    let (files, texts): (&Texts, &Texts) = match form {
        Form::Sd15 => (&SD15, &[SD15_TEXT]),
        Form::Sdxl => (&SDXL, &SDXL_TEXTS),
    };
    let side = if form == Form::Sd15 { 64 } else { 128 };
    let encoders = [
        json!({ "hidden_size": 768, "intermediate_size": 3072, "num_attention_heads": 12, "num_hidden_layers": 12,
            "vocab_size": 49408, "projection_dim": 768 }),
        json!({ "hidden_size": 1280, "intermediate_size": 5120, "num_attention_heads": 20, "num_hidden_layers": 32,
            "vocab_size": 49408, "projection_dim": 1280 }),
    ];
    for (path, text) in files.iter().chain(texts) {
        let path = path.split_once('/').map_or(*path, |(_, rest)| rest);
        let changes = match path {
            "unet/config.json" => with(real_unet(form), "sample_size", side),
            "vae/config.json" => with(real_vae(), "sample_size", side * 8),
            "text_encoder/config.json" => encoders[0].clone(),
            "text_encoder_2/config.json" => encoders[1].clone(),
            _ => Value::Null,
        };
        put(&to.join(path), &changed(text, changes)?)?;
    }
    let error = |error: backlot_agent::infer::weights::WeightError| error.to_string();
    let unet_config = Unet::read(&to.join("unet/config.json")).map_err(error)?;
    let vae_config = Vae::read(&to.join("vae/config.json")).map_err(error)?;
    weights(&to.join("unet/diffusion_pytorch_model.safetensors"), &[unet::graph(&unet_config)])?;
    let both = [vae::encoder(&vae_config), vae::decoder(&vae_config)];
    weights(&to.join("vae/diffusion_pytorch_model.safetensors"), &both)?;
    for (path, _) in texts {
        let part = to.join(path.split('/').nth(1).unwrap_or(path));
        let config = Clip::read(&part.join("config.json")).map_err(error)?;
        let last = config.projection.map_or(clip::Wanted::Last, |_| clip::Wanted::PenultimateAndProjected);
        weights(&part.join("model.safetensors"), &[clip::graph(&config, last)])?;
    }
    Ok(())
}

fn with(mut changes: Value, name: &str, number: usize) -> Value {
    changes[name] = number.into();
    changes
}

/// A configuration with some of its fields changed; a text that needs no change as it is.
fn changed(text: &str, changes: Value) -> Result<String, String> {
    let Value::Object(changes) = changes else { return Ok(text.to_owned()) };
    let mut fields: Map<String, Value> = serde_json::from_str(text).map_err(|error| error.to_string())?;
    fields.extend(changes);
    Ok(Value::Object(fields).to_string())
}

fn put(path: &Path, text: &str) -> Result<(), String> {
    let folder = path.parent().unwrap_or(Path::new("."));
    fs::create_dir_all(folder)
        .and_then(|()| fs::write(path, text))
        .map_err(|error| format!("{}: {error}", path.display()))
}

/// All weights that the graphs read as halves: matrices by what they sum over, norms about one, the rest small.
fn weights(path: &Path, graphs: &[Graph]) -> Result<(), String> {
    let decls: BTreeMap<&str, &[usize]> = graphs
        .iter()
        .flat_map(|graph| graph.weights().iter().map(|decl| (decl.name.as_str(), decl.shape.as_slice())))
        .collect();
    // Transformers reads no file that does not say so.
    let format = ("__metadata__".to_owned(), json!({ "format": "pt" }));
    let (mut header, mut end) = (Map::from_iter([format]), 0);
    for (name, shape) in &decls {
        let start = end;
        end += shape.iter().product::<usize>() * 2;
        header.insert((*name).to_owned(), json!({ "dtype": "F16", "shape": shape, "data_offsets": [start, end] }));
    }
    let mut header = Value::Object(header).to_string();
    header.extend(std::iter::repeat_n(' ', header.len().next_multiple_of(8) - header.len()));
    let mut random = Random::new(29);
    let mut write = || -> std::io::Result<()> {
        let mut file = BufWriter::new(File::create(path)?);
        file.write_all(&(header.len() as u64).to_le_bytes())?;
        file.write_all(header.as_bytes())?;
        for (name, shape) in &decls {
            let inner: usize = shape.iter().skip(1).product();
            let (factor, about) = match shape.len() {
                1 if name.ends_with("weight") => (0.1, 1.0),
                1 => (0.1, 0.0),
                _ => ((3.0 / inner as f32).sqrt(), 0.0),
            };
            for _ in 0..shape.iter().product() {
                file.write_all(&f16::from_f32(random.unit() * factor + about).to_le_bytes())?;
            }
        }
        file.flush()
    };
    write().map_err(|error| format!("{}: {error}", path.display()))
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test panics with what went wrong; that is its report")]
mod tests {
    use super::*;

    fn text_of<'a>(texts: &'a Texts, ending: &str) -> Option<&'a str> {
        texts.iter().find(|(path, _)| path.ends_with(ending)).map(|(_, text)| *text)
    }

    #[test]
    fn the_index_names_the_parts_that_are_written_as_diffusers_wants_it() {
        for (files, encoders) in [(&SD15[..], &[SD15_TEXT][..]), (&SDXL, &SDXL_TEXTS)] {
            let all = [files, encoders].concat();
            let index: Map<String, Value> = serde_json::from_str(text_of(&all, "model_index.json").unwrap()).unwrap();
            let named = index.iter().filter(|(_, of)| of.get(0).is_some_and(Value::is_string));
            let named: Vec<&str> = named.map(|(part, _)| part.as_str()).collect();
            for part in &named {
                assert!(all.iter().any(|(path, _)| path.contains(&format!("/{part}/"))), "{part}");
            }
            for (path, _) in all.iter().filter(|(path, _)| path.split('/').count() == 3) {
                assert!(named.contains(&path.split('/').nth(1).unwrap()), "{path}");
            }
        }
    }

    #[test]
    fn weights_say_of_which_format_they_are() {
        let dir = std::env::temp_dir().join(format!("backlot-weights-{}", std::process::id()));
        put(&dir.join("config.json"), text_of(&SD15, "vae/config.json").unwrap()).unwrap();
        let graph = vae::decoder(&Vae::read(&dir.join("config.json")).unwrap());
        weights(&dir.join("made"), &[graph]).unwrap();
        let bytes = fs::read(dir.join("made")).unwrap();
        fs::remove_dir_all(&dir).unwrap();
        let header_bytes = usize::try_from(u64::from_le_bytes(bytes[..8].try_into().unwrap())).unwrap();
        let mut header: Map<String, Value> = serde_json::from_slice(&bytes[8..8 + header_bytes]).unwrap();
        assert_eq!(header.remove("__metadata__").unwrap()["format"], "pt");
        let end = header.values().filter_map(|of| of["data_offsets"][1].as_u64()).max().unwrap();
        assert_eq!(bytes.len() as u64, 8 + header_bytes as u64 + end);
    }
}
