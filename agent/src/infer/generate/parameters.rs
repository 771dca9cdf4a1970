//! The parameters of `image.generate` and `video.generate`: every range is checked before a model is touched.

use serde_json::{Map, Value};

use crate::infer::Failure;
use crate::infer::models::motion::FRAMES_MAX;
use crate::infer::models::tokenizer::TEXT_BYTES_MAX;
use crate::infer::sampler::{Kind, Prediction, Spacing};

pub(super) const STEPS_MAX: u64 = 150;
const COUNT_MAX: u64 = 16;
pub(super) const SIDE_MIN: u64 = 64;
pub(super) const SIDE_MAX: u64 = 4096;
/// Longest name of a model.
pub(super) const NAME_BYTES_MAX: usize = 200;
const LORAS_MAX: usize = 16;
/// Parameters are numbers that JSON's readers keep exactly.
const SEED_MAX: f64 = 9_007_199_254_740_991.0;
pub(super) const RATE_MAX: u64 = 60;
/// What a studio's clips of motion modules have when nobody says otherwise: those that they were trained with.
const FRAMES: usize = 16;
const RATE: usize = 8;
/// Of both job types.
const KNOWN: [&str; 18] = [
    "model",
    "prompt",
    "negative_prompt",
    "width",
    "height",
    "steps",
    "guidance",
    "seed",
    "scheduler",
    "spacing",
    "prediction",
    "strength",
    "loras",
    "embeddings",
    "preview_every",
    "prompt_2",
    "negative_prompt_2",
    "checkpoint_every",
];
const OF_PICTURES: [&str; 1] = ["count"];
const OF_CLIPS: [&str; 3] = ["motion", "frames", "fps"];

/// What is made.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Form {
    Pictures {
        count: usize,
    },
    Clip {
        /// The motion modules by their name.
        motion: String,
        frames: usize,
        /// Frames a second.
        rate: usize,
    },
}

impl Form {
    pub(super) fn pictures(&self) -> usize {
        if let Self::Pictures { count } = self { *count } else { 1 }
    }

    /// Of each picture: 1, or those of a clip.
    pub(super) fn frames(&self) -> usize {
        if let Self::Clip { frames, .. } = self { *frames } else { 1 }
    }
}

/// A LoRA by its file's name, and how strongly it is merged.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Lora {
    pub(super) name: String,
    pub(super) weight: f32,
}

/// What the parameters say.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Wanted {
    pub(super) model: String,
    pub(super) prompt: String,
    /// For SDXL's second encoder; the same text where it is not given.
    pub(super) prompt_2: Option<String>,
    pub(super) negative: Option<String>,
    pub(super) negative_2: Option<String>,
    pub(super) width: Option<usize>,
    pub(super) height: Option<usize>,
    pub(super) steps: usize,
    /// 1 and less: the prompt alone decides.
    pub(super) guidance: f32,
    pub(super) form: Form,
    pub(super) seed: Option<u64>,
    /// As suits the model, where it is not given.
    pub(super) scheduler: Option<Kind>,
    pub(super) spacing: Option<Spacing>,
    pub(super) prediction: Option<Prediction>,
    pub(super) strength: f64,
    pub(super) loras: Vec<Lora>,
    pub(super) embeddings: Vec<String>,
    /// Steps between two previews; 0: none.
    pub(super) preview_every: usize,
    /// Steps between two checkpoints; 0: none.
    pub(super) checkpoint_every: usize,
}

impl Wanted {
    /// # Errors
    /// Permanent: names the parameter that is unknown, missing or out of its range.
    pub(super) fn read(is_clip: bool, parameters: &Map<String, Value>) -> Result<Self, Failure> {
        let fields = Fields(parameters);
        let of_form: &[&str] = if is_clip { &OF_CLIPS } else { &OF_PICTURES };
        fields.only(KNOWN.iter().chain(of_form))?;
        let scheduler = fields.one_of("scheduler", &Kind::ALL)?;
        let spacings =
            [("leading", Spacing::Leading), ("trailing", Spacing::Trailing), ("linspace", Spacing::Linspace)];
        let predictions = [("epsilon", Prediction::Epsilon), ("v_prediction", Prediction::V)];
        let form = if is_clip {
            Form::Clip {
                motion: fields.required("motion", NAME_BYTES_MAX)?,
                frames: fields.whole("frames", 1, FRAMES_MAX as u64)?.unwrap_or(FRAMES),
                rate: fields.whole("fps", 1, RATE_MAX)?.unwrap_or(RATE),
            }
        } else {
            Form::Pictures { count: fields.whole("count", 1, COUNT_MAX)?.unwrap_or(1) }
        };
        Ok(Self {
            form,
            model: fields.required("model", NAME_BYTES_MAX)?,
            prompt: fields.required("prompt", TEXT_BYTES_MAX)?,
            prompt_2: fields.text("prompt_2", TEXT_BYTES_MAX)?,
            negative: fields.text("negative_prompt", TEXT_BYTES_MAX)?,
            negative_2: fields.text("negative_prompt_2", TEXT_BYTES_MAX)?,
            width: fields.whole("width", SIDE_MIN, SIDE_MAX)?,
            height: fields.whole("height", SIDE_MIN, SIDE_MAX)?,
            steps: fields.whole("steps", 1, STEPS_MAX)?.unwrap_or(20),
            guidance: fields.number("guidance", 0.0, 50.0)?.map_or(7.5, |guidance| guidance as f32),
            seed: fields.seed()?,
            scheduler,
            spacing: fields.one_of("spacing", &spacings)?,
            prediction: fields.one_of("prediction", &predictions)?,
            strength: fields.number("strength", 0.0, 1.0)?.unwrap_or(0.75),
            loras: fields.loras()?,
            embeddings: fields.names("embeddings")?.into_iter().map(|(name, _)| name).collect(),
            preview_every: fields.whole("preview_every", 0, STEPS_MAX)?.unwrap_or(5),
            checkpoint_every: fields.whole("checkpoint_every", 0, STEPS_MAX)?.unwrap_or(10),
        })
    }
}

/// A job's parameters, read with their ranges.
pub(super) struct Fields<'a>(pub(super) &'a Map<String, Value>);

impl Fields<'_> {
    fn out_of_range(&self, name: &str, should: &str) -> Failure {
        let given: String =
            self.0.get(name).map(|value| value.to_string().chars().take(80).collect()).unwrap_or_default();
        Failure::permanent(format!("parameter `{name}` is {given}; it is {should}"))
    }

    /// Makes sure that no parameter has another name than these.
    pub(super) fn only<'n>(&self, known: impl Iterator<Item = &'n &'n str> + Clone) -> Result<(), Failure> {
        let Some(unknown) = self.0.keys().find(|name| known.clone().all(|known| known != name)) else { return Ok(()) };
        let unknown: String = unknown.chars().take(80).collect();
        let known = known.copied().collect::<Vec<_>>().join("`, `");
        Err(Failure::permanent(format!("parameter `{unknown}` is unknown; known are `{known}`")))
    }

    pub(super) fn required(&self, name: &str, bytes_max: usize) -> Result<String, Failure> {
        let missing = || Failure::permanent(format!("parameter `{name}` is missing"));
        self.text(name, bytes_max)?.ok_or_else(missing)
    }

    pub(super) fn seed(&self) -> Result<Option<u64>, Failure> {
        self.number("seed", 0.0, SEED_MAX)?.map(|seed| self.must_be_whole("seed", seed)).transpose()
    }

    /// `null` is as good as absent.
    pub(super) fn given(&self, name: &str) -> Option<&Value> {
        self.0.get(name).filter(|value| !value.is_null())
    }

    pub(super) fn text(&self, name: &str, bytes_max: usize) -> Result<Option<String>, Failure> {
        match self.given(name) {
            None => Ok(None),
            Some(Value::String(text)) if text.len() <= bytes_max => Ok(Some(text.clone())),
            Some(Value::String(text)) => Err(Failure::permanent(format!(
                "parameter `{name}` has {} bytes; {bytes_max} are the most",
                text.len()
            ))),
            Some(_) => Err(self.out_of_range(name, "a text")),
        }
    }

    /// A number, or a text of one: the command line gives every parameter as a text.
    pub(super) fn number(&self, name: &str, least: f64, most: f64) -> Result<Option<f64>, Failure> {
        let Some(value) = self.given(name) else { return Ok(None) };
        let number = value.as_f64().or_else(|| value.as_str()?.trim().parse().ok());
        match number.filter(|number| (least..=most).contains(number)) {
            Some(number) => Ok(Some(number)),
            None => Err(self.out_of_range(name, &format!("{least} to {most}"))),
        }
    }

    pub(super) fn must_be_whole(&self, name: &str, number: f64) -> Result<u64, Failure> {
        if number.fract() != 0.0 {
            return Err(self.out_of_range(name, "a whole number"));
        }
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "whole and in its range")]
        Ok(number as u64)
    }

    pub(super) fn whole(&self, name: &str, least: u64, most: u64) -> Result<Option<usize>, Failure> {
        let number = self.number(name, least as f64, most as f64)?;
        number.map(|number| Ok(self.must_be_whole(name, number)? as usize)).transpose()
    }

    fn one_of<T: Copy>(&self, name: &str, known: &[(&str, T)]) -> Result<Option<T>, Failure> {
        let Some(value) = self.given(name) else { return Ok(None) };
        let found = known.iter().find(|(known, _)| value.as_str() == Some(known));
        let names = || known.iter().map(|(name, _)| *name).collect::<Vec<_>>().join(", ");
        found.map(|(_, value)| Some(*value)).ok_or_else(|| self.out_of_range(name, &format!("one of {}", names())))
    }

    /// Names of files, each perhaps with a weight: `["a", {"name": "b", "weight": 0.5}]` or `"a,b:0.5"`.
    fn names(&self, name: &str) -> Result<Vec<(String, f64)>, Failure> {
        let wrong = || self.out_of_range(name, "a list of at most 16 names of files, each with a weight from -4 to 4");
        let from_text = |text: &str| match text.rsplit_once(':') {
            Some((name, weight)) => Some((name.trim().to_owned(), weight.trim().parse().ok()?)),
            None => Some((text.trim().to_owned(), 1.0)),
        };
        let listed: Option<Vec<(String, f64)>> = match self.given(name) {
            None => return Ok(Vec::new()),
            Some(Value::String(text)) => text.split(',').map(from_text).collect(),
            Some(Value::Array(list)) => list
                .iter()
                .map(|entry| match entry {
                    Value::String(name) => Some((name.clone(), 1.0)),
                    Value::Object(fields) => {
                        let weight = fields.get("weight").map_or(Some(1.0), Value::as_f64)?;
                        Some((fields.get("name")?.as_str()?.to_owned(), weight))
                    }
                    _ => None,
                })
                .collect(),
            Some(_) => None,
        };
        let listed = listed.ok_or_else(wrong)?;
        let plain = |name: &str| {
            !name.is_empty() && name.len() <= 200 && !name.starts_with('.') && !name.contains(['/', '\\', '\0'])
        };
        let fits = listed.len() <= LORAS_MAX && listed.iter().all(|(name, w)| plain(name) && (-4.0..=4.0).contains(w));
        if fits { Ok(listed) } else { Err(wrong()) }
    }

    fn loras(&self) -> Result<Vec<Lora>, Failure> {
        let named = self.names("loras")?;
        Ok(named.into_iter().map(|(name, weight)| Lora { name, weight: weight as f32 }).collect())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn ask(parameters: Value) -> Result<Wanted, String> {
        let Value::Object(mut parameters) = parameters else { panic!("an object") };
        for needed in ["model", "prompt"] {
            parameters.entry(needed).or_insert_with(|| "m".into());
        }
        let is_clip = parameters.contains_key("motion");
        Wanted::read(is_clip, &parameters).map_err(|failure| {
            assert_eq!(failure.class, crate::infer::FailureClass::Permanent);
            failure.message
        })
    }

    #[test]
    fn parameters_have_defaults_and_may_come_as_text() {
        let plain = ask(json!({})).unwrap();
        assert_eq!((plain.steps, plain.form, plain.seed, plain.guidance), (20, Form::Pictures { count: 1 }, None, 7.5));
        assert_eq!(ask(json!({"steps": "4", "guidance": "0", "seed": 7})).unwrap().seed, Some(7));
        assert_eq!(ask(json!({"seed": 9_007_199_254_740_991_u64})).unwrap().seed, Some((1 << 53) - 1));
        let clip = ask(json!({"motion": "m", "fps": "12"})).unwrap().form;
        assert_eq!(clip, Form::Clip { motion: "m".into(), frames: 16, rate: 12 });
        let loras = ask(json!({"loras": "a, b:0.5"})).unwrap().loras;
        assert_eq!(loras[1], Lora { name: "b".into(), weight: 0.5 });
        assert_eq!(loras, ask(json!({"loras": ["a", {"name": "b", "weight": 0.5}]})).unwrap().loras);
    }

    #[test]
    fn a_parameter_that_is_out_of_its_range_is_named() {
        for (parameters, words) in [
            (json!({"guidance": "NaN"}), "`guidance` is \"NaN\"; it is 0 to 50"),
            (json!({"guidance": "inf"}), "`guidance`"),
            (json!({"guidance": -1}), "`guidance` is -1"),
            (json!({"scheduler": "heun"}), "`scheduler` is \"heun\"; it is one of ddim, euler"),
            (json!({"steps": 0}), "`steps` is 0; it is 1 to 150"),
            (json!({"steps": 2.5}), "`steps` is 2.5; it is a whole number"),
            (json!({"width": 100_000}), "`width` is 100000; it is 64 to 4096"),
            (json!({"count": 17}), "`count`"),
            (json!({"seed": -1}), "`seed`"),
            (json!({"seed": 1e300}), "`seed`"),
            (json!({"strength": 1.1}), "`strength`"),
            (json!({"prompt": "x".repeat(100_000)}), "`prompt` has 100000 bytes; 20000 are the most"),
            (json!({"prompt": 7}), "`prompt` is 7; it is a text"),
            (json!({"loras": ["../../etc/passwd"]}), "`loras`"),
            (json!({"loras": [{"name": "a", "weight": 1e9}]}), "`loras`"),
            (json!({"embeddings": {}}), "`embeddings`"),
            (json!({"prediction": "sample"}), "`prediction`"),
            (json!({"spacing": 7}), "`spacing`"),
            (json!({"frames": 8}), "`frames` is unknown"),
            (json!({"motion": "m", "count": 2}), "`count` is unknown"),
            (json!({"motion": "m", "frames": 33}), "`frames` is 33; it is 1 to 32"),
            (json!({"motion": "m", "fps": 0}), "`fps` is 0; it is 1 to 60"),
            (json!({"motion": 7}), "`motion` is 7; it is a text"),
            (json!({"promt": "typo"}), "`promt` is unknown; known are `model`, `prompt`"),
        ] {
            let message = ask(parameters).unwrap_err();
            assert!(message.contains(words), "{message}");
        }
        let missing = Wanted::read(false, &Map::new()).unwrap_err();
        assert!(missing.message.contains("`model` is missing"), "{missing}");
        let missing = Wanted::read(true, &Map::new()).unwrap_err();
        assert!(missing.message.contains("`motion` is missing"), "{missing}");
    }

    proptest! {
        #[test]
        fn no_value_panics(name in prop::sample::select([&KNOWN[..], &OF_PICTURES, &OF_CLIPS].concat()), text in ".{0,40}", number in any::<f64>()) {
            let _ = ask(json!({ name: text.clone() }));
            let _ = ask(json!({ name: number }));
            let _ = ask(json!({ name: [text] }));
        }
    }
}
