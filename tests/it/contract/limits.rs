//! Limits: how much text a step may leave behind, and what becomes of more.

use orchestrator_worker::{
    domain::plan::Finish,
    ports::executions::{
        Advance, AdvanceError, Advanced, StepEnd, StepRetry, StepSkip, StoreError,
    },
};

use super::{Subject, world::*, writes::*};

/// What a `text` column holds, in bytes.
const MOST: usize = 65_535;

/// So many bytes of text whose characters take four each, and one that takes what is left over.
fn wide(bytes: usize) -> String {
    let left_over = ["", "x", "ä", "…"][bytes % 4];
    format!("{left_over}{}", "🦀".repeat(bytes / 4))
}

pub async fn an_output_is_kept_whole_up_to_its_limit_and_refused_beyond<S: Subject>() {
    let world = World::<S>::new().await;
    for output in ["x".repeat(MOST), wide(MOST), "a\0b\r\n\u{7}'\"\\%_".to_owned(), String::new()] {
        let claim = world.a_claims(chain(&["one"])).await;
        let end = StepEnd { output: Some(output.clone()), ..succeeded(&claim, "one") };
        let sent = Advance { ended: vec![end], finish: Some(success()), ..advance(&claim) };
        assert_eq!(send(&world.a, &sent).await, Ok(Advanced::Recorded));
        let kept = world.step(&claim.lease.execution, "one", "output").await;
        assert!(kept == Some(output), "{} bytes", kept.map_or(0, |kept| kept.len()));
    }
    for output in ["x".repeat(MOST + 1), wide(MOST + 1), "ä".repeat(MOST / 2 + 1)] {
        let claim = world.a_claims(chain(&["one"])).await;
        let before = world.everything().await;
        let end = StepEnd { output: Some(output), ..succeeded(&claim, "one") };
        let sent = Advance { ended: vec![end], finish: Some(success()), ..advance(&claim) };
        let answer = send(&world.a, &sent).await;
        assert!(matches!(&answer, Err(AdvanceError::Store(StoreError::Data(_)))), "{answer:?}");
        assert_eq!(world.everything().await, before);
    }
}

pub async fn an_error_is_cut_between_characters_where_its_column_ends<S: Subject>() {
    let world = World::<S>::new().await;
    for (text, kept) in [
        ("x".repeat(MOST + 1), "x".repeat(MOST)),
        ("🦀".repeat(20_000), "🦀".repeat(MOST / 4)),
        (wide(MOST), wide(MOST)),
    ] {
        let mut steps = fan(&["one", "two"]);
        steps.push(after(step("last"), &["one", "two"]));
        let claim = world.a_claims(steps).await;
        let id = &claim.lease.execution;
        let retrying = vec![StepRetry { error: text.clone(), ..retry(&claim, "two") }];
        let sent = Advance { retrying, ..advance(&claim) };
        assert_eq!(send(&world.a, &sent).await, Ok(Advanced::Recorded));
        assert!(world.step(id, "two", "error").await.as_ref() == Some(&kept), "of a retry");

        let one = StepEnd { error: Some(text.clone()), ..failed(&claim, "one") };
        let skip = StepSkip { reason: text.clone(), ..skip(&claim, "last") };
        let finish = Some(Finish { error: Some(text.clone()), ..failure() });
        let sent = Advance { ended: vec![one], skipped: vec![skip], finish, ..advance(&claim) };
        assert_eq!(send(&world.a, &sent).await, Ok(Advanced::Recorded));
        assert!(world.step(id, "one", "error").await.as_ref() == Some(&kept), "of an end");
        assert!(world.step(id, "last", "error").await.as_ref() == Some(&kept), "of a skip");
        assert!(world.execution(id, "error").await.as_ref() == Some(&kept), "of an execution");
    }
}

pub async fn the_cause_of_an_attempt_is_its_beginning_with_a_sign_of_what_is_missing<S: Subject>() {
    let world = World::<S>::new().await;
    for (text, kept) in [
        ("x".repeat(255), "x".repeat(255)),
        ("x".repeat(256), format!("{} ...", "x".repeat(251))),
        ("🦀".repeat(255), "🦀".repeat(255)),
        ("🦀".repeat(1000), format!("{} ...", "🦀".repeat(251))),
    ] {
        let claim = world.a_claims(fan(&["one", "two"])).await;
        let id = &claim.lease.execution;
        let one = StepEnd { error: Some(text.clone()), ..failed(&claim, "one") };
        let two = StepRetry { error: text, ..retry(&claim, "two") };
        let sent = Advance { ended: vec![one], retrying: vec![two], ..advance(&claim) };
        assert_eq!(send(&world.a, &sent).await, Ok(Advanced::Recorded));
        for name in ["one", "two"] {
            let attempt = world.attempt(id, name, 1).await;
            assert_eq!(attempt, Some(format!("failed/{kept}/a")), "{name}");
        }
    }
}
