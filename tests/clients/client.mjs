// Uploads a file over tus 1.0, waits until it is ready and prints the URL of its HLS playlist.
//
//     export STREAMGATE_API_KEY=sg_...         # or --api-key
//     node tests/clients/client.mjs film.mp4 --url http://127.0.0.1:8080
//
// Needs Node.js 18 and nothing else. The URL is the only line on stdout; progress and errors go to stderr.
import { open } from 'node:fs/promises';
import { basename } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { parseArgs } from 'node:util';

const PIECE_BYTES = 8 * 1024 * 1024;
const FAILED = ['media.rejected', 'media.removed', 'job.failed', 'job.cancelled'];
const url = { type: 'string', default: process.env.STREAMGATE_URL ?? 'http://127.0.0.1:8080' };
const key = { type: 'string', default: process.env.STREAMGATE_API_KEY ?? '' };
const { values, positionals: [file = ''] } = parseArgs({ allowPositionals: true, options: { url, 'api-key': key } });

class Refused extends Error {} // The server refused a request, or the file could not be prepared.

async function send(method, path, headers = {}, body = undefined) {
  headers = { authorization: `Bearer ${values['api-key']}`, ...headers };
  const answer = await fetch(new URL(path, values.url), { method, headers, body });
  if (answer.ok) return answer;
  const problem = await answer.json().catch(() => ({ title: `${answer.status}` })); // A problem document (RFC 9457).
  throw new Refused([problem.title, problem.detail, problem.code].filter(Boolean).join(': '));
}

async function upload() {
  const source = await open(file);
  const [{ size }, tus] = [await source.stat(), { 'tus-resumable': '1.0.0' }];
  const metadata = `filename ${Buffer.from(basename(file)).toString('base64')}`;
  const made = await send('POST', '/v1/uploads', { ...tus, 'upload-length': size, 'upload-metadata': metadata });
  // Only the path of the answer is used: the key goes to no other server than the one it was given for.
  const { pathname } = new URL(made.headers.get('location'), values.url);
  const piece = Buffer.alloc(PIECE_BYTES);
  for (let offset = 0; offset < size; ) { // After a cut, HEAD says from which offset on to continue.
    const { bytesRead } = await source.read(piece, 0, PIECE_BYTES, offset);
    if (bytesRead === 0) throw new Error('the file became shorter');
    const headers = { ...tus, 'upload-offset': offset, 'content-type': 'application/offset+octet-stream' };
    const kept = await send('PATCH', pathname, headers, piece.subarray(0, bytesRead));
    offset = Number(kept.headers.get('upload-offset'));
  }
  return made.headers.get('streamgate-media-id');
}

async function wait(mediaId) {
  for (let resume = {}; ; await sleep(1000)) { // The server ends a stream after an hour.
    // It begins with the medium's first event, or behind the one that `resume` names.
    const stream = await send('GET', `/v1/events?media=${mediaId}&since=0-0`, resume);
    let text = '';
    try {
      for await (const piece of stream.body.pipeThrough(new TextDecoderStream())) {
        const blocks = (text + piece).split('\n\n'); // An empty line ends an event.
        text = blocks.pop();
        for (const block of blocks) {
          const { id, event, data } = Object.fromEntries(block.split('\n').map((line) => line.split(/: ?(.*)/, 2)));
          if (!data) continue; // A comment, or `retry`.
          if (id) resume = { 'last-event-id': id };
          const { percent, data: payload } = JSON.parse(data);
          console.error(event, percent === undefined ? '' : `${percent} %`);
          if (event === 'media.ready') return;
          if (FAILED.includes(event)) throw new Refused(`${event}: ${payload.code}: ${payload.detail}`);
        }
      }
    } catch (error) {
      if (error instanceof Refused) throw error; // Anything else: the connection broke.
    }
  }
}

try {
  const mediaId = await upload();
  await wait(mediaId);
  const playback = await (await send('POST', `/v1/media/${mediaId}/playback`)).json();
  console.log(new URL(playback.hls_url ?? playback.poster_url, values.url).href); // A still picture is its poster.
} catch (error) {
  console.error(`client.mjs: ${error.message} ${error.cause?.message ?? ''}`.trim());
  process.exitCode = 1;
}
