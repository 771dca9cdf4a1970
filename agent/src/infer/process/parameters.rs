//! What the parameter `operations` says.

use std::sync::Arc;

use serde::Deserialize;
use serde_json::{Map, Value};

use crate::frames::work::{Curve, Difference, Display, Frame, Grain, Lut, Over, STEPS_MAX, Step, ToneMap};
use crate::infer::Failure;

/// One entry of the list. Inputs are counted from 0.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(tag = "do", rename_all = "kebab-case", deny_unknown_fields)]
pub(super) enum Operation {
    ToneMap {
        /// Of a clip, what its file says.
        curve: Option<CurveName>,
        #[serde(default)]
        display: DisplayName,
        peak_nits: Option<f32>,
        white_nits: Option<f32>,
    },
    Lut {
        input: usize,
    },
    /// One side alone keeps the shape; with `fit` both are the most, and nothing is enlarged.
    Resize {
        width: Option<usize>,
        height: Option<usize>,
        #[serde(default)]
        fit: bool,
    },
    Grain {
        strength: f32,
        #[serde(default = "one")]
        size: f32,
        #[serde(default)]
        seed: u32,
        #[serde(default)]
        grey: bool,
    },
    Over {
        input: usize,
        #[serde(default)]
        left: i32,
        #[serde(default)]
        top: i32,
        #[serde(default = "one")]
        opacity: f32,
    },
    Difference {
        input: usize,
        #[serde(default = "one")]
        gain: f32,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum CurveName {
    Pq,
    Hlg,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum DisplayName {
    #[default]
    Bt1886,
    Srgb,
}

fn one() -> f32 {
    1.0
}

impl Operation {
    /// The input that it reads, if any.
    pub(super) fn input(&self) -> Option<usize> {
        match self {
            Self::Lut { input } | Self::Over { input, .. } | Self::Difference { input, .. } => Some(*input),
            _ => None,
        }
    }

    /// The step for a frame of this size.
    pub(super) fn step(
        &self,
        size: (usize, usize),
        lut: Option<&Arc<Lut>>,
        picture: Option<&Arc<Frame>>,
    ) -> Result<Step, String> {
        let picture = || picture.cloned().ok_or("has no picture");
        Ok(match *self {
            Self::ToneMap { curve, display, peak_nits, white_nits } => {
                let usual = ToneMap::default();
                Step::ToneMap(ToneMap {
                    curve: if curve == Some(CurveName::Hlg) { Curve::Hlg } else { Curve::Pq },
                    display: if display == DisplayName::Srgb { Display::Srgb } else { Display::Bt1886 },
                    peak_nits: peak_nits.unwrap_or(usual.peak_nits),
                    white_nits: white_nits.unwrap_or(usual.white_nits),
                })
            }
            Self::Lut { .. } => Step::Lut(lut.cloned().ok_or("has no LUT")?),
            Self::Resize { width, height, fit } => {
                let (width, height) = resized(size, (width, height), fit)?;
                Step::Resize { width, height }
            }
            Self::Grain { strength, size, seed, grey } => Step::Grain(Grain { strength, size, seed, is_grey: grey }),
            Self::Over { left, top, opacity, .. } => Step::Over(Over { picture: picture()?, left, top, opacity }),
            Self::Difference { gain, .. } => Step::Difference(Difference { picture: picture()?, gain }),
        })
    }
}

/// Sides after a resize; those of a thumbnail with `fit`.
pub(super) fn resized(
    (width, height): (usize, usize),
    wanted: (Option<usize>, Option<usize>),
    fit: bool,
) -> Result<(usize, usize), String> {
    let by = |of: usize, over: usize, under: usize| ((of * over + under / 2) / under.max(1)).max(1);
    let most = 1 << 20; // far above any bound, and far below an overflow
    let (wide, high) = match wanted {
        (None, None) => return Err("`resize` takes `width`, `height` or both".to_owned()),
        (Some(0), _) | (_, Some(0)) => return Err("`resize` to a side of 0".to_owned()),
        (Some(wide), Some(high)) => (wide.min(most), high.min(most)),
        (Some(wide), None) => (wide.min(most), by(wide.min(most), height, width)),
        (None, Some(high)) => (by(high.min(most), width, height), high.min(most)),
    };
    if !fit {
        return Ok((wide, high));
    }
    if width <= wide && height <= high {
        return Ok((width, height));
    }
    // The side that is farther beyond its bound decides.
    if width * high > height * wide { Ok((wide, by(wide, height, width))) } else { Ok((by(high, width, height), high)) }
}

/// Reads the parameters, of which `operations` is the only one.
///
/// # Errors
/// Permanent, with the operation and what is wrong with it.
pub(super) fn operations(parameters: &Map<String, Value>) -> Result<Vec<Operation>, Failure> {
    if let Some(other) = parameters.keys().find(|name| *name != "operations") {
        let other: String = other.chars().take(80).collect();
        return Err(Failure::permanent(format!("parameter `{other}` is unknown; known is `operations`")));
    }
    let wrong = |problem: String| Failure::permanent(format!("parameter `operations` {problem}"));
    let list = match parameters.get("operations") {
        Some(Value::Array(list)) => list.clone(),
        // The command line gives every parameter as a text.
        Some(Value::String(text)) => {
            serde_json::from_str(text).map_err(|error| wrong(format!("is no list: {error}")))?
        }
        _ => return Err(wrong("is a list of operations".to_owned())),
    };
    if list.is_empty() || list.len() > STEPS_MAX {
        return Err(wrong(format!("has {} entries; 1 to {STEPS_MAX} are worked on", list.len())));
    }
    let read = |(at, value): (usize, Value)| {
        serde_json::from_value(value).map_err(|error| Failure::permanent(format!("operation {at}: {error}")))
    };
    list.into_iter().enumerate().map(read).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn ask(value: Value) -> Result<Vec<Operation>, String> {
        operations(&Map::from_iter([("operations".to_owned(), value)])).map_err(|failure| failure.message)
    }

    #[test]
    fn operations_have_defaults_and_may_come_as_text() {
        let grain = Operation::Grain { strength: 0.1, size: 1.0, seed: 0, grey: false };
        assert_eq!(ask(json!([{"do": "grain", "strength": 0.1}])).unwrap(), std::slice::from_ref(&grain));
        assert_eq!(ask(json!("[{\"do\": \"grain\", \"strength\": 0.1}]")).unwrap(), [grain]);
        let Ok(Step::ToneMap(tone)) = ask(json!([{"do": "tone-map"}])).unwrap()[0].step((1, 1), None, None) else {
            panic!("a tone map")
        };
        assert_eq!(tone, ToneMap::default());
    }

    #[test]
    fn what_is_wrong_is_named_with_its_operation() {
        for (value, words) in [
            (json!([]), "0 entries"),
            (json!(7), "is a list"),
            (json!("[{"), "is no list"),
            (json!([{"do": "grain"}]), "operation 0: missing field `strength`"),
            (json!([{"do": "grain", "strength": 0.1}, {"do": "sharpen"}]), "operation 1: unknown variant `sharpen`"),
            (json!([{"do": "lut", "input": 1, "strenght": 2}]), "unknown field `strenght`"),
            (json!([{"do": "lut", "input": -1}]), "operation 0: invalid value"),
        ] {
            let message = ask(value).unwrap_err();
            assert!(message.contains(words), "{message}");
        }
        let unknown = operations(&Map::from_iter([("scale".to_owned(), json!(2))])).unwrap_err();
        assert!(unknown.message.contains("`scale` is unknown"));
    }

    #[test]
    fn one_side_keeps_the_shape_and_a_thumbnail_is_never_enlarged() {
        let size = (1920, 1080);
        assert_eq!(resized(size, (Some(640), None), false), Ok((640, 360)));
        assert_eq!(resized(size, (None, Some(540)), false), Ok((960, 540)));
        assert_eq!(resized(size, (Some(100), Some(100)), false), Ok((100, 100)));
        assert_eq!(resized(size, (Some(320), Some(320)), true), Ok((320, 180)));
        assert_eq!(resized((1080, 1920), (Some(320), Some(320)), true), Ok((180, 320)));
        assert_eq!(resized((10, 5), (Some(320), Some(320)), true), Ok((10, 5)));
        assert_eq!(resized((10_000, 1), (Some(100), None), false), Ok((100, 1)));
        assert!(resized(size, (None, None), false).is_err() && resized(size, (Some(0), None), true).is_err());
    }
}
