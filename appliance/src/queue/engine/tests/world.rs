//! An engine with its journal, beside the model, and what can happen to both.

use std::collections::BTreeMap;

use super::super::*;
use super::Step;
use super::model::{Attempt, Expected, MAX_RECEIVES, Model, RETENTION_S, Remembered, Which};
use crate::queue::model::Receipt;
use crate::queue::record::{Content, content_of};

const EPOCH_MS: u64 = 1_700_000_000_000;

pub(super) struct World {
    engine: Engine,
    journal: BTreeMap<Lsn, Vec<u8>>,
    end: u64,
    durable: u64,
    model: Model,
    /// The model after each step since the journal was durable for the last time, and where the journal ended then.
    history: Vec<(u64, Model)>,
    /// Receipts answered, and those of receives that are not durable yet.
    receipts: Vec<Receipt>,
    unanswered: Vec<Receipt>,
    now_ms: u64,
    began_ms: u64,
    ids: u64,
    /// A deduplication id counts within its group alone.
    per_group: bool,
}

impl World {
    pub(super) fn new(per_group: bool) -> Self {
        let mut world = Self {
            engine: Engine::default(),
            journal: BTreeMap::new(),
            end: 1,
            durable: 1,
            model: Model::default(),
            history: Vec::new(),
            receipts: Vec::new(),
            unanswered: Vec::new(),
            now_ms: 1,
            began_ms: 0,
            ids: 0,
            per_group,
        };
        for which in [Which::Dlq, Which::FifoDlq, Which::Main, Which::Fifo] {
            let name = QueueName::parse(which.name()).unwrap();
            let mut attributes = BTreeMap::from([("MessageRetentionPeriod".to_owned(), RETENTION_S.to_string())]);
            if let Some(dlq) = which.dlq() {
                let redrive = serde_json::json!({
                    "deadLetterTargetArn": format!("arn:aws:sqs:r:000000000000:{}", dlq.name()),
                    "maxReceiveCount": MAX_RECEIVES
                });
                attributes.insert("RedrivePolicy".to_owned(), redrive.to_string());
            }
            if which.is_fifo() {
                let scope = if per_group { "messageGroup" } else { "queue" };
                attributes.insert("FifoQueue".to_owned(), "true".to_owned());
                attributes.insert("DeduplicationScope".to_owned(), scope.to_owned());
            }
            let settings = Settings::default().with(&name, &attributes, true).unwrap();
            world.decide(|engine, ctx| engine.create(ctx, &name, settings).unwrap());
        }
        world.sync();
        world
    }

    fn now(&self) -> Now {
        Now { mono_ms: self.now_ms - self.began_ms, wall_ms: EPOCH_MS + self.now_ms }
    }

    fn queue(&self, which: Which) -> Queue {
        self.engine.queue(which.name()).unwrap().clone()
    }

    fn which(&self, queue: QueueId) -> Which {
        Which::ALL.into_iter().find(|which| self.queue(*which).id == queue).unwrap()
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
        self.history = vec![(self.end, self.model.clone())];
    }

    fn tick(&mut self) {
        while self.decide(|engine, ctx| engine.tick(ctx, 2)) {}
        while !self.decide(|engine, ctx| engine.sweep(ctx, 3, 2)) {}
        self.model.advance(self.now_ms);
    }

    /// The process ends and starts again. Of what was decided since the last sync, the first `kept` steps have reached the
    /// disk, or as many as there were.
    pub(super) fn crash(&mut self, kept: usize) {
        let (end, model) = self.history[kept.min(self.history.len() - 1)].clone();
        self.journal.retain(|lsn, _| lsn.0 < end);
        self.end = end;
        self.began_ms = self.now_ms;
        self.engine = Engine::default();
        let now = self.now();
        for (lsn, payload) in &self.journal {
            self.engine.replay(now, *lsn, payload, None).unwrap();
        }
        self.engine.replayed(self.now(), None);
        self.unanswered.clear();
        self.model = model;
        self.model.attempts.clear();
        for message in &mut self.model.messages {
            message.published = true;
            message.due_ms = message.due_ms.max(self.now_ms); // what ended meanwhile ends now, all at once
        }
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

    fn send(&mut self, on: Which, delay_s: u32, group: Option<u8>, deduplication: Option<u8>) {
        let queue = self.queue(on);
        self.ids += 1;
        let id = MessageId::from_random((u128::from(self.ids) * 0x9e37_79b9_7f4a_7c15_f39c_0001).to_le_bytes());
        let group_id = group.map(|group| format!("group {group}"));
        // A number of its own for each send that repeats nothing.
        let mark = on.is_fifo().then(|| deduplication.map_or(format!("alone {}", self.ids), |mark| mark.to_string()));
        let content = Content {
            body: self.ids.to_string(),
            group_id: group_id.clone(),
            deduplication_id: mark.clone(),
            ..Content::default()
        };
        let content = content.encode();
        let scope = group.filter(|_| self.per_group);
        let key = mark.map(|mark| DeduplicationKey::of(&mark, group_id.as_deref().filter(|_| self.per_group)));
        let per_group = self.per_group;
        let accepted = self.decide(|engine, ctx| {
            let incoming = Incoming {
                id,
                record: content.clone(),
                body: "",
                delay_s,
                admitted: None,
                group_id: group_id.as_deref(),
                deduplication: key,
                per_group,
            };
            engine.send(ctx, &queue, incoming).unwrap()
        });
        if let Some(first) = deduplication.and_then(|mark| self.model.first_send(self.now_ms, mark, scope)) {
            assert_eq!(accepted, Accepted { message: first.id, sequence: Some(first.sequence) });
            return;
        }
        let sequence = self.model.next_sequence(on);
        assert_eq!(accepted, Accepted { message: id, sequence: on.is_fifo().then_some(sequence) });
        if let Some(mark) = deduplication {
            self.model.remembered.insert((mark, scope), Remembered { id, sequence, at_ms: self.now_ms });
        }
        let held_s = if delay_s > 900 { delay_s } else { 0 };
        self.model.messages.push(Expected {
            id,
            on,
            sequence,
            group,
            came_by_dlq: false,
            published: false,
            aged_from_ms: self.now_ms + u64::from(held_s) * 1000,
            due_ms: self.now_ms + u64::from(delay_s) * 1000,
            in_flight: false,
            receives: 0,
            elsewhere: 0,
            void: false,
        });
    }

    fn receive(&mut self, on: Which, messages_max: usize, visibility_s: u32, attempt: Option<u8>) {
        let queue = self.queue(on);
        let now_ms = self.now_ms;
        let attempt = attempt.filter(|_| on == Which::Fifo);
        let again = attempt.and_then(|name| self.model.again(now_ms, name));
        let name = attempt.map(|name| name.to_string());
        let asked = Asked {
            agent: None,
            class: None,
            messages_max,
            visibility_s,
            changes_max: 100,
            attempt_id: name.as_deref(),
        };
        let taken = self.decide(|engine, ctx| engine.receive(ctx, &queue, &asked).unwrap());
        let got: Vec<MessageId> = taken.iter().map(|taken| taken.receipt.message).collect();
        match &again {
            Some(again) => assert_eq!(&got, again),
            None if on.is_fifo() => assert_eq!(got, self.model.receivable(on, now_ms, messages_max)),
            None => {
                let ready = self.model.messages.iter().filter(|m| m.on == on && m.is_ready(now_ms)).count();
                assert_eq!(got.len(), ready.min(messages_max));
            }
        }
        let due_ms = now_ms + u64::from(visibility_s) * 1000;
        for message in &taken {
            let expected = self.model.find(on, message.receipt.message).expect("a live message");
            if again.is_none() {
                assert!(expected.is_ready(now_ms), "{expected:?} was received at {now_ms}");
                expected.receives += 1;
                expected.in_flight = true;
                expected.void = false;
            }
            expected.due_ms = due_ms;
            assert_eq!((message.receive_count, message.receipt.receives), (expected.receives, expected.receives));
            assert_eq!(message.sequence, on.is_fifo().then_some(expected.sequence));
            let source = message.source.as_ref().map(QueueName::as_str);
            let expected_source = Which::ALL.into_iter().find(|other| other.dlq() == Some(on)).map(Which::name);
            assert_eq!(source, expected_source.filter(|_| expected.came_by_dlq));
            self.unanswered.push(message.receipt);
        }
        if let Some(name) = attempt.filter(|_| !taken.is_empty()) {
            let handed = taken.iter().map(|taken| (taken.receipt.message, taken.receive_count, due_ms)).collect();
            let at_ms = again.and(self.model.attempts.get(&name)).map_or(now_ms, |attempt| attempt.at_ms);
            self.model.attempts.insert(name, Attempt { at_ms, handed });
        }
        self.tick(); // a visibility of 0 ends at once
    }

    fn receipt(&self, from_newest: usize) -> Option<Receipt> {
        let at = (self.receipts.len().checked_sub(1)?).checked_sub(from_newest % self.receipts.len())?;
        self.receipts.get(at).copied()
    }

    fn delete(&mut self, receipt: Receipt) {
        let on = self.which(receipt.queue);
        let queue = self.queue(on);
        let deletion = self.decide(|engine, ctx| engine.delete(ctx, &queue, &receipt));
        let newest = |message: &Expected| message.receives == receipt.receives && !message.void;
        let expected = match self.model.find(on, receipt.message) {
            None => Some(Deletion::Absent),
            Some(message) if on.is_fifo() => (newest(message) && message.in_flight).then_some(Deletion::Done),
            Some(message) if newest(message) => Some(Deletion::Done),
            Some(_) => Some(Deletion::Stale),
        };
        match expected {
            Some(expected) => assert_eq!(deletion.unwrap(), expected),
            None => assert!(matches!(deletion, Err(QueueError::ReceiptExpired))),
        }
        if expected == Some(Deletion::Done) {
            self.model.messages.retain(|message| message.id != receipt.message);
        }
    }

    fn change_visibility(&mut self, receipt: Receipt, visibility_s: u32) {
        let on = self.which(receipt.queue);
        let queue = self.queue(on);
        let changed = self.decide(|engine, ctx| engine.change_visibility(ctx, &queue, &receipt, visibility_s));
        let now_ms = self.now_ms;
        match self.model.find(on, receipt.message) {
            Some(message) if message.receives == receipt.receives && !message.void => {
                if !message.in_flight {
                    assert!(matches!(changed, Err(QueueError::NotInFlight)));
                } else if visibility_s == 0 {
                    self.model.come_back(receipt.message);
                } else {
                    message.due_ms = now_ms + u64::from(visibility_s) * 1000;
                }
            }
            _ => assert!(matches!(changed, Err(QueueError::NoSuchMessage { .. }))),
        }
    }

    fn act(&mut self, message: usize, action: Action) {
        let message = message % self.model.messages.len().max(1);
        let Some(before) = self.model.messages.get(message).cloned() else { return };
        let queue = self.queue(before.on).id;
        self.decide(|engine, ctx| engine.act(ctx, queue, before.id, action));
        let due_ms = |delay_s: u32| self.now_ms + u64::from(delay_s) * 1000;
        match action {
            Action::Delete => {
                self.model.messages.remove(message);
            }
            Action::DeadLetter if before.on.dlq().is_none() => {
                self.model.messages.remove(message);
            }
            Action::DeadLetter => self.model.dead_letter(before.id),
            Action::Release { .. } if before.is_worn() => self.model.dead_letter(before.id),
            Action::Release { delay_s } => {
                let due_ms = due_ms(delay_s);
                let message = &mut self.model.messages[message];
                (message.due_ms, message.in_flight, message.void) = (due_ms, false, true);
            }
            Action::Return => self.model.bring_back(before.id),
        }
    }

    pub(super) fn run(&mut self, step: &Step) {
        match step {
            Step::Send { delay_s, group } => self.send(Which::Main, *delay_s, *group, None),
            Step::SendFifo { group, deduplication } => self.send(Which::Fifo, 0, Some(*group), *deduplication),
            Step::Receive { on, messages, visibility_s, attempt } => {
                self.receive(*on, *messages, *visibility_s, *attempt);
            }
            Step::Delete { receipt } => {
                if let Some(receipt) = self.receipt(*receipt) {
                    self.delete(receipt);
                }
            }
            Step::ChangeVisibility { receipt, visibility_s } => {
                if let Some(receipt) = self.receipt(*receipt) {
                    self.change_visibility(receipt, *visibility_s);
                }
            }
            Step::Extend { message, visibility_s } => {
                let Some(expected) = self.model.messages.get(*message % self.model.messages.len().max(1)).cloned()
                else {
                    return;
                };
                let message = message % self.model.messages.len();
                let queue = self.queue(expected.on).id;
                let extended = self.decide(|engine, ctx| engine.extend(ctx, queue, expected.id, *visibility_s));
                assert_eq!(extended, expected.in_flight);
                if extended {
                    self.model.messages[message].due_ms = self.now_ms + u64::from(*visibility_s) * 1000;
                }
            }
            Step::Act { message, action } => self.act(*message, *action),
            Step::Purge { on } => {
                let queue = self.queue(*on).id;
                assert!(self.decide(|engine, ctx| engine.purge(ctx, queue)).is_some());
                self.model.messages.retain(|message| message.on != *on);
            }
            Step::Advance { ms } => {
                self.now_ms += ms;
                self.tick();
            }
            Step::Sync => self.sync(),
            Step::Crash { kept } => self.crash(*kept),
            Step::Compact => self.compact(),
        }
        self.history.push((self.end, self.model.clone()));
        self.compare();
    }

    pub(super) fn compare(&self) {
        for on in Which::ALL {
            let mut expected = Counts::default();
            for message in self.model.messages.iter().filter(|message| message.on == on) {
                *match () {
                    () if !message.published => &mut expected.pending,
                    () if message.in_flight => &mut expected.in_flight,
                    () if message.due_ms > self.now_ms => &mut expected.delayed,
                    () => &mut expected.ready,
                } += 1;
            }
            let queue = self.queue(on).id;
            assert_eq!(self.engine.counts(queue), expected, "on {}: {:#?}", on.name(), self.model);
            if on.is_fifo() {
                let everything = self.model.receivable(on, self.now_ms, usize::MAX);
                let group_of = |id: &MessageId| self.model.messages.iter().find(|m| m.id == *id).unwrap().group;
                let groups: BTreeSet<_> = everything.iter().map(group_of).collect();
                assert_eq!(self.engine.offers(queue), groups.len(), "on {}: {:#?}", on.name(), self.model);
            }
        }
    }
}
