//! A line such as `$LOCK__TTL=20s` is a variable; all others are the file.
#![no_main]

use libfuzzer_sys::fuzz_target;
use orchestrator_worker_fuzz::{configuration, text};

fuzz_target!(|input: &[u8]| {
    let text = text(input);
    let mut file = String::new();
    let mut variables = Vec::new();
    for line in text.split_inclusive('\n') {
        match line.strip_prefix('$').and_then(|line| line.trim_end_matches('\n').split_once('=')) {
            Some(variable) => variables.push(variable),
            None => file.push_str(line),
        }
    }
    configuration(&file, &variables);
});
