//! What a worker owes: a job, or several that it computes together, each with its own words, orders, limits and end.
//!
//! A [`Charge`] is *open* until it has its one end. What a job means for another one of the same worker is decided here too: alone, a
//! job that has to end is asked to and the worker is killed when it does not; in company it is let go at once and the worker is told,
//! which drops it at its next step: nobody else's work is thrown away for it. When a worker dies in company, nobody knows whose fault
//! it was: each job goes back without a failure, and is computed alone the next time.

use std::future::poll_fn;
use std::task::Poll;
use std::time::Duration;

use backlot_wire::{FailureClass, Limits, cause};
use tokio::sync::watch;
use tokio::time::Instant;
use tracing::Span;

use super::process::{Orders, Stop, Verdict, is_out_of_memory};
use super::protocol::{Announced, OUTPUTS_MAX, Said, Task};

/// Most lines of one job: ten a second for five days.
const LINES_MAX: u64 = 5_000_000;

/// One job for a worker, and who hears of it.
pub struct Member<'a> {
    pub task: &'a Task,
    pub limits: &'a Limits,
    pub orders: watch::Receiver<Orders>,
    /// What the worker writes on standard error becomes records in it.
    pub span: Span,
    /// Told of phases, percentages, previews and GPU seconds as they come.
    pub heard: &'a mut (dyn FnMut(Said) + Send),
    /// Told once, when the job has ended; others may go on.
    pub ended: &'a mut (dyn FnMut(Verdict) + Send),
}

/// Why a worker was asked to end a job.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ask {
    Stop(Stop),
    SoftLimit(u64),
}

impl Ask {
    pub(super) fn reason(self) -> &'static str {
        match self {
            Self::Stop(Stop::Cancelled) => "cancelled",
            Self::Stop(Stop::Superseded) => "superseded",
            Self::Stop(Stop::Drained) => "drain",
            Self::Stop(Stop::LeaseLost) => "lease lost",
            Self::SoftLimit(_) => "soft limit",
        }
    }

    fn verdict(self) -> Verdict {
        match self {
            Self::Stop(stop) => Verdict::Stopped(stop),
            Self::SoftLimit(soft_s) => {
                Verdict::failed_by(cause::TIMEOUT, format!("was over its soft limit of {soft_s} s"))
            }
        }
    }
}

/// What is due for a job by its orders and by time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Due {
    Ask(Ask),
    /// It was asked and its grace is over.
    Kill,
    HardLimit(u64),
}

/// One job in a worker's hands.
pub(super) struct Charge<'a> {
    pub(super) member: Member<'a>,
    outputs: Vec<Announced>,
    lines: u64,
    /// Why, and until when it may take.
    asked: Option<(Ask, Instant)>,
    /// Somebody can still give orders.
    ordered: bool,
    open: bool,
}

/// What the ends of the jobs of one run say of their worker.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Account {
    /// Jobs that have their result.
    pub done: usize,
    /// Jobs that have not, and were not stopped.
    pub failed: usize,
    /// The last one's reason.
    pub message: String,
}

/// All jobs of one run of a worker.
pub(super) struct Charges<'a> {
    all: Vec<Charge<'a>>,
    began: Instant,
    hard_limit_s: u64,
    pub(super) account: Account,
}

impl<'a> Charges<'a> {
    /// `hard_limit_s`: of those that set none.
    pub(super) fn new(members: Vec<Member<'a>>, hard_limit_s: u64) -> Self {
        let charge = |member| Charge { member, outputs: Vec::new(), lines: 0, asked: None, ordered: true, open: true };
        let all = members.into_iter().map(charge).collect();
        Self { all, began: Instant::now(), hard_limit_s, account: Account::default() }
    }

    /// From now on their time counts.
    pub(super) fn begin(&mut self) {
        self.began = Instant::now();
    }

    /// The numbers of those that have not ended.
    pub(super) fn open(&self) -> Vec<usize> {
        (0..self.all.len()).filter(|number| self.all[*number].open).collect()
    }

    pub(super) fn is_over(&self) -> bool {
        self.all.iter().all(|charge| !charge.open)
    }

    /// Whether the worker has several to do at this moment.
    pub(super) fn in_company(&self) -> bool {
        self.all.iter().filter(|charge| charge.open).count() > 1
    }

    /// Whether it was begun with several, so that its lines say of which they are.
    pub(super) fn is_batch(&self) -> bool {
        self.all.len() > 1
    }

    pub(super) fn task(&self, number: usize) -> &'a Task {
        self.all[number].member.task
    }

    pub(super) fn tasks(&self) -> Vec<Task> {
        self.open().into_iter().map(|number| self.task(number).clone()).collect()
    }

    pub(super) fn owners(&self) -> impl Iterator<Item = (&str, &str, Span)> {
        let of = |charge: &'_ Charge<'a>| {
            (charge.member.task.id.as_str(), charge.member.task.attempt.as_str(), charge.member.span.clone())
        };
        self.all.iter().map(of)
    }

    /// The first thing that is due, and whose it is.
    pub(super) fn due(&mut self, now: Instant) -> Option<(usize, Due)> {
        let (began, hard_limit_s) = (self.began, self.hard_limit_s);
        let mut open = self.all.iter_mut().enumerate().filter(|(_, charge)| charge.open);
        open.find_map(|(number, charge)| Some((number, charge.due(now, began, hard_limit_s)?)))
    }

    /// When something is due by time alone.
    pub(super) fn next_at(&mut self) -> Option<Instant> {
        let (began, hard_limit_s) = (self.began, self.hard_limit_s);
        let open = self.all.iter_mut().filter(|charge| charge.open);
        open.filter_map(|charge| charge.times(began, hard_limit_s).into_iter().flatten().min()).min()
    }

    /// A worker was asked to end this one, and has until then.
    pub(super) fn asked(&mut self, number: usize, ask: Ask, until: Instant) {
        self.all[number].asked = Some((ask, until));
    }

    /// Ends one for this reason, in company: the worker is told, and not waited for.
    pub(super) fn let_go(&mut self, number: usize, ask: Ask) {
        self.end(number, ask.verdict());
    }

    /// Takes a line that was said of this one. An error is a breach of the protocol.
    pub(super) fn hear(&mut self, number: usize, said: Said) -> Result<Heard, String> {
        let charge = &mut self.all[number];
        if !charge.open {
            // It was let go, and the worker had not heard of that.
            return Ok(Heard::On);
        }
        if charge.lines >= LINES_MAX {
            return Err(format!("wrote more than {LINES_MAX} lines"));
        }
        charge.lines += 1;
        match said {
            Said::Done => {
                let outputs = std::mem::take(&mut charge.outputs);
                self.end(number, Verdict::Done(outputs));
                Ok(Heard::Ended { ends: false })
            }
            Said::Error { message, permanent, ends, mut details } => {
                if !details.contains_key(cause::KEY) && is_out_of_memory(&message) {
                    details.insert(cause::KEY.into(), cause::OUT_OF_MEMORY.into());
                }
                let class = if permanent { FailureClass::Permanent } else { FailureClass::Transient };
                self.end(number, Verdict::Failed { class, message, details });
                Ok(Heard::Ended { ends })
            }
            Said::Output(_) if charge.outputs.len() >= OUTPUTS_MAX => {
                Err(format!("announced more than {OUTPUTS_MAX} outputs"))
            }
            Said::Output(output) => {
                charge.outputs.push(output);
                Ok(Heard::On)
            }
            said => {
                (charge.member.heard)(said);
                Ok(Heard::On)
            }
        }
    }

    /// Which of them is the attempt `of`.
    pub(super) fn number_of(&self, of: &str) -> Option<usize> {
        self.all.iter().position(|charge| charge.member.task.attempt == of)
    }

    /// A program that is not kept has exited in order: what it has announced is its result.
    pub(super) fn exited_in_order(&mut self) {
        for number in self.open() {
            let outputs = std::mem::take(&mut self.all[number].outputs);
            self.end(number, Verdict::Done(outputs));
        }
    }

    /// The worker has ended with this verdict. Alone, a job has it; of several it is the reason why they go back.
    pub(super) fn end_all(&mut self, verdict: Verdict) {
        let company = self.in_company();
        for number in self.open() {
            let verdict = match &verdict {
                Verdict::Failed { message, .. } if company => Verdict::Returned(format!(
                    "{message}; it had {} jobs, and this one is computed alone the next time",
                    self.all.len()
                )),
                other => other.clone(),
            };
            self.end(number, verdict);
        }
    }

    /// Ends one. What it means depends on whether it was asked to end: a job that was done all the same counts, unless nobody wants it.
    pub(super) fn end(&mut self, number: usize, verdict: Verdict) {
        let charge = &mut self.all[number];
        if !std::mem::replace(&mut charge.open, false) {
            return;
        }
        let verdict = match (charge.asked, &verdict) {
            (None, _) | (Some((Ask::SoftLimit(_) | Ask::Stop(Stop::Drained), _)), Verdict::Done(_)) => verdict,
            (Some((ask, _)), _) => ask.verdict(),
        };
        match &verdict {
            Verdict::Done(_) => self.account.done += 1,
            Verdict::Failed { message, .. } | Verdict::Returned(message) => {
                self.account.failed += 1;
                self.account.message.clone_from(message);
            }
            Verdict::Stopped(_) => {}
        }
        (charge.member.ended)(verdict);
    }

    /// Resolves when orders of one of those that are open change.
    pub(super) async fn reordered(&mut self) {
        let open = self.all.iter_mut().filter(|charge| charge.open);
        any_changes(open.map(|charge| (&mut charge.member.orders, &mut charge.ordered))).await;
    }
}

/// Resolves when one of these orders changes. The flag of each says whether anybody can still change them.
pub(super) async fn any_changes<'o>(all: impl Iterator<Item = (&'o mut watch::Receiver<Orders>, &'o mut bool)> + Send) {
    let mut changes: Vec<_> = all
        .filter(|(_, ordered)| **ordered)
        .map(|(orders, ordered)| Box::pin(async move { *ordered = orders.changed().await.is_ok() }))
        .collect();
    poll_fn(|context| {
        let ready = changes.iter_mut().any(|change| change.as_mut().poll(context).is_ready());
        if ready { Poll::Ready(()) } else { Poll::Pending }
    })
    .await;
}

/// What a line came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Heard {
    On,
    /// That job has ended; `ends`: and the worker ends as well.
    Ended {
        ends: bool,
    },
}

impl Charge<'_> {
    fn due(&mut self, now: Instant, began: Instant, hard_limit_s: u64) -> Option<Due> {
        let stop = self.member.orders.borrow_and_update().stop;
        if let (None, Some(stop)) = (&self.asked, stop) {
            return Some(Due::Ask(Ask::Stop(stop)));
        }
        let [kill_at, hard_at, soft_at] = self.times(began, hard_limit_s).map(|at| at.is_some_and(|at| now >= at));
        let limits = self.limits();
        match () {
            () if kill_at => Some(Due::Kill),
            () if hard_at => Some(Due::HardLimit(limits.hard_s.unwrap_or(hard_limit_s))),
            () if soft_at => Some(Due::Ask(Ask::SoftLimit(limits.soft_s.unwrap_or_default()))),
            () => None,
        }
    }

    fn limits(&self) -> Limits {
        self.member.orders.borrow().limits.clone().unwrap_or_else(|| self.member.limits.clone())
    }

    /// When it is killed, over its hard limit, and over its soft limit.
    fn times(&self, began: Instant, hard_limit_s: u64) -> [Option<Instant>; 3] {
        let limits = self.limits();
        let hard_at = began + Duration::from_secs(limits.hard_s.unwrap_or(hard_limit_s));
        let soft_at = limits.soft_s.map(|s| began + Duration::from_secs(s)).filter(|_| self.asked.is_none());
        [self.asked.map(|(_, at)| at), Some(hard_at), soft_at]
    }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use proptest::prelude::*;

    use super::*;

    fn task(number: usize) -> Task {
        let text = format!(r#"{{"id":"j{number}","attempt":"j{number}.1","type":"x","inputs":[],"output_dir":"/"}}"#);
        serde_json::from_str(&text).unwrap()
    }

    fn output(name: &str) -> Announced {
        Announced { name: name.into(), content_type: None, width: None, height: None, extra: Default::default() }
    }

    fn failed(message: &str) -> Verdict {
        Verdict::failed(FailureClass::Transient, message)
    }

    /// What one member was told, and who gives its orders.
    #[derive(Default)]
    struct Ear {
        percents: Vec<f32>,
        ends: Vec<Verdict>,
    }

    /// Plays `play` with the charges of `count` jobs, and says what each was told.
    fn with(count: usize, play: impl FnOnce(&mut Charges<'_>, &[watch::Sender<Orders>])) -> Vec<Ear> {
        let tasks: Vec<Task> = (0..count).map(task).collect();
        let limits = Limits::default();
        let orders: Vec<watch::Sender<Orders>> = (0..count).map(|_| watch::Sender::default()).collect();
        let ears: Vec<parking_lot::Mutex<Ear>> = (0..count).map(|_| Default::default()).collect();
        let mut heard: Vec<_> = ears
            .iter()
            .map(|ear| {
                move |said| {
                    if let Said::Percent(percent) = said {
                        ear.lock().percents.push(percent);
                    }
                }
            })
            .collect();
        let mut ended: Vec<_> = ears.iter().map(|ear| move |verdict| ear.lock().ends.push(verdict)).collect();
        let members = tasks.iter().zip(&orders).zip(heard.iter_mut().zip(&mut ended));
        let members = members.map(|((task, orders), (heard, ended))| Member {
            task,
            limits: &limits,
            orders: orders.subscribe(),
            span: Span::none(),
            heard,
            ended,
        });
        play(&mut Charges::new(members.collect(), 100), &orders);
        ears.into_iter().map(parking_lot::Mutex::into_inner).collect()
    }

    #[tokio::test]
    async fn in_company_one_that_stops_is_let_go_and_the_last_one_is_asked() {
        let ears = with(2, |charges, orders| {
            let now = Instant::now();
            assert_eq!(charges.due(now), None);
            orders[1].send_replace(Orders { stop: Some(Stop::Cancelled), limits: None });
            let ask = Ask::Stop(Stop::Cancelled);
            assert_eq!(charges.due(now), Some((1, Due::Ask(ask))));
            charges.let_go(1, ask);
            assert!(!charges.in_company() && charges.is_batch() && !charges.is_over());
            // The worker did not know yet.
            assert_eq!(charges.hear(1, Said::Percent(50.0)), Ok(Heard::On));
            assert_eq!(charges.hear(1, Said::Done), Ok(Heard::On));
            orders[0].send_replace(Orders { stop: Some(Stop::Drained), limits: None });
            assert_eq!(charges.due(now), Some((0, Due::Ask(Ask::Stop(Stop::Drained)))));
            charges.asked(0, Ask::Stop(Stop::Drained), now + Duration::from_secs(3));
            assert_eq!((charges.due(now), charges.next_at()), (None, Some(now + Duration::from_secs(3))));
            assert_eq!(charges.due(now + Duration::from_secs(3)), Some((0, Due::Kill)));
            charges.end(0, failed("the worker did not end when asked"));
        });
        assert_eq!(ears[1].ends, [Verdict::Stopped(Stop::Cancelled)]);
        assert_eq!((&*ears[1].percents, &*ears[0].ends), (&[][..], &[Verdict::Stopped(Stop::Drained)][..]));
    }

    #[tokio::test]
    async fn who_is_over_a_limit_ends_and_the_other_goes_on_under_its_own() {
        with(2, |charges, orders| {
            let began = Instant::now();
            charges.begin();
            let limits = Some(Limits { soft_s: Some(5), hard_s: Some(9) });
            orders[0].send_replace(Orders { stop: None, limits });
            let after = |s| began + Duration::from_secs(s);
            assert_eq!(charges.due(after(4)), None);
            assert_eq!(charges.due(after(7)), Some((0, Due::Ask(Ask::SoftLimit(5)))));
            assert_eq!(charges.due(after(20)), Some((0, Due::HardLimit(9))));
            charges.let_go(0, Ask::SoftLimit(5));
            assert_eq!(charges.due(after(20)), None);
            assert_eq!(charges.due(after(101)), Some((1, Due::HardLimit(100))));
            assert_eq!((charges.account.failed, &*charges.account.message), (1, "was over its soft limit of 5 s"));
        });
    }

    #[tokio::test]
    async fn a_death_in_company_is_nobodys_failure_and_alone_it_is() {
        let ears = with(3, |charges, _| {
            charges.hear(0, Said::Done).unwrap();
            charges.end_all(failed("was killed by signal 9"));
        });
        assert_eq!(ears[0].ends, [Verdict::Done(Vec::new())]);
        for ear in &ears[1..] {
            let [Verdict::Returned(reason)] = &*ear.ends else { panic!("{:?}", ear.ends) };
            assert!(reason.contains("signal 9") && reason.contains("3 jobs"), "{reason}");
        }
        let ears = with(2, |charges, _| {
            charges.hear(0, Said::Done).unwrap();
            charges.end_all(failed("was killed by signal 9"));
        });
        assert_eq!(ears[1].ends, [failed("was killed by signal 9")]);
    }

    #[derive(Clone, Debug)]
    enum Event {
        Percent(usize, u8),
        Output(usize, u8),
        Done(usize),
        Error(usize),
        Stop(usize),
        Death,
    }

    fn event() -> impl Strategy<Value = Event> {
        let who = 0..3_usize;
        prop_oneof![
            4 => (who.clone(), any::<u8>()).prop_map(|(who, n)| Event::Percent(who, n)),
            4 => (who.clone(), any::<u8>()).prop_map(|(who, n)| Event::Output(who, n)),
            2 => who.clone().prop_map(Event::Done),
            1 => who.clone().prop_map(Event::Error),
            1 => who.prop_map(Event::Stop),
            1 => Just(Event::Death),
        ]
    }

    proptest! {
        /// Against the plainest model: each job's own events up to its first end.
        #[test]
        fn each_job_hears_its_own_words_and_ends_once(events in prop::collection::vec(event(), 0..40)) {
            let model = RefCell::new(Vec::from([(); 3].map(|()| (Vec::new(), Vec::new(), None))));
            let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
            let _guard = runtime.enter();
            let ears = with(3, |charges, _| {
                let mut model = model.borrow_mut();
                for event in &events {
                    let open: Vec<usize> = (0..3).filter(|number| model[*number].2.is_none()).collect();
                    assert_eq!(charges.open(), open);
                    match *event {
                        Event::Percent(who, n) => {
                            charges.hear(who, Said::Percent(f32::from(n))).unwrap();
                            if open.contains(&who) {
                                model[who].0.push(f32::from(n));
                            }
                        }
                        Event::Output(who, n) => {
                            charges.hear(who, Said::Output(output(&n.to_string()))).unwrap();
                            model[who].1.push(output(&n.to_string()));
                        }
                        Event::Done(who) => {
                            charges.hear(who, Said::Done).unwrap();
                            let made = model[who].1.clone();
                            model[who].2.get_or_insert(Verdict::Done(made));
                        }
                        Event::Error(who) => {
                            let error = Said::Error { message: "e".into(), permanent: true, ends: false, details: Default::default() };
                            charges.hear(who, error).unwrap();
                            model[who].2.get_or_insert(Verdict::failed(FailureClass::Permanent, "e"));
                        }
                        Event::Stop(who) => {
                            let ask = Ask::Stop(Stop::Superseded);
                            if charges.in_company() {
                                charges.let_go(who, ask);
                                model[who].2.get_or_insert(Verdict::Stopped(Stop::Superseded));
                            }
                        }
                        Event::Death => {
                            charges.end_all(failed("dead"));
                            for number in &open {
                                let reason = "dead; it had 3 jobs, and this one is computed alone the next time";
                                model[*number].2 = Some(if open.len() > 1 { Verdict::Returned(reason.into()) } else { failed("dead") });
                            }
                        }
                    }
                }
                assert_eq!(charges.is_over(), model.iter().all(|(_, _, end)| end.is_some()));
            });
            for (ear, (percents, _, end)) in ears.iter().zip(model.into_inner()) {
                prop_assert_eq!(&ear.percents, &percents);
                prop_assert_eq!(&ear.ends, &Vec::from_iter(end));
            }
        }
    }
}
