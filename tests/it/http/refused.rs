//! Servers that no step may call: by address, by name, behind a redirect, and through a name that
//! changes its mind. A server of the test would see whoever called it.

use orchestrator_worker::domain::egress::{Own, Owned, Place};

use super::{
    server::{Act, Server},
    *,
};

const LINK_LOCAL: &str = "is link-local, where clouds serve metadata and credentials; only an \
                          address or a range in http.allow opens it";

#[tokio::test]
async fn addresses_are_refused_in_every_notation_and_by_name() {
    let names = Names::new(&[
        ("metadata.example", &[&["169.254.169.254"]]),
        ("mixed.example", &[&["127.0.0.1", "169.254.169.254"]]),
        ("mapped.example", &[&["::ffff:169.254.169.254"]]),
        ("nat64.example", &[&["64:ff9b::a9fe:a9fe"]]),
    ]);
    for (host, shown, address) in [
        ("169.254.169.254", "169.254.169.254", "169.254.169.254"),
        ("2852039166", "169.254.169.254", "169.254.169.254"),
        ("0xa9fea9fe", "169.254.169.254", "169.254.169.254"),
        ("0251.0376.0251.0376", "169.254.169.254", "169.254.169.254"),
        ("169.254.43518", "169.254.169.254", "169.254.169.254"),
        ("169.254.169.254.", "169.254.169.254", "169.254.169.254"),
        ("%31%36%39.254.169.254", "169.254.169.254", "169.254.169.254"),
        ("１６９.254.169.254", "169.254.169.254", "169.254.169.254"),
        ("[::ffff:169.254.169.254]", "[::ffff:a9fe:a9fe]", "::ffff:169.254.169.254"),
        ("[64:ff9b::169.254.169.254]", "[64:ff9b::a9fe:a9fe]", "64:ff9b::a9fe:a9fe"),
        ("[2002:a9fe:a9fe::]", "[2002:a9fe:a9fe::]", "2002:a9fe:a9fe::"),
        ("metadata.example", "metadata.example", "169.254.169.254"),
        ("METADATA.example.", "metadata.example.", "169.254.169.254"),
        ("mixed.example", "mixed.example", "169.254.169.254"),
        ("mapped.example", "mapped.example", "::ffff:169.254.169.254"),
        ("nat64.example", "nat64.example", "64:ff9b::a9fe:a9fe"),
    ] {
        let url = format!("http://hunter2@{host}/latest/meta-data/?hunter2");
        let said = unanswered_of(Case::new().names(&names).run(get(&url)).await);
        assert_eq!(said, format!("may not call {shown}:80: {address} {LINK_LOCAL}"), "{host}");
    }
}

#[tokio::test]
async fn a_redirect_is_checked_like_a_first_request() {
    let names = Names::new(&[("metadata.example", &[&["169.254.169.254"]])]);
    for host in ["169.254.169.254", "2852039166", "metadata.example"] {
        let to = format!("http://{host}/latest/");
        let server = Server::always(Act::redirect("302 X", &to)).await;
        let said = unanswered_of(Case::new().names(&names).run(get(&server.url("/"))).await);
        assert!(said.contains(&format!("169.254.169.254 {LINK_LOCAL}")), "{said}");
        assert!(said.ends_with(&format!(" (redirected there by {})", server.address)), "{said}");
    }
}

#[tokio::test]
async fn a_name_that_changes_its_mind_is_connected_where_it_was_checked() {
    let server = Server::always(Act::ok("here")).await;
    let names = Names::new(&[("rebind.example", &[&["127.0.0.1"], &["169.254.169.254"]])]);
    let case = Case::new().names(&names);
    let url = format!("http://rebind.example:{}/", server.port());
    assert_eq!(output_of(case.run(get(&url)).await)["body"], "here");
    assert_eq!(names.asked().len(), 1, "nobody asks again between the check and the connection");
    let said = unanswered_of(case.run(get(&url)).await);
    assert!(said.contains(LINK_LOCAL), "{said}");

    // At a redirect to the same name it is asked again, and checked again.
    let names = Names::new(&[("rebind.example", &[&["127.0.0.1"], &["169.254.169.254"]])]);
    let server = Server::always(Act::redirect("302 X", "/again")).await;
    let url = format!("http://rebind.example:{}/", server.port());
    let said = unanswered_of(Case::new().names(&names).run(get(&url)).await);
    assert!(said.contains(LINK_LOCAL), "{said}");
    assert_eq!((names.asked().len(), server.connections()), (2, 1));
}

/// Runs with these rules and says whether the server was reached.
async fn reaches(case: &Case, server: &Server, url: &str) -> bool {
    let before = server.connections();
    let outcome = case.run(get(url)).await;
    let reached = server.connections() > before;
    assert_eq!(matches!(outcome, Outcome::Success { .. }), reached, "{outcome:?}");
    reached
}

#[tokio::test]
async fn rules_decide_and_loopback_is_closed_in_a_pod() {
    let server = Server::always(Act::ok("")).await;
    let names = Names::new(&[("server.example", &[&["127.0.0.1"]])]);
    let url = format!("http://server.example:{}/", server.port());
    let with_port = format!("127.0.0.1:{}", server.port());
    let in_pod = |policy: &mut orchestrator_worker::domain::egress::Policy| policy.in_pod = true;
    for (allow, deny, pod, private, reached) in [
        (vec![], vec![], false, false, true),
        (vec![], vec![], true, false, false),
        (vec!["127.0.0.0/8"], vec![], true, false, true),
        (vec![with_port.as_str()], vec![], true, false, true),
        (vec!["server.example"], vec![], true, false, false),
        (vec![], vec![], false, true, false),
        (vec!["server.example"], vec![], false, true, true),
        (vec![], vec!["server.example"], false, false, false),
        (vec!["127.0.0.0/8"], vec!["*.example"], false, false, false),
        (vec![], vec!["*:1"], false, false, true),
    ] {
        let mut case = Case::new().names(&names);
        let parse = |texts: &[&str]| texts.iter().map(|t| t.parse().expect("a rule")).collect();
        let policy = &mut case.settings.policy;
        (policy.allow, policy.deny, policy.deny_private) = (parse(&allow), parse(&deny), private);
        if pod {
            in_pod(policy);
        }
        assert_eq!(reaches(&case, &server, &url).await, reached, "{allow:?} {deny:?} {pod}");
    }
}

#[tokio::test]
async fn the_workers_own_servers_are_refused_by_name_and_by_every_address() {
    let server = Server::always(Act::ok("")).await;
    let port = server.port();
    let names = Names::new(&[
        ("own.example", &[&["127.0.0.1"]]),
        ("alias.example", &[&["127.0.0.1"]]),
        ("gone.example", &[&["127.0.0.9"]]),
    ]);
    let place = |what, place, port| Own { what, place, port };
    let urls = ["127.0.0.1", "own.example", "alias.example", "[::ffff:127.0.0.1]"]
        .map(|host| format!("http://{host}:{port}/"));
    let mut case = Case::new().names(&names);
    case.settings.policy.allow = vec!["0.0.0.0/0".parse().expect("a rule")];
    for own in [
        place(Owned::AdminPort, Place::ThisHost, port),
        place(Owned::Database, Place::Name("own.example".into()), port),
        place(Owned::Database, Place::Address(LOCAL), port),
    ] {
        case.settings.own = vec![own.clone()];
        for url in &urls {
            let said = unanswered_of(case.run(get(url)).await);
            let expected = format!("is {}, which no step may call", own.what);
            assert!(said.ends_with(&expected), "{url}: {said}");
        }
    }
    assert_eq!(server.connections(), 0);
    // Another port, another name with another address.
    let elsewhere = Place::Name("gone.example".into());
    case.settings.own = vec![
        place(Owned::AdminPort, Place::ThisHost, port - 1),
        place(Owned::Database, elsewhere, port),
    ];
    assert!(reaches(&case, &server, &urls[1]).await);
    // Where its own server cannot be looked up, nobody can tell it from the one that is called.
    let unknown = Place::Name("unknown.example".into());
    case.settings.own = vec![place(Owned::Database, unknown, port)];
    let said = unanswered_of(case.run(get(&urls[1])).await);
    let expected = format!(
        "cannot tell own.example:{port} from this worker's own database, which no step may call: \
         looking up unknown.example: no such name"
    );
    assert_eq!(said, expected);
}

#[tokio::test]
async fn the_systems_resolver_is_asked_for_names_that_only_it_knows() {
    let server = Server::always(Act::ok("")).await;
    let url = format!("http://localhost:{}/", server.port());
    let mut case = Case::new();
    assert!(reaches(&case, &server, &url).await);
    case.settings.policy.deny_private = true;
    assert!(!reaches(&case, &server, &url).await);
}
