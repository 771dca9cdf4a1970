//! The best of many, in the order of the answer, in bounded memory.

use std::collections::BinaryHeap;

/// Where a document stands in time; what a cursor points at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Position {
    pub time_ns: i64,
    pub seq: u64,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Order {
    #[default]
    Newest,
    Oldest,
}

/// Rises in the order of the answer.
pub(crate) type Rank = (i64, u64);

impl Order {
    /// `!` turns the order of integers round without a value that has no negative.
    pub(crate) fn rank(self, Position { time_ns, seq }: Position) -> Rank {
        match self {
            Self::Newest => (!time_ns, !seq),
            Self::Oldest => (time_ns, seq),
        }
    }

    pub(crate) fn position(self, (time, seq): Rank) -> Position {
        match self {
            Self::Newest => Position { time_ns: !time, seq: !seq },
            Self::Oldest => Position { time_ns: time, seq },
        }
    }

    /// The first component of the rank of any document at `time_ns`.
    pub(crate) fn time_rank(self, time_ns: i64) -> i64 {
        self.rank(Position { time_ns, seq: 0 }).0
    }
}

/// At most `capacity` entries, those of the smallest rank.
pub(crate) struct Top<T> {
    pub(crate) order: Order,
    capacity: usize,
    after: Option<Rank>,
    heap: BinaryHeap<Entry<T>>,
}

struct Entry<T>(Rank, T);

impl<T> PartialEq for Entry<T> {
    fn eq(&self, other: &Self) -> bool {
        self.0 == other.0
    }
}
impl<T> Eq for Entry<T> {}
impl<T> PartialOrd for Entry<T> {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}
impl<T> Ord for Entry<T> {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.0.cmp(&other.0)
    }
}

impl<T> Top<T> {
    pub(crate) fn new(order: Order, capacity: usize, after: Option<Position>) -> Self {
        Self { order, capacity, after: after.map(|position| order.rank(position)), heap: BinaryHeap::new() }
    }

    /// Whether nothing of this time rank or a later one can come in any more.
    pub(crate) fn closed_to(&self, time_rank: i64) -> bool {
        self.heap.len() >= self.capacity && self.heap.peek().is_none_or(|worst| time_rank > worst.0.0)
    }

    pub(crate) fn offer(&mut self, position: Position, entry: impl FnOnce() -> T) {
        let rank = self.order.rank(position);
        if self.after.is_some_and(|after| rank <= after) {
            return;
        }
        if self.heap.len() < self.capacity {
            self.heap.push(Entry(rank, entry()));
        } else if let Some(mut worst) = self.heap.peek_mut()
            && rank < worst.0
        {
            *worst = Entry(rank, entry());
        }
    }

    /// In the order of the answer.
    pub(crate) fn into_sorted(self) -> Vec<(Position, T)> {
        let order = self.order;
        self.heap.into_sorted_vec().into_iter().map(|Entry(rank, entry)| (order.position(rank), entry)).collect()
    }
}
