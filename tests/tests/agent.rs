//! The agent and the appliance as people run them: jobs through the real queue, store and doors, and what becomes of
//! them when a worker, the agent or the appliance dies in the middle.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test panics with what went wrong; that is its report")]
#![allow(clippy::disallowed_methods, reason = "black-box tests wait on the real clock, with a deadline")]

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use backlot_tests::{Appliance, Process, binary, eventually, python, repository};
use serde_json::{Value, json};

/// An appliance, and a folder for its agents.
struct Stage {
    appliance: Appliance,
    dir: tempfile::TempDir,
}

impl Stage {
    fn new() -> Self {
        Self::with(&[])
    }

    fn with(settings: &[(&str, &str)]) -> Self {
        let stage = Self { appliance: Appliance::start_with(settings), dir: tempfile::tempdir().unwrap() };
        let manifests = stage.path("manifests");
        std::fs::create_dir_all(&manifests).unwrap();
        let worker = repository().join("tests/python/agent_worker.py");
        let command = json!([python(), worker]);
        let manifest = format!("name = \"tester\"\ncommand = {command}\ntypes = [\"test.work\"]\nkeep_alive = true\n");
        std::fs::write(manifests.join("tester.toml"), manifest).unwrap();
        for name in ["textstats.toml", "textstats.py"] {
            std::fs::copy(repository().join("agent/samples").join(name), manifests.join(name)).unwrap();
        }
        stage
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn agent(&self, name: &str, settings: &[(&str, &str)]) -> Process {
        let mut command = Command::new(binary("backlot-agent"));
        command
            .arg("run")
            .current_dir(self.dir.path())
            .envs(self.appliance.environment())
            .env("BACKLOT_AGENT_NAME", name)
            .env("BACKLOT_AGENT_SCRATCH", self.path(name))
            .env("BACKLOT_AGENT_MANIFESTS", self.path("manifests"))
            .env("BACKLOT_AGENT_METRICS_S", "1")
            .env("BACKLOT_AGENT_REGISTER_S", "1")
            .envs(settings.iter().copied());
        Process::start(&mut command, self.dir.path(), name)
    }

    fn submit(&self, job: &Value) -> String {
        let submitted = self.appliance.json("POST", "/v1/jobs", Some(&job.to_string()));
        submitted["id"].as_str().expect("an id").to_owned()
    }

    fn work(&self, parameters: Value) -> String {
        self.submit(&json!({"type": "test.work", "parameters": parameters, "retry": {"failures": 3, "backoff_s": 0}}))
    }

    fn job(&self, id: &str) -> Value {
        self.appliance.json("GET", &format!("/v1/jobs/{id}"), None)
    }

    fn ended(&self, id: &str) -> Value {
        self.appliance.job_ended(id)
    }

    fn object(&self, uri: &str) -> Value {
        serde_json::from_str(&self.appliance.python("agent.py", &["get", uri])).unwrap()
    }

    fn appears(&self, name: &str) -> String {
        let path = self.path(name);
        eventually(name, || std::fs::read_to_string(&path).ok().filter(|text| !text.is_empty()))
    }
}

fn outcomes(job: &Value) -> Vec<&str> {
    let attempts = job["attempts"].as_array().expect("attempts");
    attempts.iter().map(|attempt| attempt["outcome"].as_str().unwrap_or("under way")).collect()
}

fn show(path: &Path) -> &str {
    path.to_str().unwrap()
}

fn is_alive(pid: &str) -> bool {
    std::fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| !stat.contains(") Z "))
}

#[test]
fn the_sample_job_leaves_its_output_phases_log_lines_metrics_and_trace() {
    let stage = Stage::new();
    let agent = stage.agent("sampler", &[]);
    stage.appliance.python("agent.py", &["put", "studio", "raw/poem.txt", "the quick brown fox"]);
    let id = stage.submit(&json!({
        "type": "sample.textstats", "inputs": [{"uri": "s3://studio/raw/poem.txt"}],
        "output": {"prefix": "s3://studio/generated/"}
    }));
    let job = stage.ended(&id);
    assert_eq!(
        (job["status"].as_str(), outcomes(&job)),
        (Some("succeeded"), vec!["succeeded"]),
        "{job}\n{}",
        agent.log()
    );
    let attempt = &job["attempts"][0];
    assert_eq!(attempt["agent"], "sampler");
    let phases: Vec<_> = attempt["phases"].as_array().unwrap().iter().map(|p| p["name"].as_str().unwrap()).collect();
    assert_eq!(phases, ["queued", "fetch", "infer", "upload"]);
    let uri = job["outputs"][0]["uri"].as_str().unwrap();
    assert_eq!(uri, format!("s3://studio/generated/{id}/1/poem-upper.txt"));
    assert_eq!(job["outputs"][0]["words"], 4);
    let object = stage.object(uri);
    assert_eq!((object["text"].as_str(), object["type"].as_str()), (Some("THE QUICK BROWN FOX"), Some("text/plain")));
    let metadata = &object["metadata"];
    assert_eq!(
        (metadata["backlot-job"].as_str(), metadata["backlot-type"].as_str()),
        (Some(&*id), Some("sample.textstats"))
    );
    let trace = job["trace_id"].as_str().unwrap();
    assert!(metadata["backlot-traceparent"].as_str().unwrap().contains(trace), "{metadata}");

    eventually("the worker's line in the job's log", || {
        let found = stage.appliance.json("GET", &format!("/v1/logs?query=job:{id}&limit=100"), None).to_string();
        found.contains("has 4 words").then_some(())
    });
    eventually("the agent's spans in the job's trace", || {
        // 404 until the first span has arrived.
        let (_, found) = stage.appliance.http("GET", &format!("/v1/traces/{trace}"), None);
        ["attempt", "fetch", "infer", "upload"].iter().all(|name| found.contains(&format!("\"{name}\""))).then_some(())
    });
    for metric in ["backlot_agent_cpu_utilisation_ratio", "backlot_agent_memory_used_bytes"] {
        eventually(metric, || {
            let path = format!("/api/v1/query?query={metric}%7Bagent%3D%22sampler%22%7D");
            (stage.appliance.json("GET", &path, None)["data"]["result"].as_array()?.len() == 1).then_some(())
        });
    }
    let agents = stage.appliance.json("GET", "/v1/agents", None).to_string();
    assert!(agents.contains("sampler") && agents.contains("sample.textstats"), "{agents}");
}

#[test]
fn a_transient_failure_and_a_killed_worker_are_tried_again() {
    let stage = Stage::new();
    let _agent = stage.agent("a", &[]);
    let (once_a, once_b) = (stage.path("once-a"), stage.path("once-b"));
    let failing = stage.work(json!({"fail": "the network went", "once": show(&once_a)}));
    let job = stage.ended(&failing);
    assert_eq!((job["status"].as_str(), outcomes(&job)), (Some("succeeded"), vec!["failed", "succeeded"]), "{job}");
    let crashing = stage.work(json!({"crash": true, "once": show(&once_b)}));
    let job = stage.ended(&crashing);
    assert_eq!((job["status"].as_str(), outcomes(&job)), (Some("succeeded"), vec!["failed", "succeeded"]), "{job}");
    assert!(job["attempts"][0]["reason"].as_str().unwrap().contains("signal 9"), "{job}");
    let uri = job["outputs"][0]["uri"].as_str().unwrap();
    assert_eq!(stage.object(uri)["text"], format!("result of {crashing}.2"));
}

#[test]
fn a_later_attempt_finds_the_checkpoint_of_the_one_that_died_and_it_goes_with_the_result() {
    let stage = Stage::new();
    let _agent = stage.agent("a", &[]);
    stage.appliance.python("agent.py", &["put", "studio", "raw/x.txt", "x"]);
    let kept = stage.path("kept");
    let id = stage.submit(&json!({
        "type": "test.work", "parameters": {"checkpoint": "half the work", "kept": show(&kept)},
        "output": {"prefix": "s3://studio/generated/"}, "retry": {"failures": 3, "backoff_s": 0}
    }));
    let key = format!("generated/{id}/checkpoint");
    let keys = || stage.appliance.python("agent.py", &["keys", "studio", "generated/"]);
    eventually("the checkpoint in the bucket", || keys().contains(&key).then_some(()));
    std::fs::write(&kept, "").unwrap(); // and the worker dies
    let job = stage.ended(&id);
    assert_eq!((job["status"].as_str(), outcomes(&job)), (Some("succeeded"), vec!["failed", "succeeded"]), "{job}");
    let uri = job["outputs"][0]["uri"].as_str().unwrap();
    assert_eq!(stage.object(uri)["text"], format!("result of {id}.2 after half the work"));
    assert!(!keys().contains(&key), "it is no longer needed");
}

#[test]
fn a_permanent_failure_goes_to_the_dead_letter_queue_at_once_with_its_reason() {
    let stage = Stage::new();
    let _agent = stage.agent("a", &[]);
    let bad = stage.work(json!({"fail": "no face was found", "permanent": true}));
    let outside = stage.work(json!({"output": "../../../../../../../../../etc/passwd"}));
    let no_input = stage.submit(&json!({"type": "test.work", "inputs": [{"uri": "s3://studio/absent.png"}]}));
    for (id, reason) in [(&bad, "no face was found"), (&outside, "outside of its folder"), (&no_input, "absent.png")] {
        let job = stage.ended(id);
        assert_eq!((job["status"].as_str(), outcomes(&job)), (Some("failed"), vec!["failed"]), "{job}");
        assert_eq!(job["error"]["permanent"], true, "{job}");
        assert!(job["error"]["message"].as_str().unwrap().contains(reason), "{job}");
    }
    let queues = stage.appliance.json("GET", "/v1/queues", None);
    let queues = queues["queues"].as_array().or(queues.as_array()).unwrap().clone();
    let of = |name: &Value| queues.iter().find(|queue| &queue["name"] == name).unwrap().clone();
    assert_eq!(of(&of(&json!("jobs"))["dlq"])["ready"], 3, "{queues:?}");
}

#[test]
fn a_cancel_ends_the_worker_and_frees_its_slot() {
    let stage = Stage::new();
    let _agent = stage.agent("a", &[("BACKLOT_AGENT_CANCEL_GRACE_S", "0")]);
    let id = stage.work(json!({"started": show(&stage.path("pid")), "until": show(&stage.path("never"))}));
    let pid = stage.appears("pid");
    let asked = Instant::now();
    let _ = stage.appliance.json("POST", &format!("/v1/jobs/{id}/cancel"), Some("{}"));
    eventually("the worker ended", || (!is_alive(&pid)).then_some(()));
    println!("a cancel took {} ms", asked.elapsed().as_millis()); // of two seconds, on a host that has time for it
    let job = stage.ended(&id);
    assert_eq!(job["status"], "cancelled", "{job}");
    eventually("the attempt ended as cancelled", || (outcomes(&stage.job(&id)) == ["cancelled"]).then_some(()));
    // The slot is free for the next one.
    assert_eq!(stage.ended(&stage.work(json!({})))["status"], "succeeded");
}

#[test]
fn a_drain_lets_a_job_finish_within_the_grace() {
    let stage = Stage::new();
    let mut agent = stage.agent("a", &[]);
    let until = stage.path("go");
    let id = stage.work(json!({"started": show(&stage.path("pid")), "until": show(&until)}));
    stage.appears("pid");
    agent.signal(libc::SIGTERM);
    eventually("the agent drains", || agent.log().contains("draining").then_some(()));
    std::fs::write(&until, "").unwrap();
    assert_eq!(agent.wait().code(), Some(0), "{}", agent.log());
    assert_eq!((stage.job(&id)["status"].as_str(), outcomes(&stage.job(&id))), (Some("succeeded"), vec!["succeeded"]));
}

#[test]
fn a_drain_gives_back_what_does_not_finish_and_it_is_no_failure() {
    let stage = Stage::new();
    // Half of the grace is for giving back, and no worker hears a cancel here.
    let mut agent = stage.agent("first", &[("BACKLOT_AGENT_GRACE_S", "4"), ("BACKLOT_AGENT_CANCEL_GRACE_S", "0")]);
    let until = stage.path("go");
    let id = stage.work(json!({"started": show(&stage.path("pid")), "until": show(&until)}));
    let ahead = stage.work(json!({"until": show(&until)}));
    let pid = stage.appears("pid");
    eventually("the next job is held ahead", || (stage.job(&ahead)["status"] == "running").then_some(()));
    agent.signal(libc::SIGTERM);
    assert_eq!(agent.wait().code(), Some(0), "{}", agent.log());
    assert!(!is_alive(&pid), "no worker outlives its agent");
    for id in [&id, &ahead] {
        let job = stage.job(id);
        assert_eq!((job["status"].as_str(), outcomes(&job)), (Some("queued"), vec!["given_back"]), "{job}");
        assert_eq!(job["failures"], 0);
    }
    std::fs::write(&until, "").unwrap();
    let _second = stage.agent("second", &[]);
    for id in [&id, &ahead] {
        assert_eq!(outcomes(&stage.ended(id)), ["given_back", "succeeded"]);
    }
}

#[test]
fn a_second_signal_ends_the_agent_at_once() {
    let stage = Stage::new();
    let mut agent = stage.agent("a", &[("BACKLOT_AGENT_GRACE_S", "600")]);
    let _id = stage.work(json!({"started": show(&stage.path("pid")), "until": show(&stage.path("never"))}));
    let pid = stage.appears("pid");
    agent.signal(libc::SIGTERM);
    eventually("the agent drains", || agent.log().contains("draining").then_some(()));
    agent.signal(libc::SIGTERM);
    assert_eq!(agent.wait().code(), Some(1), "{}", agent.log());
    eventually("the worker went with it", || (!is_alive(&pid)).then_some(()));
}

#[test]
fn a_job_whose_agent_is_killed_comes_back_and_ends_well_once() {
    // Short, because it is waited for; a host that is busy must not lose what it has, either.
    let stage = Stage::with(&[("BACKLOT_JOBS_LEASE_S", "10")]);
    let short = [("BACKLOT_AGENT_VISIBILITY_S", "10")];
    let mut agent = stage.agent("first", &short);
    let until = stage.path("go");
    let id = stage.work(json!({"started": show(&stage.path("pid")), "until": show(&until)}));
    let pid = stage.appears("pid");
    agent.signal(libc::SIGKILL);
    agent.wait();
    eventually("the worker died with its agent", || (!is_alive(&pid)).then_some(()));
    std::fs::write(&until, "").unwrap();
    let _second = stage.agent("first", &short);
    let job = stage.ended(&id);
    assert_eq!((job["status"].as_str(), outcomes(&job)), (Some("succeeded"), vec!["lost", "succeeded"]), "{job}");
    assert_eq!(job["failures"], 0, "{job}");
    assert_eq!(stage.object(job["outputs"][0]["uri"].as_str().unwrap())["text"], format!("result of {id}.2"));
}

#[test]
fn a_job_goes_on_while_the_appliance_is_down_and_its_events_arrive_afterwards() {
    let mut stage = Stage::new();
    let agent = stage.agent("a", &[]);
    let until = stage.path("go");
    let id = stage.work(json!({"started": show(&stage.path("pid")), "until": show(&until), "steps": 3}));
    stage.appears("pid");
    eventually("the infer phase is known", || stage.job(&id).to_string().contains("\"infer\"").then_some(()));
    stage.appliance.kill();
    std::fs::write(&until, "").unwrap();
    eventually("the agent misses the appliance", || agent.log().contains("they are kept").then_some(()));
    eventually("its exports do not arrive", || agent.log().contains("traces do not arrive").then_some(()));
    stage.appliance.start_again();
    eventually("its exports arrive", || agent.log().contains("traces arrive again").then_some(()));
    assert!(!agent.log().contains("ExportFailed") && !agent.log().contains("ExportError"), "{}", agent.log());
    let job = stage.ended(&id);
    assert_eq!(job["status"], "succeeded", "{job}\n{}", agent.log());
    let good = outcomes(&job).iter().filter(|outcome| **outcome == "succeeded").count();
    assert_eq!((good, job["outputs"].as_array().unwrap().len()), (1, 1), "{job}");
    // It is done: nothing of it is left to be received.
    eventually("the queue is empty", || {
        let queues = stage.appliance.json("GET", "/v1/queues", None).to_string();
        (!queues.contains("\"in_flight\":1") && !queues.contains("\"ready\":1")).then_some(())
    });
}

#[test]
fn a_job_that_is_shorter_than_the_agents_interval_has_its_curve() {
    let stage = Stage::new();
    let _agent = stage.agent("brief", &[("BACKLOT_AGENT_METRICS_S", "3600")]);
    let id = stage.work(json!({}));
    assert_eq!(stage.ended(&id)["status"], "succeeded");
    eventually("the host was looked at meanwhile", || {
        let query = "backlot_agent_cpu_utilisation_ratio%7Bagent%3D%22brief%22%7D";
        let found = stage.appliance.json("GET", &format!("/api/v1/query?query={query}"), None);
        found["data"]["result"][0]["value"][1].is_string().then_some(())
    });
}

#[test]
fn agent_silent_fires_for_one_that_was_killed_until_it_is_back_and_not_for_one_that_was_stopped() {
    let dir = tempfile::tempdir().unwrap();
    // The rule that comes with Backlot, with shorter times.
    let rule = std::fs::read_to_string(repository().join("alerts/rules/backlot.yml")).unwrap();
    let short = rule.replace("> 60 unless", "> 10 unless").replace("for: 30s", "for: 1s");
    assert_ne!(rule.replace("for: 30s", "for: 1s"), short, "the rule reads differently now");
    let path = dir.path().join("rules.yml");
    std::fs::write(&path, short).unwrap();
    let stage = Stage::with(&[
        ("BACKLOT_ALERTING_RULES_FILES", show(&path)),
        ("BACKLOT_ALERTING_DEFAULT_RULES", "false"),
        ("BACKLOT_ALERTING_INTERVAL_S", "1"),
        ("BACKLOT_TELEMETRY_METRICS_EVERY_S", "1"),
    ]);
    let alerts = || {
        let alerts = stage.appliance.json("GET", "/v1/alerts", None);
        let one = |alert: &Value| {
            let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
            (alert["name"] == "AgentSilent").then(|| (text(&alert["labels"]["agent"]), text(&alert["state"])))
        };
        alerts["alerts"].as_array().unwrap().iter().filter_map(one).collect::<Vec<_>>()
    };
    let (mut killed, mut stopped) = (stage.agent("killed", &[]), stage.agent("stopped", &[]));
    eventually("both are registered", || {
        (stage.appliance.json("GET", "/v1/agents", None)["agents"].as_array()?.len() == 2).then_some(())
    });
    stopped.signal(libc::SIGTERM);
    assert!(stopped.wait().success(), "{}", stopped.log());
    let agents = stage.appliance.json("GET", "/v1/agents", None);
    let ended = agents["agents"].as_array().unwrap().iter().find(|agent| agent["name"] == "stopped").unwrap();
    assert_eq!((&ended["stopped"], &ended["attempts"]), (&json!(true), &json!([])));
    killed.signal(libc::SIGKILL);
    killed.wait();
    let firing = eventually("it fires", || Some(alerts()).filter(|alerts| alerts.iter().any(|one| one.1 == "firing")));
    assert_eq!(firing, [("killed".to_owned(), "firing".to_owned())], "the stopped one was silent for longer");
    let _back = stage.agent("killed", &[]);
    eventually("it resolves", || (alerts() == [("killed".to_owned(), "resolved".to_owned())]).then_some(()));
}

#[test]
fn wrong_arguments_and_configuration_have_exit_codes_of_their_own() {
    let run = |arguments: &[&str], variable: Option<(&str, &str)>| {
        let mut command = Command::new(binary("backlot-agent"));
        command.args(arguments).envs(variable);
        let output = command.output().unwrap();
        (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    assert_eq!(run(&["version"], None).0, Some(0));
    assert_eq!(run(&["--help"], None).0, Some(0));
    assert_eq!(run(&["fly"], None).0, Some(64));
    let (code, said) = run(&["check-config"], Some(("BACKLOT_AGENT_SLOTS", "many")));
    assert!(code == Some(78) && said.contains("BACKLOT_AGENT_SLOTS"), "{said}");
    let (code, said) = run(&["run", "--config", "/no/such/file.toml"], None);
    assert!(code == Some(78) && said.contains("/no/such/file.toml"), "{said}");
    let dir = tempfile::tempdir().unwrap();
    let (code, said) = run(&["run"], Some(("BACKLOT_AGENT_MANIFESTS", show(&dir.path().join("absent")))));
    assert!(code == Some(78) && said.contains("absent"), "{said}");
}
