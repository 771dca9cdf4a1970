//! The engine beside a tiny reference model, in virtual time, through syncs, crashes and compactions.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;
use crate::queue::record::{Content, content_of};

const MAX_RECEIVES: u32 = 3;
const RETENTION_S: u64 = 3_600;
const EPOCH_MS: u64 = 1_700_000_000_000;

#[derive(Clone, Debug)]
enum Step {
    Send {
        delay_s: u32,
    },
    Receive {
        dlq: bool,
        messages: usize,
        visibility_s: u32,
    },
    /// By one of the receipts handed out so far.
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
        dlq: bool,
    },
    Advance {
        ms: u64,
    },
    Sync,
    /// Everything since the last sync is lost; the process starts again.
    Crash,
    /// The older half of the journal is written again where it lives, and goes.
    Compact,
}

fn step() -> impl Strategy<Value = Step> {
    let action = prop_oneof![
        Just(Action::Delete),
        (0..20u32).prop_map(|delay_s| Action::Release { delay_s }),
        Just(Action::DeadLetter),
        Just(Action::Return),
    ];
    prop_oneof![
        6 => prop_oneof![Just(0u32), 1..20u32].prop_map(|delay_s| Step::Send { delay_s }),
        8 => (prop::bool::weighted(0.2), 1..=4usize, 0..30u32)
            .prop_map(|(dlq, messages, visibility_s)| Step::Receive { dlq, messages, visibility_s }),
        4 => (0..64usize).prop_map(|receipt| Step::Delete { receipt }),
        3 => (0..64usize, 0..30u32).prop_map(|(receipt, visibility_s)| Step::ChangeVisibility { receipt, visibility_s }),
        1 => (0..64usize, 1..30u32).prop_map(|(message, visibility_s)| Step::Extend { message, visibility_s }),
        2 => (0..64usize, action).prop_map(|(message, action)| Step::Act { message, action }),
        1 => any::<bool>().prop_map(|dlq| Step::Purge { dlq }),
        6 => prop_oneof![1..2_000u64, 1_000..40_000u64, Just(RETENTION_S * 500)].prop_map(|ms| Step::Advance { ms }),
        5 => Just(Step::Sync),
        2 => Just(Step::Crash),
        1 => Just(Step::Compact),
    ]
}

/// What SQS says of one message.
#[derive(Clone, Debug)]
struct Expected {
    id: MessageId,
    on_dlq: bool,
    came_by_dlq: bool,
    published: bool,
    sent_ms: u64,
    /// In flight or delayed until then.
    due_ms: u64,
    in_flight: bool,
    receives: u32,
    elsewhere: u32,
    void: bool,
}

impl Expected {
    fn ready(&self, now_ms: u64) -> bool {
        self.published && !self.in_flight && self.due_ms <= now_ms
    }

    fn dead_letter(&mut self) {
        (self.on_dlq, self.came_by_dlq, self.in_flight, self.void) = (true, true, false, true);
        (self.due_ms, self.elsewhere) = (0, self.receives);
    }

    fn come_back(&mut self) {
        self.in_flight = false;
        self.due_ms = 0;
        if !self.on_dlq && self.receives - self.elsewhere >= MAX_RECEIVES {
            self.dead_letter();
        }
    }
}

#[derive(Clone, Debug, Default)]
struct Model {
    messages: Vec<Expected>,
}

impl Model {
    fn advance(&mut self, now_ms: u64) {
        self.messages.retain(|message| now_ms < message.sent_ms + RETENTION_S * 1000);
        for message in &mut self.messages {
            if message.in_flight && message.due_ms <= now_ms {
                message.come_back();
            }
        }
    }

    fn find(&mut self, dlq: bool, id: MessageId) -> Option<&mut Expected> {
        self.messages.iter_mut().find(|message| message.on_dlq == dlq && message.id == id)
    }
}

struct World {
    engine: Engine,
    journal: BTreeMap<Lsn, Vec<u8>>,
    end: u64,
    durable: u64,
    model: Model,
    /// The model when the journal was durable for the last time.
    durable_model: Model,
    /// Receipts answered, and those of receives that are not durable yet.
    receipts: Vec<Receipt>,
    unanswered: Vec<Receipt>,
    now_ms: u64,
    began_ms: u64,
    ids: u64,
}

impl World {
    fn new() -> Self {
        let mut world = Self {
            engine: Engine::default(),
            journal: BTreeMap::new(),
            end: 1,
            durable: 1,
            model: Model::default(),
            durable_model: Model::default(),
            receipts: Vec::new(),
            unanswered: Vec::new(),
            now_ms: 1,
            began_ms: 0,
            ids: 0,
        };
        let name = |text| QueueName::parse(text).unwrap();
        let settings = Settings { retention_s: RETENTION_S as u32, ..Settings::default() };
        let redrive = serde_json::json!({
            "deadLetterTargetArn": "arn:aws:sqs:r:000000000000:dlq", "maxReceiveCount": MAX_RECEIVES
        });
        let policy = BTreeMap::from([("RedrivePolicy".to_owned(), redrive.to_string())]);
        world.decide(|engine, ctx| engine.create(ctx, &name("dlq"), settings.clone()).unwrap());
        let settings = settings.with(&name("main"), &policy, true).unwrap();
        world.decide(|engine, ctx| engine.create(ctx, &name("main"), settings).unwrap());
        world.sync();
        world
    }

    fn now(&self) -> Now {
        Now { mono_ms: self.now_ms - self.began_ms, wall_ms: EPOCH_MS + self.now_ms }
    }

    fn queue(&self, dlq: bool) -> Queue {
        self.engine.queue(if dlq { "dlq" } else { "main" }).unwrap().clone()
    }

    fn decide<T>(&mut self, decide: impl FnOnce(&mut Engine, &mut Context<'_>) -> T) -> T {
        let mut group = Group::default();
        let now = self.now();
        let answer = decide(&mut self.engine, &mut Context { now, overseer: None, group: &mut group });
        self.submit(&group);
        answer
    }

    fn submit(&mut self, group: &Group) {
        let mut lsns = Vec::new();
        for record in &group.records {
            lsns.push(Lsn(self.end));
            self.journal.insert(Lsn(self.end), record.payload.clone());
            self.end += 10;
        }
        self.engine.placed(group, &lsns);
    }

    fn sync(&mut self) {
        self.durable = self.end;
        self.engine.publish(self.now(), Lsn(self.durable), &mut Group::default());
        for message in &mut self.model.messages {
            message.published = true;
        }
        self.receipts.append(&mut self.unanswered);
        self.durable_model = self.model.clone();
    }

    fn tick(&mut self) {
        while self.decide(|engine, ctx| engine.tick(ctx, 2)) {}
        while !self.decide(|engine, ctx| engine.sweep(ctx, 3, 2)) {}
        self.model.advance(self.now_ms);
    }

    fn crash(&mut self) {
        self.journal.retain(|lsn, _| lsn.0 < self.durable);
        self.end = self.durable;
        self.began_ms = self.now_ms;
        self.engine = Engine::default();
        for (lsn, payload) in &self.journal {
            self.engine.replay(*lsn, payload, None).unwrap();
        }
        self.engine.replayed(self.now());
        self.unanswered.clear();
        self.model = self.durable_model.clone();
        self.tick();
        self.sync();
    }

    fn compact(&mut self) {
        self.sync();
        let middle = Lsn(self.journal.keys().next().unwrap().0.midpoint(self.end));
        let old: Vec<_> = self.journal.range(..middle).map(|(lsn, payload)| (*lsn, payload.clone())).collect();
        for (lsn, payload) in old {
            let entry = Entry::decode(&payload).unwrap();
            if let Some(group) = self.engine.relocate(self.now(), lsn, &entry, content_of(&payload)) {
                self.submit(&group);
            }
        }
        self.sync();
        self.journal.retain(|lsn, _| *lsn >= middle);
    }

    fn run(&mut self, step: &Step) {
        match step {
            Step::Send { delay_s } => {
                let queue = self.queue(false);
                self.ids += 1;
                let id = MessageId::from_random((u128::from(self.ids) * 0x9e37_79b9_7f4a_7c15_f39c_0001).to_le_bytes());
                let content = Content {
                    body: self.ids.to_string(),
                    attributes: vec![],
                    trace_header: None,
                    sender_id: String::new(),
                };
                self.decide(|engine, ctx| {
                    let content = content.encode();
                    let incoming = Incoming { id, content: &content, body: "", delay_s: *delay_s, admitted: None };
                    engine.send(ctx, &queue, &incoming).unwrap();
                });
                self.model.messages.push(Expected {
                    id,
                    on_dlq: false,
                    came_by_dlq: false,
                    published: false,
                    sent_ms: self.now_ms,
                    due_ms: self.now_ms + u64::from(*delay_s) * 1000,
                    in_flight: false,
                    receives: 0,
                    elsewhere: 0,
                    void: false,
                });
            }
            Step::Receive { dlq, messages, visibility_s } => {
                let queue = self.queue(*dlq);
                let ready = self.model.messages.iter().filter(|m| m.on_dlq == *dlq && m.ready(self.now_ms)).count();
                let taken = self
                    .decide(|engine, ctx| engine.receive(ctx, &queue, None, *messages, *visibility_s, 100).unwrap());
                assert_eq!(taken.len(), ready.min(*messages));
                let now_ms = self.now_ms;
                for message in taken {
                    let expected = self.model.find(*dlq, message.receipt.message).expect("a live message");
                    assert!(expected.ready(now_ms), "{expected:?} was received at {now_ms}");
                    expected.receives += 1;
                    expected.in_flight = true;
                    expected.void = false;
                    expected.due_ms = now_ms + u64::from(*visibility_s) * 1000;
                    assert_eq!(message.receive_count, expected.receives);
                    let source = message.source.as_ref().map(QueueName::as_str);
                    assert_eq!(source, (expected.on_dlq && expected.came_by_dlq).then_some("main"));
                    self.unanswered.push(message.receipt);
                }
                self.tick(); // a visibility of 0 ends at once
            }
            Step::Delete { receipt } => {
                let Some(receipt) = self.receipts.get(*receipt).copied() else { return };
                let dlq = receipt.queue == self.queue(true).id;
                let queue = self.queue(dlq);
                let deletion = self.decide(|engine, ctx| engine.delete(ctx, &queue, &receipt).unwrap());
                let expected = match self.model.find(dlq, receipt.message) {
                    None => Deletion::Absent,
                    Some(message) if message.receives == receipt.receives && !message.void => Deletion::Done,
                    Some(_) => Deletion::Stale,
                };
                assert_eq!(deletion, expected);
                if deletion == Deletion::Done {
                    self.model.messages.retain(|message| message.id != receipt.message);
                }
            }
            Step::ChangeVisibility { receipt, visibility_s } => {
                let Some(receipt) = self.receipts.get(*receipt).copied() else { return };
                let dlq = receipt.queue == self.queue(true).id;
                let queue = self.queue(dlq);
                let changed = self.decide(|engine, ctx| engine.change_visibility(ctx, &queue, &receipt, *visibility_s));
                let now_ms = self.now_ms;
                match self.model.find(dlq, receipt.message) {
                    Some(message) if message.receives == receipt.receives && !message.void => {
                        if !message.in_flight {
                            assert!(matches!(changed, Err(QueueError::NotInFlight)));
                        } else if *visibility_s == 0 {
                            message.come_back();
                        } else {
                            message.due_ms = now_ms + u64::from(*visibility_s) * 1000;
                        }
                    }
                    _ => assert!(matches!(changed, Err(QueueError::NoSuchMessage { .. }))),
                }
            }
            Step::Extend { message, visibility_s } => {
                let Some(expected) = self.model.messages.get(*message).cloned() else { return };
                let queue = self.queue(expected.on_dlq).id;
                let extended = self.decide(|engine, ctx| engine.extend(ctx, queue, expected.id, *visibility_s));
                assert_eq!(extended, expected.in_flight);
                if extended {
                    self.model.messages[*message].due_ms = self.now_ms + u64::from(*visibility_s) * 1000;
                }
            }
            Step::Act { message, action } => {
                let Some(expected) = self.model.messages.get(*message).cloned() else { return };
                let queue = self.queue(expected.on_dlq).id;
                self.decide(|engine, ctx| engine.act(ctx, queue, expected.id, *action));
                let now_ms = self.now_ms;
                let expected = &mut self.model.messages[*message];
                let worn = expected.receives - expected.elsewhere >= MAX_RECEIVES;
                match action {
                    Action::Delete => {
                        self.model.messages.remove(*message);
                    }
                    Action::DeadLetter if expected.on_dlq => {
                        self.model.messages.remove(*message);
                    }
                    Action::DeadLetter => {
                        let due_ms = expected.due_ms;
                        expected.dead_letter();
                        if !expected.published {
                            expected.due_ms = due_ms; // its delay goes with it
                        }
                    }
                    Action::Release { .. } if worn && !expected.on_dlq => expected.dead_letter(),
                    Action::Release { delay_s } => {
                        let due_ms = now_ms + u64::from(*delay_s) * 1000;
                        let pending = !expected.published;
                        expected.due_ms = if pending { expected.due_ms.max(due_ms) } else { due_ms };
                        (expected.in_flight, expected.void) = (false, true);
                    }
                    Action::Return if expected.on_dlq && expected.came_by_dlq => {
                        if expected.published {
                            expected.due_ms = 0;
                        }
                        (expected.on_dlq, expected.came_by_dlq, expected.in_flight) = (false, false, false);
                        (expected.receives, expected.elsewhere, expected.void) = (0, 0, true);
                    }
                    Action::Return => {}
                }
            }
            Step::Purge { dlq } => {
                let queue = self.queue(*dlq).id;
                assert!(self.decide(|engine, ctx| engine.purge(ctx, queue)).is_some());
                self.model.messages.retain(|message| message.on_dlq != *dlq);
            }
            Step::Advance { ms } => {
                self.now_ms += ms;
                self.tick();
            }
            Step::Sync => self.sync(),
            Step::Crash => self.crash(),
            Step::Compact => self.compact(),
        }
        self.compare();
    }

    fn compare(&self) {
        for dlq in [false, true] {
            let mut expected = Counts::default();
            for message in self.model.messages.iter().filter(|message| message.on_dlq == dlq) {
                *match () {
                    () if !message.published => &mut expected.pending,
                    () if message.in_flight => &mut expected.in_flight,
                    () if message.due_ms > self.now_ms => &mut expected.delayed,
                    () => &mut expected.ready,
                } += 1;
            }
            let found = self.engine.counts(self.queue(dlq).id);
            assert_eq!(found, expected, "on {}: {:#?}", if dlq { "dlq" } else { "main" }, self.model);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]
    #[test]
    fn the_engine_does_what_sqs_documents_through_crashes_and_compactions(steps in prop::collection::vec(step(), 1..120)) {
        let mut world = World::new();
        for step in &steps {
            world.run(step);
        }
        world.crash();
        world.compare();
    }
}
