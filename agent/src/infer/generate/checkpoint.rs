//! Where a run stood, in a file: so that a job that was interrupted goes on, here or on another host, to the same picture.
//!
//! The file is `checkpoint` in the task's folder. It is replaced whole, so that whoever reads it reads one of them. One that
//! is there when a run begins was left by an earlier attempt; it counts when it was made for the same parameters and
//! inputs, and is ignored otherwise. It is a safetensors file: latents, what the sampler remembers, and words that say
//! which run it is.

use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::io::Read;
use std::path::Path;

use safetensors::tensor::{Dtype, SafeTensors, TensorView, serialize};
use sha2::{Digest, Sha256};
use tracing::warn;

use crate::frames::disk;
use crate::infer::{Failure, Task};

use super::denoise::State;

/// The file's name in the task's folder.
pub(super) const NAME: &str = "checkpoint";
const VERSION: &str = "1";
/// Parameters that say nothing of the picture.
const SILENT: [&str; 2] = ["preview_every", "checkpoint_every"];
/// Longest checkpoint that is read: sixteen pictures of the largest size, twice.
const BYTES_MAX: u64 = 256 << 20;

/// What must be the same for a checkpoint to count. The seed is not in it: a run that drew its own goes on with that.
pub(super) fn fingerprint(task: &Task) -> Result<String, Failure> {
    let mut hash = Sha256::new();
    let of_picture = task.parameters.iter().filter(|(name, _)| !SILENT.contains(&name.as_str()));
    for (name, value) in of_picture.collect::<BTreeMap<_, _>>() {
        hash.update(format!("{name}={value}\n"));
    }
    for input in &task.inputs {
        let mut file = File::open(input).map_err(|error| disk("read", input, &error))?;
        let mut of_input = Sha256::new();
        std::io::copy(&mut file, &mut of_input).map_err(|error| disk("read", input, &error))?;
        hash.update(of_input.finalize());
    }
    Ok(hex::encode(hash.finalize()))
}

/// Writes the state of a run, in place of the one before.
pub(super) fn write(folder: &Path, fingerprint: &str, seed: u64, state: &State) -> Result<(), Failure> {
    let bytes = |values: &[f32]| values.iter().flat_map(|value| value.to_le_bytes()).collect::<Vec<u8>>();
    let (latents, memory) = (bytes(&state.latents), state.memory.as_deref().map(bytes));
    let count = state.latents.len();
    let view = |data| TensorView::new(Dtype::F32, vec![count], data);
    let words = HashMap::from([
        ("version".to_owned(), VERSION.to_owned()),
        ("fingerprint".to_owned(), fingerprint.to_owned()),
        ("seed".to_owned(), seed.to_string()),
        ("next".to_owned(), state.next.to_string()),
    ]);
    let made = view(&latents).and_then(|latents| {
        let mut tensors = vec![("latents", latents)];
        if let Some(memory) = &memory {
            tensors.push(("memory", view(memory)?));
        }
        serialize(tensors, Some(words))
    });
    let made = made.map_err(|error| Failure::transient(format!("make a checkpoint: {error}")))?;
    let (new, file) = (folder.join(format!("{NAME}.new")), folder.join(NAME));
    std::fs::write(&new, made).map_err(|error| disk("write", &new, &error))?;
    std::fs::rename(&new, &file).map_err(|error| disk("rename", &new, &error))
}

/// The state that an earlier attempt left, and its seed. `None`: there is none that counts.
pub(super) fn read(folder: &Path, fingerprint: &str, values: usize, steps: usize) -> Option<(u64, State)> {
    let mut bytes = Vec::new();
    File::open(folder.join(NAME)).ok()?.take(BYTES_MAX + 1).read_to_end(&mut bytes).ok()?;
    let found = understand(&bytes, fingerprint, values, steps);
    if let Err(problem) = &found {
        warn!(problem, "a checkpoint is ignored");
    }
    found.ok()
}

fn understand(bytes: &[u8], fingerprint: &str, values: usize, steps: usize) -> Result<(u64, State), String> {
    let (_, header) = SafeTensors::read_metadata(bytes).map_err(|error| error.to_string())?;
    let tensors = SafeTensors::deserialize(bytes).map_err(|error| error.to_string())?;
    let words = header.metadata().as_ref().ok_or("says nothing of itself")?;
    let word = |name: &str| words.get(name).map(String::as_str).ok_or_else(|| format!("has no `{name}`"));
    if word("version")? != VERSION || word("fingerprint")? != fingerprint {
        return Err("is of another run".to_owned());
    }
    let number = |name: &str| word(name)?.parse::<u64>().map_err(|error| format!("has a `{name}` that {error}"));
    let next =
        usize::try_from(number("next")?).ok().filter(|next| (1..=steps).contains(next)).ok_or("is of no step")?;
    let tensor = |name: &str| -> Result<Vec<f32>, String> {
        let view = tensors.tensor(name).map_err(|error| error.to_string())?;
        if view.dtype() != Dtype::F32 || view.shape() != [values] {
            return Err(format!("has `{name}` of {:?}, not {values}", view.shape()));
        }
        let read: Vec<f32> =
            view.data().chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect();
        if read.iter().all(|value| value.is_finite()) { Ok(read) } else { Err(format!("has no numbers in `{name}`")) }
    };
    let memory = if tensors.names().contains(&"memory") { Some(tensor("memory")?) } else { None };
    Ok((number("seed")?, State { next, latents: tensor("latents")?, memory }))
}

/// The seed of the checkpoint that is there, before anything else of it can be judged.
pub(super) fn seed(folder: &Path, fingerprint: &str) -> Option<u64> {
    let mut bytes = Vec::new();
    File::open(folder.join(NAME)).ok()?.take(BYTES_MAX + 1).read_to_end(&mut bytes).ok()?;
    let (_, header) = SafeTensors::read_metadata(&bytes).ok()?;
    let words = header.metadata().as_ref()?;
    if words.get("fingerprint").map(String::as_str) != Some(fingerprint) {
        return None;
    }
    words.get("seed")?.parse().ok()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn state() -> State {
        State { next: 3, latents: vec![0.5, -1.0], memory: Some(vec![2.0, 4.0]) }
    }

    #[test]
    fn what_was_written_is_read_by_the_same_run_and_by_no_other() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(read(dir.path(), "a", 2, 20), None);
        write(dir.path(), "a", 7, &state()).unwrap();
        assert_eq!(read(dir.path(), "a", 2, 20), Some((7, state())));
        assert_eq!((seed(dir.path(), "a"), seed(dir.path(), "b")), (Some(7), None));
        for (fingerprint, values, steps) in [("b", 2, 20), ("a", 3, 20), ("a", 2, 2)] {
            assert_eq!(read(dir.path(), fingerprint, values, steps), None);
        }
        write(dir.path(), "a", 7, &State { memory: None, next: 4, ..state() }).unwrap();
        assert_eq!(read(dir.path(), "a", 2, 20).unwrap().1.next, 4);
        write(dir.path(), "a", 7, &State { latents: vec![f32::NAN, 0.0], ..state() }).unwrap();
        assert_eq!(read(dir.path(), "a", 2, 20), None);
    }

    proptest! {
        #[test]
        fn no_bytes_panic(bytes in prop::collection::vec(any::<u8>(), 0..300), at in 0usize..300, flip in any::<u8>()) {
            let _ = understand(&bytes, "a", 2, 20);
            let dir = tempfile::tempdir().unwrap();
            write(dir.path(), "a", 7, &state()).unwrap();
            let mut good = std::fs::read(dir.path().join(NAME)).unwrap();
            if let Some(byte) = good.get_mut(at) {
                *byte ^= flip;
            }
            let _ = understand(&good, "a", 2, 20);
        }
    }
}
