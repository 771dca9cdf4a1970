//! What the clients of one round did and were answered, in the words of the promises.
//!
//! Times are microseconds of the checker's own monotonic clock since the round began. An operation took effect, if at
//! all, somewhere between `begun` and `ended`; nothing here says more than a client could see.

use std::fmt;

/// Microseconds since the round began.
pub type Micros = u64;

/// One message that a client made up: its number stands in its body.
pub type Number = u64;

/// A queue of the round.
#[derive(Clone, Debug, Default)]
pub struct Queue {
    pub name: String,
    pub fifo: bool,
    /// After how many receives a message moves on, and to which queue.
    pub redrive: Option<(u32, usize)>,
    /// At the end of the round the queue said of itself that it holds nothing.
    pub emptied: bool,
}

/// One life of the appliance's process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Run {
    pub begun: Micros,
    /// From here on its answers do not count as heard: the power was about to go, and took them with it.
    pub silent: Option<Micros>,
    /// The process was surely gone.
    pub ended: Micros,
}

/// What a client asked for.
#[derive(Clone, Debug)]
pub enum Call {
    Send {
        number: Number,
        delay_s: u32,
        /// The message's id, where the answer told it.
        id: Option<String>,
        /// Message group of a FIFO queue. The number is the deduplication id.
        group: Option<u32>,
    },
    Receive {
        visibility_s: u32,
        got: Vec<Got>,
    },
    /// By the receipt of the take `take`.
    Delete {
        take: Take,
    },
    Hide {
        take: Take,
        visibility_s: u32,
    },
    Purge,
}

/// One message in the answer to one receive; unique over the round.
pub type Take = u64;

/// A message as it was received.
#[derive(Clone, Debug)]
pub struct Got {
    pub take: Take,
    /// `None` where the body bears no number of ours.
    pub number: Option<Number>,
    /// Body and attributes are byte for byte those that were sent.
    pub intact: bool,
    /// The appliance's own id of the message.
    pub id: String,
    /// `ApproximateReceiveCount`.
    pub receive_count: u32,
}

/// What a client knows of the outcome.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Acknowledged.
    Done,
    /// Answered with an error that says that nothing was done.
    Refused(String),
    /// No answer came, or one that leaves it open.
    Unknown,
}

#[derive(Clone, Debug)]
pub struct Operation {
    pub begun: Micros,
    pub ended: Micros,
    pub queue: usize,
    pub call: Call,
    pub outcome: Outcome,
}

/// Everything that the checker is told.
#[derive(Clone, Debug, Default)]
pub struct History {
    pub queues: Vec<Queue>,
    pub runs: Vec<Run>,
    pub operations: Vec<Operation>,
    /// Spans in which the disk may have been full: sends may be refused then.
    pub full: Vec<(Micros, Micros)>,
    /// Largest distance between two readings of the appliance's wall clock beyond the time that passed, in seconds.
    pub clock_swing_s: u64,
}

/// A promise that was not kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    pub promise: Promise,
    pub what: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Promise {
    /// An acknowledged send is delivered until it is deleted.
    NothingIsLost,
    /// Nobody else receives a message during its visibility timeout.
    Hidden,
    /// What was deleted does not come back.
    StaysDeleted,
    /// Bodies are as they were sent, and nobody receives what nobody sent.
    Intact,
    /// One send makes one message.
    Once,
    /// A delayed message is not received before its delay has passed.
    Delayed,
    /// A message of a group comes after those before it.
    Ordered,
    /// A group rests while one of its messages is in flight.
    GroupLocked,
    /// Dead-lettered after as many receives as the queue says, and for good.
    DeadLettered,
    /// Only a full disk refuses, and only sends.
    Served,
    /// What the appliance itself does under a fault: it ends, it starts, it tells.
    Conduct,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}: {}", self.promise, self.what)
    }
}
