#![no_main]

use libfuzzer_sys::fuzz_target;
use orchestrator_worker_fuzz::{text, workflow_file};

fuzz_target!(|input: &[u8]| drop(workflow_file(&text(input))));
