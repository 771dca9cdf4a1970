//! Folders in the layout of diffusers: which files of one an agent reads, and whether they are all there.

use std::collections::BTreeSet;
use std::path::Path;

use backlot_wire::model::ModelKind;
use serde_json::Value;

use super::super::CliError;
use super::ImportArguments;
use super::files::{Candidate, Found, ending, entries, header, is_pickle, name_of, read_json, usage};

/// Parts that no agent reads.
const UNREAD: [&str; 2] = ["safety_checker", "feature_extractor"];
const SHARDS: &str = ".safetensors.index.";

/// A whole pipeline.
pub(super) fn pipeline(folder: &Path, variant: Option<&str>) -> Result<Found, CliError> {
    let index_file = folder.join("model_index.json");
    let index = read_json(&index_file)?;
    let class = index["_class_name"].as_str().unwrap_or_default().to_owned();
    let video = class.starts_with("StableVideoDiffusion");
    if !video && !class.starts_with("StableDiffusion") && !class.starts_with("LatentConsistencyModel") {
        return Err(usage(&index_file, format!("`{class}` is not a pipeline that agents run")));
    }
    let is_part = |value: &Value| value.get(0).is_some_and(|library| !library.is_null());
    let parts: Vec<&String> = index
        .as_object()
        .into_iter()
        .flatten()
        .filter(|(name, value)| !name.starts_with('_') && is_part(value) && !UNREAD.contains(&name.as_str()))
        .map(|(name, _)| name)
        .collect();
    let needed: &[&str] = match video {
        true => &["unet", "vae", "image_encoder", "scheduler"],
        false => &["unet", "vae", "text_encoder", "tokenizer", "scheduler"],
    };
    if let Some(lack) = needed.iter().find(|needed| !parts.iter().any(|part| part == *needed)) {
        return Err(usage(&index_file, format!("names no `{lack}`")));
    }
    let mut files = vec![Candidate { path: "model_index.json".into(), file: index_file }];
    let mut left_out = Vec::new();
    for part in &parts {
        let weighty = !part.starts_with("tokenizer") && *part != "scheduler";
        take(&folder.join(part), part, variant, weighty, &mut files, &mut left_out)?;
    }
    for entry in entries(folder)? {
        let name = name_of(&entry)?;
        if name != "model_index.json" && !parts.iter().any(|part| **part == name) {
            left_out.push(name);
        }
    }
    let unet = read_json(&folder.join("unet/config.json"))?;
    let kind = match () {
        () if video => ModelKind::StableVideoDiffusion,
        () if unet["addition_embed_type"] == "text_time" => ModelKind::StableDiffusionXl,
        () if unet["cross_attention_dim"] == 1024 => ModelKind::StableDiffusion2,
        () => ModelKind::StableDiffusion1,
    };
    Ok(Found { kind, name: own_name(folder)?, files, left_out })
}

/// A part that stands alone: a motion adapter.
pub(super) fn part(folder: &Path, arguments: &ImportArguments) -> Result<Found, CliError> {
    let config = folder.join("config.json");
    let class = read_json(&config)?["_class_name"].as_str().unwrap_or_default().to_owned();
    let kind = match class.as_str() {
        "MotionAdapter" => ModelKind::MotionModule,
        _ => arguments.kind.clone().ok_or_else(|| {
            usage(&config, format!("`{class}` is no model by itself; import the folder with model_index.json, or say with --kind what it is"))
        })?,
    };
    let (mut files, mut left_out) = (Vec::new(), Vec::new());
    take(folder, "", arguments.variant.as_deref(), true, &mut files, &mut left_out)?;
    Ok(Found { kind, name: own_name(folder)?, files, left_out })
}

fn own_name(folder: &Path) -> Result<String, CliError> {
    name_of(&std::fs::canonicalize(folder).map_err(|error| usage(folder, error))?)
}

/// Adds the files of one part, each checked.
fn take(
    folder: &Path,
    part: &str,
    variant: Option<&str>,
    weighty: bool,
    files: &mut Vec<Candidate>,
    left_out: &mut Vec<String>,
) -> Result<(), CliError> {
    let slash = if part.is_empty() { "" } else { "/" };
    let (mut weights, mut indexes, mut pickles) = (Vec::new(), Vec::new(), 0);
    for file in entries(folder)? {
        let name = name_of(&file)?;
        if !file.is_file() || name.starts_with('.') {
            left_out.push(format!("{part}{slash}{name}"));
        } else if name.contains(SHARDS) {
            indexes.push((name, file));
        } else {
            match ending(&file).as_str() {
                "safetensors" => weights.push((name, file)),
                "json" | "txt" | "model" => files.push(Candidate { path: format!("{part}{slash}{name}"), file }),
                ending => {
                    pickles += usize::from(is_pickle(ending));
                    left_out.push(format!("{part}{slash}{name}"));
                }
            }
        }
    }
    if weights.is_empty() && weighty {
        let hint = match pickles {
            0 => "has no weights: no .safetensors file",
            _ => {
                "has pickled weights alone, which are programs and are never read; fetch the model's .safetensors files, or save it anew with safe_serialization=True"
            }
        };
        return Err(usage(folder, hint));
    }
    let of_variant = |name: &str, variant: &str| {
        [".", "-"].iter().any(|after| name.contains(&format!(".{variant}{after}"))) // `-` where shards are numbered
    };
    let plain = |name: &str| !["fp16", "bf16", "non_ema", "ema"].iter().any(|variant| of_variant(name, variant));
    let wanted: Box<dyn Fn(&str) -> bool> = match variant {
        Some(variant) if weights.iter().any(|(name, _)| of_variant(name, variant)) => {
            Box::new(move |name| of_variant(name, variant))
        }
        Some(variant) if weighty => return Err(usage(folder, format!("has no weights of the variant `{variant}`"))),
        _ if weights.iter().any(|(name, _)| plain(name)) => Box::new(plain),
        _ => Box::new(move |name| of_variant(name, "fp16")),
    };
    let mut taken = BTreeSet::new();
    for (name, file) in weights {
        if !wanted(&name) {
            left_out.push(format!("{part}{slash}{name}"));
            continue;
        }
        header(&file)?;
        files.push(Candidate { path: format!("{part}{slash}{name}"), file });
        taken.insert(name);
    }
    if taken.is_empty() && weighty {
        return Err(usage(folder, "has weights of no variant that agents read by themselves; name one with --variant"));
    }
    for (name, file) in indexes {
        let map = read_json(&file)?;
        let shards: BTreeSet<&str> =
            map["weight_map"].as_object().into_iter().flatten().filter_map(|(_, file)| file.as_str()).collect();
        match shards.iter().find(|shard| !taken.contains(**shard)) {
            None => files.push(Candidate { path: format!("{part}{slash}{name}"), file }),
            // Of the files that were wanted, or of others?
            Some(lack) if wanted(lack) => return Err(usage(&file, format!("names `{lack}`, which is not there"))),
            Some(_) => left_out.push(format!("{part}{slash}{name}")),
        }
    }
    Ok(())
}
