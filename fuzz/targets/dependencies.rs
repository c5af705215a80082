//! A line is the column of a step.
#![no_main]

use libfuzzer_sys::fuzz_target;
use orchestrator_worker_fuzz::{dependencies, text};

fuzz_target!(|input: &[u8]| dependencies(&text(input).lines().collect::<Vec<_>>()));
