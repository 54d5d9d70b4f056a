//! `nats`: the broker against `nats/topology.toml`.

use nats::{
    Bus,
    topology::{self, Class, Difference, Settings},
};
use serde_json::{Value, json};

use super::{Ended, out};

/// Prints what `apply` would change.
///
/// # Errors
/// When the broker is too old or does not answer.
pub async fn diff(bus: &Bus, replicas: usize, as_json: bool) -> anyhow::Result<Ended> {
    let differences = topology::diff(bus.context(), &settings(replicas)).await?;
    print(&differences, as_json)?;
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
/// As [`topology::apply`].
pub async fn apply(bus: &Bus, replicas: usize, as_json: bool) -> anyhow::Result<()> {
    let changed = topology::apply(bus.context(), &settings(replicas)).await?;
    print(&changed, as_json)?;
    match changed.len() {
        0 => out::say("Nothing to change"),
        count => out::say(format!("Changed: {count}")),
    }
    Ok(())
}

fn settings(replicas: usize) -> Settings {
    Settings { replicas, ..Settings::default() }
}

fn print(differences: &[Difference], as_json: bool) -> std::io::Result<()> {
    differences.iter().try_for_each(|difference| {
        if as_json { out::json(&document(difference)) } else { out::line(difference) }
    })
}

fn document(difference: &Difference) -> Value {
    let class = match difference.class {
        Class::Absent => "absent",
        Class::Changeable => "changeable",
        Class::Irreversible => "irreversible",
    };
    json!({
        "asset": difference.asset,
        "field": difference.field,
        "want": difference.want,
        "have": difference.have,
        "class": class,
    })
}
