//! Parameters of the jobs on sound: each is checked before a file is opened.

use serde_json::{Map, Value};

use crate::infer::Failure;
use crate::sound::speech::Rules;

/// Streams of sound in one file that can be asked for.
const STREAMS_MAX: f64 = 63.0;

/// What `audio.denoise` is told.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Denoise {
    pub(super) strength: f64,
    pub(super) stream: usize,
}

/// What `audio.speech-segments` is told.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Segments {
    pub(super) rules: Rules,
    pub(super) stream: usize,
    pub(super) formats: Vec<Format>,
}

/// How segments are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Format {
    Json,
    Vtt,
    Csv,
}

impl Format {
    const ALL: [(&'static str, Self); 3] = [("json", Self::Json), ("vtt", Self::Vtt), ("csv", Self::Csv)];

    /// Its ending.
    pub(super) fn name(self) -> &'static str {
        Self::ALL.iter().find(|(_, format)| *format == self).map_or("", |(name, _)| name)
    }
}

impl Denoise {
    pub(super) fn read(parameters: &Map<String, Value>) -> Result<Self, Failure> {
        let fields = Fields::new(parameters, &["strength", "stream"])?;
        Ok(Self { strength: fields.number("strength", 1.0, 0.0, 1.0)?, stream: fields.stream()? })
    }
}

impl Segments {
    pub(super) fn read(parameters: &Map<String, Value>) -> Result<Self, Failure> {
        let known = ["threshold", "threshold_end", "min_speech_s", "min_silence_s", "pad_s", "stream", "formats"];
        let fields = Fields::new(parameters, &known)?;
        let threshold = fields.number("threshold", 0.5, 0.01, 1.0)?;
        let threshold_end = fields.number("threshold_end", (threshold - 0.15).max(0.01), 0.0, threshold)?;
        #[allow(clippy::cast_possible_truncation, reason = "the network answers in f32")]
        let rules = Rules {
            threshold: threshold as f32,
            threshold_end: threshold_end as f32,
            min_speech_s: fields.number("min_speech_s", 0.25, 0.0, 3600.0)?,
            min_silence_s: fields.number("min_silence_s", 0.1, 0.0, 3600.0)?,
            pad_s: fields.number("pad_s", 0.03, 0.0, 60.0)?,
        };
        Ok(Self { rules, stream: fields.stream()?, formats: fields.formats()? })
    }
}

/// Values as JSON has them, or as texts, as the command line gives them.
struct Fields<'a>(&'a Map<String, Value>);

impl<'a> Fields<'a> {
    fn new(parameters: &'a Map<String, Value>, known: &[&str]) -> Result<Self, Failure> {
        match parameters.keys().find(|name| !known.contains(&name.as_str())) {
            Some(unknown) => {
                let unknown: String = unknown.chars().take(80).collect();
                let known = known.join("`, `");
                Err(Failure::permanent(format!("parameter `{unknown}` is unknown; known are `{known}`")))
            }
            None => Ok(Self(parameters)),
        }
    }

    fn number(&self, name: &str, default: f64, least: f64, most: f64) -> Result<f64, Failure> {
        let value = match self.0.get(name) {
            None | Some(Value::Null) => return Ok(default),
            Some(Value::String(text)) => text.trim().parse().ok(),
            Some(value) => value.as_f64(),
        };
        value.filter(|value| (least..=most).contains(value)).ok_or_else(|| {
            let said = self.0.get(name).map(Value::to_string).unwrap_or_default();
            let said: String = said.chars().take(80).collect();
            Failure::permanent(format!("parameter `{name}` is {said}, not a number from {least} to {most}"))
        })
    }

    fn stream(&self) -> Result<usize, Failure> {
        let number = self.number("stream", 0.0, 0.0, STREAMS_MAX)?;
        if number.fract() == 0.0 {
            #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "whole, and 0 to 63")]
            return Ok(number as usize);
        }
        Err(Failure::permanent(format!("parameter `stream` is {number}, not a whole number")))
    }

    fn formats(&self) -> Result<Vec<Format>, Failure> {
        let names: Vec<String> = match self.0.get("formats") {
            None | Some(Value::Null) => return Ok(vec![Format::Json]),
            Some(Value::String(text)) => text.split(',').map(|name| name.trim().to_owned()).collect(),
            Some(Value::Array(list)) => list.iter().map(|name| name.as_str().unwrap_or_default().to_owned()).collect(),
            Some(_) => Vec::new(),
        };
        let find = |name: &String| Format::ALL.iter().find(|(known, _)| known == name).map(|(_, format)| *format);
        let found: Option<Vec<Format>> = names.iter().take(Format::ALL.len()).map(find).collect();
        match found {
            Some(mut found) if !found.is_empty() && names.len() <= Format::ALL.len() => {
                found.dedup();
                Ok(found)
            }
            _ => Err(Failure::permanent("parameter `formats` is a list out of `json`, `vtt`, `csv`")),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn fields(value: Value) -> Map<String, Value> {
        value.as_object().unwrap().clone()
    }

    #[test]
    fn numbers_may_be_texts_and_have_defaults() {
        let told = Denoise::read(&fields(json!({"strength": "0.5", "stream": 1}))).unwrap();
        assert_eq!(told, Denoise { strength: 0.5, stream: 1 });
        let told = Segments::read(&fields(json!({"threshold": 0.3, "formats": "json, vtt"}))).unwrap();
        assert_eq!(told.formats, [Format::Json, Format::Vtt]);
        assert!((told.rules.threshold_end - 0.15).abs() < 1e-6);
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (parameters, words) in [
            (json!({"strenght": 1}), "`strenght` is unknown"),
            (json!({"strength": 2}), "`strength` is 2, not a number from 0 to 1"),
            (json!({"strength": "NaN"}), "`strength`"),
            (json!({"strength": []}), "`strength`"),
            (json!({"stream": 0.5}), "`stream` is 0.5"),
            (json!({"stream": 64}), "`stream`"),
        ] {
            let message = Denoise::read(&fields(parameters)).unwrap_err().message;
            assert!(message.contains(words), "{message}");
        }
        for (parameters, words) in [
            (json!({"threshold": 0.5, "threshold_end": 0.6}), "`threshold_end`"),
            (json!({"formats": ["srt"]}), "`formats`"),
            (json!({"formats": []}), "`formats`"),
            (json!({"pad_s": -1}), "`pad_s`"),
        ] {
            let message = Segments::read(&fields(parameters)).unwrap_err().message;
            assert!(message.contains(words), "{message}");
        }
    }
}
