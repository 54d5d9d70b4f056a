//! A role is killed under load: health has to say so within ten seconds, and the alert of silent roles has to fire within what its rule
//! says. Then the role is started again, and both have to end.

use std::time::{Duration, Instant};

use alerts::{AlertRule, Condition, RuleSet};
use serde::Serialize;
use serde_json::Value;

use crate::{
    gateway::Gateway,
    harness::{Cluster, poll},
    observe::WatchedProcesses,
    stack,
};

/// The rule.
const ALERT: &str = "StreamGateRoleSilent";
/// A process that is gone is known to be so after at most that time.
const HEALTH_MAX: Duration = Duration::from_secs(10);
/// Between two reports of the metrics of a process.
const REPORT_INTERVAL: Duration = Duration::from_secs(10);
/// What the monitor takes for an evaluation and for writing what came of it.
const EVALUATION_MAX: Duration = Duration::from_secs(10);
/// Longest wait for what has to end.
const END_MAX: Duration = Duration::from_secs(90);

/// What was seen; times in seconds since the kill, or since the start after it. `None` where it did not come.
#[derive(Debug, Default, Serialize)]
pub(crate) struct KilledRole {
    pub(crate) role: String,
    pub(crate) health_s: Option<f64>,
    pub(crate) health_max_s: f64,
    pub(crate) alert_s: Option<f64>,
    pub(crate) alert_max_s: f64,
    /// From the time at which the condition held to the alert, by the alert itself.
    pub(crate) alert_pending_s: Option<f64>,
    /// The `for` of the rule, divided by the time scale.
    pub(crate) alert_for_s: f64,
    pub(crate) health_over_s: Option<f64>,
    pub(crate) alert_over_s: Option<f64>,
}

impl KilledRole {
    /// What did not hold.
    pub(crate) fn problems(&self) -> Vec<String> {
        let Self { role, health_s, health_max_s, alert_s, alert_max_s, alert_pending_s, alert_for_s, .. } =
            self;
        let mut problems = Vec::new();
        if health_s.is_none_or(|seconds| seconds > *health_max_s) {
            problems.push(format!("health did not say within {health_max_s} s that {role} was gone"));
        }
        if alert_s.is_none_or(|seconds| seconds > *alert_max_s) {
            problems.push(format!("{ALERT} of {role} did not fire within {alert_max_s} s"));
        }
        let late = alert_for_s + EVALUATION_MAX.as_secs_f64();
        if alert_pending_s.is_some_and(|seconds| seconds < *alert_for_s || seconds > late) {
            problems.push(format!("{ALERT} was pending for another time than {alert_for_s} s"));
        }
        if self.health_over_s.is_none() {
            problems.push(format!("{role} was started again, and health is not ok"));
        }
        if self.alert_over_s.is_none() {
            problems.push(format!("{role} was started again, and {ALERT} did not end"));
        }
        problems
    }
}

/// The rule, with durations divided by `time_scale`.
fn find_rule(time_scale: u64) -> AlertRule {
    let set = RuleSet::built_in().unwrap().shortened(time_scale, 1_000);
    set.rules.into_iter().find(|rule| rule.name == ALERT).unwrap()
}

/// Kills a role, waits for what has to follow, starts it again, and waits until that is over.
pub(crate) async fn kill_and_watch(
    cluster: &mut Cluster,
    (gateway, processes): (&Gateway, &WatchedProcesses),
    role: &str,
    time_scale: u64,
) -> KilledRole {
    let alert = find_rule(time_scale);
    let hold = Duration::from_millis(alert.hold_ms);
    let Condition::Threshold { value, .. } = alert.condition else { panic!("{ALERT} is no threshold") };
    let silence = Duration::from_secs_f64(value.to_number());
    let alert_max = REPORT_INTERVAL + silence + hold + EVALUATION_MAX;
    let watched = processes.lock().remove(role).unwrap();
    let killed = Instant::now();
    cluster.kill(role);
    let words = format!("role {role} ");
    let health_s = until(HEALTH_MAX + EVALUATION_MAX, killed, async || {
        let health = gateway.read_json("/v1/monitor/health").await.ok()?;
        health["degraded"]
            .as_array()?
            .iter()
            .any(|line| line.as_str().unwrap().contains(&words))
            .then_some(())
    });
    let health_s = health_s.await.map(|(seconds, ())| seconds);
    let alert = until(alert_max + EVALUATION_MAX, killed, async || {
        find_alert(gateway, role).await.ok()?.filter(|alert| alert["phase"] == "firing")
    });
    let alert = alert.await;
    let pending =
        |alert: &Value| Some((alert["fired_at_ms"].as_f64()? - alert["since_ms"].as_f64()?) / 1_000.0);
    let started = Instant::now();
    cluster.spawn(role, stack::arguments(role));
    let watched = crate::observe::Watched { pid: cluster.pid(role), ..watched };
    processes.lock().insert(role.to_owned(), watched);
    let health_over_s = until(END_MAX, started, async || {
        let health = gateway.read_json("/v1/monitor/health").await.ok()?;
        (health["state"] == "ok").then_some(())
    });
    let health_over_s = health_over_s.await.map(|(seconds, ())| seconds);
    let alert_over_s = until(END_MAX, started, async || {
        let found = find_alert(gateway, role).await.ok()?;
        found.is_none_or(|alert| alert["phase"] == "resolved").then_some(())
    });
    KilledRole {
        role: role.to_owned(),
        health_s,
        health_max_s: HEALTH_MAX.as_secs_f64(),
        alert_s: alert.as_ref().map(|(seconds, _)| *seconds),
        alert_max_s: alert_max.as_secs_f64(),
        alert_pending_s: alert.as_ref().and_then(|(_, alert)| pending(alert)),
        alert_for_s: hold.as_secs_f64(),
        health_over_s,
        alert_over_s: alert_over_s.await.map(|(seconds, ())| seconds),
    }
}

/// Waits at most `limit`; what was found, and the seconds since `from`.
async fn until<T>(limit: Duration, from: Instant, look: impl AsyncFnMut() -> Option<T>) -> Option<(f64, T)> {
    let found = poll(limit, look).await?;
    Some((from.elapsed().as_secs_f64(), found))
}

/// The alert of a role, if there is one.
async fn find_alert(gateway: &Gateway, role: &str) -> Result<Option<Value>, String> {
    let list = gateway.read_json("/v1/monitor/alerts").await?;
    let is_it = |alert: &&Value| alert["name"] == ALERT && alert["labels"]["role"] == role;
    Ok(list["items"].as_array().into_iter().flatten().find(is_it).cloned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen() -> KilledRole {
        KilledRole {
            role: "tasks".into(),
            health_s: Some(9.4),
            health_max_s: 10.0,
            alert_s: Some(125.0),
            alert_max_s: 140.0,
            alert_pending_s: Some(61.0),
            alert_for_s: 60.0,
            health_over_s: Some(1.0),
            alert_over_s: Some(12.0),
        }
    }

    #[test]
    fn what_is_late_or_missing_is_a_problem() {
        assert_eq!(seen().problems(), [""; 0]);
        for broken in [
            KilledRole { health_s: Some(10.1), ..seen() },
            KilledRole { health_s: None, ..seen() },
            KilledRole { alert_s: None, alert_pending_s: None, ..seen() },
            KilledRole { alert_pending_s: Some(59.0), ..seen() },
            KilledRole { alert_pending_s: Some(71.0), ..seen() },
            KilledRole { health_over_s: None, ..seen() },
            KilledRole { alert_over_s: None, ..seen() },
        ] {
            assert_eq!(broken.problems().len(), 1, "{broken:?}");
        }
    }

    #[test]
    fn the_rule_says_how_long() {
        let rule = find_rule(4);
        assert_eq!(rule.hold_ms, 15_000);
        assert!(matches!(rule.condition, Condition::Threshold { .. }));
    }
}
