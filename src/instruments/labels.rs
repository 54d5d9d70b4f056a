//! The values of labels that are known.

use crate::label_set::label_values;

label_values! {
    /// What became of a connection.
    ConnectionOutcome "outcome" {
        Accepted = "accepted",
        // Its address has as many as it may have.
        Refused = "refused",
        Failed = "failed",
    }
    /// Where a request was summed for the audit log.
    SumOutcome "outcome" {
        Named = "named",
        // With others, since its class had as many sums as it may have.
        Others = "others",
        // Its sum could not be published before the process ended.
        Lost = "lost",
    }
    /// What became of a request with an `Idempotency-Key`.
    RepeatOutcome "outcome" {
        First = "first",
        Repeated = "repeated",
        Refused = "refused",
    }
    /// By which way an upload was opened.
    UploadWay "protocol" {
        Tus = "tus",
        Resumable = "resumable",
        Fetch = "fetch",
    }
    /// How an upload ended.
    UploadEnding "ending" {
        Received = "received",
        PartReceived = "part_received",
        Cancelled = "cancelled",
        Failed = "failed",
        Expired = "expired",
    }
    /// What became of a span that was kept.
    SpanOutcome "outcome" {
        Sent = "sent",
        QueueFull = "queue_full",
        Refused = "refused",
        Unsent = "unsent",
    }
    /// How a request with bytes of an upload ended.
    AppendOutcome "outcome" {
        Kept = "kept",
        Completed = "completed",
        Displaced = "displaced",
        Refused = "refused",
    }
    /// What the bytes of an upload turned out to be.
    VerificationOutcome "outcome" {
        Stored = "stored",
        Rejected = "rejected",
        Failed = "failed",
    }
    /// What was asked for below a path token.
    PlaybackFile "kind" {
        Playlist = "playlist",
        GrowingPlaylist = "growing_playlist",
        Segment = "segment",
        Other = "other",
    }
    /// How segments of what plays are stored and sent.
    SegmentDelivery "delivery" {
        Clear = "clear",
        Encrypted = "encrypted",
    }
    /// Whether a playback session may go on.
    SessionCheck "outcome" {
        Allowed = "allowed",
        Refused = "refused",
    }
    /// What became of a report of a player, a line of CMCD.
    PlayerReport "outcome" {
        Taken = "taken",
        // Its view is not among those that are sampled.
        Unsampled = "unsampled",
        Unreadable = "unreadable",
        // As many views are followed as may be: of this replica, or of a playback session.
        NoRoom = "no_room",
    }
    /// How a view ended, as far as its player reported it.
    ViewEnding "ending" {
        // Its player came to the end.
        Ended = "ended",
        Failed = "failed",
        // Nothing more was reported of it.
        Left = "left",
    }
    /// How many lines the picture has that is played, the shorter side: the least of these that it does not exceed.
    HeightClass "height" {
        P240 = "240p",
        P360 = "360p",
        P480 = "480p",
        P720 = "720p",
        P1080 = "1080p",
        P1440 = "1440p",
        P2160 = "2160p",
        // No bitrate was reported, or the renditions are not final yet.
        Unknown = "unknown",
    }
    /// What was read of media.
    MetadataRead "what" {
        Document = "document",
        List = "list",
        Search = "search",
    }
    /// What was done with the document of a medium.
    MetadataWrite "what" {
        Change = "change",
        Remove = "remove",
        Restore = "restore",
    }
    /// A question to the index.
    IndexQuestion "question" {
        Media = "media",
        PublicMedia = "public_media",
        Jobs = "jobs",
        JobCounts = "job_counts",
        EncodeActivity = "encode_activity",
        Search = "search",
        History = "history",
        Other = "other",
    }
    /// A bucket that the index follows.
    IndexedBucket "bucket" {
        Media = "media",
        Assets = "assets",
        Jobs = "jobs",
    }
    /// What was done with an entry of the cache API.
    CacheWrite "what" {
        Put = "put",
        Remove = "remove",
        Clear = "clear",
    }
    /// How an attempt to sign in, or to go on with a session, ended.
    SignInOutcome "outcome" {
        Granted = "granted",
        Denied = "denied",
        // It can't be known now.
        Unavailable = "unavailable",
    }
    /// What became of a credential that came with a request.
    CredentialOutcome "outcome" {
        Accepted = "accepted",
        Unknown = "unknown",
        Unavailable = "unavailable",
    }
    /// What a part of an encode makes.
    PartWorkKind "work" {
        Video = "video",
        Audio = "audio",
        Subtitles = "subtitles",
        Finish = "finish",
    }
    /// How the try of a part ended.
    PartOutcome "outcome" {
        Made = "made",
        JobOver = "job_over",
        Stopped = "stopped",
        Failed = "failed",
    }
    /// How a job ended.
    JobOutcome "outcome" {
        Succeeded = "succeeded",
        Failed = "failed",
    }
    /// What the monitor did with what a role reported.
    ReportOutcome "outcome" {
        Taken = "taken",
        // It is the monitor's own process, whose metrics it has.
        Own = "own",
        Refused = "refused",
    }
    /// What is wrong with the audit log.
    AuditLogFault "kind" {
        // Events left EVENTS before they were recorded.
        Gap = "gap",
        // Messages in AUDIT that are no records.
        Foreign = "foreign",
        // The chain of hashes does not hold.
        Broken = "broken",
        // An event was offered again.
        Repeated = "repeated",
    }
    /// Level of a record of the log.
    LogLevel "level" {
        Error = "error",
        Warn = "warn",
        Info = "info",
    }
    /// How a report of the metrics of this process went out.
    PublishOutcome "outcome" {
        Published = "published",
        TooLarge = "too_large",
        Failed = "failed",
    }
}
