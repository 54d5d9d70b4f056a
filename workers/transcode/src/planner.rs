//! The planner: from `evt.media.stored`, or `evt.media.reopened`, to a job record, whose parts the dispatcher lets into the queue.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use nats::metrics::{
    labels::JobOutcome,
    table::{PLAN_SECONDS, PLANS},
};
use nats::{MessageDelivery, Outbox, PipelineStage, StageFault, StageOutcome, VersionedRecord};
use packaging::plan;
use schemas::{
    BusEvent as _,
    encode::EncodeSettings,
    ids::{JobId, MediaId},
    job::{self, JobPartRecord, JobPartStatus, JobQueued},
    keys, media,
    renditions::CopyPlan,
    subjects,
    usage::OwnerUsage,
};

use sha2::{Digest, Sha256};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use crate::{
    KIND, PLAN_DURABLE, TranscodeContext,
    error::TranscodeError,
    job_result, outage,
    own_ladder::{self, RenditionFault},
    playable,
};

/// Number of the first encode of a medium.
const FIRST_ENCODE: u32 = 1;

/// How long a plan whose profile is not known here is left to other workers, in milliseconds, before it is looked at again.
const OTHER_SETTINGS_DELAY_MS: u64 = 2_000;

/// Encodes of which a worker looks through files at the same time: all else that is to be planned has the other slots.
const SURVEYS_MAX: usize = 1;

/// How long an encode waits whose files can't be looked through now, in milliseconds.
const SURVEY_DELAY_MS: u64 = 5_000;

/// Longest time in which the files of an encode are looked through, in milliseconds. After an hour without a job the ingress may begin another
/// encode of the medium.
const SURVEY_MS_MAX: u64 = 3_000_000;

/// Why an encode was not made that waited for its plan.
const SUPERSEDED_DETAIL: &str = "a newer encode of the medium was begun before this one was planned";

/// Plans what was stored, and what is encoded anew.
pub(crate) struct TranscodePlanner {
    context: Arc<TranscodeContext>,
    surveys: Semaphore,
    /// Fires when the process has to stop.
    stop: CancellationToken,
}

/// An event of the durable.
#[derive(Debug)]
pub(crate) enum PlannerEvent {
    /// This is to be encoded.
    Wanted(Box<EncodeRequest>),
    /// Nothing here depends on it.
    Other,
}

/// What is to be encoded.
#[derive(Debug)]
pub(crate) struct EncodeRequest {
    media_id: MediaId,
    owner: String,
    encode: u32,
    source: media::MediaSource,
    technical: media::TechnicalMetadata,
    settings: EncodeSettings,
}

impl nats::StageMessage for PlannerEvent {
    fn decode(delivery: &MessageDelivery, payload: &[u8]) -> Result<Self, nats::BusError> {
        let kind = subjects::parse_event_subject(&delivery.subject).map(|(entity, verb, _)| (entity, verb));
        if kind != Some((media::MediaReopened::ENTITY, media::MediaReopened::VERB)) {
            let media::MediaStored { media_id, owner, source, technical, settings, .. } =
                nats::decode_message(&delivery.subject, payload)?;
            let wanted = EncodeRequest { media_id, owner, encode: FIRST_ENCODE, source, technical, settings };
            return Ok(Self::Wanted(Box::new(wanted)));
        }
        let media::MediaReopened { media_id, owner, step, .. } =
            nats::decode_message(&delivery.subject, payload)?;
        let media::ReopenStep::Encode { encode, source, technical, settings } = step else {
            return Ok(Self::Other);
        };
        let technical = *technical;
        Ok(Self::Wanted(Box::new(EncodeRequest { media_id, owner, encode, source, technical, settings })))
    }
}

impl PipelineStage for TranscodePlanner {
    const NAME: &'static str = PLAN_DURABLE;
    type Message = PlannerEvent;

    async fn handle(
        &self,
        seen: &PlannerEvent,
        delivery: &MessageDelivery,
    ) -> Result<StageOutcome, StageFault> {
        if let PlannerEvent::Wanted(wanted) = seen {
            let began = Instant::now();
            let planned = self.plan_job(wanted, delivery.stored_at_ms).await;
            PLAN_SECONDS.observe_since((), began);
            match planned {
                // The ingress knew it: other workers may have it already, or this one soon.
                Err(TranscodeError::UnknownProfile(name)) if self.may_wait(delivery.stored_at_ms) => {
                    tracing::info!(media.id = %wanted.media_id, profile = name, "left to workers that have the profile");
                    return Ok(StageOutcome::Later { delay_ms: OTHER_SETTINGS_DELAY_MS });
                }
                Ok(later @ StageOutcome::Later { .. }) => return Ok(later),
                planned => drop(planned?),
            }
            outage::clear_delay(&self.context.bus, wanted.media_id).await;
        }
        Ok(StageOutcome::Done)
    }

    async fn on_outage(&self, seen: &PlannerEvent, _delivery: &MessageDelivery, fault: &StageFault) {
        if let PlannerEvent::Wanted(wanted) = seen {
            outage::report_planning_delay(&self.context.bus, wanted.media_id, fault).await;
        }
    }

    async fn on_dead_letter(
        &self,
        seen: &PlannerEvent,
        _delivery: &MessageDelivery,
        fault: &StageFault,
    ) -> Result<(), StageFault> {
        if let PlannerEvent::Wanted(wanted) = seen {
            self.fail_plan(wanted, fault).await?;
        }
        Ok(())
    }
}

impl TranscodePlanner {
    /// A planner that gives up what takes long once `stop` fires.
    pub(crate) fn new(context: Arc<TranscodeContext>, stop: CancellationToken) -> Self {
        Self { context, surveys: Semaphore::new(SURVEYS_MAX), stop }
    }

    /// True while a rolling change of the settings may bring what is missing here.
    fn may_wait(&self, stored_at_ms: u64) -> bool {
        let until_ms = stored_at_ms.saturating_add(self.context.config.other_version_wait_ms);
        nats::estimated_broker_now_ms() < until_ms
    }

    /// Does what is left for an event of which no plan is to be made; false when there is one to make.
    async fn is_settled(&self, wanted: &EncodeRequest, stored_at_ms: u64) -> Result<bool, TranscodeError> {
        let key = wanted.media_id.to_string();
        let Some(medium) = self.context.bus.load_record::<media::MediaRecord>(&key).await? else {
            tracing::info!(media.id = key, "removed meanwhile, nothing to plan");
            return Ok(true);
        };
        if let Some(job) = self.find_job(wanted.media_id, wanted.encode).await? {
            // Only what a crash may have left undone between its record and those of its parts.
            self.keep_made_parts(&job).await?;
            return Ok(true);
        }
        // An old event that comes again must not make again what its medium outlived.
        if has_outlived(&medium.record, wanted.encode) {
            // Of a recent one the job would be there still: a newer encode was begun before anybody planned it.
            let is_recent = stored_at_ms.saturating_add(self.context.config.ended_kept_ms) > nats::now_ms();
            if is_recent && medium.record.attempt.encode > wanted.encode {
                self.store_failed_job(wanted, job::JOB_SUPERSEDED, SUPERSEDED_DETAIL).await?;
            }
            return Ok(true);
        }
        Ok(false)
    }

    /// Plans what was asked for at `stored_at_ms` by the broker's clock.
    async fn plan_job(
        &self,
        wanted: &EncodeRequest,
        stored_at_ms: u64,
    ) -> Result<StageOutcome, TranscodeError> {
        if self.is_settled(wanted, stored_at_ms).await? {
            return Ok(StageOutcome::Done);
        }
        let config = &self.context.config;
        let profile_name = wanted.settings.profile.as_ref().unwrap_or(&config.profile);
        let profile = config
            .find_profile(profile_name)
            .ok_or_else(|| TranscodeError::UnknownProfile(profile_name.clone()))?;
        let input = plan::EncodePlanInput {
            source: &wanted.source,
            technical: &wanted.technical,
            profile_name,
            profile,
            range: wanted.settings.range,
        };
        let plan = if wanted.settings.renditions.is_empty() {
            plan::plan_encode(&input)?
        } else {
            let Some(plan) = Box::pin(self.plan_renditions(wanted, &input)).await? else {
                return Ok(StageOutcome::Later { delay_ms: SURVEY_DELAY_MS });
            };
            // It took minutes, in which the medium may have been removed or encoded anew.
            if self.is_settled(wanted, stored_at_ms).await? {
                return Ok(StageOutcome::Done);
            }
            plan
        };
        let job = self.store_job(build_job_record(wanted, plan), wanted.settings.paused).await?;
        PLANS.increment(JobOutcome::Succeeded);
        self.keep_made_parts(&job).await?;
        Ok(StageOutcome::Done)
    }

    /// Looks through the files of an encode; `None` when that has to be done later, or need not be done any more.
    async fn plan_renditions(
        &self,
        wanted: &EncodeRequest,
        input: &plan::EncodePlanInput<'_>,
    ) -> Result<Option<job::EncodePlan>, TranscodeError> {
        let Ok(_turn) = self.surveys.try_acquire() else { return Ok(None) };
        // A child whose task is dropped is killed.
        tokio::select! {
            biased;
            () = self.stop.cancelled() => Ok(None),
            () = self.wait_until_unwanted(wanted) => Ok(None),
            planned = own_ladder::plan_own_ladder(&self.context, input, &wanted.settings.renditions) => planned.map(Some),
            () = tokio::time::sleep(Duration::from_millis(SURVEY_MS_MAX)) => {
                let minutes = SURVEY_MS_MAX / 60_000;
                let detail = format!("the files could not be read within {minutes} minutes: send smaller ones, or fewer");
                Err(RenditionFault { code: "renditions_too_slow", detail }.into())
            }
        }
    }

    /// Waits until the medium is removed or encoded anew. While the broker is away nothing is known of it.
    async fn wait_until_unwanted(&self, wanted: &EncodeRequest) {
        let (bus, key) = (&self.context.bus, wanted.media_id.to_string());
        loop {
            tokio::time::sleep(Duration::from_millis(self.context.config.renew_interval_ms)).await;
            if let Ok(found) = bus.load_record::<media::MediaRecord>(&key).await
                && found.is_none_or(|held| has_outlived(&held.record, wanted.encode))
            {
                return;
            }
        }
    }

    async fn find_job(
        &self,
        media_id: MediaId,
        encode: u32,
    ) -> Result<Option<job::JobRecord>, TranscodeError> {
        let key = plan::derive_job_id(media_id, encode).to_string();
        Ok(self.context.bus.load_record::<job::JobRecord>(&key).await?.map(|held| held.record))
    }

    /// Ends what can't be planned, with the job if there is one.
    async fn fail_plan(&self, wanted: &EncodeRequest, fault: &StageFault) -> Result<(), TranscodeError> {
        PLANS.increment(JobOutcome::Failed);
        let (bus, detail) = (&self.context.bus, fault.describe());
        match self.find_job(wanted.media_id, wanted.encode).await? {
            Some(job) if job.status == job::JobStatus::Active => {
                let kept_ms = self.context.config.ended_kept_ms;
                job_result::fail_job(bus, &job, fault.code, &detail, kept_ms).await
            }
            // An old event that came again.
            Some(_) => Ok(()),
            None => {
                let (media_id, encode) = (wanted.media_id, wanted.encode);
                job_result::fail_medium(bus, media_id, encode, fault.code, &detail).await?;
                self.store_failed_job(wanted, fault.code, &detail).await
            }
        }
    }

    /// Records that there was a job, and why it came to nothing: the answer to the request for it has its id.
    async fn store_failed_job(
        &self,
        wanted: &EncodeRequest,
        code: &str,
        detail: &str,
    ) -> Result<(), TranscodeError> {
        let profile = wanted.settings.profile.as_ref().unwrap_or(&self.context.config.profile);
        let plan = plan::unplanned(&wanted.source, &wanted.technical, profile);
        // Another try is of the same files.
        let files = wanted.settings.renditions.clone();
        let copy = (!files.is_empty()).then(|| Box::new(CopyPlan { files, frames: Vec::new(), sound: None }));
        let plan = job::EncodePlan { range: wanted.settings.range, copy, ..plan };
        let mut job = build_job_record(wanted, plan);
        let failed = job_result::mark_failed(&mut job, code, detail, self.context.config.ended_kept_ms);
        let mut held = VersionedRecord::new(job);
        match self.context.bus.commit_record(&mut held, Outbox::new().with_event(&failed)).await {
            // A conflict is what a repeat finds.
            Ok(()) | Err(nats::BusError::Conflict { .. }) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// Stores the job, unless another planner did; then that one counts.
    async fn store_job(
        &self,
        job: job::JobRecord,
        is_paused: bool,
    ) -> Result<job::JobRecord, TranscodeError> {
        let (media_id, encode) = (job.media_id, job.encode);
        let job = self.continue_ended_job(job).await?;
        let queued = JobQueued {
            job_id: job.job_id,
            media_id: job.media_id,
            owner: job.owner.clone(),
            kind: job.kind.clone(),
            part_count: u32::try_from(job.parts.len()).unwrap_or(u32::MAX),
            total_ms: job.parts.iter().map(|part| plan::part_duration_ms(&job.plan, part)).sum(),
        };
        let mut outbox = Outbox::new().with_event(&queued);
        let paused = is_paused.then(|| job.with_pause(&job.owner, nats::estimated_broker_now_ms())).flatten();
        let job = match paused {
            Some((paused, event)) => {
                outbox = outbox.with_event(&event);
                paused
            }
            None => job,
        };
        let mut held = VersionedRecord::new(job);
        match self.context.bus.commit_record(&mut held, outbox).await {
            Ok(()) => {
                let job = held.record;
                tracing::info!(media.id = %media_id, job.id = %job.job_id, parts = job.parts.len(), "planned");
                // One that goes on with what another had made was counted with it, and nothing is encoded of what is copied.
                if job.made.is_empty() && job.plan.copy.is_none() {
                    self.add_encoded_time(&job.owner, job.plan.duration_ms).await;
                }
                Ok(job)
            }
            Err(nats::BusError::Conflict { .. }) => {
                let found = self.find_job(media_id, encode).await?;
                found.ok_or_else(|| TranscodeError::Unknown(format!("job {}", held.record.job_id)))
            }
            Err(error) => Err(error.into()),
        }
    }

    /// Adds an encode to what its owner used today. What is not written counts for nothing.
    async fn add_encoded_time(&self, owner: &str, duration_ms: u64) {
        let digest = Sha256::digest(owner.as_bytes());
        let day = OwnerUsage::day_of_ms(nats::estimated_broker_now_ms());
        let key = OwnerUsage::key_for_owner(&digest, day);
        let added = self.context.bus.change_record::<OwnerUsage>(&key, |found| {
            Some((OwnerUsage::with_added(found, (&digest, day), (0, duration_ms)), Outbox::new()))
        });
        if let Err(error) = Box::pin(added).await {
            tracing::warn!(%error, owner, duration_ms, "an encode does not count for its owner's quota");
        }
    }

    /// The job before this one of the same medium, if that came to nothing.
    async fn load_ended_job(&self, job: &job::JobRecord) -> Result<Option<job::JobRecord>, TranscodeError> {
        let Some(number) = job.encode.checked_sub(1).filter(|number| *number >= FIRST_ENCODE) else {
            return Ok(None);
        };
        let found = self.find_job(job.media_id, number).await?;
        Ok(found.filter(|job| matches!(job.status, job::JobStatus::Failed | job::JobStatus::Cancelled)))
    }

    /// Lets a job go on in the folder of the one before it, if that was to make the same and failed at a part: where all parts were
    /// made, the fault is in what is stored, or in the check.
    async fn continue_ended_job(&self, mut job: job::JobRecord) -> Result<job::JobRecord, TranscodeError> {
        let Some(before) = self.load_ended_job(&job).await? else { return Ok(job) };
        job.retry_of = Some(before.job_id);
        // What a cancelled job has stored is removed.
        // What of a failed one nobody can keep any more is removed, too.
        let is_kept = before.folded.is_none() && before.cleared_at_ms.is_none();
        if before.status == job::JobStatus::Failed && is_kept && before.plan == job.plan {
            let mut made = Vec::new();
            for name in &job.parts {
                if self.is_part_made(before.job_id, name).await? {
                    made.push(name.clone());
                }
            }
            if made.len() < job.parts.len() {
                (job.prefix, job.made) = (before.prefix, made);
            }
        }
        Ok(job)
    }

    async fn is_part_made(&self, job_id: JobId, name: &str) -> Result<bool, TranscodeError> {
        let key = subjects::part_key(job_id, name);
        let found = self.context.bus.load_record::<JobPartRecord>(&key).await?;
        Ok(found.is_some_and(|held| held.record.status == JobPartStatus::Done))
    }

    /// Gives a job the parts that the one before it had made in the same folder. Behind the record of the job: parts without a job
    /// are removed.
    async fn keep_made_parts(&self, job: &job::JobRecord) -> Result<(), TranscodeError> {
        let bus = &self.context.bus;
        let Some(before) = job.retry_of.filter(|_| job.status == job::JobStatus::Active) else {
            return Ok(());
        };
        for name in &job.made {
            let found = bus.load_record::<JobPartRecord>(&subjects::part_key(before, name)).await?;
            let Some(part) = found.filter(|held| held.record.status == JobPartStatus::Done) else { continue };
            let mut kept = VersionedRecord::new(JobPartRecord { job_id: job.job_id, ..part.record });
            match bus.commit_record(&mut kept, Outbox::new()).await {
                // A conflict is what a repeat finds.
                Ok(()) | Err(nats::BusError::Conflict { .. }) => {}
                Err(error) => return Err(error.into()),
            }
        }
        if job.made.iter().any(|name| playable::is_first_part(&job.plan, name)) {
            playable::mark_playable(bus, job).await?;
        }
        Ok(())
    }
}

/// True once the job of an encode must have ended: that one plays, or a newer one was begun.
fn has_outlived(medium: &media::MediaRecord, encode: u32) -> bool {
    let is_over = match medium.status {
        media::MediaStatus::Uploading | media::MediaStatus::Stored | media::MediaStatus::Playable => false,
        media::MediaStatus::Ready => {
            encode == FIRST_ENCODE || medium.encode.as_ref().is_some_and(|current| current.number >= encode)
        }
        media::MediaStatus::Failed | media::MediaStatus::Rejected => true,
    };
    is_over || medium.attempt.encode > encode
}

fn build_job_record(wanted: &EncodeRequest, plan: job::EncodePlan) -> job::JobRecord {
    let job_id = plan::derive_job_id(wanted.media_id, wanted.encode);
    job::JobRecord {
        job_id,
        kind: KIND.to_owned(),
        priority: wanted.settings.priority,
        media_id: wanted.media_id,
        owner: wanted.owner.clone(),
        status: job::JobStatus::Active,
        encode: wanted.encode,
        prefix: keys::encode_prefix(wanted.media_id, wanted.encode, &plan.options_digest),
        parts: plan::part_names(&plan),
        plan,
        code: None,
        detail: None,
        // By the broker's clock, which all who measure how long it takes have in common.
        created_at_ms: nats::estimated_broker_now_ms(),
        ended_at_ms: None,
        kept_until_ms: None,
        folded: None,
        publishing_at_ms: None,
        retry_of: None,
        cleared_at_ms: None,
        made: Vec::new(),
        paused_at_ms: None,
        scheduled: wanted.settings.scheduled,
        verified: None,
        action: None,
        acted: None,
        fetch: None,
        thumbnails: None,
        export: None,
        exported: None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_old_event_makes_nothing_that_its_medium_outlived() {
        use super::media::MediaStatus::{Failed, Playable, Ready, Rejected, Stored};
        let plays = |number| {
            let job_id = plan::derive_job_id(MediaId::from_bytes([2; 16]), number);
            media::MediaEncode {
                number,
                job_id,
                prefix: "p".into(),
                duration_ms: 1,
                renditions: Vec::new(),
                subtitles: Vec::new(),
                has_poster: false,
                has_storyboard: false,
                has_checksums: false,
                warnings: Vec::new(),
            }
        };
        // Status, encode that plays, encode that was begun last, encode of the event, whether its job must have ended.
        let cases = [
            (Stored, None, 0, 1, false),
            (Stored, Some(1), 2, 2, false),
            (Stored, Some(1), 2, 1, true),
            (Playable, Some(2), 2, 2, false),
            (Playable, Some(2), 2, 1, true),
            (Ready, Some(1), 0, 1, true),
            (Ready, Some(2), 2, 2, true),
            (Ready, Some(1), 2, 2, false),
            (Failed, None, 0, 1, true),
            (Rejected, None, 0, 1, true),
        ];
        for (status, played, begun, encode, wanted) in cases {
            let mut medium = media::MediaRecord::new(MediaId::from_bytes([2; 16]), "olga".into(), status, 1);
            medium.encode = played.map(plays);
            medium.attempt.encode = begun;
            assert_eq!(has_outlived(&medium, encode), wanted, "{status:?} {played:?} {begun} {encode}");
        }
    }
}
