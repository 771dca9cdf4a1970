//! The engine beside a small reference model of SQS, in virtual time, through syncs, crashes and compactions; and stories.
//!
//! A failure prints its seed and the shortest steps that lead to it.

mod levels;
mod model;
mod nearness;
mod world;

use proptest::prelude::*;

use self::model::{RETENTION_S, Which};
use self::world::World;
use super::*;

#[derive(Clone, Debug)]
enum Step {
    Send {
        delay_s: u32,
        group: Option<u8>,
    },
    SendFifo {
        group: u8,
        /// `None`: an id that nobody else has.
        deduplication: Option<u8>,
    },
    Receive {
        on: Which,
        messages: usize,
        visibility_s: u32,
        attempt: Option<u8>,
    },
    /// By one of the receipts handed out so far, counted from the newest.
    Delete {
        receipt: usize,
    },
    ChangeVisibility {
        receipt: usize,
        visibility_s: u32,
    },
    Extend {
        message: usize,
        visibility_s: u32,
    },
    Act {
        message: usize,
        action: Action,
    },
    Purge {
        on: Which,
    },
    Advance {
        ms: u64,
    },
    Sync,
    /// All but some of the steps since the last sync is lost; the process starts again.
    Crash {
        kept: usize,
    },
    /// The older half of the journal is written again where it lives, and goes.
    Compact,
}

fn which() -> impl Strategy<Value = Which> {
    prop_oneof![4 => Just(Which::Main), 1 => Just(Which::Dlq), 5 => Just(Which::Fifo), 1 => Just(Which::FifoDlq)]
}

/// Most often one of the newest.
fn receipt() -> impl Strategy<Value = usize> {
    prop_oneof![3 => 0..6usize, 1 => 0..200usize]
}

fn step() -> impl Strategy<Value = Step> {
    let action = prop_oneof![
        Just(Action::Delete),
        (0..20u32).prop_map(|delay_s| Action::Release { delay_s }),
        Just(Action::DeadLetter),
        Just(Action::Return),
    ];
    let delay_s = prop_oneof![4 => Just(0u32), 4 => 1..20u32, 1 => 1_000..5_000u32];
    let time_ms = prop_oneof![
        3 => 1..2_000u64,
        3 => 1_000..40_000u64,
        1 => 100_000..310_000u64,
        1 => Just(RETENTION_S * 500)
    ];
    prop_oneof![
        4 => (delay_s, prop::option::of(0..3u8)).prop_map(|(delay_s, group)| Step::Send { delay_s, group }),
        6 => (0..3u8, prop::option::of(0..4u8))
            .prop_map(|(group, deduplication)| Step::SendFifo { group, deduplication }),
        9 => (which(), 1..=4usize, 0..30u32, prop::option::of(0..2u8)).prop_map(
            |(on, messages, visibility_s, attempt)| Step::Receive { on, messages, visibility_s, attempt }
        ),
        5 => receipt().prop_map(|receipt| Step::Delete { receipt }),
        3 => (receipt(), prop_oneof![1 => Just(0u32), 2 => 0..30u32]).prop_map(|(receipt, visibility_s)| Step::ChangeVisibility { receipt, visibility_s }),
        1 => (0..64usize, 1..30u32).prop_map(|(message, visibility_s)| Step::Extend { message, visibility_s }),
        2 => (0..64usize, action).prop_map(|(message, action)| Step::Act { message, action }),
        1 => which().prop_map(|on| Step::Purge { on }),
        6 => time_ms.prop_map(|ms| Step::Advance { ms }),
        5 => Just(Step::Sync),
        2 => prop_oneof![2 => Just(0usize), 1 => 0..20usize].prop_map(|kept| Step::Crash { kept }),
        1 => Just(Step::Compact),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]
    #[test]
    fn the_engine_does_what_sqs_documents_through_crashes_and_compactions(
        per_group in any::<bool>(),
        steps in prop::collection::vec(step(), 1..120),
    ) {
        let mut world = World::new(per_group);
        for step in &steps {
            world.run(step);
        }
        world.crash(usize::MAX);
        world.compare();
    }
}
