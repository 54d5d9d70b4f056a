//! The settings with their meaning, default and range, from the doc comments of their fields: as a commented settings file, and as
//! the tables of `SETTINGS.md`.

use toml::{Table, Value};

use super::{
    Settings, file,
    tree::{self, SettingNode},
    units,
};

/// Longest line of a comment, in characters.
const COMMENT_CHARS_MAX: usize = 100;

/// A table with fewer settings, and none below, stands in the table above it.
const OWN_TABLE_COUNT_MIN: usize = 3;

/// Defaults that depend on the machine or on other settings.
const DERIVED: [(&str, &str); 7] = [
    ("broker.replicas", "1"),
    ("chains[].chain_id", "none, it has to be given"),
    ("chains[].quorum", "the least number that is more than half of them"),
    ("data_dir", "\"data\""),
    ("index.folder", "`index` in the data folder"),
    ("store.url", "`store` in the data folder"),
    ("transcode.parts.slots", "half the cores, from 2 to 16; 1 on one core"),
];

/// Head of the file with the tables.
const HEAD: &str = "# Settings

Every setting of the settings file (`--config`, TOML). `streamgate config` prints those in effect, with the same text. Durations and
sizes are text with a unit: `\"500ms\"`, `\"1m 30s\"`, `\"7d\"`; `\"64MiB\"`, `\"1GiB\"`. Rates and counts are plain numbers. Every time is at most
100 years (`\"36500d\"`), every other number at most 2^53; a value that can't work is refused at the start, with what is right. Keys of
old files that have the unit in their name (`grace_ms = 8000`) still work, with a warning that says what to write.

This file is made from the code by `cargo run -- config --markdown > SETTINGS.md`.
";

/// What is printed about one setting.
struct SettingDescription {
    meaning: String,
    default: Option<String>,
    range: String,
}

impl SettingDescription {
    /// `path` as in files, with `[]` for each step into a list; `default` as serde writes it.
    fn from_node(node: SettingNode, field: &str, path: &str, default: Option<&Value>) -> Self {
        let meaning = units::file_setting_text(node.description(), field);
        let derived = DERIVED.iter().find(|(key, _)| *key == path).map(|(_, text)| (*text).to_owned());
        let default = derived.or_else(|| {
            let of_type = || Value::try_from(node.default()?).ok();
            let value = default.cloned().or_else(of_type)?;
            Some(tree::value_to_file_form(node, field, value).to_string())
        });
        Self { meaning, default, range: file::describe_range(node, field).join(", ") }
    }

    /// As text below a key's name.
    fn to_sentences(&self) -> String {
        let default = self.default.as_ref().map(|default| format!("default {default}"));
        let facts: Vec<String> =
            default.into_iter().chain((!self.range.is_empty()).then(|| self.range.clone())).collect();
        let mut text = self.meaning.clone();
        if !facts.is_empty() {
            let facts = facts.join(", ");
            let (first, rest) = facts.split_at_checked(1).unwrap_or_default();
            text = format!("{text} {}{rest}.", first.to_uppercase());
        }
        text
    }
}

/// The default settings as serde writes them, with those that are absent unless they are needed.
fn default_table() -> Table {
    let config = Settings { store: Some(store::StoreConfig::default()), ..Settings::default() };
    // Nothing of the defaults is a path that TOML can't hold.
    Table::try_from(&config).unwrap_or_default()
}

/// Settings, as serde writes them, as a settings file with a comment above each key.
pub fn render_commented_file(table: &Table) -> String {
    let mut writer = SettingsWriter { out: String::new(), is_brief: false };
    writer.write_table(SettingNode::root(), ("", ""), table, Some(&default_table()));
    writer.out.trim_start().to_owned()
}

struct SettingsWriter {
    out: String,
    /// True where the same was described just before.
    is_brief: bool,
}

impl SettingsWriter {
    /// Writes the settings of a table, then the tables below it. `path` is its name twice: as TOML writes it, and with `[]` behind
    /// each list.
    fn write_table(
        &mut self,
        node: SettingNode,
        path: (&str, &str),
        table: &Table,
        defaults: Option<&Table>,
    ) {
        let mut below = Vec::new();
        for (field, child) in table_keys(node, table) {
            let name = format_key(&tree::setting_name(child, &field));
            let inner = (join_path(path.0, &name), join_path(path.1, &name));
            let default = defaults.and_then(|defaults| defaults.get(&field));
            let value = table.get(&field);
            if let Some(tables) = value.and_then(find_tables) {
                below.push((inner, child, tables, default));
                continue;
            }
            self.write_comment(
                &SettingDescription::from_node(child, &field, &inner.1, default).to_sentences(),
            );
            match value {
                Some(value) => {
                    let shown = tree::value_to_file_form(child, &field, value.clone());
                    push_line(&mut self.out, &format!("{name} = {shown}"));
                }
                None if !self.is_brief => {
                    push_line(&mut self.out, &format!("# {name} is not set"));
                }
                None => {}
            }
        }
        for ((written, known), child, tables, default) in below {
            let was_brief = self.is_brief;
            for table in tables {
                self.out.push('\n');
                self.write_comment(&units::file_setting_text(child.description(), ""));
                if let Some(item) = child.items() {
                    push_line(&mut self.out, &format!("[[{written}]]"));
                    self.write_table(item, (&written, &format!("{known}[]")), table, None);
                    self.is_brief = true;
                } else {
                    push_line(&mut self.out, &format!("[{written}]"));
                    self.write_table(child, (&written, &known), table, default.and_then(Value::as_table));
                }
            }
            self.is_brief = was_brief;
        }
    }

    fn write_comment(&mut self, text: &str) {
        if self.is_brief {
            return;
        }
        let mut line = String::new();
        for word in text.split_whitespace() {
            if !line.is_empty() && line.chars().count() + word.chars().count() + 2 > COMMENT_CHARS_MAX {
                push_line(&mut self.out, &format!("#{line}"));
                line.clear();
            }
            line.push(' ');
            line.push_str(word);
        }
        if !line.is_empty() {
            push_line(&mut self.out, &format!("#{line}"));
        }
    }
}

/// The tables that have headers of their own: the value itself, or what a list holds.
fn find_tables(value: &Value) -> Option<Vec<&Table>> {
    match value {
        Value::Table(table) => Some(vec![table]),
        Value::Array(values) if !values.is_empty() => values.iter().map(Value::as_table).collect(),
        _ => None,
    }
}

/// The fields that a table may have, and those it has where names are free.
fn table_keys(node: SettingNode, table: &Table) -> Vec<(String, SettingNode)> {
    let mut keys: Vec<_> = node.fields().map(|(field, child)| (field.to_owned(), child)).collect();
    if let Some(entry) = node.entries() {
        keys.extend(table.keys().map(|name| (name.clone(), entry)));
    }
    keys
}

fn push_line(out: &mut String, text: &str) {
    out.push_str(text);
    out.push('\n');
}

/// A key as TOML writes it.
fn format_key(name: &str) -> String {
    let is_bare = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-');
    let may_be_bare = !name.is_empty() && name.bytes().all(is_bare);
    if may_be_bare { name.to_owned() } else { serde_json::Value::from(name).to_string() }
}

fn join_path(path: &str, name: &str) -> String {
    if path.is_empty() { name.to_owned() } else { format!("{path}.{name}") }
}

/// The text of `SETTINGS.md`.
pub fn render_markdown() -> String {
    let mut out = HEAD.to_owned();
    write_section(&mut out, SettingNode::root(), "", "", Some(&Value::Table(default_table())));
    out
}

/// One table of settings, then the sections of the tables below it.
fn write_section(out: &mut String, node: SettingNode, path: &str, about: &str, defaults: Option<&Value>) {
    let (mut rows, mut below) = (String::new(), Vec::new());
    for (field, child) in node.fields() {
        let inner = join_path(path, &tree::setting_name(child, field));
        let default = defaults.and_then(|defaults| defaults.get(field));
        let (list, entries) = (child.items().filter(|item| item.is_table()), child.entries());
        let is_of_tables = entries.is_some_and(SettingNode::is_table);
        if let Some(item) = list {
            below.push((format!("{inner}[]"), item, child, None));
        } else if let Some(entry) = entries.filter(|_| is_of_tables) {
            below.push((format!("{inner}.<name>"), entry, child, None));
        } else if !child.is_table() || entries.is_some() {
            write_row(&mut rows, &inner, &SettingDescription::from_node(child, field, &inner, default));
        } else if is_small(child) {
            let about = units::file_setting_text(child.description(), "");
            for (field, leaf) in child.fields() {
                let path = join_path(&inner, &tree::setting_name(leaf, field));
                let mut described = SettingDescription::from_node(
                    leaf,
                    field,
                    &path,
                    default.and_then(|default| default.get(field)),
                );
                described.meaning = format!("{about} {}", described.meaning);
                write_row(&mut rows, &path, &described);
            }
        } else {
            below.push((inner, child, child, default));
        }
    }
    let title = if path.is_empty() { String::new() } else { format!("\n## `{path}`\n") };
    let about = if about.is_empty() { String::new() } else { format!("\n{about}\n") };
    if !rows.is_empty() {
        let head = "| key | meaning | default | range |\n| --- | --- | --- | --- |";
        push_line(out, &format!("{title}{about}\n{head}\n{}", rows.trim_end()));
    }
    for (path, node, about, default) in below {
        write_section(out, node, &path, &units::file_setting_text(about.description(), ""), default);
    }
}

fn is_small(node: SettingNode) -> bool {
    let is_leaf = |(_, child): (&str, SettingNode)| !child.is_table();
    node.fields().all(is_leaf) && node.fields().count() < OWN_TABLE_COUNT_MIN
}

fn write_row(rows: &mut String, path: &str, note: &SettingDescription) {
    let cell = |text: &str| text.replace('|', "\\|");
    let default = note.default.as_deref().map(|text| {
        if text.contains(' ') && !text.starts_with(['"', '[']) {
            cell(text)
        } else {
            format!("`{}`", cell(text))
        }
    });
    let default = default.unwrap_or_else(|| "none".to_owned());
    push_line(rows, &format!("| `{path}` | {} | {default} | {} |", cell(&note.meaning), cell(&note.range)));
}
