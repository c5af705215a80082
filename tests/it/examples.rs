//! The example workflows are ones that a worker runs.

use std::path::Path;

use orchestrator_worker::{cli::workflow_file, domain::workflow::Workflow};

#[test]
fn every_example_is_a_workflow_and_its_comments_teach() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy/examples");
    let files = workflow_file::load(&folder, "test").expect("the examples are right");
    let names: Vec<&str> = files.iter().map(|file| file.definition.name.as_str()).collect();
    assert_eq!(names, ["hello", "release", "skip"]);
    for file in files {
        let workflow = Workflow::try_new(&file.definition).expect("it can be run");
        assert!(workflow.nodes().len() > 1, "{}", file.definition.name);
        let text = std::fs::read_to_string(&file.path).expect("it was read before");
        assert!(text.starts_with("# "), "{} begins with what it is", file.path.display());
        assert!(!file.about.description.is_empty());
    }
}
