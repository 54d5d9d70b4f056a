//! The endpoints of sign-in, under `/v1/auth`.
//!
//! | endpoint | does |
//! | --- | --- |
//! | `POST challenge` | gives a nonce with the text and the structure to sign; sets the cookie it is bound to |
//! | `POST login` | takes the signed message and the cookie, opens a session |
//! | `POST refresh` | takes a refresh token for the next one and an access token |
//! | `POST logout` | ends the own session, all of the own, or, for administrators, all of a wallet |
//! | `POST verify` | tells whether a credential is good now, and whose it is |
//! | `GET me` | who is asking |
//! | `POST, GET keys`, `DELETE keys/{key_id}` | API keys of the own, or, for administrators, of any owner |
//!
//! A body is JSON and says so, which a page of another site can't send without asking; a named `Origin` must be one of our sites.
//!
//! Limits: bodies as [`web::body::Limits`] has it; a label has at most [`LABEL_LENGTH_MAX`] characters, a key lives for at most
//! [`EXPIRES_IN_S_MAX`] seconds.

mod keys;
mod login;
#[cfg(test)]
pub(crate) mod tests;
mod tokens;

use axum::{
    Router,
    extract::{Request, State},
    http::{HeaderValue, Method, header},
    middleware::{self, Next},
    response::{IntoResponse, Response},
    routing::{delete, get, post},
};

use crate::openapi;
use auth::{SignIn, authenticate, uri};
use web::{error::Problem, kind::Kind, query};

pub use keys::{EXPIRES_IN_S_MAX, LABEL_LENGTH_MAX};

/// Their descriptions.
#[derive(utoipa::OpenApi)]
#[openapi(paths(
    login::challenge,
    login::login,
    tokens::refresh,
    tokens::logout,
    tokens::verify,
    tokens::me,
    keys::create,
    keys::list,
    keys::revoke,
))]
pub(crate) struct Described;

impl openapi::Describe for Described {
    fn define(schemas: &mut openapi::Schemas) {
        schemas.ask::<login::Ask>();
        schemas.answer::<login::Given>();
        schemas.ask::<login::LoginRequest>();
        schemas.answer::<tokens::Tokens>();
        schemas.ask::<tokens::Refresh>();
        schemas.ask::<tokens::Logout>();
        schemas.ask::<tokens::Verify>();
        schemas.answer::<tokens::Verified>();
        schemas.answer::<tokens::Who>();
        schemas.ask::<keys::Create>();
        schemas.answer::<keys::Made>();
        schemas.answer::<keys::List>();
    }
}

/// The routes of sign-in. They look after credentials themselves, so they belong outside [`auth::require`]; `behind` lays what else
/// stands behind a credential around those that ask for one.
pub fn router<S: Clone + Send + Sync + 'static>(
    sign_in: SignIn,
    taken: query::TakenParameters,
    behind: impl FnOnce(Router<SignIn>) -> Router<SignIn>,
) -> Router<S> {
    let own = Router::new()
        .route("/v1/auth/me", get(tokens::me))
        .route("/v1/auth/logout", post(tokens::logout))
        .route("/v1/auth/keys", get(keys::list).post(keys::create))
        .route("/v1/auth/keys/{key_id}", delete(keys::revoke));
    let own = behind(own).route_layer(middleware::from_fn_with_state(sign_in.clone(), known));
    let open = Router::new()
        .route("/v1/auth/challenge", post(login::challenge))
        .route("/v1/auth/login", post(login::login))
        .route("/v1/auth/refresh", post(tokens::refresh))
        .route("/v1/auth/verify", post(tokens::verify))
        .route_layer(query::strict(taken));
    own.merge(open).layer(middleware::from_fn_with_state(sign_in.clone(), from_our_sites)).with_state(sign_in)
}

/// Puts the principal among the request's extensions.
async fn known(State(sign_in): State<SignIn>, mut request: Request, next: Next) -> Response {
    match authenticate(&sign_in, request.headers(), request.extensions()).await {
        Ok(principal) => {
            principal.attach(&mut request);
            next.run(request).await
        }
        Err(problem) => problem.into_response(),
    }
}

/// Refuses what a browser sends for another site, and lets nobody keep an answer.
async fn from_our_sites(State(sign_in): State<SignIn>, request: Request, next: Next) -> Response {
    let is_ours = |origin: &HeaderValue| {
        let authority = origin.to_str().ok().and_then(uri::origin).map(|(_, authority)| authority);
        authority.is_some_and(|authority| sign_in.config().domains.iter().any(|domain| domain == authority))
    };
    let is_write = !matches!(*request.method(), Method::GET | Method::HEAD | Method::OPTIONS);
    if is_write && !request.headers().get_all(header::ORIGIN).iter().all(is_ours) {
        return Problem::new(Kind::OriginRefused).into_response();
    }
    let mut response = next.run(request).await;
    response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}
