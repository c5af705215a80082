//! What a script may use, and what it is told of when it wants more.

use orchestrator_worker::adapters::runners::shell::Limits;

use super::*;

fn limited(limits: Limits) -> Case {
    let mut case = Case::new();
    case.settings.limits = limits;
    case
}

const MIB: u64 = 1 << 20;

#[tokio::test]
async fn limits_hold_from_the_first_line_for_all_it_starts_and_cannot_be_raised() {
    let limits = Limits { memory: Some(512 * MIB), file_size: Some(MIB), processes: None };
    let script = "grep -E 'address space|Max file size' /proc/self/limits
        ulimit -v unlimited 2>/dev/null && echo raised; true";
    let output = output_of(limited(limits).run(script).await);
    let words: Vec<Vec<&str>> = output.lines().map(|l| l.split_whitespace().collect()).collect();
    assert_eq!(words[0], ["Max", "file", "size", "1048576", "1048576", "bytes"]);
    assert_eq!(words[1], ["Max", "address", "space", "536870912", "536870912", "bytes"]);
    // Whoever may do everything may raise limits too.
    if !rustix::process::geteuid().is_root() {
        assert_eq!(words.len(), 2, "{output}");
    }
}

#[tokio::test]
async fn a_limited_script_finds_the_same_surroundings_as_any_other() {
    let limits = Limits { memory: Some(512 * MIB), ..Limits::default() };
    let script =
        "cat; env | sort; echo \"$0 $#\"; ls -l /proc/self/fd | grep -c ' -> '; echo \"it's\"";
    let limited = limited(limits);
    let mut free = Case::new();
    free.key.clone_from(&limited.key);
    let told = [limited.run(script).await, free.run(script).await].map(output_of);
    let without_folder = |text: &String| {
        let lines =
            text.lines().filter(|line| !line.contains("/ow-step-") && !line.contains("MEET="));
        lines.map(str::to_owned).collect::<Vec<_>>()
    };
    assert_eq!(without_folder(&told[0]), without_folder(&told[1]));
    assert!(told[0].contains("ORCHESTRATOR_FENCE=") && told[0].ends_with("it's\n"), "{told:?}");
}

#[tokio::test]
async fn a_program_that_wants_more_memory_gets_none() {
    let limits = Limits { memory: Some(64 * MIB), ..Limits::default() };
    let script = "head -c 268435456 /dev/zero | tail -c 268435455 | head -c 1 >/dev/null; exit $?";
    let hungry = "head -c 268435456 /dev/zero | tail -c 268435455 > /dev/null";
    let (_, output) = failure_of(limited(limits).run(hungry).await);
    assert!(output.contains("memory exhausted"), "{output}");
    output_of(Case::new().run(script).await);
}

#[tokio::test]
async fn a_file_that_grows_too_long_ends_its_writer_and_the_error_says_so() {
    let limits = Limits { file_size: Some(MIB), ..Limits::default() };
    let reason = "a file reached 1048576 bytes (shell.limits.file_size)";
    let direct = "ulimit -c 0; exec head -c 2097152 /dev/zero > big";
    let (error, _) = unanswered_of(limited(limits).run(direct).await);
    assert_eq!(error, format!("the script was ended by SIGXFSZ: {reason}"));
    let below = "ulimit -c 0; head -c 2097152 /dev/zero > big; exit $?";
    let (error, _) = failure_of(limited(limits).run(below).await);
    let said = "the script ended with exit code 153: SIGXFSZ ended a command of it, ";
    assert_eq!(error, format!("{said}{reason}"));
    let fits = "head -c 1048576 /dev/zero > big; head -c 2097152 /dev/zero | wc -c";
    assert_eq!(output_of(limited(limits).run(fits).await), "2097152\n", "output is no file");
}

/// Doubles seven times, so that 255 processes of it wait in the end, whatever becomes of its limit.
const BOMB: &str = "bomb() {
        [ $1 -gt 0 ] && { bomb $(($1 - 1)) & bomb $(($1 - 1)) & }
        exec sleep 300
    }";
const TOO_MANY: &str = "the script was killed because more than 30 processes of it ran at one time \
    (shell.limits.processes)";

#[tokio::test]
async fn a_script_with_too_many_processes_is_killed_with_all_of_them() {
    let limits = Limits { processes: Some(30), ..Limits::default() };
    let case = limited(limits);
    let (error, output) = unanswered_of(case.run(&format!("{BOMB}\necho lit; bomb 7")).await);
    assert_eq!((&*error, &*output), (TOO_MANY, "lit\n"));
    case.assert_nothing_left();

    let case = limited(limits);
    let apart = BOMB.replace("bomb $(($1 - 1)) &", "setsid sh $MEET/bomb $(($1 - 1)) &");
    fs::write(case.file("bomb"), format!("{apart}\nbomb $1")).expect("written");
    let (error, _) = unanswered_of(case.run("sh $MEET/bomb 7; sleep 300").await);
    assert_eq!(error, TOO_MANY, "each in a session of its own");
    case.assert_nothing_left();
}

/// 60 at a time, each of which starts its successor and ends; nobody waits for anybody, so that all who
/// lose their parents come to the guardian. It ends itself after a thousand generations.
const STORM: &str = "storm() { [ $1 -gt 0 ] && storm $(($1 - 1)) & }
    for i in 0 1 2 3 4 5; do for j in 0 1 2 3 4 5 6 7 8 9; do storm 1000; done; done";

#[tokio::test]
async fn a_storm_of_processes_that_come_and_go_does_not_outrun_the_count() {
    let case = limited(Limits { processes: Some(30), ..Limits::default() });
    let (error, _) = unanswered_of(case.run(&format!("{STORM}\nsleep 300")).await);
    assert_eq!(error, TOO_MANY);
    case.assert_nothing_left();
}

#[tokio::test]
async fn a_script_within_its_number_of_processes_is_left_alone() {
    let limits = Limits { processes: Some(30), ..Limits::default() };
    let case = limited(limits);
    // 15 of them; then 100 more, one after the other.
    let script = format!(
        "{BOMB}\n(bomb 3) &
         for i in 0 1 2 3 4 5 6 7 8 9; do for j in 0 1 2 3 4 5 6 7 8 9; do sleep 0.002; done; done"
    );
    output_of(case.run(&script).await);
    case.assert_nothing_left();
}

#[tokio::test]
async fn what_a_bomb_left_behind_ends_with_its_script() {
    let case = Case::new();
    output_of(case.run(&format!("{BOMB}\n(bomb 7) & sleep 0.05")).await);
    case.assert_nothing_left();
}
