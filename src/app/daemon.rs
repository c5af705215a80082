//! A worker process from its start to its end.
//!
//! **Invariant:** the admin port answers before the store is asked for, so that a process that
//! waits for its database is alive, not ready, and says why; every task ends with the daemon.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use tokio::{
    sync::{
        mpsc::{self, Receiver},
        watch,
    },
    task::JoinSet,
    time::{sleep, timeout},
};
use tokio_util::sync::CancellationToken;

use super::{AppError, Stores, circumstances, runners::runners, state_dir::StateDir, stores};
use crate::{
    adapters::kube::Kube,
    admin::{Admin, Probes},
    config::{Config, Sqlite, Store},
    domain::{
        death::News,
        intake::Supported,
        marks::Load,
        notice::{Notice, Unfit, What},
        pod::PodProcess,
        retry::Backoff,
        standby::Standby,
    },
    instruments::{ByFeature, Instruments},
    ports::{control::ControlError, executions::StoreError, runner::StepRunner},
    signals::{Signals, Wishes},
    telemetry::Telemetry,
    worker::{self, Notices, Shutdown, Summary, Tracing, Worker, health::Health, poller::Poller},
};

/// Between two attempts to open the store.
const PAUSE: Backoff = Backoff { base: Duration::from_secs(1), cap: Duration::from_secs(15) };
/// Of pods, that nobody has heard yet.
const NEWS: usize = 64;
/// Things that nobody has been told of yet.
const NOTICES: usize = 256;
/// What the admin port has begun to answer, and the Kubernetes API, may take so long at the end.
const LAST_ANSWERS: Duration = Duration::from_secs(1);

/// A process that listens and has no worker yet.
pub struct Daemon {
    config: Config,
    state: StateDir,
    /// Where the admin port listens.
    admin: Option<SocketAddr>,
    until_idle: bool,
    wishes: Wishes,
    health: Arc<Health>,
    probes: Arc<Probes>,
    instruments: Arc<Instruments>,
    tracing: Option<Tracing>,
    load: watch::Sender<Load>,
    pods: Option<Receiver<News>>,
    standby: watch::Sender<Standby>,
    notices: Notices,
    tasks: JoinSet<()>,
    stop: CancellationToken,
}

impl Daemon {
    /// Catches signals and opens the admin port. `reload` is called at each hangup; with
    /// `until_idle` the worker ends when nothing is left, and a store that cannot be opened is not
    /// waited for.
    pub async fn start(
        config: Config,
        until_idle: bool,
        telemetry: &Telemetry,
        reload: impl Fn() + Send + 'static,
    ) -> Result<Self, AppError> {
        let state = StateDir::open(&config.state_dir, &config.worker.process).await?;
        let (wishes, stop) = (Wishes::default(), CancellationToken::new());
        let instruments = Arc::new(Instruments::with_spans(telemetry.counts()));
        let tracing = telemetry.tracing(match config.store {
            Store::Sqlite(_) => "sqlite",
            Store::MySql(_) => "mysql",
        });
        let health = Health::new(Poller::longest_pause(config.worker.poll_interval));
        let probes = Probes::new(health.clone());
        let mut tasks = JoinSet::new();
        let signals = Signals::listen().map_err(AppError::Signals)?;
        tasks.spawn(signals.obey(wishes.clone(), reload, stop.clone()));
        let mut admin_address = None;
        if let Some(address) = config.admin {
            let admin = Admin::bind(address).await?;
            admin_address = Some(admin.address());
            tracing::info!(
                event = "admin.listening",
                address = %admin.address(),
                "admin port: http://{}/readyz and /metrics",
                admin.address()
            );
            tasks.spawn(admin.serve(probes.clone(), instruments.clone(), stop.clone()));
        }
        health.set_started();
        let admin = admin_address;
        let mut daemon = Self {
            config,
            state,
            admin,
            until_idle,
            wishes,
            health,
            probes,
            instruments,
            tracing,
            load: watch::Sender::default(),
            pods: None,
            standby: watch::Sender::default(),
            notices: Notices::default(),
            tasks,
            stop,
        };
        daemon.mark_busy();
        daemon.watch_pods();
        // One that ends when nothing is left waits for nobody.
        if !until_idle {
            daemon.watch_node();
            daemon.watch_rollout();
        }
        daemon.tell_events();
        Ok(daemon)
    }

    /// Opens the store; waits for one that only has to come up, or to be migrated. `None`: told to
    /// go away meanwhile.
    pub async fn open_store(&self) -> Result<Option<Stores>, AppError> {
        let mut said = String::new();
        for attempt in 1.. {
            // What is dropped here are requests to tasks that own the connections.
            let opened = tokio::select! {
                () = self.wishes.drain.cancelled() => return Ok(None),
                opened = self.open_once() => opened,
            };
            let error = match opened {
                Ok(stores) => {
                    say_opened(&self.config.store);
                    return Ok(Some(stores));
                }
                Err(error) if self.waits_for(&error) => error,
                Err(error) => return Err(error),
            };
            let sentence = error.to_string();
            if sentence != said {
                tracing::warn!(
                    event = "store.waiting",
                    error = sentence,
                    "the store cannot be used yet"
                );
                if let Some(unfit) = unfit(&error) {
                    self.notices.tell(What::SchemaMismatch(unfit, sentence.clone()));
                }
                self.probes.wait_for(sentence.clone());
                said = sentence;
            }
            let pause = PAUSE.delay(attempt, rand::random(), Some(Duration::from_millis(200)));
            tokio::select! {
                () = self.wishes.drain.cancelled() => return Ok(None),
                () = sleep(pause) => {}
            }
        }
        unreachable!("the loop ends by its returns")
    }

    async fn open_once(&self) -> Result<Stores, AppError> {
        let stores = stores::open(&self.config.store).await?;
        circumstances::look(&stores, &self.config, &self.instruments).await?;
        match &self.config.leases {
            None => Ok(stores),
            Some(leases) => Ok(stores.leasing_from(leases).await?),
        }
    }

    /// Whether an error passes without anybody at this terminal. In a pod even what a person must
    /// mend is waited for, because a restart would mend nothing.
    fn waits_for(&self, error: &AppError) -> bool {
        let store = match error {
            _ if self.until_idle => return false,
            // It is about rows, which may be gone in a moment, as much as about the setting.
            AppError::WrongZone(_) => return true,
            AppError::Control(ControlError::NotMigrated | ControlError::TooNew { .. }) => {
                return true;
            }
            AppError::PasswordFile(_) => return self.config.in_pod,
            AppError::Store(error) | AppError::Control(ControlError::Store(error)) => error,
            _ => return false,
        };
        match (&self.config.store, store) {
            (_, StoreError::Leases(error)) => error.is_passing() || self.config.in_pod,
            (Store::Sqlite(_), _) => false,
            (Store::MySql(_), StoreError::NotReady(_) | StoreError::Data(_)) => self.config.in_pod,
            (
                Store::MySql(_),
                StoreError::Unavailable(_)
                | StoreError::Unknown(_)
                | StoreError::PrimaryChanged
                | StoreError::Unsettled,
            ) => true,
        }
    }

    /// Marks its pod as busy while it is, if so set. Begins before there is a worker, because the process before
    /// this one may have left its marks; ends by itself once the worker drains.
    fn mark_busy(&mut self) {
        let Some(pod) = self.config.busy_marks.clone() else { return };
        let Some(kube) = self.kube("busy_marks") else { return };
        let load = self.load.subscribe();
        self.tasks.spawn(async move { kube.mark(&pod, load).await });
    }

    /// Tells on its pod what happens to it, if so set. Begins before there is a worker, because that may have to
    /// wait for its tables.
    fn tell_events(&mut self) {
        let Some(pod) = self.config.events.clone() else { return };
        let Some(kube) = self.kube("events") else { return };
        let (tell, told) = mpsc::channel::<Notice>(NOTICES);
        self.notices = Notices::to(tell, self.instruments.clone());
        let stop = self.stop.clone();
        self.tasks.spawn(async move { kube.tell(&pod, told, stop).await });
    }

    /// The API server, for what the setting of this name under `pod` wants of it.
    fn kube(&self, feature: &'static str) -> Option<Kube> {
        let warn = |error| {
            self.instruments.k8s_features.get_or_create(&ByFeature { feature }).set(0);
            tracing::warn!(
                event = "kubernetes.refused",
                feature,
                %error,
                "pod.{feature} is set, and the Kubernetes API cannot be asked"
            );
        };
        Kube::in_pod(self.instruments.clone()).map_err(warn).ok()
    }

    /// Watches workers' pods, if so set. Begins before there is a worker, which looks first at what the process
    /// before this one has left, and knows by then what that has ended by.
    fn watch_pods(&mut self) {
        let Some(labels) = self.config.dead_owner_watch.clone() else { return };
        let Some(kube) = self.kube("dead_owner_watch") else { return };
        let (tell, told) = mpsc::channel(NEWS);
        let own = self.state.process.clone();
        self.until_stopped(async move { kube.watch_deaths(&labels, &own, tell).await });
        self.pods = Some(told);
    }

    /// Stands by while its pod's node is to be emptied, if so set. Begins before there is a worker, so that it may
    /// know before it claims.
    fn watch_node(&mut self) {
        let Some(node) = self.config.cordon_watch.clone() else { return };
        let Some(kube) = self.kube("cordon_watch") else { return };
        let standby = self.standby.clone();
        self.until_stopped(async move { kube.watch_node(&node, standby).await });
    }

    /// Stands by while pods of a newer version are ready, if so set; as [`Daemon::watch_node`].
    fn watch_rollout(&mut self) {
        let Some(sets) = self.config.rollout_aware.clone() else { return };
        let Some(kube) = self.kube("rollout_aware") else { return };
        let standby = self.standby.clone();
        self.until_stopped(async move {
            kube.watch_rollout(&sets.labels, &sets.template_hash, standby).await;
        });
    }

    fn until_stopped(&mut self, task: impl Future<Output = ()> + Send + 'static) {
        let stop = self.stop.clone();
        self.tasks.spawn(async move {
            tokio::select! {
                () = stop.cancelled() => {}
                () = task => {}
            }
        });
    }

    /// Works until a signal, or until nothing is left.
    pub async fn work(mut self, stores: Stores) -> Result<Summary, AppError> {
        let worker = Worker::new(
            stores.executions,
            Arc::new(runners(&self.config, self.admin, self.state.process.life())),
            worker_settings(&self.config, self.state.process.clone(), self.until_idle),
            self.instruments.clone(),
            self.health.clone(),
        )
        .traced(self.tracing.clone())
        .told_of_pods(self.pods.take())
        .telling(self.load.clone())
        .standing_by(self.standby.subscribe())
        .noticed(self.notices.clone());
        self.probes.begin();
        let shutdown =
            Shutdown { drain: self.wishes.drain.clone(), abort: self.wishes.abort.clone() };
        let summary = worker.run(shutdown).await;
        self.stop.cancel();
        let rest = async { while self.tasks.join_next().await.is_some() {} };
        if timeout(LAST_ANSWERS, rest).await.is_err() {
            tracing::debug!("the admin port or the Kubernetes API still has somebody waiting");
        }
        Ok(summary?)
    }
}

/// What is wrong with a database that a person has to mend.
const fn unfit(error: &AppError) -> Option<Unfit> {
    match error {
        AppError::Control(ControlError::NotMigrated) => Some(Unfit::NotMigrated),
        AppError::Control(ControlError::TooNew { .. }) => Some(Unfit::TooNew),
        AppError::Store(StoreError::NotReady(_))
        | AppError::Control(ControlError::Store(StoreError::NotReady(_))) => Some(Unfit::Unusable),
        _ => None,
    }
}

fn say_opened(store: &Store) {
    if let Store::Sqlite(Sqlite::File { path, by_default: true }) = store {
        tracing::info!(
            event = "store.opened",
            "no database is configured: using the SQLite file {}",
            path.display()
        );
    } else {
        tracing::info!(event = "store.opened", "using {store}");
    }
}

/// What a worker of this build and configuration can run.
pub fn supported(config: &Config) -> Supported {
    runners(config, config.admin, None).supported()
}

fn worker_settings(config: &Config, process: PodProcess, until_idle: bool) -> worker::Settings {
    let settings = config.worker.clone();
    worker::Settings {
        owner: settings.owner,
        process,
        slots: settings.slots,
        poll_interval: settings.poll_interval,
        terms: settings.terms,
        claim_batch: settings.claim_batch,
        eligibility: settings.eligibility.into(),
        unknown_after: settings.unknown_after,
        drain_deadline: settings.drain_deadline,
        steps_at_once: settings.steps_at_once,
        backoff: settings.backoff,
        poison_claims: settings.poison_claims,
        retention: settings.retention,
        adopt_orphans: settings.adopt_orphans,
        until_idle,
    }
}
