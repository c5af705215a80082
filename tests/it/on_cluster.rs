//! The chart and its pods on a real Kubernetes cluster of two nodes, with a real MySQL server beside
//! it. `tests/cluster/run` makes the cluster and the image, and runs these tests, one at a time, in the
//! cluster's network.
//!
//! **Invariant:** what is judged is what the steps wrote themselves against what the tables say, and
//! what the API server says of the pods; figures are printed, and no test fails because one is large.

mod api;
mod blows;
mod confirmed;
mod cost;
mod deaths;
mod drain;
mod events;
mod kube;
mod kubelet;
mod life;
mod marks;
mod memory;
mod rollback;
mod stand;
mod standby;
mod waiting;
