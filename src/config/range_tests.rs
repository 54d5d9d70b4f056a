//! Every number of the settings has a least and a most that are enforced, whatever file it comes from.

use toml::{Table, Value};

use super::{
    Settings, ranges,
    tests::load,
    tree::{SettingNode, format_path, setting_name},
};

/// The defaults as an old file has them, with one of everything that a file may hold any number of.
fn whole_table() -> Table {
    let chain: evm::ChainConfig =
        serde_json::from_value(serde_json::json!({ "chain_id": 1, "rpc_urls": ["http://x"] })).unwrap();
    let store = Some(store::StoreConfig::default());
    let mut settings = Settings { chains: vec![chain], store, ..Settings::default() };
    settings.ingress.quotas.of.insert("default".into(), ingress::quotas::OwnerQuota::default());
    Table::try_from(settings).unwrap()
}

/// The file with `number` at `path`, which is as [`ranges`] has it.
fn file_with(path: &str, number: i64) -> String {
    let mut table = whole_table();
    set_number(&mut table, path, number);
    toml::to_string(&table).unwrap()
}

fn set_number(table: &mut Table, path: &str, number: i64) {
    let Some((step, rest)) = path.split_once('.') else {
        table.insert(path.to_owned(), Value::Integer(number));
        return;
    };
    let inner = match step.strip_suffix("[]") {
        Some(name) => &mut table.get_mut(name).unwrap().as_array_mut().unwrap()[0],
        None => table.get_mut(step).unwrap(),
    };
    let names_are_free = rest.strip_prefix("<name>.").map(|rest| format!("default.{rest}"));
    set_number(inner.as_table_mut().unwrap(), &names_are_free.unwrap_or_else(|| rest.to_owned()), number);
}

/// Every number by its path in the code, as [`ranges`] has them.
fn numbers() -> Vec<(String, SettingNode)> {
    let mut found = Vec::new();
    find_numbers(SettingNode::root(), "", &mut found);
    assert!(found.len() > 160, "{}", found.len());
    found
}

fn find_numbers(table: SettingNode, path: &str, found: &mut Vec<(String, SettingNode)>) {
    for (field, node) in table.fields() {
        let path = if path.is_empty() { field.to_owned() } else { format!("{path}.{field}") };
        if node.is_number() {
            found.push((path, node));
        } else if let Some(item) = node.items() {
            find_numbers(item, &format!("{path}[]"), found);
        } else if let Some(entry) = node.entries() {
            find_numbers(entry, &format!("{path}.<name>"), found);
        } else {
            find_numbers(node, &path, found);
        }
    }
}

/// The name of a setting in errors.
fn shown_path(path: &str, node: SettingNode) -> String {
    let (table, field) = path.rsplit_once('.').unwrap();
    let steps = table.replace("<name>", "default").replace("[]", ".0");
    let mut steps: Vec<String> = steps.split('.').map(str::to_owned).collect();
    steps.push(setting_name(node, field));
    format_path(&steps)
}

#[test]
fn a_number_beyond_its_range_is_refused_with_what_is_right() {
    let mut tried = 0;
    for (path, node) in numbers() {
        let least = node.minimum().map(|least| least - 1);
        let most = node.maximum().and_then(|most| most.checked_add(1));
        for number in least.into_iter().chain(most) {
            let error = load(&file_with(&path, number)).unwrap_err().to_string();
            assert!(error.contains(&shown_path(&path, node)), "{path} = {number}: {error}");
            // A number that its type can't hold is refused before its range is asked for.
            assert!(
                error.contains(", and takes ") || error.contains("expected u"),
                "{path} = {number}: {error}"
            );
            tried += 1;
        }
        if node.choices().is_empty() {
            assert!(node.maximum().is_some() || path.ends_with("chain_id"), "{path} has no end");
            let takes_none = ranges::ZERO.contains(&path.as_str());
            assert!(node.minimum().is_some() || takes_none, "{path} has no least number");
        }
    }
    assert!(tried > 250, "{tried}");
}

#[test]
fn none_is_taken_where_it_is_listed_and_nowhere_else() {
    let numbers = numbers();
    for path in ranges::ZERO {
        let (_, node) = numbers
            .iter()
            .find(|(found, _)| found == path)
            .unwrap_or_else(|| panic!("{path} is listed, and no setting"));
        assert_eq!(node.minimum(), None, "{path} is listed, and its field says otherwise");
        load(&file_with(path, 0)).unwrap_or_else(|error| panic!("{path} = 0: {error}"));
    }
}
