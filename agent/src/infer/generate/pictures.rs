//! Between pictures of 8 bits, values from −1 to 1, and latents.

use std::path::Path;

use image::imageops::{self, FilterType};
use image::{GrayImage, RgbImage};

use crate::frames::{Rgb, image as files};
use crate::infer::Failure;

/// Red, green and blue of each latent channel, roughly, for previews: fitted by users of Stable Diffusion 1 and 2, and
/// of SDXL.
const SD_RGB: [[f32; 3]; 4] =
    [[0.298, 0.207, 0.208], [0.187, 0.286, 0.173], [-0.158, 0.189, 0.264], [-0.184, -0.271, -0.473]];
const XL_RGB: [[f32; 3]; 4] =
    [[0.365, 0.423, 0.434], [-0.253, -0.004, 0.107], [0.108, 0.111, -0.036], [-0.317, -0.249, -0.219]];
/// Pixels of a preview for one latent.
const PREVIEW_SCALE: u32 = 4;

/// Height and width.
pub(super) type Size = [usize; 2];

fn side(pixels: usize) -> u32 {
    u32::try_from(pixels).unwrap_or(u32::MAX)
}

/// The picture at `path`, brought to `size` where that is given, as `[h, w, 3]` from −1 to 1.
pub(super) fn read(path: &Path, size: impl Fn(Size) -> Result<Size, Failure>) -> Result<(Vec<f32>, Size), Failure> {
    let still = files::decode(path, 1)?.colour;
    let wanted = size([still.height, still.width])?;
    let [height, width] = wanted;
    let data = if wanted == [still.height, still.width] {
        still.data
    } else {
        let from = RgbImage::from_raw(side(still.width), side(still.height), still.data)
            .ok_or_else(|| Failure::permanent("the picture is not as large as it says"))?;
        imageops::resize(&from, side(width), side(height), FilterType::Lanczos3).into_raw()
    };
    Ok((data.into_iter().map(|value| f32::from(value) / 127.5 - 1.0).collect(), wanted))
}

/// The mask at `path` in the picture's size: true where it is painted anew, the brighter half.
pub(super) fn read_mask(path: &Path, [height, width]: Size) -> Result<Vec<bool>, Failure> {
    let still = files::decode(path, 1)?.colour;
    let luma = |pixel: &[u8]| {
        let [r, g, b] = [0, 1, 2].map(|i| f32::from(pixel[i]));
        (0.299 * r + 0.587 * g + 0.114 * b).round() as u8
    };
    let grey: Vec<u8> = still.data.chunks_exact(3).map(luma).collect();
    let mut mask = GrayImage::from_raw(side(still.width), side(still.height), grey)
        .ok_or_else(|| Failure::permanent("the mask is not as large as it says"))?;
    if mask.dimensions() != (side(width), side(height)) {
        mask = imageops::resize(&mask, side(width), side(height), FilterType::Nearest);
    }
    Ok(mask.into_raw().into_iter().map(|value| value > 127).collect())
}

/// One value of the mask for each latent: that of its first pixel.
pub(super) fn shrink_mask(mask: &[bool], [height, width]: Size, factor: usize) -> Vec<f32> {
    let rows = (0..height / factor).map(|y| y * factor * width);
    rows.flat_map(|row| (0..width / factor).map(move |x| row + x * factor)).map(|at| f32::from(mask[at])).collect()
}

/// What is left of the picture under a mask.
pub(super) fn masked(picture: &[f32], mask: &[bool]) -> Vec<f32> {
    let pixels = picture.chunks_exact(3).zip(mask);
    pixels.flat_map(|(pixel, hidden)| if *hidden { [0.0; 3] } else { [pixel[0], pixel[1], pixel[2]] }).collect()
}

/// A decoder's values as a picture.
pub(super) fn to_rgb(values: &[f32], [height, width]: Size) -> Rgb {
    let data = values.iter().map(|value| ((value / 2.0 + 0.5).clamp(0.0, 1.0) * 255.0).round() as u8).collect();
    Rgb { width, height, data }
}

/// A small picture of what the latents will be. `None` for latents of another kind than the known ones.
pub(super) fn preview(latents: &[f32], [height, width]: Size, scale: f32, xl: bool) -> Option<Rgb> {
    let table = if xl { XL_RGB } else { SD_RGB };
    if latents.len() != height * width * table.len() {
        return None;
    }
    let colour = |latent: &[f32]| {
        [0, 1, 2].map(|i| {
            let value: f32 = latent.iter().zip(&table).map(|(latent, row)| latent * scale * row[i]).sum();
            ((value / 2.0 + 0.5).clamp(0.0, 1.0) * 255.0).round() as u8
        })
    };
    let small = latents.chunks_exact(table.len()).flat_map(colour).collect();
    let small = RgbImage::from_raw(side(width), side(height), small)?;
    let (w, h) = (side(width) * PREVIEW_SCALE, side(height) * PREVIEW_SCALE);
    let data = imageops::resize(&small, w, h, FilterType::Triangle).into_raw();
    Some(Rgb { width: w as usize, height: h as usize, data })
}
