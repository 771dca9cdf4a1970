//! The whole of it: a clip and a picture go through queue, artifact store, agent, logs, metrics, traces and the dashboard, and come
//! out once, whatever is killed meanwhile.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test panics with what went wrong; that is its report")]

use std::path::{Path, PathBuf};
use std::process::Command;

use backlot_tests::{Appliance, Process, binary, eventually, repository};
use serde_json::Value;

/// The model weights, where they have been fetched.
fn weights() -> Option<PathBuf> {
    let home = || std::env::var_os("HOME").map(|home| Path::new(&home).join(".cache/backlot/models"));
    let folder = std::env::var_os("BACKLOT_MODELS").map(PathBuf::from).or_else(home)?;
    folder.is_dir().then_some(folder)
}

fn agent(appliance: &Appliance, dir: &Path, weights: &Path) -> Process {
    let mut command = Command::new(binary("backlot-agent"));
    command
        .arg("run")
        .envs(appliance.environment())
        .env("BACKLOT_AGENT_NAME", "first-light")
        .env("BACKLOT_AGENT_SCRATCH", dir.join("scratch"))
        .env("BACKLOT_AGENT_VISIBILITY_S", "10")
        .env("BACKLOT_MODELS", weights);
    Process::start(&mut command, dir, "agent")
}

/// A clip with a tone. `size` and `duration_s` say how long a worker has to do with it.
fn clip(dir: &Path, size: &str, duration_s: &str) -> String {
    let path = dir.join("clip.mp4");
    let made = Command::new("ffmpeg")
        .args(["-hide_banner", "-loglevel", "error", "-nostdin", "-y"])
        .args(["-f", "lavfi", "-i", &format!("testsrc2=size={size}:rate=12:duration={duration_s}")])
        .args(["-f", "lavfi", "-i", &format!("sine=frequency=440:duration={duration_s}")])
        .args(["-c:v", "libx264", "-pix_fmt", "yuv420p", "-c:a", "aac", "-shortest"])
        .arg(&path)
        .status();
    assert!(made.is_ok_and(|status| status.success()), "ffmpeg made no clip");
    path.to_string_lossy().into_owned()
}

fn submit(appliance: &Appliance, arguments: &[&str]) -> Value {
    let output = appliance.cli(&[&["job", "submit", "--json"], arguments].concat());
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(!said.is_empty(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_str(said.lines().last().unwrap_or_default()).unwrap_or_else(|error| panic!("{error}: {said}"))
}

fn text<'a>(value: &'a Value, name: &str) -> &'a str {
    value[name].as_str().unwrap_or_else(|| panic!("no {name} in {value}"))
}

#[test]
fn a_clip_and_a_picture_go_through_all_of_it_and_a_person_sees_them() {
    let Some(weights) = weights() else {
        println!("skipped: the model weights are not fetched; `cargo xtask models` does that");
        return;
    };
    let dir = tempfile::tempdir().unwrap();
    let appliance = Appliance::start();
    let _agent = agent(&appliance, dir.path(), &weights);
    let frame = repository().join("packaging/demo/frame.png");
    let picture = submit(
        &appliance,
        &["--type", "image.upscale", "--input", frame.to_str().unwrap(), "--param", "scale=4", "--wait"],
    );
    let clip = submit(
        &appliance,
        &["--type", "video.upscale", "--input", &clip(dir.path(), "96x54", "0.5"), "--param", "scale=2", "--wait"],
    );

    for (job, width) in [(&picture, 640), (&clip, 192)] {
        assert_eq!(text(job, "status"), "succeeded", "{job}");
        let output = &job["outputs"][0];
        assert_eq!(output["width"], width, "{output}");
        // The artifact knows its job.
        let key = text(output, "uri").trim_start_matches("s3://").split_once('/').unwrap();
        appliance.python("artifact_of_job.py", &[key.0, key.1, text(job, "id")]);
    }

    // Its log lines are found by the job's id, from the agent's side.
    let id = text(&picture, "id");
    eventually("log lines of the job", || {
        let found = appliance.json("GET", &format!("/v1/logs?query=job:%22{id}%22"), None);
        found["records"].as_array().filter(|records| !records.is_empty()).map(drop)
    });
    // One trace holds the appliance's part and the agent's.
    eventually("one trace from submit to upload", || {
        let (status, body) = appliance.http("GET", &format!("/v1/traces/{}", text(&picture, "trace_id")), None);
        let whole = status == 200 && ["backlot-agent", "\"backlot\"", "infer"].iter().all(|word| body.contains(word));
        whole.then_some(())
    });
    // The agent's metrics can be asked for in PromQL.
    eventually("the agent's CPU", || {
        let found = appliance.json("GET", "/api/v1/query?query=backlot_agent_cpu_utilisation_ratio", None);
        found["data"]["result"].as_array().filter(|series| !series.is_empty()).map(drop)
    });

    if !repository().join("dashboards/web/dist/index.html").exists() {
        println!("skipped: the dashboard is not built; `cargo xtask ui` does that");
        return;
    }
    let waiting = submit(&appliance, &["--type", "nobody.runs-this"]);
    let mut walk = Command::new("node");
    walk.current_dir(repository().join("dashboards/web")).arg("test/walk.mjs").arg(&appliance.addresses.http);
    walk.args([text(&picture, "id"), text(&clip, "id"), text(&waiting, "id")]);
    if let Some(folder) = std::env::var_os("BACKLOT_SCREENSHOTS") {
        walk.arg(folder);
    }
    let walked = walk.output().unwrap();
    let said = format!("{}{}", String::from_utf8_lossy(&walked.stdout), String::from_utf8_lossy(&walked.stderr));
    assert!(walked.status.success(), "{said}");
}

/// Kills one thing in the middle of a clip and checks that the job ends well, once.
fn survives(kill: impl FnOnce(&mut Appliance, &mut Option<Process>, &dyn Fn(&Appliance) -> Process)) {
    let Some(weights) = weights() else {
        println!("skipped: the model weights are not fetched; `cargo xtask models` does that");
        return;
    };
    let dir = tempfile::tempdir().unwrap();
    // A dead agent's lease ends soon, so that the test need not wait for a minute and a half.
    let mut appliance = Appliance::start_with(&[("BACKLOT_JOBS_LEASE_S", "15")]);
    let start = |appliance: &Appliance| agent(appliance, dir.path(), &weights);
    let mut running = Some(start(&appliance));
    let job = submit(
        &appliance,
        &["--type", "video.upscale", "--input", &clip(dir.path(), "160x90", "6"), "--param", "scale=2"],
    );
    let id = text(&job, "id").to_owned();
    eventually("the worker is in the middle of it", || {
        let job = appliance.json("GET", &format!("/v1/jobs/{id}"), None);
        assert_ne!(job["status"], "succeeded", "too quick to be killed: {job}");
        (job["percent"].as_f64()? > 0.0).then_some(())
    });
    kill(&mut appliance, &mut running, &start);
    let job = appliance.job_ended(&id);
    assert_eq!(text(&job, "status"), "succeeded", "{job}");
    let attempts = job["attempts"].as_array().unwrap();
    let succeeded = attempts.iter().filter(|attempt| attempt["outcome"] == "succeeded").count();
    assert_eq!(succeeded, 1, "{job}");
    assert_eq!(job["outputs"].as_array().map(Vec::len), Some(1), "{job}");
    // Nothing is left behind on the queue.
    eventually("an empty queue", || {
        let queues = appliance.json("GET", "/v1/queues", None);
        let jobs = queues["queues"].as_array()?.iter().find(|queue| queue["name"] == "jobs")?;
        (jobs["ready"] == 0 && jobs["in_flight"] == 0 && jobs["delayed"] == 0).then_some(())
    });
}

#[test]
fn the_job_ends_well_once_after_kill_9_of_the_appliance() {
    survives(|appliance, _, _| {
        appliance.kill();
        appliance.start_again();
    });
}

#[test]
fn the_job_ends_well_once_after_kill_9_of_the_agent() {
    survives(|appliance, running, start| {
        if let Some(mut agent) = running.take() {
            agent.signal(libc::SIGKILL);
            agent.wait();
        }
        *running = Some(start(appliance));
    });
}

#[test]
fn the_job_ends_well_once_after_kill_9_of_the_worker() {
    survives(|_, running, _| {
        let agent = running.as_ref().unwrap().child.id();
        let worker = eventually("a worker process", || {
            let processes = std::fs::read_dir("/proc").ok()?.flatten();
            let own = processes.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
            own.into_iter().find(|pid| {
                let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
                let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
                status.contains(&format!("PPid:\t{agent}\n")) && String::from_utf8_lossy(&line).contains("worker")
            })
        });
        backlot_tests::signal(worker, libc::SIGKILL);
    });
}
