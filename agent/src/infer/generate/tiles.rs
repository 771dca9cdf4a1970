//! Decoding latents in tiles, where the whole takes more memory than there is.
//!
//! Tiles overlap, and each counts less towards its edges, so that no seam shows. The decoder's norms see a tile instead of the
//! whole, so colours may differ slightly from those of a picture that was decoded at once.

/// Side of a tile in latents.
pub(super) const TILE: usize = 64;
/// Latents that neighbours share.
const OVERLAP: usize = 16;

/// Where tiles begin along a side of `length` latents.
fn starts(length: usize) -> Vec<usize> {
    let last = length.saturating_sub(TILE);
    let mut starts: Vec<usize> = (0..last).step_by(TILE - OVERLAP).collect();
    starts.push(last);
    starts
}

/// How much a pixel of a tile counts: all in the middle, less towards an edge that has a neighbour.
fn share(at: usize, length: usize, overlap: usize, [before, after]: [bool; 2]) -> f32 {
    let ramp = |distance: usize| ((distance as f32 + 0.5) / overlap as f32).min(1.0);
    let first = if before { ramp(at) } else { 1.0 };
    let second = if after { ramp(length - 1 - at) } else { 1.0 };
    first * second
}

/// The picture `[factor·h, factor·w, colours]` of latents `[h, w, c]`; `decode` makes that of a tile. What has several frames has
/// those of a place one behind the other, as `c` latents and as `colours`.
pub(super) fn decode<E>(
    latents: &[f32],
    [h, w]: [usize; 2],
    factor: usize,
    colours: usize,
    mut decode: impl FnMut(&[f32], [usize; 2]) -> Result<Vec<f32>, E>,
) -> Result<Vec<f32>, E> {
    let channels = latents.len() / (h * w);
    let (tile_h, tile_w) = (h.min(TILE), w.min(TILE));
    let (rows, columns) = (tile_h * factor, tile_w * factor);
    let mut picture = vec![0.0_f32; h * w * factor * factor * colours];
    let mut counted = vec![0.0_f32; h * w * factor * factor];
    for y in starts(h) {
        for x in starts(w) {
            let row = |at: usize| &latents[((y + at) * w + x) * channels..][..tile_w * channels];
            let tile: Vec<f32> = (0..tile_h).flat_map(row).copied().collect();
            let made = decode(&tile, [tile_h, tile_w])?;
            let neighbours_y = [y > 0, y + tile_h < h];
            let neighbours_x = [x > 0, x + tile_w < w];
            for (at, pixel) in made.chunks_exact(colours).enumerate() {
                let (dy, dx) = (at / columns, at % columns);
                let overlap = OVERLAP * factor;
                let share = share(dy, rows, overlap, neighbours_y) * share(dx, columns, overlap, neighbours_x);
                let to = (y * factor + dy) * w * factor + x * factor + dx;
                counted[to] += share;
                picture[to * colours..][..colours].iter_mut().zip(pixel).for_each(|(to, value)| *to += share * value);
            }
        }
    }
    for (pixel, counted) in picture.chunks_exact_mut(colours).zip(counted) {
        pixel.iter_mut().for_each(|value| *value /= counted);
    }
    Ok(picture)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A decoder that knows no surroundings: three channels of each latent, repeated.
    fn repeat(latents: &[f32], [h, w]: [usize; 2]) -> Result<Vec<f32>, ()> {
        let at = |y: usize, x: usize| latents[(y / 2 * w + x / 2) * 4..][..3].to_vec();
        Ok((0..2 * h).flat_map(|y| (0..2 * w).flat_map(move |x| at(y, x))).collect())
    }

    #[test]
    fn tiles_of_a_decoder_that_sees_single_latents_are_the_whole() {
        for size in [[64, 64], [65, 70], [200, 64], [40, 150]] {
            let latents: Vec<f32> = (0..size[0] * size[1] * 4).map(|i| (i as f32 * 0.37).sin()).collect();
            let mut tiles = 0;
            let made = decode(&latents, size, 2, 3, |tile, of| {
                tiles += 1;
                assert!(of[0] <= TILE && of[1] <= TILE);
                repeat(tile, of)
            });
            let whole = repeat(&latents, size).unwrap();
            let made = made.unwrap();
            let off = made.iter().zip(&whole).map(|(a, b)| (a - b).abs()).fold(0.0_f32, f32::max);
            assert!(off < 1e-5 && made.len() == whole.len(), "{size:?}: {off}");
            assert_eq!(tiles, starts(size[0]).len() * starts(size[1]).len());
        }
    }

    #[test]
    fn a_step_between_two_tiles_becomes_a_slope() {
        // A decoder that answers with the number of its tile: the worst that norms can do.
        let latents = vec![0.0; 64 * 112 * 4];
        let mut number = 0.0;
        let made: Result<Vec<f32>, ()> = decode(&latents, [64, 112], 1, 3, |_, of| {
            number += 1.0;
            Ok(vec![number; of[0] * of[1] * 3])
        });
        let row: Vec<f32> = made.unwrap()[..112 * 3].chunks_exact(3).map(|pixel| pixel[0]).collect();
        let steepest = row.windows(2).map(|pair| (pair[1] - pair[0]).abs()).fold(0.0, f32::max);
        assert!(row[0] == 1.0 && row[111] == 2.0 && steepest < 0.1, "{steepest}");
    }
}
