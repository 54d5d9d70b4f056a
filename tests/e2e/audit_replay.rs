//! What `audit replay` prints of a running installation.

use serde_json::{Value, json};

use crate::cli::Said;

/// Replays of the log up to the record of the newest event.
pub(crate) async fn replays_what_is_asked_for<F: Future<Output = Said>>(
    ask: &impl Fn(&[&str]) -> F,
    media_id: &str,
    newest: u64,
) {
    let replay = async |args: &[&str]| {
        let said = ask(&[&["audit", "replay"], args].concat()).await;
        assert_eq!(said.status, 0, "{args:?}: {said:?}");
        said.json()
    };
    // Followed to the newest event it waits until that is audited, and ends.
    let all = replay(&["--follow", "--to", &newest.to_string()]).await;
    assert_eq!(all.last().unwrap()["n"], newest);
    let chosen = |wanted: &dyn Fn(&Value) -> bool| -> Vec<Value> {
        all.iter().filter(|record| wanted(record)).cloned().collect()
    };
    let to = ["--to", &newest.to_string()];
    let hers = chosen(&|record| record["media_id"] == media_id);
    assert!(hers.len() > 3 && hers.len() < all.len(), "{hers:?}");
    assert_eq!(replay(&[&["--media", media_id], &to[..]].concat()).await, hers);
    assert_eq!(replay(&["--media", media_id, "--limit", "2"]).await, hers[..2]);
    assert_eq!(replay(&["--media", media_id, "--limit", "2", "--follow"]).await, hers[..2]);
    assert_eq!(replay(&["--from", "2", "--to", "3"]).await, all[1..3]);
    let owned = chosen(&|record| record["owner"] == "admin");
    assert_eq!(replay(&[&["--owner", "admin"], &to[..]].concat()).await, owned);
    assert_eq!(replay(&["--owner", "nobody"]).await, [] as [Value; 0]);
    let ready = replay(&["--filter", "media.ready"]).await;
    assert_eq!((ready.len(), &ready[0]["media_id"]), (1, &json!(media_id)), "{ready:?}");
    for (filter, wanted) in
        [("nonsense", "classes are access"), ("media.nonsense", "actions of media are changed")]
    {
        let said = ask(&["audit", "replay", "--filter", filter]).await;
        assert_eq!((said.status, said.out.as_str()), (1, ""), "{said:?}");
        assert!(said.err.contains("such as media.ready") && said.err.contains(wanted), "{said:?}");
    }
}
