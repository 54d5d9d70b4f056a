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
pub(super) type RefusedFuture = Ready<Result<Response, Infallible>>;

/// What looks at a request.
pub trait RequestFilter: Clone {
    /// Refuses what may not go on.
    fn check_request(&self, request: &Request) -> Result<(), Problem>;
}

impl RequestFilter for fn(&Request) -> Result<(), Problem> {
    fn check_request(&self, request: &Request) -> Result<(), Problem> {
        self(request)
    }
}

/// Lets pass what `check` finds nothing wrong with.
pub(super) fn filter_requests<S>(
    check: fn(&Request) -> Result<(), Problem>,
) -> impl Layer<S, Service = FilterService<S>> + Clone {
    filter_requests_with(check)
}

/// The same by something that knows more than the request.
pub fn filter_requests_with<S, C: RequestFilter>(
    check: C,
) -> impl Layer<S, Service = FilterService<S, C>> + Clone {
    layer_fn(move |inner| FilterService { check: check.clone(), inner })
}

/// The answer to a request that is refused.
pub(super) fn refused_response(problem: Problem) -> RefusedFuture {
    ready(Ok(problem.into_response()))
}

/// Service of `filter_requests`.
#[derive(Debug, Clone)]
pub struct FilterService<S, C = fn(&Request) -> Result<(), Problem>> {
    check: C,
    inner: S,
}

impl<S, C> Service<Request> for FilterService<S, C>
where
    S: Service<Request, Response = Response, Error = Infallible>,
    C: RequestFilter,
{
    type Response = Response;
    type Error = Infallible;
    type Future = Either<RefusedFuture, S::Future>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: Request) -> Self::Future {
        match self.check.check_request(&request) {
            Ok(()) => Either::Right(self.inner.call(request)),
            Err(problem) => Either::Left(refused_response(problem)),
        }
    }
}
