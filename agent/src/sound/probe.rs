//! What sound a file holds, by `ffprobe`.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::atomic::AtomicBool;

use serde::Deserialize;

use crate::frames::ffmpeg::{Tools, input, output};
use crate::frames::{disk, probe::unreadable};
use crate::infer::Failure;

/// Most channels of a stream.
pub const CHANNELS_MAX: usize = 32;
pub const RATE_MIN_HZ: u32 = 8_000;
pub const RATE_MAX_HZ: u32 = 192_000;
const HEADER_BYTES_MAX: usize = 1 << 20;
/// Packets that are decoded to find the first sample: a decoder drops what an encoder has put in front.
const FIRST_PACKETS: &str = "%+#32";

/// One stream of sound, and the file around it.
#[derive(Clone, Debug, PartialEq)]
pub struct Sound {
    /// Index of the stream in its file.
    pub stream: u32,
    /// Indexes of the file's other streams of sound.
    pub others: Vec<u32>,
    pub codec: String,
    pub rate_hz: u32,
    pub channels: usize,
    /// ffmpeg's word for where the channels are, if the file says it.
    pub layout: Option<String>,
    /// Bits of a sample of a codec that loses nothing.
    pub bits: Option<u32>,
    pub bits_per_second: Option<u64>,
    /// What the file says of its length.
    pub duration_s: Option<f64>,
    pub family: Family,
    /// There is a moving picture.
    pub has_picture: bool,
    /// There is a still picture, such as a cover.
    pub has_cover: bool,
    /// How much later than the file the sound begins, in seconds; 0 where there is no picture to be in time with.
    pub delay_s: f64,
}

/// Kinds of containers, as far as they matter for what comes out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    Mp4,
    QuickTime,
    Matroska,
    WebM,
    Other,
}

#[derive(Deserialize)]
struct Header {
    #[serde(default)]
    streams: Vec<Stream>,
    #[serde(default)]
    format: Format,
}

#[derive(Default, Deserialize)]
struct Format {
    #[serde(default)]
    format_name: String,
    start_time: Option<String>,
    duration: Option<String>,
    #[serde(default)]
    tags: BTreeMap<String, String>,
}

#[derive(Deserialize)]
struct Stream {
    index: u32,
    codec_type: Option<String>,
    codec_name: Option<String>,
    sample_rate: Option<String>,
    channels: Option<usize>,
    channel_layout: Option<String>,
    bits_per_sample: Option<u32>,
    bits_per_raw_sample: Option<String>,
    bit_rate: Option<String>,
    duration: Option<String>,
    #[serde(default)]
    disposition: Disposition,
}

#[derive(Default, Deserialize)]
struct Disposition {
    #[serde(default)]
    attached_pic: u8,
}

/// Looks at stream number `wanted` (from 0) of the sound in `path`.
///
/// # Errors
/// Permanent with the reason why it cannot be worked on; transient when `ffprobe` itself fails us.
pub fn probe(tools: &Tools, path: &Path, wanted: usize, cancel: &AtomicBool) -> Result<Sound, Failure> {
    if std::fs::metadata(path).map_err(|error| disk("read", path, &error))?.len() == 0 {
        return Err(Failure::permanent("the sound is empty (0 bytes)"));
    }
    let ask = |options: &[&str]| -> Result<Vec<u8>, Failure> {
        let mut arguments: Vec<String> = ["-v", "error"].iter().chain(options).map(|word| (*word).to_owned()).collect();
        arguments.extend(input(path));
        let said = output(&tools.ffprobe, &arguments, HEADER_BYTES_MAX, tools.stall, cancel)?;
        said.map_err(|said| unreadable(path, &said))
    };
    let is_webm = path.extension().is_some_and(|ending| ending.eq_ignore_ascii_case("webm"));
    let json = ask(&["-of", "json", "-show_streams", "-show_format"])?;
    judge(&json, wanted, is_webm, |stream| {
        let entries = ["-select_streams", stream, "-read_intervals", FIRST_PACKETS];
        ask(&[&entries[..], &["-show_entries", "frame=best_effort_timestamp_time", "-of", "csv=p=0"]].concat())
    })
}

/// Reads the part of `bytes` before the first zero as ffprobe's word on a sound and the rest as that on its first frames, and
/// throws the outcome away: for fuzzing.
pub fn fuzz_answers(bytes: &[u8]) {
    let (json, frames) = bytes.split_at(bytes.iter().position(|byte| *byte == 0).unwrap_or(bytes.len()));
    let _ = judge(json, 0, false, |_| Ok(frames.to_vec()));
}

/// What ffprobe's answers say. `first_frames` is asked for the times of those of the stream with the index that it is handed.
fn judge(
    json: &[u8],
    wanted: usize,
    is_webm: bool,
    first_frames: impl FnOnce(&str) -> Result<Vec<u8>, Failure>,
) -> Result<Sound, Failure> {
    let header: Header = serde_json::from_slice(json)
        .map_err(|error| Failure::permanent(format!("the sound cannot be read: ffprobe's answer: {error}")))?;
    let is = |stream: &Stream, kind: &str| stream.codec_type.as_deref() == Some(kind);
    let sounds: Vec<&Stream> = header.streams.iter().filter(|stream| is(stream, "audio")).collect();
    let stream = *sounds.get(wanted).ok_or_else(|| {
        Failure::permanent(match sounds.len() {
            0 => "the input has no sound".to_owned(),
            count => format!("the input has {count} streams of sound; there is no number {wanted} (from 0)"),
        })
    })?;
    let number = |text: &Option<String>| text.as_deref().and_then(|t| t.parse::<f64>().ok()).filter(|n| n.is_finite());
    let rate_hz = stream.sample_rate.as_deref().and_then(|rate| rate.parse().ok()).unwrap_or(0);
    if !(RATE_MIN_HZ..=RATE_MAX_HZ).contains(&rate_hz) {
        let message = format!("the sound has {rate_hz} samples a second; {RATE_MIN_HZ} to {RATE_MAX_HZ} are worked on");
        return Err(Failure::permanent(message));
    }
    let channels = stream.channels.unwrap_or(0);
    if !(1..=CHANNELS_MAX).contains(&channels) {
        let message = format!("the sound has {channels} channels; 1 to {CHANNELS_MAX} are worked on");
        return Err(Failure::permanent(message));
    }
    let moves = |stream: &&Stream| is(stream, "video") && stream.disposition.attached_pic == 0;
    let has_picture = header.streams.iter().any(|stream| moves(&stream));
    let mut delay_s = 0.0;
    if has_picture {
        let said = first_frames(&stream.index.to_string())?;
        let first = String::from_utf8_lossy(&said);
        let mut first = first.split([',', '\n', '\r']).filter_map(|time| time.trim().parse::<f64>().ok());
        let began = first.next().filter(|time| time.is_finite());
        let delay = began.zip(number(&header.format.start_time)).map_or(0.0, |(own, all)| own - all);
        delay_s = delay.clamp(-3600.0, 86_400.0);
    }
    let name = header.format.format_name.as_str();
    let family = match name {
        _ if name.starts_with("mov,") => match header.format.tags.get("major_brand").map(|brand| brand.trim()) {
            Some("qt") => Family::QuickTime,
            _ => Family::Mp4,
        },
        _ if name.starts_with("matroska") => {
            if is_webm {
                Family::WebM
            } else {
                Family::Matroska
            }
        }
        _ => Family::Other,
    };
    let bits = stream.bits_per_raw_sample.as_deref().and_then(|bits| bits.parse().ok()).filter(|bits| *bits > 0);
    Ok(Sound {
        stream: stream.index,
        others: sounds.iter().map(|other| other.index).filter(|index| *index != stream.index).collect(),
        codec: stream.codec_name.clone().unwrap_or_default(),
        rate_hz,
        channels,
        layout: stream.channel_layout.clone().filter(|layout| !layout.is_empty() && layout != "unknown"),
        bits: bits.or(stream.bits_per_sample.filter(|bits| *bits > 0)),
        bits_per_second: stream.bit_rate.as_deref().and_then(|rate| rate.parse().ok()),
        duration_s: number(&stream.duration).or(number(&header.format.duration)).filter(|duration| *duration > 0.0),
        family,
        has_picture,
        has_cover: header.streams.iter().any(|stream| is(stream, "video") && stream.disposition.attached_pic != 0),
        delay_s,
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn ask(streams: &str, wanted: usize) -> Result<Sound, Failure> {
        let json = format!(
            r#"{{"streams":[{streams}],"format":{{"format_name":"mov,mp4,m4a,3gp,3g2,mj2","start_time":"0.5"}}}}"#
        );
        judge(json.as_bytes(), wanted, false, |stream| {
            assert_eq!(stream, "1");
            Ok(b"0.75\n0.77\n".to_vec())
        })
    }

    const SOUND: &str = r#"{"index":1,"codec_type":"audio","codec_name":"aac","sample_rate":"44100","channels":2}"#;

    #[test]
    fn what_cannot_be_worked_on_is_refused_in_words() {
        let bad = |from: &str, to: &str| ask(&SOUND.replace(from, to), 0).unwrap_err();
        for (failure, words) in [
            (ask("", 0).unwrap_err(), "no sound"),
            (ask(SOUND, 1).unwrap_err(), "there is no number 1"),
            (bad(":2", ":100"), "100 channels"),
            (bad(":2", ":0"), "0 channels"),
            (bad("44100", "4000"), "4000 samples a second"),
            (bad("44100", "many"), "0 samples a second"),
        ] {
            assert!(failure.message.contains(words), "{failure}");
            assert_eq!(failure.class, crate::infer::FailureClass::Permanent);
        }
    }

    #[test]
    fn the_sound_of_a_clip_knows_how_much_later_than_the_file_it_begins() {
        let clip = format!(r#"{{"index":0,"codec_type":"video"}},{SOUND}"#);
        let sound = ask(&clip, 0).unwrap();
        assert_eq!((sound.delay_s, sound.has_picture, sound.family), (0.25, true, Family::Mp4));
        let cover = clip.replace("\"video\"", "\"video\",\"disposition\":{\"attached_pic\":1}");
        let alone = ask(&cover, 0).unwrap();
        assert_eq!((alone.delay_s, alone.has_picture, alone.has_cover), (0.0, false, true));
    }

    proptest! {
        #[test]
        fn no_answer_of_ffprobe_panics(bytes in proptest::collection::vec(any::<u8>(), 0..200), text in ".{0,60}") {
            fuzz_answers(&bytes);
            let sound = SOUND.replace("44100", &text.replace(['"', '\\'], ""));
            fuzz_answers(format!(r#"{{"streams":[{sound}]}}"#).as_bytes());
        }
    }
}
