//! The job types `image.upscale` and `video.upscale`: parameters, the loaded network, the inputs one by one.

use serde_json::{Map, Value};

use super::executor::{ExecError, Program};
use super::models::{Table, upscale};
use super::progress::Progress;
use super::{Context, Engine, Failure, Made, Task};
use crate::frames::probe::Dynamics;
use crate::frames::tiles::Upscaler;
use crate::frames::{Rgb, clip, ffmpeg, image, probe};

const MODEL: &str = "realesr-animevideov3";
const SCALE: u32 = 2;

/// What the parameters say.
struct Wanted {
    model: String,
    scale: u32,
}

/// A network between two jobs.
pub(super) struct Loaded {
    model: String,
    scale: u32,
    overlap: usize,
    program: Box<dyn Program>,
}

pub(super) fn run(task: &Task, ctx: &mut Context<'_>) -> Result<Vec<Made>, Failure> {
    let table = Table::of_this_build().map_err(|error| Failure::permanent(format!("table of models: {error}")))?;
    let wanted = wanted(&task.parameters, &table)?;
    if let Some(missing) = task.inputs.iter().find(|path| !path.is_file()) {
        return Err(Failure::transient(format!("input `{}` is not there", missing.display())));
    }
    ctx.phase("load");
    load(ctx.engine, &table, &wanted)?;
    ctx.check_cancel()?;
    ctx.phase("infer");
    let (cancel, executor) = (ctx.cancel, ctx.engine.executor_name());
    let mut upscaler = held(ctx.engine)?;
    let mut run = Progress::new(task.inputs.len());
    let ending = if task.kind == "image.upscale" { "png" } else { "mp4" };
    let mut made = Vec::new();
    for (index, path) in task.inputs.iter().enumerate() {
        let base = index as f32 * run.share;
        let last = index + 1 == task.inputs.len();
        let to = task.output_dir.join(run.name(path, &format!("x{}", wanted.scale), ending));
        let mut extra = Map::from_iter([("executor".to_owned(), Value::from(executor))]);
        let (width, height, content_type);
        if task.kind == "image.upscale" {
            let still = image::decode(path, wanted.scale)?;
            let mut large = Rgb::default();
            upscaler.run(&still.colour, &mut large, cancel, &mut |share| run.percent(base, share, ctx.report))?;
            if last {
                (ctx.report)(super::Report::Phase("post"));
            }
            let alpha =
                still.alpha.map(|alpha| image::enlarge_alpha(alpha, &still.colour, wanted.scale)).transpose()?;
            image::encode(&to, &large, alpha.as_deref(), still.profile)?;
            extra.insert("tiles".to_owned(), upscaler.tiles(still.colour.width, still.colour.height).len().into());
            (width, height, content_type) = (side(large.width), side(large.height), "image/png");
        } else {
            let tools = ffmpeg::Tools::default();
            let clip = probe::probe(&tools, path, Dynamics::Standard, cancel)?;
            let frames = clip.frames as f32;
            let done = clip::upscale(&tools, path, &clip, &mut upscaler, &to, cancel, &mut |at| {
                run.percent(base, (at / frames).min(1.0), ctx.report);
            })?;
            if last {
                (ctx.report)(super::Report::Phase("post"));
            }
            extra.insert("frames".to_owned(), done.frames.into());
            extra.insert("frame_rate".to_owned(), clip.rate.clone().into());
            extra.insert("sound".to_owned(), clip.sound.is_some().into());
            (width, height, content_type) = (done.width, done.height, "video/mp4");
        }
        let (model, scale) = (wanted.model.clone(), wanted.scale);
        made.push(Made { path: to, content_type, width, height, model, scale, extra });
    }
    run.percent(1.0, 0.0, ctx.report);
    Ok(made)
}

fn side(pixels: usize) -> u32 {
    u32::try_from(pixels).unwrap_or(u32::MAX)
}

fn wanted(parameters: &Map<String, Value>, table: &Table) -> Result<Wanted, Failure> {
    let mut wanted = Wanted { model: MODEL.to_owned(), scale: SCALE };
    let shown = |value: &Value| value.to_string().chars().take(80).collect::<String>();
    let names = || table.models.iter().map(|model| model.name.as_str()).collect::<Vec<_>>().join(", ");
    let mut scale_given = false;
    for (name, value) in parameters {
        match name.as_str() {
            "scale" => {
                scale_given = true;
                // The command line gives every parameter as a text.
                let number = value.as_f64().or_else(|| value.as_str().and_then(|text| text.parse().ok()));
                wanted.scale = match number {
                    Some(2.0) => 2,
                    Some(3.0) => 3,
                    Some(4.0) => 4,
                    _ => {
                        let given = shown(value);
                        return Err(Failure::permanent(format!("parameter `scale` is {given}; it is 2, 3 or 4")));
                    }
                };
            }
            "model" => match value.as_str() {
                Some(model) if table.models.iter().any(|known| known.name == model) => wanted.model = model.to_owned(),
                _ => {
                    return Err(Failure::permanent(format!(
                        "parameter `model` is {}; known are {}",
                        shown(value),
                        names()
                    )));
                }
            },
            other => {
                let other: String = other.chars().take(80).collect();
                return Err(Failure::permanent(format!("parameter `{other}` is unknown; known are `scale`, `model`")));
            }
        }
    }
    let model = table.models.iter().find(|model| model.name == wanted.model);
    let scales: Vec<u32> = model.iter().flat_map(|model| &model.scales).map(|scale| scale.scale).collect();
    match scales.as_slice() {
        &[only] if !scale_given => wanted.scale = only,
        scales if scales.contains(&wanted.scale) => {}
        scales => {
            return Err(Failure::permanent(format!(
                "parameter `scale` is {}; model `{}` has {scales:?}",
                wanted.scale, wanted.model
            )));
        }
    }
    Ok(wanted)
}

/// A network with nothing around it, for whoever measures.
pub(super) fn upscaler<'a>(engine: &'a mut Engine, model: &str, scale: u32) -> Result<Upscaler<'a>, Failure> {
    let table = Table::of_this_build().map_err(|error| Failure::permanent(format!("table of models: {error}")))?;
    let parameters = Map::from_iter([("model".to_owned(), model.into()), ("scale".to_owned(), scale.into())]);
    load(engine, &table, &wanted(&parameters, &table)?)?;
    held(engine)
}

/// The network that the engine holds.
fn held(engine: &mut Engine) -> Result<Upscaler<'_>, Failure> {
    let bytes_max = engine.arena_bytes_max();
    let loaded = engine.loaded.as_mut().ok_or_else(|| Failure::transient("the model was unloaded"))?;
    Ok(Upscaler::new(loaded.program.as_mut(), loaded.scale as usize, loaded.overlap, bytes_max)?)
}

/// Makes sure that the engine holds the wanted network; another one makes room first.
fn load(engine: &mut Engine, table: &Table, wanted: &Wanted) -> Result<(), Failure> {
    if engine.loaded.as_ref().is_some_and(|held| held.model == wanted.model && held.scale == wanted.scale) {
        return Ok(());
    }
    engine.loaded = None;
    let found = table.models.iter().find(|model| model.name == wanted.model).and_then(|model| {
        let scale = model.scales.iter().find(|scale| scale.scale == wanted.scale)?;
        Some((model.overlap_px, &scale.files))
    });
    let (overlap, files) = found.ok_or_else(|| Failure::permanent(format!("model `{}` is unknown", wanted.model)))?;
    let folder = engine.models_dir().to_path_buf();
    let map = |ending: &str| table.map(&folder, &format!("{files}.{ending}")).map_err(ExecError::from);
    let (graph, weights) = upscale::read(&map("param")?, &map("bin")?, wanted.scale).map_err(ExecError::from)?;
    let program = engine.executor()?.load(graph, &weights)?;
    engine.loaded = Some(Loaded { model: wanted.model.clone(), scale: wanted.scale, overlap, program });
    Ok(())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn ask(parameters: Value) -> Result<(String, u32), String> {
        let table = Table::of_this_build().unwrap();
        let Value::Object(parameters) = parameters else { panic!("an object") };
        match wanted(&parameters, &table) {
            Ok(wanted) => Ok((wanted.model, wanted.scale)),
            Err(failure) => {
                assert_eq!(failure.class, crate::infer::FailureClass::Permanent);
                Err(failure.message)
            }
        }
    }

    #[test]
    fn parameters_have_defaults_and_may_come_as_text() {
        assert_eq!(ask(json!({})).unwrap(), (MODEL.to_owned(), 2));
        assert_eq!(ask(json!({"scale": "4"})).unwrap().1, 4);
        assert_eq!(ask(json!({"scale": 3.0})).unwrap().1, 3);
        assert_eq!(ask(json!({"model": "realesrgan-x4plus"})).unwrap(), ("realesrgan-x4plus".to_owned(), 4));
    }

    #[test]
    fn a_parameter_that_is_out_of_its_range_is_named() {
        for (parameters, words) in [
            (json!({"scale": 5}), "`scale` is 5"),
            (json!({"scale": -2}), "`scale` is -2"),
            (json!({"scale": 1e300}), "`scale` is 1e+300"),
            (json!({"scale": "NaN"}), "`scale` is \"NaN\""),
            (json!({"scale": null}), "`scale` is null"),
            (json!({"scale": [2]}), "`scale` is [2]"),
            (json!({"scale": 2, "model": "realesrgan-x4plus"}), "`realesrgan-x4plus` has [4]"),
            (json!({"model": "../../etc/passwd"}), "`model` is \"../../etc/passwd\""),
            (json!({"sclae": 2}), "`sclae` is unknown"),
        ] {
            let message = ask(parameters).unwrap_err();
            assert!(message.contains(words), "{message}");
        }
    }
}
