//! The samples of programs, run by the supervisor as the agent runs them: the pipeline of diffusers by its stand-in, ComfyUI by a
//! server of ours that answers as its documented API does.

#![allow(clippy::unwrap_used, reason = "a test panics with what went wrong; that is its report")]

mod one;

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use backlot_agent::worker::manifest::{self, Program};
use backlot_agent::worker::process::{Launch, Orders, Stop, Verdict};
use backlot_agent::worker::protocol::{Announced, Said, Task, TaskInput};
use backlot_agent::worker::{Slots, manifest::Bounds};
use backlot_wire::{FailureClass, Limits, cause};
use one::run_one;
use serde_json::{Value, json};
use tokio::sync::watch;

fn sample(name: &str, env: &[(&str, &str)]) -> Program {
    let all = manifest::read_all(Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/samples"))).unwrap();
    let mut program = all.into_iter().find(|program| program.name == name).unwrap();
    program.env.extend(env.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())));
    assert_eq!(program.limits, Bounds::default());
    program
}

/// A host with one slot.
struct Host {
    slots: Arc<Slots>,
    dir: tempfile::TempDir,
    orders: watch::Sender<Orders>,
}

impl Host {
    fn new() -> Self {
        let launch = Launch {
            agent: PathBuf::from(env!("CARGO_BIN_EXE_backlot-agent")),
            line_bytes_max: 64 << 10,
            cancel_grace: Duration::from_secs(20),
            hard_limit_s: 120,
            output_bytes_max: 64 << 20,
            cgroup: None,
        };
        let slots = Slots::new(Vec::new(), 1, launch, Box::new(|_| {}));
        Self { slots, dir: tempfile::tempdir().unwrap(), orders: watch::Sender::default() }
    }

    fn out(&self) -> PathBuf {
        let out = self.dir.path().join("out");
        std::fs::create_dir_all(&out).unwrap();
        out
    }

    /// Runs a job; `said` hears what the program says, and may stop it.
    async fn run(
        &self,
        program: &Program,
        parameters: Value,
        inputs: &[&Path],
        said: &mut (dyn FnMut(&Said, &watch::Sender<Orders>) + Send),
    ) -> Verdict {
        let task = Task {
            id: "job-1".into(),
            attempt: "job-1.1".into(),
            kind: program.types[0].clone(),
            parameters: parameters.as_object().unwrap().clone(),
            labels: Default::default(),
            inputs: inputs.iter().map(|p| TaskInput { uri: "s3://abc/in".into(), path: (*p).to_owned() }).collect(),
            output_dir: self.out(),
            soft_limit_s: None,
            traceparent: None,
            models_dir: None,
        };
        let mut slot = self.slots.hold(&program.name, &[]).await.unwrap();
        let orders = self.orders.subscribe();
        run_one(&mut slot, program, &task, &Limits::default(), orders, &mut |word| said(&word, &self.orders)).await
    }

    fn read(&self, output: &Announced) -> Vec<u8> {
        std::fs::read(self.out().join(&output.name)).unwrap()
    }
}

fn done(verdict: Verdict) -> Vec<Announced> {
    match verdict {
        Verdict::Done(outputs) => outputs,
        other => panic!("not done: {other:?}"),
    }
}

#[tokio::test]
async fn the_pipeline_of_diffusers_shows_previews_and_goes_on_from_its_checkpoint_to_the_same_picture() {
    let host = Host::new();
    let program = sample("diffusers", &[]);
    let wish = json!({"prompt": "the moon", "steps": 12});
    let mut heard = Vec::new();
    let outputs = done(host.run(&program, wish.clone(), &[], &mut |said, _| heard.push(said.clone())).await);
    let whole = host.read(&outputs[0]);
    assert_eq!(image::load_from_memory(&whole).unwrap().width(), 64);
    for wanted in
        [Said::Phase("infer".into()), Said::Preview("preview.png".into()), Said::Checkpoint("checkpoint".into())]
    {
        assert!(heard.contains(&wanted), "no {wanted:?} in {heard:?}");
    }
    assert_eq!(outputs[0].extra["began_at"], 0);
    // The agent keeps the newest checkpoint and puts it into the folder of the next attempt.
    std::fs::remove_file(host.out().join("image.png")).unwrap();
    let outputs = done(host.run(&program, wish, &[], &mut |_, _| {}).await);
    assert_eq!(outputs[0].extra["began_at"], 10);
    assert!(host.read(&outputs[0]) == whole, "the same picture");
    let Verdict::Failed { class, message, .. } = host.run(&program, json!({}), &[], &mut |_, _| {}).await else {
        panic!("without a prompt")
    };
    assert!(class == FailureClass::Permanent && message.contains("prompt"), "{message}");
    host.slots.end().await;
}

/// ComfyUI's stand-in.
struct Comfy {
    child: Child,
    port: u16,
}

impl Comfy {
    fn start() -> Self {
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/comfyui_stand_in.py");
        let mut child = Command::new("python3").arg(script).stdout(Stdio::piped()).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        Self { child, port: line.trim().parse().unwrap() }
    }

    fn asked(&self) -> String {
        let mut stream = TcpStream::connect(("127.0.0.1", self.port)).unwrap();
        stream.write_all(b"GET /asked HTTP/1.0\r\n\r\n").unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).unwrap();
        text
    }

    fn program(&self) -> Program {
        sample("comfyui", &[("COMFYUI", &format!("http://127.0.0.1:{}", self.port))])
    }
}

impl Drop for Comfy {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[tokio::test]
async fn comfyui_runs_a_workflow_with_the_jobs_parameters_and_inputs() {
    let (host, comfy) = (Host::new(), Comfy::start());
    let input = host.dir.path().join("in.txt");
    std::fs::write(&input, "stressed").unwrap();
    let workflow = json!({
        "1": {"class_type": "SaveText", "inputs": {"text": "{{prompt}}"}},
        "2": {"class_type": "Mirror", "inputs": {"image": "{{input0}}"}},
    });
    let program = comfy.program();
    for prompt in ["a moon", "a sun"] {
        let wish = json!({"workflow": workflow, "prompt": prompt});
        let outputs = done(host.run(&program, wish, &[&input], &mut |_, _| {}).await);
        let texts: Vec<Vec<u8>> = outputs.iter().map(|output| host.read(output)).collect();
        assert_eq!(texts, [prompt.as_bytes(), b"desserts"], "what is temporary stays there");
    }
    host.slots.end().await;
}

#[tokio::test]
async fn what_comfyui_refuses_fails_for_good_and_what_it_cannot_do_now_comes_again() {
    let (host, comfy) = (Host::new(), Comfy::start());
    let program = comfy.program();
    let node = |kind: &str| json!({"workflow": {"1": {"class_type": kind, "inputs": {}}}});
    for (wish, permanent, words) in [
        (node("NoSuchNode"), true, "a node is missing"),
        (json!({"workflow": {"1": {"class_type": "SaveText", "inputs": {"text": "{{absent}}"}}}}), true, "absent"),
        (node("Fail"), false, "CUDA out of memory"),
    ] {
        let Verdict::Failed { class, message, details } = host.run(&program, wish, &[], &mut |_, _| {}).await else {
            panic!("no failure: {words}")
        };
        assert!(message.contains(words), "{message}");
        assert_eq!(class == FailureClass::Permanent, permanent, "{message}");
        if words.contains("memory") {
            assert_eq!(details[cause::KEY], cause::OUT_OF_MEMORY);
        }
    }
    drop(comfy);
    let Verdict::Failed { class, message, .. } = host.run(&program, node("SaveText"), &[], &mut |_, _| {}).await else {
        panic!("ComfyUI is gone")
    };
    assert!(class == FailureClass::Transient && message.contains("ComfyUI at http://127.0.0.1"), "{message}");
    host.slots.end().await;
}

#[tokio::test]
async fn a_cancel_takes_the_workflow_out_of_comfyuis_queue() {
    let (host, comfy) = (Host::new(), Comfy::start());
    let wish = json!({"workflow": {"1": {"class_type": "Sleep", "inputs": {"seconds": 100}}}});
    let mut stop = |said: &Said, orders: &watch::Sender<Orders>| {
        if *said == Said::Phase("infer".into()) {
            orders.send_replace(Orders { stop: Some(Stop::Cancelled), limits: None });
        }
    };
    assert_eq!(host.run(&comfy.program(), wish, &[], &mut stop).await, Verdict::Stopped(Stop::Cancelled));
    let asked = comfy.asked();
    assert!(asked.contains("\"/queue\", {\"delete\": [\"p0-job-1.1\"]}") && asked.contains("/interrupt"), "{asked}");
    host.slots.end().await;
}
