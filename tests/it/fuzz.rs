//! Input of every kind, made by chance out of pieces that nearly are what is expected and of bytes
//! that are not: nothing panics, and what is accepted keeps its promise.
//!
//! **Invariant:** a run is bounded by its cases and not by time; `ORCHESTRATOR_TEST_SCALE=soak` asks
//! for many more of them.

mod columns;
mod configuration;
mod promises;
mod rows;
mod workflow_files;

use std::{collections::BTreeSet, fs, path::Path};

use proptest::{collection::vec, prelude::*, sample::select, test_runner::Config};

use crate::process::is_soak;

/// So many cases here, twenty times as many in a soak.
fn cases(here: u32) -> Config {
    Config::with_cases(if is_soak() { here * 20 } else { here })
}

/// Any bytes, as far as they are text.
fn any_bytes() -> impl Strategy<Value = String> {
    vec(any::<u8>(), 0..60).prop_map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
}

/// Pieces of a language one after the other, and now and then bytes between them.
fn pieces(of: &'static [&'static str], most: usize) -> impl Strategy<Value = String> {
    let piece = select(of).prop_map(String::from);
    vec(prop_oneof![20 => piece, 1 => any_bytes()], 0..most).prop_map(|pieces| pieces.concat())
}

/// A text that would be accepted, in which some bytes have been put out, put in or changed.
fn damaged(text: &'static str) -> impl Strategy<Value = String> {
    let edit = (any::<usize>(), any::<u8>(), 0..3_u8);
    vec(edit, 0..6).prop_map(|edits| {
        let mut bytes = text.as_bytes().to_vec();
        for (place, byte, kind) in edits {
            let place = place % bytes.len().max(1);
            match kind {
                0 if place < bytes.len() => drop(bytes.remove(place)),
                1 if place < bytes.len() => bytes[place] = byte,
                _ => bytes.insert(place, byte),
            }
        }
        String::from_utf8_lossy(&bytes).into_owned()
    })
}

/// Names and versions in a lockfile.
fn locked(file: &str) -> BTreeSet<(String, String)> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(file);
    let text = fs::read_to_string(path).expect("a lockfile");
    let lines: Vec<&str> = text.lines().collect();
    let value = |line: &str, key| Some(line.strip_prefix(key)?.trim_matches('"').to_owned());
    let package = |two: &[&str]| Some((value(two[0], "name = ")?, value(two[1], "version = ")?));
    lines.windows(2).filter_map(package).collect()
}

#[test]
fn the_fuzzer_has_the_programs_crates_in_the_programs_versions() {
    let (program, fuzzer) = (locked("Cargo.lock"), locked("fuzz/Cargo.lock"));
    let names: BTreeSet<&String> = program.iter().map(|(name, _)| name).collect();
    let shared = |(name, _): &&(String, String)| names.contains(name);
    let others: Vec<_> = fuzzer.iter().filter(shared).filter(|it| !program.contains(*it)).collect();
    assert!(fuzzer.iter().filter(shared).count() > 200, "most of them are the program's");
    assert!(others.is_empty(), "update fuzz/Cargo.lock (cargo update --precise): {others:?}");
}
