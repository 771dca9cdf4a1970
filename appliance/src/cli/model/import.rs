//! `backlot model import`: what was found good is hashed, put file by file, and then becomes a model by its manifest.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::Read;
use std::path::Path;
use std::time::SystemTime;

use backlot_wire::Timestamp;
use backlot_wire::model::{Manifest, ModelFile, VramNeed, file_key, is_model_name, manifest};
use indicatif::ProgressBar;
use serde_json::json;
use sha2::{Digest, Sha256};

use super::super::artifact::{human, progress, put_file};
use super::super::{CliError, Client};
use super::bucket::ModelBucket;
use super::files::{Found, read_json, read_text, usage};
use super::{ImportArguments, brief};
use crate::cli::output::say;

/// Bytes read at once while hashing.
const CHUNK_BYTES: usize = 1 << 20;

/// How a file looked when it was hashed.
#[derive(PartialEq)]
struct Look {
    bytes: u64,
    modified: Option<SystemTime>,
}

impl Look {
    fn at(path: &Path) -> Result<Self, CliError> {
        let metadata = std::fs::metadata(path).map_err(|error| usage(path, error))?;
        Ok(Self { bytes: metadata.len(), modified: metadata.modified().ok() })
    }
}

pub(super) async fn run(arguments: ImportArguments, client: &Client) -> Result<(), CliError> {
    let found = Found::look(&arguments)?;
    let bucket = ModelBucket::new(client, &arguments.place.bucket)?;
    let quiet = arguments.place.json;
    if !is_model_name(&found.name) {
        let name = &found.name;
        return Err(CliError::Usage(format!(
            "`{name}` is no model's name (letters, digits, `.`, `_`, `-`); give one with --name"
        )));
    }
    let licence = match &arguments.licence {
        Some(licence) => licence.clone(),
        None => licence_of(&arguments.path).ok_or_else(|| {
            CliError::Usage("say the model's licence with --licence, such as `openrail++` or `BSD-3-Clause`".into())
        })?,
    };
    let looks = found.files.iter().map(|file| Look::at(&file.file)).collect::<Result<Vec<_>, _>>()?;
    let bar = progress(looks.iter().map(|look| look.bytes).sum(), quiet);
    let mut files = Vec::with_capacity(found.files.len());
    for (candidate, look) in found.files.iter().zip(&looks) {
        let sha256 = hash(&candidate.file, &bar)?;
        files.push(ModelFile { path: candidate.path.clone(), bytes: look.bytes, sha256 });
    }
    bar.finish_and_clear();
    #[allow(clippy::disallowed_methods, reason = "when a person imported it; a command line's time enters here")]
    let now = SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    let manifest = Manifest {
        version: manifest::VERSION,
        name: found.name.clone(),
        kind: found.kind.clone(),
        licence,
        source: arguments.source.clone(),
        imported_at: Timestamp(u64::try_from(now.as_millis()).unwrap_or(0)),
        vram: arguments.plan.as_deref().map(plan).transpose()?.unwrap_or_default(),
        files,
    };
    manifest.check().map_err(|error| CliError::Usage(error.to_string()))?;
    let before = bucket.current(&manifest.name).await?;
    let (mut stored_bytes, mut stored, mut there) = (0, 0, BTreeSet::new());
    for ((file, candidate), look) in manifest.files.iter().zip(&found.files).zip(&looks) {
        if !there.insert(file.sha256.as_str()) {
            continue;
        }
        let key = file_key(&manifest.name, &file.sha256);
        // The key is the content's own sum: what has it and the length was stored whole.
        if bucket.size(&key).await? == Some(file.bytes) {
            continue;
        }
        put_file(client, &bucket.uri(&key), &candidate.file, file.bytes, "application/octet-stream", quiet).await?;
        if Look::at(&candidate.file)? != *look {
            let problem = "was changed while it was imported; import the model again when nobody writes to it";
            bucket.discard(&key).await?;
            return Err(CliError::Fault(format!("{}: {problem}", candidate.file.display())));
        }
        stored_bytes += file.bytes;
        stored += 1;
    }
    let (digest, is_new) = match &before {
        Some((digest, before)) if before.is_like(&manifest) => (digest.clone(), false),
        _ => (bucket.publish(&manifest).await?, true),
    };
    let earlier = before.filter(|(before, _)| *before != digest).map(|(before, _)| before);
    if quiet {
        say!(
            "{}",
            json!({"name": manifest.name, "digest": digest, "kind": manifest.kind, "bytes": manifest.bytes(),
                "files": manifest.files.len(), "stored_files": stored, "stored_bytes": stored_bytes, "new": is_new,
                "earlier": earlier, "left_out": found.left_out})
        )?;
        return Ok(());
    }
    if !found.left_out.is_empty() {
        let some: Vec<&str> = found.left_out.iter().map(String::as_str).take(8).collect();
        let more = found.left_out.len() - some.len();
        let more = if more > 0 { format!(" and {more} more") } else { String::new() };
        say!("left out, as agents do not read them: {}{more}", some.join(", "))?;
    }
    let (name, bytes, count) = (&manifest.name, human(manifest.bytes()), manifest.files.len());
    let what = if is_new { "is in the store" } else { "was in the store already" };
    say!(
        "{name}@{} {what}: {}, {bytes} in {count} files, {} of them new",
        brief(&digest),
        manifest.kind,
        human(stored_bytes)
    )?;
    if let Some(earlier) = earlier {
        say!("the version before stays: `backlot model remove {name}@{}` removes it", brief(&earlier))?;
    }
    Ok(())
}

fn hash(path: &Path, bar: &ProgressBar) -> Result<String, CliError> {
    let failed = |error| CliError::fault(&format!("read {}", path.display()), error);
    let mut file = File::open(path).map_err(failed)?;
    let (mut sum, mut chunk) = (Sha256::new(), vec![0; CHUNK_BYTES]);
    loop {
        match file.read(&mut chunk).map_err(failed)? {
            0 => return Ok(hex::encode(sum.finalize())),
            bytes => {
                sum.update(&chunk[..bytes]);
                bar.inc(bytes as u64);
            }
        }
    }
}

/// The licence that the front matter of the folder's `README.md` names, as model hubs write it.
fn licence_of(folder: &Path) -> Option<String> {
    let text = String::from_utf8(read_text(&folder.join("README.md")).ok()?).ok()?;
    let matter = text.strip_prefix("---")?.split_once("\n---")?.0;
    let value = matter.lines().find_map(|line| line.strip_prefix("license:"))?.trim().trim_matches(['"', '\'']);
    (!value.is_empty()).then(|| value.to_owned())
}

/// What `backlot-agent model-plan` wrote.
fn plan(path: &Path) -> Result<Vec<VramNeed>, CliError> {
    let value = read_json(path)?["vram"].take();
    serde_json::from_value(value)
        .map_err(|error| usage(path, format!("is no plan of `backlot-agent model-plan`: {error}")))
}
