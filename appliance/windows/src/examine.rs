//! Looking at windows without opening them, and without changing anything: for when nobody else has the folder.

use std::sync::Arc;

use crate::chain::{Entry, Folder, list_asides};
use crate::class::Chain;
use crate::cold::{Manifest, Moved};
use crate::summary::{Meta, read_meta};
use crate::windows::Kept;
use crate::{Options, WindowsError};

/// What stands in a folder of windows.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Examined {
    /// By the order of their last arrivals.
    pub kept: Vec<Kept>,
    /// Names and reasons of those that do not say what they hold: the next start sets them aside.
    pub unreadable: Vec<(String, String)>,
    /// Names and reasons of those that were set aside.
    pub set_aside: Vec<(String, String)>,
}

/// Reads what each window says of itself.
///
/// # Errors
/// [`WindowsError::Io`] when the folder cannot be read.
pub fn examine(options: &Options) -> Result<Examined, WindowsError> {
    let mut examined = Examined::default();
    let entries = match std::fs::read_dir(&options.dir) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(examined),
        Err(source) => return Err(WindowsError::Io { verb: "list", path: options.dir.clone(), source }),
    };
    for entry in entries.flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let Some(chain) = Chain::of_window(&name).filter(|_| entry.path().is_dir()) else { continue };
        let mut folder = Folder::new(&options.dir, name, chain);
        match Manifest::read(&folder.path) {
            Ok(manifest) => folder.moved = manifest.map(|manifest| Moved::new(manifest, None)),
            Err(reason) => {
                examined.unreadable.push((folder.name.clone(), reason));
                continue;
            }
        }
        match read_meta(&folder.path) {
            Ok(Some(Meta { summary, rests })) => {
                let rests = rests || folder.moved.is_some();
                examined.kept.push(Kept::of(&Entry { folder: Arc::new(folder), summary, rests }, options));
            }
            Ok(None) => {} // was only begun
            Err(reason) => examined.unreadable.push((folder.name.clone(), reason)),
        }
    }
    examined.kept.sort_by_key(|kept| kept.last_arrival_ms);
    examined.set_aside = list_asides(&options.dir)?.into_iter().map(|aside| (aside.name, aside.reason)).collect();
    Ok(examined)
}
