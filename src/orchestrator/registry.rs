//! Lock providers by name.
//!
//! **Invariant:** a name means one provider, for as long as the registry lives.

use std::{collections::BTreeMap, fmt, future::Future, sync::Arc};

use futures_util::future::BoxFuture;

use super::config::{LockConfig, LockConfigError};
#[cfg(feature = "etcd")]
use crate::adapters::etcd::EtcdLocks;
#[cfg(feature = "redis")]
use crate::adapters::redis::RedisLocks;
use crate::{
    adapters::memory::MemoryLocks,
    ports::lock::{LockError, LockProvider},
};

type Made = Result<Arc<dyn LockProvider>, LockError>;
type Make = Arc<dyn Fn(LockConfig) -> BoxFuture<'static, Made> + Send + Sync>;

/// Where a [`LockConfig`]'s provider is looked up. There are `redis`, `etcd` and `memory` from the
/// beginning, this last one table for all who use this registry.
#[derive(Clone)]
pub struct ProviderRegistry {
    by_name: BTreeMap<String, Make>,
}

/// A name that means something already.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a lock provider is registered under {0:?} already")]
pub struct NameTaken(pub String);

impl Default for ProviderRegistry {
    fn default() -> Self {
        let mut registry = Self { by_name: BTreeMap::new() };
        let memory = MemoryLocks::default();
        registry.put(LockConfig::MEMORY, move |_| {
            let provider: Arc<dyn LockProvider> = Arc::new(memory.beside());
            async { Ok(provider) }
        });
        #[cfg(feature = "redis")]
        registry.put(LockConfig::REDIS, async |config: LockConfig| {
            let locks = RedisLocks::open(config.redis.settings()?).await?;
            Ok(Arc::new(locks) as Arc<dyn LockProvider>)
        });
        #[cfg(feature = "etcd")]
        registry.put(LockConfig::ETCD, async |config: LockConfig| {
            let locks = EtcdLocks::open(config.etcd.settings()?).await?;
            Ok(Arc::new(locks) as Arc<dyn LockProvider>)
        });
        registry
    }
}

impl ProviderRegistry {
    /// Adds a provider, made when it is first needed; what it needs beyond the configuration it
    /// brings along. It should pass [`conformance::check`](crate::conformance::check).
    pub fn register<F, R>(&mut self, name: &str, make: F) -> Result<(), NameTaken>
    where
        F: Fn(LockConfig) -> R + Send + Sync + 'static,
        R: Future<Output = Made> + Send + 'static,
    {
        let is_store = [LockConfig::STORE, LockConfig::MYSQL].contains(&name);
        if is_store || self.by_name.contains_key(name) {
            return Err(NameTaken(name.into()));
        }
        self.put(name, make);
        Ok(())
    }

    fn put<F, R>(&mut self, name: &str, make: F)
    where
        F: Fn(LockConfig) -> R + Send + Sync + 'static,
        R: Future<Output = Made> + Send + 'static,
    {
        self.by_name.insert(name.into(), Arc::new(move |config| Box::pin(make(config))));
    }

    /// Refuses a provider that is neither the store nor registered.
    pub(super) fn check(&self, config: &LockConfig) -> Result<(), LockConfigError> {
        if config.is_store() || self.by_name.contains_key(&config.provider) {
            return Ok(());
        }
        let known = self.by_name.keys().map(String::as_str);
        let known: Vec<&str> =
            [LockConfig::STORE, LockConfig::MYSQL].into_iter().chain(known).collect();
        Err(LockConfigError::Provider { name: config.provider.clone(), known: known.join(", ") })
    }

    /// The provider that a configuration names, for [`Locks::new`](super::Locks::new): a program that has
    /// locks in a server of their own needs no database. Fails where the name is that of the database.
    pub async fn open(&self, config: &LockConfig) -> Made {
        self.check(config).map_err(|error| LockError::NotReady(error.to_string()))?;
        let of_database = || {
            let name = &config.provider;
            Err(LockError::NotReady(format!("{name:?} is the database of an orchestrator")))
        };
        self.make(config).await.unwrap_or_else(of_database)
    }

    /// `None`: it is the store.
    pub(super) async fn make(&self, config: &LockConfig) -> Option<Made> {
        let make = self.by_name.get(&config.provider)?;
        Some(make(config.clone()).await)
    }
}

impl fmt::Debug for ProviderRegistry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.by_name.keys()).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(provider: &str) -> LockConfig {
        LockConfig { provider: provider.into(), ..LockConfig::default() }
    }

    #[tokio::test]
    async fn a_provider_is_made_under_the_name_that_it_was_given() {
        let mut registry = ProviderRegistry::default();
        registry
            .register("closet", |_| async { Err(LockError::NotReady("it is locked".into())) })
            .expect("the name is free");
        assert_eq!(registry.check(&config("closet")), Ok(()));
        let made = registry.make(&config("closet")).await.expect("it is not the store");
        assert!(matches!(made, Err(LockError::NotReady(_))));
        assert!(registry.make(&config("memory")).await.is_some_and(|made| made.is_ok()));
        assert!(registry.make(&config("store")).await.is_none());
        assert!(registry.open(&config("memory")).await.is_ok());
        for name in ["store", "consul"] {
            let refused = registry.open(&config(name)).await.err();
            assert!(matches!(refused, Some(LockError::NotReady(_))), "{name}: {refused:?}");
        }
    }

    #[test]
    fn no_name_means_two_providers_and_an_unknown_one_is_told_the_others() {
        let mut registry = ProviderRegistry::default();
        for taken in ["memory", "store", "mysql", "redis", "etcd"] {
            let make = |_| async { Err(LockError::Closed) };
            assert_eq!(registry.register(taken, make), Err(NameTaken(taken.into())));
        }
        let error = registry.check(&config("consul")).expect_err("nobody has registered it");
        assert_eq!(
            error.to_string(),
            r#"provider "consul" is not registered; there are store, mysql, etcd, memory, redis"#
        );
    }
}
