//! Upscales a picture tile by tile, so that its size is bounded by patience and not by memory.
//!
//! Each tile is computed together with `overlap` pixels of what surrounds it, and only its own part is kept. With an
//! overlap as wide as the network's field of view the seams vanish altogether; with a narrower one they are as faint
//! as the network's far sight is weak. At the picture's edges there is nothing to overlap, and the network sees the
//! edge as it would in the whole.

use std::sync::atomic::AtomicBool;

use super::Rgb;
use crate::infer::executor::{ExecError, Input, Program};
use crate::infer::graph::TensorType;

/// A side of a tile's own part is never cut below this.
const CORE_MIN: usize = 16;

/// A rectangle in pixels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rect {
    pub left: usize,
    pub top: usize,
    pub width: usize,
    pub height: usize,
}

/// A tile's own part, and that part with its surroundings.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tile {
    pub core: Rect,
    pub around: Rect,
}

/// Cuts a picture into tiles whose own parts cover it exactly once and are about equal. No side of a tile with its
/// surroundings is longer than `side_max`, if that leaves anything at all.
#[must_use]
pub fn cut(width: usize, height: usize, side_max: usize, overlap: usize) -> Vec<Tile> {
    let spans = |length: usize| -> Vec<(usize, usize, usize, usize)> {
        let core_max = if length <= side_max { length } else { side_max.saturating_sub(2 * overlap).max(CORE_MIN) };
        let count = length.div_ceil(core_max.max(1));
        (0..count)
            .map(|i| {
                let (from, to) = (i * length / count, (i + 1) * length / count);
                (from, to, from.saturating_sub(overlap), (to + overlap).min(length))
            })
            .collect()
    };
    let columns = spans(width);
    let rect = |x: (usize, usize), y: (usize, usize)| Rect { left: x.0, top: y.0, width: x.1 - x.0, height: y.1 - y.0 };
    spans(height)
        .into_iter()
        .flat_map(|(top, bottom, above, below)| {
            columns.iter().map(move |&(left, right, before, after)| Tile {
                core: rect((left, right), (top, bottom)),
                around: rect((before, after), (above, below)),
            })
        })
        .collect()
}

/// Upscales pictures with one loaded network.
pub struct Upscaler<'a> {
    pub program: &'a mut dyn Program,
    pub scale: usize,
    pub overlap: usize,
    /// The longest side of a tile with its surroundings.
    pub side_max: usize,
    /// The last tile's input.
    buffer: Vec<f32>,
}

impl<'a> Upscaler<'a> {
    /// Finds the largest square tile whose values fit in `arena_bytes_max`.
    ///
    /// # Errors
    /// [`ExecError::Memory`] when not even the smallest tile does.
    pub fn new(
        program: &'a mut dyn Program,
        scale: usize,
        overlap: usize,
        arena_bytes_max: usize,
    ) -> Result<Self, ExecError> {
        let fits = |side: usize| {
            let needed_bytes = program.check(&[TensorType::f32(&[1, side, side, 3])])?.peak_bytes();
            if needed_bytes > arena_bytes_max {
                return Err(ExecError::Memory { needed_bytes, allowed_bytes: arena_bytes_max });
            }
            Ok(())
        };
        let least = 2 * overlap + CORE_MIN;
        let mut side_max = least;
        fits(least)?;
        // The bytes grow with the square of the side: one step lands near, small ones end there.
        let mut step = least.next_power_of_two() * 64;
        while step >= 8 {
            match fits(side_max + step) {
                Ok(()) => side_max += step,
                Err(ExecError::Memory { .. }) => step /= 2,
                Err(other) => return Err(other),
            }
        }
        Ok(Self { program, scale, overlap, side_max, buffer: Vec::new() })
    }

    /// Upscales `from` into `to`, which becomes `scale` times as large. `progress` hears a share from 0 to 1.
    ///
    /// # Errors
    /// [`ExecError`], [`ExecError::Cancelled`] among them.
    pub fn run(
        &mut self,
        from: &Rgb,
        to: &mut Rgb,
        cancel: &AtomicBool,
        progress: &mut dyn FnMut(f32),
    ) -> Result<(), ExecError> {
        (to.width, to.height) = (from.width * self.scale, from.height * self.scale);
        to.data.resize(to.width * to.height * 3, 0);
        let tiles = self.tiles(from.width, from.height);
        let (scale, count) = (self.scale, tiles.len());
        for (done, Tile { core, around }) in tiles.into_iter().enumerate() {
            self.buffer.clear();
            for y in around.top..around.top + around.height {
                let row = &from.data[(y * from.width + around.left) * 3..][..around.width * 3];
                self.buffer.extend(row.iter().map(|value| f32::from(*value) / 255.0));
            }
            let shape = [1, around.height, around.width, 3];
            let input = [Input { shape: &shape, data: &self.buffer }];
            let made = self.program.run(&input, cancel, &mut |node, nodes| {
                progress((done as f32 + node as f32 / nodes as f32) / count as f32);
            })?;
            let pitch = around.width * scale * 3;
            for y in 0..core.height * scale {
                let row = (core.top - around.top) * scale + y;
                let row =
                    &made[0].data[row * pitch + (core.left - around.left) * scale * 3..][..core.width * scale * 3];
                let at = ((core.top * scale + y) * to.width + core.left * scale) * 3;
                for (to, value) in to.data[at..].iter_mut().zip(row) {
                    #[allow(
                        clippy::cast_possible_truncation,
                        clippy::cast_sign_loss,
                        reason = "clamped; NaN becomes 0"
                    )]
                    let byte = (value.clamp(0.0, 1.0) * 255.0 + 0.5) as u8;
                    *to = byte;
                }
            }
        }
        Ok(())
    }

    /// The tiles of a picture of this size.
    #[must_use]
    pub fn tiles(&self, width: usize, height: usize) -> Vec<Tile> {
        cut(width, height, self.side_max, self.overlap)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn own_parts_cover_the_picture_once_and_surroundings_stay_in_bounds(
            width in 1usize..300, height in 1usize..300, side_max in 40usize..200, overlap in 0usize..20,
        ) {
            let mut seen = vec![0_u8; width * height];
            for Tile { core, around } in cut(width, height, side_max, overlap) {
                prop_assert!(around.width <= side_max.max(CORE_MIN + 2 * overlap));
                prop_assert!(around.height <= side_max.max(CORE_MIN + 2 * overlap));
                prop_assert!(around.left + around.width <= width && around.top + around.height <= height);
                prop_assert!(around.left == core.left.saturating_sub(overlap));
                prop_assert!(around.left + around.width == (core.left + core.width + overlap).min(width));
                for y in core.top..core.top + core.height {
                    for x in core.left..core.left + core.width {
                        seen[y * width + x] += 1;
                    }
                }
            }
            prop_assert!(seen.iter().all(|times| *times == 1));
        }
    }
}
