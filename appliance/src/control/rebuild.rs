//! `backlot rebuild`: throws the catalogue away and makes it again from its snapshot; the next start applies the journal
//! from there on, as after a crash.
//!
//! Without either, `backlot rebuild --from-blobs` makes the artifact store again, and nothing else.

use std::path::{Path, PathBuf};

use backlot_journal::{Journal, Lsn, OpenError, Options};

use super::{journal_dir, snapshot_path};
use crate::catalogue::{Catalogue, CatalogueError};

/// What a rebuild did.
#[derive(Clone, Debug)]
pub struct Rebuilt {
    /// Pairs taken from the snapshot; absent without one, where the journal holds everything since the beginning.
    pub snapshot_pairs: Option<u64>,
    /// The next start applies the journal from here…
    pub applied: Lsn,
    /// …to here.
    pub journal_end: Lsn,
    /// Where the old catalogue has been put.
    pub set_aside: Option<PathBuf>,
}

/// Why a rebuild is not possible. The old catalogue is untouched then.
#[derive(Debug, thiserror::Error)]
pub enum RebuildError {
    #[error("control journal: {0}")]
    Journal(#[from] OpenError),
    #[error(transparent)]
    Catalogue(#[from] CatalogueError),
    #[error("the journal begins at {oldest:?}, and the snapshot {snapshot} {problem}")]
    Lost { oldest: Lsn, snapshot: PathBuf, problem: String },
    #[error("{path}: {source}")]
    Io { path: PathBuf, source: std::io::Error },
}

/// Makes the catalogue in the data folder again. The appliance must not be running: its lock on the journal is taken.
///
/// # Errors
/// [`RebuildError::Lost`] when snapshot and journal together do not hold everything.
pub fn rebuild(data: &Path) -> Result<Rebuilt, RebuildError> {
    let io = |path: &Path| {
        let path = path.to_owned();
        move |source| RebuildError::Io { path, source }
    };
    let dir = journal_dir(data);
    if !dir.is_dir() {
        let source = std::io::Error::new(std::io::ErrorKind::NotFound, "there is no control journal");
        return Err(RebuildError::Io { path: dir, source });
    }
    let (journal, opened) = Journal::open(Options::new(dir))?;
    let snapshot = snapshot_path(data);
    let fresh = data.join("catalogue.new");
    match std::fs::remove_dir_all(&fresh) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(io(&fresh)(error)),
        _ => {}
    }
    let lost = |problem: String| RebuildError::Lost { oldest: opened.oldest, snapshot: snapshot.clone(), problem };
    let catalogue = Catalogue::open(&fresh)?;
    let head = match snapshot.exists() {
        true => match catalogue.import(&snapshot) {
            Ok(head) => Some(head),
            // The journal alone will do if it is whole; but then nothing of the import may stay.
            Err(error) => return Err(lost(error.to_string())),
        },
        false => None,
    };
    let applied = head.map_or(Lsn(0), |head| head.applied);
    if applied < opened.oldest {
        return Err(lost(if head.is_some() { format!("ends at {applied:?}") } else { "is missing".into() }));
    }
    if applied > opened.end {
        return Err(lost(format!("is of {applied:?}, after the journal's end at {:?}", opened.end)));
    }
    catalogue.flush()?;
    drop(catalogue);

    let current = data.join("catalogue");
    let mut set_aside = None;
    if current.exists() {
        let aside = (1..).map(|number| data.join(format!("catalogue.old-{number}"))).find(|path| !path.exists());
        let Some(aside) = aside else { unreachable!("some number is free") };
        std::fs::rename(&current, &aside).map_err(io(&aside))?;
        set_aside = Some(aside);
    }
    std::fs::rename(&fresh, &current).map_err(io(&current))?;
    std::fs::File::open(data).and_then(|folder| folder.sync_all()).map_err(io(data))?;
    journal.close();
    Ok(Rebuilt { snapshot_pairs: head.map(|head| head.pairs), applied, journal_end: opened.end, set_aside })
}
