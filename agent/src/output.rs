//! An output on its way to the store: where it goes, and what is said of it there.

use std::borrow::Cow;
use std::path::Path;
use std::sync::atomic::AtomicBool;

use backlot_wire::{JobSpec, MediaFacts, MediaKind, job::split_s3_uri, metadata};
use serde_json::Value;
use tracing::{Span, debug};

use crate::attempt::traceparent_of;
use crate::frames::ffmpeg::{self, Tools};
use crate::worker::protocol::Announced;

/// Most bytes that ffprobe may say of a file.
const PROBE_BYTES_MAX: usize = 1 << 20;

/// The prefix under which a job's outputs go: what the job says; else, in the bucket of `default`, the place of its project among
/// its user's; else `default`, both `s3://bucket/prefix/`.
pub(crate) fn prefix<'a>(spec: &'a JobSpec, default: &'a str) -> Cow<'a, str> {
    if let Some(target) = &spec.output {
        return Cow::Borrowed(&target.prefix);
    }
    // A name with a slash would be another place than it looks like.
    let is_name = |name: &&str| {
        !name.is_empty() && !matches!(*name, "." | "..") && !name.contains(|c: char| c == '/' || c.is_control())
    };
    let name = |id: &'a Option<String>| id.as_deref().filter(is_name);
    match (name(&spec.user_id), name(&spec.project_id), split_s3_uri(default)) {
        (Some(user), Some(project), Some((bucket, _))) => {
            Cow::Owned(format!("s3://{bucket}/users/{user}/projects/{project}/generated/"))
        }
        _ => Cow::Borrowed(default),
    }
}

/// What the picture, clip or sound in `file` is. `None` for anything else, and where no program could say it: an output is
/// stored all the same.
pub(crate) async fn facts(file: &Path, content_type: &str) -> Option<MediaFacts> {
    let kind = MediaKind::of(Some(content_type), &file.to_string_lossy())?;
    let path = file.to_owned();
    let looked = tokio::task::spawn_blocking(move || match kind {
        MediaKind::Image => picture(&path),
        MediaKind::Video | MediaKind::Audio => clip(&path),
    });
    match looked.await.map_err(|error| error.to_string()).and_then(|looked| looked) {
        Ok(facts) => Some(facts),
        Err(problem) => {
            debug!(file = %file.display(), problem, "an output is stored without facts");
            None
        }
    }
}

fn picture(path: &Path) -> Result<MediaFacts, String> {
    let reader = image::ImageReader::open(path).and_then(image::ImageReader::with_guessed_format);
    let reader = reader.map_err(|error| error.to_string())?;
    let codec = reader.format().and_then(|format| format.extensions_str().first()).map(|name| (*name).to_owned());
    let (width, height) = reader.into_dimensions().map_err(|error| error.to_string())?;
    Ok(MediaFacts { width: Some(width), height: Some(height), codec, ..MediaFacts::default() })
}

fn clip(path: &Path) -> Result<MediaFacts, String> {
    let tools = Tools::default();
    let mut arguments = ["-v", "error", "-of", "json", "-show_streams", "-show_format"].map(str::to_owned).to_vec();
    arguments.extend(ffmpeg::input(path));
    let never = AtomicBool::new(false);
    let json = ffmpeg::output(&tools.ffprobe, &arguments, PROBE_BYTES_MAX, tools.stall, &never);
    MediaFacts::of_ffprobe(&json.map_err(|error| error.to_string())??)
}

/// Metadata of an output of an attempt: `job` is the job's id and the attempt's.
pub(crate) fn metadata(
    spec: &JobSpec,
    (job, attempt): (&str, &str),
    announced: &Announced,
    facts: Option<MediaFacts>,
) -> Vec<(&'static str, String)> {
    let said = |key: &str| {
        announced.extra.get(key).or_else(|| spec.parameters.get(key)).map(|value| match value {
            Value::String(text) => text.clone(),
            other => other.to_string(),
        })
    };
    let facts = facts.unwrap_or_default();
    let number = |number: Option<f64>| number.map(|number| number.to_string());
    let all = [
        (metadata::JOB, Some(job.to_owned())),
        (metadata::ATTEMPT, Some(attempt.to_owned())),
        (metadata::TYPE, Some(spec.kind.clone())),
        (metadata::MODEL, said("model")),
        (metadata::SCALE, said("scale")),
        (metadata::SEED, said("seed")),
        (metadata::TRACEPARENT, traceparent_of(&Span::current()).or_else(|| spec.traceparent.clone())),
        (metadata::WIDTH, facts.width.or(announced.width).map(|pixels| pixels.to_string())),
        (metadata::HEIGHT, facts.height.or(announced.height).map(|pixels| pixels.to_string())),
        (metadata::DURATION_S, number(facts.duration_s)),
        (metadata::FPS, number(facts.fps)),
        (metadata::CODEC, facts.codec),
    ];
    // Metadata travels in headers.
    let fits = |text: &String| text.len() <= 256 && text.bytes().all(|byte| (0x20..0x7f).contains(&byte));
    all.into_iter().filter_map(|(key, value)| Some((key, value.filter(fits)?))).collect()
}

/// By the ending of its name; a browser is told nothing better than bytes of what is not known.
pub(crate) fn content_type_of(file: &Path) -> &'static str {
    match file.extension().and_then(|ending| ending.to_str()).map(str::to_ascii_lowercase).as_deref() {
        Some("png") => "image/png",
        Some("jpg" | "jpeg") => "image/jpeg",
        Some("webp") => "image/webp",
        Some("gif") => "image/gif",
        Some("mp4") => "video/mp4",
        Some("webm") => "video/webm",
        Some("mov") => "video/quicktime",
        Some("wav") => "audio/wav",
        Some("mp3") => "audio/mpeg",
        Some("flac") => "audio/flac",
        Some("m4a") => "audio/mp4",
        Some("opus" | "ogg") => "audio/ogg",
        Some("mkv") => "video/x-matroska",
        Some("csv") => "text/csv",
        Some("vtt") => "text/vtt",
        Some("json") => "application/json",
        Some("txt" | "log") => "text/plain",
        _ => "application/octet-stream",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(text: &str) -> JobSpec {
        serde_json::from_str(text).unwrap()
    }

    #[test]
    fn outputs_go_where_the_job_says_else_to_its_project_else_to_the_default() {
        let default = "s3://studio/jobs/";
        let told = spec(r#"{"type":"x","user_id":"u","project_id":"p","output":{"prefix":"s3://other/here/"}}"#);
        assert_eq!(prefix(&told, default), "s3://other/here/");
        let owned = spec(r#"{"type":"x","user_id":"u-1","project_id":"night shoot"}"#);
        assert_eq!(prefix(&owned, default), "s3://studio/users/u-1/projects/night shoot/generated/");
        for nobody in
            [r#"{"type":"x","user_id":"u"}"#, r#"{"type":"x"}"#, r#"{"type":"x","user_id":"..","project_id":"a/b"}"#]
        {
            assert_eq!(prefix(&spec(nobody), default), default, "{nobody}");
        }
    }

    #[tokio::test]
    async fn a_picture_says_its_size_and_what_is_none_says_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("frame.png");
        image::RgbImage::new(40, 30).save(&path).unwrap();
        let facts = facts(&path, "image/png").await.unwrap();
        assert_eq!((facts.width, facts.height, facts.codec.as_deref()), (Some(40), Some(30), Some("png")));
        std::fs::write(&path, "no picture").unwrap();
        assert_eq!(super::facts(&path, "image/png").await, None);
        assert_eq!(super::facts(&path, "application/json").await, super::facts(&path, "x").await);
        let announced = Announced {
            name: "frame.png".into(),
            content_type: None,
            width: Some(1),
            height: None,
            extra: serde_json::Map::from_iter([("seed".to_owned(), 7.into())]),
        };
        let said = metadata(&spec(r#"{"type":"x","parameters":{"model":"m\n"}}"#), ("j", "a"), &announced, Some(facts));
        let of = |name: &str| said.iter().find(|(found, _)| *found == name).map(|(_, value)| value.as_str());
        assert_eq!((of("backlot-job"), of("backlot-seed"), of("backlot-width")), (Some("j"), Some("7"), Some("40")));
        assert_eq!(of("backlot-model"), None, "what a header cannot hold is left out");
    }
}
