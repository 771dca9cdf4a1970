//! What the owner of job queues is asked and told. Jobs implement this; the queue knows nothing of jobs.
//!
//! [`Overseer::admit`] is called before the queue's lock is taken; [`Overseer::observe`] under it, with each change
//! of a message on a job queue, in order. The records that it adds stand in the same journal group as the queue's own,
//! so that a message and the job that it is cannot disagree after a crash. It must not call back into the queue.

use super::model::SendRequest;
use crate::clock::Now;
use crate::control::Record;

/// Group of messages that need the same of a host. Numbers are the overseer's own and live as long as the process.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Class(pub u32);

/// Whose turn a message is, as far as shares and limits go (project, user, type, rate key). The overseer's own numbers, bounded by it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Tenant(pub u32);

/// How near an agent is to what messages of a class need, the nearest first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Nearness {
    /// In memory.
    Loaded,
    /// On its disk.
    OnDisk,
    #[default]
    Elsewhere,
}

/// Whether a tenant's messages may be received.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Turn {
    /// Now; among lanes of one level the smaller `rank` goes first.
    May { rank: u64 },
    /// Not before this moment of the monotonic clock.
    NotBefore { mono_ms: u64 },
    /// Not before one of its messages has left flight.
    AtLimit,
}

/// A body that may stand on a job queue.
#[derive(Clone, Debug, PartialEq)]
pub struct Admitted {
    /// The body to store: the specification with id, time and trace filled in.
    pub body: String,
    /// 0 (last) to 9 (first).
    pub priority: u8,
    pub class: Class,
    pub tenant: Tenant,
    /// It is not to be received before so many seconds have passed, whatever its sender says. At most 366 days.
    pub delay_s: u32,
}

/// What an overseer says to a message that wants to come onto its queue.
#[derive(Clone, Debug)]
pub enum Admission {
    Send(Admitted),
    /// The overseer has it: the sender is answered with the message that it was. `record` changes nothing; the answer
    /// waits until it is durable, and with it what the message has become.
    Duplicate {
        message_id: String,
        body: String,
        record: Record,
    },
    /// Somebody is sending what this one may turn out to repeat: ask again in a moment.
    Busy,
}

/// One change of a message on a job queue.
#[derive(Clone, Debug)]
pub enum Change<'a> {
    Sent {
        message_id: &'a str,
        body: &'a str,
        delay_s: u32,
    },
    /// A receive starts an attempt. `agent` is the registered name, absent for a plain consumer.
    Received {
        message_id: &'a str,
        receipt: &'a str,
        receive_count: u32,
        agent: Option<&'a str>,
    },
    /// Deleted with the newest receipt: a plain consumer's success.
    Deleted {
        message_id: &'a str,
    },
    /// The visibility timeout ended without a word.
    TimedOut {
        message_id: &'a str,
    },
    /// Made visible again by `ChangeMessageVisibility` with 0.
    Released {
        message_id: &'a str,
    },
    /// Moved to the dead-letter queue because it was received too often.
    DeadLettered {
        message_id: &'a str,
        dlq: &'a str,
    },
    /// A dead letter that comes back to `queue`, its receives forgotten. Told before it is moved; with the answer
    /// [`Action::Delete`] it goes away instead.
    Returned {
        message_id: &'a str,
        body: &'a str,
    },
    /// Gone by retention, purge or deletion of the queue.
    Dropped {
        message_id: &'a str,
        reason: &'static str,
    },
}

/// What the owner wants done with one of its messages, in the same journal group as the change that made it want so.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Gone: the job has ended.
    Delete,
    /// Visible again after `delay_s` (0: at once), whoever holds it now.
    Release { delay_s: u32 },
    /// To the queue's dead-letter queue; gone where it has none.
    DeadLetter,
    /// From a dead-letter queue back to the queue it came from, ready at once, its receives forgotten. A message that came from nowhere stays.
    Return,
}

/// Most bytes of the records that one [`Overseer::observe`] may push: room is made before the queue's lock is taken.
/// For [`Change::Sent`] twice the body's length comes on top.
pub const CHANGE_RECORDS_BYTES_MAX: usize = 8 * 1024;

/// Owner of the job queues.
pub trait Overseer: Send + Sync + 'static {
    /// Checks a message before it is stored and fills in what is absent.
    ///
    /// # Errors
    /// A sentence for the sender; the queue answers `InvalidMessageContents` with it.
    fn admit(&self, now: Now, queue: &str, request: &SendRequest) -> Result<Admission, String>;

    /// Priority, class and tenant of a body that was admitted in an earlier run of the process. Never fails: what cannot be
    /// read is of class 0 and tenant 0.
    fn classify(&self, body: &str) -> (u8, Class, Tenant);

    /// Priority, class and tenant of a message that is no more what its stored body says; `None`: it is. Asked when a message is
    /// released or returned, and once all records have been replayed.
    fn amended(&self, message_id: &str) -> Option<(u8, Class, Tenant)> {
        let _ = message_id;
        None
    }

    /// The body to deliver instead of the stored one.
    fn body(&self, message_id: &str) -> Option<String> {
        let _ = message_id;
        None
    }

    /// Whether messages of `class` may go to `agent` (`None`: a plain consumer, which may have any).
    fn fits(&self, agent: Option<&str>, class: Class) -> bool;

    /// The class of messages that may be worked on together with the one that is `job`, by whoever holds that one. `None`: there are
    /// none such.
    fn alike(&self, job: &str) -> Option<Class> {
        let _ = job;
        None
    }

    /// How near `agent` is to what messages of `class` need: among lanes of one level the nearest goes first, as long as no other one
    /// has waited for [`Self::patience_ms`]. Asked under the queue's lock, often: it must be quick.
    fn nearness(&self, agent: Option<&str>, class: Class) -> Nearness {
        let _ = (agent, class);
        Nearness::Elsewhere
    }

    /// How long a lane may be passed over for nearer ones of its level; 0: not at all.
    fn patience_ms(&self) -> u64 {
        0
    }

    /// Whether a message of `tenant` may be received from `queue` now, and how soon among those of equal level. Asked under the
    /// queue's lock, often: it must be quick.
    fn turn(&self, now: Now, queue: &str, tenant: Tenant) -> Turn {
        let _ = (now, queue, tenant);
        Turn::May { rank: 0 }
    }

    /// How long a message waits until it counts as one priority more; 0: it never does.
    fn ageing_ms(&self) -> u64 {
        300_000
    }

    /// A change, under the queue's lock. Records pushed to `records` are made durable with it.
    ///
    /// The answer to [`Change::TimedOut`] and [`Change::Released`] is done to the message in the same group: a job that
    /// failed for the last time must not be received once more in between. `None` leaves the message to the
    /// queue's own rules; to the other changes but [`Change::Returned`] nothing is answered.
    #[must_use = "a message whose job has ended must not be delivered again"]
    fn observe(&self, now: Now, queue: &str, change: Change<'_>, records: &mut Vec<Record>) -> Option<Action>;

    /// System and message attributes to add to a delivery of `message_id` (the attempt's id).
    fn attributes(&self, queue: &str, message_id: &str) -> Vec<(String, String)>;
}
