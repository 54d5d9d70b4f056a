//! The profiles by which encodes are made, by name.

use std::collections::BTreeMap;

use axum::{Json, extract::State};
use packaging::EncodeProfile;
use schemars::JsonSchema;
use schemas::access::ApiKeyScope;
use serde::Serialize;
use serde_json::json;

use crate::AppState;
use auth::Principal;
use web::{
    limit::RateLimitGroup,
    operation::{Operation, OperationAccess},
};

/// The profiles of the settings: those by which the workers encode, which have the same settings.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProfileCatalog {
    /// Name of the one by which uploads are encoded.
    pub default_name: String,
    /// All, by name.
    pub profiles: BTreeMap<String, EncodeProfile>,
}

impl Default for ProfileCatalog {
    fn default() -> Self {
        let default_name = "default".to_owned();
        Self { profiles: BTreeMap::from([(default_name.clone(), EncodeProfile::default())]), default_name }
    }
}

/// A profile.
#[derive(Debug, Serialize, JsonSchema)]
#[schemars(rename = "NamedProfile")]
pub(super) struct NamedProfile<'a> {
    /// Its name.
    name: &'a str,
    /// True for the one by which uploads are encoded.
    is_default: bool,
    /// What an encode by it looks like.
    profile: &'a EncodeProfile,
}

/// All profiles.
#[derive(Debug, Serialize, JsonSchema)]
#[schemars(rename = "ProfileList", example = json!({ "items": [{
    "name": "small", "is_default": false,
    "profile": {
        "steps": [{ "short_side_pixels": 360, "rate_bps": 730_000 }], "short_side_pixels_max": 720, "long_side_pixels_max": 1_920,
        "frame_rate_max": 30, "crf": 23, "preset": "veryfast", "gop_ms": 2_000, "segment_gops": 2, "part_segments": 5,
        "single_part_segments_max": 8, "audio_rate_bps": 128_000, "loudness_lufs": null, "audio_tracks_max": 8,
    },
}] }))]
pub(super) struct ProfileList<'a> {
    /// By name.
    items: Vec<NamedProfile<'a>>,
}

pub(super) static LIST_PROFILES: Operation = Operation::read(
    "/v1/profiles",
    OperationAccess::Principal(ApiKeyScope::Worker),
    Some(RateLimitGroup::Transcoder),
);

/// List the profiles by which media can be encoded
///
/// They stand in the settings (`transcode.profiles`), and were checked against the encoder when the server started.
#[utoipa::path(
    get,
    path = LIST_PROFILES.path,
    tag = "transcoder",
    operation_id = "list_profiles",
    responses((status = 200, description = "All of them", body = ref("#/components/schemas/ProfileList"))),
)]
pub(super) async fn list_profiles(State(app): State<AppState>, _who: Principal) -> Json<serde_json::Value> {
    let ProfileCatalog { default_name, profiles } = &app.config.profiles;
    let items = profiles.iter().map(|(name, profile)| NamedProfile {
        name,
        is_default: name == default_name,
        profile,
    });
    Json(json!(ProfileList { items: items.collect() }))
}
