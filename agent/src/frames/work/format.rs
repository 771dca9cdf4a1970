//! How a frame lies in bytes: RGBA, or planes of Y, U and V; from there to f32 and back.
//!
//! YUV is what BT.601, BT.709 and BT.2020 (not constant luminance) say, in limited or full range, 8 or 10 bits. Colour of
//! half resolution is sited as in MPEG-2: with the left of two columns, between two rows. It is interpolated linearly when
//! read, and averaged with weights of 1, 2, 1 across and 1, 1 down when written.

use rayon::prelude::*;

use super::Frame;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Matrix {
    Bt601,
    Bt709,
    Bt2020,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Range {
    Limited,
    Full,
}

/// Pixels that share a colour.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sampling {
    Yuv420,
    Yuv422,
    Yuv444,
}

/// Bits of a sample; more than eight lie in two bytes, the lower first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Depth {
    Eight,
    Ten,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Layout {
    /// One byte a channel.
    Rgba8,
    /// Two bytes a channel, the lower first.
    Rgba16,
    Yuv {
        matrix: Matrix,
        range: Range,
        sampling: Sampling,
        depth: Depth,
    },
}

/// The bytes of one frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Format {
    pub width: usize,
    pub height: usize,
    pub layout: Layout,
}

/// The numbers between samples and RGB.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Numbers {
    pub(super) red: f32,
    pub(super) blue: f32,
    /// Sample of black, and from black to white.
    pub(super) black: f32,
    pub(super) luma: f32,
    /// Sample of no colour, and the samples of one unit of it.
    pub(super) middle: f32,
    pub(super) chroma: f32,
    pub(super) most: f32,
}

impl Matrix {
    /// Shares of red and blue in the luma.
    fn shares(self) -> (f32, f32) {
        match self {
            Self::Bt601 => (0.299, 0.114),
            Self::Bt709 => (0.2126, 0.0722),
            Self::Bt2020 => (0.2627, 0.0593),
        }
    }
}

impl Sampling {
    /// Shifts of columns and rows.
    pub(super) fn shifts(self) -> (usize, usize) {
        match self {
            Self::Yuv420 => (1, 1),
            Self::Yuv422 => (1, 0),
            Self::Yuv444 => (0, 0),
        }
    }
}

pub(super) fn numbers(matrix: Matrix, range: Range, depth: Depth) -> Numbers {
    let (red, blue) = matrix.shares();
    let (unit, most) = if depth == Depth::Eight { (1.0, 255.0) } else { (4.0, 1023.0) };
    let (black, luma, chroma) = match range {
        Range::Limited => (16.0 * unit, 219.0 * unit, 224.0 * unit),
        Range::Full => (0.0, most, most),
    };
    Numbers { red, blue, black, luma, middle: 128.0 * unit, chroma, most }
}

impl Format {
    #[must_use]
    pub fn rgba8(width: usize, height: usize) -> Self {
        Self { width, height, layout: Layout::Rgba8 }
    }

    /// Sides of a colour plane.
    pub(super) fn chroma_size(&self) -> (usize, usize) {
        match self.layout {
            Layout::Yuv { sampling, .. } => {
                let (x, y) = sampling.shifts();
                ((self.width + x) >> x, (self.height + y) >> y)
            }
            _ => (0, 0),
        }
    }

    /// Bytes of a sample.
    pub(super) fn width_bytes(&self) -> usize {
        match self.layout {
            Layout::Rgba8 | Layout::Yuv { depth: Depth::Eight, .. } => 1,
            Layout::Rgba16 | Layout::Yuv { depth: Depth::Ten, .. } => 2,
        }
    }

    /// Samples of a frame.
    pub(super) fn samples(&self) -> usize {
        let (width, height) = self.chroma_size();
        match self.layout {
            Layout::Yuv { .. } => self.width * self.height + 2 * width * height,
            _ => self.width * self.height * 4,
        }
    }

    /// Bytes of a frame.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.samples() * self.width_bytes()
    }

    pub(super) fn read(&self, bytes: &[u8]) -> Frame {
        let wide = self.width_bytes() == 2;
        let sample = |at: usize| {
            if wide { f32::from(u16::from_le_bytes([bytes[at * 2], bytes[at * 2 + 1]])) } else { f32::from(bytes[at]) }
        };
        let mut data = vec![[0.0; 4]; self.width * self.height];
        match self.layout {
            Layout::Rgba8 | Layout::Rgba16 => {
                let most = if wide { 65_535.0 } else { 255.0 };
                data.par_iter_mut().enumerate().for_each(|(at, pixel)| {
                    *pixel = std::array::from_fn(|c| sample(at * 4 + c) / most);
                });
            }
            Layout::Yuv { matrix, range, sampling, depth } => {
                let n = numbers(matrix, range, depth);
                let (shift_x, shift_y) = sampling.shifts();
                let (across, down) = self.chroma_size();
                let planes = [self.width * self.height, self.width * self.height + across * down];
                data.par_chunks_mut(self.width).enumerate().for_each(|(y, row)| {
                    let (above, below, of_below) = between(y, shift_y, down, true);
                    for (x, pixel) in row.iter_mut().enumerate() {
                        let (left, right, of_right) = between(x, shift_x, across, false);
                        let colour = planes.map(|plane| {
                            let line = |row: usize| {
                                let at = plane + row * across;
                                sample(at + left) * (1.0 - of_right) + sample(at + right) * of_right
                            };
                            (line(above) * (1.0 - of_below) + line(below) * of_below - n.middle) / n.chroma
                        });
                        let luma = (sample(y * self.width + x) - n.black) / n.luma;
                        let red = luma + 2.0 * (1.0 - n.red) * colour[1];
                        let blue = luma + 2.0 * (1.0 - n.blue) * colour[0];
                        let green = (luma - n.red * red - n.blue * blue) / (1.0 - n.red - n.blue);
                        *pixel = [red, green, blue, 1.0];
                    }
                });
            }
        }
        Frame { width: self.width, height: self.height, data }
    }

    /// Values below 0 and above 1 become those.
    #[allow(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "clamped to the sample's range; NaN is 0"
    )]
    pub(super) fn write(&self, frame: &Frame, to: &mut Vec<u8>) {
        to.clear();
        to.resize(self.bytes(), 0);
        let wide = self.width_bytes() == 2;
        let at = |x: usize, y: usize| {
            let pixel = frame.data[y.min(frame.height - 1) * frame.width + x.min(frame.width - 1)];
            pixel.map(|value| value.clamp(0.0, 1.0))
        };
        let code = |value: f32, most: f32| ((value + 0.5).floor().clamp(0.0, most)) as u16;
        let value: Box<dyn Fn(usize) -> u16 + Sync> = match self.layout {
            Layout::Rgba8 | Layout::Rgba16 => {
                let most = if wide { 65_535.0 } else { 255.0 };
                Box::new(move |sample| {
                    let pixel = at(sample / 4 % self.width, sample / 4 / self.width);
                    code(pixel[sample % 4] * most, most)
                })
            }
            Layout::Yuv { matrix, range, sampling, depth } => {
                let n = numbers(matrix, range, depth);
                let (shift_x, shift_y) = sampling.shifts();
                let (across, down) = self.chroma_size();
                let luma = move |[r, g, b, _]: [f32; 4]| n.red * r + (1.0 - n.red - n.blue) * g + n.blue * b;
                Box::new(move |sample| {
                    let Some(colour) = sample.checked_sub(self.width * self.height) else {
                        let made = luma(at(sample % self.width, sample / self.width));
                        return code(made * n.luma + n.black, n.most);
                    };
                    let (plane, place) = (colour / (across * down), colour % (across * down));
                    let (x, y) = ((place % across) << shift_x, (place / across) << shift_y);
                    let mut sum = [0.0; 4];
                    for row in 0..=shift_y {
                        for (column, weight) in [(x.saturating_sub(shift_x), 0.25), (x, 0.5), (x + shift_x, 0.25)] {
                            let pixel = at(column, y + row);
                            let weight = if shift_y == 1 { weight * 0.5 } else { weight };
                            sum = std::array::from_fn(|c| sum[c] + weight * pixel[c]);
                        }
                    }
                    let (channel, share) = if plane == 0 { (sum[2], n.blue) } else { (sum[0], n.red) };
                    code((channel - luma(sum)) / (2.0 * (1.0 - share)) * n.chroma + n.middle, n.most)
                })
            }
        };
        let chunk = 4096;
        to.par_chunks_mut(chunk).enumerate().for_each(|(part, to)| {
            if wide {
                for (i, to) in to.chunks_exact_mut(2).enumerate() {
                    to.copy_from_slice(&value(part * chunk / 2 + i).to_le_bytes());
                }
            } else {
                for (i, to) in to.iter_mut().enumerate() {
                    *to = value(part * chunk + i) as u8;
                }
            }
        });
    }
}

/// The two samples between which a pixel lies in a plane of half or whole resolution, and the share of the second.
/// Halfway sited: the samples lie between the pixels instead of on every other one.
fn between(at: usize, shift: usize, length: usize, halfway: bool) -> (usize, usize, f32) {
    let last = length - 1;
    if shift == 0 {
        return (at.min(last), at.min(last), 0.0);
    }
    let (own, odd) = (at / 2, at % 2 == 1);
    match (halfway, odd) {
        (false, false) => (own.min(last), own.min(last), 0.0),
        (false, true) => (own.min(last), (own + 1).min(last), 0.5),
        (true, false) => (own.saturating_sub(1).min(last), own.min(last), 0.75),
        (true, true) => (own.min(last), (own + 1).min(last), 0.25),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn yuv(width: usize, height: usize, matrix: Matrix, range: Range, sampling: Sampling, depth: Depth) -> Format {
        Format { width, height, layout: Layout::Yuv { matrix, range, sampling, depth } }
    }

    #[test]
    fn known_colours_have_the_samples_that_the_standards_say() {
        // Limited range, 8 bits: black 16, white 235, and pure red and blue of BT.601 and BT.709.
        for (matrix, pixel, wanted) in [
            (Matrix::Bt709, [0.0, 0.0, 0.0, 1.0], [16, 128, 128]),
            (Matrix::Bt709, [1.0, 1.0, 1.0, 1.0], [235, 128, 128]),
            (Matrix::Bt601, [1.0, 0.0, 0.0, 1.0], [81, 90, 240]),
            (Matrix::Bt601, [0.0, 0.0, 1.0, 1.0], [41, 240, 110]),
            (Matrix::Bt709, [1.0, 0.0, 0.0, 1.0], [63, 102, 240]),
            (Matrix::Bt709, [0.0, 1.0, 0.0, 1.0], [173, 42, 26]),
        ] {
            let format = yuv(1, 1, matrix, Range::Limited, Sampling::Yuv444, Depth::Eight);
            let mut bytes = Vec::new();
            format.write(&Frame { width: 1, height: 1, data: vec![pixel] }, &mut bytes);
            assert_eq!(bytes, wanted, "{matrix:?} {pixel:?}");
        }
        let ten = yuv(1, 1, Matrix::Bt2020, Range::Limited, Sampling::Yuv444, Depth::Ten);
        let mut bytes = Vec::new();
        ten.write(&Frame { width: 1, height: 1, data: vec![[1.0; 4]] }, &mut bytes);
        assert_eq!(bytes, [940_u16, 512, 512].map(u16::to_le_bytes).concat());
    }

    #[test]
    fn colour_of_half_resolution_lies_where_the_standard_puts_it() {
        assert_eq!(between(0, 1, 4, true), (0, 0, 0.75));
        assert_eq!(between(3, 1, 4, true), (1, 2, 0.25));
        assert_eq!(between(7, 1, 4, false), (3, 3, 0.5));
        assert_eq!(between(5, 0, 4, false), (3, 3, 0.0));
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_back(
            width in 1usize..9, height in 1usize..9, matrix in 0usize..3, full: bool, ten: bool, grey in 0.0f32..1.0,
        ) {
            let matrix = [Matrix::Bt601, Matrix::Bt709, Matrix::Bt2020][matrix];
            let range = if full { Range::Full } else { Range::Limited };
            let depth = if ten { Depth::Ten } else { Depth::Eight };
            for sampling in [Sampling::Yuv420, Sampling::Yuv422, Sampling::Yuv444] {
                let format = yuv(width, height, matrix, range, sampling, depth);
                let pixel = [grey, 0.3, 0.6, 1.0];
                let frame = Frame { width, height, data: vec![pixel; width * height] };
                let mut bytes = Vec::new();
                format.write(&frame, &mut bytes);
                prop_assert_eq!(bytes.len(), format.bytes());
                for made in format.read(&bytes).data {
                    let off = made.iter().zip(pixel).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
                    prop_assert!(off < if ten { 4e-3 } else { 1.5e-2 }, "{off} in {format:?}");
                }
            }
        }

        #[test]
        fn rgba_goes_through_unchanged(bytes in prop::collection::vec(any::<u8>(), 48)) {
            for (layout, width) in [(Layout::Rgba8, 4), (Layout::Rgba16, 2)] {
                let format = Format { width, height: 3, layout };
                let mut made = Vec::new();
                format.write(&format.read(&bytes), &mut made);
                prop_assert_eq!(&made, &bytes);
            }
        }
    }
}
