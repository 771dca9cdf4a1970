//! Clips and sounds, by `ffprobe` and `ffmpeg`: processes that read one file, have so long, and say so much.
//!
//! The file is somebody's: protocols other than `file` are forbidden, and demuxers are those of plain containers, so that
//! a playlist that calls itself a clip reads nothing else.

use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::process::Command;

use backlot_wire::MediaFacts;

use super::MediaError;

const DEMUXERS: &str = "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,mpegts,mpeg,flv,mxf,ivf,ogg,wav,mp3,flac,aac,gif";
/// Longest time that a program has.
const TIME_MAX: Duration = Duration::from_secs(60);
/// Most bytes that a program may write.
const OUTPUT_BYTES_MAX: u64 = 8 << 20;
/// Bytes of its complaints that are kept.
const COMPLAINT_BYTES_MAX: u64 = 4096;
/// A poster is a frame from here, in seconds: the very first is often black. Never later than a tenth of the clip.
const POSTER_AT_S: f64 = 1.0;

/// What the file at `path` is.
pub(super) async fn facts(ffprobe: &str, path: &Path) -> Result<MediaFacts, MediaError> {
    let mut arguments = words(&["-v", "error", "-of", "json", "-show_streams", "-show_format"]);
    arguments.extend(input(path));
    MediaFacts::of_ffprobe(&run(ffprobe, &arguments).await?).map_err(MediaError::Unreadable)
}

/// A JPEG of one frame whose longer side is at most `side`.
pub(super) async fn poster(ffmpeg: &str, path: &Path, facts: &MediaFacts, side: u32) -> Result<Vec<u8>, MediaError> {
    let at_s = facts.duration_s.map_or(0.0, |duration_s| (duration_s / 10.0).min(POSTER_AT_S));
    let mut arguments = words(&["-nostdin", "-v", "error", "-threads", "1", "-ss", &format!("{at_s:.3}")]);
    arguments.extend(input(path));
    let scale = format!(
        "scale=w='min({side},iw)':h='min({side},ih)':force_original_aspect_ratio=decrease:force_divisible_by=2"
    );
    arguments.extend(words(&["-map", "0:V:0", "-frames:v", "1", "-vf", &scale]));
    arguments.extend(words(&["-c:v", "mjpeg", "-pix_fmt", "yuvj420p", "-q:v", "4", "-f", "image2pipe", "pipe:1"]));
    let jpeg = run(ffmpeg, &arguments).await?;
    if jpeg.is_empty() { Err(MediaError::Unreadable("no frame of it could be decoded".into())) } else { Ok(jpeg) }
}

fn words(words: &[&str]) -> Vec<String> {
    words.iter().map(|word| (*word).to_owned()).collect()
}

fn input(path: &Path) -> Vec<String> {
    words(&["-protocol_whitelist", "file", "-format_whitelist", DEMUXERS, "-i", &format!("file:{}", path.display())])
}

/// Runs a program and gives what it writes.
async fn run(program: &str, arguments: &[String]) -> Result<Vec<u8>, MediaError> {
    let not_started =
        |error: std::io::Error| MediaError::NoProgram { program: program.to_owned(), problem: error.to_string() };
    let mut child = Command::new(program)
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .map_err(not_started)?;
    let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
    let ended = tokio::time::timeout(TIME_MAX, async {
        let (output, complaint) = tokio::join!(all(stdout, OUTPUT_BYTES_MAX), all(stderr, COMPLAINT_BYTES_MAX));
        (output, complaint, child.wait().await)
    });
    let Ok((output, complaint, status)) = ended.await else {
        return Err(MediaError::Unreadable(format!("`{program}` took longer than {TIME_MAX:?}")));
    };
    let status = status.map_err(|error| MediaError::Fault(error.to_string()))?;
    if status.success() {
        return Ok(output);
    }
    let complaint = String::from_utf8_lossy(&complaint);
    let last = complaint.lines().last().unwrap_or("it said nothing");
    // Names of our files are nobody's business.
    let said = last.rsplit_once("file:").map_or(last, |(_, rest)| rest.split_once(": ").map_or(rest, |(_, said)| said));
    Err(MediaError::Unreadable(said.to_owned()))
}

/// The first `max` bytes; the rest is read too, so that nobody blocks, and dropped.
async fn all(from: Option<impl AsyncRead + Unpin>, max: u64) -> Vec<u8> {
    let mut bytes = Vec::new();
    if let Some(mut from) = from {
        let _ = (&mut from).take(max).read_to_end(&mut bytes).await; // what came until then is what there is
        let _ = tokio::io::copy(&mut from, &mut tokio::io::sink()).await;
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_program_that_is_not_there_is_named() {
        let Err(MediaError::NoProgram { program, .. }) = run("/nowhere/ffprobe", &[]).await else { panic!() };
        assert_eq!(program, "/nowhere/ffprobe");
    }
}
