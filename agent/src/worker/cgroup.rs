//! A cgroup (v2) for each worker, where the operator has given the agent one of its own.
//!
//! It holds what a manifest's limits say for all processes of a worker together, and it ends them together, also those that have left their
//! process group. Without one, limits hold for single processes as far as the system can (see [`super::builtin`]).
//! Nothing outside of the folder that was given is touched.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;

use super::manifest::Bounds;

/// Controllers that hold the limits of a manifest.
const CONTROLLERS: [&str; 3] = ["memory", "pids", "cpu"];
/// Period of the CPU's limit, in microseconds: the kernel's own default.
const CPU_PERIOD_US: f64 = 100_000.0;

/// The agent's own cgroup, under which those of its workers are made.
#[derive(Debug)]
pub struct Cgroup {
    dir: PathBuf,
    controllers: Vec<&'static str>,
    count: AtomicU64,
    /// Those of workers that have ended, until the kernel lets go of them.
    ended: Mutex<Vec<PathBuf>>,
}

impl Cgroup {
    /// Takes the folder `setting`, or with `self` the one in which this process is; that is then moved one down, because the kernel lets
    /// only a cgroup without processes of its own share out what it has.
    ///
    /// # Errors
    /// In words, when it is none or is not ours to write.
    pub fn open(setting: &str) -> Result<Arc<Self>, String> {
        let dir = if setting == "self" { own_folder()? } else { PathBuf::from(setting) };
        let shown = dir.display();
        let offered = std::fs::read_to_string(dir.join("cgroup.controllers"))
            .map_err(|error| format!("{shown} is no cgroup (v2): {error}"))?;
        if setting == "self" {
            let inner = dir.join("agent");
            make(&inner).and_then(|()| put(&inner, "cgroup.procs", &std::process::id().to_string()))?;
        }
        let enabled = |name: &&str| {
            offered.split_whitespace().any(|word| word == *name)
                && put(&dir, "cgroup.subtree_control", &format!("+{name}")).is_ok()
        };
        let controllers = CONTROLLERS.into_iter().filter(enabled).collect();
        let cgroup = Self { dir, controllers, count: AtomicU64::new(0), ended: Mutex::default() };
        // Those of an agent before this one, whose workers died with it.
        let left = std::fs::read_dir(&cgroup.dir).map_err(|error| format!("read {}: {error}", cgroup.dir.display()))?;
        for path in left.filter_map(|entry| Some(entry.ok()?.path())) {
            if path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("worker-")) {
                let _ = std::fs::remove_dir(path);
            }
        }
        Ok(Arc::new(cgroup))
    }

    /// Names of the limits in `bounds` that this host does not hold. `of` is `None` where there is no cgroup.
    #[must_use]
    pub fn not_held(of: Option<&Self>, bounds: &Bounds) -> Vec<&'static str> {
        let has = |controller: &str| of.is_some_and(|cgroup| cgroup.controllers.contains(&controller));
        let asked = [(bounds.cpus.is_some(), "cpus", "cpu"), (bounds.processes.is_some(), "processes", "pids")];
        asked.into_iter().filter(|(asked, _, by)| *asked && !has(by)).map(|(_, name, _)| name).collect()
    }

    /// Makes one for a worker that is about to start.
    ///
    /// # Errors
    /// In words: a limit that an operator wrote down and that does not hold is worse than a worker that does not start.
    pub fn worker(self: &Arc<Self>, bounds: &Bounds) -> Result<Group, String> {
        self.ended.lock().retain(|dir| std::fs::remove_dir(dir).is_err() && dir.exists());
        let number = self.count.fetch_add(1, Ordering::Relaxed);
        let dir = self.dir.join(format!("worker-{}-{number}", std::process::id()));
        make(&dir)?;
        let group = Group { cgroup: Arc::clone(self), dir };
        let holds = |controller| self.controllers.contains(&controller);
        if let Some(bytes) = bounds.memory_bytes().filter(|_| holds("memory")) {
            put(&group.dir, "memory.max", &bytes.to_string())?;
            // Without these the limit is a softer one; old kernels lack them.
            let _ = put(&group.dir, "memory.swap.max", "0");
            let _ = put(&group.dir, "memory.oom.group", "1");
        }
        if let Some(processes) = bounds.processes.filter(|_| holds("pids")) {
            put(&group.dir, "pids.max", &processes.to_string())?;
        }
        if let Some(cpus) = bounds.cpus.filter(|_| holds("cpu")) {
            put(&group.dir, "cpu.max", &format!("{:.0} {CPU_PERIOD_US:.0}", cpus * CPU_PERIOD_US))?;
        }
        Ok(group)
    }

    /// Whether the memory of a worker is bounded for all of its processes together.
    #[must_use]
    pub fn holds_memory(&self) -> bool {
        self.controllers.contains(&"memory")
    }
}

/// The cgroup of one worker. Dropped, all in it end.
#[derive(Debug)]
pub struct Group {
    cgroup: Arc<Cgroup>,
    dir: PathBuf,
}

impl Group {
    /// Where a process writes `0` to join.
    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Ends every process in it, those that hide from the process group too.
    pub fn kill(&self) {
        // Kernels before 5.14 cannot; the process group is all there is then.
        let _ = put(&self.dir, "cgroup.kill", "1");
    }

    /// Times that its memory limit has cost a process its life.
    #[must_use]
    pub fn oom_kills(&self) -> Option<u64> {
        let events = std::fs::read_to_string(self.dir.join("memory.events")).ok()?;
        events.lines().find_map(|line| line.strip_prefix("oom_kill "))?.trim().parse().ok()
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        self.kill();
        if std::fs::remove_dir(&self.dir).is_err() {
            self.cgroup.ended.lock().push(std::mem::take(&mut self.dir));
        }
    }
}

/// Joins the cgroup in `dir`: whatever this process starts is in it too.
///
/// # Errors
/// In words.
pub fn join(dir: &Path) -> Result<(), String> {
    put(dir, "cgroup.procs", "0")
}

/// The cgroup in which this process is.
fn own_folder() -> Result<PathBuf, String> {
    let read = |path: &str| std::fs::read_to_string(path).map_err(|error| format!("read {path}: {error}"));
    let (own, mounts) = (read("/proc/self/cgroup")?, read("/proc/self/mountinfo")?);
    folder_of(&own, &mounts).ok_or_else(|| "this host has no cgroup (v2)".to_owned())
}

fn folder_of(own: &str, mounts: &str) -> Option<PathBuf> {
    let path = own.lines().find_map(|line| line.strip_prefix("0::/"))?;
    let mount = mounts.lines().find(|line| line.split(" - ").nth(1).is_some_and(|of| of.starts_with("cgroup2 ")))?;
    Some(Path::new(mount.split(' ').nth(4)?).join(path))
}

fn make(dir: &Path) -> Result<(), String> {
    match std::fs::create_dir(dir) {
        Err(error) if error.kind() != std::io::ErrorKind::AlreadyExists => {
            Err(format!("make the cgroup {}: {error}", dir.display()))
        }
        _ => Ok(()),
    }
}

fn put(dir: &Path, file: &str, value: &str) -> Result<(), String> {
    let path = dir.join(file);
    let written =
        std::fs::OpenOptions::new().write(true).open(&path).and_then(|mut file| file.write_all(value.as_bytes()));
    written.map_err(|error| format!("write `{value}` to {}: {error}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A folder with the files that the kernel would show.
    fn tree(controllers: &str) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("cgroup.controllers"), controllers).unwrap();
        std::fs::write(dir.path().join("cgroup.subtree_control"), "").unwrap();
        dir
    }

    #[test]
    fn the_own_cgroup_is_found_where_both_versions_are_mounted() {
        let own = "9:name=systemd:/\n4:memory:/x\n0::/system.slice/backlot.service\n";
        let mounts = "31 24 0:27 / /sys/fs/cgroup/memory rw shared:9 - cgroup cgroup rw,memory\n\
                      32 24 0:28 / /sys/fs/cgroup/unified rw,nosuid shared:10 - cgroup2 cgroup2 rw\n";
        let expected = Path::new("/sys/fs/cgroup/unified/system.slice/backlot.service");
        assert_eq!(folder_of(own, mounts).as_deref(), Some(expected));
        assert_eq!(folder_of("4:memory:/x\n", mounts), None);
        assert_eq!(folder_of(own, ""), None);
    }

    #[test]
    fn a_limit_that_cannot_be_held_is_named_and_a_folder_that_is_no_cgroup_is_refused() {
        let bounds = Bounds { memory_gb: Some(1.0), cpus: Some(2.0), processes: Some(9) };
        assert_eq!(Cgroup::not_held(None, &bounds), ["cpus", "processes"]);
        let dir = tree("cpu io memory");
        let cgroup = Cgroup::open(dir.path().to_str().unwrap()).unwrap();
        assert_eq!(Cgroup::not_held(Some(&cgroup), &bounds), ["processes"]);
        assert!(cgroup.holds_memory());
        // The kernel would have made the files of the new one; this folder has none.
        let error = cgroup.worker(&bounds).unwrap_err();
        assert!(error.contains("memory.max") && error.contains("1073741824"), "{error}");
        let nothing = tempfile::tempdir().unwrap();
        assert!(Cgroup::open(nothing.path().to_str().unwrap()).unwrap_err().contains("no cgroup"));
    }
}
