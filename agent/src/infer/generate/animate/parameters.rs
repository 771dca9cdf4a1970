//! The parameters of a clip that is made of a picture: every range is checked before a model is touched.

use serde_json::{Map, Value};

use crate::infer::Failure;
use crate::infer::generate::parameters::{Fields, NAME_BYTES_MAX, RATE_MAX, SIDE_MAX, SIDE_MIN, STEPS_MAX};
use crate::infer::models::svd::config::FRAMES_MAX;

const KNOWN: [&str; 15] = [
    "model",
    "width",
    "height",
    "frames",
    "fps",
    "motion_bucket_id",
    "noise_aug_strength",
    "guidance_min",
    "guidance_max",
    "decode_chunk",
    "steps",
    "seed",
    "preview_every",
    "checkpoint_every",
    MOTION,
];
/// The other form of such jobs needs this one, here it is empty.
const MOTION: &str = "motion";
/// As the model was trained and is run elsewhere.
const RATE: usize = 7;
const MOTION_BUCKET: usize = 127;
const MOTION_BUCKET_MAX: u64 = 255;
const NOISE: f64 = 0.02;
const GUIDANCE: [f64; 2] = [1.0, 3.0];
const GUIDANCE_MAX: f64 = 50.0;
const STEPS: usize = 25;
/// Frames that are decoded together: more take memory, fewer flicker where two parts meet.
pub(in crate::infer::generate) const CHUNK: usize = 8;

/// What the parameters say.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Wanted {
    pub(super) model: String,
    pub(super) width: Option<usize>,
    pub(super) height: Option<usize>,
    /// As many as the model was trained with, where it is not given.
    pub(super) frames: Option<usize>,
    /// Frames a second.
    pub(super) rate: usize,
    /// How much moves, as the model was taught to count it.
    pub(super) motion_bucket: usize,
    /// How much noise is laid on the picture.
    pub(super) noise: f64,
    /// Of the first frame and of the last.
    pub(super) guidance: [f64; 2],
    pub(super) chunk: usize,
    pub(super) steps: usize,
    pub(super) seed: Option<u64>,
    /// Steps between two previews; 0: none.
    pub(super) preview_every: usize,
    /// Steps between two checkpoints; 0: none.
    pub(super) checkpoint_every: usize,
}

/// Whether a job of clips wants one of a picture: it names no motion modules.
pub(in crate::infer::generate) fn is_wanted(parameters: &Map<String, Value>) -> bool {
    Fields(parameters).given(MOTION).is_none()
}

impl Wanted {
    /// # Errors
    /// Permanent: names the parameter that is unknown, missing or out of its range.
    pub(super) fn read(parameters: &Map<String, Value>) -> Result<Self, Failure> {
        let fields = Fields(parameters);
        // Whoever has a prompt wants the other form.
        if fields.given("prompt").is_some() {
            let problem =
                "a clip of a prompt needs motion modules, one of a picture by Stable Video Diffusion takes no prompt";
            return Err(Failure::permanent(format!("parameter `{MOTION}` is missing: {problem}")));
        }
        fields.only(KNOWN.iter())?;
        let [least, most] = GUIDANCE;
        let least = fields.number("guidance_min", 0.0, GUIDANCE_MAX)?.unwrap_or(least);
        let most = fields.number("guidance_max", 0.0, GUIDANCE_MAX)?.unwrap_or(most.max(least));
        if least > most {
            return Err(Failure::permanent(format!(
                "parameter `guidance_min` is {least}, more than `guidance_max`, which is {most}"
            )));
        }
        Ok(Self {
            model: fields.required("model", NAME_BYTES_MAX)?,
            width: fields.whole("width", SIDE_MIN, SIDE_MAX)?,
            height: fields.whole("height", SIDE_MIN, SIDE_MAX)?,
            frames: fields.whole("frames", 1, FRAMES_MAX as u64)?,
            rate: fields.whole("fps", 1, RATE_MAX)?.unwrap_or(RATE),
            motion_bucket: fields.whole("motion_bucket_id", 0, MOTION_BUCKET_MAX)?.unwrap_or(MOTION_BUCKET),
            noise: fields.number("noise_aug_strength", 0.0, 1.0)?.unwrap_or(NOISE),
            guidance: [least, most],
            chunk: fields.whole("decode_chunk", 1, FRAMES_MAX as u64)?.unwrap_or(CHUNK),
            steps: fields.whole("steps", 1, STEPS_MAX)?.unwrap_or(STEPS),
            seed: fields.seed()?,
            preview_every: fields.whole("preview_every", 0, STEPS_MAX)?.unwrap_or(5),
            checkpoint_every: fields.whole("checkpoint_every", 0, STEPS_MAX)?.unwrap_or(10),
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn ask(parameters: Value) -> Result<Wanted, String> {
        let Value::Object(mut parameters) = parameters else { panic!("an object") };
        parameters.entry("model").or_insert_with(|| "m".into());
        Wanted::read(&parameters).map_err(|failure| {
            assert_eq!(failure.class, crate::infer::FailureClass::Permanent);
            failure.message
        })
    }

    #[test]
    fn parameters_have_defaults_and_may_come_as_text() {
        let plain = ask(json!({"motion": null})).unwrap();
        assert_eq!((plain.steps, plain.frames, plain.rate, plain.motion_bucket), (25, None, 7, 127));
        assert_eq!((plain.noise, plain.guidance, plain.chunk), (0.02, [1.0, 3.0], 8));
        let given = ask(json!({"frames": "14", "guidance_min": "4", "noise_aug_strength": "0", "seed": 7})).unwrap();
        assert_eq!((given.frames, given.guidance, given.noise, given.seed), (Some(14), [4.0, 4.0], 0.0, Some(7)));
        assert!(is_wanted(json!({"motion": null}).as_object().unwrap()));
        assert!(!is_wanted(json!({"motion": "m"}).as_object().unwrap()));
    }

    #[test]
    fn a_parameter_that_is_out_of_its_range_is_named() {
        for (parameters, words) in [
            (json!({"frames": 65}), "`frames` is 65; it is 1 to 64"),
            (json!({"fps": 0}), "`fps` is 0; it is 1 to 60"),
            (json!({"motion_bucket_id": 256}), "`motion_bucket_id` is 256; it is 0 to 255"),
            (json!({"noise_aug_strength": "NaN"}), "`noise_aug_strength` is \"NaN\"; it is 0 to 1"),
            (json!({"guidance_max": -1}), "`guidance_max` is -1"),
            (
                json!({"guidance_min": 4, "guidance_max": 2}),
                "`guidance_min` is 4, more than `guidance_max`, which is 2",
            ),
            (json!({"decode_chunk": 0}), "`decode_chunk` is 0; it is 1 to 64"),
            (json!({"steps": 2.5}), "`steps` is 2.5; it is a whole number"),
            (json!({"prompt": "a lighthouse"}), "`motion` is missing: a clip of a prompt needs motion modules"),
            (json!({"guidance": 3}), "`guidance` is unknown; known are `model`, `width`"),
        ] {
            let message = ask(parameters).unwrap_err();
            assert!(message.contains(words), "{message}");
        }
        let missing = Wanted::read(&Map::new()).unwrap_err();
        assert!(missing.message.contains("`model` is missing"), "{missing}");
    }

    proptest! {
        #[test]
        fn no_value_panics(name in prop::sample::select(&KNOWN[..14]), text in ".{0,40}", number in any::<f64>()) {
            let _ = ask(json!({ name: text.clone() }));
            let _ = ask(json!({ name: number }));
            let _ = ask(json!({ name: [text] }));
        }
    }
}
