//! Textual inversion: words that a file adds to a model's vocabulary, each with a few rows of its embedding.

use std::path::Path;

use super::config;
use super::folder::{self, Model, Text};
use super::tokenizer::Added;
use crate::infer::weights::{Tensor, WeightError};

/// Most rows that one word has.
const ROWS_MAX: usize = 77;
const EMBEDDING: &str = "text_model.embeddings.token_embedding.weight";

/// Adds the word `<name>`, and `name` itself where it has a sign that no plain word has, from the file.
///
/// The file holds `[rows, features]` for each encoder: `emb_params` or one tensor of any name for a single encoder,
/// `clip_l` and `clip_g` for SDXL's two.
///
/// # Errors
/// [`WeightError`]: the file is missing, damaged or made for another model.
pub fn add(file: &Path, name: &str, model: &mut Model) -> Result<(), WeightError> {
    let wrong = |problem: String| config::wrong(file, problem);
    let weights = folder::read(file)?;
    let names: &[&str] = if model.texts.len() > 1 { &["clip_l", "clip_g"] } else { &["emb_params"] };
    for (text, tensor_name) in model.texts.iter_mut().zip(names) {
        let only = (weights.len() == 1).then(|| weights.iter().next().map(|(_, tensor)| tensor)).flatten();
        let tensor = weights.get(tensor_name).or(if names.len() == 1 { only } else { None });
        let tensor = tensor.ok_or_else(|| wrong(format!("has no `{tensor_name}`")))?;
        add_rows(text, name, tensor).map_err(wrong)?;
    }
    Ok(())
}

fn add_rows(text: &mut Text, name: &str, rows: &Tensor) -> Result<(), String> {
    let width = text.config.width;
    let count = match *rows.shape.as_slice() {
        [features] if features == width => 1,
        [count, features] if features == width && (1..=ROWS_MAX).contains(&count) => count,
        _ => return Err(format!("has shape {:?}; this encoder takes up to {ROWS_MAX} rows of {width}", rows.shape)),
    };
    let base = text.weights.get(EMBEDDING).ok_or("the encoder has no embedding")?;
    if base.shape != [text.config.words, width] {
        return Err(format!("the encoder's embedding has shape {:?}", base.shape));
    }
    let rows = rows.to_f32();
    if rows.iter().any(|value| !value.is_finite()) {
        return Err("holds NaN or infinity".to_owned());
    }
    let all = [base.to_f32(), rows].concat();
    let first = text.config.words;
    let number = |row: usize| u32::try_from(first + row).map_err(|_| "has too many words".to_owned());
    let ids: Vec<u32> = (0..count).map(number).collect::<Result<_, _>>()?;
    let grown = Tensor::stored_as(base.stored, &[first + count, width], &all);
    text.weights.put(EMBEDDING, grown);
    text.config.words = first + count;
    for word in [format!("<{name}>"), name.to_owned()] {
        if !word.chars().all(char::is_alphanumeric) {
            text.tokenizer.add(Added { word, ids: ids.clone() });
        }
    }
    Ok(())
}
