//! The idempotency key under which a step's effect is asked for.
//!
//! **Invariant:** as long as an effect may have happened without anybody knowing, every further
//! attempt asks for it under the same key.

use sha2::{Digest, Sha256};

use super::{
    execution::AttemptOutcome,
    id::{ExecutionId, StepExecutionId},
};

/// hex(SHA-256(execution, step execution, generation)): the same after a crash, a drain or a
/// timeout, the next one only after a definite failed answer (`generation` is `ow_key_gen`).
///
/// Each part is preceded by its length, so that no two triples share a text.
pub fn idempotency_key(execution: &ExecutionId, step: &StepExecutionId, generation: u32) -> String {
    let mut hash = Sha256::new();
    for part in [execution.as_str(), step.as_str()] {
        hash.update((part.len() as u64).to_be_bytes());
        hash.update(part.as_bytes());
    }
    hash.update(generation.to_be_bytes());
    hex(&hash.finalize())
}

/// The generation of the key for the attempt after one that ended like this.
pub const fn next_generation(generation: u32, ended: AttemptOutcome) -> u32 {
    if ended.is_definite() { generation.saturating_add(1) } else { generation }
}

/// Lower-case hexadecimal.
pub fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write;
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        write!(text, "{byte:02x}").expect("writing to a String cannot fail");
        text
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_key_depends_on_each_part_and_on_nothing_else() {
        let key = |e: &str, s: &str, g| idempotency_key(&e.into(), &s.into(), g);
        assert_eq!(key("e", "s", 0), key("e", "s", 0));
        assert_eq!(key("e", "s", 0).len(), 64);
        for other in [key("f", "s", 0), key("e", "t", 0), key("e", "s", 1), key("es", "", 0)] {
            assert_ne!(other, key("e", "s", 0));
        }
    }
}
