//! Query strings as typed values: an unknown or malformed parameter is a problem that names it, never ignored.

use axum::{
    extract::{FromRequestParts, Query},
    http::request::Parts,
};
use serde::{Deserialize, Deserializer, de::DeserializeOwned};

use super::{error::Problem, kind::Kind};

/// Typed parameters of a query string.
#[derive(Debug, Clone)]
pub struct Parameters<T>(pub T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequestParts<S> for Parameters<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Problem> {
        Query::<T>::try_from_uri(&parts.uri)
            .map(|Query(parameters)| Self(parameters))
            .map_err(|error| Problem::new(Kind::QueryMalformed).detail(innermost(&error)))
    }
}

/// The sentence that names the parameter; what wraps it only repeats that a query failed.
fn innermost(error: &dyn std::error::Error) -> String {
    let mut error = error;
    while let Some(source) = error.source() {
        error = source;
    }
    error.to_string()
}

/// One of our ids.
///
/// # Errors
/// When the text is none.
pub fn id<'de, D: Deserializer<'de>, I>(deserializer: D) -> Result<Option<I>, D::Error>
where
    I: std::str::FromStr<Err = schemas::ids::Malformed>,
{
    Option::<String>::deserialize(deserializer)?
        .map(|text| text.parse().map_err(serde::de::Error::custom))
        .transpose()
}

/// The schema of a moment, as [`moment_ms`] reads it.
pub fn moment(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
    schemars::json_schema!({ "anyOf": [
        { "type": "string", "format": "date-time" },
        { "type": "string", "pattern": "^[0-9]{1,6}[smhd]$" },
    ] })
}

/// A moment as Unix time in milliseconds: RFC 3339, or an age before `now_ms` such as `90s`, `2h` or `7d`. What lies before 1970 is
/// as good as the beginning.
pub fn moment_ms(text: &str, now_ms: u64) -> Option<u64> {
    if let Ok(time) = text.parse::<jiff::Timestamp>() {
        return Some(u64::try_from(time.as_millisecond()).unwrap_or(0));
    }
    // A bare 0 is no age: it could as well be meant for a time.
    let age = humantime::parse_duration(text).ok().filter(|_| text != "0")?;
    Some(now_ms.saturating_sub(u64::try_from(age.as_millis()).ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments_are_times_or_ages() {
        for (text, wanted) in [
            ("1970-01-01T00:00:01Z", Some(1_000)),
            ("1970-01-01T01:00:01+01:00", Some(1_000)),
            ("90s", Some(10_000)),
            ("1m 30s", Some(10_000)),
            ("7d", Some(0)),
            ("999999d", Some(0)),
            ("0s", Some(100_000)),
            ("0", None),
            ("7", None),
            ("yesterday", None),
            ("-5s", None),
            ("1960-01-01T00:00:00Z", Some(0)),
            ("", None),
        ] {
            assert_eq!(moment_ms(text, 100_000), wanted, "{text:?}");
        }
    }
}
