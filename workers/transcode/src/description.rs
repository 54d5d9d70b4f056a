//! Describes a finished encode for players, and checks the description against what is stored.

use std::collections::BTreeMap;

use packaging::{
    mpd, playlist,
    presentation::{Presentation, PresentationRendition},
    storyboard,
};
use schemas::{job, keys};

use crate::{
    TranscodeContext,
    check::{self, ConformanceFinding, ConformanceInput},
    error::TranscodeError,
};

/// Playlists and manifest of an encode.
pub(crate) struct EncodeDescription {
    /// Path below the encode's folder and text of each file, in the order of storing: what names other objects is stored behind them.
    pub(crate) files: Vec<(String, String)>,
    /// There is a storyboard.
    pub(crate) has_storyboard: bool,
    /// The plan as far as it is listed for players.
    pub(crate) plan: job::EncodePlan,
    /// What the check found.
    pub(crate) findings: Vec<ConformanceFinding>,
}

impl EncodeDescription {
    /// Measures what is stored and describes it. Rungs that cost too much are taken out of the presentation.
    pub(crate) async fn describe_encode(
        context: &TranscodeContext,
        job: &job::JobRecord,
        presentation: &mut Presentation,
    ) -> Result<Self, TranscodeError> {
        let target = presentation.target_seconds();
        let of_all = presentation.listed_renditions();
        let playlists: BTreeMap<String, String> =
            of_all.map(|r| (r.name.clone(), playlist::render_media(r, target))).collect();
        // Their playlists are stored all the same, for viewers who began with them while the encode grew.
        let costly = match job.plan.copy {
            None => presentation.remove_costly_rungs(),
            // Who made them elsewhere wants each of them.
            Some(_) => Vec::new(),
        };
        let plan = listed_plan(&job.plan, &costly, presentation);
        if playlists.is_empty() {
            return Ok(Self { files: Vec::new(), has_storyboard: false, plan, findings: Vec::new() });
        }
        let (store, reads_max) = (&context.store, context.config.check_reads_max);
        let measured = check::measure_presentation(store, &job.prefix, presentation, reads_max).await?;
        let subtitles = check::measure_subtitles(store, &job.prefix, presentation, reads_max).await?;
        for video in &mut presentation.video {
            video.iframe_bytes = measured.get(&video.name).map(check::measure_iframes).unwrap_or_default();
        }
        let videos = presentation.video.iter();
        let iframes: BTreeMap<String, String> =
            videos.filter_map(|r| Some((r.name.clone(), playlist::render_iframes(r, target)?))).collect();
        let multivariant = playlist::render_multivariant(presentation);
        let manifest = mpd::render_manifest(presentation)?;
        let storyboard = plan.video.as_ref().and_then(storyboard::render_storyboard);
        let mut findings = check::check_conformance(&ConformanceInput {
            plan: &plan,
            multivariant: &multivariant,
            playlists: &playlists,
            iframes: &iframes,
            manifest: &manifest,
            measured: &measured,
            subtitles: &subtitles,
        });
        if let Some(video) = &plan.video {
            findings.extend(check::check_storyboard(store, &job.prefix, video, reads_max).await?);
        }
        let media = playlists.into_iter().map(|(name, text)| (keys::media_playlist_path(&name), text));
        let iframes = iframes.into_iter().map(|(name, text)| (keys::iframe_playlist_path(&name), text));
        let last = [(keys::MANIFEST.to_owned(), manifest), (keys::MULTIVARIANT.to_owned(), multivariant)];
        let has_storyboard = storyboard.is_some();
        let storyboard = storyboard.map(|text| (keys::STORYBOARD.to_owned(), text));
        let files = media.chain(iframes).chain(storyboard).chain(last).collect();
        Ok(Self { files, has_storyboard, plan, findings })
    }
}

/// The plan as far as it is listed for players: without costly rungs, and without subtitles that have no text.
fn listed_plan(
    plan: &job::EncodePlan,
    costly: &[PresentationRendition],
    presentation: &Presentation,
) -> job::EncodePlan {
    let mut plan = plan.clone();
    plan.subtitles.retain(|planned| presentation.subtitles.iter().any(|made| made.name == planned.name));
    if let Some(video) = &mut plan.video {
        video.rungs.retain(|rung| !costly.iter().any(|taken| taken.name == rung.name));
    }
    plan
}
