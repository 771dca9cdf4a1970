//! `backlot model verify`: what the store gives, compared with what the manifest says.

use std::collections::BTreeSet;
use std::process::ExitCode;

use backlot_wire::model::{ModelFile, file_key};
use futures::StreamExt;
use http_body_util::BodyStream;
use indicatif::ProgressBar;
use serde_json::json;
use sha2::{Digest, Sha256};

use super::super::CliError;
use super::super::artifact::{human, progress};
use super::bucket::ModelBucket;
use super::{asked, brief};
use crate::cli::output::say;

/// Success is that every file is there and whole.
pub(super) async fn run(bucket: &ModelBucket<'_>, model: &str, json: bool) -> Result<ExitCode, CliError> {
    let (digest, manifest) = bucket.find(asked(model)?).await?;
    let bar = progress(manifest.bytes(), json);
    let (mut bad, mut seen) = (Vec::new(), BTreeSet::new());
    for file in &manifest.files {
        if !seen.insert(&file.sha256) {
            bar.inc(file.bytes);
            continue;
        }
        if let Some(problem) = problem_of(bucket, &manifest.name, file, &bar).await? {
            bad.push((file.path.as_str(), problem));
        }
    }
    bar.finish_and_clear();
    let name = &manifest.name;
    if json {
        let bad: Vec<_> = bad.iter().map(|(path, problem)| json!({"path": path, "problem": problem})).collect();
        say!(
            "{}",
            json!({"name": name, "digest": digest, "files": manifest.files.len(), "bytes": manifest.bytes(), "bad": bad})
        )?;
    } else if bad.is_empty() {
        say!("{name}@{} is whole: {} in {} files", brief(&digest), human(manifest.bytes()), manifest.files.len())?;
    } else {
        for (path, problem) in &bad {
            say!("BAD {path}: {problem}")?;
        }
        say!("{} files are bad; remove the model and import it again", bad.len())?;
    }
    Ok(if bad.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

async fn problem_of(
    bucket: &ModelBucket<'_>,
    name: &str,
    file: &ModelFile,
    bar: &ProgressBar,
) -> Result<Option<String>, CliError> {
    let opened = match bucket.open(&file_key(name, &file.sha256)).await {
        // Damage that the store has found by itself.
        Err(CliError::Refused { message, .. }) => return Ok(Some(message)),
        opened => opened?,
    };
    let Some(response) = opened else { return Ok(Some("is not there".into())) };
    let (mut sum, mut bytes, mut body) = (Sha256::new(), 0, BodyStream::new(response.into_body()));
    while let Some(frame) = body.next().await {
        let Ok(frame) = frame else { return Ok(Some(format!("breaks off after {bytes} bytes"))) };
        if let Ok(data) = frame.into_data() {
            sum.update(&data);
            bytes += data.len() as u64;
            bar.inc(data.len() as u64);
        }
    }
    let found = hex::encode(sum.finalize());
    let is_good = bytes == file.bytes && found == file.sha256;
    Ok((!is_good).then(|| format!("has {bytes} bytes with SHA-256 {found}, not {} with {}", file.bytes, file.sha256)))
}
