//! Query strings as typed values: an unknown or malformed parameter is a problem that names it, never ignored.
//!
//! What an operation takes is read off its description, so that an operation without a query refuses every parameter. Where others
//! add parameters of their own (proxies to uploads, players to media, browsers and probes to pages), the operation says so
//! ([`QueryPolicy::Any`]).
//!
//! Limits: a name is repeated with at most [`NAME_LENGTH_MAX`] characters.

use std::{collections::HashMap, sync::Arc};

use axum::{
    extract::{FromRequestParts, Query, Request},
    http::{Method, request::Parts},
};
use schemas::fault::root_cause;
use serde::{Deserialize, Deserializer, de::DeserializeOwned};
use serde_json::{Value, json};
use tower::Layer;

use super::{
    error::Problem,
    filter::{FilterService, RequestFilter, filter_requests_with},
    operation::{QueryPolicy, matched_operation},
    problem_code::ProblemCode,
};

/// Longest name of a parameter that a problem repeats, in characters.
pub const NAME_LENGTH_MAX: usize = 64;

/// The parameters that each operation takes in its query, by path and method. Cheap to clone.
#[derive(Debug, Clone)]
pub struct AcceptedParameters(Arc<HashMap<String, HashMap<Method, Vec<String>>>>);

impl AcceptedParameters {
    /// Those of a description of the API (OpenAPI).
    pub fn from_openapi(document: &Value) -> Self {
        let of_method = |(method, operation): (&String, &Value)| {
            let parameters = operation["parameters"].as_array().into_iter().flatten();
            let names = parameters.filter(|parameter| parameter["in"] == "query");
            let names = names.filter_map(|parameter| parameter["name"].as_str().map(str::to_owned));
            Some((method.to_uppercase().parse().ok()?, names.collect()))
        };
        let paths = document["paths"].as_object().into_iter().flatten();
        let by_path = paths.map(|(path, item)| {
            let operations = item.as_object().into_iter().flatten();
            (path.clone(), operations.filter_map(of_method).collect())
        });
        Self(Arc::new(by_path.collect()))
    }
}

/// Refuses parameters that an operation does not take. Stands behind authentication, so that a request with its credential in
/// the query is refused as one without. A walk over the routes finds those that it does not stand before.
pub fn refuse_unknown_parameters<S>(
    taken: AcceptedParameters,
) -> impl Layer<S, Service = FilterService<S, AcceptedParameters>> + Clone {
    filter_requests_with(taken)
}

impl RequestFilter for AcceptedParameters {
    fn check_request(&self, request: &Request) -> Result<(), Problem> {
        find_unknown_parameter(&self.0, request).map_or(Ok(()), Err)
    }
}

/// The problem of a request with a parameter that its operation does not take.
fn find_unknown_parameter(
    by_path: &HashMap<String, HashMap<Method, Vec<String>>>,
    request: &Request,
) -> Option<Problem> {
    request.uri().query().filter(|query| !query.is_empty())?;
    let operation = matched_operation(request).filter(|found| found.query == QueryPolicy::Described)?;
    let taken = by_path.get(operation.path)?.get(&operation.method)?;
    let Query(given) = Query::<Vec<(String, String)>>::try_from_uri(request.uri()).ok()?;
    let (name, _) = given.into_iter().find(|(name, _)| !taken.contains(name))?;
    let name: String = name.chars().take(NAME_LENGTH_MAX).collect();
    let known = if taken.is_empty() { "none".to_owned() } else { taken.join(", ") };
    let detail = format!("there is no parameter {name:?} here; taken: {known}");
    let error = json!({ "parameter": name, "detail": detail });
    Some(Problem::new(ProblemCode::QueryMalformed).with_detail(detail).with_error(error))
}

/// Typed parameters of a query string.
#[derive(Debug, Clone)]
pub struct QueryParameters<T>(pub T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequestParts<S> for QueryParameters<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Problem> {
        Query::<T>::try_from_uri(&parts.uri)
            .map(|Query(parameters)| Self(parameters))
            // The sentence that names the parameter; what wraps it only repeats that a query failed.
            .map_err(|error| Problem::new(ProblemCode::QueryMalformed).with_detail(root_cause(&error)))
    }
}

/// One of our ids.
///
/// # Errors
/// When the text is none.
pub fn deserialize_id<'de, D: Deserializer<'de>, I>(deserializer: D) -> Result<Option<I>, D::Error>
where
    I: std::str::FromStr<Err = schemas::ids::MalformedId>,
{
    Option::<String>::deserialize(deserializer)?
        .map(|text| text.parse().map_err(serde::de::Error::custom))
        .transpose()
}

/// The schema of a moment, as [`parse_moment_ms`] reads it.
pub fn moment_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
    schemars::json_schema!({ "anyOf": [
        { "type": "string", "format": "date-time" },
        { "type": "string", "pattern": "^[0-9]{1,6}[smhd]$" },
    ] })
}

/// A moment as Unix time in milliseconds: RFC 3339, or an age before `now_ms` such as `90s`, `2h` or `7d`. What lies before 1970 is
/// as good as the beginning.
pub fn parse_moment_ms(text: &str, now_ms: u64) -> Option<u64> {
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
            assert_eq!(parse_moment_ms(text, 100_000), wanted, "{text:?}");
        }
    }
}
