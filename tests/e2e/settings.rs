//! Settings that can't work are refused before anything starts, wherever they come from, with their name, their value and what is right.

use crate::cli::{program, run};

/// Values that would pass a parser and fail each upload, request or connection later: what a file says, and what the refusal names.
const IN_FILES: &[(&str, &[&str])] = &[
    // FFmpeg and its child.
    (
        "[transcode.profiles.mine]\npreset = \"veryslow\"",
        &["line 2", "transcode.profiles.mine.preset", "veryslow", "`ultrafast`", "`slow`"],
    ),
    ("[transcode.profiles.mine]\npreset = \"\"", &["transcode.profiles.mine.preset", "`veryfast`"]),
    (
        "[transcode.profiles.mine]\ncrf = 0",
        &["transcode.profiles.mine.crf", "it is 0", "at least 1", "at most 51"],
    ),
    ("[transcode.profiles.mine]\ncrf = 52", &["transcode.profiles.mine.crf", "it is 52", "at most 51"]),
    (
        "[transcode.profiles.mine]\naudio_rate_bps = 0",
        &["mine.audio_rate_bps", "it is 0", "at least 16000", "at most 512000"],
    ),
    ("[transcode.profiles.mine]\nframe_rate_max = 0", &["mine.frame_rate_max", "it is 0", "at least 1"]),
    (
        "[transcode.profiles.mine]\nshort_side_pixels_max = 15",
        &["mine.short_side_pixels_max", "it is 15", "at least 16"],
    ),
    (
        "[transcode.profiles.mine]\nlong_side_pixels_max = 16385",
        &["mine.long_side_pixels_max", "it is 16385", "at most 16384"],
    ),
    ("[transcode.profiles.mine]\nloudness_lufs = 0", &["mine.loudness_lufs", "it is 0", "at most -5"]),
    ("[transcode.profiles.mine]\ngop = \"0s\"", &["mine.gop", "it is \"0s\"", "at least \"1ms\""]),
    ("[transcode.profiles.mine]\nsegment_gops = 0", &["mine.segment_gops", "it is 0", "at least 1"]),
    (
        "[transcode.profiles.mine]\ngop = \"1h\"\nsegment_gops = 2",
        &["mine.segment_gops", "7200000 ms", "50 to 3600000 ms"],
    ),
    (
        "[[transcode.profiles.mine.steps]]\nshort_side_pixels = 360\nrate_bps = 0",
        &["mine.steps[0].rate_bps", "it is 0", "at least 1000"],
    ),
    (
        "[transcode.profiles.mine]\nsteps = [{ short_side_pixels = 360, rate_bps = 1000 }, { short_side_pixels = 720, rate_bps = 2000 }]",
        &["mine.steps", "720 stands below 360", "largest comes first"],
    ),
    (
        "[transcode.profiles.mine]\nframe_rate_max = 1000\nsingle_part_segments_max = 1000000",
        &["transcode.profiles.mine", "at 240 frames per second", "frame_count", "single_part_segments_max"],
    ),
    (
        "[transcode]\nclaim_fresh = \"2s\"",
        &["transcode.claim_fresh", "it is \"2s\"", "more than transcode.renew_interval"],
    ),
    (
        "[media]\nchild_memory_max = \"1MiB\"",
        &["media.child_memory_max", "it is \"1MiB\"", "at least \"64MiB\""],
    ),
    ("[media]\nthreads_max = 1", &["media.threads_max", "it is 1", "at least 24"]),
    (
        "[media.limits]\nprobe_size_max = \"8B\"",
        &["media.limits.probe_size_max", "it is \"8B\"", "at least \"32B\""],
    ),
    (
        "[media.limits]\nstreams_max = 4294967295",
        &["media.limits.streams_max", "it is 4294967295", "at most 2147483647"],
    ),
    // The broker.
    (
        "[broker]\nurls = [\"nats://a:4222\", \"http://me:secret@b:4222\"]",
        &["broker.urls[1]", "http://<hidden>@b:4222", "nats://broker:4222"],
    ),
    ("[broker]\nurls = [\"\"]", &["broker.urls[0]", "\"\"", "nats://broker:4222"]),
    ("[broker]\nurls = [\"nats://\"]", &["broker.urls[0]", "nats://broker:4222"]),
    (
        "[telemetry.tracing]\nendpoint = \"collector:4317\"",
        &["telemetry.tracing.endpoint", "collector:4317", "http://127.0.0.1:4318"],
    ),
    (
        "[telemetry.tracing]\nendpoint = \"http://me:secret@collector\"",
        &["telemetry.tracing.endpoint", "<hidden>", "headers_file"],
    ),
    (
        "[telemetry.tracing]\nreads_per_million = 1000001",
        &["telemetry.tracing.reads_per_million", "it is 1000001", "at most 1000000"],
    ),
    ("[broker]\nreplicas = 2", &["broker.replicas", "it is 2", "1, 3 or 5"]),
    (
        "[broker.listener]\nlisten = \"0.0.0.0:4222\"",
        &["broker.listener.listen", "0.0.0.0:4222", "unencrypted", "certificate_file", "127.0.0.1"],
    ),
    (
        "[broker.listener]\nlisten = \"[::]:4222\"\ncertificate_file = \"c.pem\"",
        &["broker.listener.key_file", "private key"],
    ),
    (
        "[broker]\nurls = [\"nats://b\"]\n[broker.listener]\nlisten = \"127.0.0.1:4222\"",
        &["broker.listener.listen", "broker.urls"],
    ),
    (
        "[broker.listener]\npublic_url = \"https://media.example.org\"",
        &["broker.listener.public_url", "tls://broker:4222"],
    ),
    (
        "[broker.listener]\nconnections_max = 1000",
        &["broker.listener.connections_max", "it is 1000", "at most 512"],
    ),
    ("[capacity]\nretention = \"0d\"", &["capacity.retention", "it is \"0s\"", "at least \"1d\""]),
    ("[capacity]\nretention = \"40000d\"", &["capacity.retention", "it is \"40000d\"", "at most \"36500d\""]),
    ("[capacity]\nuploads_per_day = 0", &["capacity.uploads_per_day", "it is 0", "at least 1"]),
    ("[upload.consume]\nattempts_max = 0", &["upload.consume.attempts_max", "it is 0", "at least 1"]),
    ("[transcode.parts]\nslots = 0", &["transcode.parts.slots", "it is 0", "at least 1"]),
    ("[index.consume]\npoll = \"0s\"", &["index.consume.poll", "it is \"0s\"", "at least \"1ms\""]),
    ("[audit]\nline_size_max = \"2MiB\"", &["audit.line_size_max", "it is \"2MiB\"", "at most \"1008KiB\""]),
    (
        "[index]\nanswer_size_max = \"1MiB\"",
        &["index.answer_size_max", "it is \"1MiB\"", "at most \"768KiB\""],
    ),
    (
        "[ingress.idempotency]\nkeep = \"0s\"",
        &["ingress.idempotency.keep", "it is \"0s\"", "at least \"1s\""],
    ),
    // The store and HTTP.
    (
        "[store]\nurl = \"ftp://me:secret@host/x\"",
        &["store.url", "ftp://<hidden>@host/x", "s3://bucket/prefix"],
    ),
    ("[store]\nurl = \"file://data/store\"", &["store.url", "file://data/store", "file:///folder"]),
    ("[store]\nurl = \"data/store\"", &["store.url", "data/store", "file:///folder"]),
    ("[store]\nurl = \"s3:///prefix\"", &["store.url", "s3:///prefix", "bucket"]),
    (
        "[store]\nurl = \"s3://media\"\n[store.options]\nsecret = \"secret\"",
        &["store.options.secret", "no such option"],
    ),
    ("[store]\npart_size_min = \"1MiB\"", &["store.part_size_min", "it is \"1MiB\"", "at least \"5MiB\""]),
    (
        "[ingress]\npublic_url = \"https://\"",
        &["ingress.public_url", "\"https://\"", "https://media.example.org"],
    ),
    (
        "[ingress]\npublic_url = \"https://h/?a=b\"",
        &["ingress.public_url", "has a query", "https://media.example.org"],
    ),
    (
        "[ingress.uploads]\nsize_max = \"0B\"",
        &["ingress.uploads.size_max", "it is \"0B\"", "at least \"1B\""],
    ),
    (
        "[ingress.documents]\nentries_max = 0\nsize_max = \"1MiB\"\nage = \"1s\"",
        &["ingress.documents.entries_max", "it is 0", "at least 1"],
    ),
    (
        "[ingress.limit.rates.upload]\ncapacity = 0\nrefill_per_s = 1",
        &["ingress.limit.rates.upload.capacity", "it is 0", "at least 1"],
    ),
    ("[ingress.capacity]\npercent_max = 101", &["ingress.capacity.percent_max", "it is 101", "at most 100"]),
    (
        "[ingress.client]\nipv6_prefix_bits = 129",
        &["ingress.client.ipv6_prefix_bits", "it is 129", "at most 128"],
    ),
    ("[ingress]\ngrace = \"40000d\"", &["ingress.grace", "it is \"40000d\"", "at most \"36500d\""]),
];

/// The same by the environment.
const IN_VARIABLES: &[(&str, &str, &[&str])] = &[
    (
        "STREAMGATE_NATS_URL",
        "nats://a:4222,ws://b:4222",
        &["broker.urls[1]", "ws://b:4222", "nats://broker:4222"],
    ),
    ("STREAMGATE_NATS_URL", "", &["broker.urls[0]", "nats://broker:4222"]),
    ("STREAMGATE_REPLICAS", "4", &["broker.replicas", "it is 4", "1, 3 or 5"]),
    ("STREAMGATE_STORE_URL", "http://bucket", &["store.url", "http://bucket", "s3://bucket/prefix"]),
    (
        "STREAMGATE_PUBLIC_URL",
        "media.example.org",
        &["ingress.public_url", "media.example.org", "https://media.example.org"],
    ),
    ("STREAMGATE_PROFILE", "veryslow", &["transcode.profile", "veryslow", "default, tiny"]),
    ("STREAMGATE_ALLOW_ORIGIN", "example.org", &["ingress.manners.origins", "example.org"]),
];

#[tokio::test]
async fn a_value_that_can_not_work_is_refused_at_the_start() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("s.toml");
    for (text, named) in IN_FILES {
        std::fs::write(&file, text).unwrap();
        let said = run(program(folder.path(), &["config", "--config", "s.toml"])).await;
        assert_eq!((said.status, said.out.as_str()), (64, ""), "{text}: {said:?}");
        assert!(named.iter().all(|name| said.err.contains(name)), "{text}: {named:?} in {}", said.err);
        assert!(!said.err.contains("secret@") && !said.err.contains("= \"secret"), "{text}: {}", said.err);
    }
    for (name, value, named) in IN_VARIABLES {
        let mut command = program(folder.path(), &["config"]);
        command.env(name, value);
        let said = run(command).await;
        assert_eq!((said.status, said.out.as_str()), (64, ""), "{name}={value}: {said:?}");
        assert!(
            named.iter().all(|name| said.err.contains(name)),
            "{name}={value}: {named:?} in {}",
            said.err
        );
    }
}

#[tokio::test]
async fn a_variable_that_nothing_reads_is_named_and_refuses_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let with_strangers = |args: &[&str]| {
        let mut command = program(folder.path(), args);
        command
            .env("STREAMGATE_PRESET", "secret")
            .env("STREAMGATE_SERVICE_HOST", "10.0.0.1")
            .env("STREAMGATE_LISTEN", "127.0.0.1:0");
        command
    };
    let names = "STREAMGATE_PRESET, STREAMGATE_SERVICE_HOST;";
    // Said of settings whatever is logged.
    let said = run(with_strangers(&["config", "--log", "error"])).await;
    assert_eq!(said.status, 0, "{said:?}");
    assert!(said.err.contains(names) && said.out.contains("listen = \"127.0.0.1:0\""), "{said:?}");
    // A server logs it. This one has no broker and goes no further.
    for form in ["text", "json"] {
        let said = run(with_strangers(&["keeper", "--log-format", form])).await;
        assert!(
            said.err.contains(names) && said.err.contains("WARN") && !said.err.contains("secret"),
            "{said:?}"
        );
    }
    let quiet = run(program(folder.path(), &["config"])).await;
    assert_eq!((quiet.status, quiet.err.as_str()), (0, ""), "{quiet:?}");
}
