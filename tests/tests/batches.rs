//! Jobs of one model and shape that wait together are computed together: through the real queue, agent and worker, and what becomes
//! of each when one is cancelled or the worker dies.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test panics with what went wrong; that is its report")]

#[path = "../../agent/tests/tiny/folder.rs"]
mod tiny;

use std::path::PathBuf;
use std::process::Command;

use backlot_tests::{Appliance, Process, binary, eventually, signal};
use serde_json::{Value, json};

/// An appliance, and a host with a tiny model.
struct Stage {
    appliance: Appliance,
    dir: tempfile::TempDir,
}

impl Stage {
    fn new() -> Self {
        let stage = Self { appliance: Appliance::start(), dir: tempfile::tempdir().unwrap() };
        std::fs::create_dir(stage.models()).unwrap();
        tiny::write_folder("sd15", &stage.models().join("tiny"));
        stage
    }

    fn models(&self) -> PathBuf {
        self.dir.path().join("models")
    }

    /// An agent that holds no job ahead: what it has in one batch it has asked for.
    fn agent(&self, name: &str, settings: &[(&str, &str)]) -> Process {
        let mut command = Command::new(binary("backlot-agent"));
        command
            .arg("run")
            .current_dir(self.dir.path())
            .envs(self.appliance.environment())
            .env("BACKLOT_AGENT_NAME", name)
            .env("BACKLOT_AGENT_SCRATCH", self.dir.path().join(name))
            .env("BACKLOT_AGENT_MODELS", self.models())
            .env("BACKLOT_AGENT_EXECUTOR", "cpu")
            .env("BACKLOT_AGENT_THREADS", "1")
            .env("BACKLOT_AGENT_AHEAD", "0")
            .env("BACKLOT_AGENT_METRICS_S", "1")
            .env("BACKLOT_AGENT_BATCH_WAIT_MS", "60000")
            .envs(settings.iter().copied());
        Process::start(&mut command, self.dir.path(), name)
    }

    fn submit(&self, parameters: &Value) -> String {
        let job =
            json!({"type": "image.generate", "parameters": parameters, "output": {"prefix": "s3://studio/generated/"}});
        let submitted = self.appliance.json("POST", "/v1/jobs", Some(&job.to_string()));
        submitted["id"].as_str().expect("an id").to_owned()
    }

    fn job(&self, id: &str) -> Value {
        self.appliance.json("GET", &format!("/v1/jobs/{id}"), None)
    }

    fn ended(&self, id: &str) -> Value {
        self.appliance.job_ended(id)
    }

    /// The bytes of a job's one picture.
    fn picture(&self, job: &Value) -> Vec<u8> {
        assert_eq!(job["status"], "succeeded", "{job}");
        let to = self.dir.path().join("picture.png");
        let uri = job["outputs"][0]["uri"].as_str().unwrap();
        let got = self.appliance.cli(&["artifact", "get", uri, to.to_str().unwrap()]);
        assert!(got.status.success(), "{}", String::from_utf8_lossy(&got.stderr));
        let bytes = std::fs::read(&to).unwrap();
        std::fs::remove_file(to).unwrap();
        bytes
    }

    /// What each of these makes alone.
    fn made_alone(&self, jobs: &[Value]) -> Vec<Vec<u8>> {
        let mut agent = self.agent("alone", &[]);
        let pictures = jobs
            .iter()
            .map(|parameters| {
                let job = self.ended(&self.submit(parameters));
                assert_eq!(job["outputs"][0].get("batch"), None, "{job}");
                self.picture(&job)
            })
            .collect();
        agent.signal(15);
        assert!(agent.wait().success(), "{}", agent.log());
        pictures
    }
}

fn ask(seed: u64, more: Value) -> Value {
    let mut all = json!({"model": "tiny", "prompt": "the moon", "seed": seed, "width": 64, "height": 64, "steps": 8});
    for (name, value) in more.as_object().unwrap() {
        all[name] = value.clone();
    }
    all
}

fn outcomes(job: &Value) -> Vec<&str> {
    let attempts = job["attempts"].as_array().expect("attempts");
    attempts.iter().map(|attempt| attempt["outcome"].as_str().unwrap_or("under way")).collect()
}

#[test]
fn three_waiting_jobs_are_one_batch_and_each_has_its_own_picture_progress_and_cancel() {
    let stage = Stage::new();
    let jobs = [
        ask(1, json!({"width": 128, "scheduler": "ddim", "negative_prompt": "blurry"})),
        ask(2, json!({"width": 128, "scheduler": "euler-ancestral", "guidance": 0, "steps": 12, "prompt": "a cat"})),
    ];
    let alone = stage.made_alone(&jobs);
    // Queued while nobody takes any: another size and one with a limit of its own are not of the batch.
    let cancelled = stage.submit(&ask(3, json!({"width": 128, "steps": 150})));
    let others = [ask(4, json!({"width": 192, "steps": 1})), ask(5, json!({"width": 128, "steps": 1}))];
    let ids: Vec<String> = jobs.iter().map(|parameters| stage.submit(parameters)).collect();
    let wide = stage.submit(&others[0]);
    let limited = json!({"type": "image.generate", "parameters": others[1], "limits": {"hard_s": 600}});
    let limited =
        stage.appliance.json("POST", "/v1/jobs", Some(&limited.to_string()))["id"].as_str().unwrap().to_owned();
    let agent = stage.agent("gpu", &[("BACKLOT_AGENT_BATCH", "4")]);
    eventually("the one is under way", || {
        (stage.job(&cancelled)["attempts"][0]["percent"].as_f64()? > 0.0).then_some(())
    });
    let (status, said) = stage.appliance.http("POST", &format!("/v1/jobs/{cancelled}/cancel"), None);
    assert_eq!(status, 200, "{said}");
    let ended = stage.ended(&cancelled);
    assert_eq!((ended["status"].as_str(), outcomes(&ended)), (Some("cancelled"), vec!["cancelled"]), "{ended}");
    for (id, alone) in ids.iter().zip(&alone) {
        let job = stage.ended(id);
        let attempt = &job["attempts"][0];
        assert_eq!(
            (outcomes(&job), &job["outputs"][0]["batch"]),
            (vec!["succeeded"], &json!(3)),
            "{job}\n{}",
            agent.log()
        );
        let phases: Vec<_> =
            attempt["phases"].as_array().unwrap().iter().map(|p| p["name"].as_str().unwrap()).collect();
        assert_eq!(phases, ["queued", "fetch", "load", "infer", "post", "upload"]);
        assert_eq!(attempt["percent"], 100.0);
        assert!(stage.picture(&job) == *alone, "in company it is another picture");
    }
    for id in [&wide, &limited] {
        let job = stage.ended(id);
        assert_eq!((job["status"].as_str(), job["outputs"][0].get("batch")), (Some("succeeded"), None), "{job}");
    }
    eventually("the agent counts them", || {
        let query = "backlot_agent_jobs_together_total%7Bagent%3D%22gpu%22%7D";
        let found = stage.appliance.json("GET", &format!("/api/v1/query?query={query}"), None);
        (found["data"]["result"][0]["value"][1] == "3").then_some(())
    });
    eventually("each job's log says so", || {
        let found = stage.appliance.json("GET", &format!("/v1/logs?query=job:{}&limit=100", ids[0]), None).to_string();
        found.contains("together with other jobs").then_some(())
    });
}

#[test]
fn jobs_of_a_worker_that_is_killed_go_back_without_a_failure_and_go_on_from_their_checkpoints() {
    let stage = Stage::new();
    let jobs = [1, 2, 3].map(|seed| ask(seed, json!({"steps": 150, "checkpoint_every": 3, "preview_every": 0})));
    let alone = stage.made_alone(&jobs);
    let ids = jobs.each_ref().map(|parameters| stage.submit(parameters));
    let agent = stage.agent("gpu", &[("BACKLOT_AGENT_BATCH", "3")]);
    eventually("each has a checkpoint", || {
        let log = agent.log();
        let kept = |id: &String| log.lines().any(|line| line.contains("a checkpoint is kept") && line.contains(id));
        ids.iter().all(kept).then_some(())
    });
    let workers = children_of(agent.child.id());
    assert_eq!(workers.len(), 1, "one worker has all three");
    signal(workers[0], 9);
    for (id, alone) in ids.iter().zip(&alone) {
        let job = stage.ended(id);
        assert_eq!(outcomes(&job), ["given_back", "succeeded"], "{job}\n{}", agent.log());
        assert_eq!(job["failures"], 0, "{job}");
        let reason = job["attempts"][0]["reason"].as_str().unwrap();
        assert!(reason.contains("signal 9") && reason.contains("3 jobs"), "{reason}");
        assert_eq!(job["outputs"][0].get("batch"), None, "it was computed alone: {job}");
        assert!(stage.picture(&job) == *alone, "with an interruption it is another picture");
    }
    assert_eq!(agent.log().matches("an earlier attempt left a checkpoint").count(), 3, "{}", agent.log());
}

/// The processes that this one has started, whichever of its threads did.
fn children_of(pid: u32) -> Vec<u32> {
    let of = |task: std::fs::DirEntry| std::fs::read_to_string(task.path().join("children")).unwrap_or_default();
    let lists: Vec<String> =
        std::fs::read_dir(format!("/proc/{pid}/task")).unwrap().map(|task| of(task.unwrap())).collect();
    lists.iter().flat_map(|list| list.split_whitespace()).map(|pid| pid.parse().unwrap()).collect()
}

#[test]
fn a_job_that_is_held_ahead_is_taken_along_and_one_that_an_idle_slot_can_have_is_not() {
    let stage = Stage::new();
    // It would take half a minute.
    let first = stage.submit(&ask(1, json!({"width": 256, "height": 256, "steps": 150})));
    let agent =
        stage.agent("gpu", &[("BACKLOT_AGENT_BATCH", "2"), ("BACKLOT_AGENT_AHEAD", "2"), ("BACKLOT_AGENT_SLOTS", "1")]);
    eventually("the slot is taken", || (stage.job(&first)["attempts"][0]["percent"].as_f64()? > 0.0).then_some(()));
    let ahead = [2, 3].map(|seed| stage.submit(&ask(seed, json!({}))));
    for id in &ahead {
        // Not what the appliance says of it: the agent is to know that it has it.
        let begins = |line: &str| line.contains("an attempt begins") && line.contains(id);
        eventually("it is held ahead", || agent.log().lines().any(begins).then_some(()));
    }
    let (status, said) = stage.appliance.http("POST", &format!("/v1/jobs/{first}/cancel"), None);
    assert_eq!(status, 200, "{said}");
    for id in &ahead {
        let job = stage.ended(id);
        assert_eq!(job["outputs"][0]["batch"], json!(2), "{job}\n{}", agent.log());
    }
    drop(agent);

    let both = [4, 5].map(|seed| stage.submit(&ask(seed, json!({}))));
    let agent = stage.agent("two", &[("BACKLOT_AGENT_BATCH", "2"), ("BACKLOT_AGENT_SLOTS", "2")]);
    for id in &both {
        let job = stage.ended(id);
        assert_eq!(
            (job["status"].as_str(), job["outputs"][0].get("batch")),
            (Some("succeeded"), None),
            "{job}\n{}",
            agent.log()
        );
    }
}
