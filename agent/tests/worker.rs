//! Workers as real processes: the good one, the hostile ones, and what becomes of their job.

#![allow(clippy::unwrap_used, reason = "a test panics with what went wrong; that is its report")]

mod one;
mod tiny;

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use backlot_agent::config::Config;
use backlot_agent::infer::choice::Wish;
use backlot_agent::worker::manifest::{self, Program};
use backlot_agent::worker::process::{Launch, Orders, Stop, Verdict};
use backlot_agent::worker::protocol::{Said, Task, TaskInput};
use backlot_agent::worker::{Slots, builtin_program, protocol};
use backlot_wire::{FailureClass, Limits, cause};
use one::run_one;
use tokio::sync::watch;

fn launch() -> Launch {
    Launch {
        agent: PathBuf::from(env!("CARGO_BIN_EXE_backlot-agent")),
        line_bytes_max: 64 << 10,
        cancel_grace: Duration::from_millis(300),
        hard_limit_s: 600,
        output_bytes_max: 64 << 20,
        cgroup: None,
    }
}

fn shell(script: &str, keep_alive: bool) -> Program {
    Program {
        name: "shell".into(),
        arguments: ["--", "sh", "-c", script].map(Into::into).to_vec(),
        dir: None,
        env: Default::default(),
        types: vec!["test.shell".into()],
        models: Vec::new(),
        requirements: Default::default(),
        keep_alive,
        limits: Default::default(),
    }
}

/// A slot and an output folder.
struct Bench {
    slots: Arc<Slots>,
    restarts: Arc<AtomicUsize>,
    orders: watch::Sender<Orders>,
    dir: tempfile::TempDir,
}

impl Bench {
    fn new() -> Self {
        let restarts = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&restarts);
        let restarted = Box::new(move |_| {
            count.fetch_add(1, Ordering::Relaxed);
        });
        let slots = Slots::new(Vec::new(), 1, launch(), restarted);
        Self { slots, restarts, orders: watch::Sender::default(), dir: tempfile::tempdir().unwrap() }
    }

    fn task(&self, inputs: &[&Path]) -> Task {
        let output_dir = self.dir.path().join("out");
        std::fs::create_dir_all(&output_dir).unwrap();
        Task {
            id: "job-1".into(),
            attempt: "job-1.1".into(),
            kind: "test.shell".into(),
            parameters: Default::default(),
            labels: Default::default(),
            inputs: inputs.iter().map(|p| TaskInput { uri: "s3://abc/in.txt".into(), path: (*p).to_owned() }).collect(),
            output_dir,
            models_dir: None,
            soft_limit_s: None,
            traceparent: None,
        }
    }

    async fn run(&self, program: &Program, task: &Task, limits: Limits) -> (Verdict, Vec<Said>) {
        let mut said = Vec::new();
        let mut slot = self.slots.hold(&program.name, &[]).await.unwrap();
        let orders = self.orders.subscribe();
        let verdict = run_one(&mut slot, program, task, &limits, orders, &mut |word| said.push(word)).await;
        (verdict, said)
    }

    /// Has `script` ended by a hard limit of a second, which holds from when it has written a line into `file`.
    async fn over_its_limit(&self, slots: &Arc<Slots>, script: &str, task: &Task, file: &Path) -> (Verdict, String) {
        let program = shell(script, false);
        let mut slot = slots.hold(&program.name, &[]).await.unwrap();
        let (limits, orders) = (Limits::default(), self.orders.subscribe());
        let mut heard = |_| {};
        let run = run_one(&mut slot, &program, task, &limits, orders, &mut heard);
        let line = || std::fs::read_to_string(file).ok().filter(|line| line.ends_with('\n'));
        let limit = async {
            eventually("it is at work", || line().is_some()).await;
            let limits = Some(Limits { soft_s: None, hard_s: Some(1) });
            self.orders.send_replace(Orders { stop: None, limits });
        };
        let (verdict, ()) = tokio::join!(run, limit);
        (verdict, line().unwrap())
    }

    async fn shell(&self, script: &str) -> Verdict {
        self.run(&shell(script, false), &self.task(&[]), Limits::default()).await.0
    }
}

fn failure(verdict: Verdict) -> (FailureClass, String) {
    match verdict {
        Verdict::Failed { class, message, .. } => (class, message),
        other => panic!("no failure: {other:?}"),
    }
}

fn cause_of(verdict: &Verdict) -> Option<&str> {
    match verdict {
        Verdict::Failed { details, .. } => details.get(cause::KEY).and_then(|value| value.as_str()),
        other => panic!("no failure: {other:?}"),
    }
}

fn is_alive(pid: &str) -> bool {
    // A zombie that nobody has waited for yet is dead all the same.
    std::fs::read_to_string(format!("/proc/{}/stat", pid.trim())).is_ok_and(|stat| !stat.contains(") Z "))
}

async fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    for _ in 0..6_000 {
        if holds() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    panic!("in vain: {what}");
}

#[tokio::test]
async fn the_python_sample_works_and_stays_for_the_next_job() {
    let bench = Bench::new();
    let program = manifest::read_all(Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/samples"))).unwrap();
    let program = program.into_iter().find(|program| program.name == "textstats").unwrap();
    let input = bench.dir.path().join("0-poem.txt");
    std::fs::write(&input, "the quick brown fox").unwrap();
    for _ in 0..2 {
        let (verdict, said) = bench.run(&program, &bench.task(&[&input]), Limits::default()).await;
        let Verdict::Done(outputs) = verdict else { panic!("{verdict:?}") };
        assert_eq!((outputs[0].name.as_str(), outputs[0].extra["words"].as_u64()), ("0-poem-upper.txt", Some(4)));
        assert_eq!(said, [Said::Phase("infer".into()), Said::Percent(100.0)]);
        let made = std::fs::read_to_string(bench.dir.path().join("out/0-poem-upper.txt")).unwrap();
        assert_eq!(made, "THE QUICK BROWN FOX");
    }
    std::fs::write(&input, [0xff, 0xfe]).unwrap();
    let (verdict, _) = bench.run(&program, &bench.task(&[&input]), Limits::default()).await;
    assert_eq!(failure(verdict).0, FailureClass::Permanent);
    assert_eq!(bench.restarts.load(Ordering::Relaxed), 0, "one process did all three");
    bench.slots.end().await;
}

#[tokio::test]
async fn a_kept_worker_is_one_process_and_one_that_is_not_kept_is_started_for_each_job() {
    let bench = Bench::new();
    let script = r#"while read -r line; do echo "{\"output\":\"$$\"}"; echo '{"done":true}'; done"#;
    let mut pids = Vec::new();
    for keep in [true, true, false] {
        let program = Program { name: format!("kept-{keep}"), ..shell(script, keep) };
        let (verdict, _) = bench.run(&program, &bench.task(&[]), Limits::default()).await;
        let Verdict::Done(outputs) = verdict else { panic!("{verdict:?}") };
        pids.push(outputs[0].name.clone());
    }
    assert_eq!(pids[0], pids[1]);
    assert_ne!(pids[0], pids[2]);
    eventually("the kept worker went when another program came", || !is_alive(&pids[0])).await;
}

#[tokio::test]
async fn a_line_of_a_hundred_megabytes_fails_the_job_and_stays_out_of_memory() {
    let bench = Bench::new();
    let (class, message) = failure(bench.shell("head -c 100000000 /dev/zero | tr '\\0' x; sleep 100").await);
    assert_eq!(class, FailureClass::Permanent);
    assert!(message.contains("65536 bytes") && message.len() < 400, "{message}");
}

#[tokio::test]
async fn a_line_that_is_not_json_fails_the_job_with_that_line() {
    let bench = Bench::new();
    let (class, message) = failure(bench.shell("echo Loading pipeline; sleep 100").await);
    assert_eq!(class, FailureClass::Permanent);
    assert!(message.contains("Loading pipeline") && message.contains("not JSON"), "{message}");
}

#[tokio::test]
async fn a_worker_that_never_ends_is_killed_at_its_hard_limit_with_all_that_it_started() {
    let bench = Bench::new();
    let task = bench.task(&[]);
    let file = task.output_dir.join("pid");
    let script = format!("trap '' TERM INT; sleep 1000 & echo $! > {}; wait", file.display());
    let (verdict, pid) = bench.over_its_limit(&bench.slots, &script, &task, &file).await;
    assert_eq!(cause_of(&verdict), Some(cause::TIMEOUT));
    let (class, message) = failure(verdict);
    assert_eq!(class, FailureClass::Transient);
    assert!(message.contains("hard limit of 1 s"), "{message}");
    eventually("the grandchild ended", || !is_alive(&pid)).await;
}

#[tokio::test]
async fn past_its_soft_limit_a_worker_is_asked_and_may_end_in_order() {
    let bench = Bench::new();
    let limits = Limits { soft_s: Some(1), hard_s: Some(50) };
    let script =
        r#"read job; read cancel; case "$cancel" in *"soft limit"*) echo '{"error":"stopped at step 7"}';; esac"#;
    let (verdict, _) = bench.run(&shell(script, false), &bench.task(&[]), limits).await;
    assert_eq!(cause_of(&verdict), Some(cause::TIMEOUT));
    let (class, message) = failure(verdict);
    assert_eq!(class, FailureClass::Transient);
    assert!(message.contains("soft limit of 1 s"), "{message}");
}

#[tokio::test]
async fn a_worker_that_does_not_hear_a_cancel_is_killed_after_its_grace() {
    let bench = Bench::new();
    bench.orders.send_replace(Orders { stop: Some(Stop::Cancelled), limits: None });
    let verdict = bench.shell("sleep 1000").await;
    assert_eq!(verdict, Verdict::Stopped(Stop::Cancelled));
}

#[tokio::test]
async fn an_early_end_is_told_with_its_exit_code_or_signal_and_its_last_words() {
    let bench = Bench::new();
    let (class, message) = failure(bench.shell("echo 'CUDA error 700' >&2; exit 3").await);
    assert_eq!(class, FailureClass::Transient);
    assert!(message.contains("exit code 3") && message.contains("CUDA error 700"), "{message}");
    let oom = bench.shell("echo 'torch.cuda.OutOfMemoryError: CUDA out of memory' >&2; exit 1").await;
    assert_eq!(cause_of(&oom), Some(cause::OUT_OF_MEMORY));
    let told = bench.shell(r#"read job; echo '{"error":"CUDA out of memory","details":{"needed_gb":30}}'"#).await;
    assert_eq!(cause_of(&told), Some(cause::OUT_OF_MEMORY));
    let killed = bench.shell("kill -9 $$").await;
    assert_eq!(cause_of(&killed), Some(cause::WORKER_CRASH));
    let (class, message) = failure(killed);
    assert_eq!(class, FailureClass::Transient);
    assert!(message.contains("signal 9"), "{message}");
    assert_eq!(bench.restarts.load(Ordering::Relaxed), 3);
    let (_, message) =
        failure(bench.run(&shell_named("/no/such/program"), &bench.task(&[]), Limits::default()).await.0);
    assert!(message.contains("127") && message.contains("/no/such/program"), "{message}");
}

fn shell_named(program: &str) -> Program {
    Program { arguments: ["--", program].map(Into::into).to_vec(), ..shell("", false) }
}

#[tokio::test]
async fn a_program_that_ends_with_zero_has_done_its_job() {
    let bench = Bench::new();
    let verdict = bench.shell(r#"read job; echo '{"percent":50}'; echo '{"output":"a.png","seed":7}'"#).await;
    let Verdict::Done(outputs) = verdict else { panic!("{verdict:?}") };
    assert_eq!((outputs.len(), outputs[0].extra["seed"].as_u64()), (1, Some(7)));
    assert_eq!(bench.restarts.load(Ordering::Relaxed), 0);
}

#[tokio::test]
async fn a_program_gets_no_keys_of_the_agent() {
    let bench = Bench::new();
    // Cargo sets none of these; whatever the variables of this process are, the child's must be without them.
    let script = r#"env | grep -E '^(AWS_SECRET|AWS_ACCESS|BACKLOT_)' >&2 && exit 9; exit 0"#;
    assert_eq!(bench.shell(script).await, Verdict::Done(Vec::new()));
}

#[test]
fn a_worker_dies_with_its_parent_however_that_dies() {
    let agent = env!("CARGO_BIN_EXE_backlot-agent");
    let script = format!("{agent} worker --parent $$ -- sleep 1000 & echo $!; wait");
    let mut parent =
        Command::new("sh").args(["-c", &script]).stdin(Stdio::null()).stdout(Stdio::piped()).spawn().unwrap();
    let mut line = String::new();
    std::io::BufRead::read_line(&mut std::io::BufReader::new(parent.stdout.take().unwrap()), &mut line).unwrap();
    let became_sleep = |pid: &str| {
        std::fs::read_to_string(format!("/proc/{}/comm", pid.trim())).is_ok_and(|name| name.trim() == "sleep")
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(eventually("the program runs", || became_sleep(&line)));
    parent.kill().unwrap();
    parent.wait().unwrap();
    runtime.block_on(eventually("the worker is gone", || !is_alive(&line)));
}

#[tokio::test]
async fn the_built_in_worker_paints_a_picture_and_says_what_it_sees_on_the_way() {
    let bench = Bench::new();
    let models = bench.dir.path().join("models");
    tiny::write_folder("sd15", &models.join("tiny"));
    let config = Config { models, threads: 1, executor: Wish::Cpu, ..Config::default() };
    let wish = serde_json::json!({"model": "tiny", "prompt": "the moon", "steps": 4, "seed": 7, "width": 64,
        "height": 64, "preview_every": 2, "checkpoint_every": 2});
    let parameters = wish.as_object().unwrap().clone();
    let task = Task { kind: "image.generate".into(), parameters, ..bench.task(&[]) };
    let (verdict, said) = bench.run(&builtin_program(&config), &task, Limits::default()).await;
    let Verdict::Done(outputs) = verdict else { panic!("{verdict:?}") };
    assert_eq!((outputs.len(), &outputs[0].extra["seed"]), (1, &7.into()));
    let (file, _) = protocol::locate(&task.output_dir, &outputs[0].name).unwrap();
    assert_eq!(image::image_dimensions(file).unwrap(), (64, 64));
    for wanted in ["Phase(\"load\")", "Phase(\"post\")", "Percent(100.0)", "Preview(", "Checkpoint("] {
        assert!(said.iter().any(|said| format!("{said:?}").starts_with(wanted)), "no {wanted} in {said:?}");
    }
}

#[tokio::test]
async fn a_worker_that_never_stops_talking_keeps_its_limits_and_hears_a_cancel() {
    let bench = Bench::new();
    let limits = Limits { soft_s: None, hard_s: Some(1) };
    let (verdict, _) = bench.run(&shell(r#"yes '{"percent":1}'"#, false), &bench.task(&[]), limits).await;
    assert_eq!(cause_of(&verdict), Some(cause::TIMEOUT), "{verdict:?}");
    bench.orders.send_replace(Orders { stop: Some(Stop::Cancelled), limits: None });
    assert_eq!(bench.shell(r#"trap '' TERM; yes '{"gpu_s":1}'"#).await, Verdict::Stopped(Stop::Cancelled));
}

#[tokio::test]
async fn a_worker_that_fills_the_disk_is_ended() {
    let bench = Bench::new();
    let out = bench.task(&[]).output_dir;
    // No file is longer than all of them together may be.
    let one = format!("cd {}; head -c 100000000 /dev/zero > x 2>/dev/null; echo '{{\"done\":true}}'", out.display());
    assert_eq!(bench.shell(&one).await, Verdict::Done(Vec::new()));
    assert_eq!(std::fs::metadata(out.join("x")).unwrap().len(), 64 << 20);
    let many = format!("cd {}; for i in 1 2 3 4; do head -c 40000000 /dev/zero > $i; done; sleep 1000", out.display());
    let (class, message) = failure(bench.shell(&many).await);
    assert_eq!(class, FailureClass::Permanent);
    assert!(message.contains("67108864 bytes") && message.contains("output_bytes_max"), "{message}");
}

#[tokio::test]
async fn the_memory_of_a_program_is_bounded_where_its_manifest_says_so() {
    let bench = Bench::new();
    let script = "exec python3 -c 'held = bytearray(800 << 20); print(\"{\\\"done\\\": true}\")'";
    assert_eq!(bench.shell(script).await, Verdict::Done(Vec::new()));
    let limits = manifest::Bounds { memory_gb: Some(0.25), ..Default::default() };
    let program = Program { limits, ..shell(script, false) };
    let (verdict, _) = bench.run(&program, &bench.task(&[]), Limits::default()).await;
    assert_eq!(cause_of(&verdict), Some(cause::OUT_OF_MEMORY), "{verdict:?}");
}

#[tokio::test]
async fn what_a_program_leaves_behind_ends_with_it() {
    let bench = Bench::new();
    let task = bench.task(&[]);
    let file = task.output_dir.join("pid");
    for end in [r#"echo '{"done":true}'"#, "exit 3", "exit 0"] {
        let script = format!("read job; sleep 1000 >/dev/null 2>&1 <&1 & echo $! > {}; {end}", file.display());
        let _ = bench.run(&shell(&script, false), &task, Limits::default()).await;
        let pid = std::fs::read_to_string(&file).unwrap();
        eventually("the grandchild ended", || !is_alive(&pid)).await;
    }
}

#[tokio::test]
async fn each_slot_shows_its_workers_its_own_gpu_counted_by_address() {
    let slots = Slots::new(vec![0, 1], 2, launch(), Box::new(|_| {}));
    let bench = Bench::new();
    let program = shell(r#"read job; echo "{\"output\":\"$CUDA_VISIBLE_DEVICES $CUDA_DEVICE_ORDER\"}""#, false);
    let (mut first, mut second) = (slots.hold("shell", &[]).await.unwrap(), slots.hold("shell", &[]).await.unwrap());
    let mut seen = Vec::new();
    for slot in [&mut first, &mut second] {
        let orders = bench.orders.subscribe();
        let task = bench.task(&[]);
        let verdict = run_one(slot, &program, &task, &Limits::default(), orders, &mut |_| {}).await;
        let Verdict::Done(outputs) = verdict else { panic!("{verdict:?}") };
        seen.push(outputs[0].name.clone());
    }
    seen.sort();
    assert_eq!(seen, ["0 PCI_BUS_ID", "1 PCI_BUS_ID"]);
}

#[tokio::test]
async fn what_a_worker_says_between_two_jobs_ends_neither() {
    let bench = Bench::new();
    let script =
        r#"n=0; while read -r line; do n=$((n+1)); printf '{"output":"%s"}\n{"done":true}\n{"done":true}\n' $n; done"#;
    for wanted in ["1", "2", "3"] {
        let (verdict, _) = bench.run(&shell(script, true), &bench.task(&[]), Limits::default()).await;
        let Verdict::Done(outputs) = verdict else { panic!("{verdict:?}") };
        assert_eq!(outputs.iter().map(|output| output.name.as_str()).collect::<Vec<_>>(), [wanted]);
    }
    bench.slots.end().await;
}

/// A cgroup (v2) below this test's own, where the host allows that.
struct OwnCgroup(PathBuf);

impl OwnCgroup {
    fn make(name: &str) -> Option<Self> {
        let mounts = std::fs::read_to_string("/proc/self/mountinfo").ok()?;
        let mount = mounts.lines().find(|line| line.contains(" - cgroup2 "))?.split(' ').nth(4)?.to_owned();
        let own = std::fs::read_to_string("/proc/self/cgroup").ok()?;
        let own = own.lines().find_map(|line| line.strip_prefix("0::/"))?.to_owned();
        let dir = Path::new(&mount).join(own).join(format!("backlot-{name}-{}", std::process::id()));
        std::fs::create_dir(&dir).ok()?;
        let whole = Self(dir);
        whole.0.join("cgroup.kill").exists().then_some(whole)
    }
}

impl Drop for OwnCgroup {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir(&self.0);
    }
}

#[tokio::test]
async fn a_cgroup_ends_also_what_has_left_the_process_group() {
    let Some(own) = OwnCgroup::make("hide") else {
        println!("SKIPPED a_cgroup_ends_also_what_has_left_the_process_group: no cgroup (v2) of our own");
        return;
    };
    let bench = Bench::new();
    let cgroup = backlot_agent::worker::cgroup::Cgroup::open(own.0.to_str().unwrap()).unwrap();
    let launch = Launch { cgroup: Some(cgroup), ..launch() };
    let slots = Slots::new(Vec::new(), 1, launch, Box::new(|_| {}));
    let task = bench.task(&[]);
    let file = task.output_dir.join("pid");
    let script = format!("setsid sh -c 'echo $$ > {}; exec sleep 1000' & sleep 1000", file.display());
    let (verdict, pid) = bench.over_its_limit(&slots, &script, &task, &file).await;
    assert_eq!(cause_of(&verdict), Some(cause::TIMEOUT));
    eventually("the one that hid has ended", || !is_alive(&pid)).await;
}
