//! Parameters in paths and headers, and headers of answers: each described once, by its name.

use std::sync::LazyLock;

use serde_json::{Map, Value, json};

use schemas::pause::NAME_CHARS_MAX;

use crate::{events::EVENT_ID, uploads};
use web::{conditional::TAGS_MAX, idempotency::KEY_LENGTH_MAX};

/// One digest of RFC 9530 in its only spelling, or none.
const DIGEST: &str =
    "^(sha-256=:[A-Za-z0-9+/]{42}[AEIMQUYcgkosw048]=:|sha-512=:[A-Za-z0-9+/]{85}[AQgw]==:)?$";
/// The same as tus writes it.
const CHECKSUM: &str = "^(crc32 [A-Za-z0-9+/]{5}[AQgw]==|md5 [A-Za-z0-9+/]{21}[AQgw]==|sha1 [A-Za-z0-9+/]{26}[AEIMQUYcgkosw048]=|\
     (sha256|blake3) [A-Za-z0-9+/]{42}[AEIMQUYcgkosw048]=|sha512 [A-Za-z0-9+/]{85}[AQgw]==)$";

/// Parameters in headers: name, whether it is needed, meaning, schema.
static IN_HEADERS: LazyLock<Vec<(&str, bool, &str, Value)>> = LazyLock::new(|| {
    let text = |pattern: &str| json!({ "type": "string", "pattern": pattern });
    let bytes =
        |largest: u64| json!({ "type": "integer", "format": "int64", "minimum": 0, "maximum": largest });
    let size_max = uploads::UploadConfig::default().size_bytes_max;
    let metadata_max = uploads::UploadConfig::default().metadata_bytes_max;
    let tags = format!("^(\\*|((W/)?\"[ !#-~]*\"(, ?(W/)?\"[ !#-~]*\"){{0,{}}})?)$", TAGS_MAX - 1);
    let key = format!(
        "^(\"([ !#-\\[\\]-~]|\\\\[\"\\\\]){{1,{KEY_LENGTH_MAX}}}\"|[!#-+.-:<-~-]{{1,{KEY_LENGTH_MAX}}})$"
    );
    vec![
        ("If-Match", true, "The tag of the version that is changed, or `*`.", text(&tags)),
        (
            "If-None-Match",
            false,
            "Tags that are known: what has one of them is not sent again. What makes no sense is no tag.",
            json!({ "type": "string" }),
        ),
        (
            "Idempotency-Key",
            false,
            "Names this request: a repetition is answered as the first was.",
            text(&key),
        ),
        (
            "Range",
            false,
            "Part of it: one byte range; anything else is answered with the whole.",
            json!({ "type": "string" }),
        ),
        (
            "If-Range",
            false,
            "The tag of the version of which a part is known: another version is sent whole, whatever `Range` says.",
            json!({ "type": "string" }),
        ),
        (
            "Last-Event-ID",
            false,
            "Go on behind this event; `0-0` for everything that is kept.",
            text(EVENT_ID),
        ),
        (
            "Tus-Resumable",
            false,
            "The version of tus. Without it the request is one of Resumable Uploads for HTTP, and has its fields.",
            json!({ "type": "string", "const": "1.0.0" }),
        ),
        (
            "Upload-Complete",
            false,
            "Of a resumable upload: `?1` when these are the last bytes, `?0` when more follow. Another value is as if it were not there.",
            json!({ "type": "string" }),
        ),
        (
            "Upload-Draft-Interop-Version",
            false,
            "Version of the draft of resumable uploads that the client speaks, 3 to 8; over HTTP/1.1 it gets interim responses (104) then.",
            json!({ "type": "string" }),
        ),
        (
            "Upload-Length",
            false,
            "Bytes of the whole file. A new upload needs this or `Upload-Defer-Length`, not both.",
            bytes(size_max),
        ),
        ("Upload-Defer-Length", false, "The length is told later.", json!({ "type": "integer", "const": 1 })),
        (
            "Upload-Metadata",
            false,
            "Pairs of name and base64, each name once: `filename`, `filetype`, `title`, `visibility` (`public`, `unlisted`, or `private` as without it), \
             `mint_tx` (the transaction that minted the token of the medium), `profile` and `priority` of its encode, \
             `encode_paused` (`true` has its job wait until somebody resumes it or has the medium encoded otherwise), or one's own.",
            json!({ "type": "string", "format": "tus-metadata", "maxLength": metadata_max }),
        ),
        (
            "Upload-Concat",
            false,
            "`partial` for some bytes of a whole that never become a medium; `final;` and the addresses of such uploads for the whole, whose length is theirs.",
            text("^(partial|final;.+)$"),
        ),
        ("Upload-Offset", true, "Where the bytes belong: the offset that HEAD tells.", bytes((1 << 63) - 1)),
        ("Upload-Checksum", false, "Algorithm and base64 of the digest of these bytes.", text(CHECKSUM)),
        ("Content-Digest", false, "Digest of these bytes (RFC 9530).", text(DIGEST)),
        ("Repr-Digest", false, "Digest of the whole file (RFC 9530).", text(DIGEST)),
        (
            "Content-Disposition",
            false,
            "`attachment; filename=\"...\"`: the name that is shown.",
            json!({ "type": "string" }),
        ),
        (
            "X-HTTP-Method-Override",
            true,
            "What is meant, for clients behind proxies that know no other method.",
            json!({ "type": "string", "enum": ["PATCH", "DELETE", "HEAD"] }),
        ),
    ]
});

/// Headers of answers: name, whether it is always there, meaning, schema.
static OF_ANSWERS: LazyLock<Map<String, Value>> = LazyLock::new(|| {
    let text = || json!({ "type": "string" });
    let matching = |pattern: &str| json!({ "type": "string", "pattern": pattern });
    let number = || json!({ "type": "integer", "minimum": 0 });
    let policy = "^\"[a-z]+-(client|principal|session)\";";
    let all = [
        ("X-Request-Id", true, "Names the request in the log.", matching(schemas::ids::PATTERN)),
        ("Retry-After", true, "Seconds after which to repeat.", json!({ "type": "integer", "minimum": 1 })),
        (
            "RateLimit",
            true,
            "What is left of each policy: `r` units, `t` seconds until there are more. Tightest first.",
            matching(&format!("{policy}r=[0-9]+;t=[0-9]+")),
        ),
        (
            "RateLimit-Policy",
            true,
            "What each policy allows: `q` units at once, full again within `w` seconds.",
            matching(&format!("{policy}q=[0-9]+;w=[0-9]+")),
        ),
        ("WWW-Authenticate", true, "How to sign in.", matching("^Bearer ")),
        ("ETag", true, "Its version.", matching("^\"[ !#-~]*\"$")),
        ("Location", true, "Where it is.", json!({ "type": "string", "format": "uri-reference" })),
        (
            "Link",
            false,
            "The next page, when there is one: `rel=\"next\"`.",
            matching("^<[^>]+>; rel=\"next\"$"),
        ),
        ("Allow", true, "The methods that are taken.", text()),
        ("Content-Disposition", true, "The name of the file.", matching("^attachment")),
        ("Content-Range", true, "Which part it is, and of how many bytes.", matching("^bytes ")),
        (
            "Set-Cookie",
            true,
            "Binds the challenge to this client, or ends that.",
            matching("^__Host-streamgate-challenge="),
        ),
        (
            "Idempotency-Replayed",
            false,
            "`true` on an answer that was given before.",
            json!({ "const": "true" }),
        ),
        ("Streamgate-Media-Id", true, "The medium.", matching(schemas::ids::PATTERN)),
        ("Tus-Resumable", true, "The version of tus.", json!({ "const": "1.0.0" })),
        ("Tus-Version", true, "Versions of tus that are spoken.", text()),
        ("Tus-Extension", true, "Extensions of tus that are offered.", text()),
        ("Tus-Max-Size", true, "Largest upload in bytes.", number()),
        ("Tus-Checksum-Algorithm", true, "Algorithms that `Upload-Checksum` takes.", text()),
        ("Upload-Concat", false, "What the upload is to others, as it was created.", text()),
        ("Upload-Offset", true, "Bytes that are durable.", number()),
        ("Upload-Length", false, "Bytes of the whole file, once known.", number()),
        ("Upload-Defer-Length", false, "`1` while the length is not known.", json!({ "const": "1" })),
        ("Upload-Metadata", false, "As it was sent.", text()),
        (
            "Upload-Complete",
            false,
            "Of a resumable upload: `?1` once every byte is there.",
            json!({ "enum": ["?0", "?1"] }),
        ),
        (
            "Upload-Limit",
            false,
            "Of a resumable upload: sizes in bytes, and the seconds that it has left.",
            matching("min-size=0"),
        ),
        ("Accept-Patch", true, "Media types of appended bytes.", text()),
        ("Upload-Expires", false, "When an open upload is removed (RFC 9110 date).", matching("GMT$")),
    ];
    let described = |(name, always, about, schema): (&str, bool, &str, Value)| {
        (name.to_owned(), json!({ "required": always, "description": about, "schema": schema }))
    };
    all.into_iter().map(described).collect()
});

/// Headers of answers by name.
pub(super) fn response_headers() -> &'static Map<String, Value> {
    &OF_ANSWERS
}

/// Says what a parameter is that an annotation only names.
pub(super) fn complete_parameter(parameter: &mut Value) {
    let name = parameter["name"].as_str().unwrap_or_default().to_owned();
    let (needed, about, schema) = match parameter["in"].as_str() {
        Some("header") => {
            let Some((_, needed, about, schema)) = IN_HEADERS.iter().find(|(known, ..)| *known == name)
            else {
                return;
            };
            (*needed, *about, schema.clone())
        }
        Some("path") => {
            let (about, schema) = describe_path_parameter(&name);
            (true, about, schema)
        }
        _ => return,
    };
    parameter["required"] = json!(needed);
    parameter["description"] = json!(about);
    parameter["schema"] = schema;
}

fn describe_path_parameter(name: &str) -> (&'static str, Value) {
    let id = json!({ "type": "string", "pattern": schemas::ids::PATTERN });
    match name {
        "media_id" => ("The medium.", id),
        "job_id" => ("The job.", id),
        "schedule_id" => ("The schedule.", id),
        "hook_id" => ("The hook.", id),
        "delivery_id" => ("The delivery, from the list of them.", id),
        "worker" => {
            ("Name of the worker.", json!({ "type": "string", "pattern": crate::workers::NAME_PATTERN }))
        }
        "sequence" => ("Sequence of the dead letter.", json!({ "type": "integer", "minimum": 1 })),
        "language" => (
            "Its language: a tag of RFC 5646, such as `de` or `pt-BR`.",
            json!({ "type": "string", "minLength": 1, "maxLength": 35 }),
        ),
        "scope" => ("What the name is of.", json!({ "type": "string", "enum": ["owner", "kind"] })),
        "name" => (
            "An owner, or a kind of jobs.",
            json!({ "type": "string", "minLength": 1, "maxLength": NAME_CHARS_MAX }),
        ),
        "alert" => (
            "The name of a rule, or the id of an alert.",
            json!({ "type": "string", "minLength": 1, "maxLength": 64 }),
        ),
        "key" => (
            "The key, which is one's own.",
            json!({ "type": "string", "pattern": crate::cached::KEY_PATTERN }),
        ),
        "upload_id" => ("The upload.", id),
        "filename" => ("Name of the file, as people see it.", json!({ "type": "string", "minLength": 1 })),
        "grant_id" => ("The public half of the grant.", id),
        "key_id" => ("The public half of the key.", id),
        "token" => ("The right, from the playback session.", json!({ "type": "string", "minLength": 1 })),
        _ => (
            "`master.m3u8`, or what a playlist names; may contain slashes.",
            json!({ "type": "string", "minLength": 1 }),
        ),
    }
}
