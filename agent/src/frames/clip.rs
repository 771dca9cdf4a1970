//! A clip through a model: decode, upscale, encode, side by side.
//!
//! One `ffmpeg` decodes into a pipe, one encodes from a pipe, and the model stands between them on the caller's
//! thread. Each pipe has a thread that moves whole frames, and [`DEPTH`] buffers that go round: nothing is allocated
//! for a frame, memory does not grow with the clip, and nobody blocks for ever on anybody. What comes out is H.264 in
//! MP4 that starts before it is loaded, BT.709; sound that MP4 can hold is copied bit for bit, other sound becomes AAC.
//! H.264's 4:2:0 wants even sides: an odd one gets its last row or column twice.

use std::io::{Read, Write};
use std::path::Path;
use std::process::{ChildStdin, ChildStdout};
use std::sync::atomic::AtomicBool;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::Duration;

use super::Rgb;
use super::ffmpeg::{Process, Tools, input, next};
use super::probe::{Clip, unreadable};
use super::tiles::Upscaler;
use crate::infer::Failure;

/// Frames under way on each side of the model.
const DEPTH: usize = 3;
/// Most pixels of a frame that is made; above it H.264 has no level.
const OUTPUT_PIXELS_MAX: u64 = 8_192 * 4_320;
/// Longest side that the encoder takes.
const OUTPUT_SIDE_MAX: u32 = 16_384;
/// How long the encoder may take to put the index of a long clip in front.
const FINISH: Duration = Duration::from_secs(600);
/// Codecs that MP4 holds and players play.
const SOUND_COPIED: [&str; 6] = ["aac", "mp3", "ac3", "eac3", "alac", "opus"];

/// What was made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Made {
    pub width: u32,
    pub height: u32,
    pub frames: usize,
}

/// Sides of the frames that are made of this clip's.
///
/// # Errors
/// Permanent, when they are more than an encoder takes.
pub fn output_size(clip: &Clip, scale: u32) -> Result<(u32, u32), Failure> {
    let (width, height) = (clip.width * scale, clip.height * scale);
    let (width, height) = (width.next_multiple_of(2), height.next_multiple_of(2));
    if width.max(height) > OUTPUT_SIDE_MAX || u64::from(width) * u64::from(height) > OUTPUT_PIXELS_MAX {
        return Err(Failure::permanent(format!(
            "{} x {} pixels times {scale} are more than a clip of {OUTPUT_PIXELS_MAX} pixels a frame",
            clip.width, clip.height
        )));
    }
    Ok((width, height))
}

/// Whether frames of this size can be encoded.
///
/// # Errors
/// Permanent, with the bound.
pub fn encodable(width: usize, height: usize) -> Result<(), Failure> {
    let (side, pixels) = (width.max(height) as u64, width as u64 * height as u64);
    if side > u64::from(OUTPUT_SIDE_MAX) || pixels > OUTPUT_PIXELS_MAX {
        let problem = format!("{width} x {height} pixels are more than a clip of {OUTPUT_PIXELS_MAX} pixels a frame");
        return Err(Failure::permanent(problem));
    }
    Ok(())
}

/// Upscales the clip at `from` into a new file at `to`. `progress` hears of finished frames, with parts of one.
///
/// # Errors
/// Permanent when the clip cannot be decoded to its end, with ffmpeg's last line; transient when ffmpeg is missing,
/// is killed, stalls or cannot write.
pub fn upscale(
    tools: &Tools,
    from: &Path,
    clip: &Clip,
    upscaler: &mut Upscaler<'_>,
    to: &Path,
    cancel: &AtomicBool,
    progress: &mut dyn FnMut(f32),
) -> Result<Made, Failure> {
    let (width, height) = output_size(clip, u32::try_from(upscaler.scale).unwrap_or(u32::MAX))?;
    let (wide, high) = (width as usize, height as usize);
    let mut picture = Rgb::black(clip.width as usize, clip.height as usize);
    let mut made = Rgb::default();
    let ends = Ends {
        decode: rgb_arguments(from, clip),
        encode: encode_arguments(from, clip, (wide, high), "rgb24", to),
        frame_bytes: picture.data.len(),
        made_bytes: wide * high * 3,
    };
    let frames = through(tools, from, &ends, cancel, &mut |number, frame, to| {
        picture.data.copy_from_slice(frame);
        let done = number as f32;
        upscaler.run(&picture, &mut made, cancel, &mut |share| progress(done + share))?;
        to.resize(wide * high * 3, 0);
        to_even(&made, wide, high, to);
        Ok(())
    })?;
    Ok(Made { width, height, frames })
}

/// Both ends of a clip's way: what ffmpeg is told, and how long a frame is there.
pub struct Ends {
    pub decode: Vec<String>,
    pub encode: Vec<String>,
    pub frame_bytes: usize,
    pub made_bytes: usize,
}

/// What is done to a frame: its number, its bytes, and where those of the result go.
pub type Work<'a> = dyn FnMut(usize, &[u8], &mut Vec<u8>) -> Result<(), Failure> + 'a;

/// Decodes the clip at `from`, has `work` make a frame of each frame, and encodes those. Says how many there were.
///
/// # Errors
/// Those of `work`; permanent when the clip cannot be decoded to its end, with ffmpeg's last line; transient when ffmpeg is
/// missing, is killed, stalls or cannot write.
pub fn through(
    tools: &Tools,
    from: &Path,
    ends: &Ends,
    cancel: &AtomicBool,
    work: &mut Work<'_>,
) -> Result<usize, Failure> {
    let mut decoder = Process::start(&tools.ffmpeg, &ends.decode, false)?;
    let mut encoder = Process::start(&tools.ffmpeg, &ends.encode, true)?;
    let (Some(decoded), Some(encoded)) = (decoder.stdout(), encoder.stdin()) else {
        return Err(Failure::transient("ffmpeg was started without its pipes"));
    };
    drop(encoder.stdout()); // it says nothing there
    let source = Source::start(decoded, ends.frame_bytes);
    let sink = Sink::start(encoded, ends.made_bytes);

    let mut frames = 0;
    loop {
        let read = next(&source.full, tools.stall, cancel, || decoder.stalled(tools.stall))?;
        let data = match read {
            Some(Frame::Whole(data)) => data,
            part => {
                let bytes = if let Some(Frame::Part(bytes)) = part { bytes } else { 0 };
                if let Err(said) = decoder.wait(tools.stall, cancel)? {
                    return Err(unreadable(from, &said).with("frames", frames));
                }
                if bytes > 0 || frames == 0 {
                    let why = format!("the clip ends in the middle of frame {frames}");
                    return Err(Failure::permanent(if frames == 0 {
                        "the clip has no frames".to_owned()
                    } else {
                        why
                    }));
                }
                break;
            }
        };
        let waited = next(&sink.empty, tools.stall, cancel, || encoder.stalled(tools.stall))?;
        let Some(mut buffer) = waited else { return Err(encoder_failed(&mut encoder, tools, cancel)) };
        work(frames, &data, &mut buffer)?;
        let _ = source.empty.send(data); // the reader may have gone after the last frame
        if buffer.len() != ends.made_bytes {
            return Err(Failure::permanent(format!("frame {frames} became {} bytes", buffer.len())));
        }
        if sink.full.send(buffer).is_err() {
            return Err(encoder_failed(&mut encoder, tools, cancel));
        }
        frames += 1;
    }
    drop(sink); // closes its pipe when the last frame is through
    finish(&mut encoder, cancel).map(|()| frames)
}

/// Waits until the encoder has written the clip's index.
fn finish(encoder: &mut Process, cancel: &AtomicBool) -> Result<(), Failure> {
    match encoder.wait(FINISH, cancel)? {
        Ok(()) => Ok(()),
        Err(said) => Err(Failure::transient(format!("the clip cannot be written: {said}"))),
    }
}

fn encoder_failed(encoder: &mut Process, tools: &Tools, cancel: &AtomicBool) -> Failure {
    match encoder.wait(tools.stall, cancel) {
        Ok(Ok(())) => Failure::transient("the encoder ended before the clip did"),
        Ok(Err(said)) => Failure::transient(format!("the clip cannot be written: {said}")),
        Err(failure) => failure,
    }
}

/// Encodes a clip of `rate` frames a second from RGB frames of even sides; `make` is asked for `count` of them, one after the
/// other, and gives each one's bytes. There is no sound.
///
/// # Errors
/// Those of `make`; transient when ffmpeg is missing, is killed, stalls or cannot write.
pub fn write(
    tools: &Tools,
    (width, height): (usize, usize),
    rate: usize,
    count: usize,
    to: &Path,
    cancel: &AtomicBool,
    make: &mut dyn FnMut(usize) -> Result<Vec<u8>, Failure>,
) -> Result<(), Failure> {
    let clip = Clip::silent(width, height, count, rate);
    let arguments = encode_arguments(to, &clip, (width, height), "rgb24", to);
    let mut encoder = Process::start(&tools.ffmpeg, &arguments, true)?;
    let Some(encoded) = encoder.stdin() else { return Err(Failure::transient("ffmpeg was started without its pipe")) };
    drop(encoder.stdout()); // it says nothing there
    let sink = Sink::start(encoded, 0);
    for number in 0..count {
        let frame = make(number)?;
        if frame.len() != width * height * 3 {
            return Err(Failure::permanent(format!("frame {number} became {} bytes", frame.len())));
        }
        let waited = next(&sink.empty, tools.stall, cancel, || encoder.stalled(tools.stall))?;
        if waited.is_none() || sink.full.send(frame).is_err() {
            return Err(encoder_failed(&mut encoder, tools, cancel));
        }
    }
    drop(sink); // closes its pipe when the last frame is through
    finish(&mut encoder, cancel)
}

/// Decodes to planes of Y, U and V in limited range, with half the colours both ways, as they stand in the clip.
pub fn yuv_arguments(from: &Path, clip: &Clip, matrix: &str, is_deep: bool) -> Vec<String> {
    let format = if is_deep { "yuv420p10le" } else { "yuv420p" };
    let filter = format!(
        "scale=in_color_matrix={matrix}:out_color_matrix={matrix}:out_range=tv:flags=accurate_rnd+full_chroma_int,format={format}"
    );
    decode_arguments(from, clip, &filter)
}

fn rgb_arguments(from: &Path, clip: &Clip) -> Vec<String> {
    // Large pictures that say nothing of their colours are BT.709, as players take them.
    let matrix = match &clip.matrix {
        Some(_) => "auto",
        None if clip.height.min(clip.width) >= 720 => "bt709",
        None => "bt601",
    };
    let filter = format!("scale=in_color_matrix={matrix}:flags=accurate_rnd+full_chroma_int,format=rgb24");
    decode_arguments(from, clip, &filter)
}

fn decode_arguments(from: &Path, clip: &Clip, filter: &str) -> Vec<String> {
    // A broken packet ends the job: a result that looks well and is not would be worse.
    let mut arguments: Vec<String> =
        ["-nostdin", "-v", "error", "-xerror", "-err_detect", "explode"].map(str::to_owned).to_vec();
    arguments.extend(input(from));
    let stream = format!("0:{}", clip.stream);
    let rest = ["-map", &stream, "-vf", filter, "-fps_mode", "passthrough", "-f", "rawvideo", "pipe:1"];
    arguments.extend(rest.map(str::to_owned));
    arguments
}

/// Encodes raw frames in ffmpeg's `format`, RGB or planes of BT.709 in limited range, with the sound of the clip.
pub fn encode_arguments(
    from: &Path,
    clip: &Clip,
    (width, height): (usize, usize),
    format: &str,
    to: &Path,
) -> Vec<String> {
    let size = format!("{width}x{height}");
    let delay = format!("{:.6}", clip.delay_s);
    let mut arguments: Vec<String> = ["-nostdin", "-v", "error", "-n", "-itsoffset", &delay]
        .iter()
        .chain(&["-f", "rawvideo", "-pix_fmt", format, "-s", &size, "-framerate", &clip.rate, "-i", "pipe:0"])
        .map(|word| (*word).to_owned())
        .collect();
    if let Some(codec) = &clip.sound {
        arguments.extend(input(from));
        let copied = SOUND_COPIED.contains(&codec.as_str());
        arguments.extend(["-map", "0:v:0", "-map", "1:a:0", "-c:a"].map(str::to_owned));
        arguments.push(if copied { "copy" } else { "aac" }.to_owned());
    }
    let aspect = clip.pixel_aspect.as_deref().map_or_else(|| "1".to_owned(), |aspect| aspect.replace(':', "/"));
    let scale = "scale=out_color_matrix=bt709:out_range=tv:flags=accurate_rnd,format=yuv420p,";
    let filter = format!("{}setsar={aspect}", if format == "rgb24" { scale } else { "" });
    let mut file = String::from("file:");
    file.push_str(&to.to_string_lossy());
    let rest = [
        ["-vf", &filter],
        // A picture that begins later than its sound is not filled up with copies of its first frame.
        ["-fps_mode", "passthrough"],
        ["-c:v", "libx264"],
        ["-preset", "medium"],
        ["-crf", "17"],
        ["-colorspace", "bt709"],
        ["-color_primaries", "bt709"],
        ["-color_trc", "bt709"],
        ["-color_range", "tv"],
        ["-movflags", "+faststart"],
        ["-f", "mp4"],
    ];
    arguments.extend(rest.concat().into_iter().map(str::to_owned));
    arguments.push(file);
    arguments
}

enum Frame {
    Whole(Vec<u8>),
    /// The pipe ended after this many bytes of a frame.
    Part(usize),
}

/// The thread that reads frames, and its buffers.
struct Source {
    full: Receiver<Frame>,
    empty: Sender<Vec<u8>>,
}

impl Source {
    /// The channels never hold more than the [`DEPTH`] buffers that go round.
    fn start(mut pipe: ChildStdout, frame_len: usize) -> Self {
        let (full_send, full) = channel();
        let (empty, empty_receive) = channel::<Vec<u8>>();
        for _ in 0..DEPTH {
            let _ = empty.send(vec![0; frame_len]);
        }
        std::thread::spawn(move || {
            for mut buffer in empty_receive {
                let mut filled = 0;
                while filled < frame_len {
                    match pipe.read(&mut buffer[filled..]) {
                        Ok(n) if n > 0 => filled += n,
                        Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                        _ => break,
                    }
                }
                let whole = filled == frame_len;
                let sent = full_send.send(if whole { Frame::Whole(buffer) } else { Frame::Part(filled) });
                if !whole || sent.is_err() {
                    break;
                }
            }
        });
        Self { full, empty }
    }
}

/// The thread that writes frames, and its buffers.
struct Sink {
    full: Sender<Vec<u8>>,
    empty: Receiver<Vec<u8>>,
}

impl Sink {
    fn start(mut pipe: ChildStdin, frame_len: usize) -> Self {
        let (full, full_receive) = channel::<Vec<u8>>();
        let (empty_send, empty) = channel();
        for _ in 0..DEPTH {
            let _ = empty_send.send(vec![0; frame_len]);
        }
        std::thread::spawn(move || {
            for buffer in full_receive {
                if pipe.write_all(&buffer).is_err() {
                    break; // the encoder has ended; what it said last tells why
                }
                let _ = empty_send.send(buffer); // nobody takes it back after the last frame
            }
        });
        Self { full, empty }
    }
}

/// Copies `from` into `to`, whose sides may be one longer; the last column and row are then there twice.
fn to_even(from: &Rgb, width: usize, height: usize, to: &mut [u8]) {
    for (y, row) in to.chunks_exact_mut(width * 3).take(height).enumerate() {
        let line = &from.data[y.min(from.height - 1) * from.width * 3..][..from.width * 3];
        let (own, extra) = row.split_at_mut(line.len());
        own.copy_from_slice(line);
        extra.copy_from_slice(&line[line.len() - extra.len()..]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_odd_side_gets_its_last_line_twice() {
        let from = Rgb { width: 1, height: 3, data: vec![1, 2, 3, 4, 5, 6, 7, 8, 9] };
        let mut to = vec![0; 2 * 4 * 3];
        to_even(&from, 2, 4, &mut to);
        assert_eq!(to, [1, 2, 3, 1, 2, 3, 4, 5, 6, 4, 5, 6, 7, 8, 9, 7, 8, 9, 7, 8, 9, 7, 8, 9]);
    }
}
