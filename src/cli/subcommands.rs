//! What can be said behind `media`, `jobs`, `workers`, `audit`, `dead`, `nats`, `owner`, `store` and `schemas`.

use std::path::PathBuf;

use clap::Subcommand;

use super::{
    CaptionsArgs, ClientArgs, GrantArgs, JobsActArgs, MediaSearchArgs, PageArgs, PosterArgs, ServerArgs,
};

/// What to do with media.
#[derive(Debug, Subcommand)]
pub enum MediaCommand {
    /// List your media, newest first
    #[command(after_help = "Examples:
  streamgate media ls --status ready
  streamgate media ls --json --limit 200    a last line {\"next_cursor\": ...} says that there are more
  streamgate media ls --removed             those that `streamgate media restore` brings back")]
    Ls {
        /// Removed media that can be restored, those removed last first
        #[arg(long)]
        removed: bool,
        /// Which page.
        #[command(flatten)]
        page: PageArgs,
        /// The server.
        #[command(flatten)]
        client: ClientArgs,
    },
    /// Find media by words, what fits best first
    #[command(after_help = "Examples:
  streamgate media search big bunny                    typing errors and beginnings of words are found too
  streamgate media search '\"big buck\"' --status ready   words side by side
  streamgate media search --sort longest --tag nature    all with this tag

A person sees the words that were found in bold; `--json` has where they are.")]
    Search(MediaSearchArgs),
    /// Print all that happened to a medium, from its creation on
    #[command(after_help = "Example:
  streamgate media history 068p... --json      NDJSON; also of a removed one, for as long as its events are kept")]
    History {
        /// Its id
        media_id: String,
        /// The server.
        #[command(flatten)]
        client: ClientArgs,
    },
    /// Show one medium
    Show {
        /// Its id
        media_id: String,
        /// The server.
        #[command(flatten)]
        client: ClientArgs,
    },
    /// Let everybody play media who has their address
    #[command(after_help = "Examples:
  streamgate media publish 068p... 068q...
  streamgate media publish --replace 068p...  also where a rule of your own says who plays it: that rule is lost")]
    Publish {
        /// Their ids
        #[arg(required = true, value_name = "MEDIA_ID")]
        media_ids: Vec<String>,
        /// Put it in the place of a rule that says otherwise
        #[arg(long)]
        replace: bool,
        /// The server.
        #[command(flatten)]
        client: ClientArgs,
    },
    /// Take back that everybody plays media: you alone do from now on
    #[command(after_help = "Example:
  streamgate media unpublish 068p...        running playback ends at its next segment; a rule of your own is left alone")]
    Unpublish {
        /// Their ids
        #[arg(required = true, value_name = "MEDIA_ID")]
        media_ids: Vec<String>,
        /// The server.
        #[command(flatten)]
        client: ClientArgs,
    },
    /// Change what is said about a medium
    #[command(after_help = "Examples:
  streamgate media edit 068p... --title 'By the sea' --tag sea --tag summer --language de
  streamgate media edit 068p... --link 'https://example.org/sea The whole story' --contact ann@example.org
  streamgate media edit 068p... --attributes '{\"shelf\": 7}'   merged with those that are there; null in it removes one
  streamgate media edit 068p... --chapter '0 Arrival' --chapter '61.5 The sea'
  streamgate media edit 068p... --description '' --tag ''       an empty text takes away what was said

What is not named stays.")]
    Edit(EditArgs),
    /// Download a medium as one MP4 file
    #[command(after_help = "Examples:
  streamgate media download 068p... -o sea.mp4               the best picture, and the first track of sound
  streamgate media download 068p... --height 480 --audio de
  streamgate media download 068p... --audio none             pictures alone

A download that was cut goes on where it ended when the command is run again. Others than the owner may download what
`streamgate media edit --downloads viewers` was said about.")]
    Download(DownloadArgs),
    /// Fetch a picture of a medium at a time, which is made first unless it was
    #[command(after_help = "Examples:
  streamgate media thumbnail 068p... --at 12.5 -o sea.jpg
  streamgate media thumbnail 068p... --at 0 --width 1280      smaller media are not enlarged

It is the picture that is shown then. Afterwards it is at /v1/media/068p.../thumbnail?t=12.5, for all who may play a public medium.")]
    Thumbnail(ThumbnailArgs),
    /// List the captions of a medium, add a file of them, or remove some
    #[command(after_help = "Examples:
  streamgate media captions 068p...                                      what plays, of its file and of yours
  streamgate media captions 068p... --add sea.srt --language de          WebVTT or SubRip, in UTF-8
  streamgate media captions 068p... --add sea.vtt --language de --kind captions --label 'Deutsch (CC)'
  streamgate media captions 068p... --remove de

They play at once. Those of one language and kind take the place of those of the file.")]
    Captions(CaptionsArgs),
    /// Choose the poster of a medium: a picture of yours, or what is shown at a time
    #[command(after_help = "Examples:
  streamgate media poster 068p... --at 12.5
  streamgate media poster 068p... --file sea.png
  streamgate media poster 068p... --remove        that of the encode is shown again")]
    Poster(PosterArgs),
    /// Give somebody without a credential the right to bring one file, list those that you gave, or take one back
    #[command(after_help = "Examples:
  streamgate media grant --size 500MiB --type 'video/*' --expires 30m    prints it; who has it sends it as a bearer token
  streamgate media grant --list
  streamgate media grant --revoke 06db...

It is good for one upload to /v1/uploads (tus) or /v1/files/NAME, which is yours and counts for your quotas, and for nothing else.")]
    Grant(GrantArgs),
    /// Encode media again; what plays goes on playing until the new encode is ready
    #[command(after_help = "Examples:
  streamgate media transcode 068p... 068q...                 by the profile that uploads are encoded by
  streamgate media transcode --profile small 068p...         `streamgate profiles` lists them
  streamgate media transcode --priority p2 068p...           when nothing else waits
  streamgate media transcode --start 12.5 --end 30 068p...   that part alone; without them all of it again

Each prints the id of its job: `streamgate jobs show` says how far it is, `jobs cancel` ends it and leaves what plays. Who plays the old
encode plays it to the end of the session; then it is removed.")]
    Transcode(TranscodeArgs),
    /// Publish renditions that were made elsewhere in the place of an encode: nothing is encoded
    #[command(after_help = "Examples:
  streamgate media renditions 068p... 1080p.mp4 720p.mp4 480p.mp4       waits until they play
  streamgate media renditions 068p... 1080p.mp4 720p.mp4 sound.m4a     sound is taken from a file of sound alone, else from the first

The files are H.264 and AAC of one frame rate and length, with keyframes at the same places, as this makes them:
  ffmpeg -i film.mov -vf scale=-2:720 -c:v libx264 -pix_fmt yuv420p -force_key_frames 'expr:gte(t,n_forced*2)' -sc_threshold 0 \
    -c:a aac 720p.mp4
What plays goes on playing until they are checked; where they do not go together it stays, and the command says why.")]
    Renditions(RenditionsArgs),
    /// Have the server fetch a medium from an address, and encode it
    #[command(after_help = "Examples:
  streamgate media fetch https://films.example.org/sea.mp4                    waits until it is there, then prints its id
  streamgate media fetch --wait --public --title 'A day at the sea' URL       until it is ready; prints where it plays
  streamgate media fetch --detach URL                                         prints the ids of medium and job

`streamgate jobs cancel` ends it. What the address has behind its `?` is shown to nobody, and forgotten once it is there. Only public
hosts are asked; `outbound.allow` in the server's settings lets others through.")]
    Fetch(FetchArgs),
    /// Read all that is stored of media and compare it with what was written down then
    #[command(after_help = "Examples:
  streamgate media verify 068p... 068q...      waits for each, names what is lost or damaged, and fails then
  streamgate media verify --detach 068p...     prints the id of the job: `streamgate jobs show` says what it found

The source and what plays are read, and compared by SHA-256. `streamgate schedules verify` does it again and again, and the event
`job.failed` with the code `media_damaged` says when something is wrong.")]
    Verify(VerifyArgs),
    /// Remove media: nobody plays them from now on. They can be restored for a day, unless the server says otherwise
    #[command(after_help = "Examples:
  streamgate media rm 068p... 068q...       one after the other; a medium that changes meanwhile is left alone
  streamgate media rm --permanent 068p...   for good, also of one that was removed before: its bytes go within minutes
  streamgate media ls --removed             those that can be restored
  streamgate media restore 068p...          as it was; an encode that was cancelled with it is made anew

`retention.removed` in the server's settings is how long they can be restored.")]
    Rm {
        /// Their ids
        #[arg(required = true, value_name = "MEDIA_ID")]
        media_ids: Vec<String>,
        /// Remove them for good: nothing brings them back
        #[arg(long)]
        permanent: bool,
        /// The server.
        #[command(flatten)]
        client: ClientArgs,
    },
    /// Restore removed media, as they were
    #[command(after_help = "Example:
  streamgate media restore 068p...          `streamgate media ls --removed` lists them")]
    Restore {
        /// Their ids
        #[arg(required = true, value_name = "MEDIA_ID")]
        media_ids: Vec<String>,
        /// The server.
        #[command(flatten)]
        client: ClientArgs,
    },
}

/// Flags of `media edit`.
#[derive(Debug, clap::Args)]
pub struct EditArgs {
    /// Its id
    pub media_id: String,
    /// Title for people
    #[arg(long)]
    pub title: Option<String>,
    /// What it is about
    #[arg(long)]
    pub description: Option<String>,
    /// A word under which it is found, in place of those before; once for each
    #[arg(long = "tag", value_name = "TAG")]
    pub tags: Vec<String>,
    /// The language that it is about or spoken in, such as de or pt-BR
    #[arg(long, value_name = "TAG")]
    pub language: Option<String>,
    /// An address that belongs to it, with what it leads to behind a space, in place of those before; once for each
    #[arg(long = "link", value_name = "URL [LABEL]")]
    pub links: Vec<String>,
    /// Whom to ask about it
    #[arg(long, value_name = "EMAIL")]
    pub contact: Option<String>,
    /// A JSON object of one's own, merged with the one that is there
    #[arg(long, value_name = "JSON")]
    pub attributes: Option<String>,
    /// A chapter: when it begins, in seconds, and its title, in place of those before; once for each, the first at 0
    #[arg(long = "chapter", value_name = "SECONDS TITLE")]
    pub chapters: Vec<String>,
    /// The transaction that minted its token
    #[arg(long, value_name = "HASH")]
    pub mint_tx: Option<String>,
    /// Who plays it, in the place of a rule that says otherwise: you alone, everybody, or everybody who knows its address
    #[arg(long, value_name = "WHO", value_parser = ["private", "public", "unlisted"])]
    pub visibility: Option<String>,
    /// Who may download it: you alone, or all who may play it
    #[arg(long, value_name = "WHO", value_parser = ["none", "viewers"])]
    pub downloads: Option<String>,
    /// The server.
    #[command(flatten)]
    pub client: ClientArgs,
}

/// Flags of `media download`.
#[derive(Debug, clap::Args)]
pub struct DownloadArgs {
    /// Its id
    pub media_id: String,
    /// Where it is written, in place of the id with .mp4 behind it
    #[arg(short, long, value_name = "FILE")]
    pub output: Option<PathBuf>,
    /// Replace a file that is there
    #[arg(long)]
    pub force: bool,
    /// The largest picture whose short side has at most so many pixels
    #[arg(long, value_name = "PIXELS")]
    pub height: Option<u32>,
    /// A track of sound, by its name or language; `none` for no sound
    #[arg(long, value_name = "TRACK")]
    pub audio: Option<String>,
    /// The server.
    #[command(flatten)]
    pub client: ClientArgs,
}

/// Flags of `media thumbnail`.
#[derive(Debug, clap::Args)]
pub struct ThumbnailArgs {
    /// Its id
    pub media_id: String,
    /// When it is shown, in seconds from the beginning
    #[arg(long, value_name = "SECONDS")]
    pub at: f64,
    /// Its width in pixels; 320 unless said otherwise
    #[arg(long, value_name = "PIXELS")]
    pub width: Option<u32>,
    /// Where it is written, in place of id and time
    #[arg(short, long, value_name = "FILE")]
    pub output: Option<PathBuf>,
    /// The server.
    #[command(flatten)]
    pub client: ClientArgs,
}

/// Flags of `media fetch`.
#[derive(Debug, clap::Args)]
pub struct FetchArgs {
    /// Where its bytes are: http or https
    #[arg(value_name = "URL")]
    pub source_url: String,
    /// Name of the file, in place of the last part of the address
    #[arg(long)]
    pub filename: Option<String>,
    /// Title of the medium, in place of the file's name
    #[arg(long)]
    pub title: Option<String>,
    /// Let everybody play it who has its address
    #[arg(long)]
    pub public: bool,
    /// By which profile it is encoded, from `streamgate profiles`
    #[arg(long, value_name = "NAME")]
    pub profile: Option<String>,
    /// Priority of the fetch and of the encode: p2 when nothing else waits, p0 before the jobs of everybody, for keys of admins
    #[arg(long, value_parser = ["p0", "p1", "p2"])]
    pub priority: Option<String>,
    /// Wait until it is ready or rejected, showing what happens
    #[arg(long, conflicts_with = "detach")]
    pub wait: bool,
    /// Begin and do not wait
    #[arg(long)]
    pub detach: bool,
    /// The server.
    #[command(flatten)]
    pub client: ClientArgs,
}

/// Flags of `media verify`.
#[derive(Debug, clap::Args)]
pub struct VerifyArgs {
    /// Their ids
    #[arg(required = true, value_name = "MEDIA_ID")]
    pub media_ids: Vec<String>,
    /// Begin and do not wait
    #[arg(long)]
    pub detach: bool,
    /// p0 (for keys of admins), p1 or p2; p1 unless said otherwise
    #[arg(long, value_parser = ["p0", "p1", "p2"])]
    pub priority: Option<String>,
    /// The server.
    #[command(flatten)]
    pub client: ClientArgs,
}

/// Flags of `media renditions`.
#[derive(Debug, clap::Args)]
pub struct RenditionsArgs {
    /// The medium
    pub media_id: String,
    /// The files
    #[arg(required = true, value_name = "FILE")]
    pub files: Vec<std::path::PathBuf>,
    /// p0 (for keys of admins), p1 or p2; p1 unless said otherwise
    #[arg(long, value_parser = ["p0", "p1", "p2"])]
    pub priority: Option<String>,
    /// Begin and do not wait
    #[arg(long)]
    pub detach: bool,
    /// The server.
    #[command(flatten)]
    pub client: ClientArgs,
}

/// Flags of `media transcode`.
#[derive(Debug, clap::Args)]
pub struct TranscodeArgs {
    /// Their ids
    #[arg(required = true, value_name = "MEDIA_ID")]
    pub media_ids: Vec<String>,
    /// Name of a profile; the one by which uploads are encoded unless said otherwise
    #[arg(long, value_name = "NAME")]
    pub profile: Option<String>,
    /// p0 (for keys of admins), p1 or p2; p1 unless said otherwise
    #[arg(long, value_parser = ["p0", "p1", "p2"])]
    pub priority: Option<String>,
    /// Where the part of it begins that is encoded alone, in seconds
    #[arg(long, value_name = "SECONDS")]
    pub start: Option<f64>,
    /// Where that part ends, in seconds
    #[arg(long, value_name = "SECONDS")]
    pub end: Option<f64>,
    /// The server.
    #[command(flatten)]
    pub client: ClientArgs,
}

/// What to do with jobs.
#[derive(Debug, Subcommand)]
pub enum JobsCommand {
    /// List your jobs, newest first
    #[command(after_help = "Examples:
  streamgate jobs ls --status active
  streamgate jobs ls --media 068p...
  streamgate jobs ls --kind verify --paused    --paused=false for those that are not
  streamgate jobs ls --code store_unavailable

A page ends once 10,000 jobs were looked at: it may be short, or empty, before the end of the list.")]
    Ls(JobsListArgs),
    /// Show the jobs that go on, as they change, and a line for each that ends
    #[command(after_help = "Examples:
  streamgate jobs watch
  streamgate jobs watch --until-idle           ends once nothing went on for 5 seconds; with 1 if a job failed or was cancelled
  streamgate jobs watch --json                 one line a change: {\"job_id\", \"kind\", \"media_id\", \"state\", \"percent\"}

The newest 1000 that go on; a medium that is still being received or verified has no job yet. `streamgate jobs why` says why one does
not run, `streamgate watch` has each event.")]
    Watch(JobsWatchArgs),
    /// Print all that happened to a job, from its creation on
    History {
        /// Its id
        job_id: String,
        /// The server.
        #[command(flatten)]
        client: ClientArgs,
    },
    /// Show one job and its parts
    Show {
        /// Its id
        job_id: String,
        /// The server.
        #[command(flatten)]
        client: ClientArgs,
    },
    /// Cancel jobs: their workers stop within seconds, and what they had stored is removed
    #[command(after_help = "Example:
  streamgate jobs cancel 068p... 068q...       one after the other; the others are cancelled also where one has ended")]
    Cancel(JobIdsArgs),
    /// Say why a job does not run, and when it will
    #[command(after_help = "Example:
  streamgate jobs why 068p...                  one sentence; --json has its place among those that wait")]
    Why {
        /// Its id
        job_id: String,
        /// The server.
        #[command(flatten)]
        client: ClientArgs,
    },
    /// Pause jobs: none of their parts is begun until they are resumed
    #[command(after_help = "Example:
  streamgate jobs pause 068p... 068q...        parts that workers are at are made to their end")]
    Pause(JobIdsArgs),
    /// Let paused jobs go on, each in its old place
    Resume(JobIdsArgs),
    /// Have jobs wait at another priority
    #[command(after_help = "Examples:
  streamgate jobs priority p2 068p...          when nothing else waits, and now and then in between
  streamgate jobs priority p0 068p...          before the jobs of everybody: for keys of admins")]
    Priority {
        /// p0, p1 or p2
        #[arg(value_parser = ["p0", "p1", "p2"])]
        priority: String,
        /// Which jobs.
        #[command(flatten)]
        jobs: JobIdsArgs,
    },
    /// Do one thing with all jobs of a filter
    #[command(after_help = "Examples:
  streamgate jobs act cancel --status active                     every job of yours that goes on
  streamgate jobs act retry --code store_unavailable --since 2h  what failed for that reason in the last two hours
  streamgate jobs act prioritize --to p2 --kind verify
  streamgate jobs act pause --owner eip155:0x7099... --dry-run   what would be paused; for keys of admins

A job does it, for the jobs that were there when it was asked for, and says with how many it was done and which could not be done and why;
the command waits for that, and ends with 1 if some could not. Ctrl-C leaves the job at it: `streamgate jobs cancel` stops it.")]
    Act(JobsActArgs),
    /// Send a file of a medium to an address by PUT, such as one that a store has signed
    #[command(after_help = "Examples:
  streamgate jobs export 068p... --to 'https://bucket.s3.example/film.mp4?X-Amz-Signature=...' --wait
  streamgate jobs export 068p... --to https://archive.example/film.mp4 --height 720 --audio de
  streamgate jobs export 068p... --to https://archive.example/film.mov --what source

What plays is sent as one MP4 file, without being encoded again. --wait prints its size and SHA-256; `jobs show` has them, too.")]
    Export(ExportArgs),
    /// Try jobs again that failed or were cancelled; what a failed one had made is kept
    #[command(after_help = "Example:
  streamgate jobs retry 068p...                prints the id of the job that goes on")]
    Retry(JobIdsArgs),
}

/// Flags of `jobs export`.
#[derive(Debug, clap::Args)]
pub struct ExportArgs {
    /// The medium
    pub media_id: String,
    /// Address of http or https that takes the file; it is kept until the job ends, and shown to nobody with its query
    #[arg(long, value_name = "URL")]
    pub to: String,
    /// What plays as one MP4 file, or the file that was uploaded
    #[arg(long, value_parser = ["mp4", "source"], default_value = "mp4")]
    pub what: String,
    /// The largest rendition whose short side has at most so many pixels; the best one unless said otherwise
    #[arg(long, value_name = "PIXELS")]
    pub height: Option<u32>,
    /// Track of sound by name or language, or none; the first one unless said otherwise
    #[arg(long, value_name = "TRACK")]
    pub audio: Option<String>,
    /// p0 (for keys of admins), p1 or p2; p1 unless said otherwise
    #[arg(long, value_parser = ["p0", "p1", "p2"])]
    pub priority: Option<String>,
    /// Wait until it is sent, and print its size and SHA-256
    #[arg(long)]
    pub wait: bool,
    /// The server.
    #[command(flatten)]
    pub client: ClientArgs,
}

/// Flags of `jobs ls`: the jobs of which all that is named is true.
#[derive(Debug, clap::Args)]
pub struct JobsListArgs {
    /// Only jobs on this medium
    #[arg(long, value_name = "MEDIA_ID")]
    pub media: Option<String>,
    /// Only jobs of this kind, such as transcode
    #[arg(long)]
    pub kind: Option<String>,
    /// Only jobs of this priority
    #[arg(long, value_parser = ["p0", "p1", "p2"])]
    pub priority: Option<String>,
    /// Only jobs that failed with this code
    #[arg(long)]
    pub code: Option<String>,
    /// Only jobs that are paused
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    pub paused: Option<bool>,
    /// Only jobs of this owner, for operators
    #[arg(long)]
    pub owner: Option<String>,
    /// Which page.
    #[command(flatten)]
    pub page: PageArgs,
    /// The server.
    #[command(flatten)]
    pub client: ClientArgs,
}

/// Flags of `jobs watch`.
#[derive(Debug, clap::Args)]
pub struct JobsWatchArgs {
    /// Only jobs on this medium
    #[arg(long, value_name = "MEDIA_ID")]
    pub media: Option<String>,
    /// End once nothing goes on
    #[arg(long)]
    pub until_idle: bool,
    /// The server.
    #[command(flatten)]
    pub client: ClientArgs,
}

/// Which jobs.
#[derive(Debug, clap::Args)]
pub struct JobIdsArgs {
    /// Their ids
    #[arg(required = true, value_name = "JOB_ID")]
    pub job_ids: Vec<String>,
    /// The server.
    #[command(flatten)]
    pub client: ClientArgs,
}

/// What to do with workers.
#[derive(Debug, Subcommand)]
pub enum WorkersCommand {
    /// List the workers that run, and what each holds
    #[command(after_help = "Examples:
  streamgate workers ls
  streamgate workers ls --json                one line a worker: {\"worker\", \"slots\", \"held\", \"state\", \"speed\", ...}

HELD is how many parts a worker holds, of how many at once; PARTS names them as job/part. SPEED is how much longer what it makes
plays than making it took, over the last hour: at 2.0x an hour of output takes half an hour. A worker that did not show itself for
ten seconds is not listed. For keys of operators and admins.")]
    Ls {
        /// The server.
        #[command(flatten)]
        client: ClientArgs,
    },
    /// Show how busy the encoders are, and what they made in the last hour, by profile
    #[command(after_help = "Examples:
  streamgate workers load
  streamgate workers load --json

SPEED of a profile is what one slot makes of it: at 2.0x an hour of film takes half an hour. MEDIAN and P95 are how long jobs took from
their planning to their end. With the key of an owner, of its own jobs.")]
    Load {
        /// The server.
        #[command(flatten)]
        client: ClientArgs,
    },
    /// Have a worker take no new parts; it goes on with those that it holds
    #[command(after_help = "Example:
  streamgate workers pause 019ab001...         until `workers resume`, or until it is started anew

For keys of admins; who paused a worker is in the audit log.")]
    Pause(WorkerNameArgs),
    /// Have a worker that was paused or drained take parts again
    Resume(WorkerNameArgs),
    /// Have a worker take no new work, to stop it once it holds nothing
    #[command(after_help = "Example:
  streamgate workers drain 019ab001...
  streamgate workers ls                        once HELD is 0, stop its process: nothing is done twice

It does not end by itself, and takes parts again after `workers resume`.")]
    Drain(WorkerNameArgs),
}

/// Which worker.
#[derive(Debug, clap::Args)]
pub struct WorkerNameArgs {
    /// Its name, from `workers ls`
    #[arg(value_name = "WORKER")]
    pub worker: String,
    /// The server.
    #[command(flatten)]
    pub client: ClientArgs,
}

/// What to do with the audit log.
#[derive(Debug, Subcommand)]
pub enum AuditCommand {
    /// Print the log's lines as they were written
    #[command(after_help = "Examples:
  streamgate audit replay --since 1h
  streamgate audit replay --from 1000 --filter media.stored > stored.ndjson
  streamgate audit replay --filter '*.failed'
  streamgate audit replay --from 1000 --to 1999         one thousand records
  streamgate audit replay --media 068p... --limit 10    the first ten about a medium
  streamgate audit replay --follow --owner alice")]
    Replay(ReplayArgs),
    /// Fetch the whole log and check that every line continues the one before it
    #[command(
        after_help = "Prints the number and hash of the last line: note them elsewhere, a chain can't prove its own end.

Example:
  streamgate audit verify --json"
    )]
    Verify(ClientArgs),
}

/// Flags of `audit replay`.
#[derive(Debug, clap::Args)]
pub struct ReplayArgs {
    /// First record, from 1
    #[arg(long, value_name = "NUMBER")]
    pub from: Option<u64>,
    /// Last record: ends with it, also with --follow
    #[arg(long, value_name = "NUMBER", value_parser = clap::value_parser!(u64).range(1..))]
    pub to: Option<u64>,
    /// From this time on: RFC 3339, or an age such as 90s, 2h, 7d
    #[arg(long, value_name = "TIME", conflicts_with = "from")]
    pub since: Option<String>,
    /// Up to this time: RFC 3339, or an age
    #[arg(long, value_name = "TIME")]
    pub until: Option<String>,
    /// Only these records: a class (`media`), a type (`media.stored`) or a pattern (`*.failed`)
    #[arg(long, value_name = "FILTER")]
    pub filter: Option<String>,
    /// Only records about media of this owner
    #[arg(long, value_name = "OWNER")]
    pub owner: Option<String>,
    /// Only records about this medium
    #[arg(long, value_name = "MEDIA_ID")]
    pub media: Option<String>,
    /// Most records: ends after so many, also with --follow
    #[arg(long, value_name = "COUNT", value_parser = clap::value_parser!(u64).range(1..))]
    pub limit: Option<u64>,
    /// Stay, and print what comes
    #[arg(long)]
    pub follow: bool,
    /// The server.
    #[command(flatten)]
    pub client: ClientArgs,
}

/// What to do with dead letters.
#[derive(Debug, Subcommand)]
pub enum DeadCommand {
    /// List them, oldest first
    Ls {
        /// Most letters
        #[arg(long, value_name = "COUNT", default_value_t = 100)]
        limit: usize,
        /// The broker.
        #[command(flatten)]
        server: ServerArgs,
    },
    /// Show one with its payload
    Show {
        /// Its sequence, from `dead ls`
        sequence: u64,
        /// The broker.
        #[command(flatten)]
        server: ServerArgs,
    },
    /// Give some a second chance
    #[command(after_help = "Examples:
  streamgate dead redrive 17 18
  streamgate dead redrive --all --stage transcode

Nothing is published a second time: a medium that was rejected or failed begins a new attempt, a failed encode becomes a new
job with the next number, and a part that was put aside goes back to its queue. What was done since is left as it is. The
letter stays in the stream for the record.")]
    Redrive {
        /// Their sequences, from `dead ls`
        #[arg(required_unless_present = "all", conflicts_with = "all")]
        sequences: Vec<u64>,
        /// All that had no second chance yet
        #[arg(long)]
        all: bool,
        /// With --all: only those of this stage
        #[arg(long, value_name = "STAGE", requires = "all")]
        stage: Option<String>,
        /// The broker.
        #[command(flatten)]
        server: ServerArgs,
    },
    /// Say that nothing is to be done about some
    #[command(after_help = "Examples:
  streamgate dead discard 17 18

They are kept and can be shown, but wait for nobody any more: no alert counts them, and `redrive --all` leaves them out.")]
    Discard {
        /// Their sequences, from `dead ls`
        #[arg(required = true)]
        sequences: Vec<u64>,
        /// The broker.
        #[command(flatten)]
        server: ServerArgs,
    },
}

/// What to do with the broker.
#[derive(Debug, Subcommand)]
pub enum NatsCommand {
    /// Print what `apply` would change; ends with 1 when there is something
    Diff(ServerArgs),
    /// Create and update streams, buckets and durables; data is never removed
    #[command(after_help = "Example:
  streamgate nats apply --nats-url nats://broker:4222 --replicas 3")]
    Apply(ServerArgs),
    /// Make the keys of the roles' users for a broker of your own; those that are there stay
    #[command(
        after_help = "Writes four files: `seeds` for --nats-seed-file, `reader-seed` beside it, `system-seed` for the operator, and `nats.env` with the
variables that nats/server.conf and nats/node.conf name."
    )]
    Keys {
        /// Folder for the files
        folder: PathBuf,
        /// Give the role another key, so that the old one is let in no more once the servers were started again
        #[arg(long, value_name = "ROLE")]
        renew: Option<CredentialRole>,
    },
    /// Print what a program needs to follow events on the broker, as variables of a shell
    #[command(after_help = "Examples:
  streamgate nats credentials reader > reader.env
  streamgate nats credentials reader --renew

The seed is a secret: who has it sees what happens to the media of all owners. With --renew the `up` of the data folder takes another
one at once, and connections that were made with the old one end. On a broker of your own that is `streamgate nats keys FOLDER --renew
reader`. The page /docs/programs of the server says how programs use it.")]
    Credentials {
        /// For which role
        role: CredentialRole,
        /// Make another seed in place of the one there is
        #[arg(long)]
        renew: bool,
        /// The broker.
        #[command(flatten)]
        server: ServerArgs,
    },
}

/// A role that programs of others may have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum CredentialRole {
    /// Follows events, the audit log, views and progress of all owners
    Reader,
}

impl CredentialRole {
    /// The role on the broker.
    pub const fn bus_role(self) -> nats::Role {
        match self {
            Self::Reader => nats::Role::Reader,
        }
    }
}

/// What to do with what belongs to somebody.
#[derive(Debug, Subcommand)]
pub enum OwnerCommand {
    /// List what contract accounts own under a name without a chain
    Ls(ServerArgs),
    /// Give the media and API keys of an owner to another one
    #[command(after_help = "Example:
  streamgate owner transfer eip155:0x5aae... eip155:1:0x5aae...

A contract account is its own owner on each chain, eip155:<chain>:0x..., since the same address elsewhere may be somebody else's.
What it owned before under eip155:0x... stays there until somebody says to which chain it belongs: nothing is guessed.")]
    Transfer {
        /// The owner until now, as media show it
        from: String,
        /// The owner from now on
        to: String,
        /// The broker.
        #[command(flatten)]
        server: ServerArgs,
    },
    /// Remove an owner with all that is its own: media, keys, sessions, webhooks, schedules, values of the cache
    #[command(after_help = "Example:
  streamgate owner rm eip155:0x5aae... --yes

Nothing of it can be restored; the keeper purges what is stored of the media within minutes. Events and the audit log stay for as long as
they keep anything. A wallet can sign in again, and owns nothing then.")]
    Rm {
        /// The owner, as media show it
        owner: String,
        /// Do it: without this nothing is removed
        #[arg(long)]
        yes: bool,
        /// The broker.
        #[command(flatten)]
        server: ServerArgs,
    },
}

/// What to do with the object store.
#[derive(Debug, Subcommand)]
pub enum StoreCommand {
    /// Say that the configured store is this installation's, whatever is in it
    #[command(after_help = "Examples:
  streamgate store adopt --data-dir /var/lib/streamgate
  streamgate store adopt --nats-url nats://broker:4222 --store-url s3://media

A store carries a marker with its id; without it nothing is stored, served or deleted, for it may not be mounted. The first start
marks a new store, and one from before that has a known object in it. In every other case look first: what the broker knows and
the store does not have counts as lost once it is adopted. A marker that is there stays, and this installation takes its id.")]
    Adopt(ServerArgs),
}

/// What to do with the published schemas.
#[derive(Debug, Subcommand)]
pub enum SchemasCommand {
    /// Compare the files with the types; prints the difference and ends with 1 when there is one
    Check {
        /// Folder with json/, golden/ and asyncapi.json
        #[arg(long, value_name = "FOLDER", default_value = "schemas")]
        dir: PathBuf,
    },
    /// Write the files; golden bytes that exist are history and stay
    Write {
        /// Folder with json/, golden/ and asyncapi.json
        #[arg(long, value_name = "FOLDER", default_value = "schemas")]
        dir: PathBuf,
    },
}
