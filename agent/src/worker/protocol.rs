//! What the supervisor and a worker say to each other: one JSON object a line, on standard input and output.
//!
//! The built-in worker and a studio's own program speak the same words. A line may hold fields that this version
//! does not know; they are ignored, so that a newer program works with an older agent. A line that is no JSON object
//! is a fault of the program: its words could not be told from its noise.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// Most outputs that one job may announce.
pub const OUTPUTS_MAX: usize = 10_000;
/// Longest name of a phase that is passed on, in bytes.
const PHASE_BYTES_MAX: usize = 64;
/// Longest message of an error that is passed on, in bytes.
const MESSAGE_BYTES_MAX: usize = 4096;

/// A line to the worker.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Request {
    /// Begin. The next line comes after the worker has said `done` or `error`.
    Job { job: Box<Task> },
    /// Begin with all of these together, which the built-in worker alone is asked. Each line that it then says names in
    /// `of` the attempt that it is of, and the last one is `{"rest": true}`.
    Batch { batch: Vec<Task> },
    /// End the job with this id soon, with `error` or without a word by exiting.
    Cancel { cancel: String, reason: String },
}

/// A job as the worker sees it: its inputs are files, its outputs go to a folder of its own.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Task {
    pub id: String,
    pub attempt: String,
    #[serde(rename = "type")]
    pub kind: String,
    #[serde(default)]
    pub parameters: Map<String, Value>,
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
    pub inputs: Vec<TaskInput>,
    /// An empty folder. Outputs are announced by their name in it.
    pub output_dir: PathBuf,
    /// Where the built-in worker finds the models of this job; absent: in its own folder.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub models_dir: Option<PathBuf>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub soft_limit_s: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub traceparent: Option<String>,
}

/// An input: where it came from and where it lies now.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct TaskInput {
    pub uri: String,
    pub path: PathBuf,
}

/// A line from the worker, understood.
#[derive(Clone, Debug, PartialEq)]
pub enum Said {
    Phase(String),
    /// 0 to 100.
    Percent(f32),
    Preview(String),
    /// A file from which another attempt can go on.
    Checkpoint(String),
    /// A result that can be looked at before all are there.
    Partial(Announced),
    Output(Announced),
    /// Total so far.
    GpuSeconds(f64),
    Error {
        message: String,
        permanent: bool,
        /// The worker ends after this, also one that is kept.
        ends: bool,
        details: Map<String, Value>,
    },
    /// The job is finished and all its outputs were announced.
    Done,
    /// JSON, but nothing that this version knows.
    Nothing,
}

/// An output that was announced: a name in the job's folder and what is known of it.
#[derive(Clone, Debug, PartialEq)]
pub struct Announced {
    pub name: String,
    pub content_type: Option<String>,
    pub width: Option<u32>,
    pub height: Option<u32>,
    /// Everything else that stood on the line: model, scale, seed, frames.
    pub extra: Map<String, Value>,
}

impl Announced {
    /// The line that says it.
    #[must_use]
    pub fn to_line(&self) -> Value {
        let mut line = self.extra.clone();
        line.insert("output".into(), self.name.clone().into());
        for (key, value) in [("width", self.width), ("height", self.height)] {
            value.map(|pixels| line.insert(key.into(), pixels.into()));
        }
        if let Some(kind) = &self.content_type {
            line.insert("content_type".into(), kind.clone().into());
        }
        Value::Object(line)
    }
}

/// Reads a line from a worker.
///
/// # Errors
/// A sentence that says what was wrong with it.
pub fn understand(line: &str) -> Result<Said, String> {
    meaning(fields_of(line)?, line)
}

/// Reads a line from a worker that has several jobs, and of which attempt it is.
///
/// # Errors
/// A sentence that says what was wrong with it.
pub fn understand_of(line: &str) -> Result<(String, Said), String> {
    let mut fields = fields_of(line)?;
    let Some(Value::String(of)) = fields.remove("of") else {
        return Err(format!("wrote a line that does not say of which of its jobs it is: `{}`", start_of(line)));
    };
    Ok((of, meaning(fields, line)?))
}

/// Whether a worker says that it has none of its batch's jobs any more.
#[must_use]
pub fn is_rest(line: &str) -> bool {
    fields_of(line).is_ok_and(|fields| fields.get("rest") == Some(&Value::Bool(true)) && !fields.contains_key("of"))
}

fn fields_of(line: &str) -> Result<Map<String, Value>, String> {
    match serde_json::from_str(line) {
        Ok(Value::Object(fields)) => Ok(fields),
        Ok(_) => Err(format!("wrote a line that is no JSON object: `{}`", start_of(line))),
        Err(_) => Err(format!("wrote a line that is not JSON: `{}`", start_of(line))),
    }
}

fn meaning(mut fields: Map<String, Value>, line: &str) -> Result<Said, String> {
    let wrong = |key: &str, should: &str| Err(format!("wrote `{key}` that is not {should}: `{}`", start_of(line)));
    if let Some(error) = fields.remove("error") {
        let Value::String(message) = error else { return wrong("error", "a text") };
        let permanent = fields.remove("permanent").is_some_and(|flag| flag == Value::Bool(true));
        let ends = fields.remove("ends").is_some_and(|flag| flag == Value::Bool(true));
        let details = match fields.remove("details") {
            Some(Value::Object(details)) if details.len() <= 64 => details,
            _ => Map::new(),
        };
        return Ok(Said::Error { message: cut(&message, MESSAGE_BYTES_MAX).to_owned(), permanent, ends, details });
    }
    if let Some(phase) = fields.remove("phase") {
        return match phase {
            Value::String(phase) if !phase.is_empty() && !phase.chars().any(char::is_control) => {
                Ok(Said::Phase(cut(&phase, PHASE_BYTES_MAX).to_owned()))
            }
            _ => wrong("phase", "a name"),
        };
    }
    if let Some(percent) = fields.remove("percent") {
        #[allow(clippy::cast_possible_truncation, reason = "a percentage needs no more than f32 holds")]
        return match percent.as_f64() {
            Some(percent) if percent.is_finite() => Ok(Said::Percent(percent.clamp(0.0, 100.0) as f32)),
            _ => wrong("percent", "a number"),
        };
    }
    if let Some(preview) = fields.remove("preview") {
        return match preview {
            Value::String(name) => Ok(Said::Preview(name)),
            _ => wrong("preview", "a file name"),
        };
    }
    if let Some(checkpoint) = fields.remove("checkpoint") {
        return match checkpoint {
            Value::String(name) => Ok(Said::Checkpoint(name)),
            _ => wrong("checkpoint", "a file name"),
        };
    }
    if let Some(seconds) = fields.remove("gpu_s") {
        return match seconds.as_f64() {
            Some(seconds) if seconds.is_finite() && seconds >= 0.0 => Ok(Said::GpuSeconds(seconds)),
            _ => wrong("gpu_s", "a number of seconds"),
        };
    }
    let partial = fields.remove("partial");
    if let Some(output) = partial.clone().or_else(|| fields.remove("output")) {
        let Value::String(name) = output else { return wrong("output", "a file name") };
        let pixels = |value: Option<Value>| value.and_then(|v| v.as_u64()).and_then(|v| u32::try_from(v).ok());
        let announced = Announced {
            name,
            content_type: fields.remove("content_type").and_then(|value| value.as_str().map(str::to_owned)),
            width: pixels(fields.remove("width")),
            height: pixels(fields.remove("height")),
            extra: fields,
        };
        return Ok(if partial.is_some() { Said::Partial(announced) } else { Said::Output(announced) });
    }
    if fields.get("done") == Some(&Value::Bool(true)) {
        return Ok(Said::Done);
    }
    Ok(Said::Nothing)
}

/// The file that `name` means: a regular file inside `folder`, links followed. With it its name in the bucket.
///
/// # Errors
/// A sentence that says why it is not taken.
pub fn locate(folder: &Path, name: &str) -> Result<(PathBuf, String), String> {
    let shown = start_of(name);
    if name.is_empty() || name.len() > 512 || name.chars().any(char::is_control) {
        return Err(format!("announced the output `{shown}`, which is no file name"));
    }
    let inside = std::fs::canonicalize(folder).map_err(|error| format!("lost its output folder: {error}"))?;
    let path = std::fs::canonicalize(inside.join(name))
        .map_err(|error| format!("announced the output `{shown}`, which cannot be read: {error}"))?;
    let Ok(relative) = path.strip_prefix(&inside) else {
        return Err(format!("announced the output `{shown}`, which is outside of its folder"));
    };
    let is_file = std::fs::metadata(&path).is_ok_and(|data| data.is_file());
    match relative.to_str() {
        Some(key) if is_file => Ok((path.clone(), key.to_owned())),
        _ => Err(format!("announced the output `{shown}`, which is no regular file with a readable name")),
    }
}

/// The beginning of a text for a message.
#[must_use]
pub fn start_of(text: &str) -> &str {
    cut(text, 120)
}

fn cut(text: &str, bytes_max: usize) -> &str {
    let mut end = text.len().min(bytes_max);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    &text[..end]
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_words_of_the_protocol_are_understood() {
        assert_eq!(understand(r#"{"phase":"infer"}"#), Ok(Said::Phase("infer".into())));
        assert_eq!(understand(r#"{"percent":140.5}"#), Ok(Said::Percent(100.0)));
        assert_eq!(understand(r#"{"done":true}"#), Ok(Said::Done));
        assert_eq!(understand(r#"{"checkpoint":"c"}"#), Ok(Said::Checkpoint("c".into())));
        let Ok(Said::Partial(first)) = understand(r#"{"partial":"f1.png","width":4}"#) else { panic!("no partial") };
        assert_eq!((first.name.as_str(), first.width), ("f1.png", Some(4)));
        assert_eq!(understand(r#"{"a later":"version"}"#), Ok(Said::Nothing));
        let Ok(Said::Error { permanent: true, message, .. }) = understand(r#"{"error":"no face","permanent":true}"#)
        else {
            panic!("no permanent error")
        };
        assert_eq!(message, "no face");
        let Ok(Said::Output(output)) = understand(r#"{"output":"a.png","width":4,"model":"m","seed":7}"#) else {
            panic!("no output")
        };
        assert_eq!((output.width, output.extra["seed"].as_u64()), (Some(4), Some(7)));
        assert_eq!(understand(&output.to_line().to_string()), Ok(Said::Output(output)));
    }

    #[test]
    fn a_line_that_is_not_of_the_protocol_says_what_is_wrong() {
        for (line, word) in [
            ("Loading pipeline...", "not JSON"),
            ("[1]", "no JSON object"),
            (r#"{"percent":"half"}"#, "`percent`"),
            (r#"{"output":7}"#, "`output`"),
            (r#"{"checkpoint":7}"#, "`checkpoint`"),
            (r#"{"phase":""}"#, "`phase`"),
            (r#"{"error":{"a":1}}"#, "`error`"),
        ] {
            let problem = understand(line).unwrap_err();
            assert!(problem.contains(word) && problem.contains(start_of(line)), "{problem}");
        }
    }

    #[test]
    fn a_line_of_several_jobs_says_of_which_it_is() {
        let (of, said) = understand_of(r#"{"of":"j.1","output":"a.png","seed":7}"#).unwrap();
        let Said::Output(output) = said else { panic!("no output") };
        assert!(of == "j.1" && !output.extra.contains_key("of"));
        for line in [r#"{"done":true}"#, r#"{"of":7,"done":true}"#, "x"] {
            assert!(understand_of(line).is_err(), "{line}");
        }
        assert!(is_rest(r#"{"rest":true}"#) && !is_rest(r#"{"of":"j.1","rest":true}"#) && !is_rest("rest"));
        let Ok(Said::Output(own)) = understand(r#"{"output":"a.png","of":"the studio"}"#) else { panic!("no output") };
        assert_eq!(own.extra["of"], "the studio", "a program that has one job may call its own fields so");
    }

    #[test]
    fn an_output_is_a_file_inside_the_folder_and_nothing_else() {
        let root = tempfile::tempdir().unwrap();
        let folder = root.path().join("out");
        std::fs::create_dir_all(folder.join("frames")).unwrap();
        std::fs::write(folder.join("frames/1.png"), "x").unwrap();
        std::fs::write(root.path().join("secret"), "x").unwrap();
        std::os::unix::fs::symlink(root.path().join("secret"), folder.join("link")).unwrap();
        assert_eq!(locate(&folder, "frames/1.png").unwrap().1, "frames/1.png");
        let absolute = folder.join("frames/../frames/1.png");
        assert_eq!(locate(&folder, absolute.to_str().unwrap()).unwrap().1, "frames/1.png");
        for name in ["../secret", "link", "/etc/passwd", "frames", "", "absent.png", "a\nb"] {
            assert!(locate(&folder, name).is_err(), "{name}");
        }
    }

    proptest! {
        #[test]
        fn no_line_panics(line in ".{0,200}") {
            let _ = understand(&line);
            let _ = understand_of(&line);
        }
    }
}
