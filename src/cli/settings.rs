//! `config`: the effective settings, fit to be shown to somebody else.

use toml::{Table, Value};

use super::{GlobalArgs, ServerArgs, output};
use crate::config::{
    Settings, SettingsError,
    credentials::{self, HIDDEN},
    describe, tree,
};

/// Options of a store that are no secrets; what is not among them may be one.
const OPEN_OPTIONS: [&str; 8] = [
    "aws_endpoint",
    "aws_endpoint_url",
    "aws_region",
    "aws_default_region",
    "aws_bucket",
    "aws_allow_http",
    "allow_http",
    "aws_virtual_hosted_style_request",
];

/// The settings; what of the file is in the old form is logged.
pub(super) fn load_settings(global: &GlobalArgs, args: &ServerArgs) -> Result<Settings, SettingsError> {
    let (config, old) = Settings::load(global.config.as_deref(), args)?;
    for setting in old {
        tracing::warn!("{setting}");
    }
    Ok(config)
}

/// The same for commands about the settings themselves: the old form is said whatever is logged.
pub(super) fn load_and_print(global: &GlobalArgs, args: &ServerArgs) -> Result<Settings, SettingsError> {
    let (config, old) = Settings::load(global.config.as_deref(), args)?;
    for setting in old {
        output::print_message(setting);
    }
    Ok(config)
}

/// Prints the settings as a settings file with comments, or their values as JSON.
///
/// # Errors
/// When a setting can't be used.
pub fn print_settings(config: &Settings, as_json: bool) -> anyhow::Result<()> {
    let (table, hidden_count) = effective_table(config)?;
    if as_json {
        output::print_json(&serde_json::to_value(tree::to_file_form(table))?)?;
    } else {
        output::print_line(describe::render_commented_file(&table).trim_end())?;
    }
    if hidden_count > 0 {
        output::print_message(format!(
            "Secrets that are hidden: {hidden_count}; put them in again before using this as a settings file"
        ));
    }
    Ok(())
}

/// The settings with what follows from others filled in, and how many secrets were hidden.
fn effective_table(config: &Settings) -> anyhow::Result<(Table, usize)> {
    let mut config = config.clone();
    config.store = Some(config.store_config()?);
    config.index.folder = config.data_dir().join("index");
    config.data_dir = Some(config.data_dir());
    let mut table = Table::try_from(&config)?;
    let mut count = 0;
    if let Some(Value::Table(store)) = table.get_mut("store") {
        if let Some(url) = store.get_mut("url") {
            hide_credentials(url, &mut count);
        }
        if let Some(Value::Table(options)) = store.get_mut("options") {
            for (name, value) in options.iter_mut() {
                if OPEN_OPTIONS.contains(&name.to_ascii_lowercase().as_str()) {
                    hide_credentials(value, &mut count);
                } else {
                    *value = Value::String(HIDDEN.into());
                    count += 1;
                }
            }
        }
    }
    if let Some(Value::Array(urls)) = table.get_mut("broker").and_then(|broker| broker.get_mut("urls")) {
        for url in urls {
            hide_credentials(url, &mut count);
        }
    }
    if let Some(url) = table.get_mut("ingress").and_then(|ingress| ingress.get_mut("public_url")) {
        hide_credentials(url, &mut count);
    }
    hide_receivers(&mut table, &mut count);
    Ok((table, count))
}

/// Hides what receivers of alerts are sent to and signed with: the path of an address may be a secret.
fn hide_receivers(table: &mut Table, count: &mut usize) {
    let alerts = table.get_mut("monitor").and_then(|monitor| monitor.get_mut("alerts"));
    let Some(Value::Array(webhooks)) = alerts.and_then(|alerts| alerts.get_mut("webhooks")) else { return };
    for webhook in webhooks {
        if let Some(Value::String(url)) = webhook.get_mut("url") {
            let hidden = hide_all_but_host(url);
            *count += usize::from(hidden != *url);
            *url = hidden;
        }
        if let Some(secret) = webhook.get_mut("secret") {
            *secret = Value::String(HIDDEN.into());
            *count += 1;
        }
    }
}

/// An address of which scheme, host and port can be seen.
fn hide_all_but_host(text: &str) -> String {
    let (scheme, rest) = text.split_once("://").unwrap_or(("", text));
    // A backslash ends the host as well where addresses are read.
    let end = rest.find(['/', '\\', '?', '#']).unwrap_or(rest.len());
    let (authority, behind) = rest.split_at(end);
    let host = authority.rsplit_once('@').map_or(authority, |(_, host)| host);
    let user = if host.len() == authority.len() { String::new() } else { format!("{HIDDEN}@") };
    let behind = if behind.is_empty() || behind == "/" { behind.to_owned() } else { format!("/{HIDDEN}") };
    if scheme.is_empty() { HIDDEN.to_owned() } else { format!("{scheme}://{user}{host}{behind}") }
}

/// Hides name and password in an address.
fn hide_credentials(value: &mut Value, count: &mut usize) {
    let Value::String(text) = value else { return };
    let hidden = credentials::hide_credentials(text);
    if hidden != *text {
        *text = hidden;
        *count += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_are_hidden_and_the_rest_is_whole() {
        let mut store = store::StoreConfig::from_url("s3://bucket");
        for (name, value) in [
            ("aws_endpoint", "http://h:1"),
            ("AWS_Secret_Access_Key", "s1"),
            ("aws_session_token", "s2"),
            ("something_new", "s3"),
        ] {
            store.options.insert(name.into(), value.into());
        }
        let mut config = Settings { store: Some(store), ..Settings::default() };
        config.broker.urls = vec!["nats://u:s4@h:1".into()];
        let (table, count) = effective_table(&config).unwrap();
        let text = toml::to_string(&table).unwrap();
        assert_eq!(count, 4);
        for secret in ["s1", "s2", "s3", "s4"] {
            assert!(!text.contains(&format!("\"{secret}\"")) && !text.contains(":s4@"), "{text}");
        }
        assert!(text.contains("http://h:1") && text.contains("data_dir = \"data\""), "{text}");
    }

    #[test]
    fn of_receivers_of_alerts_only_the_host_is_shown() {
        let mut config = Settings::default();
        config.monitor.alerts.webhooks = [
            "https://hooks.example/services/T1/B2/s5",
            "https://h:8443?token=s6",
            "http://ann:s7@h/",
            "http://h:1/",
        ]
        .map(|url| monitor::WebhookReceiverConfig { url: url.into(), secret: None })
        .to_vec();
        let (table, count) = effective_table(&config).unwrap();
        let text = toml::to_string(&table).unwrap();
        assert_eq!(count, 3);
        assert!(!["s5", "s6", "s7", "T1"].iter().any(|secret| text.contains(secret)), "{text}");
        for shown in
            ["https://hooks.example/<hidden>", "https://h:8443/<hidden>", "http://<hidden>@h/", "http://h:1/"]
        {
            assert!(text.contains(&format!("\"{shown}\"")), "{shown}: {text}");
        }
    }

    #[test]
    fn the_printed_settings_are_a_settings_file() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("streamgate.toml");
        let more = "[ingress]\ngrace = \"90s\"\n[capacity]\nretention = \"7d\"\n[ingress.limit]\nkeys_max = 7\n\
                    [[chains]]\nchain_id = 1\nrpc_urls = [\"http://h:1\"]\nhead_age_max = \"1h\"\n\
                    [[chains]]\nchain_id = 2\nrpc_urls = [\"http://h:2\"]\n\
                    [transcode.profiles.\"with space\"]\ngop = \"1s\"\n[store.options]\naws_region = \"a \\\"b\\\"\"\n";
        for text in ["", more] {
            std::fs::write(&file, text).unwrap();
            let (config, _) = Settings::from_file(&file).unwrap();
            let (table, count) = effective_table(&config).unwrap();
            let text = describe::render_commented_file(&table);
            std::fs::write(&file, &text).unwrap();
            let (read, old) = Settings::from_file(&file).unwrap_or_else(|error| panic!("{error}\n{text}"));
            assert_eq!((count, old.len()), (0, 0), "{text}");
            assert_eq!(effective_table(&read).unwrap().0, table);
        }
        let text = std::fs::read_to_string(&file).unwrap();
        let wanted = "# How long open requests may go on after a stop was asked for. Default \"8s\".\ngrace = \"1m 30s\"\n";
        assert!(text.contains(wanted) && text.contains("retention = \"7d\""), "{text}");
    }
}
