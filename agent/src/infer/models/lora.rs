//! LoRA: a small file's products added to a model's weights, before it is loaded.
//!
//! A pair of matrices stands under a layer's name. The names are diffusers' (`….lora.down`, `….lora_linear_layer.down`,
//! PEFT's `lora_A`), or kohya's, which join the parts of the name by `_` and call the layers of SDXL's UNet as the
//! original code does. What is merged has the precision that the model's file has.
//!
//! Absent on purpose: LoHa, LoKr, DoRA and tucker forms. A name that no layer has is refused: half a style is worse
//! than an error.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;

use candle_core::{Device, Tensor as Matrix};

use super::config;
use super::folder::{self, Model};
use super::ldm;
use crate::infer::weights::{Tensor, WeightError, Weights};

/// A part of the model that has weights.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
enum Part {
    Unet,
    Text(usize),
}

/// What the file has for one layer.
#[derive(Default)]
struct Pair {
    down: Option<Tensor>,
    up: Option<Tensor>,
    alpha: Option<f32>,
}

/// Merges the LoRA at `file` into `model`, `weight` times.
///
/// # Errors
/// [`WeightError`]: the file is missing or damaged, or has something that does not suit the model, by its name.
pub fn merge(file: &Path, weight: f32, model: &mut Model) -> Result<(), WeightError> {
    let wrong = |problem: String| config::wrong(file, problem);
    let weights = folder::read(file)?;
    let layers = layers(model);
    let mut pairs: BTreeMap<(Part, String), Pair> = BTreeMap::new();
    for (name, tensor) in weights.iter() {
        let Some((layer, kind)) = split(name) else {
            return Err(wrong(format!("`{name}` is no part of a LoRA that this agent merges")));
        };
        let target =
            layers.get(layer.as_str()).ok_or_else(|| wrong(format!("this model has no layer for `{name}`")))?;
        let pair = pairs.entry(target.clone()).or_default();
        match kind {
            Kind::Down => pair.down = Some(tensor.clone()),
            Kind::Up => pair.up = Some(tensor.clone()),
            Kind::Alpha => pair.alpha = tensor.to_f32().first().copied(),
        }
    }
    if pairs.is_empty() {
        return Err(wrong("has no LoRA in it".to_owned()));
    }
    for ((part, name), pair) in pairs {
        let of_part = match part {
            Part::Unet => &mut model.unet_weights,
            Part::Text(at) => &mut model.texts[at].weights,
        };
        merge_one(of_part, &name, pair, weight).map_err(|problem| wrong(format!("`{name}` {problem}")))?;
    }
    Ok(())
}

enum Kind {
    Down,
    Up,
    Alpha,
}

/// The layer's name in the file, and which part of the pair it is.
fn split(name: &str) -> Option<(String, Kind)> {
    if let Some(layer) = name.strip_suffix(".alpha") {
        return Some((layer.to_owned(), Kind::Alpha));
    }
    let endings = [
        (".lora_down.weight", Kind::Down),
        (".lora_up.weight", Kind::Up),
        (".lora.down.weight", Kind::Down),
        (".lora.up.weight", Kind::Up),
        (".lora_linear_layer.down.weight", Kind::Down),
        (".lora_linear_layer.up.weight", Kind::Up),
        (".lora_A.weight", Kind::Down),
        (".lora_B.weight", Kind::Up),
        ("_lora.down.weight", Kind::Down),
        ("_lora.up.weight", Kind::Up),
    ];
    let (layer, kind) = endings.into_iter().find_map(|(ending, kind)| Some((name.strip_suffix(ending)?, kind)))?;
    // The oldest form names the processor of an attention.
    let layer = layer.replace(".processor.", ".");
    Some((layer.strip_suffix(".to_out").map(|rest| format!("{rest}.to_out.0")).unwrap_or(layer), kind))
}

/// Every name that a file may have for a layer, and the weight that it means.
fn layers(model: &Model) -> HashMap<String, (Part, String)> {
    let mut names = HashMap::new();
    for decl in model.unet_graph().weights().iter().filter(|decl| decl.shape.len() > 1) {
        let Some(layer) = decl.name.strip_suffix(".weight") else { continue };
        let target = (Part::Unet, decl.name.clone());
        names.insert(format!("lora_unet_{}", layer.replace('.', "_")), target.clone());
        names.insert(format!("unet.{layer}"), target.clone());
        if let Some(original) = ldm::unet(&model.unet, &decl.name) {
            let original = original.trim_end_matches(".weight").replace('.', "_");
            names.insert(format!("lora_unet_{original}"), target.clone());
        }
    }
    for (at, text) in model.texts.iter().enumerate() {
        let prefixes: &[(&str, &str)] = match (model.texts.len(), at) {
            (1, _) => &[("lora_te_", "text_encoder.")],
            (_, 0) => &[("lora_te1_", "text_encoder.")],
            _ => &[("lora_te2_", "text_encoder_2.")],
        };
        for (name, _) in text.weights.iter().filter(|(_, tensor)| tensor.shape.len() == 2) {
            let Some(layer) = name.strip_suffix(".weight") else { continue };
            for (kohya, diffusers) in prefixes {
                let target = (Part::Text(at), name.to_owned());
                names.insert(format!("{kohya}{}", layer.replace('.', "_")), target.clone());
                names.insert(format!("{diffusers}{layer}"), target);
            }
        }
    }
    names
}

fn merge_one(weights: &mut Weights, name: &str, pair: Pair, weight: f32) -> Result<(), String> {
    let (Some(down), Some(up)) = (pair.down, pair.up) else { return Err("has half a pair".to_owned()) };
    let base = weights.get(name).ok_or("is missing")?;
    let (rank, outputs) = (down.shape.first().copied().unwrap_or(0), base.shape[0]);
    let inputs: usize = base.shape.iter().skip(1).product();
    let fits = rank > 0
        && up.shape.iter().product::<usize>() == outputs * rank
        && up.shape.first() == Some(&outputs)
        && down.shape.iter().product::<usize>() == rank * inputs;
    if !fits {
        return Err(format!("is {:?}; {:?} and {:?} do not make that", base.shape, up.shape, down.shape));
    }
    let scale = weight * pair.alpha.unwrap_or(rank as f32) / rank as f32;
    let (up, down) = (up.to_f32(), down.to_f32());
    if !scale.is_finite() || up.iter().chain(&down).any(|value| !value.is_finite()) {
        return Err("holds NaN or infinity".to_owned());
    }
    let product = Matrix::from_vec(up, (outputs, rank), &Device::Cpu)
        .and_then(|up| {
            up.matmul(&Matrix::from_vec(down, (rank, inputs), &Device::Cpu)?)?.flatten_all()?.to_vec1::<f32>()
        })
        .map_err(|error| error.to_string())?;
    let mut merged = base.to_f32();
    merged.iter_mut().zip(product).for_each(|(value, more)| *value += scale * more);
    let merged = Tensor::stored_as(base.stored, &base.shape, &merged);
    weights.put(name, merged);
    Ok(())
}
