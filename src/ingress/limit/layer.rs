//! The two layers that count requests. They are services: a function as middleware would copy all that is inside it and box its
//! answer for every request, which costs more than the counting.

use std::{
    convert::Infallible,
    pin::Pin,
    task::{Context, Poll, ready},
};

use axum::{
    extract::Request,
    http::{StatusCode, header},
    response::Response,
};
use futures::future::Either;
use pin_project_lite::pin_project;
use tower::{Layer, Service, layer::layer_fn};

use super::{Group, Limits, Scope, Ticket, group};
use crate::{
    auth::Principal,
    ingress::{
        client::Client,
        error::Problem,
        guard::{Guard, Refused, guard, refused},
    },
};

/// Counts each request for its client. Stands in front of authentication and behind [`crate::ingress::client::identify`].
pub fn by_client<S>(limits: Limits) -> impl Layer<S, Service = ByClient<S>> + Clone {
    layer_fn(move |inner| ByClient { limits: limits.clone(), inner })
}

/// Counts each request for its principal. Stands behind authentication; a request without a [`Principal`] passes.
pub fn by_principal<S>() -> impl Layer<S, Service = Guard<S>> + Clone {
    guard(count_principal)
}

/// Service of [`by_client`].
#[derive(Debug, Clone)]
pub struct ByClient<S> {
    limits: Limits,
    inner: S,
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
        let ticket = self.limits.ticket(Client::among(request.extensions(), headers).prefix);
        let guesses = headers.contains_key(header::AUTHORIZATION) && !group::is_free(method, path);
        let group = Group::of(method, path, headers);
        let admitted = if guesses { ticket.require(Group::Credential) } else { Ok(()) };
        let answer = match admitted
            .and_then(|()| group.map_or(Ok(()), |group| ticket.take(group, &[Scope::Client])))
        {
            Ok(()) => {
                request.extensions_mut().insert(ticket.clone());
                Either::Right(self.inner.call(request))
            }
            Err(problem) => Either::Left(refused(problem)),
        };
        Told { ticket, guesses, answer }
    }
}

pin_project! {
    /// An answer on which the caller is told how it stands. A credential that was refused is counted here.
    #[derive(Debug)]
    pub struct Told<F> {
        ticket: Ticket,
        guesses: bool,
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
            let status = response.status();
            if *this.guesses && status == StatusCode::UNAUTHORIZED {
                // Others of this client may have used the last room up meanwhile; this one was looked at already.
                this.ticket.take(Group::Credential, &[Scope::Client]).ok();
            }
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
