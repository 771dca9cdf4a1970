//! What kinds of models there are, and how a file of weights shows which one it is.

use serde::{Deserialize, Serialize};

use super::head::Header;

/// What a model is for. A kind that this program does not know is kept as it is written.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ModelKind {
    #[serde(rename = "stable-diffusion-1")]
    StableDiffusion1,
    #[serde(rename = "stable-diffusion-2")]
    StableDiffusion2,
    StableDiffusionXl,
    StableVideoDiffusion,
    MotionModule,
    Lora,
    TextualInversion,
    Upscale,
    VoiceActivity,
    Denoise,
    #[serde(untagged)]
    Other(String),
}

/// Every kind that has a name here.
const ALL: [(ModelKind, &str); 10] = [
    (ModelKind::StableDiffusion1, "stable-diffusion-1"),
    (ModelKind::StableDiffusion2, "stable-diffusion-2"),
    (ModelKind::StableDiffusionXl, "stable-diffusion-xl"),
    (ModelKind::StableVideoDiffusion, "stable-video-diffusion"),
    (ModelKind::MotionModule, "motion-module"),
    (ModelKind::Lora, "lora"),
    (ModelKind::TextualInversion, "textual-inversion"),
    (ModelKind::Upscale, "upscale"),
    (ModelKind::VoiceActivity, "voice-activity"),
    (ModelKind::Denoise, "denoise"),
];

impl ModelKind {
    /// The kind that `text` names, of those that have a name here.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        ALL.into_iter().find(|(_, name)| *name == text).map(|(kind, _)| kind)
    }

    /// The names of all kinds.
    #[must_use]
    pub fn names() -> Vec<&'static str> {
        ALL.iter().map(|(_, name)| *name).collect()
    }

    #[must_use]
    pub fn as_str(&self) -> &str {
        match self {
            Self::Other(name) => name,
            known => ALL.iter().find(|(kind, _)| kind == known).map_or("", |(_, name)| name),
        }
    }

    /// Whether it makes pictures from a text by itself.
    #[must_use]
    pub fn is_diffusion(&self) -> bool {
        matches!(self, Self::StableDiffusion1 | Self::StableDiffusion2 | Self::StableDiffusionXl)
    }

    /// What a single safetensors file is, by the names of its tensors; `None`: nothing that is known here.
    #[must_use]
    pub fn of(header: &Header) -> Option<Self> {
        let has = |name: &str| header.tensors.contains_key(name);
        let any = |part: &dyn Fn(&str) -> bool| header.tensors.keys().any(|name| part(name));
        let is_lora = |name: &str| {
            ["lora_down.weight", "lora.down.weight", "lora_A.weight", "lora_linear_layer.down.weight"]
                .iter()
                .any(|ending| name.ends_with(ending))
        };
        if any(&|name| name.starts_with("model.diffusion_model.")) {
            return if has("conditioner.embedders.1.model.ln_final.weight") {
                Some(Self::StableDiffusionXl)
            } else if has("cond_stage_model.model.ln_final.weight") {
                Some(Self::StableDiffusion2)
            } else if has("cond_stage_model.transformer.text_model.final_layer_norm.weight") {
                Some(Self::StableDiffusion1)
            } else {
                None // a UNet without its text encoder
            };
        }
        if any(&|name| name.contains("motion_modules.")) {
            return Some(Self::MotionModule);
        }
        if any(&is_lora) {
            return Some(Self::Lora);
        }
        let words = ["emb_params", "clip_l", "clip_g"];
        let inverts = !header.tensors.is_empty() && header.tensors.keys().all(|name| words.contains(&name.as_str()));
        inverts.then_some(Self::TextualInversion)
    }
}

impl std::fmt::Display for ModelKind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::head::Tensor;

    fn with(names: &[&str]) -> Header {
        let tensor = Tensor { dtype: "F16".into(), shape: vec![1], data_offsets: [0, 2] };
        Header { tensors: names.iter().map(|name| ((*name).to_owned(), tensor.clone())).collect() }
    }

    #[test]
    fn a_kind_is_written_by_its_name_and_an_unknown_one_is_kept() {
        for (kind, name) in ALL {
            assert_eq!(serde_json::to_value(&kind).unwrap(), name);
            assert_eq!(serde_json::from_value::<ModelKind>(name.into()).unwrap(), kind);
            assert_eq!((ModelKind::parse(name), kind.as_str()), (Some(kind.clone()), name));
        }
        let later: ModelKind = serde_json::from_value("hologram".into()).unwrap();
        assert_eq!((later.as_str(), serde_json::to_value(&later).unwrap()), ("hologram", "hologram".into()));
        assert_eq!(ModelKind::parse("hologram"), None);
    }

    #[test]
    fn a_file_shows_by_its_tensors_what_it_is() {
        let unet = "model.diffusion_model.input_blocks.0.0.weight";
        for (names, kind) in [
            (&[unet, "conditioner.embedders.1.model.ln_final.weight"][..], Some(ModelKind::StableDiffusionXl)),
            (&[unet, "cond_stage_model.model.ln_final.weight"], Some(ModelKind::StableDiffusion2)),
            (
                &[unet, "cond_stage_model.transformer.text_model.final_layer_norm.weight"],
                Some(ModelKind::StableDiffusion1),
            ),
            (&[unet], None),
            (&["down_blocks.0.motion_modules.0.proj_in.weight"], Some(ModelKind::MotionModule)),
            (&["lora_unet_x.lora_down.weight", "lora_unet_x.alpha"], Some(ModelKind::Lora)),
            (&["unet.x.lora_A.weight"], Some(ModelKind::Lora)),
            (&["clip_l", "clip_g"], Some(ModelKind::TextualInversion)),
            (&["clip_l", "else"], None),
            (&[], None),
        ] {
            assert_eq!(ModelKind::of(&with(names)), kind, "{names:?}");
        }
    }
}
