//! A worker that runs the workflows of an existing MySQL orchestrator exactly as recorded, in as
//! many replicas as one likes, through crashes. The README says how it is used; this page says
//! where things are, what always holds, and how three stories go through the code.
//!
//! # The map
//!
//! Modules stand on floors. A module uses those below it and itself; two on one floor do not know
//! each other. `tests/it/architecture.rs` reads every path in the sources and holds them to it.
//!
//! | floor | module | what it is |
//! |---|---|---|
//! | 7 | [`cli`] | the commands, what they print, and their exit codes |
//! | 6 | [`app`] | puts a process together; the only one that names a concrete store or runner |
//! | 5 | [`conformance`] | what a lock provider promises, as a test that anybody can run |
//! | 5 | [`config`] | defaults, file, environment and flags, into one checked [`Config`](config::Config) |
//! | 4 | [`orchestrator`] | the library of the lock guide: locks, and executions by one's own program |
//! | 3 | [`telemetry`] | logs and spans |
//! | 3 | [`signals`] | the first signal drains, the second aborts |
//! | 3 | [`admin`] | probes and metrics over HTTP |
//! | 2 | [`worker`] | the loops: look for work, drive it, renew leases, watch others, go away |
//! | 2 | [`adapters`] | SQLite, MySQL, lock servers, the Kubernetes API and the runners of steps; blind to the worker, as it is to them |
//! | 1 | [`ports`] | what the worker asks of the world, in the domain's types |
//! | 1 | [`instruments`] | every metric by name |
//! | 1 | [`clock`] | the one clock that a local deadline is read from |
//! | 0 | [`domain`] | decisions, as functions from values to values |
//!
//! A newcomer reads [`Worker::run`](worker::Worker::run) first, then
//! [`plan`](domain::plan::plan), then [`ExecutionStore`](ports::executions::ExecutionStore).
//!
//! What is told of an execution as one trace is decided in `worker/spans.rs` and leaves the process by
//! [`SpanSink`](ports::spans::SpanSink).
//!
//! # What always holds
//!
//! - *Decide, then act.* Whether a row may run, what an execution does next, when a lease ends and
//!   whose execution is taken over are decided in [`domain`], which does no I/O and reads no clock.
//! - *A lease says who should work, a fence whose writes count.* Every write names the
//!   [`Fence`](domain::id::Fence) of its claim in the very row that it changes. A write by somebody
//!   whose claim was superseded matches no row.
//! - *Times of two machines are never compared.* The store's clock says what is due. Everything
//!   else is an age on one's own monotonic clock, so that a clock that jumps loses no lease.
//! - *A start is recorded before its effect.* What was recorded as a success never starts again;
//!   what was in flight starts again under the same key.
//! - *Work ends before its lease does.* At the local deadline the worker's watchdog ends the work,
//!   and each script's [`guardian()`] does so by itself, even where the worker is dead or frozen.
//! - *No future of sqlx is dropped before its end* but in [`lane`](adapters::lane), together with
//!   its connection: sqlx would lose writes that were acknowledged.
//! - *Every task has an owner* and is gone when its owner is.
//!
//! # A claim
//!
//! [`Poller::pause`](worker::poller::Poller::pause) says when to look. The claim loop then asks for
//! as many executions as there are free slots with
//! [`ExecutionStore::claim`](ports::executions::ExecutionStore::claim), one transaction: it takes
//! the oldest rows that are due, with their lock rows, stamps them with a new fence, and only then
//! reads their steps. [`intake`](domain::intake::intake) decides on each whether it is admitted,
//! put back for a while, or failed with a reason, and
//! [`Claim::begin`](ports::executions::Claim::begin) plans the first steps, whose starts are
//! committed with the claim.
//!
//! Each lease joins [`Leases`](worker::leases::Leases) with a deadline that
//! [`LeaseTerms::local_deadline`](domain::lease::LeaseTerms::local_deadline) counts from before the
//! request was sent, and [`Keeper::run`](worker::keeper::Keeper::run) renews them all in one
//! statement. [`Driver::drive`](worker::driver::Driver::drive) drives the execution: it asks
//! [`plan`](domain::plan::plan) what may start, has
//! [`Tries::run`](worker::attempts::Tries::run) run each step until it is final (every attempt is
//! one [`StepRunner::run`](ports::runner::StepRunner::run)), and hands what happened to
//! [`Recorder::record`](worker::recorder::Recorder::record), which answers once
//! [`ExecutionStore::advance`](ports::executions::ExecutionStore::advance) has committed it. Only
//! then does the driver go on.
//!
//! # A takeover
//!
//! A worker is killed. Its guardians see their pipes end and kill what they guard; nobody renews
//! its leases. Every other worker asks at each poll what is held, with
//! [`ExecutionStore::survey`](ports::executions::ExecutionStore::survey), and
//! [`Observations::observe`](domain::recovery::Observations::observe) remembers since when each
//! lease has stood unchanged. What stood still for its whole time is due, and goes to
//! [`ExecutionStore::take_over`](ports::executions::ExecutionStore::take_over): one transaction
//! that begins with the rows being as they were seen, so that of two workers one gets nothing. It
//! stamps a larger fence, closes the attempts of the dead worker as lost, and plans as a claim
//! does: a step in flight runs again under the same
//! [`idempotency_key`](domain::key::idempotency_key), unless its
//! [`Resume`](domain::step::Resume) says that it must not. If the former worker was only frozen
//! and wakes, [`Standing::may_act`](worker::leases::Standing::may_act) tells it to stop, and a
//! write that is under way already matches no row.
//!
//! # A drain
//!
//! [`Signals::obey`](signals::Signals::obey) turns the first SIGTERM into a wish, and
//! [`Drain::follow`](worker::drain::Drain::follow) into moments: nothing new is claimed or
//! started, [`Health::ready`](worker::health::Health::ready) says why, and running steps may go on
//! for [`patience`](domain::drain_contract::patience). What still runs then is stopped. A driver whose
//! steps have all ended returns [`Driven::Drained`](worker::driver::Driven::Drained), and its execution
//! is handed back by [`ExecutionStore::hand_back`](ports::executions::ExecutionStore::hand_back):
//! it stays `running`, is nobody's, and the next survey of any worker takes it at once. A second
//! signal kills what runs and waits for nothing. At the end the admin port closes and
//! [`Telemetry::finish`](telemetry::Telemetry::finish) sends the last spans, for a few seconds at
//! most.

pub mod adapters;
#[cfg(feature = "daemon")]
pub mod admin;
#[cfg(feature = "daemon")]
pub mod app;
#[cfg(feature = "daemon")]
pub mod cli;
pub mod clock;
#[cfg(feature = "daemon")]
pub mod config;
pub mod conformance;
pub mod domain;
pub mod instruments;
pub mod orchestrator;
pub mod ports;
#[cfg(feature = "daemon")]
pub mod signals;
#[cfg(feature = "daemon")]
pub mod telemetry;
pub mod worker;

pub use adapters::runners::shell::guardian::guardian;
