//! What operators ask of the store: put workflows in, submit, look, steer.
//!
//! **Invariant:** of a row that a worker holds nothing is written but its cancellation.

mod apply;
mod doctor;
mod draw;
mod facts;
mod find;
mod locks;
mod look;
mod steer;
mod submit;

use async_trait::async_trait;
use futures_util::future::BoxFuture;
use sqlx::SqliteConnection;

use super::{
    SqliteStore,
    errors::{Failure, Place},
    release, schema,
    session::Opener,
};
use crate::{
    adapters::lane::{Lanes, LanesSettings},
    domain::{
        definition::Definition,
        doctor::{Circumstances, Facts as Examined, Stored},
        explain::Facts,
        id::ExecutionId,
    },
    ports::control::{
        About, Applied, BacklogSummary, Cancelled, Control, ControlError, Drawn, ExecutionDetail,
        ExecutionSummary, Filter, LockFilter, LockRow, MigrationStep, Pausable, PauseChange,
        Paused, Submission, Submitted, WorkerRow,
    },
};

impl SqliteStore {
    async fn command<T: Send + 'static>(
        &self,
        job: impl for<'c> FnOnce(&'c mut SqliteConnection) -> BoxFuture<'c, Result<T, Failure>>
        + Send
        + 'static,
    ) -> Result<T, ControlError> {
        self.job(&self.work, job).await.map_err(|failure| failure.into_control(&self.place))
    }
}

#[async_trait]
impl Control for SqliteStore {
    async fn migrate(&self, dry_run: bool) -> Result<Vec<MigrationStep>, ControlError> {
        let Place::File(path) = &self.place else {
            return self.command(move |c| Box::pin(schema::migrate(c, dry_run))).await;
        };
        if dry_run && self.place.is_missing() {
            return Ok(schema::all_of_it());
        }
        let lanes = Lanes::start(Opener::file(path, !dry_run), LanesSettings::new("migrate", 1));
        let done = self.job(&lanes, move |c| Box::pin(schema::migrate(c, dry_run))).await;
        done.map_err(|failure| failure.into_migration(&self.place))
    }

    async fn guard(&self, _: bool) -> Result<Vec<MigrationStep>, ControlError> {
        Err(ControlError::NoGuard)
    }

    async fn apply(&self, definition: &Definition, about: &About) -> Result<Applied, ControlError> {
        let (definition, about) = (definition.clone(), about.clone());
        self.command(move |c| Box::pin(async move { apply::apply(c, &definition, &about).await }))
            .await
    }

    async fn submit(&self, submission: &Submission) -> Result<Submitted, ControlError> {
        let submission = submission.clone();
        self.command(move |c| Box::pin(async move { submit::submit(c, &submission).await })).await
    }

    async fn list(&self, filter: &Filter) -> Result<Vec<ExecutionSummary>, ControlError> {
        let filter = filter.clone();
        self.command(move |c| Box::pin(async move { look::list(c, &filter).await })).await
    }

    async fn show(&self, execution: &ExecutionId) -> Result<ExecutionDetail, ControlError> {
        let execution = execution.clone();
        self.command(move |c| Box::pin(async move { look::show(c, &execution).await })).await
    }

    async fn draw(&self, which: &str) -> Result<Drawn, ControlError> {
        let which = which.to_owned();
        self.command(move |c| Box::pin(async move { draw::draw(c, &which).await })).await
    }

    async fn facts(&self, execution: &ExecutionId) -> Result<Facts, ControlError> {
        let execution = execution.clone();
        self.command(move |c| Box::pin(async move { facts::facts(c, &execution).await })).await
    }

    async fn examine(&self) -> Examined {
        doctor::examine(self).await
    }

    async fn circumstances(&self) -> Result<Circumstances, ControlError> {
        doctor::circumstances(self).await
    }

    async fn templates(&self) -> Result<Vec<Stored>, ControlError> {
        self.command(|c| Box::pin(doctor::stored(c))).await
    }

    async fn locks(&self, filter: &LockFilter) -> Result<Vec<LockRow>, ControlError> {
        let filter = filter.clone();
        self.command(move |c| Box::pin(async move { locks::locks(c, &filter).await })).await
    }

    async fn clean_locks(&self, dry_run: bool) -> Result<u64, ControlError> {
        if dry_run {
            return self.command(|c| Box::pin(locks::count_old(c))).await;
        }
        self.command(|c| Box::pin(release::reap(c, u32::MAX))).await
    }

    fn clean_locks_sql(&self) -> String {
        locks::CLEAN.into()
    }

    async fn workers(&self) -> Result<Vec<WorkerRow>, ControlError> {
        self.command(|c| Box::pin(locks::workers(c))).await
    }

    async fn cancel(&self, execution: &ExecutionId) -> Result<Cancelled, ControlError> {
        let execution = execution.clone();
        self.command(move |c| Box::pin(async move { steer::cancel(c, &execution).await })).await
    }

    async fn retry(&self, execution: &ExecutionId) -> Result<(), ControlError> {
        let execution = execution.clone();
        self.command(move |c| Box::pin(async move { steer::retry(c, &execution).await })).await
    }

    async fn pause(&self, which: &Pausable) -> Result<PauseChange, ControlError> {
        let which = which.clone();
        self.command(move |c| Box::pin(async move { steer::pause(c, &which, true).await })).await
    }

    async fn resume(&self, which: &Pausable) -> Result<PauseChange, ControlError> {
        let which = which.clone();
        self.command(move |c| Box::pin(async move { steer::pause(c, &which, false).await })).await
    }

    async fn paused(&self) -> Result<Vec<Paused>, ControlError> {
        self.command(|c| Box::pin(steer::paused(c))).await
    }

    async fn backlog(&self) -> Result<BacklogSummary, ControlError> {
        self.command(|c| Box::pin(steer::backlog(c))).await
    }

    async fn release_backlog(&self, template: Option<&str>) -> Result<u64, ControlError> {
        let template = template.map(str::to_owned);
        self.command(move |c| {
            Box::pin(async move { steer::release_backlog(c, template.as_deref()).await })
        })
        .await
    }
}
