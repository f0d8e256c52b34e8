//! Requests to the API server, counted where they leave the client.

use super::spec;
use http::{Request, Response};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::histogram::Histogram;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Instant;
use tower::{Layer, Service};

type Latencies = Family<[(&'static str, String); 2], Histogram, fn() -> Histogram>;

/// As client-go has them, seconds.
const BUCKETS: [f64; 12] = [0.005, 0.025, 0.1, 0.25, 0.5, 1.0, 2.0, 4.0, 8.0, 15.0, 30.0, 60.0];

fn latencies() -> Histogram {
    Histogram::new(BUCKETS)
}

/// Counters of the requests to all API servers. Clones count into the same.
#[derive(Clone, Debug)]
pub struct Requests {
    total: Family<[(&'static str, String); 3], Counter>,
    latency: Latencies,
}

impl Default for Requests {
    fn default() -> Self {
        Self {
            total: Family::default(),
            latency: Latencies::new_with_constructor(latencies),
        }
    }
}

impl Requests {
    /// A layer for the client of one server.
    pub fn layer(&self, server: &http::Uri) -> Counting {
        Counting {
            requests: self.clone(),
            host: server.authority().map_or_else(String::new, ToString::to_string),
        }
    }

    pub(super) fn counter(&self) -> Family<[(&'static str, String); 3], Counter> {
        self.total.clone()
    }

    pub(super) fn histogram(&self) -> Latencies {
        self.latency.clone()
    }

    /// `status`: none when there was no answer.
    fn count(&self, method: &str, host: &str, status: Option<u16>, begun: Instant) {
        let [code, verb, _] = spec::REQUESTS.labels else { return };
        let status = status.map_or_else(|| "<error>".to_owned(), |status| status.to_string());
        let (method, host) = (method.to_owned(), host.to_owned());
        self.latency
            .get_or_create(&[("verb", method.clone()), ("host", host.clone())])
            .observe(begun.elapsed().as_secs_f64());
        self.total
            .get_or_create(&[(*code, status), (*verb, method), ("host", host)])
            .inc();
    }
}

/// See [`Requests::layer`].
#[derive(Clone, Debug)]
pub struct Counting {
    requests: Requests,
    host: String,
}

impl<S> Layer<S> for Counting {
    type Service = Counted<S>;

    fn layer(&self, inner: S) -> Counted<S> {
        Counted {
            inner,
            counting: self.clone(),
        }
    }
}

/// A client whose requests are counted.
#[derive(Clone, Debug)]
pub struct Counted<S> {
    inner: S,
    counting: Counting,
}

impl<S, Asked, Answered> Service<Request<Asked>> for Counted<S>
where
    S: Service<Request<Asked>, Response = Response<Answered>>,
    S::Future: Send + 'static,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = Pin<Box<dyn Future<Output = Result<S::Response, S::Error>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: Request<Asked>) -> Self::Future {
        let (begun, method) = (Instant::now(), request.method().to_string());
        let Counting { requests, host } = self.counting.clone();
        let answer = self.inner.call(request);
        Box::pin(async move {
            let answer = answer.await;
            let status = answer.as_ref().ok().map(|response| response.status().as_u16());
            requests.count(&method, &host, status, begun);
            answer
        })
    }
}
