//! What of public media strangers and other sites get to see: the list for visitors, what links to a medium look like elsewhere,
//! and who may embed its player.
//!
//! Only a medium whose rule is `public` is shown to strangers; any other answers as one that is not there.
//!
//! Limits: [`FRAME_ANCESTORS_MAX`] origins that may embed; a page of the list has at most as many items as any list.

pub(crate) mod link_preview;
mod oembed;
mod public_list;
mod public_medium;

use axum::http::HeaderValue;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{AppState, openapi};
pub(crate) use public_medium::PublicMedium;
use web::{
    operation::{Operation, OperationRouter},
    request_policy::{InvalidOriginConfig, parse_origin},
};

/// Most origins that may embed players.
pub const FRAME_ANCESTORS_MAX: usize = 64;

/// Settings of what strangers see.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct SharingConfig {
    /// Shows the public media of all owners at `/` to visitors who are not signed in, and lists them at `/v1/library`.
    pub public_library: bool,
    /// Sites that may embed the player of `/embed/{media_id}`: origins such as `https://blog.example.org`, or `*` for every site.
    /// That page never uses a credential. All other pages can't be embedded elsewhere.
    pub frame_ancestors: Vec<String>,
}

impl Default for SharingConfig {
    fn default() -> Self {
        Self { public_library: false, frame_ancestors: vec!["*".to_owned()] }
    }
}

impl SharingConfig {
    /// The sources of `frame-ancestors` (CSP 3, section 6.4.2) of the embedded player; this service's own pages are always among them.
    ///
    /// # Errors
    /// When an origin is none, `*` does not stand alone, or there are too many.
    pub fn frame_sources(&self) -> Result<HeaderValue, InvalidOriginConfig> {
        if self.frame_ancestors == ["*"] {
            return Ok(HeaderValue::from_static("*"));
        }
        if self.frame_ancestors.len() > FRAME_ANCESTORS_MAX {
            let count = self.frame_ancestors.len();
            return Err(InvalidOriginConfig(format!(
                "{count} sites that may embed are more than {FRAME_ANCESTORS_MAX}"
            )));
        }
        let mut sources = "'self'".to_owned();
        for origin in &self.frame_ancestors {
            let origin = parse_origin(origin)?;
            sources.push(' ');
            sources.push_str(origin.to_str().unwrap_or_default());
        }
        HeaderValue::try_from(sources).map_err(|error| InvalidOriginConfig(error.to_string()))
    }
}

/// The routes.
pub fn router() -> OperationRouter<AppState> {
    OperationRouter::default()
        .with(&public_list::LIST_PUBLIC_MEDIA, public_list::list_public_media)
        .with(&oembed::READ_OEMBED, oembed::read_oembed)
}

/// Their descriptions.
#[derive(utoipa::OpenApi)]
#[openapi(paths(public_list::list_public_media, oembed::read_oembed))]
pub(super) struct SharingApiDoc;

impl openapi::OperationGroup for SharingApiDoc {
    fn operations() -> Vec<&'static Operation> {
        router().operations().to_vec()
    }

    fn add_schemas(schemas: &mut openapi::SchemaCollector) {
        schemas.add_response::<web::page::ListPage<public_list::PublicMediaItem>>();
        schemas.add_response::<oembed::OembedDocument>();
    }
}

#[cfg(test)]
mod tests;
