//! `nats`: the broker against `nats/topology.toml`.

use nats::{
    Bus, StreamUsage,
    topology::{self, DifferenceClass, TopologyDifference, TopologySettings},
};
use serde_json::{Value, json};

use super::{Ended, out, render};

/// Prints what `apply` would change, and says how full everything is.
///
/// # Errors
/// When the broker is too old or does not answer.
pub async fn diff(bus: &Bus, settings: &TopologySettings, as_json: bool) -> anyhow::Result<Ended> {
    let differences = topology::diff_topology(bus.context(), settings).await?;
    print(&differences, as_json)?;
    out::say(room(&bus.all_stream_usage().await?));
    if differences.is_empty() {
        out::say("The broker is as it should be");
        return Ok(Ended::Well);
    }
    out::say("`streamgate nats apply` changes that");
    Ok(Ended::Badly)
}

/// Brings the broker to the topology, and prints what was changed.
///
/// # Errors
/// As [`topology::apply_topology`].
pub async fn apply(bus: &Bus, settings: &TopologySettings, as_json: bool) -> anyhow::Result<()> {
    let changed = topology::apply_topology(bus.context(), settings).await?;
    print(&changed, as_json)?;
    match changed.len() {
        0 => out::say("Nothing to change"),
        count => out::say(format!("Changed: {count}")),
    }
    Ok(())
}

/// How full each stream and bucket is, and for how many days there is room if it goes on as it did; the fullest first.
pub fn room(fills: &[StreamUsage]) -> String {
    let now_ms = nats::now_ms();
    let mut fills: Vec<&StreamUsage> = fills.iter().collect();
    fills.sort_by_key(|fill| std::cmp::Reverse(fill.used_percent()));
    let rows: Vec<Vec<String>> = fills
        .into_iter()
        .map(|fill| {
            let days = fill.days_left(now_ms).map_or_else(|| "-".to_owned(), |days| days.to_string());
            let limit = render::size(fill.limit_bytes);
            vec![fill.stream.clone(), format!("{} %", fill.used_percent()), limit, days]
        })
        .collect();
    render::table(&["STREAM", "FULL", "OF", "DAYS LEFT"], &rows)
}

fn print(differences: &[TopologyDifference], as_json: bool) -> std::io::Result<()> {
    differences.iter().try_for_each(|difference| {
        if as_json { out::json(&document(difference)) } else { out::line(difference) }
    })
}

fn document(difference: &TopologyDifference) -> Value {
    let class = match difference.class {
        DifferenceClass::Absent => "absent",
        DifferenceClass::Changeable => "changeable",
        DifferenceClass::Irreversible => "irreversible",
    };
    json!({
        "asset": difference.asset,
        "field": difference.field,
        "want": difference.want,
        "have": difference.have,
        "class": class,
    })
}
