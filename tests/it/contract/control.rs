//! What an operator does: prepare the tables, put workflows in, submit.

use orchestrator_worker::{
    domain::{definition::Definition, eligibility::Eligibility, id::ExecutionId},
    ports::{
        control::{
            About, Applied, Control, ControlError, Filter, MigrationStep, Start, Submission,
        },
        executions::{ExecutionStore, StoreError},
    },
};

use super::{Subject, world::*};

fn names(steps: &[MigrationStep]) -> Vec<&str> {
    steps.iter().map(|step| step.what.as_str()).collect()
}

/// Every verb says that it needs tables, and how to have them.
async fn wants_tables(store: &(impl ExecutionStore + Control)) {
    let filter = Filter { limit: 1, ..Filter::default() };
    assert_eq!(store.list(&filter).await, Err(ControlError::NotMigrated));
    assert_eq!(store.show(&"x".into()).await, Err(ControlError::NotMigrated));
    let submission = Submission {
        template: "t".into(),
        created_by: String::new(),
        start: Start::Now,
        traceparent: None,
    };
    assert_eq!(store.submit(&submission).await, Err(ControlError::NotMigrated));
    let definition = workflow("w", chain(&["one"]));
    let applied = store.apply(&definition, &About::default()).await;
    assert_eq!(applied, Err(ControlError::NotMigrated));
    for error in [
        store.claim(&who("a"), 1).await.expect_err("no tables"),
        store.survey().await.expect_err("no tables"),
        store.queue(&Eligibility::default()).await.expect_err("no tables"),
    ] {
        assert!(matches!(&error, StoreError::NotReady(_)), "{error:?}");
        assert!(error.to_string().contains("`orchestrator-worker migrate`"), "{error}");
    }
}

pub async fn an_empty_database_is_migrated_once_and_a_dry_run_changes_nothing<S: Subject>() {
    let subject = S::create().await;
    let (a, b) = (subject.store().await, subject.store().await);
    wants_tables(&a).await;
    let announced = a.migrate(true).await.expect("a dry run");
    assert!(!announced.is_empty());
    assert!(announced.iter().all(|step| step.took.is_none()));
    wants_tables(&b).await;
    let again = a.migrate(true).await.expect("a dry run");
    assert_eq!(names(&again), names(&announced), "nothing was done");

    let done = a.migrate(false).await.expect("a migration");
    assert_eq!(names(&done), names(&announced));
    assert!(done.iter().all(|step| step.took.is_some()));
    for (store, dry_run) in [(&a, false), (&b, false), (&a, true), (&b, true)] {
        assert_eq!(store.migrate(dry_run).await, Ok(Vec::new()));
    }
    let since = "SELECT first_migrated_at FROM ow_meta";
    assert!(subject.one(since).await.is_some());
    assert!(is_nothing(&b.claim(&who("b"), 1).await.expect("a claim")));
}

pub async fn two_migrations_at_one_moment_do_each_step_once<S: Subject>() {
    let subject = S::create().await;
    let (a, b) = (subject.store().await, subject.store().await);
    let announced = a.migrate(true).await.expect("a dry run");
    let (of_a, of_b) = tokio::join!(a.migrate(false), b.migrate(false));
    let mut all = of_a.expect("a migration");
    all.extend(of_b.expect("a migration"));
    assert_eq!(names(&all), names(&announced));
    for table in ["ow_meta", "ow_primary"] {
        let rows = subject.one(&format!("SELECT COUNT(*) FROM {table}")).await;
        assert_eq!(rows.as_deref(), Some("1"), "{table}");
    }
}

pub async fn tables_that_need_a_newer_worker_are_left_alone<S: Subject>() {
    let world = World::<S>::new().await;
    let id = world.submit_chain(&["one"]).await;
    world.subject.exec("UPDATE ow_meta SET version=7").await;
    assert_eq!(world.a.migrate(false).await, Ok(Vec::new()), "newer, but additive");
    world.subject.exec("UPDATE ow_meta SET oldest_reader=7").await;
    let too_new = ControlError::TooNew { needed: 7, known: 1 };
    let old = world.subject.store().await;
    let filter = Filter { limit: 1, ..Filter::default() };
    assert_eq!(old.list(&filter).await, Err(too_new.clone()));
    assert_eq!(old.migrate(false).await, Err(too_new.clone()));
    assert_eq!(old.migrate(true).await, Err(too_new));
    let error = old.claim(&who("a"), 1).await.expect_err("it is too old");
    assert!(matches!(error, StoreError::NotReady(_)), "{error:?}");
    assert_eq!(world.status(&id).await, "pending");
}

pub async fn what_is_applied_twice_is_put_in_once<S: Subject>() {
    let world = World::<S>::new().await;
    let about = About { description: "of the release".into(), creator: "ann@example.org".into() };
    let definition = workflow("w", chain(&["one", "two"]));
    assert_eq!(world.a.apply(&definition, &about).await, Ok(Applied::Created));
    let before = world.everything().await;
    assert_eq!(world.b.apply(&definition, &about).await, Ok(Applied::Unchanged));
    // In whatever order its steps are written, and whoever does it.
    let mut turned = definition.clone();
    turned.steps.reverse();
    assert_eq!(world.b.apply(&turned, &about).await, Ok(Applied::Unchanged));
    let bob = About { creator: "bob@example.org".into(), ..about.clone() };
    assert_eq!(world.b.apply(&definition, &bob).await, Ok(Applied::Unchanged));
    assert_eq!(world.everything().await, before);
}

type Change = fn(&mut Definition);

pub async fn every_change_is_put_in_and_called_one<S: Subject>() {
    let world = World::<S>::new().await;
    let about = About { description: "of old".into(), creator: "ann@example.org".into() };
    let mut definition = workflow("w", chain(&["one", "two"]));
    assert_eq!(world.a.apply(&definition, &about).await, Ok(Applied::Created));
    let changes: [(&str, Change); 9] = [
        ("its name", |it| it.name = "W".into()),
        ("a step's name", |it| it.steps[0].name = Some("One".into())),
        ("a timeout", |it| it.steps[0].timeout = None),
        ("parameters", |it| it.steps[0].parameters = Some(r#"{"func":"noop","loud":1}"#.into())),
        ("an environment", |it| it.steps[1].shell_env = Some(r#"{"A":"1"}"#.into())),
        ("a dependency", |it| it.steps[1].dependencies = None),
        ("a mode", |it| it.steps[1].run_mode = Some("parallel".into())),
        ("an order", |it| it.steps[1].order = Some(7)),
        ("a step less", |it| drop(it.steps.pop())),
    ];
    for (what, change) in changes {
        change(&mut definition);
        assert_eq!(world.a.apply(&definition, &about).await, Ok(Applied::Changed), "{what}");
        assert_eq!(world.a.apply(&definition, &about).await, Ok(Applied::Unchanged), "{what}");
    }
    let newer = About { description: "of late".into(), creator: "bob@example.org".into() };
    assert_eq!(world.a.apply(&definition, &newer).await, Ok(Applied::Changed));
    let template = world.subject.rows("SELECT * FROM workflow_templates").await.remove(0);
    for (column, value) in
        [("name", "W"), ("description", "of late"), ("creator_email", "ann@example.org")]
    {
        assert_eq!(template[column].as_deref(), Some(value), "{column}");
    }
    let id = world.submit(&definition.template).await;
    let claim = claim_one(&world.a, "a").await;
    assert_eq!(claim.lease.execution, id);
    assert_eq!(started(&claim), ["One"]);
    assert_eq!(claim.workflow.nodes().len(), 1);
}

pub async fn what_is_submitted_is_pending_with_all_its_steps<S: Subject>() {
    let world = World::<S>::new().await;
    let definition = workflow("w", chain(&["one", "two"]));
    world.apply(&definition).await;
    for wanted in [definition.template.as_str(), "w"] {
        let submission = Submission {
            template: wanted.into(),
            created_by: "ann".into(),
            start: Start::Now,
            traceparent: None,
        };
        let submitted = world.a.submit(&submission).await.expect("it is submitted");
        assert_eq!(submitted.template, definition.template);
        assert_eq!(submitted.template_name, "w");
        let id = &submitted.execution;
        for (column, value) in [
            ("status", Some("pending")),
            ("created_by", Some("ann")),
            ("template_id", Some(definition.template.as_str())),
            ("ow_fence", Some("0")),
            ("ow_owner", Some("")),
            ("started_at", None),
            ("finished_at", None),
            ("error", None),
        ] {
            assert_eq!(world.execution(id, column).await.as_deref(), value, "{column}");
        }
        assert!(world.execution(id, "created_at").await.is_some());
        let count = format!(
            "SELECT COUNT(*) FROM workflow_step_executions \
             WHERE execution_id='{id}' AND status='pending' AND retry_count=0 AND ow_attempt=0"
        );
        assert_eq!(world.subject.one(&count).await.as_deref(), Some("2"));
        assert_eq!(world.lock(id, "owner").await, None);
    }
}

pub async fn nothing_is_submitted_for_what_is_unknown_inactive_or_ambiguous<S: Subject>() {
    let world = World::<S>::new().await;
    for name in ["first", "second", "third"] {
        world.apply(&workflow(name, chain(&["one"]))).await;
    }
    let rename = |id: &str, name: &str| {
        format!("UPDATE workflow_templates SET name='{name}' WHERE id='template-{id}'")
    };
    let wanted = async |template: &str| {
        let submission = Submission {
            template: template.into(),
            created_by: String::new(),
            start: Start::Now,
            traceparent: None,
        };
        world.a.submit(&submission).await.map(|it| it.template.to_string())
    };
    for unknown in ["", "fourth", "First", "first ", "template-FIRST", "%", "f_rst"] {
        assert_eq!(wanted(unknown).await, Err(ControlError::NoTemplate(unknown.into())));
    }
    world.subject.exec("UPDATE workflow_templates SET is_active=0 WHERE name='third'").await;
    for inactive in ["third", "template-third"] {
        assert_eq!(wanted(inactive).await, Err(ControlError::Inactive(inactive.into())));
    }
    world.subject.exec("UPDATE workflow_templates SET is_active=NULL WHERE name='first'").await;
    assert_eq!(wanted("first").await.as_deref(), Ok("template-first"), "active, as by default");

    world.subject.exec(&rename("third", "second")).await;
    let ids = "template-second, template-third".to_owned();
    let ambiguous = ControlError::Ambiguous { name: "second".into(), count: 2, ids };
    assert_eq!(wanted("second").await, Err(ambiguous));
    assert_eq!(wanted("template-second").await.as_deref(), Ok("template-second"));
    // An id counts before any name that looks like it; names in another case are other names.
    world.subject.exec(&rename("third", "template-first")).await;
    assert_eq!(wanted("template-first").await.as_deref(), Ok("template-first"));
    world.subject.exec(&rename("third", "FIRST")).await;
    assert_eq!(wanted("first").await.as_deref(), Ok("template-first"));
    assert_eq!(wanted("FIRST").await, Err(ControlError::Inactive("FIRST".into())));

    let made = "SELECT COUNT(*) FROM workflow_executions";
    assert_eq!(world.subject.one(made).await.as_deref(), Some("4"));
}

pub async fn a_submission_that_is_refused_leaves_nothing<S: Subject>() {
    let world = World::<S>::new().await;
    let before = world.everything().await;
    let submission = Submission {
        template: "nobody's".into(),
        created_by: "ann".into(),
        start: Start::Now,
        traceparent: None,
    };
    world.a.submit(&submission).await.expect_err("there is no such template");
    assert_eq!(world.everything().await, before);
    let id: ExecutionId = "nobody's".into();
    assert_eq!(world.a.show(&id).await, Err(ControlError::NoExecution("nobody's".into())));
}
