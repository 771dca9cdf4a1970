//! One job in a slot, as most tests have it.

use backlot_agent::worker::Held;
use backlot_agent::worker::charge::Member;
use backlot_agent::worker::manifest::Program;
use backlot_agent::worker::process::{Orders, Verdict};
use backlot_agent::worker::protocol::{Said, Task};
use backlot_wire::Limits;
use tokio::sync::watch;
use tracing::Span;

pub(crate) async fn run_one(
    slot: &mut Held,
    program: &Program,
    task: &Task,
    limits: &Limits,
    orders: watch::Receiver<Orders>,
    heard: &mut (dyn FnMut(Said) + Send),
) -> Verdict {
    let mut end = None;
    let mut ended = |verdict| assert!(end.replace(verdict).is_none(), "it has ended twice");
    let member = Member { task, limits, orders, span: Span::none(), heard, ended: &mut ended };
    slot.run(program, &[], vec![member]).await;
    end.unwrap()
}
