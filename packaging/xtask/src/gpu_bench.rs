//! `cargo xtask gpu-bench`: how fast the CUDA executor is beside PyTorch, on one GPU, in one run, turn by turn.
//!
//! Models of Stable Diffusion have random weights in their real sizes, and the same files go to both; Real-ESRGAN has its
//! real weights with us and random ones of its form with them, which takes as long. Each turn is a process of ours and one
//! of theirs. Medians are printed; what cannot be started is said and left out.
//!
//! Absent on purpose: installing PyTorch. Which build fits a host's driver is its owner's choice: `--python` names one
//! that has torch and diffusers.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::{Value, json};

use crate::process::{cargo, root, run};
use crate::{models, tools};

const TURNS: usize = 3;
const STEPS: usize = 20;
/// Free room that both models take.
const ROOM: &str = "9 GB";

/// What is measured on both sides.
struct Work {
    name: &'static str,
    /// Of ours behind `bench`.
    ours: Vec<String>,
    /// Of the peer's script, without the way.
    theirs: Vec<String>,
}

struct Programs {
    agent: PathBuf,
    python: String,
    models: PathBuf,
}

/// Runs everything, in a folder that it makes in `target` and keeps.
///
/// # Errors
/// When our own programs cannot be built or run.
pub(crate) fn measure(python: &str) -> Result<(), String> {
    tools::ensure(&[tools::PYTHON])?;
    let weights = models::fetch()?;
    run(cargo().args(["build", "--release", "--package", "backlot-agent", "--package", "backlot-gpu-test"]))?;
    let target = std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root().join("target"), PathBuf::from);
    let folder = target.join("gpu-bench");
    for form in ["sd15", "sdxl"] {
        if !folder.join(form).join("done").is_file() {
            eprintln!("writing {form} with random weights into {} ({ROOM} in all)", folder.display());
            fs::create_dir_all(&folder).map_err(|error| format!("create {}: {error}", folder.display()))?;
            let tool = target.join("release/backlot-gpu-test");
            run(Command::new(tool).args(["--write-model", form]).arg(folder.join(form)))?;
            fs::write(folder.join(form).join("done"), "").map_err(|error| format!("mark {form}: {error}"))?;
        }
    }
    for entry in fs::read_dir(&weights).map_err(|error| error.to_string())?.flatten() {
        let to = folder.join(entry.file_name());
        if !to.exists() {
            fs::copy(entry.path(), &to).map_err(|error| format!("copy to {}: {error}", to.display()))?;
        }
    }
    let programs = Programs { agent: target.join("release/backlot-agent"), python: python.to_owned(), models: folder };
    for work in works(&programs.models) {
        println!("{}", side_by_side(&programs, &work)?);
    }
    Ok(())
}

fn works(models: &Path) -> Vec<Work> {
    let words = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>();
    let generate = |name, form: &str, side: usize| {
        let parameters = json!({ "width": side, "height": side, "steps": STEPS, "guidance": 7.5, "seed": 1,
            "scheduler": "euler", "preview_every": 0, "checkpoint_every": 0 });
        let mut ours = words(&["generate", "--model", form, "--runs", "6", "--parameters"]);
        ours.push(parameters.to_string());
        let theirs = vec![models.join(form).display().to_string(), side.to_string(), STEPS.to_string()];
        Work { name, ours, theirs }
    };
    vec![
        generate("SD 1.5 at 512x512, 20 steps", "sd15", 512),
        generate("SDXL at 1024x1024, 20 steps", "sdxl", 1024),
        Work {
            name: "Real-ESRGAN x4plus of 1280x720",
            ours: words(&[
                "upscale",
                "--model",
                "realesrgan-x4plus",
                "--scale",
                "4",
                "--width",
                "1280",
                "--height",
                "720",
                "--runs",
                "5",
            ]),
            theirs: words(&["upscale", "720", "1280"]),
        },
    ]
}

/// One JSON object: medians of both, the first picture's time, and ours as a share of theirs.
fn side_by_side(programs: &Programs, work: &Work) -> Result<Value, String> {
    let script = root().join("packaging/gpu-bench/peer.py");
    let (mut ours, mut first, mut between) = (Vec::new(), Vec::new(), Vec::new());
    let mut theirs: [Vec<f64>; 2] = Default::default();
    let mut problems = Vec::new();
    for _ in 0..TURNS {
        let mut command = Command::new(&programs.agent);
        command.args(["bench", "--executor", "cuda", "--models"]).arg(&programs.models).args(&work.ours);
        // Where the pictures go.
        command.current_dir(&programs.models);
        let said = last_object(&mut command).map_err(|problem| format!("{}: {problem}", work.name))?;
        let runs = said["runs"].as_array().cloned().unwrap_or_default();
        if runs.is_empty() {
            ours.extend(numbers(&said["run_ms"]));
            first.extend([&said["load_ms"], &said["first_run_ms"]].iter().map(|n| n.as_f64()).sum::<Option<f64>>());
        } else {
            first.extend(runs[0]["all_ms"].as_f64());
            // The second run is the one that is recorded.
            for later in runs.iter().skip(2) {
                ours.extend(later["all_ms"].as_f64());
                between.extend(later["load_ms"].as_f64());
            }
        }
        for (way, made) in ["eager", "compiled"].into_iter().zip(&mut theirs) {
            let mut command = Command::new(&programs.python);
            match last_object(command.arg(&script).args(&work.theirs).arg(way)) {
                Ok(said) => made.extend(numbers(&said["all_ms"])),
                Err(problem) => problems.push(format!("{way}: {problem}")),
            }
        }
    }
    let [eager, compiled] = theirs.map(median);
    let own = median(ours);
    let share = |theirs: Option<f64>| own.zip(theirs).map(|(own, theirs)| own / theirs);
    Ok(json!({
        "work": work.name, "ours_ms": own, "first_picture_ms": median(first), "load_between_jobs_ms": median(between),
        "eager_ms": eager, "compiled_ms": compiled, "of_eager": share(eager), "of_compiled": share(compiled),
        "left_out": problems,
    }))
}

/// The last line that a program writes, as JSON.
fn last_object(command: &mut Command) -> Result<Value, String> {
    let made = command.stderr(Stdio::piped()).output().map_err(|error| format!("start {command:?}: {error}"))?;
    let said = String::from_utf8_lossy(&made.stdout);
    if !made.status.success() {
        let words = String::from_utf8_lossy(&made.stderr);
        return Err(words.trim().lines().last().unwrap_or("it said nothing").to_owned());
    }
    serde_json::from_str(said.lines().last().unwrap_or_default()).map_err(|error| format!("{error}: {said}"))
}

fn numbers(list: &Value) -> Vec<f64> {
    list.as_array().map(|list| list.iter().filter_map(Value::as_f64).collect()).unwrap_or_default()
}

fn median(mut values: Vec<f64>) -> Option<f64> {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Programs that say what ours and the peer would.
    #[test]
    fn medians_of_both_sides_stand_side_by_side_and_what_fails_is_said() {
        use std::os::unix::fs::PermissionsExt;
        let folder = std::env::temp_dir().join(format!("backlot-gpu-bench-{}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        let script = |name: &str, text: &str| {
            let path = folder.join(name);
            fs::write(&path, format!("#!/bin/sh\n{text}\n")).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
            path
        };
        let agent = script(
            "agent",
            r#"echo '{"runs": [{"all_ms": 900, "load_ms": 500}, {"all_ms": 50, "load_ms": 1}, {"all_ms": 30, "load_ms": 2}]}'"#,
        );
        let python = script(
            "python",
            r#"case "$5" in eager) echo '{"all_ms": [59, 60, 61]}';; *) echo "no compiler" >&2; exit 1;; esac"#,
        );
        let programs = Programs { agent, python: python.display().to_string(), models: folder.clone() };
        let made = side_by_side(&programs, &works(&folder)[0]).unwrap();
        assert_eq!((&made["ours_ms"], &made["first_picture_ms"]), (&json!(30.0), &json!(900.0)), "{made}");
        assert_eq!((&made["of_eager"], &made["compiled_ms"]), (&json!(0.5), &Value::Null), "{made}");
        assert!(made["left_out"][0].as_str().unwrap().contains("no compiler"), "{made}");
        let missing = Programs { agent: folder.join("nothing"), ..programs };
        assert!(side_by_side(&missing, &works(&folder)[2]).unwrap_err().contains("Real-ESRGAN"));
        fs::remove_dir_all(&folder).unwrap();
    }
}
