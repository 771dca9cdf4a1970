//! What an import takes of a folder, what it leaves, and what it refuses.

use std::path::Path;

use serde_json::json;

use super::files::Found;
use super::*;

fn arguments(path: &Path) -> ImportArguments {
    ImportArguments {
        path: path.to_owned(),
        name: None,
        kind: None,
        licence: None,
        source: None,
        tokenizer: None,
        variant: None,
        plan: None,
        place: Place { bucket: "models".into(), json: true },
    }
}

fn put(path: &Path, bytes: impl AsRef<[u8]>) {
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(path, bytes).unwrap();
}

fn weights(names: &[&str]) -> Vec<u8> {
    let tensors: serde_json::Map<_, _> = names
        .iter()
        .enumerate()
        .map(|(i, name)| {
            ((*name).to_owned(), json!({"dtype": "F16", "shape": [1], "data_offsets": [2 * i, 2 * i + 2]}))
        })
        .collect();
    let head = serde_json::to_vec(&tensors).unwrap();
    [&(head.len() as u64).to_le_bytes()[..], &head, &vec![0; 2 * names.len()]].concat()
}

/// A pipeline as it is found on hubs, with more in it than agents read.
fn pipeline(folder: &Path) {
    let part = json!(["diffusers", "Part"]);
    let index = json!({"_class_name": "StableDiffusionPipeline", "unet": part, "vae": part, "text_encoder": part, "tokenizer": part,
        "scheduler": part, "safety_checker": part, "image_encoder": [null, null]});
    put(&folder.join("model_index.json"), index.to_string());
    put(&folder.join("README.md"), "---\nlicense: openrail\n---\n# A model");
    for part in ["unet", "vae", "text_encoder", "safety_checker"] {
        put(&folder.join(part).join("config.json"), json!({"cross_attention_dim": 768}).to_string());
    }
    for file in ["vae/diffusion_pytorch_model", "text_encoder/model"] {
        put(&folder.join(format!("{file}.safetensors")), weights(&["a"]));
        put(&folder.join(format!("{file}.fp16.safetensors")), weights(&["a"]));
    }
    put(&folder.join("text_encoder/pytorch_model.bin"), b"PK\x03\x04");
    put(&folder.join("tokenizer/vocab.json"), "{}");
    put(&folder.join("tokenizer/merges.txt"), "");
    put(&folder.join("scheduler/scheduler_config.json"), "{}");
    for shard in ["unet/d-00001-of-00002", "unet/d-00002-of-00002"] {
        put(&folder.join(format!("{shard}.safetensors")), weights(&["a"]));
    }
    let map = json!({"weight_map": {"a": "d-00001-of-00002.safetensors", "b": "d-00002-of-00002.safetensors"}});
    put(&folder.join("unet/d.safetensors.index.json"), map.to_string());
    let map = json!({"weight_map": {"a": "d.fp16-00001-of-00001.safetensors"}});
    put(&folder.join("unet/d.safetensors.index.fp16.json"), map.to_string());
}

fn paths(found: &Found) -> Vec<&str> {
    found.files.iter().map(|file| file.path.as_str()).collect()
}

fn problem(arguments: &ImportArguments) -> String {
    match Found::look(arguments) {
        Err(CliError::Usage(problem)) => problem,
        other => panic!("not refused as usage: {other:?}"),
    }
}

#[test]
fn of_a_diffusers_folder_what_agents_read_is_taken() {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().join("sd15");
    pipeline(&folder);
    let found = Found::look(&arguments(&folder)).unwrap();
    assert_eq!((found.kind.clone(), found.name.as_str()), (ModelKind::StableDiffusion1, "sd15"));
    assert_eq!(
        paths(&found),
        [
            "model_index.json",
            "scheduler/scheduler_config.json",
            "text_encoder/config.json",
            "text_encoder/model.safetensors",
            "tokenizer/merges.txt",
            "tokenizer/vocab.json",
            "unet/config.json",
            "unet/d-00001-of-00002.safetensors",
            "unet/d-00002-of-00002.safetensors",
            "unet/d.safetensors.index.json",
            "vae/config.json",
            "vae/diffusion_pytorch_model.safetensors",
        ]
    );
    for left in [
        "safety_checker",
        "README.md",
        "text_encoder/pytorch_model.bin",
        "vae/diffusion_pytorch_model.fp16.safetensors",
    ] {
        assert!(found.left_out.iter().any(|name| name == left), "{left}: {:?}", found.left_out);
    }
}

#[test]
fn a_model_of_clips_is_taken_without_what_agents_know_by_themselves() {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().join("svd");
    let part = json!(["diffusers", "Part"]);
    let index = json!({"_class_name": "StableVideoDiffusionPipeline", "unet": part, "vae": part, "image_encoder": part,
        "scheduler": part, "feature_extractor": part});
    put(&folder.join("model_index.json"), index.to_string());
    put(&folder.join("feature_extractor/preprocessor_config.json"), "{}");
    put(&folder.join("scheduler/scheduler_config.json"), "{}");
    for part in ["unet/diffusion_pytorch_model", "vae/diffusion_pytorch_model", "image_encoder/model"] {
        put(&folder.join(part).with_file_name("config.json"), "{}");
        put(&folder.join(format!("{part}.safetensors")), weights(&["a"]));
    }
    let found = Found::look(&arguments(&folder)).unwrap();
    assert_eq!((found.kind.clone(), found.name.as_str()), (ModelKind::StableVideoDiffusion, "svd"));
    let weighty = ["image_encoder/config.json", "image_encoder/model.safetensors", "unet/config.json"];
    assert!(weighty.iter().all(|path| paths(&found).contains(path)), "{:?}", paths(&found));
    assert!(found.left_out.contains(&"feature_extractor".to_owned()), "{:?}", found.left_out);
    std::fs::remove_file(folder.join("image_encoder/model.safetensors")).unwrap();
    assert!(problem(&arguments(&folder)).contains("has no weights"));
}

#[test]
fn a_diffusers_folder_that_lacks_something_is_refused_with_what_it_lacks() {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().join("sd15");
    let refused = |change: &dyn Fn(), words: &str| {
        let _ = std::fs::remove_dir_all(&folder);
        pipeline(&folder);
        change();
        let problem = problem(&arguments(&folder));
        assert!(problem.contains(words), "{words}: {problem}");
    };
    let remove = |name: &str| std::fs::remove_file(folder.join(name)).unwrap();
    refused(&|| remove("unet/d-00002-of-00002.safetensors"), "d-00002-of-00002");
    refused(
        &|| {
            ["model.safetensors", "model.fp16.safetensors"]
                .iter()
                .for_each(|name| remove(&format!("text_encoder/{name}")))
        },
        "programs",
    );
    refused(
        &|| put(&folder.join("vae/diffusion_pytorch_model.safetensors"), &weights(&["a"])[..20]),
        "no safetensors file",
    );
    refused(&|| put(&folder.join("model_index.json"), r#"{"_class_name": "FluxPipeline"}"#), "FluxPipeline");
    refused(
        &|| put(&folder.join("model_index.json"), r#"{"_class_name": "StableDiffusionPipeline"}"#),
        "names no `unet`",
    );
    pipeline(&folder);
    let half = ImportArguments { variant: Some("fp16".into()), ..arguments(&folder) };
    assert!(problem(&half).contains("unet"), "the UNet has no halves");
}

#[test]
fn a_single_file_shows_what_it_is_and_a_pickle_is_refused_under_every_name() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    put(&at("style.safetensors"), weights(&["lora_unet_x.lora_down.weight"]));
    let found = Found::look(&arguments(&at("style.safetensors"))).unwrap();
    assert_eq!(
        (found.kind.clone(), found.name.as_str(), paths(&found)),
        (ModelKind::Lora, "style", vec!["model.safetensors"])
    );
    put(&at("odd.safetensors"), weights(&["x"]));
    assert!(problem(&arguments(&at("odd.safetensors"))).contains("--kind"));
    let said = ImportArguments { kind: Some(ModelKind::VoiceActivity), ..arguments(&at("odd.safetensors")) };
    assert_eq!(paths(&Found::look(&said).unwrap()), ["odd.safetensors"]);
    put(&at("sd.safetensors"), weights(&["model.diffusion_model.x", "cond_stage_model.model.ln_final.weight"]));
    assert!(problem(&arguments(&at("sd.safetensors"))).contains("--tokenizer"));
    put(&at("words/vocab.json"), "{}");
    put(&at("words/merges.txt"), "");
    let whole = ImportArguments { tokenizer: Some(at("words")), ..arguments(&at("sd.safetensors")) };
    let found = Found::look(&whole).unwrap();
    assert_eq!(found.kind, ModelKind::StableDiffusion2);
    assert_eq!(paths(&found), ["clip-tokenizer/merges.txt", "clip-tokenizer/vocab.json", "model.safetensors"]);
    for (name, bytes) in [
        ("a.ckpt", &b"PK\x03\x04...."[..]),
        ("b.pt", b"x"),
        ("c.safetensors", b"\x80\x02}q\0\0\0\0\0\0"),
        ("d.bin", b"x"),
    ] {
        put(&at(name), bytes);
        let problem = problem(&arguments(&at(name)));
        assert!(problem.contains("never reads one") && problem.contains("safetensors"), "{name}: {problem}");
    }
    put(&at("e.gguf"), "x");
    assert!(problem(&arguments(&at("e.gguf"))).contains("none of"));
}

#[test]
fn pairs_of_ncnn_are_one_model_without_its_scales() {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().join("anime");
    let param = "7767517\n1 1\nInput data 0 1 data\n";
    for scale in [2, 4] {
        put(&folder.join(format!("anime-x{scale}.param")), param);
        put(&folder.join(format!("anime-x{scale}.bin")), [0; 8]);
    }
    let found = Found::look(&arguments(&folder)).unwrap();
    assert_eq!((found.kind.clone(), found.name.as_str()), (ModelKind::Upscale, "anime"));
    assert_eq!(paths(&found), ["anime-x2.bin", "anime-x2.param", "anime-x4.bin", "anime-x4.param"]);
    let found = Found::look(&arguments(&folder.join("anime-x4.bin"))).unwrap();
    assert_eq!((found.name.as_str(), paths(&found)), ("anime", vec!["anime-x4.bin", "anime-x4.param"]));
    put(&folder.join("anime-x2.param"), "7767517\n2 1\nInput data 0 1 data\n");
    assert!(problem(&arguments(&folder)).contains("line 2 says 2"));
    std::fs::remove_file(folder.join("anime-x4.bin")).unwrap();
    assert!(problem(&arguments(&folder.join("anime-x4.param"))).contains("needs its .bin"));
}
