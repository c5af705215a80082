//! An attempt that is stopped, killed, or has lost its lease: nothing of it is left.

use tokio::{io::AsyncReadExt, net::TcpListener, sync::Notify};

use super::{
    server::{Act, Server},
    *,
};

/// Servers that never end, each in another phase.
async fn endless() -> [Server; 4] {
    let repeat = |head: &str, every| Act::Repeat {
        head: head.into(),
        piece: "x".into(),
        every: Duration::from_millis(every),
    };
    let body = "HTTP/1.1 200 OK\r\nContent-Length: 1000000000\r\n\r\n";
    [
        Server::always(Act::Hang).await,
        // A head that never ends, a body that drips, and one that floods.
        Server::always(repeat("HTTP/1.1 200 OK\r\nX: ", 10)).await,
        Server::always(repeat(body, 10)).await,
        Server::always(repeat("HTTP/1.1 500 X\r\n\r\n", 1)).await,
    ]
}

#[tokio::test]
async fn stop_kill_and_the_end_of_the_lease_close_the_connection_in_every_phase() {
    for how in ["stop", "kill", "deadline", "nobody waits"] {
        for server in endless().await {
            let case = Case::new();
            let task = case.spawn(get(&server.url("/")));
            server.has_seen(1).await;
            match how {
                "stop" => case.stop.cancel(),
                "kill" => case.kill.cancel(),
                "deadline" => drop(case.deadline.send_replace(boot_now())),
                _ => task.abort(),
            }
            if how == "nobody waits" {
                assert!(task.await.expect_err("it was aborted").is_cancelled());
            } else {
                assert_eq!(ended(task).await, Outcome::Stopped { output: None }, "{how}");
            }
            server.was_left(1).await;
        }
    }
}

#[tokio::test]
async fn a_server_that_reads_nothing_does_not_hold_up_the_end() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let port = listener.local_addr().expect("an address").port();
    let mut case = Case::new();
    case.settings.most_sent = 32 << 20;
    let body = "x".repeat(32 << 20);
    let task = case.spawn(request("POST", &format!("http://127.0.0.1:{port}/"), &[], &body));
    let (mut stream, _) = listener.accept().await.expect("it connects");
    let mut first = [0; 1024];
    stream.read_exact(&mut first).await.expect("the request begins");
    case.stop.cancel();
    assert_eq!(ended(task).await, Outcome::Stopped { output: None });
    let mut rest = Vec::new();
    // An end or a reset, which differ only in who was quicker.
    drop(timeout(CEILING, stream.read_to_end(&mut rest)).await.expect("it is closed"));
    assert!(rest.len() < 32 << 20, "it was closed before all was sent");
}

#[tokio::test]
async fn an_attempt_that_is_halted_already_does_not_begin() {
    let server = Server::always(Act::ok("")).await;
    let (stopped, killed, late) = (Case::new(), Case::new(), Case::new());
    stopped.stop.cancel();
    killed.kill.cancel();
    late.deadline.send_replace(boot_now());
    for case in [stopped, killed, late] {
        assert_eq!(case.run(get(&server.url("/"))).await, Outcome::Stopped { output: None });
    }
    assert_eq!(server.connections(), 0);
}

#[tokio::test]
async fn a_deadline_that_is_not_renewed_ends_the_attempt_and_a_renewed_one_does_not() {
    let server = Server::always(Act::Hang).await;
    let case = Case::new();
    case.deadline.send_replace(boot_now().plus(Duration::from_millis(400)));
    let deadline = *case.deadline.borrow();
    let outcome = case.run(get(&server.url("/"))).await;
    assert_eq!(outcome, Outcome::Stopped { output: None });
    assert!(boot_now() >= deadline);

    let drip = Act::Repeat {
        head: "HTTP/1.1 200 OK\r\nContent-Length: 20\r\n\r\n".into(),
        piece: "x".into(),
        every: Duration::from_millis(50),
    };
    let server = Server::always(drip).await;
    let case = Case::new();
    case.deadline.send_replace(boot_now().plus(Duration::from_millis(800)));
    let first = *case.deadline.borrow();
    let task = case.spawn(get(&server.url("/")));
    server.has_seen(1).await;
    case.deadline.send_replace(boot_now().plus(CEILING));
    assert_eq!(output_of(ended(task).await)["body"], "x".repeat(20));
    assert!(boot_now() >= first, "it went on after the first deadline");
}

/// Says that it is asked, and answers when it is told to.
#[derive(Debug, Default)]
struct Held {
    asked: Notify,
    answer: Notify,
}

#[async_trait]
impl Resolve for Held {
    async fn resolve(&self, _: &str) -> io::Result<Vec<IpAddr>> {
        self.asked.notify_one();
        self.answer.notified().await;
        Ok(vec![LOCAL])
    }
}

#[tokio::test]
async fn a_process_that_wakes_after_the_deadline_begins_nothing_more() {
    let server = Server::always(Act::ok("")).await;
    let (mut case, held) = (Case::new(), Arc::new(Held::default()));
    case.settings.resolver = held.clone();
    let task = case.spawn(get(&format!("http://server.example:{}/", server.port())));
    timeout(CEILING, held.asked.notified()).await.expect("it asks");
    let deadline = boot_now().plus(Duration::from_millis(200));
    case.deadline.send_replace(deadline);
    // The answer is there, and then this thread, which all tasks share, stands still: the next that
    // runs is the attempt, before any timer.
    held.answer.notify_one();
    while boot_now() < deadline {
        std::thread::park_timeout(Duration::from_millis(10));
    }
    assert_eq!(ended(task).await, Outcome::Stopped { output: None });
    output_of(Case::new().run(get(&server.url("/"))).await);
    assert_eq!(server.connections(), 1, "that of the second attempt");
}
