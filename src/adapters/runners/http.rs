//! Steps that are HTTP requests.
//!
//! **Invariant:** an attempt is one future: its sockets are closed when it ends or is stopped, when
//! its lease ends, and when nobody waits for it any more. It connects to addresses only that
//! [`egress`] has let through, at each redirect again; proxies are not used, because behind one
//! nobody could tell which address is called.

mod answer;
mod connection;
pub mod egress;
mod failure;
mod message;
mod redirect;

use std::{future::poll_fn, sync::Arc, time::Duration};

use async_trait::async_trait;
use http_body_util::BodyExt;
use hyper::body::Frame;
use rustls::{ClientConfig, RootCertStore, crypto::ring};
use tokio::time::sleep;

use self::{
    answer::Answer,
    connection::Connector,
    egress::{Egress, Resolve, SystemResolver, server},
    failure::Failure,
    redirect::{Hop, MOST_REDIRECTS, Redirect},
};
use super::{
    output::{ERROR_BYTES, fit},
    unanswered,
};
use crate::{
    clock::boot_now,
    domain::{
        egress::{Own, Policy},
        intake::Supported,
        request::Request,
        step::Action,
    },
    ports::runner::{Attempt, Halt, Outcome, StepRunner},
};

/// How HTTP steps are run.
#[derive(Clone, Debug)]
pub struct HttpSettings {
    /// Looking up, connecting and opening TLS together; at each redirect anew.
    pub connect_timeout: Duration,
    /// Bytes of a body that may be sent.
    pub most_sent: usize,
    /// Bytes of an answer's body that are read.
    pub most_read: usize,
    pub policy: Policy,
    /// Servers that belong to the worker: no step may call them.
    pub own: Vec<Own>,
    pub resolver: Arc<dyn Resolve>,
    /// Certificates against which servers are checked.
    pub roots: Arc<RootCertStore>,
}

impl Default for HttpSettings {
    /// With this machine's CA certificates: those of `SSL_CERT_FILE` and `SSL_CERT_DIR`, else of
    /// the system's usual places. They are read once.
    fn default() -> Self {
        let mut roots = RootCertStore::empty();
        roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        Self {
            connect_timeout: Duration::from_secs(5),
            most_sent: 1 << 20,
            most_read: 8 << 20,
            policy: Policy::default(),
            own: Vec::new(),
            resolver: Arc::new(SystemResolver),
            roots: Arc::new(roots),
        }
    }
}

/// Runs `http` steps.
#[derive(Clone)]
pub struct HttpRunner {
    connector: Connector,
    most_sent: usize,
    most_read: usize,
}

impl HttpRunner {
    pub fn new(settings: HttpSettings) -> Self {
        let HttpSettings { connect_timeout, most_sent, most_read, policy, own, resolver, roots } =
            settings;
        let no_roots = roots.is_empty();
        let mut tls = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .expect("ring speaks TLS 1.2 and 1.3")
            .with_root_certificates(roots)
            .with_no_client_auth();
        tls.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        let connector = Connector {
            egress: Egress { policy, own, resolver },
            tls: Arc::new(tls),
            within: connect_timeout,
            no_roots,
        };
        Self { connector, most_sent, most_read }
    }

    /// Sends the request and follows redirects until there is an answer.
    async fn answer(&self, attempt: &Attempt, request: &Request) -> Result<Outcome, Failure> {
        let mut hop = message::first_hop(request);
        if hop.body.len() > self.most_sent {
            let (bytes, most) = (hop.body.len(), self.most_sent);
            return Err(Failure::BodyTooLong { bytes, most });
        }
        let mut redirected_by = None;
        for _ in 0..=MOST_REDIRECTS {
            match self.exchange(attempt, &hop).await {
                Ok(Exchanged::Answer(outcome)) => return Ok(outcome),
                Ok(Exchanged::Redirect(next)) => {
                    redirected_by = Some(server(&hop.url));
                    hop = *next;
                }
                Err(failure) => {
                    return Err(match redirected_by {
                        Some(by) => Failure::Redirected { failure: Box::new(failure), by },
                        None => failure,
                    });
                }
            }
        }
        let server = redirected_by.unwrap_or_default();
        Err(Failure::TooManyRedirects { server, most: MOST_REDIRECTS })
    }

    /// One request to one server, on a connection of its own.
    async fn exchange(&self, attempt: &Attempt, hop: &Hop) -> Result<Exchanged, Failure> {
        let server = server(&hop.url);
        let mut connection = self.connector.connect(&hop.url).await?;
        let message = message::message(attempt, hop, connection.is_http2())
            .map_err(|problem| Failure::Unsendable { server: server.clone(), problem })?;
        let (head, mut body) = match connection.send(message).await {
            Ok(response) => response.into_parts(),
            Err(source) => return Err(Failure::NoAnswer { server, source }),
        };
        match hop.redirect(head.status, head.headers.get(http::header::LOCATION)) {
            Redirect::None => {}
            Redirect::To(next) => return Ok(Exchanged::Redirect(next)),
            Redirect::Nowhere => return Err(Failure::Redirect { server }),
        }
        let mut answer = Answer::new(head.status, &head.headers, self.most_read);
        let mut is_whole = true;
        while let Some(frame) = connection.work().beside(body.frame()).await {
            match frame.map(Frame::into_data) {
                Ok(Ok(piece)) => is_whole = answer.push(&piece),
                // Trailers.
                Ok(Err(_)) => {}
                // A failure is one even if its explanation is lost.
                Err(_) if answer.is_failure() => is_whole = false,
                Err(source) => return Err(Failure::BrokenOff { server, source }),
            }
            if !is_whole {
                break;
            }
        }
        Ok(Exchanged::Answer(answer.outcome(&server, is_whole, hop.is_the_effect)))
    }
}

enum Exchanged {
    Answer(Outcome),
    Redirect(Box<Hop>),
}

#[async_trait]
impl StepRunner for HttpRunner {
    fn supported(&self) -> Supported {
        Supported { kinds: ["http".to_owned()].into(), ..Supported::default() }
    }

    async fn run(&self, attempt: Attempt) -> Outcome {
        let Action::Http(request) = &attempt.step.action else {
            return unanswered(format!("a {} step is no request", attempt.step.action.kind()));
        };
        tokio::select! {
            biased;
            () = halted(attempt.halt.clone()) => Outcome::Stopped { output: None },
            answer = self.answer(&attempt, request) => answer
                .unwrap_or_else(|failure| unanswered(fit(&failure.to_string(), ERROR_BYTES))),
        }
    }
}

/// Waits until the attempt is stopped or killed, or its lease ends. The clock is asked at each
/// poll, so that a process that was frozen sends nothing more when it wakes after the deadline.
async fn halted(halt: Halt) {
    let deadline = halt.deadline.clone();
    let told = told(halt);
    tokio::pin!(told);
    poll_fn(move |context| {
        if boot_now() >= *deadline.borrow() {
            return std::task::Poll::Ready(());
        }
        told.as_mut().poll(context)
    })
    .await;
}

async fn told(mut halt: Halt) {
    loop {
        let left = halt.deadline.borrow_and_update().since(boot_now());
        tokio::select! {
            biased;
            () = halt.kill.cancelled() => return,
            () = halt.stop.cancelled() => return,
            () = sleep(left) => return,
            // An error: nobody renews any more, and the last deadline stands.
            Ok(()) = halt.deadline.changed() => {}
        }
    }
}
