//! One visit of each kind of client.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use data_encoding::BASE64;
use rand::{RngExt, rngs::StdRng};
use reqwest::{Method, Url};
use serde_json::{Value, json};
use streamgate::cli::{lines::BodyLines, sse::SseParser};

use crate::{
    chain::Wallet,
    clips::Clip,
    gateway::{Gateway, Outcome},
    scene::{Scene, Viewer},
};

/// Segments that a player fetches of one session.
const SEGMENTS: usize = 3;
/// How long a viewer goes on with an access token, which is good for ten minutes.
const TOKEN_AGE_MAX: Duration = Duration::from_secs(300);
/// Of so many uploads one goes by tus, in two pieces.
const TUS_OF: u32 = 4;

/// Brings a file, and lets the viewers play what comes of it.
pub(crate) async fn upload(scene: &Scene, mut random: StdRng) {
    let clip = scene.clips.choose(scene.bad_percent, &mut random);
    let asked_at = Instant::now();
    let outcome = if random.random_range(0..TUS_OF) == 0 {
        upload_by_tus(&scene.gateway, clip).await
    } else {
        let request = scene.gateway.request(Method::POST, "/v1/media");
        let request = request
            .header("content-type", "application/octet-stream")
            .header("content-disposition", format!("attachment; filename=\"{}\"", clip.name))
            .body(clip.bytes.clone());
        scene.gateway.ask("upload", request).await
    };
    let media_id = match outcome {
        Outcome::Done(headers, _) => headers["streamgate-media-id"].to_str().unwrap().to_owned(),
        Outcome::Refused => return scene.ledger.refuse(),
        Outcome::Unknown => return scene.ledger.miss_answer(),
    };
    scene.ledger.accept(&media_id, asked_at);
    let rule = json!({ "kind": "allow_list", "addresses": scene.viewer_addresses });
    let gate = scene.gateway.request(Method::PUT, &format!("/v1/media/{media_id}/gate"));
    scene.gateway.ask("set gate", gate.header("if-match", "*").json(&rule)).await;
}

/// Opens an upload and brings its bytes in two requests; answers what came of the first one, which names the medium.
async fn upload_by_tus(gateway: &Gateway, clip: &Clip) -> Outcome {
    let open = gateway.request(Method::POST, "/v1/uploads").header("tus-resumable", "1.0.0");
    let open = open
        .header("upload-length", clip.bytes.len())
        .header("upload-metadata", format!("filename {}", BASE64.encode(clip.name.as_bytes())));
    let opened = gateway.ask("tus: open", open).await;
    let Outcome::Done(headers, _) = &opened else { return opened };
    let place = Url::parse(headers["location"].to_str().unwrap()).unwrap().path().to_owned();
    let (first, second) = clip.bytes.split_at(clip.bytes.len() / 2);
    for (offset, piece) in [(0, first), (first.len(), second)] {
        let request = gateway.request(Method::PATCH, &place).header("tus-resumable", "1.0.0");
        let request = request
            .header("content-type", "application/offset+octet-stream")
            .header("upload-offset", offset)
            .body(piece.to_vec());
        if gateway.ask("tus: append", request).await.done().is_none() {
            break;
        }
    }
    opened
}

/// Plays the beginning of a medium as one of the viewers.
pub(crate) async fn play(scene: &Scene, mut random: StdRng) {
    let Some(media_id) = scene.ledger.any_ready(&mut random) else { return };
    // Who plays already does not play twice.
    let Some(mut viewer) = scene.viewers.lock().pop_front() else {
        return scene.gateway.tally.count_left_out("play");
    };
    play_as(scene, &mut viewer, &media_id, &mut random).await;
    scene.viewers.lock().push_back(viewer);
}

async fn play_as(scene: &Scene, viewer: &mut Viewer, media_id: &str, random: &mut StdRng) -> Option<()> {
    let gateway = &scene.gateway;
    if viewer.session.as_ref().is_none_or(|(_, since)| since.elapsed() > TOKEN_AGE_MAX) {
        viewer.session = Some((sign_in_as(gateway, &viewer.wallet).await?, Instant::now()));
    }
    let (token, _) = viewer.session.as_ref()?;
    let open = gateway.request_as(token, Method::POST, &format!("/v1/media/{media_id}/playback"));
    let session = gateway.ask("play: open", open).await.json();
    // Whatever hindered it, a new sign-in may help.
    let Some(session) = session else {
        viewer.session = None;
        return None;
    };
    let master = Url::parse(&gateway.url).unwrap().join(session["hls_url"].as_str()?).unwrap();
    let variants = read_playlist(gateway, &master).await?;
    let playlist = variants.get(random.random_range(0..variants.len().max(1)))?;
    for segment in read_playlist(gateway, playlist).await?.iter().take(SEGMENTS) {
        gateway.ask("play: segment", gateway.http.get(segment.clone())).await.done()?;
    }
    Some(())
}

/// The addresses that a playlist names.
async fn read_playlist(gateway: &Gateway, address: &Url) -> Option<Vec<Url>> {
    let (_, body) = gateway.ask("play: playlist", gateway.http.get(address.clone())).await.done()?;
    let text = String::from_utf8_lossy(&body);
    let lines = text.lines().filter(|line| !line.is_empty() && !line.starts_with('#'));
    Some(lines.filter_map(|line| address.join(line).ok()).collect())
}

/// Asks for something that is there.
pub(crate) async fn query(scene: &Scene, mut random: StdRng) {
    let gateway = &scene.gateway;
    let read = |path: &str| gateway.request(Method::GET, path);
    match random.random_range(0..5) {
        0 => drop(gateway.ask("query: list", read("/v1/media?limit=50")).await),
        1 => drop(gateway.ask("query: search", read("/v1/media/search?q=clip&limit=20")).await),
        2 => drop(gateway.ask("query: jobs", read("/v1/jobs?limit=50")).await),
        3 => drop(gateway.ask("query: job counts", read("/v1/jobs/counts")).await),
        _ => {
            let Some(media_id) = scene.ledger.any_ready(&mut random) else { return };
            gateway.ask("query: document", read(&format!("/v1/media/{media_id}"))).await;
        }
    }
}

/// A wallet signs in, and is signed in from then on.
pub(crate) async fn sign_in(scene: &Scene, mut random: StdRng) {
    let wallet = Wallet::new(random.random_range(1..=200));
    sign_in_as(&scene.gateway, &wallet).await;
}

/// Signs in, which takes two requests; answers the access token.
async fn sign_in_as(gateway: &Gateway, wallet: &Wallet) -> Option<String> {
    let started = Instant::now();
    let outcome = match wallet.answer_challenge(&gateway.http, &gateway.url).await {
        Ok(Ok(login)) => match login.send().await {
            Ok(answer) => gateway.read("sign in", answer).await,
            Err(error) => gateway.count_lost("sign in", &error),
        },
        Ok(Err(refused)) => gateway.read("sign in", refused).await,
        Err(error) => gateway.count_lost("sign in", &error),
    };
    let tokens = outcome.json()?;
    gateway.tally.count("sign in", started.elapsed());
    tokens["access_token"].as_str().map(str::to_owned)
}

/// Follows events until the run ends, and goes on behind the last one when the stream ends; `random` is there for the one who cancels jobs.
pub(crate) async fn follow(scene: Arc<Scene>, mut random: Option<StdRng>) {
    let mut since = "0-0".to_owned();
    loop {
        let request = scene.gateway.http.get(format!("{}/v1/events?since={since}", scene.gateway.url));
        match request.bearer_auth(&scene.gateway.key).send().await {
            Ok(answer) if answer.status().is_success() => {
                read_events(&scene, answer, (&mut since, &mut random)).await;
            }
            Ok(answer) => drop(scene.gateway.read("follow", answer).await),
            Err(error) => drop(scene.gateway.count_lost("follow", &error)),
        }
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
}

async fn read_events(
    scene: &Arc<Scene>,
    answer: reqwest::Response,
    (since, random): (&mut String, &mut Option<StdRng>),
) {
    let (mut lines, mut parser) = (BodyLines::new(answer.bytes_stream()), SseParser::default());
    while let Ok(Some(line)) = lines.next_line().await {
        let Some(event) = parser.push_line(&String::from_utf8_lossy(&line)) else { continue };
        if event.name == "lagged" {
            scene.gateway.tally.count_error("follow", "lagged".into());
        }
        let data: Value = serde_json::from_str(&event.data).unwrap();
        take_event(scene, &data);
        if event.name == "job.queued"
            && let Some(random) = random
            && random.random_range(0..100) < scene.cancelled_percent
        {
            tokio::spawn(cancel(Arc::clone(scene), data["job_id"].as_str().unwrap().to_owned()));
        }
        if let Some(id) = event.id {
            *since = id;
        }
    }
    scene.gateway.tally.count_error("follow", "the stream ended".into());
}

/// Counts how long an event was on its way.
fn take_event(scene: &Scene, data: &Value) {
    // What the stream says of itself has no time, and progress is no event.
    let Some(time) = data["time"].as_str() else { return };
    let time: jiff::Timestamp = time.parse().unwrap();
    let late = jiff::Timestamp::now().duration_since(time);
    scene.gateway.tally.count("event until follower", late.try_into().unwrap_or_default());
    if let Some(media_id) = data["media_id"].as_str() {
        scene.ledger.take_event(data["type"].as_str().unwrap(), media_id);
    }
}

/// Cancels a job, unless it has ended meanwhile.
async fn cancel(scene: Arc<Scene>, job_id: String) {
    let _serving = scene.stillness.read().await;
    let request = scene.gateway.request(Method::POST, &format!("/v1/jobs/{job_id}/cancel"));
    scene.gateway.ask("cancel job", request).await;
}
