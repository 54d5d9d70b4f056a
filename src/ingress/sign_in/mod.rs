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
//! Limits: bodies as [`web::body::BodyLimits`] has it; a label has at most [`LABEL_LENGTH_MAX`] characters, a key lives for at most
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
use auth::{SignInService, authenticate_request, uri};
use web::{error::Problem, problem_code::ProblemCode, query};

pub use keys::{EXPIRES_IN_S_MAX, LABEL_LENGTH_MAX};

/// Their descriptions.
#[derive(utoipa::OpenApi)]
#[openapi(paths(
    login::create_challenge,
    login::log_in,
    tokens::refresh_session,
    tokens::log_out,
    tokens::verify_token,
    tokens::read_principal,
    keys::create_key,
    keys::list_keys,
    keys::revoke_key,
))]
pub(crate) struct SignInApiDoc;

impl openapi::OperationGroup for SignInApiDoc {
    fn add_schemas(schemas: &mut openapi::SchemaCollector) {
        schemas.add_request::<login::ChallengeRequest>();
        schemas.add_response::<login::ChallengeDocument>();
        schemas.add_request::<login::LoginRequest>();
        schemas.add_response::<tokens::TokenResponse>();
        schemas.add_request::<tokens::RefreshRequest>();
        schemas.add_request::<tokens::LogoutRequest>();
        schemas.add_request::<tokens::VerifyTokenRequest>();
        schemas.add_response::<tokens::VerifyTokenResponse>();
        schemas.add_response::<tokens::PrincipalDocument>();
        schemas.add_request::<keys::CreateKeyRequest>();
        schemas.add_response::<keys::CreatedKeyDocument>();
        schemas.add_response::<keys::KeyListDocument>();
    }
}

/// The routes of sign-in. They look after credentials themselves, so they belong outside [`auth::require_principal`]; `behind` lays what else
/// stands behind a credential around those that ask for one.
pub fn router<S: Clone + Send + Sync + 'static>(
    sign_in: SignInService,
    taken: query::AcceptedParameters,
    behind: impl FnOnce(Router<SignInService>) -> Router<SignInService>,
) -> Router<S> {
    let own = Router::new()
        .route("/v1/auth/me", get(tokens::read_principal))
        .route("/v1/auth/logout", post(tokens::log_out))
        .route("/v1/auth/keys", get(keys::list_keys).post(keys::create_key))
        .route("/v1/auth/keys/{key_id}", delete(keys::revoke_key));
    let own = behind(own).route_layer(middleware::from_fn_with_state(sign_in.clone(), require_principal));
    let open = Router::new()
        .route("/v1/auth/challenge", post(login::create_challenge))
        .route("/v1/auth/login", post(login::log_in))
        .route("/v1/auth/refresh", post(tokens::refresh_session))
        .route("/v1/auth/verify", post(tokens::verify_token))
        .route_layer(query::refuse_unknown_parameters(taken));
    own.merge(open)
        .layer(middleware::from_fn_with_state(sign_in.clone(), require_own_origin))
        .with_state(sign_in)
}

/// Puts the principal among the request's extensions.
async fn require_principal(
    State(sign_in): State<SignInService>,
    mut request: Request,
    next: Next,
) -> Response {
    match authenticate_request(&sign_in, request.headers(), request.extensions()).await {
        Ok(principal) => {
            principal.attach_to_request(&mut request);
            next.run(request).await
        }
        Err(problem) => problem.into_response(),
    }
}

/// Refuses what a browser sends for another site, and lets nobody keep an answer.
async fn require_own_origin(State(sign_in): State<SignInService>, request: Request, next: Next) -> Response {
    let is_ours = |origin: &HeaderValue| {
        let authority = origin.to_str().ok().and_then(uri::split_origin).map(|(_, authority)| authority);
        authority.is_some_and(|authority| sign_in.config().domains.iter().any(|domain| domain == authority))
    };
    let is_write = !matches!(*request.method(), Method::GET | Method::HEAD | Method::OPTIONS);
    if is_write && !request.headers().get_all(header::ORIGIN).iter().all(is_ours) {
        return Problem::new(ProblemCode::OriginRefused).into_response();
    }
    let mut response = next.run(request).await;
    response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}
