//! What a diffusion model takes of a GPU's memory, shape by shape, planned as a job is planned and without loading it.

use std::collections::BTreeSet;
use std::path::Path;

use backlot_wire::model::VramNeed;

use super::loaded::needed_bytes;
use super::{Failure, SAMPLE_SIZE, animate};
use crate::infer::executor::ExecError;
use crate::infer::models::{folder, svd};
use crate::infer::weights::Weights;

/// Sides that studios ask for, beside the one that a model was trained with.
const SIDES: [usize; 4] = [512, 768, 1024, 1536];
/// Height and width of clips that they ask for, beside the square that the model's size is said with.
const CLIPS: [[usize; 2]; 3] = [[320, 576], [576, 1024], [1024, 576]];

/// Needs, in f16 and in f32, of the model at `place`: a folder, or one file with CLIP's words in `clip-tokenizer` beside it. Weights
/// are all that the files have for the model. Values are those of a step with one picture, or of decoding one, in squares; of Stable
/// Video Diffusion those of a clip of as many frames as it was trained with.
///
/// # Errors
/// [`Failure`]: what is wrong with the model.
pub fn vram(place: &Path) -> Result<Vec<VramNeed>, Failure> {
    if place.is_dir() && svd::is_one(place) {
        return of_clips(&svd::Model::open(place).map_err(ExecError::from)?);
    }
    let model = folder::open(place).map_err(ExecError::from)?;
    let factor = model.vae.factor();
    let trained = model.unet.sample_size.unwrap_or(SAMPLE_SIZE) * factor;
    let squares = SIDES.map(|side| [side; 2]);
    let sizes = sizes(&squares, trained, factor * model.unet.side_multiple());
    let weights = model.texts.iter().map(|text| &text.weights).chain([&model.unet_weights]);
    let others: usize = weights.map(|weights| numbers(weights, |_| true)).sum();
    let of_vae = numbers(&model.vae_weights, |_| true);
    // A VAE that overflows f16 is kept in f32.
    let [half, wide] = if model.vae.needs_f32 { [others, of_vae] } else { [others + of_vae, 0] };
    needs(&sizes, [half, wide], |size, element| needed_bytes(&model, size, 1, element))
}

fn of_clips(model: &svd::Model) -> Result<Vec<VramNeed>, Failure> {
    let factor = model.vae.factor();
    let trained = model.unet.sample_size.unwrap_or(animate::SAMPLE_SIZE) * factor;
    let sizes = sizes(&CLIPS, trained, factor * model.unet.side_multiple());
    let others = numbers(&model.vision_weights, |_| true) + numbers(&model.unet_weights, |_| true);
    let is_decoder = |name: &str| name.starts_with("decoder.");
    let (decoder, encoder) =
        (numbers(&model.vae_weights, is_decoder), numbers(&model.vae_weights, |name| !is_decoder(name)));
    let [half, wide] = if model.vae.needs_f32 { [decoder, encoder] } else { [decoder + encoder, 0] };
    needs(&sizes, [others + half, wide], |size, element| {
        animate::loaded::needed_bytes(model, size, model.unet.frames, animate::CHUNK, element)
    })
}

/// Numbers in the weights whose names are `wanted`.
fn numbers(weights: &Weights, wanted: impl Fn(&str) -> bool) -> usize {
    let of_part = weights.iter().filter(|(name, _)| wanted(name));
    of_part.map(|(_, tensor)| tensor.shape.iter().product::<usize>()).sum()
}

/// Those of `known` that the model makes, and the square that it was trained with.
fn sizes(known: &[[usize; 2]], trained: usize, multiple: usize) -> BTreeSet<[usize; 2]> {
    let fitting = known.iter().filter(|size| size.iter().all(|side| side.is_multiple_of(multiple)));
    fitting.copied().chain([[trained.next_multiple_of(multiple); 2]]).collect()
}

/// `weights`: how many are kept in the precision that is asked for, and how many in f32 always. `values`: bytes of those of a
/// height and width, of so many bytes each.
fn needs(
    sizes: &BTreeSet<[usize; 2]>,
    [narrow, wide]: [usize; 2],
    values: impl Fn([usize; 2], usize) -> Result<usize, Failure>,
) -> Result<Vec<VramNeed>, Failure> {
    let mut needs = Vec::new();
    for (precision, element) in [("f16", 2), ("f32", size_of::<f32>())] {
        let weights_bytes = (narrow * element + wide * size_of::<f32>()) as u64;
        for size in sizes {
            let values_bytes = values(*size, element)? as u64;
            let [height, width] = size.map(|side| u32::try_from(side).unwrap_or(u32::MAX));
            needs.push(VramNeed { width, height, weights_bytes, values_bytes, precision: precision.to_owned() });
        }
    }
    Ok(needs)
}
