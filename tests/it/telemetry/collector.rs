//! A collector that takes spans over HTTP as OTLP has it, and remembers them.

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex},
};

use axum::{
    Router,
    body::Bytes,
    extract::State,
    http::{HeaderMap, Method, StatusCode, Uri},
};
use opentelemetry_proto::tonic::{
    collector::trace::v1::ExportTraceServiceRequest,
    common::v1::{KeyValue, any_value::Value},
    resource::v1::Resource,
    trace::v1::Span,
};
use prost::Message;
use tokio::{net::TcpListener, task::JoinSet};

/// One request as it came.
#[derive(Clone, Debug)]
pub struct Request {
    pub method: Method,
    pub path: String,
    pub headers: HeaderMap,
    pub body: Bytes,
}

type Requests = Arc<Mutex<Vec<Request>>>;

/// A running collector; ends when dropped.
pub struct Collector {
    pub address: SocketAddr,
    requests: Requests,
    _serving: JoinSet<()>,
}

impl Collector {
    /// Answers every request with this status.
    pub fn start(status: StatusCode) -> Self {
        Self::start_at(std::net::TcpListener::bind("127.0.0.1:0").expect("a free port"), status)
    }

    pub fn start_at(listener: std::net::TcpListener, status: StatusCode) -> Self {
        listener.set_nonblocking(true).expect("it can be");
        let listener = TcpListener::from_std(listener).expect("a listener");
        let address = listener.local_addr().expect("an address");
        let requests = Requests::default();
        let app = Router::new()
            .fallback(
                async move |State(seen): State<Requests>,
                            method: Method,
                            uri: Uri,
                            headers: HeaderMap,
                            body: Bytes| {
                    let path = uri.path().to_owned();
                    seen.lock().expect("no panic").push(Request { method, path, headers, body });
                    status
                },
            )
            .with_state(requests.clone());
        let mut serving = JoinSet::new();
        serving.spawn(async move { axum::serve(listener, app).await.expect("it serves") });
        Self { address, requests, _serving: serving }
    }

    /// As `OTEL_EXPORTER_OTLP_ENDPOINT` takes it.
    pub fn endpoint(&self) -> String {
        format!("http://{}", self.address)
    }

    pub fn requests(&self) -> Vec<Request> {
        self.requests.lock().expect("no panic").clone()
    }

    /// All spans that came, each with what it is a part of.
    pub fn spans(&self) -> Vec<(Resource, Span)> {
        let mut spans = Vec::new();
        for request in self.requests() {
            let request = ExportTraceServiceRequest::decode(request.body).expect("spans");
            for of_resource in request.resource_spans {
                let resource = of_resource.resource.expect("a resource");
                for of_scope in of_resource.scope_spans {
                    spans.extend(of_scope.spans.into_iter().map(|span| (resource.clone(), span)));
                }
            }
        }
        spans
    }
}

/// An attribute that is a text, a whole number or a flag, as text.
pub fn attribute(attributes: &[KeyValue], key: &str) -> Option<String> {
    let attribute = attributes.iter().find(|attribute| attribute.key == key)?;
    match attribute.value.as_ref()?.value.as_ref()? {
        Value::StringValue(text) => Some(text.clone()),
        Value::IntValue(number) => Some(number.to_string()),
        Value::BoolValue(flag) => Some(flag.to_string()),
        other => panic!("{key} is {other:?}"),
    }
}
