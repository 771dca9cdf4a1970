//! Who waits for a job: limits that free, moments that pass, queues that are paused.

use std::collections::HashMap;

use super::*;

/// Admits anything; the tenant is the body's first byte, and what it may is what the test says.
#[derive(Default)]
struct Gatekeeper {
    turns: Mutex<HashMap<Tenant, Turn>>,
    /// Messages of one tenant that may be in flight, as the gatekeeper counts them itself.
    limit: Mutex<Option<usize>>,
    in_flight: Mutex<usize>,
}

fn tenant_of(body: &str) -> Tenant {
    Tenant(body.bytes().next().unwrap_or_default().into())
}

impl Overseer for Gatekeeper {
    fn admit(&self, _: Now, _: &str, request: &SendRequest) -> Result<Admission, String> {
        let body = &request.body;
        let tenant = tenant_of(body);
        Ok(Admission::Send(Admitted { body: body.clone(), priority: 5, class: Class(0), tenant, delay_s: 0 }))
    }
    fn classify(&self, body: &str) -> (u8, Class, Tenant) {
        (5, Class(0), tenant_of(body))
    }
    fn fits(&self, _: Option<&str>, _: Class) -> bool {
        true
    }
    fn turn(&self, _: Now, _: &str, tenant: Tenant) -> Turn {
        if self.limit.lock().is_some_and(|limit| *self.in_flight.lock() >= limit) {
            return Turn::AtLimit;
        }
        self.turns.lock().get(&tenant).copied().unwrap_or(Turn::May { rank: 0 })
    }
    fn observe(&self, _: Now, _: &str, change: Change<'_>, _: &mut Vec<Record>) -> Option<Action> {
        match change {
            Change::Received { .. } => *self.in_flight.lock() += 1,
            Change::Deleted { .. } | Change::TimedOut { .. } | Change::Released { .. } => *self.in_flight.lock() -= 1,
            _ => {}
        }
        None
    }
    fn attributes(&self, _: &str, _: &str) -> Vec<(String, String)> {
        Vec::new()
    }
}

async fn open(dir: &Path) -> (House, Arc<Gatekeeper>) {
    let gatekeeper = Arc::new(Gatekeeper::default());
    let overseer: Arc<dyn Overseer> = Arc::<Gatekeeper>::clone(&gatekeeper);
    (House::open_with(dir, Some(overseer)).await, gatekeeper)
}

/// A receive that waits, once it is in line.
async fn waiter(queues: &Queues) -> tokio::task::JoinHandle<Result<Vec<Delivery>, QueueError>> {
    let before = queues.shared.state.lock().waiting.line_lengths();
    let waits = {
        let queues = queues.clone();
        tokio::spawn(async move { queues.receive("jobs", poll(20)).await })
    };
    while queues.shared.state.lock().waiting.line_lengths() == before {
        tokio::task::yield_now().await;
    }
    waits
}

async fn body_of(waits: tokio::task::JoinHandle<Result<Vec<Delivery>, QueueError>>) -> String {
    let got = tokio::time::timeout(PATIENCE, waits).await.unwrap().unwrap().unwrap();
    got.into_iter().next().map(|delivery| delivery.body).unwrap_or_default()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_message_that_leaves_flight_wakes_who_waits_for_the_limit() {
    let dir = tempfile::tempdir().unwrap();
    let (house, gatekeeper) = open(dir.path()).await;
    *gatekeeper.limit.lock() = Some(1);
    for body in ["a1", "b2", "a3"] {
        house.queues.send("jobs", message(body)).await.unwrap();
    }
    let held = house.queues.receive("jobs", poll(0)).await.unwrap().pop().unwrap();
    assert_eq!(held.body, "a1");
    let (first, second) = (waiter(&house.queues).await, waiter(&house.queues).await);
    assert!(house.queues.receive("jobs", poll(0)).await.unwrap().is_empty(), "the limit holds");
    house.queues.delete("jobs", &[held.receipt]).await.unwrap();
    let got = tokio::time::timeout(PATIENCE, first).await.unwrap().unwrap().unwrap().pop().unwrap();
    assert_eq!(got.body, "b2");
    house.queues.change_visibility("jobs", &[(got.receipt, 0)]).await.unwrap();
    assert_eq!(body_of(second).await, "b2", "a release frees it too, and the earlier message is first again");
    house.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_moment_that_passes_and_a_limit_that_is_lifted_wake_who_waits() {
    let dir = tempfile::tempdir().unwrap();
    let (house, gatekeeper) = open(dir.path()).await;
    let soon_ms = house.queues.shared.clock.now().mono_ms + 200;
    gatekeeper.turns.lock().insert(tenant_of("early"), Turn::NotBefore { mono_ms: soon_ms });
    house.queues.send("jobs", message("early")).await.unwrap();
    let waits = waiter(&house.queues).await;
    gatekeeper.turns.lock().clear(); // from `soon_ms` on it may; nothing but the timer says so
    assert_eq!(body_of(waits).await, "early");

    gatekeeper.turns.lock().insert(tenant_of("late"), Turn::AtLimit);
    house.queues.send("jobs", message("late")).await.unwrap();
    let waits = waiter(&house.queues).await;
    gatekeeper.turns.lock().clear();
    house.queues.reconsider();
    assert_eq!(body_of(waits).await, "late");
    house.close().await;
}
