//! Names that the original Stable Diffusion code gives its weights, from those that diffusers gives them.
//!
//! Single-file checkpoints have them, and so have LoRAs that were trained on SDXL with other tools.

use super::config::Unet;

/// A name cut at its dots: head, number, head, number, rest.
fn numbered<'a>(name: &'a str, head: &str) -> Option<(usize, &'a str)> {
    let (number, rest) = name.strip_prefix(head)?.split_once('.')?;
    Some((number.parse().ok()?, rest))
}

fn replaced(name: &str, pairs: &[(&str, &str)]) -> Option<String> {
    pairs.iter().find_map(|(from, to)| Some(format!("{to}{}", name.strip_prefix(from)?)))
}

/// The name of a UNet's weight, without the prefix of the UNet in a checkpoint.
pub(super) fn unet(config: &Unet, name: &str) -> Option<String> {
    let ends = [
        ("time_embedding.linear_1.", "time_embed.0."),
        ("time_embedding.linear_2.", "time_embed.2."),
        ("add_embedding.linear_1.", "label_emb.0.0."),
        ("add_embedding.linear_2.", "label_emb.0.2."),
        ("conv_in.", "input_blocks.0.0."),
        ("conv_norm_out.", "out.0."),
        ("conv_out.", "out.2."),
    ];
    if let Some(name) = replaced(name, &ends) {
        return Some(name);
    }
    let per_level = config.layers + 1;
    if let Some((level, rest)) = numbered(name, "down_blocks.") {
        if let Some(rest) = rest.strip_prefix("downsamplers.0.conv.") {
            return Some(format!("input_blocks.{}.0.op.{rest}", per_level * (level + 1)));
        }
        let (place, part, rest) = block(rest)?;
        return Some(format!("input_blocks.{}.{part}.{rest}", 1 + per_level * level + place));
    }
    if let Some((level, rest)) = numbered(name, "up_blocks.") {
        if let Some(rest) = rest.strip_prefix("upsamplers.0.") {
            // It stands behind the attention, where there is one.
            let attends = config.levels.get(config.levels.len().checked_sub(level + 1)?)?.depth > 0;
            return Some(format!("output_blocks.{}.{}.{rest}", per_level * (level + 1) - 1, 1 + usize::from(attends)));
        }
        let (place, part, rest) = block(rest)?;
        return Some(format!("output_blocks.{}.{part}.{rest}", per_level * level + place));
    }
    let (place, part, rest) = block(name.strip_prefix("mid_block.")?)?;
    let place = if part == 1 { 1 } else { 2 * place };
    Some(format!("middle_block.{place}.{rest}"))
}

/// Which block of a level: its place, 0 for a residual and 1 for a transformer, and the name inside.
fn block(rest: &str) -> Option<(usize, usize, String)> {
    if let Some((place, rest)) = numbered(rest, "attentions.") {
        return Some((place, 1, rest.to_owned()));
    }
    let (place, rest) = numbered(rest, "resnets.")?;
    let inside = [
        ("norm1.", "in_layers.0."),
        ("conv1.", "in_layers.2."),
        ("time_emb_proj.", "emb_layers.1."),
        ("norm2.", "out_layers.0."),
        ("conv2.", "out_layers.3."),
        ("conv_shortcut.", "skip_connection."),
    ];
    Some((place, 0, replaced(rest, &inside)?))
}

/// The name of a VAE's weight, without the prefix of the VAE in a checkpoint.
pub(super) fn vae(levels: usize, name: &str) -> Option<String> {
    if name.starts_with("quant_conv.") || name.starts_with("post_quant_conv.") {
        return Some(name.to_owned());
    }
    let (half, rest) = name.split_once('.')?;
    let plain = [("conv_in.", "conv_in."), ("conv_out.", "conv_out."), ("conv_norm_out.", "norm_out.")];
    if let Some(rest) = replaced(rest, &plain) {
        return Some(format!("{half}.{rest}"));
    }
    let inside = |rest: &str| rest.replace("conv_shortcut.", "nin_shortcut.");
    if let Some((level, rest)) = numbered(rest, "down_blocks.") {
        return Some(match numbered(rest, "resnets.") {
            Some((place, rest)) => format!("{half}.down.{level}.block.{place}.{}", inside(rest)),
            None => format!("{half}.down.{level}.downsample.{}", rest.strip_prefix("downsamplers.0.")?),
        });
    }
    if let Some((level, rest)) = numbered(rest, "up_blocks.") {
        let level = levels.checked_sub(level + 1)?;
        return Some(match numbered(rest, "resnets.") {
            Some((place, rest)) => format!("{half}.up.{level}.block.{place}.{}", inside(rest)),
            None => format!("{half}.up.{level}.upsample.{}", rest.strip_prefix("upsamplers.0.")?),
        });
    }
    let rest = rest.strip_prefix("mid_block.")?;
    if let Some((place, rest)) = numbered(rest, "resnets.") {
        return Some(format!("{half}.mid.block_{}.{}", place + 1, inside(rest)));
    }
    let attention =
        [("group_norm.", "norm."), ("to_q.", "q."), ("to_k.", "k."), ("to_v.", "v."), ("to_out.0.", "proj_out.")];
    Some(format!("{half}.mid.attn_1.{}", replaced(rest.strip_prefix("attentions.0.")?, &attention)?))
}

/// The name of an OpenCLIP text encoder's weight, and which third of it where three lie in one.
pub(super) fn open_clip(name: &str) -> Option<(String, Option<usize>)> {
    match name {
        "text_model.embeddings.token_embedding.weight" => return Some(("token_embedding.weight".into(), None)),
        "text_model.embeddings.position_embedding.weight" => return Some(("positional_embedding".into(), None)),
        "text_projection.weight" => return Some(("text_projection".into(), None)),
        _ => {}
    }
    if let Some(rest) = name.strip_prefix("text_model.final_layer_norm.") {
        return Some((format!("ln_final.{rest}"), None));
    }
    let (layer, rest) = numbered(name, "text_model.encoder.layers.")?;
    let root = format!("transformer.resblocks.{layer}");
    for (third, part) in ["q_proj.", "k_proj.", "v_proj."].iter().enumerate() {
        if let Some(kind) = rest.strip_prefix("self_attn.").and_then(|rest| rest.strip_prefix(part)) {
            return Some((format!("{root}.attn.in_proj_{kind}"), Some(third)));
        }
    }
    let inside = [
        ("layer_norm1.", "ln_1."),
        ("layer_norm2.", "ln_2."),
        ("mlp.fc1.", "mlp.c_fc."),
        ("mlp.fc2.", "mlp.c_proj."),
        ("self_attn.out_proj.", "attn.out_proj."),
    ];
    Some((format!("{root}.{}", replaced(rest, &inside)?), None))
}
