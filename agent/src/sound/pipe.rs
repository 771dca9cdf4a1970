//! Samples out of a file and into one, through `ffmpeg` and pipes.
//!
//! Each pipe has a thread of its own and at most [`DEPTH`] pieces on their way, so memory does not grow with the sound and
//! nobody blocks for ever on anybody.

use std::io::{Read, Write};
use std::path::Path;
use std::process::{ChildStdin, ChildStdout};
use std::sync::atomic::AtomicBool;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::time::Duration;

use super::probe::Sound;
use crate::frames::ffmpeg::{Process, Tools, input, next};
use crate::frames::probe::unreadable;
use crate::infer::Failure;

/// Pieces under way in each pipe.
const DEPTH: usize = 4;
/// Samples of a piece, all channels together, roughly.
const PIECE_SAMPLES: usize = 16 << 10;
/// How long the encoder may take to put the index of a long file in front.
const FINISH: Duration = Duration::from_secs(600);

/// Reads a sound.
pub struct Decoder<'a> {
    tools: &'a Tools,
    from: &'a Path,
    process: Process,
    pieces: Receiver<Vec<f64>>,
}

impl<'a> Decoder<'a> {
    /// Begins to decode at the rate of the file.
    ///
    /// # Errors
    /// Transient, when ffmpeg cannot be started.
    pub fn start(tools: &'a Tools, from: &'a Path, sound: &Sound) -> Result<Self, Failure> {
        // A broken packet ends the job: a result that sounds well and lacks a part would be worse.
        let mut arguments: Vec<String> = ["-nostdin", "-v", "error", "-xerror"].map(str::to_owned).to_vec();
        arguments.extend(input(from));
        arguments.extend(["-map".to_owned(), format!("0:{}", sound.stream)]);
        if sound.has_picture {
            // Where a clip's sound has a hole, what comes after it stays in time with the picture.
            arguments.extend(["-af", "aresample=async=1"].map(str::to_owned));
        }
        arguments.extend(["-f", "f64le", "pipe:1"].map(str::to_owned));
        let mut process = Process::start(&tools.ffmpeg, &arguments, false)?;
        let stdout = process.stdout().ok_or_else(|| Failure::transient("ffmpeg was started without its pipe"))?;
        let (send, pieces) = sync_channel(DEPTH);
        let piece = (PIECE_SAMPLES / sound.channels).max(1) * sound.channels;
        std::thread::spawn(move || read(stdout, piece, sound_bytes(piece), &send));
        Ok(Self { tools, from, process, pieces })
    }

    /// The next samples, interleaved and whole for all channels; `None` at the end.
    ///
    /// # Errors
    /// Permanent when the sound cannot be decoded to its end, with ffmpeg's last line; transient when ffmpeg is killed or stalls.
    pub fn next(&mut self, cancel: &AtomicBool) -> Result<Option<Vec<f64>>, Failure> {
        let stall = self.tools.stall;
        if let Some(piece) = next(&self.pieces, stall, cancel, || self.process.stalled(stall))? {
            return Ok(Some(piece));
        }
        match self.process.wait(stall, cancel)? {
            Ok(()) => Ok(None),
            Err(said) => Err(unreadable(self.from, &said)),
        }
    }
}

fn sound_bytes(samples: usize) -> usize {
    samples * size_of::<f64>()
}

fn read(mut pipe: ChildStdout, samples: usize, bytes: usize, to: &SyncSender<Vec<f64>>) {
    let mut buffer = vec![0; bytes];
    loop {
        let mut filled = 0;
        while filled < bytes {
            match pipe.read(&mut buffer[filled..]) {
                Ok(n) if n > 0 => filled += n,
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                _ => break,
            }
        }
        let mut piece: Vec<f64> = Vec::with_capacity(samples);
        let (values, _) = buffer[..filled].as_chunks();
        piece.extend(values.iter().map(|value| f64::from_le_bytes(*value)));
        if piece.is_empty() || to.send(piece).is_err() || filled < bytes {
            return;
        }
    }
}

/// Writes a sound.
pub struct Encoder<'a> {
    tools: &'a Tools,
    process: Process,
    pieces: Option<SyncSender<Vec<f64>>>,
    written: Receiver<()>,
    under_way: usize,
}

impl<'a> Encoder<'a> {
    /// Starts ffmpeg with `arguments`, whose first input is samples on standard input.
    ///
    /// # Errors
    /// Transient, when ffmpeg cannot be started.
    pub fn start(tools: &'a Tools, arguments: &[String]) -> Result<Self, Failure> {
        let mut process = Process::start(&tools.ffmpeg, arguments, true)?;
        let stdin = process.stdin().ok_or_else(|| Failure::transient("ffmpeg was started without its pipe"))?;
        drop(process.stdout()); // it says nothing there
        let (pieces, waiting) = sync_channel(DEPTH);
        let (done, written) = sync_channel(DEPTH + 1);
        std::thread::spawn(move || write(stdin, &waiting, &done));
        Ok(Self { tools, process, pieces: Some(pieces), written, under_way: 0 })
    }

    /// # Errors
    /// Transient: ffmpeg has ended or stalls. Cancelled.
    pub fn push(&mut self, samples: Vec<f64>, cancel: &AtomicBool) -> Result<(), Failure> {
        let stall = self.tools.stall;
        if self.under_way == DEPTH {
            match next(&self.written, stall, cancel, || self.process.stalled(stall))? {
                Some(()) => self.under_way -= 1,
                None => return Err(self.failed(cancel)),
            }
        }
        self.under_way += 1;
        match self.pieces.as_ref().map(|pieces| pieces.send(samples)) {
            Some(Ok(())) => Ok(()),
            _ => Err(self.failed(cancel)),
        }
    }

    /// Waits until the file is whole.
    ///
    /// # Errors
    /// As [`Self::push`].
    pub fn finish(mut self, cancel: &AtomicBool) -> Result<(), Failure> {
        self.pieces = None; // closes the pipe when the last piece is through
        match self.process.wait(FINISH, cancel)? {
            Ok(()) => Ok(()),
            Err(said) => Err(Failure::transient(format!("the sound cannot be written: {said}"))),
        }
    }

    fn failed(&mut self, cancel: &AtomicBool) -> Failure {
        match self.process.wait(self.tools.stall, cancel) {
            Ok(Ok(())) => Failure::transient("the encoder ended before the sound did"),
            Ok(Err(said)) => Failure::transient(format!("the sound cannot be written: {said}")),
            Err(failure) => failure,
        }
    }
}

fn write(mut pipe: ChildStdin, pieces: &Receiver<Vec<f64>>, done: &SyncSender<()>) {
    let mut bytes = Vec::new();
    for piece in pieces {
        bytes.clear();
        bytes.extend(piece.iter().flat_map(|value| value.to_le_bytes()));
        if pipe.write_all(&bytes).is_err() {
            return; // the encoder has ended; what it said last tells why
        }
        let _ = done.send(()); // nobody counts after the last piece
    }
}
