//! The description as one page of HTML without scripts: it reads on a phone, prints, and needs nothing from elsewhere.

use std::fmt::Write as _;

use serde_json::Value;

use crate::page_assets::escape_html;

/// Nothing but its own style sheet.
pub(super) const POLICY: &str =
    "default-src 'none'; style-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

/// The page of a document.
pub(super) fn render_page(document: &Value) -> String {
    let info = &document["info"];
    let mut page = format!(
        "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
         <meta name=\"color-scheme\" content=\"light dark\">\n<title>{0} API</title>\n\
         <link rel=\"stylesheet\" href=\"/docs/docs.css\">\n</head>\n<body>\n<header>\n<h1>{0} API <small>{1}</small></h1>\n\
         <p>{2}</p>\n<p><a href=\"/openapi.json\">openapi.json</a> \
         <a href=\"/docs/programs\">Follow events from your own program</a> <a href=\"/docs/runbooks\">Runbooks</a> <a href=\"/docs/guides\">Guides</a></p>\n</header>\n<main>\n",
        escaped_text(&info["title"]),
        escaped_text(&info["version"]),
        mark_code(&info["description"]),
    );
    for tag in document["tags"].as_array().into_iter().flatten() {
        render_section(&mut page, document, tag);
    }
    let about = "What may go wrong, by code, and what to do about it.";
    render_codes(&mut page, ("problem", about), &document["x-problems"]);
    let about = "Why a file is rejected after its upload, by the code of its medium and of `media.rejected`, and what to do about it.";
    render_codes(&mut page, ("rejection", about), &document["x-rejections"]);
    page.push_str("<section>\n<h2 id=\"schemas\">Schemas</h2>\n");
    for (name, schema) in document["components"]["schemas"].as_object().into_iter().flatten() {
        push_html(
            &mut page,
            &format!("<details id=\"schema-{0}\"><summary><code>{0}</code></summary>\n", escape_html(name)),
        );
        render_description(&mut page, &schema["description"]);
        let pretty = serde_json::to_string_pretty(schema).unwrap_or_default();
        push_html(&mut page, &format!("<pre>{}</pre>\n</details>\n", escape_html(&pretty)));
    }
    page.push_str("</section>\n</main>\n</body>\n</html>\n");
    page
}

/// An entry for each code of a kind, such as `problem`, at the place that the `type` of a problem names.
fn render_codes(page: &mut String, (kind, about): (&str, &str), codes: &Value) {
    let about = mark_code(&Value::from(about));
    push_html(page, &format!("<section>\n<h2 id=\"{kind}s\">{kind}s</h2>\n<p>{about}</p>\n<dl>\n"));
    for (code, about) in codes.as_object().into_iter().flatten() {
        let code = escape_html(code);
        let status = about["status"].as_u64().map(|status| format!(" <small>{status}</small>"));
        push_html(
            page,
            &format!(
                "<dt id=\"{kind}-{code}\"><code>{code}</code>{}</dt><dd>{}. {}</dd>\n",
                status.unwrap_or_default(),
                mark_code(&about["title"]),
                mark_code(&about["advice"]),
            ),
        );
    }
    page.push_str("</dl>\n</section>\n");
}

fn push_html(page: &mut String, html: &str) {
    page.push_str(html);
}

fn render_section(page: &mut String, document: &Value, tag: &Value) {
    let name = escaped_text(&tag["name"]);
    push_html(page, &format!("<section>\n<h2 id=\"{name}\">{name}</h2>\n"));
    render_description(page, &tag["description"]);
    for (path, item) in document["paths"].as_object().into_iter().flatten() {
        for method in super::METHODS {
            let operation = &item[method];
            let tagged = operation["tags"].as_array().is_some_and(|tags| tags.contains(&tag["name"]));
            if tagged {
                render_operation(page, document, method, path, operation);
            }
        }
    }
    page.push_str("</section>\n");
}

fn render_operation(page: &mut String, document: &Value, method: &str, path: &str, operation: &Value) {
    let lock = if operation["security"].is_array() { " <small>needs a key</small>" } else { "" };
    push_html(
        page,
        &format!(
            "<details><summary><b class=\"{method}\">{}</b> <code>{}</code> <span>{}</span>{lock}</summary>\n",
            method.to_uppercase(),
            // A long path may break behind each step.
            escape_html(path).replace('/', "/<wbr>"),
            escaped_text(&operation["summary"]),
        ),
    );
    render_description(page, &operation["description"]);
    let parameters = operation["parameters"].as_array().map(Vec::as_slice).unwrap_or_default();
    if !parameters.is_empty() {
        page.push_str("<h3>Parameters</h3>\n<dl>\n");
        for parameter in parameters {
            let needed = if parameter["required"] == true { ", needed" } else { "" };
            let (name, place) = (escaped_text(&parameter["name"]), escaped_text(&parameter["in"]));
            push_html(page, &format!("<dt><code>{name}</code> <small>{place}{needed}</small></dt>"));
            push_html(page, &format!("<dd>{}</dd>\n", mark_code(&parameter["description"])));
        }
        page.push_str("</dl>\n");
    }
    if let Some(body) = operation.get("requestBody") {
        page.push_str("<h3>Body</h3>\n");
        render_description(page, &body["description"]);
        push_html(page, &format!("<p>{}</p>\n", render_media_types(body)));
    }
    page.push_str("<h3>Answers</h3>\n<dl>\n");
    for (status, response) in operation["responses"].as_object().into_iter().flatten() {
        let reference = response["$ref"].as_str().and_then(|text| text.strip_prefix('#'));
        let response = reference.and_then(|pointer| document.pointer(pointer)).unwrap_or(response);
        push_html(page, &format!("<dt><code>{}</code></dt>", escape_html(status)));
        push_html(
            page,
            &format!("<dd>{} {}</dd>\n", mark_code(&response["description"]), render_media_types(response)),
        );
    }
    page.push_str("</dl>\n");
    let events = operation["x-events"].as_array().map(Vec::as_slice).unwrap_or_default();
    if !events.is_empty() {
        let names: Vec<String> =
            events.iter().map(|name| format!("<code>{}</code>", escaped_text(name))).collect();
        push_html(page, &format!("<h3>Events</h3>\n<p>{}</p>\n", names.join(" ")));
    }
    page.push_str("</details>\n");
}

/// The media types of a body, each with a link to its schema.
fn render_media_types(body: &Value) -> String {
    let mut html = String::new();
    for (media_type, content) in body["content"].as_object().into_iter().flatten() {
        // Writing to a String can't fail.
        write!(html, "<small>{}</small> ", escape_html(media_type)).ok();
        let name = content["schema"]["$ref"].as_str().and_then(|text| text.rsplit('/').next());
        if let Some(name) = name.map(escape_html) {
            write!(html, "<a href=\"#schema-{name}\">{name}</a> ").ok();
        }
    }
    html
}

fn render_description(page: &mut String, description: &Value) {
    if description.is_string() {
        push_html(page, &format!("<p>{}</p>\n", mark_code(description)));
    }
}

fn escaped_text(value: &Value) -> String {
    escape_html(value.as_str().unwrap_or_default())
}

/// Text in which `code` is marked as such.
fn mark_code(value: &Value) -> String {
    let mut html = String::new();
    for (i, part) in value.as_str().unwrap_or_default().split('`').enumerate() {
        let part = escape_html(part);
        // Writing to a String can't fail.
        if i % 2 == 0 {
            html.push_str(&part);
        } else {
            write!(html, "<code>{part}</code>").ok();
        }
    }
    html
}
