//! The lock guide shows code that is compiled and run, settings that are read, and words that there are.

use std::{fs, path::Path};

use orchestrator_worker::orchestrator::{Database, LockConfig, Orchestrator};

fn project() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn guide() -> String {
    page("lock-guide.md")
}

fn page(name: &str) -> String {
    fs::read_to_string(project().join("docs").join(name)).expect("there is a guide")
}

fn blocks(guide: &str, language: &str) -> Vec<String> {
    let begin = format!("```{language}\n");
    let all = guide.split(&begin).skip(1);
    all.map(|rest| rest.split_once("```").expect("a block ends").0.to_owned()).collect()
}

/// Lines without their indentation.
fn lines(text: &str) -> Vec<&str> {
    text.lines().map(str::trim).filter(|line| !line.is_empty()).collect()
}

/// The examples that the tests run, by their names.
fn examples() -> Vec<(String, String)> {
    let folder = fs::read_dir(project().join("examples")).expect("there are examples");
    let read = |entry: std::io::Result<fs::DirEntry>| {
        let path = entry.expect("an entry").path();
        let name = path.file_name().expect("a name").to_string_lossy().into_owned();
        (name, fs::read_to_string(path).expect("a text"))
    };
    folder.map(read).collect()
}

#[test]
fn every_block_of_code_stands_in_an_example() {
    let (guide, examples) = (guide(), examples());
    let code = blocks(&guide, "rust");
    assert!(code.len() >= 6, "{} blocks", code.len());
    for block in &code {
        let block = lines(block);
        let holds = |(_, text): &&(String, String)| {
            lines(text).windows(block.len()).any(|window| window == block)
        };
        assert!(examples.iter().any(|example| holds(&example)), "in no example: {block:#?}");
    }
}

#[test]
fn every_example_is_named_in_the_guide_and_run_by_a_test() {
    let (guide, examples) = (guide(), examples());
    let run = fs::read_to_string(project().join("tests/it/locks/examples.rs")).expect("a text");
    assert_eq!(examples.len(), 6);
    for (name, _) in examples {
        assert!(guide.contains(&format!("examples/{name}")), "{name} is not in the guide");
        assert!(run.contains(&format!("examples/{name}")), "{name} is not run");
    }
}

#[test]
fn its_settings_are_read_and_its_defaults_are_the_defaults() {
    let guide = guide();
    let files = blocks(&guide, "json");
    assert_eq!(files.len(), 3);
    for file in files {
        let config: LockConfig = serde_json::from_str(&file).expect("settings");
        Orchestrator::with_lock_config(Database::memory(), config).expect("they fit");
    }
    let defaults = serde_json::to_value(LockConfig::default()).expect("it is written");
    let default = |setting: &str| defaults.pointer(&format!("/{}", setting.replace('.', "/")));
    let tables = guide.split("| setting | default | |\n").skip(1);
    let rows = tables.flat_map(|it| it.lines().skip(1).take_while(|row| row.starts_with('|')));
    let rows: Vec<&str> = rows.collect();
    assert_eq!(rows.len(), 13);
    for row in rows {
        let cells: Vec<&str> = row.split('|').map(|cell| cell.trim().trim_matches('`')).collect();
        let expected = match default(cells[1]).expect(row).clone() {
            serde_json::Value::String(text) => text,
            other => other.to_string(),
        };
        assert_eq!(cells[2], expected, "{row}");
    }
}

/// The words between backticks, in order.
fn words(text: &str) -> Vec<&str> {
    text.split('`').skip(1).step_by(2).collect()
}

#[test]
fn in_chinese_it_has_the_same_chapters_code_and_tables() {
    let (english, chinese) = (guide(), page("lock-guide.zh-CN.md"));
    for language in ["rust", "json", "toml"] {
        assert_eq!(blocks(&chinese, language), blocks(&english, language), "{language}");
    }
    let beginning =
        |guide: &str, with: &str| guide.lines().filter(|line| line.starts_with(with)).count();
    for with in ["## ", "| ", "- "] {
        assert_eq!(beginning(&chinese, with), beginning(&english, with), "lines with {with:?}");
    }
    let rows = |guide: &str| -> Vec<String> {
        let rows = guide.lines().filter(|line| line.starts_with("| `"));
        rows.map(|row| words(row.split('|').nth(1).expect("a cell")).join(" ")).collect()
    };
    assert_eq!(rows(&chinese), rows(&english), "what the tables are about");
}
