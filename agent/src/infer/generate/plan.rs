//! What a diffusion model takes of a GPU's memory, shape by shape, planned as a job is planned and without loading it.

use std::collections::BTreeSet;
use std::path::Path;

use backlot_wire::model::VramNeed;

use super::loaded::needed_bytes;
use super::{Failure, SAMPLE_SIZE};
use crate::infer::executor::ExecError;
use crate::infer::models::folder;
use crate::infer::weights::Weights;

/// Sides that studios ask for, beside the one that a model was trained with.
const SIDES: [usize; 4] = [512, 768, 1024, 1536];

/// Needs of squares, in f16 and in f32, of the model at `place`: a folder, or one file with CLIP's words in `clip-tokenizer` beside it.
/// Weights are all that the files have for the model; values are those of a step with one picture, or of decoding one.
///
/// # Errors
/// [`Failure`]: what is wrong with the model.
pub fn vram(place: &Path) -> Result<Vec<VramNeed>, Failure> {
    let model = folder::open(place).map_err(ExecError::from)?;
    let factor = model.vae.factor();
    let multiple = factor * model.unet.side_multiple();
    let trained = (model.unet.sample_size.unwrap_or(SAMPLE_SIZE) * factor).next_multiple_of(multiple);
    let sides: BTreeSet<usize> =
        SIDES.into_iter().filter(|side| side.is_multiple_of(multiple)).chain([trained]).collect();
    let numbers =
        |weights: &Weights| -> usize { weights.iter().map(|(_, tensor)| tensor.shape.iter().product::<usize>()).sum() };
    let others: usize =
        model.texts.iter().map(|text| numbers(&text.weights)).sum::<usize>() + numbers(&model.unet_weights);
    let of_vae = numbers(&model.vae_weights);
    let mut needs = Vec::new();
    for (precision, element) in [("f16", 2), ("f32", size_of::<f32>())] {
        // A VAE that overflows f16 is kept in f32.
        let wide = if model.vae.needs_f32 { size_of::<f32>() } else { element };
        let weights_bytes = (others * element + of_vae * wide) as u64;
        for side in &sides {
            let values_bytes = needed_bytes(&model, [*side; 2], 1, element)? as u64;
            let side = u32::try_from(*side).unwrap_or(u32::MAX);
            let precision = precision.to_owned();
            needs.push(VramNeed { width: side, height: side, weights_bytes, values_bytes, precision });
        }
    }
    Ok(needs)
}
