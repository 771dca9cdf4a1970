//! The job types of sound: `audio.denoise` and `audio.speech-segments`.

mod denoise;
mod parameters;
mod segments;

use std::path::Path;

use super::models::speech::Vad;
use super::{Context, Failure, Made, Task};
use crate::frames::ffmpeg::Tools;
use crate::sound::probe::{self, Sound};

/// Job types of this room.
pub(super) const KINDS: [&str; 2] = ["audio.denoise", "audio.speech-segments"];
/// The one that needs no files: its network is part of the agent.
pub(super) const DENOISE: &str = KINDS[0];
/// The one that needs silero-vad's weights.
pub const SEGMENTS: &str = KINDS[1];

/// The network that hears speech, between two jobs.
pub(super) type Loaded = Vad;

pub(super) fn run(task: &Task, ctx: &mut Context<'_>) -> Result<Vec<Made>, Failure> {
    if task.kind == DENOISE { denoise::run(task, ctx) } else { segments::run(task, ctx) }
}

/// Looks at stream number `stream` of each input, before anything is worked on.
fn sounds(task: &Task, tools: &Tools, stream: usize, ctx: &Context<'_>) -> Result<Vec<Sound>, Failure> {
    task.inputs.iter().map(|path| probe::probe(tools, path, stream, ctx.cancel)).collect()
}

/// A file that is no picture.
fn made(path: &Path, content_type: &'static str) -> Made {
    Made {
        path: path.to_owned(),
        content_type,
        width: 0,
        height: 0,
        model: String::new(),
        scale: 1,
        extra: Default::default(),
    }
}
