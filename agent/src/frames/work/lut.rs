//! Three-dimensional LUTs: the `.cube` files that grading programs write.
//!
//! A table is looked up by tetrahedra: of the six that a cell is cut into along its grey diagonal, the one that holds
//! the colour, so that greys stay grey. Colours outside of the table's domain take the value at its edge.
//! One-dimensional tables are refused: they are curves, and what a file means by one differs between programs.

use rayon::prelude::*;

use super::Frame;

/// Largest side of a table; programs write 17 to 65.
const SIDE_MAX: usize = 129;
/// Longest file: a line of [`SIDE_MAX`]³ is at most about 40 bytes.
pub const BYTES_MAX: u64 = 128 << 20;
/// Longest line.
const LINE_BYTES_MAX: usize = 4096;

/// Why a file is no table.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: {problem}")]
pub struct LutError {
    pub line: usize,
    pub problem: String,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Lut {
    pub(super) side: usize,
    pub(super) low: [f32; 3],
    pub(super) high: [f32; 3],
    /// Red runs fastest, then green, then blue.
    pub(super) table: Vec<[f32; 3]>,
}

impl Lut {
    /// Reads a `.cube` file.
    ///
    /// # Errors
    /// [`LutError`] with the first line that is wrong.
    pub fn read(bytes: &[u8]) -> Result<Self, LutError> {
        let (mut side, mut low, mut high, mut table) = (None, [0.0; 3], [1.0; 3], Vec::new());
        let mut last = 0;
        for (index, line) in bytes.split(|byte| *byte == b'\n').enumerate() {
            let wrong = |problem: String| LutError { line: index + 1, problem };
            last = index + 1;
            if line.len() > LINE_BYTES_MAX {
                return Err(wrong(format!("has more than {LINE_BYTES_MAX} bytes")));
            }
            let text = String::from_utf8_lossy(line);
            let text = text.trim_start_matches('\u{feff}').trim();
            if text.is_empty() || text.starts_with('#') {
                continue;
            }
            let (word, rest) = text.split_once(char::is_whitespace).unwrap_or((text, ""));
            match word {
                "TITLE" => {}
                "LUT_3D_SIZE" => {
                    if side.is_some() {
                        return Err(wrong("says the size a second time".to_owned()));
                    }
                    let given = rest.trim().parse().ok().filter(|side| (2..=SIDE_MAX).contains(side));
                    side = Some(
                        given.ok_or_else(|| wrong(format!("a size of `{}` is not 2 to {SIDE_MAX}", short(rest))))?,
                    );
                }
                "LUT_1D_SIZE" | "LUT_1D_INPUT_RANGE" => {
                    return Err(wrong("a one-dimensional table is not read".to_owned()));
                }
                "LUT_3D_INPUT_RANGE" => {
                    let [a, b] = values(rest).map_err(wrong)?;
                    (low, high) = ([a; 3], [b; 3]);
                }
                "DOMAIN_MIN" => low = values(rest).map_err(wrong)?,
                "DOMAIN_MAX" => high = values(rest).map_err(wrong)?,
                _ if word.starts_with(|c: char| c.is_ascii_digit() || matches!(c, '-' | '+' | '.')) => {
                    let side: usize = side.ok_or_else(|| wrong("colours come before the size".to_owned()))?;
                    if table.len() == side * side * side {
                        return Err(wrong(format!("more than {side}³ colours")));
                    }
                    table.push(values(text).map_err(wrong)?);
                }
                other => return Err(wrong(format!("`{}` is not understood", short(other)))),
            }
        }
        let wrong = |problem: String| LutError { line: last, problem };
        let side = side.ok_or_else(|| wrong("the file says no LUT_3D_SIZE".to_owned()))?;
        if table.len() != side * side * side {
            return Err(wrong(format!("the file ends after {} of {side}³ colours", table.len())));
        }
        if low.iter().zip(high).any(|(low, high)| *low >= high) {
            return Err(wrong(format!("the domain from {low:?} to {high:?} is empty")));
        }
        Ok(Self { side, low, high, table })
    }

    pub(super) fn apply(&self, frame: &mut Frame) {
        frame.data.par_iter_mut().for_each(|pixel| {
            let [r, g, b, a] = *pixel;
            let [r, g, b] = self.look_up([r, g, b]);
            *pixel = [r, g, b, a];
        });
    }

    #[allow(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        clippy::cast_precision_loss,
        reason = "clamped to the table's sides; NaN is 0"
    )]
    fn look_up(&self, rgb: [f32; 3]) -> [f32; 3] {
        let last = (self.side - 1) as f32;
        let mut cell = [0; 3];
        let part: [f32; 3] = std::array::from_fn(|c| {
            let place = ((rgb[c] - self.low[c]) / (self.high[c] - self.low[c]) * last).max(0.0).min(last);
            cell[c] = (place as usize).min(self.side - 2);
            place - cell[c] as f32
        });
        let step = [1, self.side, self.side * self.side];
        let start = cell[0] + cell[1] * step[1] + cell[2] * step[2];
        // From the darkest corner along the axes, that with the largest part first.
        let mut order = [0, 1, 2];
        if part[order[0]] < part[order[1]] {
            order.swap(0, 1);
        }
        if part[order[1]] < part[order[2]] {
            order.swap(1, 2);
        }
        if part[order[0]] < part[order[1]] {
            order.swap(0, 1);
        }
        let [first, second, third] = order.map(|axis| part[axis]);
        let corners = [
            start,
            start + step[order[0]],
            start + step[order[0]] + step[order[1]],
            start + step.iter().sum::<usize>(),
        ];
        let weights = [1.0 - first, first - second, second - third, third];
        std::array::from_fn(|c| {
            corners.iter().zip(weights).map(|(corner, weight)| self.table[*corner][c] * weight).sum()
        })
    }
}

fn short(text: &str) -> String {
    text.trim().chars().take(40).collect()
}

fn values<const N: usize>(text: &str) -> Result<[f32; N], String> {
    let mut made = [0.0; N];
    let mut words = text.split_whitespace();
    for value in &mut made {
        let word = words.next().ok_or_else(|| format!("{N} numbers belong here"))?;
        *value = word
            .parse::<f32>()
            .ok()
            .filter(|value| value.is_finite())
            .ok_or_else(|| format!("`{}` is no number", short(word)))?;
    }
    if words.next().is_some() { Err(format!("more than {N} numbers")) } else { Ok(made) }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// A table of `f` at its corners.
    fn cube(side: usize, f: impl Fn([f32; 3]) -> [f32; 3]) -> String {
        let mut text = format!("# made here\nTITLE \"a table\"\nLUT_3D_SIZE {side}\n\n");
        let place = |i: usize| i as f32 / (side - 1) as f32;
        for i in 0..side * side * side {
            let [r, g, b] = f([place(i % side), place(i / side % side), place(i / side / side)]);
            text.push_str(&format!("{r} {g} {b}\r\n"));
        }
        text
    }

    #[test]
    fn a_table_of_a_linear_change_is_that_change_everywhere() {
        let lut = Lut::read(cube(5, |[r, g, b]| [1.0 - r, 0.5 * g + 0.25 * b, b]).as_bytes()).unwrap();
        for i in 0..1000 {
            let rgb = [(i % 10) as f32 / 9.0, (i / 10 % 10) as f32 / 9.0, (i / 100) as f32 / 9.0];
            let wanted = [1.0 - rgb[0], 0.5 * rgb[1] + 0.25 * rgb[2], rgb[2]];
            let made = lut.look_up(rgb);
            assert!(made.iter().zip(wanted).all(|(a, b)| (a - b).abs() < 1e-5), "{rgb:?}: {made:?}");
        }
        assert_eq!(lut.look_up([-3.0, 0.0, 9.0]), lut.look_up([0.0, 0.0, 1.0]));
        assert!(lut.look_up([f32::NAN; 3]).iter().all(|value| value.is_finite()));
    }

    #[test]
    fn greys_stay_grey_under_a_table_of_greys() {
        let lut = Lut::read(cube(4, |[r, g, b]| [r * r, g * g, b * b]).as_bytes()).unwrap();
        for i in 0..=20 {
            let [r, g, b] = lut.look_up([i as f32 / 20.0; 3]);
            assert!(r == g && g == b);
        }
    }

    #[test]
    fn a_file_that_is_no_table_is_refused_with_its_line() {
        let whole = cube(2, |rgb| rgb);
        for (text, line, words) in [
            ("LUT_3D_SIZE 2\n0 0 0\n", 3, "ends after 1 of 2³"),
            ("0 0 0\n", 1, "before the size"),
            ("LUT_3D_SIZE 1000000\n", 1, "not 2 to 129"),
            ("LUT_3D_SIZE -1\n", 1, "not 2 to 129"),
            ("LUT_1D_SIZE 2\n", 1, "one-dimensional"),
            ("LUT_3D_SIZE 2\nLUT_3D_SIZE 2\n", 2, "a second time"),
            ("LUT_3D_SIZE 2\n0 0 NaN\n", 2, "`NaN` is no number"),
            ("LUT_3D_SIZE 2\n0 0\n", 2, "3 numbers"),
            ("LUT_3D_SIZE 2\n0 0 0 0\n", 2, "more than 3"),
            ("%PDF-1.4\n", 1, "`%PDF-1.4` is not understood"),
            ("", 1, "no LUT_3D_SIZE"),
            (&format!("{whole}1 1 1\n"), 13, "more than 2³"),
            (&format!("DOMAIN_MIN 1 1 1\n{whole}"), 14, "is empty"),
        ] {
            let error = Lut::read(text.as_bytes()).unwrap_err();
            assert!(error.line == line && error.problem.contains(words), "{text:?}: {error}");
        }
        let long = vec![b'#'; 5000];
        assert!(Lut::read(&long).unwrap_err().problem.contains("4096 bytes"));
    }

    proptest! {
        #[test]
        fn no_bytes_make_the_reader_panic(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            let _ = Lut::read(&bytes);
            let _ = Lut::read(&[b"LUT_3D_SIZE 2\n".as_slice(), &bytes].concat());
        }
    }
}
