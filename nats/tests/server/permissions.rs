use std::time::Duration;

use async_nats::{Client, ConnectOptions, Event, jetstream::consumer::pull};
use futures::StreamExt;
use nats::{Bus, ReaderStart, Role, reader, testing::TestBroker};
use serde_json::json;
use tokio::sync::mpsc;

/// What no role but `admin` may publish.
const OPERATIONS: &[&str] = &[
    "$JS.API.STREAM.CREATE.MINE",
    "$JS.API.STREAM.UPDATE.EVENTS",
    "$JS.API.STREAM.DELETE.AUDIT",
    "$JS.API.STREAM.PURGE.AUDIT",
    "$JS.API.STREAM.PURGE.KV_media",
    "$JS.API.STREAM.MSG.DELETE.AUDIT",
    "$JS.API.STREAM.RESTORE.AUDIT",
    "$JS.API.STREAM.SNAPSHOT.KV_secrets",
    "$JS.API.STREAM.LEADER.STEPDOWN.EVENTS",
    "$JS.API.CONSUMER.DURABLE.CREATE.EVENTS.mine",
    "$JS.API.CONSUMER.CREATE.EVENTS.mine",
    "$JS.API.CONSUMER.CREATE.EVENTS.index.evt.>",
    "$JS.API.CONSUMER.CREATE.JOBS",
    "$JS.API.CONSUMER.CREATE.KV_secrets",
    "$JS.API.CONSUMER.DELETE.EVENTS.upload",
    "$JS.API.CONSUMER.DELETE.EVENTS.transcode-plan",
    "$JS.API.CONSUMER.DELETE.EVENTS.index",
    "$JS.API.CONSUMER.DELETE.JOBS.transcode-p0",
    "$JS.API.CONSUMER.PAUSE.EVENTS.index",
    "$JS.API.CONSUMER.RESET.EVENTS.index",
    "$JS.API.CONSUMER.LEADER.STEPDOWN.EVENTS.index",
    "$JS.API.DIRECT.GET.KV_secrets",
    "$SYS.REQ.SERVER.PING",
    "anything",
];

/// One role: what it does every day, and what others do.
struct Case {
    role: Role,
    may: &'static [&'static str],
    may_not: &'static [&'static str],
    may_receive: &'static [&'static str],
    may_not_receive: &'static [&'static str],
}

const CASES: &[Case] = &[
    Case {
        role: Role::Ingress,
        may: &[
            "$JS.API.STREAM.MSG.GET.DEAD",
            "$JS.API.CONSUMER.CREATE.DEAD",
            "$JS.API.CONSUMER.MSG.NEXT.DEAD.Abc123",
            "dead.redriven.transcode-17",
            "dead.discarded.transcode-17",
            "$KV.workers.ingress.X",
            "$JS.API.STREAM.MSG.GET.EVENTS",
            "evt.upload.received.U",
            "evt.upload.terminated.U",
            "evt.media.changed.M",
            "evt.media.removed.M",
            "evt.media.restored.M",
            "evt.admin.key_created.R",
            "evt.auth.failed.R",
            "evt.gate.denied.R",
            "evt.limit.exceeded.R",
            "evt.access.summed.R",
            "evt.queue.paused.R",
            "evt.alert.silenced.R",
            "evt.job.cancelled.J",
            "ctl.job.J",
            "ctl.upload.U",
            "ask.index.list",
            "ask.dispatch.position",
            "ask.monitor.logs",
            "ctl.dispatch.J",
            "log.ingress",
            "stat.ingress.0123456789abcdef",
            "view.3.opened.M",
            "$JS.API.STREAM.INFO.VIEWS",
            "$KV.uploads.U",
            "$KV.uploads.U.part.1",
            "$KV.media.M",
            "$KV.assets.M",
            "$KV.jobs.J",
            "$KV.apikeys.K",
            "$KV.keys.M",
            "$KV.secrets.playback",
            "$KV.idempotency.I",
            "$KV.nonces.N",
            "$KV.nonces.prefix.H",
            "$KV.sessions.S",
            "$KV.sessions.wallet.W",
            "$KV.secrets.ring.access",
            "$KV.store.identity",
            "$JS.API.STREAM.MSG.GET.KV_store",
            "$KV.limits.O",
            "$KV.cache.entry.O.K",
            "$JS.API.CONSUMER.CREATE.KV_media",
            "$JS.API.CONSUMER.MSG.NEXT.KV_assets.Abc123",
            "$JS.API.CONSUMER.CREATE.KV_cache",
            "$JS.API.CONSUMER.MSG.NEXT.KV_cache.Abc123",
            "evt.cache.cleared.R",
            "evt.hook.created.H",
            "$KV.hooks.hook.O.H",
            "$KV.hooks.requests.H",
            "$JS.API.STREAM.MSG.GET.KV_hooks",
            "$JS.API.CONSUMER.CREATE.KV_hooks",
            "$JS.API.STREAM.MSG.GET.HOOKLOG",
            "$JS.API.CONSUMER.CREATE.HOOKLOG",
            "$KV.grants.P",
            "$JS.API.STREAM.MSG.GET.KV_grants",
            "$JS.API.STREAM.MSG.GET.KV_secrets",
            "$JS.API.STREAM.MSG.GET.KV_sessions",
            "$JS.API.CONSUMER.CREATE.EVENTS",
            "$JS.API.CONSUMER.CREATE.AUDIT",
            "$JS.API.CONSUMER.CREATE.PROGRESS",
            "$JS.API.CONSUMER.CREATE.KV_workers",
            "$JS.API.CONSUMER.MSG.NEXT.KV_workers.Abc123",
            "$JS.API.CONSUMER.MSG.NEXT.EVENTS.Abc123",
            "$JS.API.CONSUMER.DELETE.EVENTS.Abc123",
            "$JS.API.STREAM.INFO.EVENTS",
        ],
        may_not: &[
            "dead.transcode.JOBS-17",
            "hooklog.H",
            "$JS.API.STREAM.MSG.DELETE.HOOKLOG",
            "$JS.API.STREAM.PURGE.HOOKLOG",
            "$KV.workers.keeper.X",
            "job.transcode.p0.J.finish",
            "audit.media.changed",
            "dead.upload.EVENTS-1",
            "progress.J.v0",
            "log.keeper",
            "stat.keeper.0123456789abcdef",
            "$JS.API.CONSUMER.CREATE.VIEWS",
            "$KV.leases.audit",
            "$JS.API.STREAM.MSG.GET.KV_leases",
            "$JS.API.CONSUMER.MSG.NEXT.EVENTS.upload",
            "$JS.API.CONSUMER.MSG.NEXT.EVENTS.transcode-plan",
            "$JS.API.CONSUMER.MSG.NEXT.EVENTS.index",
            "$JS.API.CONSUMER.MSG.NEXT.JOBS.transcode-p0",
            "$JS.ACK.EVENTS.upload.1.1.1.1.0",
            "$JS.ACK.JOBS.transcode-p0.1.1.1.1.0",
            "_INBOX_index.x",
        ],
        may_receive: &["_INBOX_ingress.>", "answer.ingress.>", "ctl.>", "ctl.upload.*"],
        may_not_receive: &[
            ">",
            "evt.>",
            "job.>",
            "$KV.>",
            "_INBOX_keeper.>",
            "_INBOX.>",
            "answer.>",
            "answer.tasks.>",
            "ask.index.>",
            "$JS.EVENT.>",
        ],
    },
    Case {
        role: Role::Upload,
        may: &[
            "$JS.API.STREAM.MSG.GET.KV_limits",
            "$JS.API.STREAM.MSG.GET.KV_store",
            "$KV.workers.upload.X",
            "$JS.API.STREAM.MSG.GET.EVENTS",
            "evt.media.stored.M",
            "evt.media.rejected.M",
            "evt.upload.received.U",
            "dead.upload.EVENTS-1",
            "log.upload",
            "stat.upload.0123456789abcdef",
            "$KV.uploads.U",
            "$KV.assets.M",
            "$JS.API.STREAM.MSG.GET.KV_uploads",
            "$JS.API.CONSUMER.INFO.EVENTS.upload",
            "$JS.API.CONSUMER.MSG.NEXT.EVENTS.upload",
            "$JS.ACK.EVENTS.upload.1.1.1.1.0",
            "$JS.ACK._.hash.EVENTS.upload.1.1.1.1.0",
        ],
        may_not: &[
            "$KV.limits.log_levels",
            "$KV.store.identity",
            "$KV.workers.keeper.X",
            "$KV.grants.P",
            "evt.media.removed.M",
            "evt.job.started.J",
            "evt.admin.key_created.R",
            "audit.media.stored",
            "job.transcode.p0.J.plan",
            "ctl.job.J",
            "dead.transcode.JOBS-1",
            "$KV.media.M",
            "$KV.jobs.J",
            "$KV.keys.M",
            "$KV.secrets.playback",
            "$KV.apikeys.K",
            "$JS.API.STREAM.MSG.GET.KV_apikeys",
            "$JS.API.STREAM.MSG.GET.KV_secrets",
            "$JS.API.CONSUMER.CREATE.EVENTS",
            "$JS.API.CONSUMER.MSG.NEXT.EVENTS.index",
            "$JS.ACK.EVENTS.index.1.1.1.1.0",
            "$JS.ACK._.hash.EVENTS.index.1.1.1.1.0",
        ],
        may_receive: &["_INBOX_upload.>", "evt.upload.received.*"],
        may_not_receive: &[">", "evt.>", "evt.upload.*.*", "ctl.>", "$KV.uploads.>", "_INBOX_ingress.>"],
    },
    Case {
        role: Role::Transcode,
        may: &[
            "$JS.API.STREAM.MSG.GET.KV_store",
            "$KV.workers.transcode.X",
            "$JS.API.STREAM.MSG.GET.EVENTS",
            "evt.media.playable.M",
            "evt.media.ready.M",
            "evt.job.succeeded.J",
            "progress.J.v0",
            "dead.transcode.JOBS-1",
            "dead.transcode-plan.EVENTS-1",
            "log.transcode",
            "stat.transcode.0123456789abcdef",
            "$KV.limits.usage.O.1",
            "$KV.jobs.J.v0",
            "$KV.assets.M",
            "$JS.API.CONSUMER.MSG.NEXT.EVENTS.transcode-plan",
            "$JS.API.CONSUMER.MSG.NEXT.JOBS.transcode-p2",
            "$JS.ACK.JOBS.transcode-p2.1.1.1.1.0",
            "$JS.ACK._.hash.JOBS.transcode-p2.1.1.1.1.0",
        ],
        may_not: &[
            "$KV.limits.uploads.O",
            "$KV.limits.replicas",
            "$KV.store.identity",
            "$KV.workers.keeper.X",
            "$KV.grants.P",
            "evt.upload.received.U",
            "evt.media.removed.M",
            "audit.job.started",
            "job.transcode.p1.J.v0",
            "job.thumb.p0.J.x",
            "ctl.job.J",
            "dead.upload.EVENTS-1",
            "$KV.media.M",
            "$KV.uploads.U",
            "$KV.keys.M",
            "$JS.API.STREAM.MSG.GET.KV_secrets",
            "$JS.API.STREAM.MSG.GET.JOBS",
            "$JS.API.CONSUMER.MSG.NEXT.EVENTS.upload",
            "$JS.ACK.EVENTS.upload.1.1.1.1.0",
        ],
        may_receive: &["_INBOX_transcode.>", "evt.media.stored.*", "job.transcode.>", "ctl.>"],
        may_not_receive: &[">", "evt.>", "job.>", "job.tasks.>", "$KV.jobs.>", "_INBOX_upload.>"],
    },
    Case {
        role: Role::Tasks,
        may: &[
            "$JS.API.STREAM.MSG.GET.KV_store",
            "$JS.API.STREAM.MSG.GET.KV_assets",
            "$KV.workers.tasks.X",
            "$JS.API.STREAM.MSG.GET.EVENTS",
            "evt.job.succeeded.J",
            "evt.media.reopened.M",
            "evt.upload.received.U",
            "evt.upload.terminated.U",
            "evt.media.removed.M",
            "evt.gate.changed.M",
            "ctl.upload.U",
            "$KV.uploads.U",
            "$KV.media.M",
            "$KV.limits.uploads.O",
            "$KV.limits.usage.O.1",
            "$JS.API.STREAM.MSG.GET.KV_uploads",
            "$JS.API.STREAM.MSG.GET.KV_media",
            "$JS.API.STREAM.MSG.GET.KV_limits",
            "ask.index.jobs",
            "ask.index.job_counts",
            "ctl.job.J",
            "$JS.API.STREAM.INFO.KV_limits",
            "$KV.assets.M",
            "progress.J.task",
            "dead.tasks.JOBS-1",
            "log.tasks",
            "stat.tasks.0123456789abcdef",
            "$KV.jobs.J.task",
            "$JS.API.CONSUMER.MSG.NEXT.JOBS.tasks-p2",
            "$JS.ACK.JOBS.tasks-p2.1.1.1.1.0",
            "$JS.ACK._.hash.JOBS.tasks-p2.1.1.1.1.0",
        ],
        may_not: &[
            "$KV.store.identity",
            "$KV.workers.transcode.X",
            "$KV.grants.P",
            "$KV.limits.pauses",
            "ask.index.media",
            "evt.queue.paused.R",
            "evt.media.ready.M",
            "evt.gate.granted.M",
            "audit.job.started",
            "job.tasks.p1.J.task",
            "job.transcode.p1.J.v0",
            "ctl.worker.W",
            "ctl.dispatch.J",
            "dead.transcode.JOBS-1",
            "$JS.API.STREAM.MSG.GET.KV_secrets",
            "$JS.API.STREAM.MSG.GET.JOBS",
            "$JS.API.CONSUMER.MSG.NEXT.JOBS.transcode-p0",
            "$JS.ACK.JOBS.transcode-p0.1.1.1.1.0",
        ],
        may_receive: &["_INBOX_tasks.>", "answer.tasks.>", "job.tasks.>", "ctl.>"],
        may_not_receive: &[">", "evt.>", "job.>", "job.transcode.>", "$KV.jobs.>", "_INBOX_transcode.>"],
    },
    Case {
        role: Role::Index,
        may: &[
            "$JS.API.STREAM.MSG.GET.KV_limits",
            "$KV.workers.index.X",
            "$JS.API.STREAM.MSG.GET.EVENTS",
            "evt.media.stored.M",
            "dead.index.EVENTS-1",
            "log.index",
            "stat.index.0123456789abcdef",
            "$KV.assets.M",
            "$JS.API.STREAM.MSG.GET.KV_media",
            "$JS.API.CONSUMER.MSG.NEXT.EVENTS.index",
            "$JS.ACK.EVENTS.index.1.1.1.1.0",
            "$JS.API.CONSUMER.CREATE.EVENTS",
            "$JS.API.CONSUMER.MSG.NEXT.EVENTS.Abc123",
            "$JS.API.CONSUMER.CREATE.KV_media",
            "$JS.API.CONSUMER.CREATE.KV_assets",
            "$JS.API.CONSUMER.CREATE.KV_jobs",
            "$JS.API.CONSUMER.MSG.NEXT.KV_jobs.Abc123",
        ],
        may_not: &[
            "$KV.limits.log_levels",
            "$KV.store.identity",
            "$JS.API.STREAM.MSG.GET.KV_store",
            "$KV.workers.keeper.X",
            "$KV.grants.P",
            "evt.media.removed.M",
            "evt.job.failed.J",
            "audit.media.stored",
            "job.transcode.p0.J.v0",
            "ctl.job.J",
            "ask.index.list",
            "$KV.media.M",
            "$KV.jobs.J",
            "$JS.API.STREAM.MSG.GET.KV_apikeys",
            "$JS.API.CONSUMER.CREATE.KV_apikeys",
            "$JS.API.CONSUMER.MSG.NEXT.EVENTS.transcode-plan",
            "$JS.API.CONSUMER.DELETE.EVENTS.index",
            "_INBOX_ingress.unasked",
            "answer.ingress.dispatch.06db00820dt0303jc5mn0r355k",
        ],
        may_receive: &["_INBOX_index.>", "evt.media.*.*", "evt.job.*.*", "ask.index.>"],
        may_not_receive: &[">", "evt.>", "evt.admin.*.*", "$KV.media.>", "_INBOX_ingress.>", "answer.>"],
    },
    Case {
        role: Role::Audit,
        may: &[
            "$JS.API.STREAM.MSG.GET.KV_limits",
            "$KV.workers.audit.X",
            "audit.media.stored",
            "log.audit",
            "stat.audit.0123456789abcdef",
            "$KV.leases.audit",
            "$JS.API.STREAM.MSG.GET.AUDIT",
            "$JS.API.STREAM.MSG.GET.KV_leases",
            "$JS.API.CONSUMER.CREATE.EVENTS",
            "$JS.API.CONSUMER.MSG.NEXT.EVENTS.Abc123",
        ],
        may_not: &[
            "$KV.limits.log_levels",
            "$KV.store.identity",
            "$JS.API.STREAM.MSG.GET.KV_store",
            "$KV.workers.keeper.X",
            "$KV.grants.P",
            "evt.media.stored.M",
            "evt.alert.fired.A",
            "job.transcode.p0.J.v0",
            "dead.audit.EVENTS-1",
            "$KV.media.M",
            "$KV.secrets.playback",
            "$JS.API.STREAM.MSG.GET.KV_secrets",
            "$JS.API.CONSUMER.MSG.NEXT.EVENTS.index",
            "$JS.ACK.EVENTS.index.1.1.1.1.0",
        ],
        may_receive: &["_INBOX_audit.>"],
        may_not_receive: &[">", "evt.>", "audit.>", "_INBOX_ingress.>"],
    },
    Case {
        role: Role::Monitor,
        may: &[
            "$KV.workers.monitor.X",
            "evt.alert.fired.A",
            "evt.alert.resolved.A",
            "$KV.limits.alerts",
            "$KV.leases.alerts",
            "$JS.API.STREAM.MSG.GET.KV_limits",
            "$JS.API.STREAM.MSG.GET.KV_leases",
            "log.monitor",
            "stat.monitor.0123456789abcdef",
            "$JS.API.STREAM.INFO.JOBS",
            "$JS.API.STREAM.LIST",
            "$JS.API.STREAM.NAMES",
            "$JS.API.CONSUMER.INFO.JOBS.transcode-p0",
            "$JS.API.CONSUMER.LIST.JOBS",
            "$JS.API.CONSUMER.CREATE.EVENTS",
        ],
        may_not: &[
            "$KV.store.identity",
            "$JS.API.STREAM.MSG.GET.KV_store",
            "$KV.workers.keeper.X",
            "$KV.grants.P",
            "$KV.limits.pauses",
            "$KV.leases.audit",
            "evt.media.stored.M",
            "audit.media.stored",
            "job.transcode.p0.J.v0",
            "ctl.job.J",
            "view.3.opened.M",
            "$KV.media.M",
            "$JS.API.STREAM.MSG.GET.KV_media",
            "$JS.API.CONSUMER.MSG.NEXT.EVENTS.index",
            "$JS.API.CONSUMER.MSG.NEXT.JOBS.transcode-p0",
            "$JS.ACK.JOBS.transcode-p0.1.1.1.1.0",
            "answer.ingress.index.06db00820dt0303jc5mn0r355k",
            "_INBOX_ingress.x",
        ],
        may_receive: &[">", "evt.>", "$JS.EVENT.ADVISORY.>", "_INBOX_monitor.>"],
        may_not_receive: &[
            "$KV.secrets.>",
            "$KV.apikeys.>",
            "$KV.keys.>",
            "$KV.grants.>",
            "_INBOX_ingress.>",
            "_INBOX_admin.>",
            "answer.>",
            "answer.ingress.>",
        ],
    },
    Case {
        role: Role::Keeper,
        may: &[
            "$JS.API.STREAM.MSG.GET.KV_store",
            "$KV.workers.keeper.X",
            "evt.upload.expired.U",
            "evt.media.stored.M",
            "evt.admin.key_created.R",
            "job.transcode.p0.J.v0",
            "ctl.upload.U",
            "dead.keeper.KV_jobs-1",
            "log.keeper",
            "stat.keeper.0123456789abcdef",
            "view.3.opened.M",
            "$JS.API.CONSUMER.CREATE.VIEWS",
            "$JS.API.CONSUMER.MSG.NEXT.VIEWS.Abc123",
            "$JS.API.STREAM.INFO.VIEWS",
            "$KV.leases.outbox",
            "$KV.uploads.U",
            "$KV.jobs.J",
            "$KV.media.M",
            "$KV.assets.M",
            "$KV.keys.M",
            "$JS.API.STREAM.INFO.KV_keys",
            "$KV.apikeys.K",
            "$KV.limits.O",
            "$KV.nonces.N",
            "$KV.sessions.S",
            "$JS.API.STREAM.MSG.GET.KV_sessions",
            "$JS.API.CONSUMER.CREATE.KV_sessions",
            "$KV.grants.slot.D",
            "$JS.API.CONSUMER.CREATE.KV_grants",
            "$JS.API.CONSUMER.MSG.NEXT.KV_grants.Abc123",
            "$JS.API.STREAM.MSG.GET.EVENTS",
            "$KV.hooks.progress.H",
            "$JS.API.STREAM.MSG.GET.KV_hooks",
            "$JS.API.CONSUMER.CREATE.KV_hooks",
            "hooklog.H",
            "$JS.API.CONSUMER.CREATE.HOOKLOG",
            "$JS.API.STREAM.MSG.DELETE.HOOKLOG",
            "$JS.API.CONSUMER.CREATE.EVENTS",
            "$JS.API.CONSUMER.MSG.NEXT.EVENTS.Abc123",
            "$JS.API.CONSUMER.CREATE.KV_jobs",
            "$JS.API.CONSUMER.CREATE.KV_workers",
            "ask.index.job_counts",
        ],
        may_not: &[
            "$JS.API.STREAM.MSG.GET.JOBS",
            "ask.index.jobs",
            "$JS.API.CONSUMER.INFO.JOBS.transcode-p0",
            "$JS.API.CONSUMER.INFO.EVENTS.upload",
            "$KV.store.identity",
            "$KV.workers.ingress.X",
            "audit.media.stored",
            "progress.J.v0",
            "$KV.secrets.playback",
            "$JS.API.STREAM.MSG.GET.KV_secrets",
            "$JS.API.STREAM.MSG.GET.KV_keys",
            "$JS.API.STREAM.PURGE.HOOKLOG",
            "$JS.API.STREAM.MSG.DELETE.EVENTS",
            "$JS.API.CONSUMER.MSG.NEXT.JOBS.transcode-p0",
            "$JS.API.CONSUMER.MSG.NEXT.EVENTS.index",
            "$JS.ACK.JOBS.transcode-p0.1.1.1.1.0",
        ],
        may_receive: &["_INBOX_keeper.>", "answer.keeper.>", "ctl.dispatch.*", "ask.dispatch.*"],
        may_not_receive: &[">", "evt.>", "ctl.>", "ask.index.>", "$KV.>", "_INBOX_ingress.>"],
    },
    Case {
        role: Role::Reader,
        may: &[
            "reader.API.STREAM.INFO.EVENTS",
            "reader.API.CONSUMER.CREATE.EVENTS",
            "reader.API.CONSUMER.MSG.NEXT.EVENTS.Abc123",
            "reader.API.CONSUMER.INFO.EVENTS.Abc123",
            "reader.API.CONSUMER.CREATE.AUDIT",
            "reader.API.CONSUMER.MSG.NEXT.AUDIT.Abc123",
            "reader.API.CONSUMER.CREATE.VIEWS",
            "reader.API.CONSUMER.MSG.NEXT.VIEWS.Abc123",
            "reader.API.CONSUMER.CREATE.PROGRESS",
            "reader.API.CONSUMER.MSG.NEXT.PROGRESS.Abc123",
        ],
        may_not: &[
            "evt.media.stored.M",
            "evt.admin.key_created.R",
            "audit.media.stored",
            "view.3.opened.M",
            "progress.J.v0",
            "job.transcode.p0.J.v0",
            "ctl.job.J",
            "ask.index.list",
            "dead.upload.EVENTS-1",
            "log.reader",
            "$KV.workers.reader.X",
            "$KV.media.M",
            "$KV.secrets.playback",
            "$JS.API.INFO",
            "$JS.API.STREAM.INFO.EVENTS",
            "$JS.API.CONSUMER.CREATE.EVENTS",
            "reader.API.STREAM.DELETE.EVENTS",
            "reader.API.CONSUMER.CREATE.EVENTS.mine.evt.>",
            "reader.API.CONSUMER.CREATE.EVENTS.mine",
            "reader.API.CONSUMER.CREATE.KV_media",
            "reader.API.CONSUMER.DURABLE.CREATE.EVENTS.mine",
            "reader.API.CONSUMER.DELETE.EVENTS.Abc123",
            "reader.API.CONSUMER.LIST.EVENTS",
            "$JS.API.STREAM.LIST",
            "$JS.API.STREAM.NAMES",
            "$JS.API.STREAM.INFO.KV_media",
            "$JS.API.STREAM.MSG.GET.EVENTS",
            "$JS.API.STREAM.MSG.GET.KV_media",
            "$JS.API.DIRECT.GET.EVENTS",
            "$JS.API.CONSUMER.LIST.EVENTS",
            "$JS.API.CONSUMER.NAMES.EVENTS",
            "$JS.API.CONSUMER.CREATE.EVENTS.mine.evt.>",
            "$JS.API.CONSUMER.CREATE.KV_media",
            "$JS.API.CONSUMER.DELETE.EVENTS.Abc123",
            "$JS.API.CONSUMER.MSG.NEXT.JOBS.transcode-p0",
            "$JS.API.CONSUMER.UNPIN.EVENTS.Abc123",
            "$JS.ACK.EVENTS.index.1.1.1.1.0",
            "$JS.ACK._.hash.EVENTS.index.1.1.1.1.0",
            "$JS.FC.EVENTS.x",
            "media.API.CONSUMER.CREATE.EVENTS",
            "mirrors.API.STREAM.INFO.EVENTS",
            "mirrored.EVENTS.x",
            "_INBOX_ingress.x",
            "_INBOX_reader.x",
        ],
        may_receive: &["_INBOX_reader.>"],
        may_not_receive: &[
            ">",
            "evt.>",
            "$KV.>",
            "mirrored.>",
            "_INBOX.>",
            "_INBOX_ingress.>",
            "$JS.EVENT.>",
            "$SYS.>",
        ],
    },
];

/// A connection that collects what the server refuses, in order.
struct Watched {
    client: Client,
    refusals: mpsc::UnboundedReceiver<String>,
}

impl Watched {
    async fn connect(broker: &TestBroker, role: Role) -> Self {
        let (sender, refusals) = mpsc::unbounded_channel();
        let client = ConnectOptions::with_nkey(broker.seed(role).to_owned())
            .custom_inbox_prefix(role.inbox_prefix())
            .event_callback(move |event| {
                let sender = sender.clone();
                async move {
                    if let Event::ServerError(error) = event {
                        sender.send(error.to_string().to_lowercase()).unwrap();
                    }
                }
            })
            .connect(broker.url())
            .await
            .unwrap();
        Self { client, refusals }
    }

    /// True when the server refuses what was just sent. It answers in order, so the refusal of a last, certainly
    /// forbidden publish closes the case.
    async fn refused(&mut self, subject: &str) -> bool {
        self.client.publish("forbidden.to.everyone", "".into()).await.unwrap();
        self.client.flush().await.unwrap();
        let mut refused = false;
        loop {
            let refusal = tokio::time::timeout(crate::WAIT_MAX, self.refusals.recv()).await.unwrap().unwrap();
            assert!(refusal.contains("permissions violation"), "{refusal}");
            if refusal.contains("forbidden.to.everyone") {
                return refused;
            }
            assert!(refusal.contains(&format!("\"{}\"", subject.to_lowercase())), "{refusal}");
            refused = true;
        }
    }

    async fn may_publish(&mut self, subject: &str) -> bool {
        self.client.publish(subject.to_owned(), "".into()).await.unwrap();
        !self.refused(subject).await
    }

    async fn may_subscribe(&mut self, subject: &str) -> bool {
        let _subscription = self.client.subscribe(subject.to_owned()).await.unwrap();
        !self.refused(subject).await
    }
}

#[tokio::test]
async fn each_role_may_do_its_work_and_nothing_else() {
    let broker = TestBroker::start_empty().await;
    for case in CASES {
        let mut watched = Watched::connect(&broker, case.role).await;
        let name = case.role.name();
        for subject in case.may {
            assert!(watched.may_publish(subject).await, "{name} must be able to publish {subject}");
        }
        for subject in case.may_not.iter().chain(OPERATIONS) {
            assert!(!watched.may_publish(subject).await, "{name} must not publish {subject}");
        }
        for subject in case.may_receive {
            assert!(watched.may_subscribe(subject).await, "{name} must be able to receive {subject}");
        }
        for subject in case.may_not_receive {
            assert!(!watched.may_subscribe(subject).await, "{name} must not receive {subject}");
        }
    }
    let roles: Vec<Role> = CASES.iter().map(|case| case.role).collect();
    assert_eq!([roles.as_slice(), &[Role::Admin]].concat(), Role::ALL, "every role has its case");
}

/// Waits until the server knows what `bus` listens to. It takes a connection's commands in order, so any answer will do; a
/// flush only hands them to the socket.
async fn knows_subscriptions_of(bus: &Bus) {
    bus.context().query_account().await.unwrap();
}

#[tokio::test]
async fn the_monitor_receives_everything_but_secrets_and_answers() {
    let broker = TestBroker::start().await;
    let (admin, monitor) = (broker.bus(Role::Admin).await, broker.bus(Role::Monitor).await);
    let mut received = monitor.subscribe_core(">".into()).await.unwrap();
    knows_subscriptions_of(&monitor).await;
    for subject in [
        "$KV.secrets.playback",
        "$KV.apikeys.K",
        "$KV.nonces.N",
        "$KV.hooks.hook.O.H",
        "hooklog.H",
        "_INBOX_ingress.answer",
        "evt.media.stored.M",
    ] {
        admin.publish_core(subject.into(), b"x".to_vec()).await.unwrap();
    }
    loop {
        let message = tokio::time::timeout(crate::WAIT_MAX, received.next()).await.unwrap().unwrap();
        let subject = message.subject.as_str();
        assert!(
            !subject.starts_with("hooklog.")
                && !subject.starts_with("$KV.")
                && !subject.starts_with("_INBOX_ingress"),
            "{subject}"
        );
        if subject == "evt.media.stored.M" {
            break;
        }
    }
}

#[tokio::test]
async fn the_index_answers_who_asks_and_no_one_else() {
    let broker = TestBroker::start_empty().await;
    let index = broker.bus(Role::Index).await;
    let mut questions = index.subscribe_core("ask.index.>".into()).await.unwrap();
    knows_subscriptions_of(&index).await;
    let asks = [
        (Role::Ingress, "ask.index.list"),
        // How many jobs an owner has, before another one of it begins.
        (Role::Keeper, "ask.index.job_counts"),
        (Role::Tasks, "ask.index.job_counts"),
    ];
    for (role, subject) in asks {
        let bus = broker.bus(role).await;
        let answering = async {
            let question = questions.next().await.unwrap();
            let answer = nats::encode_message("answer", &"answer").unwrap();
            index.publish_core(question.reply.unwrap().to_string(), answer).await.unwrap();
            std::future::pending::<()>().await;
        };
        let asking = bus.request::<_, String>(subject.into(), &"question", Duration::from_secs(10));
        let answer = tokio::select! {
            answer = asking => answer,
            () = answering => unreachable!("it never ends"),
        };
        assert_eq!(answer.unwrap(), "answer", "{}", role.name());
    }
}

#[tokio::test]
async fn a_reader_reads_in_order_but_makes_no_durable() {
    let broker = TestBroker::start().await;
    let keeper = broker.bus(Role::Keeper).await;
    for n in 1..=3 {
        publish(&keeper, &format!("evt.media.stored.M{n}")).await;
    }
    for role in [Role::Ingress, Role::Audit, Role::Monitor, Role::Reader] {
        let bus = broker.bus(role).await;
        let config = reader::ReaderConfig::new("EVENTS", vec!["evt.>".into()], ReaderStart::All);
        let mut events = bus.open_reader(config).await.unwrap();
        for n in 1..=3 {
            assert_eq!(
                events.next().await.unwrap().subject,
                format!("evt.media.stored.M{n}"),
                "{}",
                role.name()
            );
        }
        let request = json!({
            "stream_name": "EVENTS",
            "config": {"durable_name": "mine", "ack_policy": "explicit", "deliver_policy": "all", "replay_policy": "instant"},
            "action": ""
        });
        let answer = bus
            .client()
            .request(format!("{}.CONSUMER.CREATE.EVENTS", role.api_prefix()), request.to_string().into());
        let answer = answer.await.unwrap();
        let answer: serde_json::Value = serde_json::from_slice(&answer.payload).unwrap();
        assert_eq!(answer["error"]["code"], 400, "{}: {answer}", role.name());
    }
    let admin = broker.bus(Role::Admin).await;
    let stream = admin.context().get_stream("EVENTS").await.unwrap();
    assert!(stream.get_consumer::<pull::Config>("mine").await.is_err());
}

#[tokio::test]
async fn a_stage_works_through_its_durable_with_its_own_rights() {
    let broker = TestBroker::start().await;
    publish(&broker.bus(Role::Ingress).await, "evt.upload.received.U").await;
    publish(&broker.bus(Role::Upload).await, "evt.media.stored.M").await;
    publish(&broker.bus(Role::Keeper).await, "job.transcode.p0.J.v0").await;
    let durables = [
        (Role::Upload, "EVENTS", "upload"),
        (Role::Transcode, "EVENTS", "transcode-plan"),
        (Role::Transcode, "JOBS", "transcode-p0"),
        (Role::Index, "EVENTS", "index"),
    ];
    for (role, stream, durable) in durables {
        let bus = broker.bus(role).await;
        let consumer =
            bus.context().get_consumer_from_stream::<pull::Config, _, _>(durable, stream).await.unwrap();
        let mut messages =
            consumer.fetch().max_messages(1).expires(Duration::from_secs(5)).messages().await.unwrap();
        let message = messages.next().await.unwrap().unwrap();
        let confirmed = bus.client().request(message.reply.clone().unwrap(), "+ACK".into()).await;
        assert!(confirmed.is_ok(), "{durable}: {confirmed:?}");
        crate::until("the ack counts", || async {
            let mut consumer = consumer.clone();
            consumer.info().await.unwrap().num_ack_pending == 0
        })
        .await;
    }
}

async fn publish(bus: &Bus, subject: &str) {
    bus.context().publish(subject.to_owned(), "x".into()).await.unwrap().await.unwrap();
}
