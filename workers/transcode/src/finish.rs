//! The finisher: puts the parts together, checks the whole, and publishes it.
//!
//! Order of effects: poster, playlists and manifest, check, report, multivariant playlist, medium, job. A crash anywhere
//! repeats it with the same bytes under the same keys.

use std::{collections::BTreeMap, sync::Arc};

use media::Output;
use nats::Outbox;
use packaging::{mpd, playlist, presentation::Presentation};
use schemas::{
    job::{self, Part, PartStatus},
    keys,
    media::{self as records, Encode},
    subjects,
};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::{
    Context,
    check::{self, Evidence, Severity},
    claim::Claim,
    close, encode,
    error::Error,
    report,
    source::Object,
    spec,
};

/// Findings named in the reason of a failed job.
const FINDINGS_TOLD_MAX: usize = 3;

/// Finishes a job whose parts are over.
pub(crate) async fn finish(
    context: &Context,
    job: &job::Record,
    claim: &Claim,
    stop: &CancellationToken,
) -> Result<(), Error> {
    let parts = parts(context, job).await?;
    if let Some(failed) = parts.iter().find(|part| part.status == PartStatus::Failed) {
        let code = failed.code.clone().unwrap_or_else(|| job::PART_FAILED.to_owned());
        let detail = failed.detail.clone().unwrap_or_default();
        return close::fail(context, job, &code, &detail).await;
    }
    let presentation = Presentation::assemble(&job.plan, &parts)?;
    let has_poster = poster(context, job, stop).await?;
    let target = presentation.target_seconds();
    let playlists: BTreeMap<String, String> =
        presentation.renditions().map(|r| (r.name.clone(), playlist::media(r, target))).collect();
    let is_playable = !playlists.is_empty();
    let multivariant = playlist::multivariant(&presentation);
    let manifest = mpd::manifest(&presentation)?;
    let findings = if is_playable {
        let reads_max = context.config.check_reads_max;
        let measured = check::measure(&context.store, &job.prefix, &presentation, reads_max).await?;
        let evidence = Evidence {
            plan: &job.plan,
            multivariant: &multivariant,
            playlists: &playlists,
            manifest: &manifest,
            measured: &measured,
        };
        check::verify(&evidence)
    } else {
        Vec::new()
    };
    let asset = context.bus.load::<records::Record>(&job.media_id.to_string()).await?.map(|held| held.record);
    let report = report::render(&report::Input {
        job,
        parts: &parts,
        presentation: &presentation,
        findings: &findings,
        technical: asset.as_ref().and_then(|a| a.technical.as_ref()),
        versions: &context.driver.check().versions,
    });
    put(context, job, keys::REPORT, report).await?;
    refuse_errors(&findings)?;
    if is_playable {
        for (name, text) in playlists {
            put(context, job, &keys::media_playlist(&name), text).await?;
        }
        put(context, job, keys::MANIFEST, manifest).await?;
        put(context, job, keys::MULTIVARIANT, multivariant).await?;
    }
    if !claim.renew(Outbox::new(), |_| {}).await? || encode::is_over(&context.bus, job).await? {
        return Ok(());
    }
    let made = Encode {
        number: job.encode,
        job_id: job.job_id,
        prefix: job.prefix.clone(),
        duration_ms: job.plan.duration_ms,
        renditions: presentation.renditions().map(|r| r.summary(target)).collect(),
        has_poster,
    };
    close::succeed(context, job, &made, parts.iter().map(|part| part.cpu_ms).sum()).await?;
    claim.renew(Outbox::new(), |part| part.status = PartStatus::Done).await?;
    tracing::info!(media.id = %job.media_id, job.id = %job.job_id, "ready");
    Ok(())
}

async fn parts(context: &Context, job: &job::Record) -> Result<Vec<Part>, Error> {
    let mut parts = Vec::with_capacity(job.parts.len());
    for name in &job.parts {
        if let Some(held) = context.bus.load::<Part>(&subjects::part_key(job.job_id, name)).await? {
            parts.push(held.record);
        }
    }
    Ok(parts)
}

fn refuse_errors(findings: &[check::Finding]) -> Result<(), Error> {
    let errors: Vec<String> = findings
        .iter()
        .filter(|finding| finding.severity == Severity::Error)
        .take(FINDINGS_TOLD_MAX)
        .map(|finding| format!("{:?} {}", finding.rule, finding.detail))
        .collect();
    if errors.is_empty() { Ok(()) } else { Err(Error::Nonconforming(errors.join("; "))) }
}

async fn put(context: &Context, job: &job::Record, name: &str, text: String) -> Result<(), Error> {
    context.store.put(&format!("{}/{name}", job.prefix), text).await?;
    Ok(())
}

/// Takes the poster. A moving medium does without one when none can be taken; a still image is nothing else.
async fn poster(context: &Context, job: &job::Record, stop: &CancellationToken) -> Result<bool, Error> {
    let Some(wanted) = &job.plan.poster else { return Ok(false) };
    context.store.head(&job.plan.source_key).await?;
    let source = Object::new(context.store.clone(), job.plan.source_key.clone(), job.plan.source_bytes);
    let (sender, mut outputs) = mpsc::channel(2);
    let taken = context.driver.stills(Arc::new(source), spec::poster(&job.plan, wanted), sender, stop);
    let collected = async {
        let mut picture = None;
        while let Some(output) = outputs.recv().await {
            if let Output::Image { bytes, .. } = output {
                picture = picture.or(Some(bytes));
            }
        }
        picture
    };
    let (taken, picture) = tokio::join!(taken, collected);
    let is_still = job.plan.video.is_none() && job.plan.audio.is_empty();
    match (taken, picture) {
        (Ok(_), Some(bytes)) => {
            context.store.put(&format!("{}/{}", job.prefix, keys::POSTER), bytes).await?;
            Ok(true)
        }
        (Err(fault), _) if is_still || fault.verdict() == media::Verdict::Retry => Err(fault.into()),
        (Ok(_), None) if is_still => Err(Error::Unplanned("no picture".into())),
        (Ok(_), None) => Ok(false),
        (Err(fault), _) => {
            tracing::warn!(%fault, media.id = %job.media_id, "no poster could be taken");
            Ok(false)
        }
    }
}
