//! Columns of a step that say nothing that can be run, and odd ones that can.

use orchestrator_worker::domain::definition::RecordedStep;

use super::{Becomes, Becomes::Success, Entry, failed, noop, shell, step};

pub fn entries() -> Vec<Entry> {
    let entry = |(name, row, becomes): (&str, RecordedStep, Becomes)| {
        Entry::steps(name, vec![row], becomes)
    };
    scripts()
        .into_iter()
        .chain(environments())
        .chain(parameters())
        .chain(words_and_numbers())
        .map(entry)
        .collect()
}

type Row = (&'static str, RecordedStep, Becomes);

fn scripts() -> Vec<Row> {
    let empty = || failed("step \"s\" cannot be run: its shell_script is empty");
    let none = RecordedStep { shell_script: None, ..shell("") };
    vec![
        ("no script", none, empty()),
        ("an empty script", shell(""), empty()),
        ("a blank script", shell(" \n\t"), empty()),
        ("a NUL in a script", shell("echo\0"), failed("its shell_script holds a NUL character")),
        ("a script that is no script", shell("'"), failed("step s failed: the script ended with")),
        ("a script without its end", shell("cat <<E\nx"), Success),
        ("a script of 60,000 bytes", shell(&format!(": {}", "x".repeat(60_000))), Success),
        ("a script with CRLF", shell("true\r\n"), failed("the script ended with exit code 127")),
        ("a script of emoji", shell("test 🦀 = 🦀"), Success),
    ]
}

fn environments() -> Vec<Row> {
    let env = |text: &str| RecordedStep { shell_env: Some(text.into()), ..shell("true") };
    let no_object = || failed("the column shell_env is not a JSON object: ");
    let no_text = || {
        failed(
            "the column shell_env is not a JSON object of texts: the value of \"A\" is not a text",
        )
    };
    let nul = || failed("its shell_env holds a NUL character");
    let no_name = |name: &str| failed(&format!("of texts: {name:?} cannot name a variable"));
    let long = format!(r#"{{"A":"{}"}}"#, "x".repeat(60_000));
    vec![
        ("a NUL in a value of env", env(r#"{"A":"x\u0000"}"#), nul()),
        ("a NUL in a name of env", env(r#"{"A\u0000":"x"}"#), nul()),
        ("env that is a list", env("[1]"), no_object()),
        ("env that is a text", env(r#""A=x""#), no_object()),
        (
            "env that ends too early",
            env("{"),
            failed("EOF while parsing an object at line 1 column 1"),
        ),
        ("env that is no JSON", env("A=x"), no_object()),
        ("a list in env", env(r#"{"A":[1]}"#), no_text()),
        ("an object in env", env(r#"{"A":{}}"#), no_text()),
        ("an empty name in env", env(r#"{"":"x"}"#), no_name("")),
        ("a name with = in env", env(r#"{"A=B":"x"}"#), no_name("A=B")),
        ("a name with a blank in env", env(r#"{"A B":"x"}"#), Success),
        ("numbers and null in env", env(r#"{"A":1,"B":1e999999999999}"#), no_object()),
        ("a name twice in env", env(r#"{"A":"x","A":"y"}"#), Success),
        ("a worker's own variable in env", env(r#"{"ORCHESTRATOR_FENCE":"x"}"#), Success),
        ("60,000 bytes of env", env(&long), Success),
        ("a path that leads nowhere in env", env(r#"{"PATH":"/nowhere"}"#), Success),
    ]
}

fn parameters() -> Vec<Row> {
    let with = |text: &str| RecordedStep { parameters: Some(text.into()), ..step("s") };
    let sleep = |rest: &str| with(&format!(r#"{{"func":"sleep",{rest}}}"#));
    let no_object = || failed("the column parameters is not a JSON object: ");
    let no_time = || failed("step s failed: sleep needs parameters.seconds or parameters.ms");
    let deep = format!("{{\"a\":{}1{}}}", "[".repeat(5_000), "]".repeat(5_000));
    let neither = |word| failed(&format!("its parameters.resume is {word:?}, which is neither"));
    vec![
        ("parameters that are a number", with("7"), no_object()),
        ("parameters that are a list", with("[]"), no_object()),
        ("parameters that end too early", with("{"), no_object()),
        ("parameters with two values", with("{} {}"), failed("trailing characters")),
        ("parameters with a byte order mark", with("\u{feff}{}"), no_object()),
        ("deep parameters", with(&deep), failed("recursion limit exceeded")),
        ("a name twice in parameters", with(r#"{"func":"fail","func":"noop"}"#), Success),
        ("an unknown resume", with(r#"{"resume":"maybe"}"#), neither("\"maybe\"")),
        ("a resume that is null", with(r#"{"resume":null}"#), neither("null")),
        ("an unknown function", with(r#"{"func":"brew"}"#), failed("function \"brew\" of step s")),
        ("a function that is a number", with(r#"{"func":7}"#), failed("function \"s\" of step s")),
        ("a sleep of less than nothing", sleep(r#""seconds":-1"#), no_time()),
        ("a sleep of all time", sleep(r#""seconds":1e300"#), no_time()),
        ("a sleep of a word", sleep(r#""seconds":"1""#), no_time()),
        ("two lengths of a sleep", sleep(r#""seconds":0,"ms":0"#), no_time()),
    ]
}

fn words_and_numbers() -> Vec<Row> {
    let kind =
        |kind: Option<&str>| RecordedStep { executor_type: kind.map(Into::into), ..step("s") };
    let unknown = |kind: &str| failed(&format!("does not know executor type {kind:?} of step s"));
    let none = || failed("step \"s\" cannot be run: it has no executor_type");
    let timeout = |timeout| RecordedStep { timeout: Some(timeout), ..noop("s") };
    let retries = |retries| RecordedStep { retries: Some(retries), ..noop("s") };
    let order = |order| RecordedStep { order: Some(order), ..noop("s") };
    let named = |name: &str| RecordedStep { name: Some(name.into()), ..noop("s") };
    let negative = |column, value: i64| failed(&format!("its {column} is negative: {value}"));
    vec![
        ("no executor type", kind(None), none()),
        ("an empty executor type", kind(Some("")), none()),
        ("an executor type in capitals", kind(Some("SHELL")), unknown("SHELL")),
        ("an executor type with a blank", kind(Some("func ")), unknown("func ")),
        ("an unknown executor type", kind(Some("🦀\n")), unknown("🦀\n")),
        ("a negative timeout", timeout(-1), negative("timeout", -1)),
        ("the least timeout", timeout(i64::MIN), negative("timeout", i64::MIN)),
        ("the greatest timeout", timeout(i64::MAX), Success),
        ("negative retries", retries(i64::MIN), negative("retries", i64::MIN)),
        ("the most retries", retries(i64::MAX), Success),
        ("the least order", order(i64::MIN), Success),
        ("the greatest order", order(i64::MAX), Success),
        ("a name of many lines", named("a\n\u{1b}[2Jb\0"), Success),
        ("a name of 60,000 bytes", named(&"🦀".repeat(15_000)), Success),
    ]
}
