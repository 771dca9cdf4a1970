//! The tiny models in the other files that people have: one for all parts, LoRAs; and the same with damage.

use super::{Tensors, fixtures, json, shape, values};

/// A form as one file with the original code's names, which diffusers' own converter vouches for.
pub(crate) fn single(form: &str) -> Tensors {
    let lists = json(&fixtures().join("lists.json"));
    let mut file = Tensors::new();
    for (part, prefix) in [("unet", "model.diffusion_model."), ("vae", "first_stage_model.")] {
        let mut tensors = super::tensors(form, part);
        for (name, original) in lists["original"][form][part].as_object().unwrap() {
            let (mut shape, values) = tensors.remove(name).unwrap();
            let attention = part == "vae" && name.contains("attentions") && shape.len() == 2;
            if attention {
                shape.extend([1, 1]); // convolutions there
            }
            file.insert(format!("{prefix}{}", original.as_str().unwrap()), (shape, values));
        }
        assert!(tensors.is_empty(), "{form} {part}: {:?}", tensors.keys().next());
    }
    let clip = |part: &str, prefix: &str, file: &mut Tensors| {
        for (name, tensor) in super::tensors(form, part) {
            file.insert(format!("{prefix}{name}"), tensor);
        }
    };
    match form {
        "sd15" => clip("text_encoder", "cond_stage_model.transformer.", &mut file),
        "sd21" => open_clip(form, "text_encoder", "cond_stage_model.model.", &mut file),
        _ => {
            clip("text_encoder", "conditioner.embedders.0.transformer.", &mut file);
            open_clip(form, "text_encoder_2", "conditioner.embedders.1.model.", &mut file);
        }
    }
    file
}

/// OpenCLIP's form of an encoder: query, key and value in one tensor, the projection from the other side. That of SD 2
/// has a last layer that nobody reads.
fn open_clip(form: &str, part: &str, prefix: &str, file: &mut Tensors) {
    let tensors = super::tensors(form, part);
    let layers = tensors.keys().filter(|name| name.ends_with("layer_norm1.bias")).count();
    let mut put = |name: String, tensor: (Vec<usize>, Vec<f32>)| drop(file.insert(format!("{prefix}{name}"), tensor));
    for (theirs, ours) in [
        ("token_embedding.weight", "text_model.embeddings.token_embedding.weight"),
        ("positional_embedding", "text_model.embeddings.position_embedding.weight"),
        ("ln_final.weight", "text_model.final_layer_norm.weight"),
        ("ln_final.bias", "text_model.final_layer_norm.bias"),
    ] {
        put(theirs.to_owned(), tensors[ours].clone());
    }
    if let Some((shape, values)) = tensors.get("text_projection.weight") {
        let (rows, columns) = (shape[0], shape[1]);
        let turned = (0..rows * columns).map(|at| values[at % rows * columns + at / rows]).collect();
        put("text_projection".to_owned(), (vec![columns, rows], turned));
    }
    for layer in 0..layers + usize::from(form == "sd21") {
        let from = format!("text_model.encoder.layers.{}", layer.min(layers - 1));
        let to = format!("transformer.resblocks.{layer}");
        for kind in ["weight", "bias"] {
            for (theirs, ours) in [
                ("ln_1", "layer_norm1"),
                ("ln_2", "layer_norm2"),
                ("mlp.c_fc", "mlp.fc1"),
                ("mlp.c_proj", "mlp.fc2"),
                ("attn.out_proj", "self_attn.out_proj"),
            ] {
                put(format!("{to}.{theirs}.{kind}"), tensors[&format!("{from}.{ours}.{kind}")].clone());
            }
            let three = ["q", "k", "v"].map(|which| &tensors[&format!("{from}.self_attn.{which}_proj.{kind}")]);
            let mut shape = three[0].0.clone();
            shape[0] *= 3;
            let values = three.iter().flat_map(|(_, values)| values.clone()).collect();
            put(format!("{to}.attn.in_proj_{kind}"), (shape, values));
        }
    }
}

/// A LoRA of the form `sd15`, named as `style` does.
pub(crate) fn lora_tensors(style: &str) -> Tensors {
    let lists = json(&fixtures().join("lists.json"));
    let tensor = |(name, sides): (&String, &serde_json::Value)| {
        let shape = shape(sides);
        let values = if shape.is_empty() { vec![2.0] } else { values(&format!("lora/{name}"), &shape) };
        (name.clone(), (shape, values))
    };
    lists["lora"][style].as_object().unwrap().iter().map(tensor).collect()
}

/// A safetensors file of `tensors` with changes that `edits` tell, seven bytes each: which tensor, what is done to it, and
/// how. The file is well formed, unless a change is that it is not; what it means is another matter.
pub(crate) fn damaged(tensors: &Tensors, edits: &[u8]) -> Vec<u8> {
    let mut tensors: Vec<(String, Vec<usize>, Vec<u8>, &str)> = tensors
        .iter()
        .map(|(name, (shape, values))| {
            (name.clone(), shape.clone(), values.iter().flat_map(|value| value.to_le_bytes()).collect(), "F32")
        })
        .collect();
    let mut cut = 0;
    for edit in edits.chunks_exact(7).take(16) {
        if tensors.is_empty() {
            break;
        }
        let at = usize::from(u16::from_le_bytes([edit[0], edit[1]])) % tensors.len();
        let number = usize::from(u16::from_le_bytes([edit[4], edit[5]]));
        let (name, shape, data, kind) = &mut tensors[at];
        match edit[2] % 9 {
            0 => drop(tensors.remove(at)),
            1 => name.push(char::from(edit[3])),
            2 => drop(name.pop()),
            3 => shape.push(1),
            4 => drop(shape.pop()),
            // A side is another, with as many values as that takes.
            5 => {
                if let Some(side) = shape.get_mut(usize::from(edit[3]) % 4) {
                    *side = number % 70;
                    let count: usize = shape.iter().product();
                    if count < 1 << 20 {
                        data.resize(count * 4, edit[6]);
                    }
                }
            }
            6 => {
                let index = number % data.len().max(1);
                data.iter_mut().skip(index).take(4).for_each(|byte| *byte = edit[6]);
            }
            7 => *kind = ["F16", "BF16", "I64", "F32", "BOOL", "F8_E4M3"][usize::from(edit[3]) % 6],
            _ => cut = number,
        }
    }
    let (mut header, mut all) = (serde_json::Map::new(), Vec::new());
    for (name, shape, data, kind) in tensors {
        let start = all.len();
        all.extend_from_slice(&data);
        header.insert(name, serde_json::json!({"dtype": kind, "shape": shape, "data_offsets": [start, all.len()]}));
    }
    let header = serde_json::Value::Object(header).to_string();
    let mut file = [&(header.len() as u64).to_le_bytes()[..], header.as_bytes(), &all].concat();
    file.truncate(file.len() - cut.min(file.len()));
    file
}
