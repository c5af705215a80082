//! What operators ask of the store: put workflows in, submit, look.
//!
//! **Invariant:** nothing in here writes a row that a worker holds.

mod apply;
mod look;
mod submit;

use async_trait::async_trait;
use futures_util::future::BoxFuture;
use sqlx::SqliteConnection;

use super::{
    SqliteStore,
    errors::{Failure, Place},
    schema,
    session::Opener,
};
use crate::{
    adapters::lane::{Lanes, LanesSettings},
    domain::{definition::Definition, id::ExecutionId},
    ports::control::{
        About, Applied, Control, ControlError, ExecutionDetail, ExecutionSummary, Filter,
        MigrationStep, Submission, Submitted,
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
        done.map_err(|failure| failure.into_control(&self.place))
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
}
