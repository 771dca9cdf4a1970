//! Where a master key comes from: a file, the environment, or a program that prints it.
//!
//! A program is run once, at the start, without a shell, and has half a minute: that is the door to a key service
//! (`aws kms decrypt …`, `vault kv get …`, `systemd-creds decrypt …`).

use std::io::{Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;

use super::{KEY_BYTES, MasterError, random};

/// Longest time for a program to print the key.
const COMMAND_TIME_MAX: Duration = Duration::from_secs(30);
/// Most bytes read of a file or of a program's output: more is no key.
const SOURCE_BYTES_MAX: u64 = 4096;

/// The key that `from` names. Without a name it is `master.key` in the data folder, made where `first` says that there
/// never was one.
pub(super) fn read(from: &str, data: &Path, first: bool) -> Result<[u8; KEY_BYTES], MasterError> {
    let problem = |problem: String| MasterError::Source { from: named(from).to_owned(), problem };
    if from.is_empty() {
        let path = data.join("master.key");
        if first && !path.exists() {
            let bytes = random()?;
            write_private(&path, &bytes)?;
            return Ok(bytes);
        }
        return file(&path).and_then(|bytes| parse(&bytes)).map_err(|why| MasterError::Source {
            from: path.display().to_string(),
            problem: format!("{why}. The data folder was used with it: put it back from your copy"),
        });
    }
    let bytes = match from.split_once(':') {
        Some(("file", path)) => file(&PathBuf::from(path)),
        Some(("env", name)) => {
            std::env::var(name).map(String::into_bytes).map_err(|_| format!("the environment has no text in {name}"))
        }
        Some(("command", line)) => command(line),
        _ => Err("is none of file:PATH, env:NAME, command:PROGRAM ARGUMENTS".into()),
    };
    bytes.and_then(|bytes| parse(&bytes)).map_err(problem)
}

/// What may be told of a source: not the arguments of a program, which may hold a secret.
fn named(from: &str) -> &str {
    match from.split_once(':') {
        Some(("command", line)) => line.split_whitespace().next().unwrap_or("command:"),
        Some(("file" | "env", name)) => name,
        _ => "in encryption.master_key or encryption.old_master_keys",
    }
}

fn file(path: &Path) -> Result<Vec<u8>, String> {
    let mut bytes = Vec::new();
    let read = std::fs::File::open(path).and_then(|file| file.take(SOURCE_BYTES_MAX).read_to_end(&mut bytes));
    read.map(|_| bytes).map_err(|error| error.to_string())
}

fn command(line: &str) -> Result<Vec<u8>, String> {
    let mut words = line.split_whitespace();
    let program = words.next().ok_or("names no program")?;
    let mut child = Command::new(program)
        .args(words)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .map_err(|error| format!("could not be started: {error}"))?;
    let stdout = child.stdout.take().ok_or("has no output")?;
    let (tell, told) = mpsc::sync_channel(1);
    std::thread::spawn(move || {
        let mut bytes = Vec::new();
        let read = stdout.take(SOURCE_BYTES_MAX).read_to_end(&mut bytes);
        let _ = tell.send(read.map(|_| bytes)); // nobody waits any more when it took too long
    });
    let printed = told.recv_timeout(COMMAND_TIME_MAX);
    if printed.is_err() {
        let _ = child.kill(); // it may have ended just now
    }
    let status = child.wait().map_err(|error| error.to_string())?;
    let bytes = printed.map_err(|_| format!("printed no key within {} s", COMMAND_TIME_MAX.as_secs()))?;
    if !status.success() {
        return Err(format!("ended with {status}"));
    }
    bytes.map_err(|error| error.to_string())
}

/// 32 bytes as they are, or as base64 or hex.
fn parse(bytes: &[u8]) -> Result<[u8; KEY_BYTES], String> {
    if let Ok(key) = bytes.try_into() {
        return Ok(key);
    }
    let text = std::str::from_utf8(bytes).unwrap_or_default().trim();
    let decoded = hex::decode(text).ok().or_else(|| BASE64.decode(text).ok()).unwrap_or_default();
    decoded
        .try_into()
        .map_err(|_| format!("holds {} bytes; a master key is 32 bytes, as they are or as base64 or hex", bytes.len()))
}

/// Writes a file that nobody else may read, whole or not at all: temporary name, fsync, rename, fsync of the folder.
///
/// # Errors
/// [`MasterError::File`].
pub fn write_private(path: &Path, bytes: &[u8]) -> Result<(), MasterError> {
    let write = || -> std::io::Result<()> {
        let temporary = path.with_extension("new");
        let mut file =
            std::fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&temporary)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        std::fs::rename(&temporary, path)?;
        path.parent().map_or(Ok(()), |folder| std::fs::File::open(folder)?.sync_all())
    };
    write().map_err(|error| MasterError::File { path: path.display().to_string(), problem: error.to_string() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_read_from_a_file_or_a_program_in_three_spellings() {
        let folder = tempfile::tempdir().unwrap();
        let key = [0xa5_u8; 32];
        let path = folder.path().join("key");
        let from = format!("file:{}", path.display());
        for spelling in [key.to_vec(), BASE64.encode(key).into_bytes(), format!("{}\n", hex::encode(key)).into_bytes()]
        {
            std::fs::write(&path, &spelling).unwrap();
            assert_eq!(read(&from, folder.path(), false).unwrap(), key);
            assert_eq!(read(&format!("command:cat {}", path.display()), folder.path(), false).unwrap(), key);
        }
    }

    #[test]
    fn what_gives_no_key_is_refused_and_a_programs_arguments_are_not_told() {
        let folder = tempfile::tempdir().unwrap();
        let refused = |from: &str| read(from, folder.path(), true).unwrap_err().to_string();
        assert!(refused("file:/nonexistent/key").contains("/nonexistent/key"));
        assert!(refused("env:BACKLOT_NO_SUCH_VARIABLE").contains("BACKLOT_NO_SUCH_VARIABLE"));
        assert!(refused("hunter2").contains("file:PATH"));
        assert!(refused("command:").contains("no program"));
        assert!(refused("command:true --token=s3cret").contains("32 bytes"));
        let text = refused("command:false --token=s3cret");
        assert!(text.contains("false") && text.contains("ended with") && !text.contains("s3cret"), "{text}");
    }
}
