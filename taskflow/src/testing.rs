//! The harness that proves a flow: it runs it to the end, fails it at every task and crashes
//! it before and after every effect, forward and backward, and asks the caller each time
//! whether the world is as it must be.
//!
//! ```ignore
//! taskflow::testing::exhaust::<CreateVolume, _>(|| World::with_flow()).await;
//! ```
//!
//! Each scenario gets a fresh [`Fixture`]. A task with [`Retry::Forever`] cannot fail a flow: a
//! failure there must still end in [`Fixture::assert_done`]. Pauses between attempts are left
//! out. A scenario that goes wrong panics, after naming itself on stderr.

#![allow(clippy::unwrap_used, clippy::expect_used)] // A harness for tests: a panic is its verdict.

use std::collections::HashMap;
use std::fmt;
use std::marker::PhantomData;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use async_trait::async_trait;
use database::Database;
use futures_util::FutureExt;
use uuid::Uuid;

use crate::claim::{self, Claimer};
use crate::machine::{Environment, Kind, KindOf, Point, Probe, Stop, Strike};
use crate::{Flow, Retry, TaskError, show, state};

/// More resumptions than any scenario needs; a flow that needs them never ends.
const MOST_RESUMPTIONS: usize = 100;

/// One fresh world for one scenario: a migrated database, the flow's context, and the flow,
/// inserted and not started.
#[async_trait]
pub trait Fixture<F: Flow>: Send + Sync {
    fn database(&self) -> &Database;
    fn context(&self) -> Arc<F::Context>;
    fn flow_id(&self) -> Uuid;
    /// Called after each simulated crash, before the flow is resumed: the place to reopen a
    /// store and to make a new context.
    async fn restart(&mut self) {}
    /// Panics unless everything is as asked, and nothing else is there.
    async fn assert_done(&self);
    /// Panics unless everything is as before (or in its error status), and nothing else is
    /// there.
    async fn assert_reverted(&self);
}

/// Runs every scenario of [`scenarios`] on a fixture of its own.
pub async fn exhaust<F: Flow, X: Fixture<F>>(make: impl AsyncFn() -> X) {
    let first = make().await;
    let tasks = tasks_of::<F>(first.database(), first.flow_id()).await;
    play_named(first, &Scenario::ends(state::SUCCESS, [])).await;
    for scenario in scenarios(&tasks) {
        play_named(make().await, &scenario).await;
    }
}

/// Runs one flow to its end as a worker would, without pauses between attempts; returns the
/// final state: `SUCCESS`, `REVERTED`, or a parked one. For tests of what follows a flow.
pub async fn run_to_end<F: Flow>(
    database: &Database,
    context: Arc<F::Context>,
    flow_id: Uuid,
) -> &'static str {
    let probe = Arc::new(Script::default());
    for _ in 0..MOST_RESUMPTIONS {
        match drive::<F>(database, context.clone(), flow_id, probe.clone()).await {
            Stop::Released => {}
            Stop::Ended | Stop::Parked => return state_of(database, flow_id).await,
            stop => panic!("flow {flow_id} stopped: {stop:?}"),
        }
    }
    panic!("flow {flow_id} does not end")
}

/// A task as far as scenarios need it.
struct TaskTraits {
    name: &'static str,
    retry: Retry,
}

/// One fault: what happens at a point of a task, and how often.
struct Fault {
    task: &'static str,
    point: Point,
    fails: Option<TaskError>,
    left: AtomicU32,
    struck: AtomicBool,
}

impl Fault {
    fn crash(task: &'static str, point: Point) -> Self {
        let (left, struck) = (AtomicU32::new(1), AtomicBool::new(false));
        Fault {
            task,
            point,
            fails: None,
            left,
            struck,
        }
    }

    fn fail(task: &'static str, point: Point, error: TaskError, times: u32) -> Self {
        let fails = Some(error);
        Fault {
            fails,
            left: AtomicU32::new(times),
            ..Fault::crash(task, point)
        }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let what = if self.fails.is_some() {
            "failure"
        } else {
            "crash"
        };
        write!(f, "{what} at {:?} of {}", self.point, self.task)
    }
}

/// The faults of one scenario and the end it must come to.
struct Scenario {
    script: Arc<Script>,
    end: &'static str,
}

impl Scenario {
    fn ends(end: &'static str, faults: impl IntoIterator<Item = Fault>) -> Self {
        Scenario {
            script: Arc::new(Script {
                faults: faults.into_iter().collect(),
            }),
            end,
        }
    }
}

impl fmt::Display for Scenario {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let faults: Vec<_> = self.script.faults.iter().map(Fault::to_string).collect();
        f.write_str(if faults.is_empty() { "no fault" } else { "" })?;
        f.write_str(&faults.join(", then "))
    }
}

/// Every point of a task on the way forward, and on the way back.
const FORWARD: [Point; 4] = [
    Point::BeforeExecute,
    Point::AfterExecute,
    Point::Recorded,
    Point::Committed,
];
const BACKWARD: [Point; 4] = [
    Point::BeforeRevert,
    Point::AfterRevert,
    Point::RevertRecorded,
    Point::RevertCommitted,
];

/// All scenarios with faults: each task runs twice; a crash at each point; a failure at each
/// point; and for each failing task a crash and a failure at each point of each revert.
fn scenarios(tasks: &[TaskTraits]) -> Vec<Scenario> {
    let mut all = Vec::new();
    let twice = tasks
        .iter()
        .map(|task| Fault::crash(task.name, Point::AfterExecute));
    all.push(Scenario::ends(state::SUCCESS, twice));
    for (position, task) in tasks.iter().enumerate() {
        for point in FORWARD {
            all.push(Scenario::ends(
                state::SUCCESS,
                [Fault::crash(task.name, point)],
            ));
            if point != Point::Committed {
                all.extend(failures(task, point));
            }
        }
        if !matches!(task.retry, Retry::Forever { .. }) {
            all.extend(disturbed_reverts(&tasks[..=position]));
        }
    }
    all
}

/// The task fails at `point`: for good, and where its policy allows, once.
fn failures(task: &TaskTraits, point: Point) -> Vec<Scenario> {
    let passing = || TaskError::retryable("Injected", "a failure that passes");
    let once = || {
        Scenario::ends(
            state::SUCCESS,
            [Fault::fail(task.name, point, passing(), 1)],
        )
    };
    match task.retry {
        Retry::Forever { .. } => vec![once()],
        Retry::Never => vec![fails_for_good(task.name, point)],
        Retry::Times { .. } => vec![once(), fails_for_good(task.name, point)],
    }
}

fn injected(task: &'static str, point: Point) -> Fault {
    Fault::fail(
        task,
        point,
        TaskError::new("Injected", "a failure that stays"),
        u32::MAX,
    )
}

fn fails_for_good(task: &'static str, point: Point) -> Scenario {
    Scenario::ends(state::REVERTED, [injected(task, point)])
}

/// The last of `tasks` fails with its effect made, and each revert is crashed and failed once.
fn disturbed_reverts(tasks: &[TaskTraits]) -> Vec<Scenario> {
    let Some(failing) = tasks.last() else {
        return Vec::new();
    };
    let mut all = Vec::new();
    for task in tasks {
        for point in BACKWARD {
            let cause = || injected(failing.name, Point::AfterExecute);
            let crash = Fault::crash(task.name, point);
            all.push(Scenario::ends(state::REVERTED, [cause(), crash]));
            if point != Point::RevertCommitted {
                let error = TaskError::new("Injected", "a revert that fails once");
                let fail = Fault::fail(task.name, point, error, 1);
                all.push(Scenario::ends(state::REVERTED, [cause(), fail]));
            }
        }
    }
    all
}

/// The faults as the engine meets them.
#[derive(Default)]
struct Script {
    faults: Vec<Fault>,
}

impl Probe for Script {
    fn strike(&self, point: Point, task: &str) -> Strike {
        let due = |fault: &&Fault| {
            fault.point == point && fault.task == task && fault.left.load(Ordering::Relaxed) > 0
        };
        let Some(fault) = self.faults.iter().find(due) else {
            return Strike::Nothing;
        };
        fault.left.fetch_sub(1, Ordering::Relaxed);
        fault.struck.store(true, Ordering::Relaxed);
        fault.fails.clone().map_or(Strike::Crash, Strike::Fail)
    }
}

async fn play_named<F: Flow, X: Fixture<F>>(mut fixture: X, scenario: &Scenario) {
    let played = AssertUnwindSafe(play::<F, X>(&mut fixture, scenario))
        .catch_unwind()
        .await;
    if let Err(payload) = played {
        eprintln!(
            "flow {}: the scenario that went wrong is: {scenario}",
            F::KIND
        );
        std::panic::resume_unwind(payload);
    }
}

async fn play<F: Flow, X: Fixture<F>>(fixture: &mut X, scenario: &Scenario) {
    let script = &scenario.script;
    let id = fixture.flow_id();
    for resumption in 0.. {
        assert!(resumption < MOST_RESUMPTIONS, "the flow does not end");
        let context = fixture.context();
        match drive::<F>(fixture.database(), context, id, script.clone()).await {
            Stop::Crashed => fixture.restart().await,
            Stop::Released => {}
            Stop::Ended => break,
            stop => panic!(
                "the flow stopped: {stop:?}: {:?}",
                show(fixture.database(), id).await
            ),
        }
    }
    let unmet = script
        .faults
        .iter()
        .find(|fault| !fault.struck.load(Ordering::Relaxed));
    assert!(
        unmet.is_none(),
        "the flow never came to: {}",
        unmet.unwrap()
    );
    let detail = show(fixture.database(), id).await.unwrap();
    let ended = &detail.summary.state;
    assert_eq!(
        ended, scenario.end,
        "the flow ended wrongly: {:?}",
        detail.summary.failure
    );
    assert!(
        detail.locks.is_empty(),
        "the flow still holds {:?}",
        detail.locks
    );
    match scenario.end {
        state::SUCCESS => fixture.assert_done().await,
        _ => fixture.assert_reverted().await,
    }
}

/// Claims the flow, whoever had it, and runs it until it stops: a process that restarted.
async fn drive<F: Flow>(
    database: &Database,
    context: Arc<F::Context>,
    id: Uuid,
    probe: Arc<Script>,
) -> Stop {
    let lease_us = 3_600_000_000;
    let kind: Box<dyn Kind<F::Context>> = Box::new(KindOf::<F>(PhantomData));
    let claimer = Claimer {
        database: database.clone(),
        context,
        kinds: HashMap::from([(F::KIND, kind)]),
        owner: "harness".to_owned(),
        lease_us,
        stopping: Arc::new(AtomicBool::new(false)),
        witness: None,
    };
    let Some(found) = claim::by_id(database, id).await.unwrap() else {
        // The crash came after the commit that ended it, or it was parked before.
        let ended = show(database, id)
            .await
            .unwrap()
            .summary
            .finished_at
            .is_some();
        return if ended { Stop::Ended } else { Stop::Parked };
    };
    let claimed = claimer.take(vec![found], true).await.unwrap().pop();
    let Some(claimed) = claimed else {
        return Stop::Parked;
    };
    let (database, listeners) = (database.clone(), Arc::from([]));
    let environment = Environment {
        database,
        lease_us,
        listeners,
        witness: None,
        probe: Some(probe),
    };
    claimed.machine.drive(claimed.claim, environment).await
}

async fn tasks_of<F: Flow>(database: &Database, id: Uuid) -> Vec<TaskTraits> {
    let params = show(database, id).await.unwrap().params;
    let params = serde_json::from_str(&params).expect("the flow's parameters");
    let tasks = F::tasks(&params);
    tasks
        .iter()
        .map(|task| TaskTraits {
            name: task.0.name(),
            retry: task.0.retry(),
        })
        .collect()
}

async fn state_of(database: &Database, id: Uuid) -> &'static str {
    let ended = show(database, id).await.unwrap().summary.state;
    let states = [
        state::SUCCESS,
        state::REVERTED,
        state::REVERT_FAILURE,
        state::FAILURE,
    ];
    states
        .into_iter()
        .find(|state| *state == ended)
        .expect("an end state")
}
