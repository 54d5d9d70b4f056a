//! Every kind of problem that is answered: its stable code, its status, its title, and what to do about it.
//!
//! This is the one place where they stand: problems are made of them, `/openapi.json` lists them as `x-problems`, and `/docs` has
//! an entry for each, to which the `type` of a problem leads. A kind that nothing answers is reported by the compiler: nothing else
//! makes one.

use axum::http::StatusCode;
use serde_json::{Map, Value, json};

/// Where a kind is explained: a reference that every client can resolve against the address it asked (RFC 9457 section 3.1.1).
const PLACE: &str = "/docs#problem-";

/// What is known of a kind.
#[derive(Debug)]
struct ProblemDefinition {
    code: &'static str,
    status: u16,
    title: &'static str,
    advice: &'static str,
    /// Its type where it is registered (the draft of the RateLimit fields): at most one.
    registered: &'static [&'static str],
}

impl ProblemDefinition {
    fn type_uri(&self) -> String {
        self.registered.first().map_or_else(|| format!("{PLACE}{}", self.code), ToString::to_string)
    }
}

macro_rules! kinds {
    ($($name:ident $status:literal $code:literal $title:literal $advice:literal $($registered:literal)?;)*) => {
        /// What went wrong.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum ProblemCode {
            $(#[doc = $title] $name,)*
        }

        /// In the order of the kinds.
        static FACTS: &[ProblemDefinition] =
            &[$(ProblemDefinition { code: $code, status: $status, title: $title, advice: $advice, registered: &[$($registered)?] },)*];
    };
}

kinds! {
    AddressInvalid 422 "address_invalid" "This is no address"
        "Send the wallet's address as `0x` and 40 digits, in lower case or as EIP-55 has it.";
    AddressRefused 401 "address_refused" "The sign-in was refused"
        "Sign with the account that the challenge was asked for; its address is written as EIP-55 has it.";
    AnswerShownOnce 409 "answer_shown_once" "The request was done, and its answer is shown once"
        "`detail` names what was made; where its secret was lost, take it back and make another.";
    AnswerTooLarge 413 "answer_too_large" "The answer would have more bytes than one may"
        "Ask for fewer things at once.";
    BrokerFull 507 "broker_full" "The broker has no room for more"
        "The operator has to raise the limit that `limit` names, or wait until what is old goes; what was acknowledged is kept.";
    BodyCut 400 "body_cut" "The body ended before its length"
        "Send the request again; an upload over tus goes on from its offset.";
    BodyTooLarge 413 "body_too_large" "The body is larger than its limit"
        "Send no more than `limit_bytes`; media are brought in by `/v1/uploads`.";
    BodyTooSlow 408 "body_too_slow" "Too few bytes of the body came in time"
        "Send the request again over a better connection.";
    AlertMarksTooMany 409 "alert_marks_too_many" "As many alerts are silenced or acknowledged as may be"
        "Take some back with `for_ms` 0, or wait until they end.";
    Busy 503 "busy" "This replica has as much to do as it can"
        "Wait for `Retry-After` seconds and repeat.";
    CacheFull 507 "cache_full" "There is no room for this entry"
        "Remove entries, or wait until some have ended; shorter lives keep room.";
    CacheKeyInvalid 400 "cache_key_malformed" "This can't be a key of the cache"
        "Choose a key as `detail` says; the digest of a longer one is one, too.";
    CacheMiss 404 "cache_miss" "There is no such entry"
        "Make the value anew, and put it: an entry ends by itself, when it is removed, and when everything is cleared.";
    CaptionsInvalid 422 "captions_invalid" "This can't be captions of the medium"
        "`detail` says why, and `line` where in the file: correct it there, and send it again.";
    CaptionsMissing 404 "captions_missing" "The medium has no such captions"
        "`GET /v1/media/{media_id}/captions` lists its languages and kinds; those of its file can't be removed.";
    CaptionsTooMany 409 "captions_too_many" "The medium has as many captions as it may have"
        "Remove a language that is not needed any more.";
    ChainRefused 401 "chain_refused" "The sign-in was refused"
        "Sign for the chain that the challenge names.";
    ChainUnavailable 503 "chain_unavailable" "The chain can't be read at present"
        "Wait for `Retry-After` seconds and repeat; the operator may look at the nodes of the chain.";
    ChainUnknown 422 "chain_unknown" "The chain is not configured here"
        "Use a chain that `detail` lists, or ask the operator to configure this one.";
    ChallengeExpired 401 "challenge_expired" "The sign-in was refused"
        "Ask for a new challenge, and sign it within its time.";
    ChallengeUnbound 401 "challenge_unbound" "The sign-in was refused"
        "Sign in with the client that asked for the challenge: its cookie is needed.";
    ChallengeUnknown 401 "challenge_unknown" "The sign-in was refused"
        "Ask for a challenge first, and sign its text as it is.";
    ChallengeUsed 401 "challenge_used" "The sign-in was refused"
        "Ask for a new challenge: each is good for one attempt.";
    ChecksumAlgorithm 400 "checksum_algorithm" "The checksum algorithm is not known here"
        "Use one of those that `Tus-Checksum-Algorithm` lists.";
    ChecksumMismatch 460 "checksum_mismatch" "The bytes do not have the declared checksum; none of them was kept"
        "Send the same bytes again from the offset that HEAD tells.";
    ContentEncoding 415 "content_encoding" "The body is coded"
        "Send the bytes of the file as they are, without `Content-Encoding`.";
    ChaptersInvalid 422 "chapters_invalid" "These are no chapters of this medium"
        "`errors` points at the member and says why: the first begins at 0, each later than the one before, all within the medium.";
    EncodeRangeInvalid 422 "encode_range_invalid" "There is no such part to encode"
        "`errors` points at the member and says why: the part has to lie within the source, and to end later than it begins.";
    DownloadEarly 409 "download_early" "There is no file of this medium yet"
        "Follow `GET /v1/events?media=` until `media.ready`.";
    DownloadRefused 403 "download_refused" "Nobody but its owner may download this"
        "Play it instead, or ask its owner to let viewers download it: `downloads` of its document; `reason` says what stands in the way.";
    DownloadTooLarge 409 "download_too_large" "This is too long to be one file"
        "Choose a smaller `height` or leave a track out, or play it instead; the operator may raise `ingress.playback.download_samples_max`.";
    Conflict 409 "conflict" "Somebody else changed this first"
        "Read it again and repeat.";
    ContractAbsent 422 "contract_absent" "There is no such contract"
        "Look at the address and at the chain: a contract has code there.";
    CursorMalformed 400 "cursor_malformed" "The cursor is none that a list answered"
        "Send `next_cursor` of the page before, with the same filter, or begin again without one.";
    DescriptionInvalid 400 "description_invalid" "This description can't be used"
        "Send fewer characters.";
    DigestMismatch 400 "digest_mismatch" "The bytes do not have the declared digest; none was kept"
        "Send the file again, with the digest of what is sent.";
    DomainRefused 401 "domain_refused" "The sign-in was refused"
        "Sign in at a site that this service names; the message has to be for it.";
    EncodesInUse 409 "encodes_in_use" "Encodes that this medium had before are still played"
        "Try again once the sessions that play them have ended; what was replaced is removed then.";
    EncodesTooMany 409 "encodes_too_many" "This medium was encoded as often as it may be"
        "Remove it and upload the file again.";
    EventIdMalformed 400 "event_id_malformed" "The event id is none that this server gave"
        "Send an id as an event carried it, or `0-0` for everything that is kept.";
    EventsGone 410 "events_gone" "The events behind that id are not there any more"
        "Begin again with `0-0`, or without an id.";
    ExpiresInvalid 400 "expires_in_s_malformed" "A key does not live that long"
        "Ask for less, or leave `expires_in_s` out for a key that does not expire.";
    GateClosed 403 "gate_closed" "The gate of this medium is closed to you"
        "`reason` says what the wallet lacks; another wallet may have it.";
    ExportInvalid 422 "export_invalid" "There is no such file to send"
        "`errors` points at the member that does not go with the file, and says why.";
    ExportScheduled 422 "export_scheduled" "An export begins when it is asked for"
        "Ask for it without a time, once the file is to be sent: its address is a secret that no schedule keeps.";
    FormInvalid 400 "form_malformed" "The form can't be taken"
        "`detail` says why: a form has one file, and what is said about it stands before it.";
    FormatUnsupported 501 "format_unsupported" "There is no such format"
        "Ask for the one that `detail` names, or for none.";
    HeaderInvalid 400 "header_invalid" "A header is missing or makes no sense"
        "`header` names it and `detail` says what it takes.";
    HeadersTooLarge 431 "headers_too_large" "The headers are larger than their limit"
        "Send fewer or shorter headers; cookies are the usual cause.";
    HookNameInvalid 400 "hook_name_invalid" "The name can't be used"
        "Send fewer characters, all of them to be shown.";
    HookNewer 503 "hook_newer" "A newer version made this hook"
        "Ask again once all replicas are of that version; its keeper sends meanwhile.";
    HookRequestsTooMany 409 "hook_requests_too_many" "As much is asked of this hook as may be"
        "Wait until the list of deliveries has what was asked for, and repeat.";
    HookSecretsTooMany 409 "hook_secrets_too_many" "As many secrets of this hook sign as may"
        "Wait until the time of an old one is over: the hook says when.";
    HookTypesInvalid 422 "hook_types_invalid" "There are no such events to be sent"
        "`errors` points at the kind and says why; `/docs` and `schemas/asyncapi.json` list the kinds.";
    HookUrlRefused 422 "hook_url_refused" "Nothing is sent to this address"
        "Give one of `http` or `https` at a public host, without user and password; the operator may let others through.";
    HooksTooMany 409 "hooks_too_many" "The account has as many hooks as it may"
        "Remove one that is not needed any more.";
    IdempotencyInProgress 409 "idempotency_in_progress" "The request with this Idempotency-Key is being worked on"
        "Wait for `Retry-After` seconds and repeat: the answer is then that of the first.";
    IdempotencyKeyInvalid 400 "idempotency_key_invalid" "The Idempotency-Key makes no sense"
        "Send one quoted string of visible characters.";
    IdempotencyMismatch 422 "idempotency_mismatch" "This Idempotency-Key belongs to another request"
        "Use a fresh key for a new request.";
    IndexBehind 503 "index_behind" "The list has not seen that revision yet"
        "Wait for `Retry-After` seconds and repeat.";
    IndexUnavailable 503 "index_unavailable" "The list can't be made at the moment"
        "Wait for `Retry-After` seconds and repeat; single media and jobs can be read meanwhile.";
    Internal 500 "internal" "Something went wrong here"
        "Tell the operator the request id: the log has the cause under it.";
    JobEnded 409 "job_ended" "The job has ended"
        "`job_status` says how; nothing is left to cancel.";
    JobGoesOn 409 "job_goes_on" "There is nothing to try again"
        "Only a job that failed or was cancelled is tried again, and only while no newer one of its medium was begun: `detail` says which.";
    JobKindUnknown 422 "job_kind_unknown" "There are no jobs of this kind"
        "Choose one of those that `detail` names.";
    JobNotRepeatable 409 "job_not_repeatable" "A job of this kind is not tried again"
        "Do what `detail` says instead, which is mostly to ask for the same anew; a dead letter of it is to be discarded.";
    JobPublishing 409 "job_publishing" "The result of the job is being published"
        "It ends in a moment; remove the medium if nobody is to see it.";
    JsonInvalid 400 "json_invalid" "A value of the body is not what it has to be"
        "`errors` points at the value and says what it has to be.";
    JsonMalformed 400 "json_malformed" "The body is no JSON"
        "`errors` says at which line and column it ends to be JSON.";
    LabelInvalid 400 "label_malformed" "This label can't be used"
        "Send plain text of one line, or no label.";
    LetterUnreadable 409 "letter_unreadable" "The dead letter holds what its stage does not take"
        "Read it, mend who sent it, and discard it: it would be given up again.";
    LinkUsed 401 "link_used" "This sign-in link was used, or its time is over"
        "Start `streamgate up` again, which prints another, or sign in with an API key: a link is good once, for ten minutes.";
    LogFilterInvalid 422 "log_filter_invalid" "This is no filter of the log"
        "`detail` says which part is wrong: write a level, or directives such as `upload=debug`, with commas between them.";
    LogLevelsTooMany 409 "log_levels_too_many" "As many filters of the log hold as may be"
        "Take some back with `for_ms` 0, or wait until they end.";
    MediaDetailsInvalid 400 "media_details_invalid" "What is said about this medium can't be used"
        "`errors` points at what is wrong, and says what is kept of it at most; send the change again without it.";
    MediaFailed 409 "media_failed" "This file could not be prepared"
        "`detail` says why; the operator may let it be tried again.";
    MediaRejected 409 "media_rejected" "This file can't be played"
        "`detail` says why, and `/docs#rejections` what to do about each code; upload another file.";
    MediaIncomplete 409 "media_incomplete" "The bytes of this medium never came"
        "Upload it again: its upload ended with its removal.";
    MediaRemoved 410 "media_removed" "This medium was removed"
        "Begin a new upload if it is to be there again.";
    MediaType 415 "media_type" "This media type is not taken here"
        "Send `Content-Type` with what `detail` names.";
    MessageEarly 401 "message_early" "The sign-in was refused"
        "Look at the clock of the device: the message is not good yet.";
    MessageExpired 401 "message_expired" "The sign-in was refused"
        "Ask for a new challenge, and sign it within its time.";
    MessageMalformed 400 "message_malformed" "The message can't be read"
        "Send the text of the challenge as it was signed, and the signature as `0x` and digits.";
    MessageTooLongLived 401 "message_too_long_lived" "The sign-in was refused"
        "Sign a message whose time ends sooner, such as that of the challenge.";
    MetadataTooLong 431 "metadata_too_long" "Upload-Metadata is longer than its limit"
        "Send less of it.";
    MethodNotAllowed 405 "method_not_allowed" "This path does not take that method"
        "Use one that `Allow` lists.";
    NoSession 409 "no_session" "There is no session to end"
        "An API key has none: revoke the key instead.";
    NothingStored 409 "nothing_stored" "Nothing is kept of this medium that could be gone through"
        "Wait until it is verified and begins to play; one that was rejected has to be uploaded again.";
    NoSite 403 "no_site" "No site may sign people in here"
        "The operator has to name one: `auth.domains`, or `ingress.public_url`.";
    NotEncodable 409 "not_encodable" "This medium can't be encoded now"
        "`detail` says why: wait until it is verified, or until the job on it has ended, or cancel that.";
    NotFound 404 "not_found" "Not found"
        "Look at the address; what is not yours answers the same as what is not there.";
    NotOwner 403 "not_owner" "Only its owner may change this"
        "Sign in as the owner, or as an administrator.";
    NotPlayable 409 "not_playable" "This is not playable yet"
        "Follow `GET /v1/events?media=` until `media.playable`.";
    NotYours 403 "not_yours" "This is somebody else's"
        "Leave out the other owner, or ask an administrator.";
    OperatorsOnly 403 "operators_only" "This is for operators and admins"
        "Use a key or wallet with that role.";
    OriginRefused 403 "origin_refused" "This site may not sign people in here"
        "Sign in at a site that this service names: `auth.domains`.";
    OwnerInvalid 400 "owner_malformed" "This is no owner"
        "Send the owner as the things show it, such as `eip155:0x...`.";
    PausesTooMany 409 "pauses_too_many" "As many owners and kinds of jobs are paused as may be"
        "Resume one that need not be paused any more.";
    PersonNeeded 403 "person_needed" "Keys are managed by a signed-in wallet or an administrator"
        "Sign in with a wallet: an API key neither makes nor revokes keys.";
    PictureInvalid 422 "picture_invalid" "This can't be the poster"
        "`detail` says why: send a whole picture of JPEG, PNG or WebP with sides of 16 to 8,192 pixels.";
    PlaybackRefused 403 "playback_refused" "This playback address is not valid any more"
        "Ask for a new one by `POST /v1/media/{media_id}/playback`.";
    PreconditionFailed 412 "precondition_failed" "What is there is not the version you have seen"
        "Read it again and repeat.";
    PreconditionInvalid 400 "precondition_invalid" "A precondition makes no sense"
        "Send a list of quoted tags, or `*`.";
    PreconditionRequired 428 "precondition_required" "Say which version you want to change"
        "Read it, and send its `ETag` as `If-Match`.";
    ProfileUnknown 422 "profile_unknown" "There is no such profile"
        "Choose one of `profiles`; operators add them to the settings as `transcode.profiles.<name>`.";
    ProofFailed 401 "proof_failed" "The session is over"
        "Sign in again: the account's contract no longer takes the signature.";
    QueryMalformed 400 "query_malformed" "The query string has a parameter that can't be used"
        "`detail` names the parameter; those that an operation takes stand in its description.";
    QuotaExceeded 429 "quota_exceeded" "This is more than you may have done"
        "`quota` says of what there is too much, `used` and `max` how much; wait until `resets_at_ms`, or until jobs have ended."
        "https://iana.org/assignments/http-problem-types#quota-exceeded";
    RangeNotSatisfiable 416 "range_not_satisfiable" "The range lies outside of what there is"
        "Ask for a range within the size that `Content-Range` tells.";
    RateLimited 429 "rate_limited" "Too many requests"
        "Wait for `Retry-After` seconds and repeat; a request that was refused does not count."
        "https://iana.org/assignments/http-problem-types#quota-exceeded";
    ReadOnly 403 "read_only" "An operator reads and changes nothing"
        "Use a key or wallet with another role.";
    RefreshReused 401 "refresh_reused" "The session is over"
        "Sign in again: the refresh token was used before, so one of its holders stole it.";
    Refused 400 "refused" "The request is refused"
        "The status says why.";
    RenditionsInvalid 422 "renditions_invalid" "An upload can't be a rendition"
        "Send each file as a partial upload (`Upload-Concat: partial`) to its last byte, as the owner of the medium; `errors` points at the upload.";
    RequestInvalid 400 "request_invalid" "The request makes no sense"
        "Compare it with the description of its operation.";
    ReportMalformed 400 "report_malformed" "No line of the report is CMCD"
        "Send a line for each event as CTA-5004-B has it, with the id of the session as `sid`.";
    RequestMalformed 400 "request_malformed" "The request can't be read"
        "Send HTTP/1.1 or HTTP/2 as their standards have it.";
    RevisionUnknown 409 "revision_unknown" "There is no such revision yet"
        "Send as `min_revision` what an answer told.";
    RuleInvalid 422 "rule_invalid" "The rule can't be used"
        "`errors` points at the condition and says why.";
    ScheduleBusy 409 "schedule_busy" "The last run of this schedule is still being begun"
        "Read the schedule until its newest run has begun or was refused, and try again.";
    ScheduleEnded 409 "schedule_ended" "The schedule has no time left"
        "Give it another timing, or have it run now.";
    ScheduleNameInvalid 400 "schedule_name_invalid" "The name can't be used"
        "Send fewer characters, all of them to be shown.";
    ScheduleNewer 503 "schedule_newer" "A newer version made this schedule"
        "Ask again once all replicas are of that version; its keeper fires it meanwhile.";
    ScheduleOwnerOther 409 "schedule_owner_other" "The medium belongs to another owner than the schedule"
        "Make another schedule for it.";
    SchedulesTooMany 409 "schedules_too_many" "The account has as many schedules as it may"
        "Remove one that is not needed any more.";
    ScopeMissing 403 "scope_missing" "This API key may not be used here"
        "Use a key whose scopes have this group of endpoints.";
    SessionOver 401 "session_over" "The session is over"
        "Sign in again.";
    SignatureRefused 401 "signature_refused" "The sign-in was refused"
        "Sign the text of the challenge with the account that it names.";
    SourceGone 409 "source_gone" "The uploaded file is not there any more"
        "Upload it again.";
    SourceRefused 422 "source_refused" "Nothing is fetched from this address"
        "Give one of `http` or `https` at a public host, without user and password; the operator may let others through.";
    Stopping 503 "stopping" "This replica is stopping"
        "Repeat: another replica, or this one in a moment, answers.";
    StoreFull 507 "store_full" "The store is full"
        "The operator has to make room; what was acknowledged is kept.";
    SocketOriginRefused 403 "socket_origin_refused" "Pages of this site may not open a WebSocket here"
        "The operator may let the site in by `ingress.manners.origins`; programs send no `Origin`.";
    StreamsTooMany 429 "streams_too_many" "You follow events as often as you may at once"
        "Close other streams, or follow more by one: without `media` and `job` it has everything that is yours.";
    TargetRefused 422 "target_refused" "Nothing is sent to this address"
        "Give one of `http` or `https` at a public host, without user and password; the operator may let others through.";
    TargetTooLong 414 "target_too_long" "Path and query are longer than their limit"
        "Send no more than `limit_bytes`.";
    Timeout 503 "timeout" "The answer took too long"
        "Repeat; the request may have had its effect, and a key in `Idempotency-Key` makes repeating safe.";
    ThumbnailMissing 404 "thumbnail_missing" "This picture was not made"
        "Its owner has it made by `POST /v1/jobs` with a job of the kind `thumbnails`: that time, and that width.";
    TimingInvalid 422 "timing_invalid" "It can't fire like that"
        "`errors` points at the member of the timing and says why.";
    TitleInvalid 400 "title_invalid" "This title can't be used"
        "Send one line of which something is shown.";
    TooLarge 413 "too_large" "This is larger than its limit"
        "Make it smaller: `detail` says what is too large.";
    TooManyChallenges 429 "too_many_challenges" "Too many challenges were asked for"
        "Wait for `Retry-After` seconds, or use a challenge that was given.";
    TooManyContractAsks 429 "too_many_contract_asks" "Too many signatures that their accounts' keys did not make"
        "Wait for `Retry-After` seconds and repeat, with the challenge that was given; what an account's own key signs is not limited.";
    TooManyKeys 409 "too_many_keys" "This owner has as many keys as it may have"
        "Revoke one that is not needed.";
    TusVersion 412 "tus_version" "Another version of tus is spoken here"
        "Send `Tus-Resumable` with the version that `Tus-Version` names.";
    Unauthorized 401 "unauthorized" "This needs a signed-in wallet or an API key"
        "Send the access token of `/v1/auth/login`, or an API key, as `Authorization: Bearer ...`.";
    Unavailable 503 "unavailable" "A part of the service does not answer"
        "Wait for `Retry-After` seconds and repeat; nothing that was acknowledged is lost.";
    UploadBusy 423 "upload_busy" "Another request holds the upload"
        "Wait for `Retry-After` seconds and go on from the offset that HEAD tells.";
    UploadBytesLost 410 "upload_bytes_lost" "The upload has ended"
        "Begin a new upload: the store lost bytes of this one.";
    UploadComplete 400 "upload_complete" "Every byte of the upload is there already"
        "Nothing is left to send: the medium is there."
        "https://iana.org/assignments/http-problem-types#completed-upload";
    UploadDisplaced 409 "upload_displaced" "Another request has taken the upload over"
        "Let the other request finish, or go on from `Upload-Offset`.";
    UploadExpired 410 "upload_expired" "The upload has ended"
        "Begin a new upload: the time of this one ran out.";
    UploadFetched 403 "upload_fetched" "A job brings the bytes of this upload"
        "Begin another upload to send bytes of your own; to end this one, cancel its job or delete it.";
    UploadFinal 403 "upload_final" "The bytes of this upload come from others"
        "Append to the uploads that it was made of, or begin another one.";
    UploadFinished 403 "upload_finished" "A complete upload can't be ended"
        "Nothing is left to end: the medium is there.";
    UploadGrantRefused 403 "upload_grant_refused" "An upload began with this grant already, or its time is over"
        "Ask who gave it for another: each is good for one upload, which goes on at its own address.";
    UploadGrantsTooMany 409 "upload_grants_too_many" "The account has as many grants that wait as it may"
        "Take some back, or wait until they are used or their time is over.";
    UploadGrantInvalid 422 "upload_grant_invalid" "There is no such grant to be given"
        "`errors` points at the member and says why.";
    UploadIdle 503 "upload_idle" "No byte came for too long"
        "Go on from the offset that HEAD tells: what came is kept.";
    UploadLengthInconsistent 400 "upload_length_inconsistent" "The length of the upload is said in two ways that differ"
        "Send as many bytes as `Upload-Length` said, or begin another upload: one that got more than that has ended."
        "https://iana.org/assignments/http-problem-types#inconsistent-upload-length";
    UploadOffset 409 "upload_offset" "The bytes are for another offset"
        "Go on from `Upload-Offset`."
        "https://iana.org/assignments/http-problem-types#mismatching-upload-offset";
    UploadProtocol 412 "upload_protocol" "The upload was opened by another protocol"
        "Go on without `Tus-Resumable`, as Resumable Uploads for HTTP has it, or begin another upload.";
    UploadAttempts 410 "upload_attempts" "Too many requests with this Idempotency-Key ended early"
        "Send the file again under a fresh key, or by `/v1/uploads`, which goes on where it was cut.";
    UploadTerminated 410 "upload_terminated" "The upload has ended"
        "Begin a new upload: somebody ended this one.";
    UploadTokenRefused 401 "upload_token_refused" "This upload token opens nothing"
        "Load the page with the form again: a token is good for one upload, for an hour, and stands before the file.";
    UploadTooLarge 413 "upload_too_large" "More bytes than the upload may have"
        "Send no more than `Upload-Length`, and no more than `Tus-Max-Size`.";
    UploadTooSlow 503 "upload_too_slow" "Too few bytes came"
        "Go on over a better connection from the offset that HEAD tells: what came is kept.";
    UploadsOpen 429 "uploads_open" "Too many uploads are open"
        "Finish or end one of them.";
    UriRefused 401 "uri_refused" "The sign-in was refused"
        "Sign in at a site that this service names; the message's URI has to belong to it.";
    WorkerRefused 409 "worker_refused" "The worker does not do that now"
        "It is being stopped, or is of another version; `worker_state` says where it stands.";
    WorkerSilent 503 "worker_silent" "The worker does not answer"
        "Wait for `Retry-After` seconds and repeat; `GET /v1/workers` says whether it still shows itself.";
    WebSocketRequired 426 "websocket_required" "This is a WebSocket"
        "Open it with a client of RFC 6455 over HTTP/1.1, or follow `GET /v1/events`.";
    WalletNeeded 401 "wallet_needed" "Sign in with a wallet to play this"
        "Sign in by `/v1/auth/challenge` and `/v1/auth/login`.";
}

impl ProblemCode {
    const fn definition(self) -> &'static ProblemDefinition {
        &FACTS[self as usize]
    }

    /// The stable code.
    pub const fn code(self) -> &'static str {
        self.definition().code
    }

    /// The same for people.
    pub const fn title(self) -> &'static str {
        self.definition().title
    }

    /// The status it is answered with, unless something else is known of the request.
    pub fn status(self) -> StatusCode {
        StatusCode::from_u16(self.definition().status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR)
    }

    /// The `type` of its problems.
    pub fn type_uri(self) -> String {
        self.definition().type_uri()
    }
}

/// What to do about the kind with this code, in a sentence; `None` for a code that is not answered here.
pub fn advice_of(code: &str) -> Option<&'static str> {
    FACTS.iter().find(|facts| facts.code == code).map(|facts| facts.advice)
}

/// All of them by code, as the description lists them.
pub fn describe_codes() -> Map<String, Value> {
    let described = FACTS.iter().map(|facts| {
        let about = json!({
            "type": facts.type_uri(), "status": facts.status, "title": facts.title, "advice": facts.advice,
        });
        (facts.code.to_owned(), about)
    });
    described.collect()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_kind_is_distinct_and_says_what_to_do() {
        let codes: BTreeSet<&str> = FACTS.iter().map(|facts| facts.code).collect();
        assert_eq!(codes.len(), FACTS.len(), "a code names two kinds");
        for facts in FACTS {
            let letters = |byte: u8| byte.is_ascii_lowercase() || byte == b'_';
            assert!(facts.code.bytes().all(letters), "{facts:?}");
            assert!((400..600).contains(&facts.status), "{facts:?}");
            assert!(!facts.title.ends_with('.') && facts.advice.ends_with('.'), "{facts:?}");
        }
        assert_eq!(
            (ProblemCode::WalletNeeded.code(), ProblemCode::WalletNeeded.status().as_u16()),
            ("wallet_needed", 401)
        );
    }
}
