#![no_main]

use libfuzzer_sys::fuzz_target;
use orchestrator_worker_fuzz::{headers, text};

fuzz_target!(|input: &[u8]| headers(&text(input)));
