//! Pages of lists: their items, and where the next page is, in the body and as `Link` (RFC 8288).

use axum::{
    Json,
    http::{HeaderValue, Uri, header},
    response::{IntoResponse, Response},
};
use schemars::JsonSchema;
use serde::Serialize;
use serde_json::json;

use crate::public_address::PublicAddress;

/// A page of a list.
#[derive(Debug, Serialize, JsonSchema)]
#[schemars(rename = "{T}Page", example = json!({ "items": [], "next_cursor": null, "revision": 42 }))]
pub struct ListPage<T> {
    /// Newest first.
    pub items: Vec<T>,
    /// Cursor of the next page; null at the end.
    pub next_cursor: Option<String>,
    /// What the index has seen: its `min_revision`.
    pub revision: u64,
}

impl<T: Serialize> ListPage<T> {
    /// The answer to who asked at `uri` of `address`.
    pub fn into_list_response(self, address: &PublicAddress, uri: &Uri) -> Response {
        page_response(&self, self.next_cursor.as_deref(), address, uri)
    }
}

/// The answer with a page to who asked at `uri` of `address`, and where the next one is.
pub fn page_response(
    page: &impl Serialize,
    next_cursor: Option<&str>,
    address: &PublicAddress,
    uri: &Uri,
) -> Response {
    let asked: Vec<(String, String)> =
        axum::extract::Query::try_from_uri(uri).map(|query| query.0).unwrap_or_default();
    let link =
        next_cursor.and_then(|next| next_link(&format!("{}{}", address.prefix(), uri.path()), &asked, next));
    let mut response = Json(page).into_response();
    if let Some(link) = link {
        response.headers_mut().insert(header::LINK, link);
    }
    response
}

/// `Link` to the next page: `path` with its query but for the cursor.
fn next_link(path: &str, query: &[(String, String)], cursor: &str) -> Option<HeaderValue> {
    let others = query.iter().filter(|(name, _)| name != "cursor");
    let others = others.map(|(name, value)| (name.as_str(), value.as_str()));
    let escape = |text: &str| {
        percent_encoding::utf8_percent_encode(text, percent_encoding::NON_ALPHANUMERIC).to_string()
    };
    let query: Vec<String> = others
        .chain([("cursor", cursor)])
        .map(|(name, value)| format!("{}={}", escape(name), escape(value)))
        .collect();
    HeaderValue::from_str(&format!("<{path}?{}>; rel=\"next\"", query.join("&"))).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_next_page_is_named_until_there_is_none() {
        let uri = Uri::from_static("/v1/media?limit=2&cursor=old&status=a%26b");
        let link = |next: Option<&str>| {
            let page = ListPage { items: vec![1, 2], next_cursor: next.map(str::to_owned), revision: 7 };
            page.into_list_response(&PublicAddress::default(), &uri)
                .headers()
                .get(header::LINK)
                .map(|link| link.to_str().unwrap().to_owned())
        };
        assert_eq!(link(Some("new")).unwrap(), "</v1/media?limit=2&status=a%26b&cursor=new>; rel=\"next\"");
        assert_eq!(link(None), None);
    }
}
