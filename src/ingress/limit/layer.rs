//! The two layers that count requests. They are services: a function as middleware would copy all that is inside it and box its
//! answer for every request, which costs more than the counting.

use std::{
    convert::Infallible,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use axum::{
    extract::Request,
    response::{IntoResponse, Response},
};
use futures::future::Either;
use pin_project_lite::pin_project;
use schemas::ids::PlaybackId;
use tower::{Layer, Service, layer::layer_fn};

use super::{Group, Limits, Ticket, group};
use crate::{
    auth::{Principal, gate::grant::token},
    ingress::{
        client::Client,
        error::Problem,
        guard::{Guard, Refused, guard, refused},
    },
};

/// Counts requests: those below a playback token of `playback_key` for their session, and what proves nothing for its client. What is
/// to prove something is counted behind authentication, or here once it is answered. Stands in front of authentication and behind
/// [`crate::ingress::client::identify`].
pub fn by_client<S>(limits: Limits, playback_key: Arc<[u8]>) -> impl Layer<S, Service = ByClient<S>> + Clone {
    layer_fn(move |inner| ByClient { limits: limits.clone(), playback_key: Arc::clone(&playback_key), inner })
}

/// Counts each request for its principal. Stands behind authentication; a request without a [`Principal`] passes.
pub fn by_principal<S>() -> impl Layer<S, Service = Guard<S>> + Clone {
    guard(count_principal)
}

/// Service of [`by_client`].
#[derive(Debug, Clone)]
pub struct ByClient<S> {
    limits: Limits,
    playback_key: Arc<[u8]>,
    inner: S,
}

impl<S> ByClient<S> {
    /// The playback session whose token the path carries.
    fn playback(&self, path: &str) -> Option<PlaybackId> {
        let text = path.strip_prefix("/play/")?.split('/').next()?;
        token::open(&self.playback_key, text)
    }
}

impl<S> Service<Request> for ByClient<S>
where
    S: Service<Request, Response = Response, Error = Infallible>,
{
    type Response = Response;
    type Error = Infallible;
    type Future = Told<Either<Refused, S::Future>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, mut request: Request) -> Self::Future {
        let (method, path, headers) = (request.method(), request.uri().path(), request.headers());
        let group = Group::of(method, path, headers);
        let ticket = self.limits.ticket(Client::among(request.extensions(), headers).prefix, group);
        let proves = group::proves(method, path, headers);
        let admitted = match self.playback(path) {
            Some(session) => ticket.admit_session(&session.to_string()),
            None if proves => Ok(()),
            None => ticket.admit_client(),
        };
        let answer = match admitted {
            Ok(()) => {
                request.extensions_mut().insert(ticket.clone());
                Either::Right(self.inner.call(request))
            }
            Err(problem) => Either::Left(refused(problem)),
        };
        Told { ticket, proves, answer }
    }
}

pin_project! {
    /// An answer on which the caller is told how it stands. What was to prove something is settled here.
    #[derive(Debug)]
    pub struct Told<F> {
        ticket: Ticket,
        proves: bool,
        #[pin]
        answer: F,
    }
}

impl<F: Future<Output = Result<Response, Infallible>>> Future for Told<F> {
    type Output = F::Output;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        let mut answer = ready!(this.answer.poll(context));
        if let Ok(response) = &mut answer {
            if *this.proves
                && let Err(problem) = this.ticket.settle(response.status())
            {
                *response = problem.into_response();
            }
            let status = response.status();
            this.ticket.tell(status, response.headers_mut());
        }
        Poll::Ready(answer)
    }
}

fn count_principal(request: &Request) -> Result<(), Problem> {
    let extensions = request.extensions();
    match (extensions.get::<Ticket>(), extensions.get::<Principal>()) {
        (Some(ticket), Some(who)) => ticket.admit(&who.owner),
        _ => Ok(()),
    }
}
