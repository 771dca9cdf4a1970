//! Folders of the tiny models, which the tests of the whole write too: nothing here is of the agent.

#![allow(dead_code, reason = "each test file that includes this uses a part of it")]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde_json::Value;

/// Shapes and values by name.
pub(crate) type Tensors = BTreeMap<String, (Vec<usize>, Vec<f32>)>;

pub(crate) fn fixtures() -> PathBuf {
    // The fuzz targets, which are a workspace beside this one, have these as well.
    let places = ["tests/fixtures/diffusion", "../agent/tests/fixtures/diffusion"];
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    places.iter().map(|place| here.join(place)).find(|place| place.is_dir()).unwrap()
}

/// The values of the tensor `name`, as `make.py` has them.
pub(crate) fn values(name: &str, shape: &[usize]) -> Vec<f32> {
    let seed = name
        .bytes()
        .fold(0xCBF2_9CE4_8422_2325_u64, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01B3));
    let rest: usize = shape.iter().skip(1).product();
    let scale = (3.0 / rest as f64).sqrt() as f32;
    (1..=shape.iter().product::<usize>() as u64)
        .map(|i| {
            let mut z = seed.wrapping_add(i.wrapping_mul(0x9E37_79B9_7F4A_7C15));
            z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
            z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
            z ^= z >> 31;
            let unit = (z >> 40) as f32 / (1 << 23) as f32 - 1.0;
            match shape {
                [_] if name.ends_with("weight") => unit * 0.1 + 1.0,
                [_] if name.ends_with("mix_factor") => unit * 0.1 * 20.0,
                [_] => unit * 0.1,
                _ if name.starts_with("input.") => unit,
                _ => unit * scale,
            }
        })
        .collect()
}

/// A safetensors file of f32 tensors.
pub(crate) fn safetensors(tensors: &Tensors) -> Vec<u8> {
    let (mut header, mut data) = (serde_json::Map::new(), Vec::new());
    for (name, (shape, values)) in tensors {
        let start = data.len();
        data.extend(values.iter().flat_map(|value| value.to_le_bytes()));
        let entry = serde_json::json!({"dtype": "F32", "shape": shape, "data_offsets": [start, data.len()]});
        header.insert(name.clone(), entry);
    }
    let header = serde_json::to_vec(&header).unwrap();
    [&(header.len() as u64).to_le_bytes()[..], &header, &data].concat()
}

pub(crate) fn json(path: &Path) -> Value {
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

pub(crate) fn shape(value: &Value) -> Vec<usize> {
    value.as_array().unwrap().iter().map(|side| side.as_u64().unwrap() as usize).collect()
}

/// The tensors of a part of a form, as PyTorch lists them, with their values.
pub(crate) fn tensors(form: &str, part: &str) -> Tensors {
    let list = json(&fixtures().join(form).join("tensors.json"));
    let of_part = list[part].as_object().unwrap_or_else(|| panic!("{form} has no {part}"));
    let tensor = |(name, sides): (&String, &Value)| {
        let shape = shape(sides);
        let values = values(&format!("{part}/{name}"), &shape);
        (name.clone(), (shape, values))
    };
    of_part.iter().map(tensor).collect()
}

/// Writes the form as a diffusers folder at `to`, weights and all.
pub(crate) fn write_folder(form: &str, to: &Path) {
    copy(&fixtures().join(form), to);
    let list = json(&to.join("tensors.json"));
    for name in list.as_object().unwrap().keys() {
        let file = if name.contains("_encoder") { "model.safetensors" } else { "diffusion_pytorch_model.safetensors" };
        std::fs::write(to.join(name).join(file), safetensors(&tensors(form, name))).unwrap();
    }
    for left in ["tensors.json", "made.safetensors"] {
        std::fs::remove_file(to.join(left)).unwrap();
    }
}

/// Writes the motion modules of `fixtures/diffusion/motion` as a folder of diffusers at `to`.
pub(crate) fn write_motion(to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    std::fs::copy(fixtures().join("motion/config.json"), to.join("config.json")).unwrap();
    let file = to.join("diffusion_pytorch_model.safetensors");
    std::fs::write(file, safetensors(&tensors("motion", "motion"))).unwrap();
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy(&entry.path(), &target);
        } else {
            std::fs::copy(entry.path(), target).unwrap();
        }
    }
}
