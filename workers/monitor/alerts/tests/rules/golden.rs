//! The published file for Prometheus is what the rules amount to.

use alerts::{RenderOptions, RuleSet, render_rules};

#[test]
fn the_published_rules_are_current() {
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../rules.yml");
    let published = std::fs::read_to_string(path).unwrap();
    let made = render_rules(&RuleSet::built_in().unwrap(), &RenderOptions::default());
    assert_eq!(published, made, "write it: streamgate config --rules > workers/monitor/rules.yml");
}
