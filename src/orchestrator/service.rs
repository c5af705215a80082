//! The orchestrator of a program: one database, one incarnation.
//!
//! **Invariant:** nothing is opened before it is needed, and then once.

use std::sync::{Arc, OnceLock};

use tokio::sync::OnceCell;

use super::{
    config::{Checked, LockConfig, LockConfigError},
    database::{Database, Opened},
    execute::{ExecuteError, Executed, Executions, Parts},
    handle::LeaseHandle,
    locks::{LockOptions, Locks},
    registry::ProviderRegistry,
};
use crate::{
    adapters::runners::{
        Runners,
        func::FuncRegistry,
        http::{HttpRunner, HttpSettings},
        shell::ShellSettings,
    },
    domain::{
        egress::{Own, Owned, Place},
        id::Owner,
    },
    instruments::{Instruments, LockMetrics},
    ports::{
        control::Control,
        executions::StoreError,
        lock::{Inspected, LockError},
        runner::StepRunner,
    },
};

/// Executes workflows and takes locks on one database. A clone is the same orchestrator.
#[derive(Clone)]
pub struct Orchestrator {
    inner: Arc<Inner>,
}

struct Inner {
    database: Database,
    config: LockConfig,
    checked: Checked,
    providers: ProviderRegistry,
    metrics: LockMetrics,
    opened: OnceCell<Opened>,
    locks: OnceCell<Locks>,
    owner: Owner,
    functions: FuncRegistry,
    /// Made when it is first needed: it reads this machine's certificates.
    runner: OnceLock<Arc<dyn StepRunner>>,
    instruments: Arc<Instruments>,
    executions: Executions,
}

/// An orchestrator that is still being described.
pub struct OrchestratorBuilder {
    database: Database,
    config: LockConfig,
    owner: Owner,
    providers: ProviderRegistry,
    metrics: LockMetrics,
    functions: FuncRegistry,
    runner: Option<Arc<dyn StepRunner>>,
}

impl OrchestratorBuilder {
    /// The guide's defaults if it is not called.
    #[must_use]
    pub fn lock_config(mut self, config: LockConfig) -> Self {
        self.config = config;
        self
    }

    /// Who holds what: the pod's name, say; else the host's name and some random letters.
    #[must_use]
    pub fn owner(mut self, owner: Owner) -> Self {
        self.owner = owner;
        self
    }

    /// Providers of one's own.
    #[must_use]
    pub fn providers(mut self, providers: ProviderRegistry) -> Self {
        self.providers = providers;
        self
    }

    /// Metrics that are registered elsewhere.
    #[must_use]
    pub fn metrics(mut self, metrics: LockMetrics) -> Self {
        self.metrics = metrics;
        self
    }

    /// What `func` steps may call; `noop`, `sleep`, `echo` and `fail` if it is not called.
    #[must_use]
    pub fn functions(mut self, functions: FuncRegistry) -> Self {
        self.functions = functions;
        self
    }

    /// Runs all steps, in place of the worker's own runners for `http`, `shell` and `func`.
    #[must_use]
    pub fn runner(mut self, runner: impl StepRunner) -> Self {
        self.runner = Some(Arc::new(runner));
        self
    }

    /// Refuses a configuration that cannot be kept. Nothing is opened yet.
    pub fn build(self) -> Result<Orchestrator, LockConfigError> {
        let checked = self.config.check()?;
        self.providers.check(&self.config)?;
        if self.config.provider == LockConfig::MYSQL && !self.database.is_mysql() {
            return Err(LockConfigError::NoMySql);
        }
        let Self { database, config, owner, providers, metrics, functions, runner } = self;
        let inner = Inner {
            database,
            config,
            checked,
            providers,
            metrics,
            opened: OnceCell::new(),
            locks: OnceCell::new(),
            owner,
            functions,
            runner: runner.map_or_else(OnceLock::new, OnceLock::from),
            instruments: Arc::default(),
            executions: Executions::default(),
        };
        Ok(Orchestrator { inner: Arc::new(inner) })
    }
}

impl Orchestrator {
    /// With the locks of the database itself, as the guide has them. It is opened when it is first
    /// needed.
    pub fn new(database: impl Into<Database>) -> Self {
        Self::builder(database).build().expect("the defaults can be kept")
    }

    pub fn with_lock_config(
        database: impl Into<Database>,
        config: LockConfig,
    ) -> Result<Self, LockConfigError> {
        Self::builder(database).lock_config(config).build()
    }

    /// Without a server, for tests: its workflows and its locks are gone with it.
    #[cfg(feature = "sqlite")]
    pub fn in_memory() -> Self {
        Self::builder(Database::memory())
            .lock_config(LockConfig {
                provider: LockConfig::MEMORY.into(),
                ..LockConfig::default()
            })
            .build()
            .expect("the defaults can be kept")
    }

    pub fn builder(database: impl Into<Database>) -> OrchestratorBuilder {
        OrchestratorBuilder {
            database: database.into(),
            config: LockConfig::default(),
            owner: own_name(),
            providers: ProviderRegistry::default(),
            metrics: LockMetrics::default(),
            functions: FuncRegistry::default(),
            runner: None,
        }
    }

    pub fn owner(&self) -> &Owner {
        &self.inner.owner
    }

    /// Of all its locks.
    pub fn metrics(&self) -> &LockMetrics {
        &self.inner.metrics
    }

    /// Its locks, with everything that they can do; made when they are first needed. Needs a tokio
    /// runtime, which renews and releases.
    pub async fn locks(&self) -> Result<Locks, LockError> {
        let made = self.inner.locks.get_or_try_init(|| async {
            let provider = match self.inner.providers.make(&self.inner.config).await {
                Some(made) => made?,
                None => self.opened().await?.locks.clone(),
            };
            let Inner { owner, checked, metrics, .. } = &*self.inner;
            Ok(Locks::of_checked(provider, owner.clone(), checked.clone(), metrics.clone()))
        });
        made.await.cloned()
    }

    async fn opened(&self) -> Result<&Opened, StoreError> {
        let Inner { database, checked, opened, .. } = &*self.inner;
        opened.get_or_try_init(|| database.open(&checked.lock_table)).await
    }

    /// Runs an execution to its end, here: it is claimed in the database as by every worker, due or not,
    /// its lease renewed, and its steps driven. Of two who ask, in whatever process, one runs it and the
    /// other is told who does. Shell steps need [`guardian`](crate::guardian()) at the beginning of the
    /// program's `main`.
    ///
    /// A caller that stops waiting has the steps stopped and the execution handed back.
    pub async fn execute_workflow(&self, id: &str) -> Result<Executed, ExecuteError> {
        let Inner { database, config, functions, owner, runner, instruments, executions, .. } =
            &*self.inner;
        let runner = runner.get_or_init(|| Arc::new(runners(database, config, functions.clone())));
        let parts = Parts {
            owner: owner.clone(),
            runner: runner.clone(),
            instruments: instruments.clone(),
        };
        executions.execute(self.opened().await?, parts, id).await
    }

    /// Puts workflows in, submits executions, and looks at them.
    pub async fn control(&self) -> Result<Arc<dyn Control>, StoreError> {
        Ok(self.opened().await?.control.clone())
    }

    /// [`Locks::lock`]
    pub async fn lock(&self, key: &str) -> Result<LeaseHandle, LockError> {
        self.locks().await?.lock(key).await
    }

    /// [`Locks::lock_with`]
    pub async fn lock_with(
        &self,
        key: &str,
        options: LockOptions,
    ) -> Result<LeaseHandle, LockError> {
        self.locks().await?.lock_with(key, options).await
    }

    /// [`Locks::lock_workflow_execution`]
    pub async fn lock_workflow_execution(&self, id: &str) -> Result<LeaseHandle, LockError> {
        self.locks().await?.lock_workflow_execution(id).await
    }

    /// [`Locks::lock_workflow_template`]
    pub async fn lock_workflow_template(&self, id: &str) -> Result<LeaseHandle, LockError> {
        self.locks().await?.lock_workflow_template(id).await
    }

    /// [`Locks::inspect`]
    pub async fn inspect(&self, key: &str) -> Result<Option<Inspected>, LockError> {
        self.locks().await?.inspect(key).await
    }

    /// [`Locks::is_locked`]
    pub async fn is_locked(&self, key: &str) -> Result<Option<String>, LockError> {
        self.locks().await?.is_locked(key).await
    }

    /// Hands back the executions under way, and does [`Locks::close`].
    pub async fn close(&self) {
        self.inner.executions.close().await;
        if let Some(locks) = self.inner.locks.get() {
            locks.close().await;
        }
    }
}

/// Steps may call neither the database itself nor the server that keeps locks.
fn runners(database: &Database, config: &LockConfig, functions: FuncRegistry) -> Runners {
    let database = database.server().into_iter().map(|place| (Owned::Database, place));
    let locks = config.servers().into_iter().map(|place| (Owned::LockServer, place));
    let own = database.chain(locks).map(|(what, (host, port))| Own {
        what,
        place: Place::of_host(&host),
        port,
    });
    let http = HttpSettings { own: own.collect(), ..HttpSettings::default() };
    Runners::new(Some(ShellSettings::default()), functions).with(HttpRunner::new(http))
}

/// `hostname-xxxxxx`, random, so that two incarnations on one host differ.
fn own_name() -> Owner {
    let host = rustix::system::uname().nodename().to_string_lossy().into_owned();
    let plain = |c: char| if c.is_ascii_graphic() { c } else { '-' };
    let host: String = host.trim_start_matches('~').chars().take(200).map(plain).collect();
    let random: u32 = rand::random();
    Owner::try_new(&format!("{host}-{:06x}", random >> 8)).expect("printable ASCII, and short")
}
