//! The model between two jobs: its programs and its numbers.

use std::sync::atomic::AtomicBool;

use crate::infer::Failure;
use crate::infer::executor::{ExecError, Executor, Input, Program};
use crate::infer::generate::tiles;
use crate::infer::graph::{Element, Graph, Plan, TensorType};
use crate::infer::models::config::Vae;
use crate::infer::models::svd::config::{TIME_IDS, VideoUnet, Vision};
use crate::infer::models::svd::{Model, vision};
use crate::infer::models::vae;
use crate::infer::sampler::Schedule;
use crate::infer::weights::Weights;

const COLOURS: usize = 3;

pub(in crate::infer) struct Loaded {
    /// The model's name.
    pub(super) name: String,
    vision_program: Box<dyn Program>,
    unet_program: Box<dyn Program>,
    decoder: Box<dyn Program>,
    encoder: Box<dyn Program>,
    vision: Vision,
    pub(super) unet: VideoUnet,
    pub(super) vae: Vae,
    pub(super) schedule: Schedule,
    pub(super) executor: &'static str,
}

/// The graphs of a model, as they are run.
struct Graphs {
    vision: Graph,
    unet: Graph,
    decoder: Graph,
    encoder: Graph,
}

impl Graphs {
    fn of(model: &Model) -> Result<Self, Failure> {
        Ok(Self {
            vision: vision::graph(&model.vision).fuse(),
            unet: model.unet_graph().map_err(ExecError::from)?.fuse(),
            decoder: model.decoder_graph().map_err(ExecError::from)?.fuse(),
            encoder: vae::encoder(&model.vae).fuse(),
        })
    }
}

/// What a run takes at its worst with `element` bytes for a value: a step with one clip, encoding its picture, or decoding `chunk`
/// of its frames.
pub(in crate::infer::generate) fn needed_bytes(
    model: &Model,
    [height, width]: [usize; 2],
    frames: usize,
    chunk: usize,
    element: usize,
) -> Result<usize, Failure> {
    let (factor, unet) = (model.vae.factor(), &model.unet);
    let (h, w) = (height / factor, width / factor);
    let of = |shape: &[usize]| TensorType::f32(shape);
    let latents = of(&[frames, h, w, unet.in_channels]);
    let step = [latents, of(&[1]), of(&[1, unet.context]), of(&[TIME_IDS]), of(&[frames]), of(&[1, frames])];
    // What is larger is decoded in tiles.
    let (tile_h, tile_w, chunk) = (h.min(tiles::TILE), w.min(tiles::TILE), chunk.min(frames));
    let decode = [of(&[chunk, tile_h, tile_w, model.vae.latent_channels]), of(&[1, chunk])];
    let encode = [of(&[1, height, width, COLOURS])];
    let graphs = Graphs::of(model)?;
    let mut most = 0;
    for (graph, inputs) in [(&graphs.unet, &step[..]), (&graphs.decoder, &decode), (&graphs.encoder, &encode)] {
        let width = if graph.needs_f32() { size_of::<f32>() } else { element };
        most = most.max(Plan::new(graph, inputs, |_: Element| width).map_err(ExecError::from)?.peak_bytes());
    }
    Ok(most)
}

/// One question to the UNet.
pub(super) struct Question {
    /// `[frames, h, w, in]`
    pub(super) latents: Vec<f32>,
    /// The picture as CLIP sees it, or zeros.
    pub(super) picture: Vec<f32>,
}

/// What all questions of a step have in common.
#[derive(Clone, Copy)]
pub(super) struct Step {
    /// Of the latents.
    pub(super) size: [usize; 2],
    pub(super) frames: usize,
    pub(super) time: f32,
    pub(super) ids: [f32; TIME_IDS],
}

impl Loaded {
    pub(super) fn load(executor: &dyn Executor, model: Model, name: String) -> Result<Self, Failure> {
        let graphs = Graphs::of(&model)?;
        let load = |graph: Graph, weights: &Weights| executor.load(graph, weights);
        Ok(Self {
            name,
            vision_program: load(graphs.vision, &model.vision_weights)?,
            unet_program: load(graphs.unet, &model.unet_weights)?,
            decoder: load(graphs.decoder, &model.vae_weights)?,
            encoder: load(graphs.encoder, &model.vae_weights)?,
            vision: model.vision,
            unet: model.unet,
            vae: model.vae,
            schedule: model.schedule,
            executor: executor.name(),
        })
    }

    /// What CLIP sees in a picture of any size, with values from −1 to 1.
    pub(super) fn see(&mut self, picture: &[f32], size: [usize; 2], cancel: &AtomicBool) -> Result<Vec<f32>, Failure> {
        let side = self.vision.side;
        let patches = vision::patches(&self.vision, &vision::resized(picture, size, [side; 2]));
        let count = self.vision.patches();
        let places: Vec<f32> = (0..=count).map(|place| place as f32).collect();
        let (shape, places_shape) = ([1, count, patches.len() / count], [1, count + 1]);
        let inputs = [
            Input { shape: &shape, data: &patches },
            Input { shape: &[1, 1], data: &[0.0] },
            Input { shape: &places_shape, data: &places },
        ];
        let made = self.vision_program.run(&inputs, cancel, &mut |_, _| {})?;
        Ok(made[0].data.to_vec())
    }

    /// The mean of the latents of a picture `[h, w, 3]`. The UNet was trained with them as they are, not scaled.
    pub(super) fn encode(
        &mut self,
        picture: &[f32],
        [height, width]: [usize; 2],
        cancel: &AtomicBool,
    ) -> Result<Vec<f32>, Failure> {
        let shape = [1, height, width, COLOURS];
        let made = self.encoder.run(&[Input { shape: &shape, data: picture }], cancel, &mut |_, _| {})?;
        let channels = self.vae.latent_channels;
        Ok(made[0].data.chunks_exact(2 * channels).flat_map(|both| &both[..channels]).copied().collect())
    }

    /// The UNet's answers, one after the other. What takes more memory together than there is goes one by one.
    pub(super) fn predict(
        &mut self,
        questions: &[Question],
        step: Step,
        cancel: &AtomicBool,
    ) -> Result<Vec<f32>, Failure> {
        match self.predict_part(questions, step, cancel) {
            Err(ExecError::Memory { .. }) if questions.len() > 1 => {
                let mut made = Vec::new();
                for one in questions {
                    made.append(&mut self.predict_part(std::slice::from_ref(one), step, cancel)?);
                }
                Ok(made)
            }
            made => Ok(made?),
        }
    }

    fn predict_part(
        &mut self,
        questions: &[Question],
        Step { size: [h, w], frames, time, ids }: Step,
        cancel: &AtomicBool,
    ) -> Result<Vec<f32>, ExecError> {
        let clips = questions.len();
        let latents: Vec<f32> = questions.iter().flat_map(|one| &one.latents).copied().collect();
        let pictures: Vec<f32> = questions.iter().flat_map(|one| &one.picture).copied().collect();
        let numbers: Vec<f32> = (0..clips).flat_map(|_| (0..frames).map(|frame| frame as f32)).collect();
        let (latents_shape, pictures_shape) =
            ([clips * frames, h, w, self.unet.in_channels], [clips, self.unet.context]);
        let inputs = [
            Input { shape: &latents_shape, data: &latents },
            Input { shape: &[clips], data: &vec![time; clips] },
            Input { shape: &pictures_shape, data: &pictures },
            Input { shape: &[clips * TIME_IDS], data: &ids.repeat(clips) },
            Input { shape: &[clips * frames], data: &numbers },
            Input { shape: &[clips, frames], data: &numbers },
        ];
        let outputs = self.unet_program.run(&inputs, cancel, &mut |_, _| {})?;
        Ok(outputs[0].data.to_vec())
    }

    /// The frames of latents `[frames, h, w, c]` as the sampler has them, from −1 to 1; in tiles where the whole takes too much.
    pub(super) fn decode(
        &mut self,
        latents: &[f32],
        [h, w]: [usize; 2],
        cancel: &AtomicBool,
    ) -> Result<Vec<f32>, Failure> {
        let scaled: Vec<f32> = latents.iter().map(|value| value / self.vae.scaling).collect();
        let (channels, factor) = (self.vae.latent_channels, self.vae.factor());
        let frames = latents.len() / (h * w * channels);
        let numbers = vec![0.0; frames];
        let mut whole = |values: &[f32], [h, w]: [usize; 2]| -> Result<Vec<f32>, ExecError> {
            let shape = [frames, h, w, channels];
            let inputs = [Input { shape: &shape, data: values }, Input { shape: &[1, frames], data: &numbers }];
            let outputs = self.decoder.run(&inputs, cancel, &mut |_, _| {})?;
            Ok(outputs[0].data.to_vec())
        };
        let made = match whole(&scaled, [h, w]) {
            Err(ExecError::Memory { .. }) if h.max(w) > tiles::TILE => {
                // To the tiles the frames of a place are its values.
                let turned = turned(&scaled, [frames, h * w, channels]);
                let made = tiles::decode(&turned, [h, w], factor, frames * COLOURS, |tile, [h, w]| {
                    let frames_of_tile = whole(&self::turned(tile, [h * w, frames, channels]), [h, w])?;
                    Ok::<_, ExecError>(self::turned(&frames_of_tile, [frames, h * w * factor * factor, COLOURS]))
                })?;
                self::turned(&made, [h * w * factor * factor, frames, COLOURS])
            }
            made => made?,
        };
        match made.iter().find(|value| !value.is_finite()) {
            Some(wrong) => Err(Failure::permanent(format!(
                "decoding made {wrong}: the VAE's values are more than f16 holds; `precision = \"f32\"` takes it"
            ))),
            None => Ok(made),
        }
    }
}

/// `[a, b, c]` as `[b, a, c]`.
fn turned(values: &[f32], [a, b, c]: [usize; 3]) -> Vec<f32> {
    let rows = (0..b).flat_map(|b_at| (0..a).map(move |a_at| (a_at * b + b_at) * c));
    rows.flat_map(|row| &values[row..row + c]).copied().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_become_values_of_their_places_and_frames_again() {
        let values: Vec<f32> = (0..24).map(|at| at as f32).collect();
        let made = turned(&values, [3, 4, 2]);
        assert_eq!(made[..8], [0.0, 1.0, 8.0, 9.0, 16.0, 17.0, 2.0, 3.0]);
        assert_eq!(turned(&made, [4, 3, 2]), values);
    }
}
