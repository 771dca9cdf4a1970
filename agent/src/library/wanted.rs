//! Which models a job names, where each lies when the host has it, and where the worker looks for it.
//!
//! The built-in worker knows one layout: a folder with models by their names, and in it `loras`, `embeddings` and `motion`.
//! What the cache has is shown to it in that layout, so that it does not matter to it where a model comes from.

use std::path::{Path, PathBuf};

use backlot_wire::model::{Manifest, ModelKind, ModelRef};
use serde_json::{Map, Value};

use crate::infer::models::{Table, folder};

const ENDING: &str = ".safetensors";
/// CLIP's words, beside models in one file.
const VOCABULARY: &str = "clip-tokenizer";
/// The upscaler of jobs that name none.
const UPSCALER: &str = "realesr-animevideov3";
/// What speech is found with, and its file.
const SPEECH: (&str, &str) = ("silero-vad", "silero_vad_16k.safetensors");
/// Most models of one job.
const WANTED_MAX: usize = 64;

/// What a job wants a model for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    Diffusion,
    Motion,
    Lora,
    Embedding,
    Upscale,
    Speech,
}

/// A model that a job names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wanted {
    pub role: Role,
    pub name: String,
    /// The beginning of the digest of the one version that will do.
    pub digest: Option<String>,
}

/// The models that a job of a built-in type names, without doubles. A name that is none is left out: the worker refuses it
/// with the parameter's name.
#[must_use]
pub fn of(kind: &str, parameters: &Map<String, Value>) -> Vec<Wanted> {
    let mut wanted = Vec::new();
    let mut add = |role, text: &str| {
        let Some(ModelRef { name, digest }) = ModelRef::parse(text) else { return };
        let one = Wanted { role, name: name.to_owned(), digest: digest.map(str::to_owned) };
        if wanted.len() < WANTED_MAX && !wanted.contains(&one) {
            wanted.push(one);
        }
    };
    match kind {
        "image.generate" | "video.generate" => {
            for (field, role) in FIELDS {
                let Some(mut value) = parameters.get(field).cloned() else { continue };
                each_name(role, &mut value, &mut |name| {
                    add(role, name);
                    None
                });
            }
        }
        "image.upscale" | "video.upscale" => {
            let name = parameters.get("model").map_or(Some(UPSCALER), Value::as_str);
            // Of upscalers the build knows each file; another one would be refused whatever the store has.
            let known = |table: Table, name: &str| table.models.iter().any(|model| model.name == name);
            let bare = name.and_then(ModelRef::parse);
            if bare.is_some_and(|bare| Table::of_this_build().is_ok_and(|table| known(table, bare.name))) {
                add(Role::Upscale, name.unwrap_or_default());
            }
        }
        "audio.speech-segments" => add(Role::Speech, SPEECH.0),
        _ => {}
    }
    wanted
}

/// Parameters that name models.
const FIELDS: [(&str, Role); 4] =
    [("model", Role::Diffusion), ("motion", Role::Motion), ("loras", Role::Lora), ("embeddings", Role::Embedding)];

/// Takes the versions out of the names: in the folder that the worker is shown each name is one model.
pub fn without_versions(parameters: &mut Map<String, Value>) {
    for (field, role) in FIELDS {
        let Some(value) = parameters.get_mut(field) else { continue };
        each_name(role, value, &mut |name| {
            let pinned = ModelRef::parse(name).filter(|asked| asked.digest.is_some())?;
            Some(pinned.name.to_owned())
        });
    }
}

/// Calls `change` with each name in a parameter; what it gives takes the name's place. LoRAs and embeddings may be lists or texts
/// with commas, a LoRA's weight stands behind a colon.
fn each_name(role: Role, value: &mut Value, change: &mut dyn FnMut(&str) -> Option<String>) {
    match value {
        Value::String(text) if matches!(role, Role::Diffusion | Role::Motion | Role::Upscale) => {
            if let Some(new) = change(text) {
                *text = new;
            }
        }
        Value::String(text) => {
            let parts: Vec<String> = text
                .split(',')
                .map(|part| {
                    let (name, weight) =
                        part.split_once(':').map_or((part, None), |(name, weight)| (name, Some(weight)));
                    match (change(name.trim()), weight) {
                        (None, _) => part.to_owned(),
                        (Some(new), None) => new,
                        (Some(new), Some(weight)) => format!("{new}:{weight}"),
                    }
                })
                .collect();
            *text = parts.join(",");
        }
        Value::Array(values) => values.iter_mut().for_each(|value| each_name(role, value, change)),
        Value::Object(fields) => {
            if let Some(Value::String(name)) = fields.get_mut("name")
                && let Some(new) = change(name.trim())
            {
                *name = new;
            }
        }
        _ => {}
    }
}

/// A thing in the folder that the worker is shown, and where it really lies.
pub type Link = (PathBuf, PathBuf);

impl Wanted {
    /// Where the host's own folder of models has it, if it has it. One whose version is asked for is never taken
    /// from there: nobody knows which version that is.
    #[must_use]
    pub fn local(&self, models: &Path, parameters: &Map<String, Value>) -> Option<Vec<Link>> {
        if self.digest.is_some() {
            return None;
        }
        let link = |name: String| (PathBuf::from(&name), models.join(&name));
        let file = |name: String| models.join(&name).is_file().then(|| vec![link(name)]);
        match self.role {
            Role::Diffusion => {
                let place = folder::find(models, &self.name)?;
                let name = place.file_name()?.to_str()?.to_owned();
                let words = models.join(VOCABULARY).is_dir().then(|| link(VOCABULARY.to_owned()));
                Some(std::iter::once(link(name)).chain(words).collect())
            }
            Role::Motion => {
                let folder = format!("motion/{}", self.name);
                let is_folder = models.join(&folder).join("config.json").is_file();
                if is_folder { Some(vec![link(folder)]) } else { file(format!("motion/{}{ENDING}", self.name)) }
            }
            Role::Lora => file(format!("loras/{}{ENDING}", self.name)),
            Role::Embedding => file(format!("embeddings/{}{ENDING}", self.name)),
            Role::Speech => file(SPEECH.1.to_owned()),
            Role::Upscale => {
                let table = Table::of_this_build().ok()?;
                let model = table.models.into_iter().find(|model| model.name == self.name)?;
                let scale = parameters.get("scale").map_or(Some(2.0), |scale| {
                    scale.as_f64().or_else(|| scale.as_str().and_then(|text| text.parse().ok()))
                });
                let asked = model.scales.iter().find(|known| scale == Some(f64::from(known.scale)));
                let files = asked.or(model.scales.first()).map(|scale| &scale.files)?;
                let pair = [format!("{files}.param"), format!("{files}.bin")];
                pair.iter().all(|name| models.join(name).is_file()).then(|| pair.map(link).into())
            }
        }
    }

    /// Where the worker looks for what `files` has of the model.
    ///
    /// # Errors
    /// A sentence: the model is none of the kind that is asked for.
    pub fn cached(&self, manifest: &Manifest, files: &Path) -> Result<Vec<Link>, String> {
        let kind = &manifest.kind;
        let fits = match self.role {
            Role::Diffusion => kind.is_diffusion() || *kind == ModelKind::StableVideoDiffusion,
            Role::Motion => *kind == ModelKind::MotionModule,
            Role::Lora => *kind == ModelKind::Lora,
            Role::Embedding => *kind == ModelKind::TextualInversion,
            Role::Upscale => *kind == ModelKind::Upscale,
            Role::Speech => *kind == ModelKind::VoiceActivity,
        };
        if !fits {
            return Err(format!(
                "the model `{}` is of the kind `{kind}`, which is not what the job names it for",
                self.name
            ));
        }
        let has = |path: &str| manifest.files.iter().any(|file| file.path == path);
        let folder_or_file = |above: &str, mark: &str| {
            let to = format!("{above}{}", self.name);
            match has(mark) {
                true => Ok(vec![(PathBuf::from(to), files.to_owned())]),
                false => self.only_weights(manifest, files, &to),
            }
        };
        match self.role {
            Role::Diffusion => {
                let mut links = folder_or_file("", "model_index.json")?;
                if manifest.files.iter().any(|file| file.path.starts_with("clip-tokenizer/")) {
                    links.push((PathBuf::from(VOCABULARY), files.join(VOCABULARY)));
                }
                Ok(links)
            }
            Role::Motion => folder_or_file("motion/", "config.json"),
            Role::Lora => self.only_weights(manifest, files, &format!("loras/{}", self.name)),
            Role::Embedding => self.only_weights(manifest, files, &format!("embeddings/{}", self.name)),
            Role::Upscale | Role::Speech => {
                let plain = manifest.files.iter().filter(|file| !file.path.contains('/'));
                Ok(plain.map(|file| (PathBuf::from(&file.path), files.join(&file.path))).collect())
            }
        }
    }

    /// The model's only file of weights at its root.
    fn only_weights(&self, manifest: &Manifest, files: &Path, to: &str) -> Result<Vec<Link>, String> {
        let mut weights = manifest.files.iter().filter(|file| file.path.ends_with(ENDING) && !file.path.contains('/'));
        match (weights.next(), weights.next()) {
            (Some(one), None) => Ok(vec![(PathBuf::from(format!("{to}{ENDING}")), files.join(&one.path))]),
            _ => Err(format!("the model `{}` has not one file of weights", self.name)),
        }
    }
}

#[cfg(test)]
mod tests {
    use backlot_wire::Timestamp;
    use backlot_wire::model::ModelFile;
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn parameters(value: Value) -> Map<String, Value> {
        let Value::Object(fields) = value else { panic!("an object") };
        fields
    }

    fn names(kind: &str, value: Value) -> Vec<String> {
        let of = of(kind, &parameters(value)).into_iter();
        of.map(|one| format!("{:?} {}{}", one.role, one.name, one.digest.map_or(String::new(), |d| format!("@{d}"))))
            .collect()
    }

    #[test]
    fn a_job_names_its_models_in_every_form_that_the_parameters_have() {
        let pinned = json!({"model": "sd@0123abcd", "motion": "mm", "loras": "a, b@0123abcd:0.5", "embeddings": ["w", {"name": "v"}]});
        let all = ["Diffusion sd@0123abcd", "Motion mm", "Lora a", "Lora b@0123abcd", "Embedding w", "Embedding v"];
        assert_eq!(names("video.generate", pinned.clone()), all);
        let mut bare = parameters(pinned);
        without_versions(&mut bare);
        assert_eq!(
            Value::Object(bare),
            json!({"model": "sd", "motion": "mm", "loras": "a,b:0.5", "embeddings": ["w", {"name": "v"}]})
        );
        assert_eq!(
            names("image.generate", json!({"loras": [{"name": "a@0123abcd"}], "model": 7})),
            ["Lora a@0123abcd"]
        );
        assert_eq!(names("image.upscale", json!({})), ["Upscale realesr-animevideov3"]);
        assert!(names("image.upscale", json!({"model": "unknown"})).is_empty(), "the worker refuses it");
        assert_eq!(names("audio.speech-segments", json!({})), ["Speech silero-vad"]);
        assert!(names("image.process", json!({"model": "x"})).is_empty());
        assert!(names("image.generate", json!({"model": "../x"})).is_empty());
    }

    #[test]
    fn a_model_of_the_folder_is_taken_unless_a_version_is_asked_for() {
        let dir = tempfile::tempdir().unwrap();
        let put = |name: &str| {
            std::fs::create_dir_all(dir.path().join(name).parent().unwrap()).unwrap();
            std::fs::write(dir.path().join(name), "").unwrap();
        };
        ["one.safetensors", "loras/a.safetensors", "realesr-animevideov3-x2.param", "clip-tokenizer/vocab.json"]
            .into_iter()
            .for_each(put);
        let local = |role, name: &str, digest: Option<&str>| {
            let wanted = Wanted { role, name: name.into(), digest: digest.map(str::to_owned) };
            let links = wanted.local(dir.path(), &Map::new())?;
            Some(links.into_iter().map(|(to, _)| to.to_str().unwrap().to_owned()).collect::<Vec<_>>())
        };
        assert_eq!(local(Role::Diffusion, "one", None).unwrap(), ["one.safetensors", "clip-tokenizer"]);
        assert_eq!(local(Role::Lora, "a", None).unwrap(), ["loras/a.safetensors"]);
        assert_eq!(local(Role::Lora, "a", Some("0123abcd")), None);
        assert_eq!(local(Role::Upscale, "realesr-animevideov3", None), None, "half a pair");
        put("realesr-animevideov3-x2.bin");
        assert_eq!(local(Role::Upscale, "realesr-animevideov3", None).unwrap().len(), 2);
    }

    #[test]
    fn a_cached_model_is_shown_where_the_worker_looks_for_its_kind() {
        let manifest = |kind, paths: &[&str]| Manifest {
            version: 1,
            name: "m".into(),
            kind,
            licence: String::new(),
            source: None,
            imported_at: Timestamp(0),
            files: paths
                .iter()
                .map(|path| ModelFile { path: (*path).into(), bytes: 1, sha256: String::new() })
                .collect(),
            vram: Vec::new(),
        };
        let shown = |role, manifest: &Manifest| {
            let wanted = Wanted { role, name: "m".into(), digest: None };
            let links = wanted.cached(manifest, Path::new("/f"))?;
            Ok::<_, String>(
                links.into_iter().map(|(to, from)| format!("{} {}", to.display(), from.display())).collect::<Vec<_>>(),
            )
        };
        let folder = manifest(ModelKind::StableDiffusion1, &["model_index.json", "unet/config.json"]);
        assert_eq!(shown(Role::Diffusion, &folder).unwrap(), ["m /f"]);
        let file = manifest(ModelKind::StableDiffusionXl, &["model.safetensors", "clip-tokenizer/vocab.json"]);
        assert_eq!(
            shown(Role::Diffusion, &file).unwrap(),
            ["m.safetensors /f/model.safetensors", "clip-tokenizer /f/clip-tokenizer"]
        );
        let motion = manifest(ModelKind::MotionModule, &["config.json", "d.safetensors"]);
        assert_eq!(shown(Role::Motion, &motion).unwrap(), ["motion/m /f"]);
        let lora = manifest(ModelKind::Lora, &["model.safetensors"]);
        assert_eq!(shown(Role::Lora, &lora).unwrap(), ["loras/m.safetensors /f/model.safetensors"]);
        let pair = manifest(ModelKind::Upscale, &["a.param", "a.bin"]);
        assert_eq!(shown(Role::Upscale, &pair).unwrap(), ["a.param /f/a.param", "a.bin /f/a.bin"]);
        assert!(shown(Role::Diffusion, &lora).unwrap_err().contains("kind `lora`"));
        assert!(shown(Role::Lora, &manifest(ModelKind::Lora, &["a.safetensors", "b.safetensors"])).is_err());
    }

    proptest! {
        #[test]
        fn no_parameters_panic_and_bare_names_stay_as_they_are(text in "[a-z@:,0-9. ]{0,24}", listed in any::<bool>()) {
            let value = if listed { json!([text]) } else { json!(text) };
            let mut fields = parameters(json!({"model": text, "loras": value, "embeddings": value}));
            let before = fields.clone();
            let _ = of("image.generate", &fields);
            without_versions(&mut fields);
            if !text.contains('@') {
                prop_assert_eq!(before, fields);
            }
        }
    }
}
