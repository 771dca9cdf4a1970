//! The fault checker: many clients, a real appliance, faults at random, and a history that is compared with the promises.
//!
//! A [`round`] is told by its seed: which faults come when, what the clients do, what stands in the messages. How the threads are
//! scheduled it is not, so a seed brings back the kind of trouble and not its instant; what is reported does not depend on that,
//! because [`check()`] finds a violation only where every possible order of the moments is one.
//!
//! What is absent on purpose: writes that fail or are torn. The journal writes by a system call of its own, which no
//! preloaded library sees; a power cut on an ext4 image is what tears writes here.

mod check;
mod client;
mod content;
mod disk;
pub mod history;
mod house;
mod inject;
mod load;
mod round;
mod shim;
#[cfg(test)]
mod shim_tests;

pub use check::check;
pub use round::{Report, round};

/// What is done to the appliance. The first letter of a round's name says which of them is its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Fault {
    /// kill -9, and a start.
    Kill,
    /// The file system stops at once, without a flush, and is mounted again.
    PowerCut,
    /// Somebody else takes what is left of the disk, and gives it back.
    FullDisk,
    /// Every sync takes up to a quarter of a second.
    SlowDisk,
    /// A sync of the control journal fails, and what it should have made durable is lost.
    FailedSync,
    /// The wall clock steps by minutes, forth or back.
    ClockStep,
}

impl Fault {
    pub const ALL: [Self; 6] =
        [Self::Kill, Self::PowerCut, Self::FullDisk, Self::SlowDisk, Self::FailedSync, Self::ClockStep];

    /// The fault that round `index` is about.
    #[must_use]
    pub fn of_round(index: u64) -> Self {
        Self::ALL[usize::try_from(index % 6).unwrap_or(0)]
    }

    /// Whether the data has to lie on a disk of its own.
    fn needs_disk(self) -> bool {
        matches!(self, Self::PowerCut | Self::FullDisk)
    }

    fn needs_shim(self) -> bool {
        matches!(self, Self::SlowDisk | Self::FailedSync | Self::ClockStep)
    }
}
