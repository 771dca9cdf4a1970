//! The model store as people run it: a model is imported, an agent that has none fetches it for a job, keeps it for the next one, and
//! refuses it when it is damaged.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test panics with what went wrong; that is its report")]

use std::path::{Path, PathBuf};
use std::process::Command;

use backlot_tests::{Appliance, Process, binary, eventually, repository};
use serde_json::{Value, json};

const MODEL: &str = "realesr-animevideov3";

/// The model weights, where they have been fetched.
fn weights() -> Option<PathBuf> {
    let home = || std::env::var_os("HOME").map(|home| Path::new(&home).join(".cache/backlot/models"));
    let folder = std::env::var_os("BACKLOT_MODELS").map(PathBuf::from).or_else(home)?;
    folder.join(format!("{MODEL}-x2.bin")).is_file().then_some(folder)
}

/// What a command says, and whether it went well.
fn cli(appliance: &Appliance, arguments: &[&str]) -> (i32, String) {
    let output = appliance.cli(arguments);
    let said = [output.stdout, output.stderr].concat();
    (output.status.code().unwrap_or(-1), String::from_utf8_lossy(&said).into_owned())
}

fn json_of(appliance: &Appliance, arguments: &[&str]) -> Value {
    let (code, said) = cli(appliance, arguments);
    assert_eq!(code, 0, "{said}");
    serde_json::from_str(said.lines().last().unwrap_or_default()).unwrap_or_else(|error| panic!("{error}: {said}"))
}

/// A pair of ncnn files that is no network and is well formed.
fn pair(dir: &Path, bytes: &[u8]) -> PathBuf {
    std::fs::create_dir_all(dir).unwrap();
    std::fs::write(dir.join("tiny-x2.param"), "7767517\n1 1\nInput data 0 1 data\n").unwrap();
    std::fs::write(dir.join("tiny-x2.bin"), bytes).unwrap();
    dir.join("tiny-x2.param")
}

fn objects(appliance: &Appliance) -> Vec<String> {
    let (code, said) = cli(appliance, &["artifact", "ls", "-r", "--json", "s3://models"]);
    assert_eq!(code, 0, "{said}");
    let key = |line: &str| serde_json::from_str::<Value>(line).unwrap()["key"].as_str().unwrap().to_owned();
    said.lines().map(key).collect()
}

#[test]
fn a_model_is_imported_looked_at_verified_imported_anew_and_removed() {
    let dir = tempfile::tempdir().unwrap();
    let appliance = Appliance::start();
    let param = pair(dir.path(), b"some weights");
    let path = param.to_str().unwrap();
    let (code, said) = cli(&appliance, &["model", "import", path]);
    assert!(code == 64 && said.contains("--licence"), "{said}");
    let import = ["model", "import", path, "--licence", "MIT", "--source", "https://example.org", "--json"];
    let first = json_of(&appliance, &import);
    assert_eq!((first["name"].as_str(), first["kind"].as_str()), (Some("tiny"), Some("upscale")));
    assert_eq!(
        (first["files"].as_u64(), first["stored_files"].as_u64(), first["new"].as_bool()),
        (Some(2), Some(2), Some(true))
    );
    let again = json_of(&appliance, &import);
    assert_eq!((again["stored_files"].as_u64(), again["new"].as_bool()), (Some(0), Some(false)));
    assert_eq!(again["digest"], first["digest"], "the same model is the same version");

    // Without its manifest it is an import that was broken off: no model, and gone on with where it was.
    appliance.python("agent.py", &["delete", "models", "tiny/manifest.json"]);
    assert_eq!(cli(&appliance, &["model", "list", "--json"]).1, "");
    let resumed = json_of(&appliance, &import);
    assert_eq!((resumed["stored_files"].as_u64(), resumed["new"].as_bool()), (Some(0), Some(true)));
    assert_eq!(resumed["digest"], first["digest"]);
    let listed = json_of(&appliance, &["model", "list", "--json"]);
    assert_eq!((listed["name"].as_str(), listed["licence"].as_str()), (Some("tiny"), Some("MIT")));
    json_of(&appliance, &["model", "verify", "tiny", "--json"]);

    // Another version stands beside the first, which stays as it is.
    pair(dir.path(), b"other weights");
    let second = json_of(&appliance, &import);
    assert_eq!((second["stored_files"].as_u64(), second["earlier"].clone()), (Some(1), resumed["digest"].clone()));
    let earlier = format!("tiny@{}", &resumed["digest"].as_str().unwrap()[..12]);
    let shown = json_of(&appliance, &["model", "show", &earlier, "--json"]);
    assert_eq!((shown["current"].as_bool(), shown["digest"].clone()), (Some(false), resumed["digest"].clone()));
    let current = format!("tiny@{}", second["digest"].as_str().unwrap());
    let (code, said) = cli(&appliance, &["model", "remove", &current]);
    assert!(code == 64 && said.contains("current version"), "{said}");
    json_of(&appliance, &["model", "remove", &earlier, "--json"]);
    assert_eq!(objects(&appliance).iter().filter(|key| key.contains("/files/")).count(), 2, "what both have stays");
    json_of(&appliance, &["model", "verify", "tiny", "--json"]);

    let weights = shown_files(&appliance, "tiny", ".bin");
    appliance.python("agent.py", &["put", "models", &format!("tiny/files/{weights}"), "other weights?"]);
    let (code, said) = cli(&appliance, &["model", "verify", "tiny"]);
    assert!(code == 1 && said.contains("BAD tiny-x2.bin"), "{said}");
    let removed = json_of(&appliance, &["model", "remove", "tiny", "--json"]);
    assert_eq!(removed["files"].as_u64(), Some(2));
    assert!(objects(&appliance).is_empty());
    let (code, said) = cli(&appliance, &["model", "show", "tiny"]);
    assert!(code == 1 && said.contains("backlot model list"), "{said}");
}

fn shown_files(appliance: &Appliance, model: &str, ending: &str) -> String {
    let shown = json_of(appliance, &["model", "show", model, "--json"]);
    let file = shown["files"].as_array().unwrap().iter().find(|file| file["path"].as_str().unwrap().ends_with(ending));
    file.unwrap()["sha256"].as_str().unwrap().to_owned()
}

#[test]
fn a_pickled_checkpoint_is_refused_and_nothing_of_it_is_stored() {
    let dir = tempfile::tempdir().unwrap();
    let appliance = Appliance::start();
    for name in ["model.ckpt", "model.safetensors"] {
        std::fs::write(dir.path().join(name), b"PK\x03\x04 and so on, as PyTorch writes it").unwrap();
        let path = dir.path().join(name);
        let (code, said) =
            cli(&appliance, &["model", "import", path.to_str().unwrap(), "--licence", "MIT", "--kind", "lora"]);
        assert!(code == 64 && said.contains("pickled") && said.contains(".safetensors file"), "{said}");
    }
    assert!(objects(&appliance).is_empty());
}

struct Host {
    dir: tempfile::TempDir,
}

impl Host {
    fn new() -> Self {
        Self { dir: tempfile::tempdir().unwrap() }
    }

    /// An agent whose own folder of models is empty.
    fn agent(&self, appliance: &Appliance, name: &str) -> Process {
        Process::start(&mut self.command(appliance, name), self.dir.path(), name)
    }

    fn command(&self, appliance: &Appliance, name: &str) -> Command {
        let mut command = Command::new(binary("backlot-agent"));
        command
            .arg("run")
            .envs(appliance.environment())
            .env("BACKLOT_AGENT_NAME", name)
            .env("BACKLOT_AGENT_SCRATCH", self.dir.path().join(name))
            .env("BACKLOT_AGENT_MODELS", self.dir.path().join("no-models"))
            .env("BACKLOT_AGENT_EXECUTOR", "cpu")
            .env("BACKLOT_AGENT_VISIBILITY_S", "10")
            .env("BACKLOT_AGENT_METRICS_S", "1");
        command
    }
}

fn submit(appliance: &Appliance, model: &str) -> String {
    let job = json!({"type": "image.upscale", "parameters": {"model": model, "scale": 2},
        "inputs": [{"uri": "s3://studio/small.png"}], "output": {"prefix": "s3://studio/generated/"}});
    let submitted = appliance.json("POST", "/v1/jobs", Some(&job.to_string()));
    submitted["id"].as_str().expect("an id").to_owned()
}

#[test]
fn an_agent_without_models_fetches_one_keeps_it_and_refuses_a_damaged_one() {
    let Some(weights) = weights() else {
        println!("skipped: the model weights are not fetched; `cargo xtask models` does that");
        return;
    };
    let appliance = Appliance::start();
    let host = Host::new();
    let picture = repository().join("packaging/demo/frame.png");
    let put = |file: &Path, uri: &str| {
        let (code, said) = cli(&appliance, &["artifact", "put", file.to_str().unwrap(), uri]);
        assert_eq!(code, 0, "{said}");
    };
    put(&picture, "s3://studio/small.png");
    let agent = host.agent(&appliance, "empty");
    let nowhere = appliance.job_ended(&submit(&appliance, MODEL));
    assert_eq!(
        (nowhere["status"].as_str(), nowhere["attempts"].as_array().unwrap().len()),
        (Some("failed"), 1),
        "{nowhere}"
    );
    assert!(nowhere["error"]["message"].as_str().unwrap().contains("backlot model import"), "{nowhere}");

    let pair = weights.join(format!("{MODEL}-x2.param"));
    let imported =
        json_of(&appliance, &["model", "import", pair.to_str().unwrap(), "--licence", "BSD-3-Clause", "--json"]);
    assert_eq!(imported["name"], MODEL);
    let held = format!("{MODEL}@{}", imported["digest"].as_str().unwrap());
    let first = appliance.job_ended(&submit(&appliance, MODEL));
    assert_eq!(first["status"], "succeeded", "{first}\n{}", agent.log());
    let phases = |job: &Value| -> Vec<String> {
        let attempt = job["attempts"].as_array().unwrap().last().unwrap().clone();
        attempt["phases"].as_array().unwrap().iter().map(|phase| phase["name"].as_str().unwrap().to_owned()).collect()
    };
    assert_eq!(phases(&first), ["queued", "fetch", "load", "infer", "post", "upload"]);
    assert_eq!(first["outputs"][0]["model_versions"], json!([held]));
    let second = appliance.job_ended(&submit(&appliance, &held[..MODEL.len() + 13]));
    assert_eq!(second["status"], "succeeded", "{second}\n{}", agent.log());
    let counted = |outcome: &str| {
        let query = format!("sum(backlot_agent_models_wanted_total{{agent=\"empty\",outcome=\"{outcome}\"}})");
        let found = appliance.json(
            "GET",
            &format!("/api/v1/query?query={}", query.replace('"', "%22").replace('{', "%7B").replace('}', "%7D")),
            None,
        );
        found["data"]["result"][0]["value"][1].as_str().map(str::to_owned)
    };
    eventually("one miss and one hit are counted", || {
        (counted("miss").as_deref() == Some("1") && counted("hit").as_deref() == Some("1")).then_some(())
    });
    eventually("the agent says what it has", || {
        let agents = appliance.json("GET", "/v1/agents", None).to_string();
        (agents.matches(&held).count() == 2).then_some(())
    });

    // Over a restart the cache stays; a damaged object is refused by one that has to fetch it.
    drop(agent);
    let agent = host.agent(&appliance, "empty");
    let third = appliance.job_ended(&submit(&appliance, MODEL));
    assert_eq!(third["status"], "succeeded", "{third}\n{}", agent.log());
    assert_eq!(agent.log().matches("a model is fetched").count(), 1, "not again: {}", agent.log());
    drop(agent);
    let damaged = host.dir.path().join("damaged");
    let mut bytes = std::fs::read(weights.join(format!("{MODEL}-x2.bin"))).unwrap();
    bytes[1000] ^= 1;
    std::fs::write(&damaged, bytes).unwrap();
    put(&damaged, &format!("s3://models/{MODEL}/files/{}", shown_files(&appliance, MODEL, ".bin")));
    let agent = host.agent(&appliance, "fresh");
    let refused = appliance.job_ended(&submit(&appliance, MODEL));
    assert_eq!(
        (refused["status"].as_str(), refused["attempts"].as_array().unwrap().len()),
        (Some("failed"), 1),
        "{refused}"
    );
    let message = refused["error"]["message"].as_str().unwrap();
    assert!(
        message.contains("damaged in the store") && message.contains("backlot model verify"),
        "{message}\n{}",
        agent.log()
    );
}

#[test]
fn of_two_agents_that_wait_the_one_that_has_the_model_gets_the_job() {
    let appliance = Appliance::start();
    let host = Host::new();
    let agents: Vec<Process> = ["a", "b"]
        .into_iter()
        .map(|name| {
            let manifests = host.dir.path().join(format!("manifests-{name}"));
            std::fs::create_dir_all(&manifests).unwrap();
            let manifest = format!(
                "name = \"worker\"\ncommand = [\"sh\", \"-c\", \"read job; echo '{{\\\"done\\\": true}}'\"]\ntypes = [\"test.work\"]\nmodels = [\"model-{name}\"]\n"
            );
            std::fs::write(manifests.join("worker.toml"), manifest).unwrap();
            let mut command = host.command(&appliance, name);
            command.env("BACKLOT_AGENT_MANIFESTS", manifests).env("BACKLOT_AGENT_LABELS", format!("own={name}"));
            Process::start(&mut command, host.dir.path(), name)
        })
        .collect();
    let work = |of: &str, requirements: Value| {
        let job =
            json!({"type": "test.work", "parameters": {"model": format!("model-{of}")}, "requirements": requirements});
        let submitted = appliance.json("POST", "/v1/jobs", Some(&job.to_string()));
        let job = appliance.job_ended(submitted["id"].as_str().unwrap());
        assert_eq!(job["status"], "succeeded", "{job}\n{}\n{}", agents[0].log(), agents[1].log());
        job["attempts"][0]["agent"].as_str().unwrap().to_owned()
    };
    // Each asks for its next job before it has ended the one that it has: from here on both wait.
    for name in ["a", "b"] {
        assert_eq!(work(name, json!({"labels": {"own": name}})), name);
    }
    for name in ["b", "b", "a", "b", "a", "a", "b"] {
        assert_eq!(work(name, json!({})), name);
    }
}
