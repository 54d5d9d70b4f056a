//! What people see of the settings: files in both forms, what is refused, and the description of all of them.

use std::{collections::BTreeSet, path::Path};

use super::*;
use crate::config::tree::SettingNode;

/// The settings of a file with `text`.
pub(super) fn load(text: &str) -> Result<(Settings, Vec<LegacySetting>), SettingsError> {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("streamgate.toml");
    std::fs::write(&file, text).unwrap();
    Settings::load(Some(&file), &ServerArgs::default())
}

#[test]
fn a_flag_that_was_not_given_leaves_the_file_alone() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("streamgate.toml");
    std::fs::write(&file, "[media]\nunsandboxed = true\n[ingress]\nlisten = \"127.0.0.1:9000\"\n").unwrap();
    let (config, _) = Settings::load(Some(&file), &ServerArgs::default()).unwrap();
    assert!(config.media.unsandboxed);
    assert_eq!(config.ingress.listen.port(), 9000);
    let args = ServerArgs { listen: Some("127.0.0.1:1".parse().unwrap()), ..ServerArgs::default() };
    assert_eq!(Settings::load(Some(&file), &args).unwrap().0.ingress.listen.port(), 1);
}

#[test]
fn limits_are_those_of_the_topology_until_a_load_is_said() {
    let of = |text: &str| load(text).unwrap().0.topology_settings().load;
    assert_eq!(of(""), None);
    let usual = topology::ExpectedLoad::default();
    let wanted = topology::ExpectedLoad { views_per_day: 7, retention_days: 2, ..usual };
    assert_eq!(of("[capacity]\nviews_per_day = 7\nretention = \"2d\"\n"), Some(wanted));
}

#[test]
fn what_is_set_once_reaches_every_role() {
    let (config, _) = load("[retention]\nended = \"2d\"\n").unwrap();
    let kept =
        [config.transcode.ended_kept_ms, config.ingress.uploads.ended_kept_ms, config.keeper.ended_kept_ms];
    assert_eq!(kept, [172_800_000; 3]);
}

#[test]
fn a_wrong_setting_is_named() {
    for (text, name) in [
        ("[ingres]\n", "line 1: ingres is no setting"),
        ("[ingress]\nlisten = 5\n", "line 2: ingress.listen: invalid type"),
        ("[transcode]\nprofile = \"none\"\n", "transcode.profile"),
        ("[broker]\nreplicas = 2\n", "broker.replicas can't be used: it is 2, and takes one of 1, 3 or 5"),
        (
            "[capacity]\nuploads_per_hour = 2\n",
            "capacity.uploads_per_hour is no setting; here are: retention",
        ),
        (
            "[retention]\nended = \"5s\"\n",
            "retention.ended can't be used: it is \"5s\", and takes at least \"1d\"",
        ),
        (
            "[keeper]\nfold_age = \"104d\"\n",
            "retention.ended can't be used: it is \"30d\", and takes no less than keeper.fold_age, which is \"104d\"",
        ),
        ("[auth]\nrecheck = \"5s\"\n", "auth.recheck can't be used: it is \"5s\", and takes at most \"1s\""),
        (
            "[transcode.profiles.default]\nloudness_lufs = -99\n",
            "transcode.profiles.default.loudness_lufs can't be used: it is -99, and takes at least -40, at most -5",
        ),
        ("[auth]\nproof = \"61s\"\n", "auth.proof can't be used: it is \"1m 1s\", and takes at most \"1m\""),
        ("[auth]\nrefresh_again = \"31s\"\n", "auth.refresh_again can't be used"),
        (
            "[auth]\naccess_ttl = \"0s\"\n",
            "auth.access_ttl can't be used: it is \"0s\", and takes at least \"1s\"",
        ),
        (
            "[auth]\ncontract_calls_max = 0\n",
            "auth.contract_calls_max can't be used: it is 0, and takes at least 1",
        ),
        ("[auth]\nadmins = [\"0x12\"]\n", "line 2: auth.admins[0]"),
        (
            "[grants]\nsession = \"1s\"\n",
            "grants.session can't be used: a session ends before its first grant, which lasts \"1m\"",
        ),
        ("[[chains]]\nchain_id = 1\n", "chains"),
        ("[[chains]]\nchain_id = 1\nrpc_urls = [\"ws://x\"]\n", "line 3: chains[0].rpc_urls[0]"),
        (
            "[[chains]]\nchain_id = 1\nrpc_urls = [\"http://x\"]\nbatch_max = 0\n",
            "chains[0].batch_max can't be used",
        ),
        ("[ingress.manners]\norigins = [\"example.org\"]\n", "ingress.manners.origins"),
        ("[ingress.client]\ntrusted_proxies = [\"nonsense\"]\n", "trusted_proxies"),
        ("[ingress.limit.rates.auth]\ncapacity = 5\n", "refill_per_s"),
        ("[ingress.documents]\nentries_max = 5\nsize_max = \"1MiB\"\n", "missing field `age`"),
    ] {
        let error = load(text).unwrap_err().to_string();
        assert!(error.contains(name), "{text}: {error}");
    }
}

#[test]
fn durations_and_sizes_are_text_with_a_unit() {
    let text = "[ingress]\ngrace = \"1m 30s\"\n[ingress.uploads]\nsize_max = \"256MiB\"\nexpiry = \"2d\"\n\
                [[chains]]\nchain_id = 1\nrpc_urls = [\"http://x\"]\nhead_age_max = \"1h\"\n\
                [transcode]\nprofile = \"mine\"\n[transcode.profiles.mine]\ngop = \"1s\"\n[media]\nmemory_max = \"4GiB\"\n";
    let (config, old) = load(text).unwrap();
    assert_eq!(old, []);
    assert_eq!(config.ingress.grace_ms, 90_000);
    assert_eq!(
        (config.ingress.uploads.size_bytes_max, config.ingress.uploads.expiry_s),
        (256 << 20, 172_800)
    );
    assert_eq!(config.chains[0].head_age_s_max, 3_600);
    assert_eq!(config.transcode.profiles["mine"].gop_ms, 1_000);
    assert_eq!(config.media.memory_bytes_max, Some(4 << 30));
}

#[test]
fn old_files_are_read_and_the_new_form_is_shown() {
    let text = "[ingress]\ngrace_ms = 8000\n[ingress.uploads]\nsize_bytes_max = 268435456\n\
                [[chains]]\nchain_id = 1\nrpc_urls = [\"http://x\"]\nhead_age_s_max = 3600\n\
                [capacity]\nretention_days = 7\n";
    let (config, old) = load(text).unwrap();
    assert_eq!((config.ingress.grace_ms, config.ingress.uploads.size_bytes_max), (8_000, 256 << 20));
    assert_eq!((config.chains[0].head_age_s_max, config.capacity.retention_days), (3_600, Some(7)));
    let said: Vec<String> = old.iter().map(ToString::to_string).collect();
    assert_eq!(
        said,
        [
            "capacity.retention_days = 7 is the old form; write retention = \"7d\"",
            "chains[0].head_age_s_max = 3600 is the old form; write head_age_max = \"1h\"",
            "ingress.grace_ms = 8000 is the old form; write grace = \"8s\"",
            "ingress.uploads.size_bytes_max = 268435456 is the old form; write size_max = \"256MiB\"",
        ]
    );
}

#[test]
fn every_old_name_with_its_number_is_still_read() {
    let table = toml::Table::try_from(Settings::default()).unwrap();
    let (config, old) = load(&toml::to_string(&table).unwrap()).unwrap();
    assert_eq!(toml::Table::try_from(&config).unwrap(), table);
    assert!(old.len() > 100, "{}", old.len());
}

#[test]
fn a_value_of_the_wrong_unit_is_refused_with_what_would_be_right() {
    for (text, wanted) in [
        (
            "grace = 8000",
            "line 2: ingress.grace = 8000 has no unit; write grace = \"8s\" if that is what is meant",
        ),
        (
            "grace = \"8\"",
            "ingress.grace = \"8\" can't be used; grace takes a whole number of milliseconds, such as",
        ),
        ("grace = \"8MiB\"", "ingress.grace = \"8MiB\" can't be used"),
        ("grace = \"100us\"", "ingress.grace = \"100us\" can't be used"),
        ("grace = true", "ingress.grace = true can't be used"),
        ("grace_ms = \"8s\"", "ingress.grace_ms = \"8s\" is half of the old form; write grace = \"8s\""),
        ("grace_ms = -1", "ingress.grace_ms = -1 can't be used"),
        ("grace = \"8s\"\ngrace_ms = 8000", "is said twice, as grace and as grace_ms; keep grace"),
        (
            "uploads.expiry = \"1500ms\"",
            "ingress.uploads.expiry = \"1500ms\" can't be used; expiry takes a whole number of seconds",
        ),
        ("uploads.size_max = \"1.5GiB\"", "size_max takes a whole number with its unit, such as \"512KiB\""),
        ("uploads.size_max = \"8s\"", "ingress.uploads.size_max = \"8s\" can't be used"),
    ] {
        let error = load(&format!("[ingress]\n{text}\n")).unwrap_err().to_string();
        assert!(error.contains(wanted), "{text}: {error}");
    }
}

/// Every setting by its path in the code, lists and free names followed once.
fn leaves(node: SettingNode, path: &str, found: &mut Vec<(String, String, SettingNode)>) {
    let mut names = BTreeSet::new();
    for (field, child) in node.fields() {
        let path = format!("{path}.{field}");
        let name = tree::setting_name(child, field);
        assert!(names.insert(name.clone()), "{path}: two settings are called {name}");
        let is_old = node.fields().any(|(other, _)| other == name && other != field);
        assert!(!is_old, "{path}: {name} is the old form of another setting");
        let below = child.items().filter(|item| item.is_table()).or_else(|| child.entries()).unwrap_or(child);
        if below.is_table() {
            leaves(below, &path, found);
        } else {
            found.push((path, name, child));
        }
    }
}

#[test]
fn every_setting_has_a_name_of_its_own_without_a_unit_and_says_what_it_is() {
    let mut found = Vec::new();
    leaves(SettingNode::root(), "", &mut found);
    assert!(found.len() > 180, "{}", found.len());
    for (path, name, node) in &found {
        assert!(!node.description().is_empty(), "{path} has no doc comment");
        assert!(!node.description().contains("[`"), "{path}: links mean nothing in a settings file");
        let field = path.rsplit('.').next().unwrap();
        let units = ["ms", "s", "seconds", "minutes", "min", "hours", "days", "bytes", "kib", "mib"];
        let of_rate = name.split('_').any(|word| word == "per");
        let with_unit: Vec<&str> = name.split('_').filter(|word| units.contains(word)).collect();
        let is_least = name.ends_with("_min") && with_unit == ["min"];
        assert!(of_rate || with_unit.is_empty() || is_least, "{path}: {name} has {with_unit:?}");
        assert!(name.split('_').any(|word| !["max", "min"].contains(&word)), "{path}: {name}");
        if units::SettingUnit::from_field(field).is_some() {
            assert!(node.unit(field).is_some(), "{path} is no number");
            let described = units::file_setting_text(node.description(), field);
            assert!(
                !described.contains("milliseconds") && !described.contains("in seconds"),
                "{path}: {described}"
            );
        }
    }
}

#[test]
fn settings_md_is_what_the_code_says() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("SETTINGS.md");
    let found = std::fs::read_to_string(path).unwrap_or_default();
    let wanted = describe::render_markdown();
    let differs = found.lines().zip(wanted.lines()).find(|(found, wanted)| found != wanted);
    assert!(
        found == wanted,
        "run `cargo run -- config --markdown > SETTINGS.md`; first difference: {differs:?}"
    );
}
