//! Several jobs in one worker process, as the supervisor has them: each with its own words, cancel and end.

#![allow(clippy::unwrap_used, reason = "a test panics with what went wrong; that is its report")]

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use backlot_agent::worker::Slots;
use backlot_agent::worker::charge::Member;
use backlot_agent::worker::manifest::Program;
use backlot_agent::worker::process::{Launch, Orders, Stop, Verdict};
use backlot_agent::worker::protocol::{Said, Task};
use backlot_wire::{FailureClass, Limits};
use parking_lot::Mutex;
use tokio::sync::watch;
use tracing::Span;

/// A kept program that does as `script` says.
fn program(script: &str) -> Program {
    Program {
        name: "shell".into(),
        arguments: ["--", "sh", "-c", script].map(Into::into).to_vec(),
        dir: None,
        env: Default::default(),
        types: vec!["test.shell".into()],
        models: Vec::new(),
        requirements: Default::default(),
        keep_alive: true,
        limits: Default::default(),
    }
}

/// Hears a job by its number, and may give orders to any.
type Hear<'h> = dyn Fn(usize, &Said, &[watch::Sender<Orders>]) + Sync + 'h;

struct Bench {
    slots: Arc<Slots>,
    ends: Arc<AtomicUsize>,
    dir: tempfile::TempDir,
}

impl Bench {
    fn new() -> Self {
        let launch = Launch {
            agent: PathBuf::from(env!("CARGO_BIN_EXE_backlot-agent")),
            line_bytes_max: 64 << 10,
            cancel_grace: Duration::from_secs(60),
            hard_limit_s: 600,
            output_bytes_max: 1 << 20,
            cgroup: None,
        };
        let ends = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&ends);
        let ended = Box::new(move |_| {
            count.fetch_add(1, Ordering::Relaxed);
        });
        Self { slots: Slots::new(Vec::new(), 1, launch, ended), ends, dir: tempfile::tempdir().unwrap() }
    }

    /// Runs `count` jobs, j0 and so on; `heard` hears them and may give orders. Their ends, in the order of the jobs.
    async fn run(&self, program: &Program, count: usize, heard: &Hear<'_>) -> Vec<Verdict> {
        let task = |number: usize| {
            let output_dir = self.dir.path().join(format!("out-{number}"));
            std::fs::create_dir_all(&output_dir).unwrap();
            Task {
                id: format!("j{number}"),
                attempt: format!("j{number}.1"),
                kind: "test.shell".into(),
                parameters: Default::default(),
                labels: Default::default(),
                inputs: Vec::new(),
                output_dir,
                models_dir: None,
                soft_limit_s: None,
                traceparent: None,
            }
        };
        let tasks: Vec<Task> = (0..count).map(task).collect();
        let limits = Limits::default();
        let orders: Vec<watch::Sender<Orders>> = tasks.iter().map(|_| watch::Sender::default()).collect();
        let ends: Vec<Mutex<Vec<Verdict>>> = tasks.iter().map(|_| Mutex::default()).collect();
        let mut ears: Vec<_> = (0..count)
            .map(|number| {
                let orders = &orders;
                move |said: Said| heard(number, &said, orders)
            })
            .collect();
        let mut tells: Vec<_> = ends.iter().map(|end| move |verdict| end.lock().push(verdict)).collect();
        let members = tasks.iter().zip(&orders).zip(ears.iter_mut().zip(&mut tells));
        let members = members.map(|((task, orders), (heard, ended))| Member {
            task,
            limits: &limits,
            orders: orders.subscribe(),
            span: Span::none(),
            heard,
            ended,
        });
        let mut slot = self.slots.hold(&program.name, &[]).await.unwrap();
        slot.run(program, &[], members.collect()).await;
        drop(tells);
        ends.into_iter()
            .map(|end| {
                let mut end = end.into_inner();
                assert_eq!(end.len(), 1, "{end:?}");
                end.remove(0)
            })
            .collect()
    }
}

fn outputs(verdict: &Verdict) -> Vec<&str> {
    let Verdict::Done(outputs) = verdict else { panic!("{verdict:?}") };
    outputs.iter().map(|output| output.name.as_str()).collect()
}

#[tokio::test]
async fn words_and_outputs_go_to_the_job_that_they_are_of() {
    let bench = Bench::new();
    let kept = program(
        r#"while read -r line; do case "$line" in '{"batch"'*)
        echo '{"of":"j1.1","percent":10}'; echo '{"of":"j0.1","output":"a"}'; echo '{"of":"j1.1","output":"b"}'
        echo '{"of":"j2.1","error":"no face","permanent":true}'; echo '{"of":"j0.1","done":true}'; echo '{"of":"j1.1","done":true}'
        echo '{"of":"j1.1","late":"word"}'; echo '{"rest":true}';;
        *) echo "{\"output\":\"$$\"}"; echo '{"done":true}';; esac; done"#,
    );
    let alone = bench.run(&kept, 1, &|_, _, _| {}).await;
    let percents = Mutex::new(Vec::new());
    let ends = bench
        .run(&kept, 3, &|number, said, _| {
            if let Said::Percent(percent) = said {
                percents.lock().push((number, *percent));
            }
        })
        .await;
    assert_eq!((outputs(&ends[0]), outputs(&ends[1])), (vec!["a"], vec!["b"]));
    assert!(
        matches!(&ends[2], Verdict::Failed { class: FailureClass::Permanent, message, .. } if message == "no face")
    );
    assert_eq!(percents.into_inner(), [(1, 10.0)]);
    let after = bench.run(&kept, 1, &|_, _, _| {}).await;
    assert_eq!(outputs(&alone[0]), outputs(&after[0]), "one process did all of it");
    assert_eq!(bench.ends.load(Ordering::Relaxed), 0);
    bench.slots.end().await;
}

#[tokio::test]
async fn one_that_is_cancelled_ends_at_once_and_the_others_have_their_results() {
    let bench = Bench::new();
    // The worker goes on when it has heard of the cancel, which it says of the other job.
    let kept = program(
        r#"read -r batch; echo '{"of":"j1.1","phase":"infer"}'; read -r cancel
        case "$cancel" in *'"cancel":"j1"'*cancelled*) echo '{"of":"j0.1","output":"heard"}';; esac
        echo '{"of":"j0.1","done":true}'; echo '{"of":"j1.1","error":"cancelled"}'; echo '{"rest":true}'; read -r line"#,
    );
    let ends = bench
        .run(&kept, 2, &|_, said, orders| {
            if matches!(said, Said::Phase(_)) {
                orders[1].send_replace(Orders { stop: Some(Stop::Cancelled), limits: None });
            }
        })
        .await;
    assert_eq!((outputs(&ends[0]), &ends[1]), (vec!["heard"], &Verdict::Stopped(Stop::Cancelled)));
    bench.slots.end().await;
}

#[tokio::test]
async fn a_worker_that_dies_gives_back_all_that_it_had_and_fails_none() {
    let bench = Bench::new();
    let dying =
        program(r#"read -r batch; echo '{"of":"j1.1","done":true}'; echo 'segmentation fault' >&2; kill -9 $$"#);
    let ends = bench.run(&dying, 3, &|_, _, _| {}).await;
    assert_eq!(outputs(&ends[1]), Vec::<&str>::new());
    for end in [&ends[0], &ends[2]] {
        let Verdict::Returned(reason) = end else { panic!("{end:?}") };
        assert!(reason.contains("signal 9") && reason.contains("segmentation fault"), "{reason}");
        assert!(reason.contains("3 jobs") && reason.contains("alone the next time"), "{reason}");
    }
    assert_eq!(bench.ends.load(Ordering::Relaxed), 1);
}

#[tokio::test]
async fn a_line_of_nobodys_attempt_gives_all_back() {
    let bench = Bench::new();
    for line in [r#"{"done":true}"#, r#"{"of":"j7.1","done":true}"#, "Loading"] {
        let broken = program(&format!("read -r batch; echo '{line}'; read -r line"));
        let ends = bench.run(&broken, 2, &|_, _, _| {}).await;
        for end in &ends {
            assert!(matches!(end, Verdict::Returned(reason) if reason.contains("`shell` wrote")), "{line}: {end:?}");
        }
    }
}

#[tokio::test]
async fn who_fills_the_disk_ends_and_the_others_go_on() {
    let bench = Bench::new();
    let full = bench.dir.path().join("out-1/full");
    let script = format!(
        r#"read -r batch; for n in 1 2; do head -c 700000 /dev/zero > {}$n; done; read -r cancel; echo '{{"of":"j0.1","done":true}}'; echo '{{"rest":true}}'; read -r line"#,
        show(&full)
    );
    let ends = bench.run(&program(&script), 2, &|_, _, _| {}).await;
    assert_eq!(outputs(&ends[0]), Vec::<&str>::new());
    assert!(
        matches!(&ends[1], Verdict::Failed { class: FailureClass::Permanent, message, .. } if message.contains("output_bytes_max")),
        "{ends:?}"
    );
    bench.slots.end().await;
}

fn show(path: &Path) -> &str {
    path.to_str().unwrap()
}
