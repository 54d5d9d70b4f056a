//! What the head of a public medium's page says to sites and messengers that show links: Open Graph (<https://ogp.me>), a player
//! card, and where its oEmbed answer is.

use std::{fmt::Write as _, time::Duration};

use schemas::ids::MediaId;

use super::public_medium::{MediumKind, PublicMedium};
use crate::{AppState, page_assets::escape_html, play::poster};

/// How long a page waits for what its head says; without it the page is complete all the same.
const WAIT_MAX: Duration = Duration::from_millis(500);

/// The head of the page of `media_id`, whose addresses begin with `base`; `None` for a medium that is not public, or not known in time.
pub(crate) async fn render_head(app: &AppState, media_id: MediaId, base: &str) -> Option<String> {
    let loading = PublicMedium::load(&app.bus, media_id);
    let medium = tokio::time::timeout(WAIT_MAX, loading).await.ok()?.ok()??;
    Some(render_public_head(&medium, base))
}

fn render_public_head(medium: &PublicMedium, base: &str) -> String {
    let id = medium.media_id;
    let title = if medium.title.is_empty() { "Video" } else { &medium.title };
    let page = format!("{base}/watch/{id}");
    let (width, height) = medium.player_pixels((u32::MAX, u32::MAX));
    let mut tags = vec![
        ("og:site_name", "StreamGate".to_owned()),
        ("og:title", title.to_owned()),
        ("og:url", page.clone()),
    ];
    tags.extend(medium.description.clone().map(|text| ("og:description", text)));
    if medium.encode.has_poster || medium.poster.is_some() {
        tags.push(("og:image", poster::poster_url(base, id)));
    }
    match medium.kind() {
        MediumKind::Still => tags.push(("og:type", "website".to_owned())),
        MediumKind::Film | MediumKind::Sound => tags.extend([
            ("og:type", "video.other".to_owned()),
            ("og:video", format!("{base}/embed/{id}")),
            ("og:video:type", "text/html".to_owned()),
            ("og:video:width", width.to_string()),
            ("og:video:height", height.to_string()),
        ]),
    }
    let mut head = format!("<title>{} · StreamGate</title>", escape_html(title));
    for (name, value) in tags {
        // Writing to a String can't fail.
        write!(head, "\n  <meta property=\"{name}\" content=\"{}\">", escape_html(&value)).ok();
    }
    if medium.is_unlisted {
        head.push_str("\n  <meta name=\"robots\" content=\"noindex\">");
    }
    let page = percent_encoding::utf8_percent_encode(&page, percent_encoding::NON_ALPHANUMERIC);
    let oembed = escape_html(&format!("{base}/v1/oembed?url={page}"));
    write!(
        head,
        "\n  <meta name=\"twitter:card\" content=\"summary_large_image\">\
         \n  <link rel=\"alternate\" type=\"application/json+oembed\" href=\"{oembed}\" title=\"{}\">",
        escape_html(title)
    )
    .ok();
    head
}
