//! What the targets ask of an input: the promises that the tests of the package itself ask for too.
//!
//! `tests/run` runs every target for a while. By hand, in this folder, for as long as one likes:
//!
//! ```sh
//! cargo run --bin headers -- corpus/headers            # adds what it finds to the corpus
//! cargo run --bin headers -- ../target/fuzz/crashes/headers-crash-…     # one input again
//! cargo run --bin headers -- -minimize_crash=1 -runs=100000 ../target/fuzz/crashes/headers-crash-…
//! ```
//!
//! An input that broke a promise stays in `corpus` under a name that says what it is, once the program is
//! mended; every run begins with all of those.
//!
//! **Invariant:** the compiler's flags in `.cargo/config.toml` are what makes the program tell libFuzzer where
//! it has been; they count in this folder only.

#[path = "../../tests/it/fuzz/promises.rs"]
mod promises;

pub use promises::*;

/// An input as the program takes it out of a column: bytes that are no UTF-8 are replaced.
pub fn text(bytes: &[u8]) -> std::borrow::Cow<'_, str> {
    String::from_utf8_lossy(bytes)
}
