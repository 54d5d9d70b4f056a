//! A layer that looks at requests before they go on. It is a service: a function as middleware would copy all that is inside it and
//! box its answer for every request.

use std::{
    convert::Infallible,
    task::{Context, Poll},
};

use axum::{
    extract::Request,
    response::{IntoResponse, Response},
};
use futures::future::{Either, Ready, ready};
use tower::{Layer, Service, layer::layer_fn};

use super::error::Problem;

/// What is given when a request is refused before it goes on.
pub(super) type Refused = Ready<Result<Response, Infallible>>;

/// Lets pass what `check` finds nothing wrong with.
pub(super) fn guard<S>(
    check: fn(&Request) -> Result<(), Problem>,
) -> impl Layer<S, Service = Guard<S>> + Clone {
    layer_fn(move |inner| Guard { check, inner })
}

/// The answer to a request that is refused.
pub(super) fn refused(problem: Problem) -> Refused {
    ready(Ok(problem.into_response()))
}

/// Service of [`guard`].
#[derive(Debug, Clone)]
pub struct Guard<S> {
    check: fn(&Request) -> Result<(), Problem>,
    inner: S,
}

impl<S> Service<Request> for Guard<S>
where
    S: Service<Request, Response = Response, Error = Infallible>,
{
    type Response = Response;
    type Error = Infallible;
    type Future = Either<Refused, S::Future>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: Request) -> Self::Future {
        match (self.check)(&request) {
            Ok(()) => Either::Right(self.inner.call(request)),
            Err(problem) => Either::Left(refused(problem)),
        }
    }
}
