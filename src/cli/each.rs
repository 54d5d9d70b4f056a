//! One action on each of several things that a command names.

use super::output;

/// Does something to each of `ids`, also behind one at which it fails; the last failure is that of the command.
pub(super) async fn act_on_each(
    kind: &str,
    ids: &[String],
    act: impl AsyncFn(&str) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    let mut failed = None;
    for id in ids {
        if let Err(error) = act(id).await
            && let Some(before) =
                failed.replace(error.context(format!("{kind} {}", output::sanitize_text(id))))
        {
            output::print_message(format!("{before:#}"));
        }
    }
    failed.map_or(Ok(()), Err)
}
