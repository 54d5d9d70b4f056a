//! The two layers that count requests. They are services: a function as middleware would copy all that is inside it and box its
//! answer for every request, which costs more than the counting.

use std::{
    convert::Infallible,
    pin::Pin,
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
    client::Client,
    error::Problem,
    guard::{Guard, Refused, guard, refused},
    request::RequestOwner,
};

/// Counts requests: those below a playback token for the session that `playback_of` reads from it, and what proves nothing for its
/// client. What is to prove something is counted behind authentication, or here once it is answered. Stands in front of
/// authentication and behind [`crate::client::identify`].
pub fn by_client<S, F>(limits: Limits, playback_of: F) -> impl Layer<S, Service = ByClient<S, F>> + Clone
where
    F: Fn(&str) -> Option<PlaybackId> + Clone,
{
    layer_fn(move |inner| ByClient { limits: limits.clone(), playback_of: playback_of.clone(), inner })
}

/// Counts each request for its principal. Stands behind authentication; a request without a [`RequestOwner`] passes.
pub fn by_principal<S>() -> impl Layer<S, Service = Guard<S>> + Clone {
    guard(count_principal)
}

/// Service of [`by_client`].
#[derive(Debug, Clone)]
pub struct ByClient<S, F> {
    limits: Limits,
    playback_of: F,
    inner: S,
}

impl<S, F: Fn(&str) -> Option<PlaybackId>> ByClient<S, F> {
    /// The playback session whose token the path carries.
    fn playback(&self, path: &str) -> Option<PlaybackId> {
        (self.playback_of)(path.strip_prefix("/play/")?.split('/').next()?)
    }
}

impl<S, F> Service<Request> for ByClient<S, F>
where
    F: Fn(&str) -> Option<PlaybackId>,
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
    match (extensions.get::<Ticket>(), extensions.get::<RequestOwner>()) {
        (Some(ticket), Some(who)) => ticket.admit(&who.0),
        _ => Ok(()),
    }
}
