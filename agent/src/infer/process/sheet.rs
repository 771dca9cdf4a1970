//! `image.contact-sheet`: many pictures small on one.

use serde::Deserialize;
use serde_json::Value;

use super::parameters::resized;
use super::{Context, Failure, Made, Report, Task, made, write_png};
use crate::frames::image;
use crate::frames::work::{Format, Layout, PIXELS_MAX, Recipe, SIDE_MAX, Step};
use crate::infer::progress::Progress;

/// Most pictures on a sheet.
const PICTURES_MAX: usize = 1000;

#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Parameters {
    /// 0: as many as make the sheet about square.
    columns: usize,
    /// Most pixels of a picture, both ways.
    width: usize,
    height: usize,
    gap: usize,
    /// `#rrggbb`
    background: String,
}

impl Default for Parameters {
    fn default() -> Self {
        Self { columns: 0, width: 320, height: 180, gap: 8, background: "#101010".to_owned() }
    }
}

/// Where pictures lie on the sheet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Grid {
    columns: usize,
    rows: usize,
    cell: (usize, usize),
    gap: usize,
}

impl Grid {
    fn new(parameters: &Parameters, pictures: usize) -> Result<Self, String> {
        let Parameters { columns, width, height, gap, .. } = *parameters;
        if pictures > PICTURES_MAX {
            return Err(format!("{pictures} pictures are more than {PICTURES_MAX}"));
        }
        if !(1..=4096).contains(&width) || !(1..=4096).contains(&height) || gap > 256 || columns > PICTURES_MAX {
            return Err(format!(
                "{columns} columns of {width} x {height} pixels with a gap of {gap} are out of bounds"
            ));
        }
        let square = (1..).find(|n| n * n >= pictures).unwrap_or(1);
        let columns = if columns == 0 { square } else { columns.min(pictures) };
        let grid = Self { columns, rows: pictures.div_ceil(columns), cell: (width, height), gap };
        let (wide, high) = grid.size();
        if wide > SIDE_MAX || high > SIDE_MAX || wide * high > PIXELS_MAX {
            return Err(format!("a sheet of {wide} x {high} pixels is larger than {SIDE_MAX} or {PIXELS_MAX} pixels"));
        }
        Ok(grid)
    }

    fn size(&self) -> (usize, usize) {
        let side = |count: usize, cell: usize| count * (cell + self.gap) + self.gap;
        (side(self.columns, self.cell.0), side(self.rows, self.cell.1))
    }

    /// Upper left corner of the picture `at`, of this size, in the middle of its cell.
    fn corner(&self, at: usize, (width, height): (usize, usize)) -> (usize, usize) {
        let start = |place: usize, cell: usize, own: usize| self.gap + place * (cell + self.gap) + (cell - own) / 2;
        (start(at % self.columns, self.cell.0, width), start(at / self.columns, self.cell.1, height))
    }
}

fn colour(text: &str) -> Option<[u8; 3]> {
    let digits = text.strip_prefix('#').filter(|digits| digits.len() == 6)?;
    let number = u32::from_str_radix(digits, 16).ok()?;
    let [_, r, g, b] = number.to_be_bytes();
    Some([r, g, b])
}

pub(super) fn run(task: &Task, ctx: &mut Context<'_>) -> Result<Vec<Made>, Failure> {
    let wrong = |problem: String| Failure::permanent(format!("parameters: {problem}"));
    // The command line gives every parameter as a text.
    let numbers = task.parameters.iter().map(|(name, value)| match value.as_str().and_then(|text| text.parse().ok()) {
        Some(number) => (name.clone(), Value::Number(number)),
        None => (name.clone(), value.clone()),
    });
    let parameters: Parameters =
        serde_json::from_value(Value::Object(numbers.collect())).map_err(|error| wrong(error.to_string()))?;
    let background = colour(&parameters.background)
        .ok_or_else(|| wrong(format!("`background` is {:.20}; it is #rrggbb", parameters.background)))?;
    let grid = Grid::new(&parameters, task.inputs.len()).map_err(wrong)?;
    ctx.phase("load");
    let (width, height) = grid.size();
    let mut sheet: Vec<u8> = background.repeat(width * height);
    ctx.phase("infer");
    let mut progress = Progress::new(task.inputs.len());
    let mut executor = "cpu";
    for (at, path) in task.inputs.iter().enumerate() {
        ctx.check_cancel()?;
        let deep = image::decode_deep(path)?;
        let size = resized((deep.width, deep.height), (Some(grid.cell.0), Some(grid.cell.1)), true).map_err(wrong)?;
        let recipe = Recipe {
            from: Format { width: deep.width, height: deep.height, layout: Layout::Rgba16 },
            steps: vec![Step::Resize { width: size.0, height: size.1 }],
            to: Format::rgba8(size.0, size.1),
        };
        let bytes: Vec<u8> = deep.rgba.iter().flat_map(|value| value.to_le_bytes()).collect();
        let (mut chain, mut small) = (ctx.engine.bench()?.chain(recipe)?, Vec::new());
        chain.run(&bytes, 0, &mut small)?;
        executor = chain.name();
        let (left, top) = grid.corner(at, size);
        for (y, row) in small.chunks_exact(size.0 * 4).enumerate() {
            let line = &mut sheet[((top + y) * width + left) * 3..][..size.0 * 3];
            for (to, pixel) in line.chunks_exact_mut(3).zip(row.chunks_exact(4)) {
                let share = u32::from(pixel[3]);
                for (to, from) in to.iter_mut().zip(pixel) {
                    let mixed = (u32::from(*from) * share + u32::from(*to) * (255 - share) + 127) / 255;
                    *to = u8::try_from(mixed).unwrap_or(u8::MAX);
                }
            }
        }
        progress.percent(at as f32 * progress.share, 1.0, ctx.report);
    }
    (ctx.report)(Report::Phase("post"));
    let path = task.output_dir.join("contact-sheet.png");
    write_png(&path, (width, height), sheet, None, None)?;
    let mut made = made(path, "image/png", (width, height), executor);
    made.extra.insert("columns".to_owned(), grid.columns.into());
    made.extra.insert("rows".to_owned(), grid.rows.into());
    progress.percent(1.0, 0.0, ctx.report);
    Ok(vec![made])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pictures_lie_in_the_middle_of_their_cells_and_beside_each_other() {
        let parameters = Parameters { columns: 3, width: 100, height: 50, gap: 10, ..Parameters::default() };
        let grid = Grid::new(&parameters, 7).unwrap();
        assert_eq!((grid.rows, grid.size()), (3, (340, 190)));
        assert_eq!(grid.corner(0, (100, 50)), (10, 10));
        assert_eq!(grid.corner(4, (50, 50)), (145, 70));
        assert_eq!(Grid::new(&Parameters { columns: 0, ..parameters.clone() }, 7).unwrap().columns, 3);
        assert_eq!(Grid::new(&parameters, 1).unwrap().columns, 1);
    }

    #[test]
    fn a_sheet_out_of_bounds_is_refused_with_its_size() {
        let huge = Parameters { width: 4096, height: 4096, ..Parameters::default() };
        assert!(Grid::new(&huge, 100).unwrap_err().contains("41048 x 41048"));
        assert!(Grid::new(&Parameters { width: 0, ..huge.clone() }, 1).unwrap_err().contains("0 x 4096"));
        assert!(Grid::new(&huge, 1001).unwrap_err().contains("1001 pictures"));
        assert_eq!(
            (colour("#10ff00"), colour("10ff00"), colour("#10ff0"), colour("#€ff")),
            (Some([16, 255, 0]), None, None, None)
        );
    }
}
