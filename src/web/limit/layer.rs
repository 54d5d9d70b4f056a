//! The two layers that count requests. They are services: a function as middleware would copy all that is inside it and box its
//! answer for every request, which costs more than the counting.

use std::{
    convert::Infallible,
    pin::Pin,
    task::{Context, Poll, ready},
};

use axum::{
    extract::Request,
    http::{HeaderMap, Method, StatusCode, header},
    response::{IntoResponse, Response},
};
use futures::future::Either;
use pin_project_lite::pin_project;
use schemas::ids::PlaybackId;
use tower::{Layer, Service, layer::layer_fn};

use super::{RateLimitGroup, RateLimitPermit, RateLimiter};
use crate::{
    client::ClientAddress,
    error::Problem,
    filter::{FilterService, RefusedFuture, filter_requests, refused_response},
    operation::{Operation, OperationAccess, matched_operation},
    problem_code::ProblemCode,
    request::{RequestGrant, RequestOwner},
    request_head::TUS_RESUMABLE,
};

/// Counts requests: those below a playback token for the session that `playback_of` reads from it, and what proves nothing for its
/// client. What is to prove something is counted behind authentication, or here once it is answered. Stands in front of
/// authentication and behind [`crate::client::identify_client`] and [`crate::operation::OperationTable::match_layer`].
pub fn limit_by_client<S, F>(
    limits: RateLimiter,
    playback_of: F,
) -> impl Layer<S, Service = ClientLimitService<S, F>> + Clone
where
    F: Fn(&str) -> Option<PlaybackId> + Clone,
{
    layer_fn(move |inner| ClientLimitService {
        limits: limits.clone(),
        playback_of: playback_of.clone(),
        inner,
    })
}

/// Counts each request for its principal. Stands behind authentication; a request without a [`RequestOwner`] passes.
pub fn limit_by_principal<S>() -> impl Layer<S, Service = FilterService<S>> + Clone {
    filter_requests(admit_principal)
}

/// Service of [`limit_by_client`].
#[derive(Debug, Clone)]
pub struct ClientLimitService<S, F> {
    limits: RateLimiter,
    playback_of: F,
    inner: S,
}

impl<S, F: Fn(&str) -> Option<PlaybackId>> ClientLimitService<S, F> {
    /// The playback session whose token the path carries.
    fn playback(&self, operation: &Operation, path: &str) -> Option<PlaybackId> {
        match operation.access {
            OperationAccess::Path => (self.playback_of)(operation.path_parameter("{token}", path)?),
            _ => None,
        }
    }
}

/// What a request counts as. A request for nothing counts, too; OPTIONS does not: it asks for what never changes.
fn counted_group(operation: Option<&Operation>, method: &Method) -> Option<RateLimitGroup> {
    if *method == Method::OPTIONS {
        return None;
    }
    operation.map_or(Some(RateLimitGroup::Api), |operation| operation.rate_group)
}

/// True where a credential decides whose request it is, so that it is counted once that is known: what shows a header where one is
/// looked at, and what proves itself by its body.
fn proves_identity(operation: &Operation, method: &Method, headers: &HeaderMap) -> bool {
    match operation.access {
        _ if *method == Method::OPTIONS => false,
        OperationAccess::Body => true,
        access => access.reads_credential() && headers.contains_key(header::AUTHORIZATION),
    }
}

impl<S, F> Service<Request> for ClientLimitService<S, F>
where
    F: Fn(&str) -> Option<PlaybackId>,
    S: Service<Request, Response = Response, Error = Infallible>,
{
    type Response = Response;
    type Error = Infallible;
    type Future = RateLimitFuture<Either<RefusedFuture, S::Future>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, mut request: Request) -> Self::Future {
        let (method, path, headers) = (request.method(), request.uri().path(), request.headers());
        let operation = matched_operation(&request);
        let ticket = self.limits.new_permit(
            ClientAddress::from_extensions(request.extensions(), headers).prefix,
            counted_group(operation, method),
        );
        let proves = operation.is_some_and(|operation| proves_identity(operation, method, headers));
        let admitted = match operation.and_then(|operation| self.playback(operation, path)) {
            Some(session) => ticket.admit_session(&session.to_string()),
            None if proves => Ok(()),
            None => ticket.admit_client(),
        };
        let answer = match admitted {
            Ok(()) => {
                request.extensions_mut().insert(ticket.clone());
                Either::Right(self.inner.call(request))
            }
            Err(problem) => Either::Left(refused_response(problem)),
        };
        RateLimitFuture { ticket, proves, answer }
    }
}

pin_project! {
    /// An answer whose headers report the limits of the caller. What was to prove something is settled here.
    #[derive(Debug)]
    pub struct RateLimitFuture<F> {
        ticket: RateLimitPermit,
        proves: bool,
        #[pin]
        answer: F,
    }
}

impl<F: Future<Output = Result<Response, Infallible>>> Future for RateLimitFuture<F> {
    type Output = F::Output;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        let mut answer = ready!(this.answer.poll(context));
        if let Ok(response) = &mut answer {
            if *this.proves
                && let Err(problem) = this.ticket.settle_response(response.status())
            {
                *response = problem.into_response();
            }
            if response.extensions().get::<ProblemCode>() == Some(&ProblemCode::RateLimited)
                && let Some(limit) = this.ticket.refusing_limit()
            {
                response.extensions_mut().insert(limit);
            }
            let status = response.status();
            this.ticket.set_headers(status, response.headers_mut());
        }
        Poll::Ready(answer)
    }
}

fn admit_principal(request: &Request) -> Result<(), Problem> {
    let extensions = request.extensions();
    match (extensions.get::<RateLimitPermit>(), extensions.get::<RequestOwner>()) {
        (Some(ticket), Some(who)) => {
            let admitted = match extensions.get::<RequestGrant>() {
                // Of its own: its giver keeps its whole rate.
                Some(grant) => ticket.admit_principal(&format!("grant:{}", grant.0)),
                None => ticket.admit_principal(&who.0),
            };
            admitted.map_err(|problem| {
                // Clients of tus give an upload up at a 429, and wait and ask again at a 503.
                let speaks_tus = request.headers().contains_key(TUS_RESUMABLE);
                if speaks_tus { problem.with_status(StatusCode::SERVICE_UNAVAILABLE) } else { problem }
            })
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use schemas::access::ApiKeyScope;

    use super::*;

    #[test]
    fn what_proves_something_is_counted_once_it_is_known() {
        let shows = HeaderMap::from_iter([(header::AUTHORIZATION, "Bearer x".parse().unwrap())]);
        let none = HeaderMap::new();
        let scope = ApiKeyScope::Upload;
        for (access, method, headers, wanted) in [
            (OperationAccess::Principal(scope), Method::GET, &shows, true),
            (OperationAccess::Principal(scope), Method::GET, &none, false),
            (OperationAccess::UnlimitedPrincipal, Method::POST, &shows, true),
            (OperationAccess::Own, Method::POST, &shows, true),
            (OperationAccess::Optional(scope), Method::POST, &shows, true),
            (OperationAccess::Optional(scope), Method::POST, &none, false),
            (OperationAccess::Body, Method::POST, &none, true),
            // Nobody looks at a credential here: a header must not keep the request from being counted.
            (OperationAccess::Open, Method::POST, &shows, false),
            (OperationAccess::Path, Method::GET, &shows, false),
            (OperationAccess::Principal(scope), Method::OPTIONS, &shows, false),
            (OperationAccess::Body, Method::OPTIONS, &shows, false),
        ] {
            let operation = Operation::change(method.clone(), "/", access, None, &[]);
            assert_eq!(proves_identity(&operation, &method, headers), wanted, "{method} {access:?}");
        }
    }

    #[test]
    fn a_request_for_nothing_counts_and_options_does_not() {
        let group = Some(RateLimitGroup::Upload);
        let upload = Operation::read("/", OperationAccess::Open, group);
        assert_eq!(counted_group(Some(&upload), &Method::GET), group);
        assert_eq!(counted_group(Some(&upload), &Method::OPTIONS), None);
        assert_eq!(counted_group(None, &Method::GET), Some(RateLimitGroup::Api));
        assert_eq!(counted_group(None, &Method::OPTIONS), None);
        assert_eq!(
            counted_group(Some(&Operation::read("/", OperationAccess::Open, None)), &Method::GET),
            None
        );
    }
}
