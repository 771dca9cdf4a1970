//! As what a sound comes out: as what it went in, wherever that makes sense.
//!
//! | went in | comes out |
//! | --- | --- |
//! | PCM in any container | WAV with the same bits; in a clip the same PCM, or AAC where MP4 holds none |
//! | FLAC, ALAC, Opus, AAC, MP3 | the same, lossless ones with the same bits |
//! | other lossless codecs, and lossy ones that are not made here (Vorbis, AC-3, …) | FLAC; in a clip AAC or, in WebM, Opus |
//!
//! In a clip everything but the one stream of sound is copied. Lossy codecs get the bit rate that they had, within bounds.

use std::path::Path;

use super::probe::{Family, Sound};
use crate::frames::ffmpeg::input;

/// Most channels that FLAC and the lossy codecs take.
const CHANNELS_OF_CODECS: usize = 8;

/// A container.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Container {
    pub ending: &'static str,
    pub content_type: &'static str,
    muxer: &'static str,
}

const fn container(ending: &'static str, content_type: &'static str, muxer: &'static str) -> Container {
    Container { ending, content_type, muxer }
}

const WAV: Container = container("wav", "audio/wav", "wav");
const FLAC: Container = container("flac", "audio/flac", "flac");
const OGG: Container = container("opus", "audio/ogg", "opus");
const MP3: Container = container("mp3", "audio/mpeg", "mp3");
const M4A: Container = container("m4a", "audio/mp4", "ipod");
const MP4: Container = container("mp4", "video/mp4", "mp4");
const MOV: Container = container("mov", "video/quicktime", "mov");
const MKV: Container = container("mkv", "video/x-matroska", "matroska");
const WEBM: Container = container("webm", "video/webm", "webm");

/// Container and codec of what comes out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    pub container: Container,
    /// Options for the stream of sound.
    codec: Vec<String>,
}

impl Target {
    /// For a sound with its name and bits, alone or in a clip.
    #[must_use]
    pub fn of(sound: &Sound) -> Self {
        let clip = match sound.family {
            _ if !sound.has_picture => None,
            Family::Mp4 => Some(MP4),
            Family::QuickTime => Some(MOV),
            Family::WebM => Some(WEBM),
            Family::Matroska | Family::Other => Some(MKV),
        };
        let few = sound.channels <= CHANNELS_OF_CODECS;
        let is_pcm = sound.codec.starts_with("pcm_");
        let (alone, codec) = match sound.codec.as_str() {
            _ if is_pcm || !few => (WAV, vec!["-c:a:0".to_owned(), pcm(sound).to_owned()]),
            "alac" => (M4A, lossless("alac", sound)),
            "aac" => (M4A, lossy("aac", sound)),
            "opus" => (OGG, lossy("libopus", sound)),
            "mp3" => (MP3, lossy("libmp3lame", sound)),
            _ => (FLAC, lossless("flac", sound)),
        };
        let Some(clip) = clip else { return Self { container: alone, codec } };
        let codec = match clip {
            WEBM => lossy("libopus", sound),
            // MP4's readers know no PCM; FLAC in it is known to few.
            MP4 if alone == WAV || alone == FLAC => lossy("aac", sound),
            MOV if alone == FLAC || alone == OGG => lossy("aac", sound),
            _ => codec,
        };
        Self { container: clip, codec }
    }

    /// What ffmpeg is told: samples of `sound` on standard input, everything else out of `from`, all of it into `to`.
    #[must_use]
    pub fn arguments(&self, sound: &Sound, from: &Path, to: &Path) -> Vec<String> {
        let mut arguments: Vec<String> = ["-hide_banner", "-v", "error", "-y"].map(str::to_owned).to_vec();
        let mut add = |words: &[&str]| arguments.extend(words.iter().map(|word| (*word).to_owned()));
        if sound.delay_s != 0.0 {
            add(&["-itsoffset", &format!("{:.6}", sound.delay_s)]);
        }
        add(&["-f", "f64le", "-ar", &sound.rate_hz.to_string(), "-ac", &sound.channels.to_string()]);
        add(&["-protocol_whitelist", "pipe,file", "-i", "pipe:0"]);
        let words = input(from);
        add(&words.iter().map(String::as_str).collect::<Vec<_>>());
        if sound.has_picture {
            add(&["-map", "1:V"]);
        }
        add(&["-map", "0:a"]);
        let is_same_family = sound.family != Family::Other;
        if sound.has_picture && is_same_family {
            for other in &sound.others {
                add(&["-map", &format!("1:{other}")]);
            }
            add(&["-map", "1:s?"]);
        }
        if !sound.has_picture && sound.has_cover && matches!(self.container.ending, "m4a" | "mp3" | "flac") {
            add(&["-map", "1:v", "-disposition:v", "attached_pic"]);
        }
        add(&["-map_metadata", "1", "-map_metadata:s:a:0", &format!("1:s:{}", sound.stream), "-map_chapters", "1"]);
        add(&["-c", "copy"]);
        add(&self.codec.iter().map(String::as_str).collect::<Vec<_>>());
        if let Some(layout) = &sound.layout {
            // The pipe knows how many channels there are, and the file where they stand.
            add(&["-filter:a:0", &format!("channelmap=channel_layout={layout}")]);
        }
        match self.container {
            MP4 | MOV | M4A => add(&["-movflags", "+faststart"]),
            WAV => add(&["-rf64", "auto"]),
            _ => {}
        }
        add(&["-f", self.container.muxer]);
        arguments.push(format!("file:{}", to.display()));
        arguments
    }
}

/// The PCM of WAV that has the bits of this sound.
fn pcm(sound: &Sound) -> &'static str {
    let codec = sound.codec.as_str();
    match codec.strip_prefix("pcm_").unwrap_or_default() {
        "u8" | "s8" => "pcm_u8",
        kind if kind.starts_with("s24") => "pcm_s24le",
        kind if kind.starts_with("s32") => "pcm_s32le",
        kind if kind.starts_with("f32") => "pcm_f32le",
        kind if kind.starts_with("f64") => "pcm_f64le",
        _ if sound.bits.is_some_and(|bits| bits > 16) => "pcm_s24le",
        _ => "pcm_s16le",
    }
}

fn lossless(codec: &str, sound: &Sound) -> Vec<String> {
    let planar = if codec == "alac" { "p" } else { "" };
    let bits: &[&str] = if sound.bits.is_some_and(|bits| bits > 16) { &["s32", "24"] } else { &["s16", "16"] };
    let words = [
        ["-c:a:0", codec],
        ["-sample_fmt:a:0", &format!("{}{planar}", bits[0])],
        ["-bits_per_raw_sample:a:0", bits[1]],
    ];
    words.concat().into_iter().map(str::to_owned).collect()
}

fn lossy(codec: &str, sound: &Sound) -> Vec<String> {
    let channels = sound.channels as u64;
    let (least, most) = match codec {
        "libmp3lame" => (64_000 * channels, 320_000),
        "libopus" => (48_000 * channels, 256_000 * channels),
        _ => (64_000 * channels, 256_000 * channels),
    };
    let rate = sound.bits_per_second.unwrap_or(96_000 * channels).clamp(least, most);
    ["-c:a:0", codec, "-b:a:0", &rate.to_string()].map(str::to_owned).to_vec()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sound(codec: &str, family: Family, has_picture: bool, bits: Option<u32>) -> Sound {
        Sound {
            stream: 1,
            others: vec![2],
            codec: codec.to_owned(),
            rate_hz: 48_000,
            channels: 2,
            layout: None,
            bits,
            bits_per_second: Some(9_000_000),
            duration_s: None,
            family,
            has_picture,
            has_cover: false,
            delay_s: 0.0,
        }
    }

    #[test]
    fn a_sound_comes_out_as_it_went_in_and_else_as_one_that_loses_nothing() {
        for (codec, bits, ending, word) in [
            ("pcm_s24le", Some(24), "wav", "pcm_s24le"),
            ("pcm_s16be", Some(16), "wav", "pcm_s16le"),
            ("pcm_f32le", Some(32), "wav", "pcm_f32le"),
            ("flac", Some(24), "flac", "s32"),
            ("wavpack", Some(16), "flac", "s16"),
            ("vorbis", None, "flac", "flac"),
            ("opus", None, "opus", "512000"),
            ("mp3", None, "mp3", "320000"),
            ("aac", None, "m4a", "aac"),
            ("alac", Some(24), "m4a", "s32p"),
        ] {
            let target = Target::of(&sound(codec, Family::Other, false, bits));
            assert_eq!(target.container.ending, ending, "{codec}");
            assert!(target.codec.iter().any(|option| option == word), "{codec}: {:?}", target.codec);
        }
        let many = Sound { channels: 12, ..sound("flac", Family::Other, false, Some(24)) };
        assert_eq!(Target::of(&many).container, WAV);
    }

    #[test]
    fn a_clip_keeps_its_container_and_gets_sound_that_the_container_holds() {
        for (codec, family, ending, word) in [
            ("aac", Family::Mp4, "mp4", "aac"),
            ("pcm_s16le", Family::Mp4, "mp4", "aac"),
            ("pcm_s24le", Family::QuickTime, "mov", "pcm_s24le"),
            ("vorbis", Family::WebM, "webm", "libopus"),
            ("flac", Family::Matroska, "mkv", "flac"),
            ("mp3", Family::Other, "mkv", "libmp3lame"),
        ] {
            let target = Target::of(&sound(codec, family, true, Some(16)));
            assert_eq!(target.container.ending, ending, "{codec}");
            assert!(target.codec.iter().any(|option| option == word), "{codec}: {:?}", target.codec);
            let arguments = target.arguments(&sound(codec, family, true, None), Path::new("a"), Path::new("b"));
            assert_eq!(arguments.iter().any(|word| word == "1:2"), family != Family::Other, "other sounds are copied");
        }
    }
}
