//! What a picture, clip or sound is: the facts that agents write on what they make and that the appliance tells of anything.

use serde::{Deserialize, Serialize};

/// What is known of a picture, clip or sound. Lengths of sides are as it is shown, after rotation.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct MediaFacts {
    pub kind: MediaKind,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub width: Option<u32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub height: Option<u32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub duration_s: Option<f64>,
    /// Frames a second.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fps: Option<f64>,
    /// `png`, `h264`, `flac`: of the picture where there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub codec: Option<String>,
    /// Of the sound that goes with a moving picture.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub audio_codec: Option<String>,
}

impl MediaFacts {
    /// Reads what `ffprobe -of json -show_streams -show_format` says of a clip or sound.
    ///
    /// # Errors
    /// A sentence: it is no such answer, or there is neither picture nor sound.
    pub fn of_ffprobe(json: &[u8]) -> Result<Self, String> {
        let answer: Answer = serde_json::from_slice(json).map_err(|error| error.to_string())?;
        let of = |kind: &str| {
            answer
                .streams
                .iter()
                .find(|stream| stream.codec_type.as_deref() == Some(kind) && stream.disposition.attached_pic == 0)
        };
        let (picture, sound) = (of("video"), of("audio"));
        let number = |text: &str| text.parse::<f64>().ok().filter(|number| number.is_finite() && *number >= 0.0);
        let duration_s = answer.format.duration.as_deref().and_then(number);
        let Some(picture) = picture else {
            let sound = sound.ok_or("it has neither picture nor sound")?;
            return Ok(Self { kind: MediaKind::Audio, duration_s, codec: sound.codec_name.clone(), ..Self::default() });
        };
        let rate = picture.avg_frame_rate.as_deref().and_then(|rate| {
            let (frames, seconds) = rate.split_once('/')?;
            Some(number(frames)? / number(seconds).filter(|seconds| *seconds > 0.0)?).filter(|fps| *fps > 0.0)
        });
        let turned =
            picture.side_data_list.iter().filter_map(|data| data.rotation).any(|degrees| degrees.abs() % 180.0 == 90.0);
        let (width, height) = match turned {
            true => (picture.height, picture.width),
            false => (picture.width, picture.height),
        };
        Ok(Self {
            kind: MediaKind::Video,
            width,
            height,
            duration_s,
            fps: rate.map(|fps| (fps * 1000.0).round() / 1000.0),
            codec: picture.codec_name.clone(),
            audio_codec: sound.and_then(|sound| sound.codec_name.clone()),
        })
    }
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum MediaKind {
    #[default]
    Image,
    Video,
    Audio,
}

impl MediaKind {
    /// By the declared type, else by the end of the key.
    #[must_use]
    pub fn of(content_type: Option<&str>, key: &str) -> Option<Self> {
        let declared = content_type.unwrap_or_default().to_ascii_lowercase();
        let ending = key.rsplit('.').next().unwrap_or_default().to_ascii_lowercase();
        match declared.split('/').next() {
            Some("image") => Some(Self::Image),
            Some("video") => Some(Self::Video),
            Some("audio") => Some(Self::Audio),
            _ => match ending.as_str() {
                "png" | "jpg" | "jpeg" | "webp" => Some(Self::Image),
                "mp4" | "mov" | "webm" | "mkv" | "avi" | "mxf" => Some(Self::Video),
                "wav" | "mp3" | "flac" | "ogg" | "m4a" => Some(Self::Audio),
                _ => None,
            },
        }
    }
}

#[derive(Deserialize)]
struct Answer {
    #[serde(default)]
    streams: Vec<Stream>,
    #[serde(default)]
    format: Format,
}

#[derive(Default, Deserialize)]
struct Format {
    duration: Option<String>,
}

#[derive(Deserialize)]
struct Stream {
    codec_type: Option<String>,
    codec_name: Option<String>,
    width: Option<u32>,
    height: Option<u32>,
    avg_frame_rate: Option<String>,
    #[serde(default)]
    disposition: Disposition,
    #[serde(default)]
    side_data_list: Vec<SideData>,
}

#[derive(Default, Deserialize)]
struct Disposition {
    /// The cover of a sound file, which is no moving picture.
    #[serde(default)]
    attached_pic: u8,
}

#[derive(Deserialize)]
struct SideData {
    rotation: Option<f64>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_an_artifact_is_comes_from_its_type_and_else_from_its_name() {
        assert_eq!(MediaKind::of(Some("video/mp4; codecs=x"), "x"), Some(MediaKind::Video));
        assert_eq!(MediaKind::of(Some("Image/PNG"), "x.mp4"), Some(MediaKind::Image));
        assert_eq!(MediaKind::of(Some("application/octet-stream"), "a/b.FLAC"), Some(MediaKind::Audio));
        assert_eq!(MediaKind::of(None, "weights.safetensors"), None);
        assert_eq!(MediaKind::of(None, ""), None);
    }

    #[test]
    fn facts_are_those_of_the_moving_picture_as_it_is_shown() {
        let told = r#"{"streams":[
            {"codec_type":"video","codec_name":"mjpeg","width":9,"height":9,"disposition":{"attached_pic":1}},
            {"codec_type":"audio","codec_name":"aac"},
            {"codec_type":"video","codec_name":"h264","width":1920,"height":1080,"avg_frame_rate":"30000/1001",
             "side_data_list":[{"rotation":-90}]}],"format":{"duration":"2.5"}}"#;
        let facts = MediaFacts::of_ffprobe(told.as_bytes()).unwrap();
        assert_eq!((facts.kind, facts.width, facts.height), (MediaKind::Video, Some(1080), Some(1920)));
        assert_eq!((facts.fps, facts.duration_s), (Some(29.97), Some(2.5)));
        assert_eq!((facts.codec.as_deref(), facts.audio_codec.as_deref()), (Some("h264"), Some("aac")));
    }

    #[test]
    fn a_sound_has_no_picture_and_nonsense_has_nothing() {
        let sound = r#"{"streams":[{"codec_type":"audio","codec_name":"flac"}],"format":{"duration":"N/A"}}"#;
        let facts = MediaFacts::of_ffprobe(sound.as_bytes()).unwrap();
        assert_eq!((facts.kind, facts.duration_s, facts.codec.as_deref()), (MediaKind::Audio, None, Some("flac")));
        let frozen = r#"{"streams":[{"codec_type":"video","avg_frame_rate":"0/0"}]}"#;
        assert_eq!(MediaFacts::of_ffprobe(frozen.as_bytes()).unwrap().fps, None);
        for bad in ["", "{}", r#"{"streams":[{"codec_type":"data"}]}"#, "[]"] {
            assert!(MediaFacts::of_ffprobe(bad.as_bytes()).is_err(), "{bad}");
        }
    }
}
