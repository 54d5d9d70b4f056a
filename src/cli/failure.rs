//! How a command that failed says so: a sentence for people, or with `--json` a problem document (RFC 9457) as the last line of stderr.
//!
//! Of a request that the server refused it is the server's own document. The others have a `type` of their own, which names the `code`
//! and can't be fetched, and no `status`: no HTTP was spoken, or no answer came.

use std::ffi::OsString;

use clap::Parser;
use serde_json::{Value, json};

use super::{Cli, EXIT_USAGE, client::ClientError, output, refusal::ServerRefusal};
use crate::{config::SettingsError, data_folder::DataFolderError, explained::describe_error};

/// What a `type` begins with that no page explains.
const TYPE_PREFIX: &str = "urn:streamgate:problem:";

/// Reads the command line; one that is wrong, or only asks for help, is answered here.
///
/// # Errors
/// The exit status.
pub fn parse_command_line(line: impl IntoIterator<Item = OsString>) -> Result<Cli, u8> {
    let line: Vec<OsString> = line.into_iter().collect();
    let error = match Cli::try_parse_from(&line) {
        Ok(cli) => return Ok(cli),
        Err(error) => error,
    };
    if !error.use_stderr() {
        // Nobody may read it any more.
        error.print().ok();
        return Err(0);
    }
    if line.iter().take_while(|word| *word != "--").any(|word| word == "--json") {
        let said = error.render().to_string();
        let lines = said.lines().map(str::trim).filter(|line| !line.is_empty());
        let detail = lines.collect::<Vec<_>>().join("; ");
        output::print_message(local_problem("command_line_invalid", detail.trim_start_matches("error: ")));
    } else {
        error.print().ok();
    }
    Err(EXIT_USAGE)
}

/// Says why a command failed.
pub(super) fn print_failure(error: &anyhow::Error, as_json: bool) {
    if as_json {
        output::print_message(describe_problem(error));
    } else {
        output::print_message(format_args!("streamgate: {}", describe_error(error)));
    }
}

/// The failure as a problem document.
fn describe_problem(error: &anyhow::Error) -> Value {
    let detail = describe_error(error);
    for cause in error.chain() {
        if let Some(error) = cause.downcast_ref::<ClientError>() {
            return match error.as_refusal() {
                Some(refusal) => refusal_problem(refusal, &detail),
                None => local_problem(error.code(), &detail),
            };
        }
        let code = if cause.is::<SettingsError>() {
            Some("settings_invalid")
        } else if cause.is::<DataFolderError>() {
            Some("data_folder_unusable")
        } else if let Some(error) = cause.downcast_ref::<nats::BusError>() {
            Some(error.code())
        } else if let Some(error) = cause.downcast_ref::<store::StoreError>() {
            Some(error.code())
        } else {
            cause.downcast_ref::<media::MediaTaskError>().map(media::MediaTaskError::code)
        };
        if let Some(code) = code {
            return local_problem(code, &detail);
        }
    }
    local_problem("command_failed", &detail)
}

/// The server's own document; where there is none, what its status says.
fn refusal_problem(refusal: &ServerRefusal, detail: &str) -> Value {
    let mut problem = refusal.problem.clone();
    if !problem.is_object() {
        return json!({
            "type": "about:blank", "title": refusal.title, "status": refusal.status, "detail": detail,
        });
    }
    problem["status"] = refusal.status.into();
    if refusal.detail.is_empty() {
        problem["detail"] = refusal.title.as_str().into();
    }
    if let Some(advice) = &refusal.advice {
        problem["advice"] = advice.as_str().into();
    }
    problem
}

fn local_problem(code: &str, detail: &str) -> Value {
    let words = code.replace('_', " ");
    let (first, rest) = words.split_at_checked(1).unwrap_or_default();
    json!({
        "type": format!("{TYPE_PREFIX}{code}"),
        "title": format!("{}{rest}", first.to_ascii_uppercase()),
        "code": code,
        "detail": detail,
    })
}

#[cfg(test)]
mod tests {
    use anyhow::Context;

    use super::*;

    #[test]
    fn a_failure_names_its_kind_and_says_all_in_one_line() {
        let settings = SettingsError::invalid("ingress.listen", "no address");
        let away = nats::BusError::unavailable("refused");
        for (error, code) in [
            (anyhow::anyhow!("anything"), "command_failed"),
            (anyhow::Error::new(settings), "settings_invalid"),
            (Err::<(), _>(away).context("role index").unwrap_err(), "broker_unavailable"),
            (anyhow::Error::new(ClientError::Silent { seconds: 60 }), "server_silent"),
        ] {
            let problem = describe_problem(&error);
            assert_eq!((&problem["code"], &problem["status"]), (&json!(code), &Value::Null), "{problem}");
            assert_eq!(problem["type"], format!("urn:streamgate:problem:{code}"));
            assert_eq!(problem["detail"], describe_error(&error));
            assert!(!problem.to_string().contains('\n'));
        }
        assert_eq!(local_problem("server_silent", "x")["title"], "Server silent");
    }

    #[test]
    fn a_refusal_keeps_the_document_of_the_server() {
        let problem = json!({"type": "http://h/docs#problem-x", "title": "X", "status": 403, "code": "x"});
        let refusal = ServerRefusal {
            status: 403,
            title: "X".into(),
            advice: Some("do this".into()),
            problem: problem.clone(),
            ..ServerRefusal::default()
        };
        let said = describe_problem(&ClientError::Refused(Box::new(refusal)).into());
        for name in ["type", "title", "status", "code"] {
            assert_eq!(said[name], problem[name]);
        }
        assert_eq!((&said["advice"], said["detail"].is_string()), (&json!("do this"), true));
        let bare = ServerRefusal {
            status: 502,
            title: "the server answered 502".into(),
            ..ServerRefusal::default()
        };
        let said = describe_problem(&ClientError::Refused(Box::new(bare)).into());
        assert_eq!((&said["type"], &said["status"]), (&json!("about:blank"), &json!(502)));
    }
}
