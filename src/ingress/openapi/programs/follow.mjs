// Follows a job to its end: node follow.mjs JOB_ID
import { existsSync, readFileSync, writeFileSync } from 'node:fs';
import { decode } from '@msgpack/msgpack';
import { DeliverPolicy, jetstream } from '@nats-io/jetstream';
import { connect, nkeyAuthenticator } from '@nats-io/transport-node';

const { READER_URL, READER_SEED, READER_INBOX, READER_CA } = process.env;
const [job, ends] = [process.argv[2], ['job.succeeded', 'job.failed', 'job.cancelled', 'job.dead']];
const position = `${job}.position`; // A sequence of the stream.
const last = existsSync(position) ? Number(readFileSync(position, 'utf8')) : 0;
const broker = await connect({
  servers: READER_URL.split(','), authenticator: nkeyAuthenticator(new TextEncoder().encode(READER_SEED)),
  inboxPrefix: READER_INBOX, maxReconnectAttempts: -1,
  tls: READER_CA ? { caFile: READER_CA } : undefined, // Absent: one that this machine trusts, or no TLS.
});
const stream = jetstream(broker, { apiPrefix: 'reader.API' });
const { state } = await (await stream.streams.get('EVENTS')).info();
if (last > 0 && last < state.first_seq - 1) console.error(`lost: what is between ${last} and ${state.first_seq}`);
// An ordered consumer: it begins again by itself behind what was read. With `filter_subjects` it needs no right to a name.
const events = await stream.consumers.get('EVENTS', {
  filter_subjects: [`evt.job.*.${job}`], deliver_policy: DeliverPolicy.StartSequence, opt_start_seq: last + 1,
});
for await (const message of await events.consume()) {
  const kind = message.headers.get('ce-type');
  console.log(message.seq, kind, JSON.stringify(decode(message.data)));
  writeFileSync(position, String(message.seq));
  if (ends.includes(kind)) break;
}
await broker.close();
