//! `backlot model`: the models that agents fetch by themselves, in a bucket of the artifact store.
//!
//! A model is there when its manifest is: an import puts it last, a removal takes it first, and files are kept under
//! their SHA-256, so that nobody who reads sees half of a model and an interrupted import goes on where it was.

mod bucket;
mod diffusers;
mod files;
mod import;
mod verify;

use std::path::PathBuf;
use std::process::ExitCode;

use backlot_wire::model::{Manifest, ModelKind, ModelRef};
use clap::Subcommand;
use serde::Serialize;

use self::bucket::ModelBucket;
use super::artifact::human;
use super::{CliError, Client};
use crate::cli::output::say;

#[derive(Debug, Subcommand)]
pub(super) enum ModelCommand {
    /// Check a model and put it into the store.
    Import(ImportArguments),
    /// The models in the store.
    List {
        #[command(flatten)]
        place: Place,
    },
    /// A model's versions, files and memory needs.
    Show {
        /// `NAME`, or `NAME@DIGEST` for one version.
        model: String,
        #[command(flatten)]
        place: Place,
    },
    /// Remove a model with all its versions, or one version that is not the current one.
    Remove {
        /// `NAME`, or `NAME@DIGEST` for one version.
        model: String,
        #[command(flatten)]
        place: Place,
    },
    /// Read every file of a model in the store and compare it with its checksum.
    Verify {
        /// `NAME`, or `NAME@DIGEST` for one version.
        model: String,
        #[command(flatten)]
        place: Place,
    },
}

#[derive(Debug, clap::Args)]
pub(super) struct Place {
    /// Bucket of the models.
    #[arg(long, default_value = backlot_wire::model::BUCKET)]
    bucket: String,
    #[arg(long)]
    json: bool,
}

#[derive(Debug, clap::Args)]
pub(super) struct ImportArguments {
    /// A folder in the layout of diffusers, a `.safetensors` file, a `.param` file of ncnn with its `.bin`, or a folder of such pairs.
    path: PathBuf,
    /// Name that jobs use. Without it, the file's or folder's.
    #[arg(long)]
    name: Option<String>,
    /// What it is, where its files do not show it: `stable-diffusion-1`, `stable-diffusion-2`, `stable-diffusion-xl`,
    /// `stable-video-diffusion`, `motion-module`, `lora`, `textual-inversion`, `upscale`, `voice-activity`, `denoise`.
    #[arg(long, value_parser = kind)]
    kind: Option<ModelKind>,
    /// Its licence, as an SPDX name or a sentence. Without it, the one that `README.md` in the folder names.
    #[arg(long)]
    licence: Option<String>,
    /// Where it comes from, for whoever asks later.
    #[arg(long)]
    source: Option<String>,
    /// Folder with CLIP's `vocab.json` and `merges.txt`, for a Stable Diffusion checkpoint in one file.
    #[arg(long, value_name = "DIR")]
    tokenizer: Option<PathBuf>,
    /// Which of several precisions in a diffusers folder: `fp16` takes the files `….fp16.safetensors`.
    #[arg(long)]
    variant: Option<String>,
    /// What `backlot-agent model-plan` has written of it: GPU memory by shape.
    #[arg(long, value_name = "FILE")]
    plan: Option<PathBuf>,
    #[command(flatten)]
    place: Place,
}

fn kind(text: &str) -> Result<ModelKind, String> {
    ModelKind::parse(text).ok_or_else(|| format!("it is one of {}", ModelKind::names().join(", ")))
}

pub(super) async fn run(command: ModelCommand, client: &Client) -> Result<ExitCode, CliError> {
    match command {
        ModelCommand::Import(arguments) => import::run(arguments, client).await?,
        ModelCommand::List { place } => list(&ModelBucket::new(client, &place.bucket)?, place.json).await?,
        ModelCommand::Show { model, place } => {
            show(&ModelBucket::new(client, &place.bucket)?, &model, place.json).await?
        }
        ModelCommand::Remove { model, place } => {
            remove(&ModelBucket::new(client, &place.bucket)?, &model, place.json).await?;
        }
        ModelCommand::Verify { model, place } => {
            return verify::run(&ModelBucket::new(client, &place.bucket)?, &model, place.json).await;
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// A model as it is told.
#[derive(Serialize)]
struct Shown<'a> {
    digest: &'a str,
    bytes: u64,
    #[serde(flatten)]
    manifest: &'a Manifest,
}

fn shown<'a>(digest: &'a str, manifest: &'a Manifest) -> Shown<'a> {
    Shown { digest, bytes: manifest.bytes(), manifest }
}

/// The beginning of a digest, as people read it.
fn brief(digest: &str) -> &str {
    digest.get(..12).unwrap_or(digest)
}

fn asked(text: &str) -> Result<ModelRef<'_>, CliError> {
    ModelRef::parse(text)
        .ok_or_else(|| CliError::Usage(format!("`{text}` is no model's name, nor NAME@DIGEST with 8 to 64 digits")))
}

async fn list(bucket: &ModelBucket<'_>, json: bool) -> Result<(), CliError> {
    let mut found = 0;
    for name in bucket.names().await? {
        // A folder without a manifest is an import under way, or one that was broken off.
        let Some((digest, manifest)) = bucket.current(&name).await? else { continue };
        found += 1;
        if json {
            say!("{}", super::to_json(&shown(&digest, &manifest))?)?;
        } else {
            say!(
                "{:40}  {:22}  {:>10}  {}  {}",
                format!("{name}@{}", brief(&digest)),
                manifest.kind.to_string(),
                human(manifest.bytes()),
                manifest.imported_at,
                line(&manifest.licence)
            )?;
        }
    }
    if found == 0 && !json {
        say!("no model in s3://{}; `backlot model import` puts one there", bucket.name())?;
    }
    Ok(())
}

/// A text of a manifest in one line of a terminal.
fn line(text: &str) -> String {
    text.chars().map(|character| if character.is_control() { ' ' } else { character }).take(80).collect()
}

async fn show(bucket: &ModelBucket<'_>, model: &str, json: bool) -> Result<(), CliError> {
    let asked = asked(model)?;
    let (digest, manifest) = bucket.find(asked).await?;
    let current = bucket.current(asked.name).await?.map(|(digest, _)| digest);
    let versions = bucket.versions(asked.name, "").await?;
    if json {
        let mut value =
            serde_json::to_value(shown(&digest, &manifest)).map_err(|error| CliError::fault("write JSON", error))?;
        value["current"] = (current.as_deref() == Some(&*digest)).into();
        value["versions"] = versions.into();
        say!("{value}")?;
        return Ok(());
    }
    say!("{}@{digest}", manifest.name)?;
    say!("kind      {}", manifest.kind)?;
    say!("licence   {}", line(&manifest.licence))?;
    if let Some(source) = &manifest.source {
        say!("source    {}", line(source))?;
    }
    say!("imported  {}", manifest.imported_at)?;
    say!("bytes     {} in {} files", human(manifest.bytes()), manifest.files.len())?;
    for need in &manifest.vram {
        let (weights, values) = (human(need.weights_bytes), human(need.values_bytes));
        say!("memory    {}x{} {}: {weights} of weights, {values} of values", need.width, need.height, need.precision)?;
    }
    for file in &manifest.files {
        say!("  {}  {:>10}  {}", brief(&file.sha256), human(file.bytes), file.path)?;
    }
    for version in versions.iter().filter(|version| **version != digest) {
        let current = if current.as_ref() == Some(version) { " (current)" } else { "" };
        say!("also      {}@{}{current}", manifest.name, brief(version))?;
    }
    Ok(())
}

async fn remove(bucket: &ModelBucket<'_>, model: &str, json: bool) -> Result<(), CliError> {
    let asked = asked(model)?;
    let files = match asked.digest {
        None => bucket.remove(asked.name).await?,
        Some(_) => bucket.remove_version(asked).await?,
    };
    if json {
        say!("{}", serde_json::json!({"removed": model, "files": files}))?;
    } else {
        say!(
            "{model} is removed, with {files} files; agents that have it in their caches keep it until they need the room"
        )?;
    }
    Ok(())
}

#[cfg(test)]
mod tests;
