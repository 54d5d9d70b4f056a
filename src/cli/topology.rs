//! `nats`: the broker against `nats/topology.toml`.

use nats::{
    Bus, StreamUsage,
    topology::{self, DifferenceClass, TopologyDifference, TopologySettings},
};
use serde_json::{Value, json};

use super::{CommandOutcome, output, render};

/// Prints what `apply` would change, and says how full everything is.
///
/// # Errors
/// When the broker is too old or does not answer.
pub async fn print_diff(
    bus: &Bus,
    settings: &TopologySettings,
    as_json: bool,
) -> anyhow::Result<CommandOutcome> {
    let differences = topology::diff_topology(bus.context(), settings).await?;
    print_differences(&differences, as_json)?;
    output::print_message(format_usage(&bus.all_stream_usage().await?));
    if differences.is_empty() {
        output::print_message("The broker is as it should be");
        return Ok(CommandOutcome::Well);
    }
    output::print_message("`streamgate nats apply` changes that");
    Ok(CommandOutcome::Badly)
}

/// Brings the broker to the topology, and prints what was changed.
///
/// # Errors
/// As [`topology::apply_topology`].
pub async fn apply_and_print(bus: &Bus, settings: &TopologySettings, as_json: bool) -> anyhow::Result<()> {
    let changed = topology::apply_topology(bus.context(), settings).await?;
    print_differences(&changed, as_json)?;
    match changed.len() {
        0 => output::print_message("Nothing to change"),
        count => output::print_message(format!("Changed: {count}")),
    }
    Ok(())
}

/// How full each stream and bucket is, and for how many days there is room if it goes on as it did; the fullest first.
pub fn format_usage(fills: &[StreamUsage]) -> String {
    let now_ms = nats::now_ms();
    let mut fills: Vec<&StreamUsage> = fills.iter().collect();
    fills.sort_by_key(|fill| std::cmp::Reverse(fill.used_percent()));
    let rows: Vec<Vec<String>> = fills
        .into_iter()
        .map(|fill| {
            let days = fill.days_left(now_ms).map_or_else(|| "-".to_owned(), |days| days.to_string());
            let limit = render::format_size(fill.limit_bytes);
            vec![fill.stream.clone(), format!("{} %", fill.used_percent()), limit, days]
        })
        .collect();
    render::format_table(&["STREAM", "FULL", "OF", "DAYS LEFT"], &rows)
}

fn print_differences(differences: &[TopologyDifference], as_json: bool) -> std::io::Result<()> {
    differences.iter().try_for_each(|difference| {
        if as_json {
            output::print_json(&difference_json(difference))
        } else {
            output::print_line(difference)
        }
    })
}

fn difference_json(difference: &TopologyDifference) -> Value {
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
