#![no_main]

use libfuzzer_sys::fuzz_target;
use orchestrator_worker_fuzz::{text, variables};

fuzz_target!(|input: &[u8]| variables(&text(input)));
