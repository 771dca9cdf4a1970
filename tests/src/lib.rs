//! Starts the real binaries and drives them with the clients people have.
//!
//! Black-box tests know the command line, the doors and nothing else. Every appliance has a temporary data folder
//! and ports of its own, which are kept for it while it is down, is ended by its process id, and leaves its log in the panic of a test that fails. `cargo xtask test` sets up
//! what they need: the built binaries, and a Python with boto3 and the OpenTelemetry SDK.

#![allow(clippy::expect_used, reason = "a harness panics with what went wrong; that is its report")]
#![allow(clippy::disallowed_methods, reason = "tests wait on the real clock, with a deadline")]

pub mod corpus;
pub mod faults;
mod port;
pub mod wire;

use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

pub use port::Port;
use serde::Deserialize;
use tempfile::TempDir;

/// How long anything may take before a test gives up. Generous: the machine may be busy, and no test waits for it in vain.
pub const PATIENCE: Duration = Duration::from_secs(120);

/// The line that `backlot serve --print-addresses` writes.
#[derive(Clone, Debug, Deserialize)]
pub struct Addresses {
    pub ready: bool,
    pub aws: String,
    pub http: String,
    pub otlp_grpc: String,
    pub otlp_http: String,
    /// Of the public door, where there is one.
    #[serde(default)]
    pub public: Option<String>,
    /// `host:port` of the syslog listeners that are configured.
    #[serde(default)]
    pub syslog_tcp: Option<String>,
    #[serde(default)]
    pub syslog_tls: Option<String>,
    #[serde(default)]
    pub syslog_udp: Option<String>,
}

/// A running appliance. Dropped, it is killed.
pub struct Appliance {
    child: Child,
    pub addresses: Addresses,
    settings: Vec<(String, String)>,
    ports: Vec<Port>,
    dir: TempDir,
}

/// The doors that every appliance has, as the configuration names them.
const DOORS: [&str; 4] = ["AWS", "HTTP", "OTLP_GRPC", "OTLP_HTTP"];

impl Appliance {
    /// `backlot serve --dev` on free ports and an empty folder; its key is `test`/`test`.
    #[must_use]
    pub fn start() -> Self {
        Self::start_with(&[])
    }

    /// The same with configuration from the environment, such as `("BACKLOT_ALERTING_INTERVAL_S", "1")`.
    #[must_use]
    pub fn start_with(settings: &[(&str, &str)]) -> Self {
        Self::start_in(tempfile::tempdir().expect("a temporary folder"), settings)
    }

    /// The same with its folder in `parent`: a disk of the test's own.
    #[must_use]
    pub fn start_on(parent: &Path, settings: &[(&str, &str)]) -> Self {
        Self::start_in(tempfile::tempdir_in(parent).expect("a temporary folder"), settings)
    }

    fn start_in(dir: TempDir, settings: &[(&str, &str)]) -> Self {
        let settings: Vec<_> = settings.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        let ports: Vec<Port> = DOORS.iter().map(|_| Port::hold()).collect();
        let (child, addresses) = launch(dir.path(), &settings, &ports);
        Self { child, addresses, settings, ports, dir }
    }

    /// The data folder.
    #[must_use]
    pub fn data(&self) -> PathBuf {
        self.dir.path().join("data")
    }

    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// What it has logged so far.
    #[must_use]
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.dir.path().join("log")).unwrap_or_default()
    }

    /// kill -9, without a word of warning.
    pub fn kill(&mut self) {
        signal(self.child.id(), libc::SIGKILL);
        self.child.wait().expect("wait for a killed appliance");
    }

    /// SIGTERM, and waits for the orderly end. Returns the exit code.
    pub fn stop(&mut self) -> Option<i32> {
        signal(self.child.id(), libc::SIGTERM);
        let status = wait_within(&mut self.child, PATIENCE).unwrap_or_else(|| panic!("did not stop\n{}", self.log()));
        status.code()
    }

    /// Changes the configuration of the next [`Appliance::start_again`].
    pub fn set(&mut self, name: &str, value: &str) {
        self.settings.retain(|(other, _)| other != name);
        self.settings.push((name.to_owned(), value.to_owned()));
    }

    /// Starts again on the same folder and the same ports, after [`Appliance::kill`] or [`Appliance::stop`].
    pub fn start_again(&mut self) {
        let (child, addresses) = launch(self.dir.path(), &self.settings, &self.ports);
        self.child = child;
        self.addresses = addresses;
    }

    /// What every client needs in its environment.
    #[must_use]
    pub fn environment(&self) -> Vec<(&'static str, String)> {
        vec![
            ("AWS_ACCESS_KEY_ID", "test".into()),
            ("AWS_SECRET_ACCESS_KEY", "test".into()),
            ("AWS_DEFAULT_REGION", "us-east-1".into()),
            ("AWS_ENDPOINT_URL", self.addresses.aws.clone()),
            ("AWS_EC2_METADATA_DISABLED", "true".into()),
            ("AWS_CONFIG_FILE", "/dev/null".into()),
            ("AWS_SHARED_CREDENTIALS_FILE", "/dev/null".into()),
            ("BACKLOT_ENDPOINT", self.addresses.http.clone()),
            ("BACKLOT_AGENT_HTTP", self.addresses.http.clone()),
            ("BACKLOT_AGENT_AWS", self.addresses.aws.clone()),
            ("BACKLOT_AGENT_OTLP", self.addresses.otlp_http.clone()),
            ("BACKLOT_TEST_OTLP_GRPC", self.addresses.otlp_grpc.clone()),
            ("BACKLOT_TEST_PUBLIC", self.addresses.public.clone().unwrap_or_default()),
        ]
    }

    /// A client command of the binary, such as `job list --json`.
    #[must_use]
    pub fn cli(&self, arguments: &[&str]) -> Output {
        let mut command = Command::new(binary("backlot"));
        command.args(arguments).envs(self.environment());
        finish(&mut command, self)
    }

    /// Runs `tests/python/<script>` against this appliance; panics with all it said unless it exits with 0.
    pub fn python(&self, script: &str, arguments: &[&str]) -> String {
        let mut command = Command::new(python());
        command.arg(repository().join("tests/python").join(script)).args(arguments).envs(self.environment());
        let output = finish(&mut command, self);
        assert!(
            output.status.success(),
            "{script} {arguments:?}: {}\n{}\n{}",
            output.status,
            said(&output),
            self.log()
        );
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// A plain HTTP request to the http door with the dev key, through curl-like minimal code: status and body.
    #[must_use]
    pub fn http(&self, method: &str, path: &str, body: Option<&str>) -> (u16, String) {
        http(
            &self.addresses.http,
            method,
            path,
            &[("authorization", "Basic dGVzdDp0ZXN0"), ("content-type", "application/json")],
            body.unwrap_or_default().as_bytes(),
        )
    }

    /// The same, read as JSON; panics unless the status is 2xx.
    #[must_use]
    pub fn json(&self, method: &str, path: &str, body: Option<&str>) -> serde_json::Value {
        let (status, text) = self.http(method, path, body);
        assert!((200..300).contains(&status), "{method} {path}: {status} {text}\n{}", self.log());
        serde_json::from_str(&text).unwrap_or(serde_json::Value::Null)
    }

    /// The job `id` as it stands when it has ended, one way or another.
    #[must_use]
    pub fn job_ended(&self, id: &str) -> serde_json::Value {
        eventually(&format!("job {id} ended"), || {
            let job = self.json("GET", &format!("/v1/jobs/{id}"), None);
            ["succeeded", "failed", "cancelled"].contains(&job["status"].as_str()?).then_some(job)
        })
    }
}

impl Drop for Appliance {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            eprintln!("--- log of the appliance ---\n{}", self.log());
        }
    }
}

fn launch(dir: &Path, settings: &[(String, String)], ports: &[Port]) -> (Child, Addresses) {
    let log = std::fs::OpenOptions::new().create(true).append(true).open(dir.join("log")).expect("a log file");
    let doors = DOORS.iter().zip(ports).map(|(door, port)| (format!("BACKLOT_EDGE_{door}"), port.address()));
    let mut command = Command::new(binary("backlot"));
    command
        .args(["serve", "--dev", "--print-addresses", "--data"])
        .arg(dir.join("data"))
        .env_remove("BACKLOT_PYTHON") // ours, and no configuration key
        .envs(doors)
        .envs(settings.iter().map(|(name, value)| (name, value)))
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(log);
    let mut child = command.spawn().expect("start backlot");
    let stdout = child.stdout.take().expect("piped");
    let (sender, line) = mpsc::channel();
    std::thread::spawn(move || {
        let mut first = String::new();
        let mut reader = BufReader::new(stdout);
        let _ = reader.read_line(&mut first);
        let _ = sender.send(first);
        let _ = reader.read_to_end(&mut Vec::new());
    });
    let log = || std::fs::read_to_string(dir.join("log")).unwrap_or_default();
    let line = line.recv_timeout(PATIENCE).unwrap_or_else(|_| panic!("backlot did not become ready\n{}", log()));
    let addresses: Addresses =
        serde_json::from_str(&line).unwrap_or_else(|error| panic!("no addresses in {line:?}: {error}\n{}", log()));
    assert!(addresses.ready);
    (child, addresses)
}

/// A child process that is killed when dropped: an agent, a consumer.
pub struct Process {
    pub child: Child,
    log: PathBuf,
}

impl Process {
    /// Starts `command` with its output in `dir/<name>.log`.
    #[must_use]
    pub fn start(command: &mut Command, dir: &Path, name: &str) -> Self {
        let log = dir.join(format!("{name}.log"));
        let file = std::fs::OpenOptions::new().create(true).append(true).open(&log).expect("a log file");
        let child = command.stdin(Stdio::null()).stdout(file.try_clone().expect("a file")).stderr(file).spawn();
        Self { child: child.unwrap_or_else(|error| panic!("start {name}: {error}")), log }
    }

    #[must_use]
    pub fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }

    pub fn signal(&self, signal_number: i32) {
        signal(self.child.id(), signal_number);
    }

    /// Waits for its end; panics when it does not come.
    pub fn wait(&mut self) -> std::process::ExitStatus {
        wait_within(&mut self.child, PATIENCE).unwrap_or_else(|| panic!("did not end\n{}", self.log()))
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            eprintln!("--- {} ---\n{}", self.log.display(), self.log());
        }
    }
}

/// Sends a signal to a process that is ours.
#[allow(unsafe_code, reason = "there is no safe kill in std")]
pub fn signal(pid: u32, number: i32) {
    let pid = i32::try_from(pid).expect("a process id");
    assert!(pid > 1);
    // SAFETY: kill takes two integers and touches no memory of ours; `pid` is a child that was not yet waited for.
    unsafe { libc::kill(pid, number) };
}

fn wait_within(child: &mut Child, patience: Duration) -> Option<std::process::ExitStatus> {
    let deadline = Instant::now() + patience;
    loop {
        if let Some(status) = child.try_wait().expect("wait") {
            return Some(status);
        }
        if Instant::now() > deadline {
            return None;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
}

fn finish(command: &mut Command, appliance: &Appliance) -> Output {
    let mut child =
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("start a client");
    fn read(mut from: impl Read + Send + 'static) -> std::thread::JoinHandle<Vec<u8>> {
        std::thread::spawn(move || {
            let mut all = Vec::new();
            let _ = from.read_to_end(&mut all);
            all
        })
    }
    let out = read(child.stdout.take().expect("piped"));
    let err = read(child.stderr.take().expect("piped"));
    let status = wait_within(&mut child, PATIENCE * 3).unwrap_or_else(|| {
        let _ = child.kill();
        panic!("{command:?} did not end\n{}", appliance.log())
    });
    Output { status, stdout: out.join().expect("reader"), stderr: err.join().expect("reader") }
}

fn said(output: &Output) -> String {
    format!("{}\n{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

/// Calls `probe` until it gives something, for as long as [`PATIENCE`] lasts.
pub fn eventually<T>(what: &str, mut probe: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(found) = probe() {
            return found;
        }
        assert!(Instant::now() < deadline, "in vain: {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// As a value in the query of a URL.
#[must_use]
pub fn encode(text: &str) -> String {
    text.bytes()
        .map(|byte| if byte.is_ascii_alphanumeric() { char::from(byte).to_string() } else { format!("%{byte:02X}") })
        .collect()
}

/// Nanoseconds since 1970.
#[allow(clippy::disallowed_methods, reason = "the tests' own edge")]
#[must_use]
pub fn now_ns() -> u64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
}

/// An appliance with `count` lines in it, the lines, earliest first, and the whole second a minute ago that they begin at,
/// in nanoseconds since 1970.
///
/// # Panics
/// When it does not take them.
#[must_use]
pub fn filled(seed: u64, count: usize) -> (Appliance, Vec<corpus::Line>, u64) {
    const SECOND_NS: u64 = 1_000_000_000;
    let appliance = Appliance::start();
    let begin_ns = now_ns() / SECOND_NS * SECOND_NS - 60 * SECOND_NS;
    let lines: Vec<_> = corpus::Corpus::new(seed, begin_ns).take(count).collect();
    for lines in lines.chunks(500) {
        let body = corpus::to_otlp(lines).to_string();
        let headers = [("content-type", "application/json")];
        let (status, text) = http(&appliance.addresses.otlp_http, "POST", "/v1/logs", &headers, body.as_bytes());
        assert_eq!(status, 200, "{text}");
    }
    (appliance, lines, begin_ns)
}

/// One HTTP/1.1 request over a fresh connection: status and body. For tests that send what no client would.
#[must_use]
pub fn http(base: &str, method: &str, path: &str, headers: &[(&str, &str)], body: &[u8]) -> (u16, String) {
    let host = base.trim_start_matches("http://");
    let mut head =
        format!("{method} {path} HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\ncontent-length: {}\r\n", body.len());
    for (name, value) in headers {
        head.push_str(&format!("{name}: {value}\r\n"));
    }
    head.push_str("\r\n");
    let answer = raw(base, &[head.as_bytes(), body].concat());
    let text = String::from_utf8_lossy(&answer);
    let status = text.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or(0);
    let (head, body) = text.split_once("\r\n\r\n").unwrap_or((&text, ""));
    let chunked = head.to_ascii_lowercase().contains("transfer-encoding: chunked");
    (status, if chunked { unchunk(body) } else { body.to_owned() })
}

/// Sends bytes to a door and reads what comes until it closes.
#[must_use]
pub fn raw(base: &str, bytes: &[u8]) -> Vec<u8> {
    use std::io::Write;
    let mut stream = std::net::TcpStream::connect(base.trim_start_matches("http://")).expect("connect");
    stream.set_read_timeout(Some(PATIENCE)).expect("a timeout");
    let _ = stream.write_all(bytes); // a door that refuses early may close before it has read all
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer);
    answer
}

fn unchunk(mut body: &str) -> String {
    let mut whole = String::new();
    while let Some((size, rest)) = body.split_once("\r\n") {
        let Ok(size) = usize::from_str_radix(size.trim(), 16) else { break };
        if size == 0 || rest.len() < size || !rest.is_char_boundary(size) {
            break;
        }
        whole.push_str(&rest[..size]);
        body = rest[size..].trim_start_matches("\r\n");
    }
    whole
}

/// The repository's root.
#[must_use]
pub fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("tests/ has a parent").to_owned()
}

/// A binary of this workspace, built by `cargo build` into the folder that this test runs from.
#[must_use]
pub fn binary(name: &str) -> PathBuf {
    let exe = std::env::current_exe().expect("a test has a path");
    let folder = exe.parent().unwrap_or(Path::new("."));
    let folder = if folder.ends_with("deps") { folder.parent().unwrap_or(folder) } else { folder };
    let path = folder.join(name);
    assert!(path.exists(), "{} is not built: run `cargo xtask test`, or `cargo build -p {name}` first", path.display());
    path
}

/// The Python of the tests: `BACKLOT_PYTHON`, or the environment that `cargo xtask test` makes.
#[must_use]
pub fn python() -> PathBuf {
    let path = std::env::var_os("BACKLOT_PYTHON").map_or_else(|| repository().join(".venv/bin/python"), PathBuf::from);
    assert!(
        path.exists(),
        "{} does not exist: run `cargo xtask test`, which makes it, or set BACKLOT_PYTHON",
        path.display()
    );
    path
}
