//! The filter of the log, which can be changed while the process runs.
//!
//! There is one log in a process, as there is one stderr. What is added at run time stands behind what is configured: of two directives
//! the one with the longer module counts, and of two for the same module the one that is behind.

use std::sync::OnceLock;

use anyhow::Context as _;
use tracing_subscriber::{EnvFilter, Registry, reload};

/// The filter of this process, once it has a log.
static FILTER: OnceLock<ReloadableFilter> = OnceLock::new();

#[derive(Debug)]
struct ReloadableFilter {
    handle: reload::Handle<EnvFilter, Registry>,
    configured: String,
}

/// The layer of a filter; what it lets pass is changed by [`add_directives`].
///
/// # Errors
/// When the text is malformed.
pub(super) fn make_layer(configured: &str) -> anyhow::Result<reload::Layer<EnvFilter, Registry>> {
    let filter = EnvFilter::try_new(configured).with_context(|| {
        format!("the log filter {configured:?} is malformed; write a level, or directives such as `info,transcode=debug`")
    })?;
    let (layer, handle) = reload::Layer::new(filter);
    // A process that makes a second log fails at that, and keeps the first.
    FILTER.set(ReloadableFilter { handle, configured: configured.to_owned() }).ok();
    Ok(layer)
}

/// Adds directives, each with a comma before it, to what is configured; none brings it back. What was added before is gone.
///
/// # Errors
/// When they are malformed; then everything stays as it is.
pub fn add_directives(directives: &str) -> anyhow::Result<()> {
    let Some(filter) = FILTER.get() else { return Ok(()) };
    let text = format!("{}{directives}", filter.configured);
    let made = EnvFilter::try_new(&text).with_context(|| format!("the log filter {text:?} is malformed"))?;
    Ok(filter.handle.reload(made)?)
}

#[cfg(test)]
mod tests {
    use tracing::{Level, enabled};
    use tracing_subscriber::layer::SubscriberExt as _;

    use super::*;

    /// What is let through of a module of ours, of one whose level is configured, and of a library.
    fn passing() -> [bool; 3] {
        [
            enabled!(target: "upload::verify", Level::DEBUG),
            enabled!(target: "nats::publish", Level::DEBUG),
            enabled!(target: "hyper", Level::DEBUG),
        ]
    }

    #[test]
    fn directives_are_added_to_what_is_configured_and_taken_back() {
        let layer = make_layer("info,nats::publish=warn").unwrap();
        tracing::subscriber::with_default(tracing_subscriber::registry().with(layer), || {
            assert_eq!(passing(), [false, false, false]);
            let wanted = schemas::log_level::parse_filter("debug").unwrap();
            add_directives(&schemas::log_level::render_directives(&wanted)).unwrap();
            assert_eq!(
                passing(),
                [true, false, false],
                "the longer module counts; libraries stay as they are"
            );
            add_directives(",nats::publish=[").unwrap_err();
            assert_eq!(passing(), [true, false, false]);
            add_directives("").unwrap();
            assert_eq!(passing(), [false, false, false]);
        });
    }
}
