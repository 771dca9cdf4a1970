//! Two pictures: one laid over the other, and how they differ.

use std::sync::Arc;

use rayon::prelude::*;

use super::{Frame, SIDE_MAX};

/// A picture that is laid over each frame.
#[derive(Clone, Debug)]
pub struct Over {
    pub picture: Arc<Frame>,
    /// Where its upper left corner lies; parts outside of the frame are lost.
    pub left: i32,
    pub top: i32,
    /// 0 to 1.
    pub opacity: f32,
}

/// How far each frame is from a picture of its size.
#[derive(Clone, Debug)]
pub struct Difference {
    pub picture: Arc<Frame>,
    /// What the distances are multiplied by, to be seen.
    pub gain: f32,
}

impl Over {
    pub(super) fn problem(&self) -> Option<String> {
        let far = i32::try_from(SIDE_MAX).unwrap_or(i32::MAX);
        if !(0.0..=1.0).contains(&self.opacity) {
            return Some(format!("an opacity of {} is not 0 to 1", self.opacity));
        }
        let near = -far..=far;
        (!near.contains(&self.left) || !near.contains(&self.top))
            .then(|| format!("a place of {}, {} is farther than {SIDE_MAX} pixels", self.left, self.top))
    }

    pub(super) fn apply(&self, frame: &mut Frame) {
        let (width, picture) = (frame.width, &self.picture);
        let inside = |place: usize, start: i32, length: usize| {
            let place = i64::try_from(place).ok()? - i64::from(start);
            usize::try_from(place).ok().filter(|place| *place < length)
        };
        frame.data.par_chunks_mut(width).enumerate().for_each(|(y, row)| {
            let Some(line) = inside(y, self.top, picture.height) else { return };
            for (x, under) in row.iter_mut().enumerate() {
                let Some(column) = inside(x, self.left, picture.width) else { continue };
                *under = over(picture.data[line * picture.width + column], *under, self.opacity);
            }
        });
    }
}

/// Porter and Duff's, for colours that alpha is not multiplied into.
fn over(upper: [f32; 4], under: [f32; 4], opacity: f32) -> [f32; 4] {
    let share = upper[3] * opacity;
    let rest = under[3] * (1.0 - share);
    let alpha = share + rest;
    let by = if alpha > 1e-6 { 1.0 / alpha } else { 0.0 };
    let mix = |c: usize| (upper[c] * share + under[c] * rest) * by;
    [mix(0), mix(1), mix(2), alpha]
}

impl Difference {
    pub(super) fn problem(&self, size: (usize, usize)) -> Option<String> {
        let Frame { width, height, .. } = *self.picture;
        if (width, height) != size {
            return Some(format!("{width} x {height} pixels are compared with {} x {}", size.0, size.1));
        }
        (!(0.0..=1000.0).contains(&self.gain)).then(|| format!("a gain of {} is not 0 to 1000", self.gain))
    }

    pub(super) fn apply(&self, frame: &mut Frame) {
        frame.data.par_iter_mut().zip(&self.picture.data).for_each(|(pixel, other)| {
            let far = |c: usize| (pixel[c] - other[c]).abs() * self.gain;
            *pixel = [far(0), far(1), far(2), 1.0];
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_laid_over_covers_by_its_alpha_and_only_where_it_lies() {
        let red = [1.0, 0.0, 0.0, 0.5];
        let picture = Arc::new(Frame { width: 2, height: 1, data: vec![red; 2] });
        let mut frame = Frame { width: 2, height: 2, data: vec![[0.0, 0.0, 1.0, 1.0]; 4] };
        Over { picture, left: 1, top: 1, opacity: 0.5 }.apply(&mut frame);
        assert_eq!(frame.data[..3], [[0.0, 0.0, 1.0, 1.0]; 3]);
        assert_eq!(frame.data[3], [0.25, 0.0, 0.75, 1.0]);
        assert_eq!(over([1.0, 0.5, 0.0, 1.0], [0.0; 4], 1.0), [1.0, 0.5, 0.0, 1.0]);
        assert_eq!(over([1.0, 0.5, 0.0, 0.0], [0.2, 0.4, 0.6, 0.0], 1.0), [0.0; 4]);
    }

    #[test]
    fn a_picture_does_not_differ_from_itself() {
        let frame = Frame { width: 1, height: 2, data: vec![[0.1, 0.2, 0.3, 0.4], [0.5, 0.6, 0.7, 0.8]] };
        let mut same = frame.clone();
        let difference = Difference { picture: Arc::new(frame), gain: 8.0 };
        difference.apply(&mut same);
        assert_eq!(same.data, [[0.0, 0.0, 0.0, 1.0]; 2]);
        assert!(difference.problem((2, 1)).unwrap().contains("1 x 2 pixels are compared with 2 x 1"));
    }
}
