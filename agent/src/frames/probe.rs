//! What a clip is, by `ffprobe`, and whether it can be worked on.
//!
//! Besides the header every packet's time is read (not decoded): that gives the true number of frames, finds files
//! that are shorter than they say, and shows a variable frame rate for what it is. Refused, permanently and in words:
//! variable frame rate, high dynamic range, interlaced material, and what is no clip at all.

use std::path::Path;
use std::sync::atomic::AtomicBool;

use serde::Deserialize;

use super::ffmpeg::{Tools, input, output};
use crate::infer::Failure;

/// Longest side of an input.
const SIDE_MAX: u32 = 8_192;
/// Most frames of a clip: over four hours at 30 a second.
const FRAMES_MAX: usize = 500_000;
const HEADER_BYTES_MAX: usize = 1 << 20;
/// A packet's line is about 30 bytes.
const PACKETS_BYTES_MAX: usize = FRAMES_MAX * 40;

/// A clip that can be worked on.
#[derive(Clone, Debug, PartialEq)]
pub struct Clip {
    /// As shown: a quarter turn that the file asks for is already in here.
    pub width: u32,
    pub height: u32,
    pub frames: usize,
    /// Frames per second, as ffmpeg writes it: `25/1`, `30000/1001`.
    pub rate: String,
    /// Index of the picture's stream in the file.
    pub stream: u32,
    /// Codec of the sound, if there is any.
    pub sound: Option<String>,
    /// How much later than the file the picture begins, in seconds.
    pub delay_s: f64,
    /// Shape of a pixel where it is no square: `4:3`.
    pub pixel_aspect: Option<String>,
    /// What the file says of its colours, in ffmpeg's word for the matrix.
    pub matrix: Option<String>,
    /// ffmpeg's word for the curve between light and values.
    pub transfer: Option<String>,
    /// More than eight bits a sample.
    pub is_deep: bool,
}

impl Clip {
    /// One that was never in a file: ordinary pictures of `rate` a second, without sound.
    pub(super) fn silent(width: usize, height: usize, frames: usize, rate: usize) -> Self {
        Self {
            width: u32::try_from(width).unwrap_or(u32::MAX),
            height: u32::try_from(height).unwrap_or(u32::MAX),
            frames,
            rate: format!("{rate}/1"),
            stream: 0,
            sound: None,
            delay_s: 0.0,
            pixel_aspect: None,
            matrix: None,
            transfer: None,
            is_deep: false,
        }
    }
}

/// Which clips are taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dynamics {
    /// A high dynamic range is refused: it would be lost.
    Standard,
    Any,
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
    start_time: Option<String>,
}

#[derive(Deserialize)]
struct Stream {
    index: u32,
    codec_type: Option<String>,
    codec_name: Option<String>,
    width: Option<u32>,
    height: Option<u32>,
    avg_frame_rate: Option<String>,
    r_frame_rate: Option<String>,
    nb_frames: Option<String>,
    start_time: Option<String>,
    color_transfer: Option<String>,
    color_primaries: Option<String>,
    color_space: Option<String>,
    pix_fmt: Option<String>,
    field_order: Option<String>,
    sample_aspect_ratio: Option<String>,
    #[serde(default)]
    disposition: Disposition,
    #[serde(default)]
    side_data_list: Vec<SideData>,
}

#[derive(Default, Deserialize)]
struct Disposition {
    #[serde(default)]
    attached_pic: u8,
}

#[derive(Deserialize)]
struct SideData {
    rotation: Option<f64>,
}

/// Looks at the clip at `path`.
///
/// # Errors
/// Permanent with the reason why it cannot be worked on; transient when `ffprobe` itself fails us.
pub fn probe(tools: &Tools, path: &Path, dynamics: Dynamics, cancel: &AtomicBool) -> Result<Clip, Failure> {
    let bytes = std::fs::metadata(path).map_err(|error| super::disk("read", path, &error))?.len();
    if bytes == 0 {
        return Err(Failure::permanent("the clip is empty (0 bytes)"));
    }
    let ask = |options: &[&str], bytes_max| -> Result<Vec<u8>, Failure> {
        let mut arguments: Vec<String> = ["-v", "error"].iter().chain(options).map(|word| (*word).to_owned()).collect();
        arguments.extend(input(path));
        output(&tools.ffprobe, &arguments, bytes_max, tools.stall, cancel)?.map_err(|said| unreadable(path, &said))
    };
    let json = ask(&["-of", "json", "-show_streams", "-show_format"], HEADER_BYTES_MAX)?;
    judge(&json, dynamics, |stream| {
        let entries = ["-select_streams", stream, "-show_entries", "packet=pts_time,dts_time,flags", "-of", "csv=p=0"];
        ask(&entries, PACKETS_BYTES_MAX)
    })
}

/// Reads the part of `bytes` before the first zero as ffprobe's word on a clip and the rest as that on its packets, and
/// throws the outcome away: for fuzzing.
pub fn fuzz_answers(bytes: &[u8]) {
    let (json, packets) = bytes.split_at(bytes.iter().position(|byte| *byte == 0).unwrap_or(bytes.len()));
    let _ = judge(json, Dynamics::Any, |_| Ok(packets.to_vec()));
}

/// What ffprobe's answers say. `packets` is asked for those of the stream with the index that it is handed.
fn judge(
    json: &[u8],
    dynamics: Dynamics,
    packets: impl FnOnce(&str) -> Result<Vec<u8>, Failure>,
) -> Result<Clip, Failure> {
    let header: Header = serde_json::from_slice(json)
        .map_err(|error| Failure::permanent(format!("the clip cannot be read: ffprobe's answer: {error}")))?;
    let picture = header
        .streams
        .iter()
        .find(|stream| stream.codec_type.as_deref() == Some("video") && stream.disposition.attached_pic == 0)
        .ok_or_else(|| Failure::permanent("the input has no moving picture"))?;
    let (width, height) = suits(picture, dynamics)?;
    let packets = packets(&picture.index.to_string())?;
    let times = times(&String::from_utf8_lossy(&packets))?;
    let held = packets.iter().filter(|byte| **byte == b'\n').count(); // those that an edit list hides too
    if let Some(announced) = picture.nb_frames.as_deref().and_then(|text| text.parse::<usize>().ok())
        && held < announced
    {
        return Err(Failure::permanent(format!(
            "the clip is cut off: it announces {announced} frames and holds {held}"
        )));
    }
    let rate = rate(picture, &times)?;
    let number = |text: &Option<String>| text.as_deref().and_then(|t| t.parse::<f64>().ok()).filter(|n| n.is_finite());
    let delay_s =
        number(&picture.start_time).zip(number(&header.format.start_time)).map_or(0.0, |(own, all)| own - all);
    let known = |text: &Option<String>| text.clone().filter(|t| !t.is_empty() && t != "unknown");
    let turned = quarter_turn(picture);
    let aspect = known(&picture.sample_aspect_ratio).filter(|aspect| aspect != "1:1" && aspect != "0:1");
    Ok(Clip {
        width: if turned { height } else { width },
        height: if turned { width } else { height },
        frames: times.len(),
        rate,
        stream: picture.index,
        sound: header
            .streams
            .iter()
            .find(|stream| stream.codec_type.as_deref() == Some("audio"))
            .map(|stream| stream.codec_name.clone().unwrap_or_default()),
        delay_s: delay_s.clamp(0.0, 3600.0),
        pixel_aspect: aspect.map(|aspect| match aspect.split_once(':') {
            Some((x, y)) if turned => format!("{y}:{x}"),
            _ => aspect,
        }),
        matrix: known(&picture.color_space),
        transfer: known(&picture.color_transfer),
        is_deep: picture.pix_fmt.as_deref().is_some_and(|format| {
            ["10", "12", "14", "16"]
                .iter()
                .any(|bits| format.contains(&format!("p{bits}")) || format.contains(&format!("0{bits}le")))
        }),
    })
}

/// What ffmpeg said of a file, without the folders on this host.
pub(crate) fn unreadable(path: &Path, said: &str) -> Failure {
    let folder = path.parent().map(|folder| format!("{}/", folder.display())).unwrap_or_default();
    let said = said.replace(&format!("file:{folder}"), "").replace(&folder, "");
    Failure::permanent(format!("the clip cannot be read: {said}"))
}

/// Its sides, if its kind of picture is one that is worked on.
fn suits(picture: &Stream, dynamics: Dynamics) -> Result<(u32, u32), Failure> {
    let is = |field: &Option<String>, words: &[&str]| field.as_deref().is_some_and(|word| words.contains(&word));
    let is_high = is(&picture.color_transfer, &["smpte2084", "arib-std-b67", "smpte428"])
        || is(&picture.color_primaries, &["bt2020"]);
    if is_high && dynamics == Dynamics::Standard {
        return Err(Failure::permanent(format!(
            "the clip has a high dynamic range ({}), which would be lost; tone-map it first",
            picture.color_transfer.as_deref().unwrap_or("bt2020")
        )));
    }
    if is(&picture.field_order, &["tt", "bb", "tb", "bt"]) {
        return Err(Failure::permanent("the clip is interlaced; deinterlace it first"));
    }
    match (picture.width, picture.height) {
        (Some(width @ 1..=SIDE_MAX), Some(height @ 1..=SIDE_MAX)) => Ok((width, height)),
        (width, height) => Err(Failure::permanent(format!(
            "the clip is {} x {} pixels; sides of 1 to {SIDE_MAX} are worked on",
            width.unwrap_or(0),
            height.unwrap_or(0)
        ))),
    }
}

fn quarter_turn(picture: &Stream) -> bool {
    picture.side_data_list.iter().filter_map(|data| data.rotation).any(|turn| (turn.abs() % 180.0 - 90.0).abs() < 1.0)
}

/// Times of the frames that are shown, ascending, in seconds.
fn times(packets: &str) -> Result<Vec<f64>, Failure> {
    let mut times = Vec::new();
    for line in packets.lines() {
        let mut fields = line.split(',');
        let (shown, decoded, flags) = (fields.next(), fields.next(), fields.next());
        if flags.is_some_and(|flags| flags.contains('D')) {
            continue; // an edit list leaves it out
        }
        let number = |text: Option<&str>| text.and_then(|t| t.parse::<f64>().ok()).filter(|n| n.is_finite());
        if let Some(time) = number(shown).or_else(|| number(decoded)) {
            times.push(time);
        }
    }
    if times.is_empty() {
        return Err(Failure::permanent("the clip has no frames"));
    }
    if times.len() > FRAMES_MAX {
        return Err(Failure::permanent(format!("the clip has {} frames; {FRAMES_MAX} are the most", times.len())));
    }
    times.sort_by(f64::total_cmp);
    Ok(times)
}

/// The rate that the frames really have, in the file's own fraction.
fn rate(picture: &Stream, times: &[f64]) -> Result<String, Failure> {
    let mut gaps: Vec<f64> = times.windows(2).map(|pair| pair[1] - pair[0]).collect();
    gaps.sort_by(f64::total_cmp);
    let stated = [&picture.avg_frame_rate, &picture.r_frame_rate];
    let stated = stated.into_iter().flatten().filter_map(|text| Some((text, fraction(text)?)));
    let mut stated = stated.filter(|(_, rate)| (0.5..=480.0).contains(rate));
    let (&[first, .., last], middle) = (gaps.as_slice(), gaps.len() / 2) else {
        // One or two frames: what is stated cannot be wrong.
        return Ok(stated.next().map_or_else(|| "25/1".to_owned(), |(text, _)| text.clone()));
    };
    let usual = gaps[middle];
    if usual <= 0.0 || first < 0.5 * usual || last > 1.5 * usual {
        return Err(Failure::permanent(format!(
            "the clip has a variable frame rate (frames last {:.1} to {:.1} ms); bring it to a constant one first",
            first * 1e3,
            last * 1e3
        )));
    }
    let mean = (times.len() - 1) as f64 / (times[times.len() - 1] - times[0]);
    match stated.find(|(_, rate)| (rate / mean - 1.0).abs() < 0.02) {
        Some((text, _)) => Ok(text.clone()),
        None => {
            Err(Failure::permanent(format!("the clip's frames come at {mean:.3} a second, which it does not state")))
        }
    }
}

fn fraction(text: &str) -> Option<f64> {
    let (over, under) = text.split_once('/')?;
    let (over, under): (f64, f64) = (over.parse().ok()?, under.parse().ok()?);
    (under > 0.0).then_some(over / under).filter(|rate| rate.is_finite())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stream(json: &str) -> Stream {
        serde_json::from_str(json).unwrap()
    }

    #[test]
    fn what_cannot_be_worked_on_is_refused_in_words() {
        for (json, words) in [
            (r#"{"index":0,"width":64,"height":64,"color_transfer":"smpte2084"}"#, "high dynamic range (smpte2084)"),
            (r#"{"index":0,"width":64,"height":64,"color_primaries":"bt2020"}"#, "high dynamic range"),
            (r#"{"index":0,"width":64,"height":64,"field_order":"tt"}"#, "interlaced"),
            (r#"{"index":0,"width":100000,"height":64}"#, "100000 x 64"),
            (r#"{"index":0}"#, "0 x 0"),
        ] {
            let failure = suits(&stream(json), Dynamics::Standard).unwrap_err();
            assert!(failure.message.contains(words), "{failure}");
            assert_eq!(failure.class, crate::infer::FailureClass::Permanent);
        }
    }

    #[test]
    fn the_rate_is_what_the_frames_have() {
        let film = stream(r#"{"index":0,"avg_frame_rate":"24000/1001","r_frame_rate":"24000/1001"}"#);
        let times: Vec<f64> = (0..100).map(|i| f64::from(i) * 1.001 / 24.0).collect();
        assert_eq!(rate(&film, &times).unwrap(), "24000/1001");
        let mut uneven = times.clone();
        uneven.truncate(50);
        uneven.extend(times[50..].iter().map(|t| t + 0.5));
        assert!(rate(&film, &uneven).unwrap_err().message.contains("variable frame rate"));
        assert!(rate(&stream(r#"{"index":0,"avg_frame_rate":"0/0","r_frame_rate":"90000/1"}"#), &times).is_err());
        assert_eq!(rate(&stream(r#"{"index":0,"avg_frame_rate":"0/0"}"#), &[0.0]).unwrap(), "25/1");
    }

    #[test]
    fn packets_that_are_hidden_or_out_of_order_are_sorted_out() {
        let packets = "-0.04,-0.08,KD_\n0.000000,-0.04,K__\n0.08,0.0,___\n0.04,0.04,___\nN/A,0.12,___\n,,\n";
        assert_eq!(times(packets).unwrap(), [0.0, 0.04, 0.08, 0.12]);
        assert!(times("\n").unwrap_err().message.contains("no frames"));
    }
}
