//! Programs from Debian that are not there yet: installed when we are root, otherwise the line to run is said.

use std::process::Command;

use crate::process::{run, succeeds};

/// A program, how to see that it works, and the Debian packages that bring it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Tool {
    name: &'static str,
    /// Shell words that succeed when it works.
    probe: &'static str,
    packages: &'static [&'static str],
}

pub(crate) const FFMPEG: Tool =
    Tool { name: "ffmpeg", probe: "ffmpeg -version && ffprobe -version", packages: &["ffmpeg"] };
pub(crate) const NODE: Tool =
    Tool { name: "Node.js with npm", probe: "node --version && npm --version", packages: &["nodejs", "npm"] };
pub(crate) const PYTHON: Tool = Tool {
    name: "Python with venv and pip",
    probe: "python3 -c 'import venv, ensurepip' && python3 -m pip --version",
    packages: &["python3", "python3-venv", "python3-pip"],
};
pub(crate) const CHROMIUM: Tool = Tool { name: "Chromium", probe: "chromium --version", packages: &["chromium"] };
pub(crate) const C_COMPILER: Tool =
    Tool { name: "a C compiler with make", probe: "cc --version && make --version", packages: &["build-essential"] };
pub(crate) const MKFS: Tool =
    Tool { name: "mkfs.ext4", probe: "command -v mkfs.ext4 || test -x /sbin/mkfs.ext4", packages: &["e2fsprogs"] };
/// A Vulkan driver that computes on the CPU: without one, no test of the wgpu executor or of frames on a GPU runs.
pub(crate) const VULKAN: Tool = Tool {
    name: "a software Vulkan driver",
    probe: "ls /usr/share/vulkan/icd.d/lvp_icd*.json /usr/lib/*/libvulkan.so.1",
    packages: &["mesa-vulkan-drivers", "libvulkan1"],
};
pub(crate) const RESTIC: Tool = Tool { name: "restic", probe: "restic version", packages: &["restic"] };
/// Sends syslog in a test, over TLS as well.
pub(crate) const RSYSLOG: Tool = Tool {
    name: "rsyslog",
    probe: "test -x /usr/sbin/rsyslogd && ls /usr/lib/*/rsyslog/lmnsd_gtls.so",
    packages: &["rsyslog", "rsyslog-gnutls"],
};

/// The second version of the AWS CLI, which alone follows logs. The tests call it by its path: the `aws` of their virtual environment
/// is the first version, and stays the one that is found by name.
pub(crate) const AWS_CLI: Tool =
    Tool { name: "the AWS CLI 2", probe: "/usr/bin/aws --version | grep -q '^aws-cli/2'", packages: &["awscli"] };

/// Installs what is missing of `tools`.
pub(crate) fn ensure(tools: &[Tool]) -> Result<(), String> {
    let missing: Vec<Tool> =
        tools.iter().copied().filter(|tool| !succeeds(Command::new("sh").args(["-c", tool.probe]))).collect();
    if missing.is_empty() {
        return Ok(());
    }
    let names = missing.iter().map(|tool| tool.name).collect::<Vec<_>>().join(", ");
    let packages: Vec<&str> = missing.iter().flat_map(|tool| tool.packages).copied().collect();
    if !rustix::process::geteuid().is_root() {
        return Err(format!(
            "missing: {names}. Run this, then the same command again:\n  sudo apt-get install -y --no-install-recommends {}",
            packages.join(" ")
        ));
    }
    eprintln!("missing: {names}; installing");
    run(Command::new("apt-get").args(["update", "-qq"]))?;
    run(Command::new("apt-get")
        .args(["install", "-y", "-qq", "--no-install-recommends"])
        .args(&packages)
        .env("DEBIAN_FRONTEND", "noninteractive"))?;
    match missing.iter().find(|tool| !succeeds(Command::new("sh").args(["-c", tool.probe]))) {
        Some(tool) => Err(format!("{} was installed and does not work: `{}` fails", tool.name, tool.probe)),
        None => Ok(()),
    }
}
