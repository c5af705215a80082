//! What a script finds and what becomes of what it prints.

use std::{collections::BTreeSet, fs};

use super::*;

#[tokio::test]
async fn both_streams_arrive_in_the_order_in_which_they_were_written() {
    let case = Case::new();
    assert_eq!(output_of(case.run("echo a; echo b >&2; echo c").await), "a\nb\nc\n");
    case.assert_nothing_left();
}

#[tokio::test]
async fn a_failure_names_the_exit_code() {
    let table = [
        ("echo no; exit 3", "the script ended with exit code 3", "no\n"),
        ("exit 255", "the script ended with exit code 255", ""),
    ];
    for (script, error, output) in table {
        let outcome = Case::new().run(script).await;
        assert_eq!(failure_of(outcome), (error.to_owned(), output.to_owned()), "{script}");
    }
}

#[tokio::test]
async fn a_script_that_a_signal_ends_has_given_no_answer() {
    let outcome = Case::new().run("echo so far; kill -KILL $$").await;
    let expected = ("the script was ended by SIGKILL".to_owned(), "so far\n".to_owned());
    assert_eq!(unanswered_of(outcome), expected);
}

#[tokio::test]
async fn a_script_sees_its_own_environment_and_nothing_of_the_workers() {
    let mut case = Case::new();
    case.settings.pass_env.insert("TOKEN".into(), "passed on".into());
    let output = output_of(case.run("tr '\\0' '\\n' < /proc/$$/environ").await);
    let found: BTreeMap<&str, &str> =
        output.lines().map(|line| line.split_once('=').expect("an entry")).collect();
    for (name, value) in [
        ("ORCHESTRATOR_ATTEMPT", "3"),
        ("ORCHESTRATOR_EXECUTION_ID", "execution-1"),
        ("ORCHESTRATOR_FENCE", "1700000000000001"),
        ("ORCHESTRATOR_IDEMPOTENCY_KEY", &case.key),
        ("ORCHESTRATOR_STEP_ID", "step-1"),
        ("TOKEN", "passed on"),
        ("TRACEPARENT", "00-1-2-01"),
    ] {
        assert_eq!(found.get(name), Some(&value), "{name}");
    }
    let allowed =
        ["HOME", "LANG", "LC_ALL", "MEET", "PATH", "TMPDIR", "TOKEN", "TRACEPARENT", "TZ"];
    let others: Vec<_> = found
        .keys()
        .filter(|name| !name.starts_with("ORCHESTRATOR_") && !allowed.contains(name))
        .collect();
    assert_eq!(others, [&""; 0], "cargo gives its tests many variables; none is passed on");
}

#[tokio::test]
async fn a_script_cannot_read_secrets_from_its_guardian_either() {
    let output = output_of(Case::new().run("wc -c < /proc/$PPID/environ").await);
    assert_eq!(output.trim(), "0");
}

#[tokio::test]
async fn each_attempt_has_an_empty_folder_which_is_home_and_is_removed() {
    let case = Case::new();
    let script = "pwd; echo $HOME; echo $TMPDIR; ls -A; mkdir a; touch a/b; chmod 500 a";
    let (one, two) = tokio::join!(case.run(script), case.run(script));
    let (one, two) = (output_of(one), output_of(two));
    assert_ne!(one, two);
    for output in [one, two] {
        let lines: Vec<&str> = output.lines().collect();
        assert_eq!(lines.len(), 3, "{output}");
        assert!(Path::new(lines[0]).starts_with(case.state.path()));
        assert_eq!(lines[0], lines[1]);
        assert_eq!(lines[0], lines[2]);
    }
    case.assert_nothing_left();
}

#[tokio::test]
async fn a_script_starts_with_default_signals_and_no_input() {
    let script = "grep -E '^Sig(Blk|Ign):' /proc/self/status; cat";
    let output = output_of(Case::new().run(script).await);
    for line in output.lines() {
        let mask = line.split_once('\t').and_then(|(_, mask)| u64::from_str_radix(mask, 16).ok());
        // Above the 31 standard ones begin those that the C library keeps for itself.
        assert_eq!(mask.map(|mask| mask & 0x7fff_ffff), Some(0), "{line}");
    }
    assert_eq!(output.lines().count(), 2, "{output}");
}

#[tokio::test]
async fn a_script_holds_none_of_the_workers_files() {
    let script = "for f in /proc/$$/fd/*; do printf '%s ' ${f##*/}; readlink $f || echo; done";
    let output = output_of(Case::new().run(script).await);
    let open: BTreeMap<&str, &str> =
        output.lines().filter_map(|line| line.split_once(' ')).collect();
    assert_eq!(open["0"], "/dev/null");
    assert!(open["1"].starts_with("pipe:"), "{output}");
    assert_eq!(open["1"], open["2"]);
    // What this process was itself given to pass on is not the worker's own.
    let given = files_given_to_pass_on();
    let own = |(fd, target): &(&&str, &&str)| {
        !["0", "1", "2"].contains(*fd) && !target.is_empty() && !given.contains(**target)
    };
    assert_eq!(open.iter().filter(own).collect::<Vec<_>>(), []);
}

fn files_given_to_pass_on() -> BTreeSet<String> {
    const CLOSE_ON_EXEC: u32 = 0o2_000_000;
    let passes_on = |fd: &i32| {
        let info = fs::read_to_string(format!("/proc/self/fdinfo/{fd}")).unwrap_or_default();
        let flags = info.lines().find_map(|line| line.strip_prefix("flags:"));
        let flags = flags.and_then(|flags| u32::from_str_radix(flags.trim(), 8).ok());
        flags.is_some_and(|flags| flags & CLOSE_ON_EXEC == 0)
    };
    pids_in(Path::new("/proc/self/fd"))
        .into_iter()
        .filter(passes_on)
        .filter_map(|fd| fs::read_link(format!("/proc/self/fd/{fd}")).ok())
        .map(|target| target.display().to_string())
        .collect()
}

#[tokio::test]
async fn what_was_printed_so_far_is_told_while_it_grows() {
    let case = Case::new();
    let mut told = case.so_far.subscribe();
    let task = case.spawn(
        "printf 'one\\303'; touch $MEET/ready; until [ -e $MEET/go ]; do sleep 0.02; done
         printf '\\244'; until [ -e $MEET/end ]; do sleep 0.02; done; echo .",
    );
    case.met("ready").await;
    let mut next = async || {
        timeout(CEILING, told.changed()).await.expect("in time").expect("it goes on");
        (told.borrow_and_update().clone(), Instant::now())
    };
    let (first, then) = next().await;
    assert_eq!(first, "one", "half a character is left for later");
    fs::write(case.file("go"), "").expect("written");
    let (second, later) = next().await;
    assert_eq!(second, "one\u{e4}");
    assert!(later - then > TELL_EVERY / 2, "not more often than it is allowed to");
    fs::write(case.file("end"), "").expect("written");
    assert_eq!(output_of(ended(task).await), "one\u{e4}.\n");
}

#[tokio::test]
async fn what_is_no_text_becomes_text() {
    let output = output_of(Case::new().run("printf 'a\\000b\\377c\\n'").await);
    assert_eq!(output, "a\u{fffd}b\u{fffd}c\n");
}

#[tokio::test]
async fn a_flood_is_drained_and_cut_in_the_middle() {
    let script = "echo first; head -c 67108864 /dev/zero | tr '\\0' x; echo; echo last";
    let output = output_of(Case::new().run(script).await);
    assert!(output.len() <= 65_535, "{} bytes", output.len());
    assert!(output.starts_with("first\nxxx") && output.ends_with("xxx\nlast\n"));
    assert!(output.contains(" bytes were cut here …]\n"));
}

#[tokio::test]
async fn a_script_too_long_for_the_system_is_refused_in_words() {
    let script = format!(": {}", "x".repeat(300_000));
    let (error, _) = unanswered_of(Case::new().run(&script).await);
    assert!(error.starts_with("cannot start sh: Argument list too long"), "{error}");
}

#[tokio::test]
async fn a_folder_that_cannot_be_made_is_an_error_in_words() {
    let mut case = Case::new();
    case.settings.state_dir = case.file("file");
    fs::write(case.file("file"), "").expect("written");
    let (error, _) = unanswered_of(case.run("touch $MEET/ran").await);
    assert!(error.starts_with("cannot make the folder "), "{error}");
    assert!(!case.file("ran").exists());
}

#[tokio::test]
async fn twenty_run_at_once() {
    let cases: Vec<Case> = (0..20).map(|_| Case::new()).collect();
    // Each waits for all the others, so that they are seen to run at the same time.
    let script = "touch ../../all/$ORCHESTRATOR_IDEMPOTENCY_KEY
        until [ $(ls ../../all | wc -l) -eq 20 ]; do sleep 0.02; done; echo met";
    let base = tempfile::tempdir().expect("a folder");
    fs::create_dir(base.path().join("all")).expect("made");
    let tasks: Vec<_> = cases
        .iter()
        .map(|case| {
            let mut settings = case.settings.clone();
            settings.state_dir = base.path().join("state");
            let (runner, attempt) = (ShellRunner::new(settings), case.attempt(script));
            #[expect(clippy::disallowed_methods, reason = "waited for below")]
            tokio::spawn(async move { runner.run(attempt).await })
        })
        .collect();
    for task in tasks {
        assert_eq!(output_of(ended(task).await), "met\n");
    }
    cases.iter().for_each(Case::assert_nothing_left);
}
