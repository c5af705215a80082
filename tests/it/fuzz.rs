//! Input of every kind, made by chance out of pieces that nearly are what is expected and of bytes
//! that are not: nothing panics, and what is accepted keeps its promise.
//!
//! **Invariant:** a run is bounded by its cases and not by time; `ORCHESTRATOR_TEST_SCALE=soak` asks
//! for many more of them.

mod columns;
mod configuration;
mod rows;
mod workflow_files;

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
