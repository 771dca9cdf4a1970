//! `backlot job submit`: upload what is local, queue the job, wait for it if asked.

use std::path::Path;
use std::process::ExitCode;

use backlot_wire::{After, Input, Job, JobSpec, Limits, On, OutputTarget, Timestamp, Unique, job::split_s3_uri};
use bytes::Bytes;
use futures::TryStreamExt;
use http::Method;
use http_body::Frame;
use http_body_util::{BodyExt, StreamBody};
use serde_json::Value;
use tokio_util::io::ReaderStream;

use super::super::client::{SendBody, full};
use super::{pair, verdict, watch};
use crate::cli::client::escaped;
use crate::cli::output::{say, show};
use crate::cli::{CliError, Client, to_json};

/// Where uploaded inputs go.
const BUCKET: &str = "studio";
/// Largest file that is uploaded in one piece, which is what S3 allows.
const UPLOAD_BYTES_MAX: u64 = 5 << 30;
const PIECE_BYTES: usize = 256 * 1024;

#[derive(Debug, clap::Args)]
pub(in crate::cli) struct SubmitArguments {
    /// What is to be done, such as image.upscale.
    #[arg(long = "type", value_name = "TYPE")]
    kind: String,
    /// A file, or an artifact as s3://bucket/key. Can be given several times.
    #[arg(long = "input", value_name = "FILE|s3://…")]
    inputs: Vec<String>,
    /// A parameter of the job. What reads as a number, true, false, null, a list or an object in JSON is that; all else is text.
    #[arg(long = "param", value_name = "K=V", value_parser = pair)]
    parameters: Vec<(String, String)>,
    /// Where outputs go, as s3://bucket/prefix/.
    #[arg(long, value_name = "s3://…")]
    output: Option<String>,
    #[arg(long = "label", value_name = "K=V", value_parser = pair)]
    labels: Vec<(String, String)>,
    /// low, normal, high, or 0 (last) to 9 (first).
    #[arg(long)]
    priority: Option<String>,
    /// Whose job it is.
    #[arg(long)]
    user: Option<String>,
    #[arg(long)]
    project: Option<String>,
    /// Memory of a GPU that it requires, in GB.
    #[arg(long, value_name = "GB")]
    vram: Option<f64>,
    /// Not before this time, such as 2026-11-22T22:00:00Z.
    #[arg(long, value_name = "TIME", conflicts_with = "delay")]
    run_at: Option<String>,
    /// Not before so many seconds have passed.
    #[arg(long, value_name = "SECONDS")]
    delay: Option<u64>,
    /// Wait for the success of another job. Can be given several times.
    #[arg(long, value_name = "ID")]
    after: Vec<String>,
    /// Be the only job with this key that has not ended: another one is answered with it.
    #[arg(long, value_name = "KEY")]
    unique: Option<String>,
    /// Hold the key for so many seconds, also after the end.
    #[arg(long, value_name = "SECONDS", requires = "unique")]
    unique_period: Option<u64>,
    /// Ask the worker to end after so many seconds.
    #[arg(long, value_name = "SECONDS")]
    soft_limit: Option<u64>,
    /// End the worker after so many seconds.
    #[arg(long, value_name = "SECONDS")]
    hard_limit: Option<u64>,
    /// Id of the job; the same submit with the same id is one job.
    #[arg(long, value_name = "ID")]
    job_id: Option<String>,
    #[arg(long, default_value = "jobs")]
    queue: String,
    /// Wait for the end; the exit code is 0 only when the job succeeded.
    #[arg(long)]
    wait: bool,
    /// The job as one line of JSON: as queued, or with --wait as it ended.
    #[arg(long)]
    json: bool,
}

pub(super) async fn run(arguments: SubmitArguments, client: &Client) -> Result<ExitCode, CliError> {
    let mut spec = specification(&arguments)?;
    // Look at all of it before the first byte goes out.
    spec.check().map_err(|error| CliError::Usage(error.to_string()))?;
    for input in arguments.inputs.iter().filter(|input| !is_artifact(input)) {
        file_bytes(Path::new(input)).await?;
    }
    for input in &arguments.inputs {
        let uri = if is_artifact(input) { input.clone() } else { upload(client, Path::new(input)).await? };
        spec.inputs.push(Input::artifact(uri));
    }
    let queue = escaped(&arguments.queue);
    let job: Job = client.send(Method::POST, &format!("/v1/jobs?queue={queue}"), Some(&spec)).await?;
    if !arguments.wait {
        show(&job, arguments.json, |job| job.id.clone())?;
        return Ok(ExitCode::SUCCESS);
    }
    if !arguments.json {
        say!("{}", job.id)?;
    }
    let job = watch::until_final(client, &job.id, |_| Ok(()), true).await?;
    if arguments.json {
        say!("{}", to_json(&job)?)?;
    } else {
        say!("{}", super::text::job(&job))?;
    }
    Ok(verdict(&job))
}

/// The specification but for its inputs, of which those that are artifacts are checked.
fn specification(arguments: &SubmitArguments) -> Result<JobSpec, CliError> {
    let mut spec = JobSpec::new(backlot_wire::job::canonical_type(&arguments.kind));
    spec.parameters = arguments.parameters.iter().map(|(name, text)| (name.clone(), value(text))).collect();
    spec.labels = arguments.labels.iter().cloned().collect();
    spec.output = arguments.output.clone().map(|prefix| OutputTarget { prefix });
    spec.user_id.clone_from(&arguments.user);
    spec.project_id.clone_from(&arguments.project);
    spec.job_id.clone_from(&arguments.job_id);
    spec.requirements.vram_gb = arguments.vram;
    spec.limits = Limits { soft_s: arguments.soft_limit, hard_s: arguments.hard_limit };
    spec.delay_s = arguments.delay;
    let run_at = arguments.run_at.as_deref().map(Timestamp::parse_rfc3339).transpose();
    spec.run_at = run_at.map_err(|problem| CliError::Usage(format!("--run-at: {problem}")))?;
    spec.after = arguments.after.iter().map(|id| After { job: id.clone(), on: On::Success }).collect();
    spec.unique = arguments.unique.clone().map(|key| Unique { key, period_s: arguments.unique_period });
    if let Some(priority) = &arguments.priority {
        spec.priority =
            match priority.as_str() {
                "low" => 2,
                "normal" => 5,
                "high" => 8,
                digit => digit.parse().ok().filter(|n| *n <= 9).ok_or_else(|| {
                    CliError::Usage(format!("--priority `{digit}` is none of low, normal, high, 0 to 9"))
                })?,
            };
    }
    let bad =
        arguments.inputs.iter().find(|uri| is_artifact(uri) && split_s3_uri(uri).is_none_or(|(_, key)| key.is_empty()));
    match bad {
        Some(uri) => Err(CliError::Usage(format!("--input `{uri}` is not s3://bucket/key"))),
        None => Ok(spec),
    }
}

pub(super) fn value(text: &str) -> Value {
    match serde_json::from_str(text) {
        Ok(Value::String(_)) | Err(_) => Value::String(text.to_owned()),
        Ok(value) => value,
    }
}

fn is_artifact(input: &str) -> bool {
    input.starts_with("s3://")
}

async fn file_bytes(file: &Path) -> Result<u64, CliError> {
    let shown = file.display();
    let facts =
        tokio::fs::metadata(file).await.map_err(|error| CliError::Usage(format!("--input {shown}: {error}")))?;
    if !facts.is_file() {
        return Err(CliError::Usage(format!("--input {shown} is no file")));
    }
    if facts.len() > UPLOAD_BYTES_MAX {
        return Err(CliError::Usage(format!(
            "--input {shown} is larger than 5 GiB: upload it with `aws s3 cp` and give its s3:// address"
        )));
    }
    Ok(facts.len())
}

/// Uploads `file` under a name of its own, and says where it is.
async fn upload(client: &Client, file: &Path) -> Result<String, CliError> {
    let bytes = file_bytes(file).await?;
    match client.s3(Method::PUT, &format!("/{BUCKET}"), &[("content-length", "0")], full(Bytes::new())).await {
        Ok(_) => {}
        Err(CliError::Refused { status: 409, .. }) => {} // it is there
        Err(error) => return Err(error),
    }
    let name = file.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let folder = uuid::Uuid::new_v4();
    let key = format!("uploads/{folder}/{name}");
    let opened = tokio::fs::File::open(file).await;
    let opened = opened.map_err(|error| CliError::fault(&format!("open {}", file.display()), error))?;
    let pieces = ReaderStream::with_capacity(opened, PIECE_BYTES).map_ok(Frame::data);
    let body: SendBody = StreamBody::new(pieces).boxed_unsync();
    let path = format!("/{BUCKET}/uploads/{folder}/{}", escaped(&name));
    let length = bytes.to_string();
    client.s3(Method::PUT, &path, &[("content-length", &length), ("content-type", content_type(&name))], body).await?;
    Ok(format!("s3://{BUCKET}/{key}"))
}

fn content_type(name: &str) -> &'static str {
    let ending = name.rsplit_once('.').map(|(_, ending)| ending.to_ascii_lowercase());
    match ending.as_deref() {
        Some("png") => "image/png",
        Some("jpg" | "jpeg") => "image/jpeg",
        Some("webp") => "image/webp",
        Some("mp4") => "video/mp4",
        Some("mov") => "video/quicktime",
        Some("mkv") => "video/x-matroska",
        Some("webm") => "video/webm",
        Some("wav") => "audio/wav",
        Some("mp3") => "audio/mpeg",
        Some("flac") => "audio/flac",
        Some("json") => "application/json",
        Some("txt") => "text/plain",
        _ => "application/octet-stream",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn arguments(more: &[&str]) -> SubmitArguments {
        #[derive(clap::Parser)]
        struct Whole {
            #[command(flatten)]
            arguments: SubmitArguments,
        }
        let line = ["submit", "--type", "image.upscale"].iter().chain(more);
        <Whole as clap::Parser>::try_parse_from(line).unwrap().arguments
    }

    #[test]
    fn parameters_are_json_where_they_read_as_such() {
        let spec = specification(&arguments(&[
            "--param",
            "scale=4",
            "--param",
            "prompt=a = b",
            "--param",
            "id=\"7\"",
            "--param",
            "on=true",
        ]));
        let spec = serde_json::to_value(spec.unwrap().parameters).unwrap();
        assert_eq!(spec, serde_json::json!({"scale": 4, "prompt": "a = b", "id": "\"7\"", "on": true}));
    }

    #[test]
    fn what_makes_no_sense_is_a_usage_error() {
        for more in [["--priority", "urgent"], ["--priority", "10"], ["--input", "s3://bucket"], ["--input", "s3://b/"]]
        {
            assert!(matches!(specification(&arguments(&more)), Err(CliError::Usage(_))), "{more:?}");
        }
        assert_eq!(specification(&arguments(&["--priority", "high"])).unwrap().priority, 8);
        assert!(matches!(specification(&arguments(&["--run-at", "tomorrow"])), Err(CliError::Usage(_))));
    }

    #[test]
    fn when_and_after_what_a_job_runs_stands_in_its_specification() {
        let spec = specification(&arguments(&[
            "--run-at",
            "2026-11-23T03:00:00+01:00",
            "--after",
            "a",
            "--after",
            "b",
            "--unique",
            "shot-42",
            "--unique-period",
            "60",
            "--hard-limit",
            "900",
            "--vram",
            "16",
            "--job-id",
            "j",
        ]));
        let spec = serde_json::to_value(spec.unwrap()).unwrap();
        assert_eq!(spec["run_at"], "2026-11-23T02:00:00.000Z");
        assert_eq!(spec["after"], serde_json::json!([{"job": "a"}, {"job": "b"}]));
        assert_eq!(spec["unique"], serde_json::json!({"key": "shot-42", "period_s": 60}));
        assert_eq!((&spec["limits"]["hard_s"], &spec["requirements"]["vram_gb"]), (&900.into(), &16.0.into()));
        assert_eq!(spec["job_id"], "j");
    }
}
