//! What the one writer knows: the chains, which windows of theirs are open, and up to where the journal is in.
//!
//! All chains are committed one after the other at the same position of the journal. The last of a round notes in its commit that
//! everything before it is in, of all chains ([`Summary::whole`]): there a restart begins. Chains that were committed before a round was cut
//! off are ahead of it, and what they have is left out when it comes again.

use std::sync::Arc;

use crate::chain::{Damaged, Entry, Folder, Open};
use crate::class::Chain;
use crate::index::IndexFault;
use crate::summary::Summary;
use crate::{Options, index};

#[derive(Default)]
pub(super) struct Writing {
    /// Of the configured classes, as [`Options::chains`] has them; then of classes that are gone and left a window open.
    pub(super) slots: Vec<Slot>,
    /// Which journal the positions are of: one that was made anew begins again at zero.
    pub(super) journal: u32,
    /// Position after the last batch that was added.
    pub(super) end: u64,
    /// Everything before this is committed, of all chains.
    pub(super) committed: u64,
    /// Positions from `committed` on that are committed all the same, when the classes were others then: rising.
    pub(super) ahead: Vec<u64>,
    pub(super) waiting_bytes: u64,
    /// When the oldest of what waits was added.
    pub(super) waiting_since_ms: Option<u64>,
    /// Documents sent to the tail so far.
    pub(super) sent: u64,
}

pub(super) struct Slot {
    pub(super) chain: Chain,
    pub(super) open: Option<Open>,
    /// Everything of this chain before this position is committed.
    pub(super) applied: u64,
    /// When something was last added, by the clock of arrivals.
    pub(super) added_ms: u64,
}

impl Slot {
    fn new(chain: Chain) -> Self {
        Self { chain, open: None, applied: 0, added_ms: 0 }
    }
}

impl Writing {
    /// Where the commits of the windows found stand.
    ///
    /// # Errors
    /// The window that does not read.
    pub(super) fn at(
        options: &Options,
        entries: &[Entry],
        damaged: &[Damaged],
    ) -> Result<Self, (Arc<Folder>, IndexFault)> {
        let mut chains = options.chains();
        for entry in entries.iter().filter(|entry| !entry.summary.closed) {
            if !chains.contains(&entry.folder.chain) {
                chains.push(entry.folder.chain.clone());
            }
        }
        let journal = entries.iter().map(|entry| entry.summary.journal).max().unwrap_or(0);
        let is_current = |entry: &&Entry| entry.summary.journal == journal && entry.summary.applied > 0;
        // The newest of a chain says it, once it has a commit.
        let newest = |chain: &Chain| entries.iter().rev().filter(is_current).find(|entry| entry.folder.chain == *chain);
        let mut slots: Vec<_> = chains.into_iter().map(Slot::new).collect();
        for slot in &mut slots {
            slot.applied = newest(&slot.chain).map_or(0, |entry| entry.summary.applied);
        }
        let mut committed = entries.iter().filter(is_current).map(whole).max().unwrap_or(0);
        for Damaged { chain, first_seq } in damaged {
            // What it held is taken from the journal again, where that still has it.
            if let Some(slot) = slots.iter().find(|slot| slot.chain == *chain) {
                committed = committed.min(slot.applied.max(*first_seq));
            }
        }
        let mark = options.classes_mark();
        let is_ahead = |entry: &&Entry| is_current(entry) && entry.summary.applied > committed;
        let mut ahead = Vec::new();
        if entries.iter().filter(is_ahead).any(|entry| entry.summary.classes != mark) {
            // What comes again may belong to another chain now, so each chain's own position says nothing of it.
            // One that is far away was committed long ago; nothing is asked of there at a start.
            for entry in entries.iter().filter(is_ahead).filter(|entry| entry.folder.moved.is_none()) {
                let fault = |fault| (Arc::clone(&entry.folder), fault);
                let window = entry.folder.window().map_err(fault)?;
                index::seqs_from(&window.searcher(), committed, &mut ahead)
                    .map_err(|error| fault(IndexFault::from(error)))?;
            }
            ahead.sort_unstable();
            slots.iter_mut().for_each(|slot| slot.applied = slot.applied.min(committed));
        }
        Ok(Self { slots, journal, end: committed, committed, ahead, ..Self::default() })
    }

    /// Whether a document is committed already, in the chain it belongs to or in the one it belonged to.
    pub(super) fn has(&self, slot: usize, seq: u64) -> bool {
        seq < self.slots[slot].applied || self.ahead.binary_search(&seq).is_ok()
    }

    /// Begins again with another journal.
    pub(super) fn rewind(&mut self) {
        self.journal += 1;
        (self.end, self.committed) = (0, 0);
        self.ahead.clear();
        self.slots.iter_mut().for_each(|slot| slot.applied = 0);
    }
}

/// Before which position everything is in, as this window's last commit knew. Those of before there were classes say it of
/// themselves: of the two chains there were then, the regular one was committed last.
fn whole(entry: &Entry) -> u64 {
    let Summary { whole, applied, .. } = entry.summary;
    let is_last = !entry.folder.chain.stray && entry.folder.chain.class.is_empty();
    whole.unwrap_or(if is_last { applied } else { 0 })
}
