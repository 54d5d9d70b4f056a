# Follows a job to its end: python3 follow.py JOB_ID
import asyncio, os, pathlib, ssl, sys
import msgpack, nats
from nats.js.api import AckPolicy, ConsumerConfig, DeliverPolicy

ENDS = {"job.succeeded", "job.failed", "job.cancelled", "job.dead"}
job_id, position = sys.argv[1], pathlib.Path(f"{sys.argv[1]}.position")

async def follow():
    authority = os.environ.get("READER_CA")  # Absent: the certificate is one that this machine trusts, or there is no TLS.
    tls = ssl.create_default_context(cafile=authority) if authority else None
    broker = await nats.connect(os.environ["READER_URL"], nkeys_seed_str=os.environ["READER_SEED"], tls=tls,
                                inbox_prefix=os.environ["READER_INBOX"], max_reconnect_attempts=-1)
    stream = broker.jetstream(prefix="reader.API")
    while True:
        last = int(position.read_text()) if position.exists() else 0  # A sequence of the stream.
        try:
            state = (await stream.stream_info("EVENTS")).state
            if 0 < last < state.first_seq - 1:
                print(f"lost: what is between {last} and {state.first_seq}", file=sys.stderr)
            # Without a name, and behind what was read.
            made = await stream.add_consumer("EVENTS", ConsumerConfig(
                filter_subjects=[f"evt.job.*.{job_id}"], deliver_policy=DeliverPolicy.BY_START_SEQUENCE,
                opt_start_seq=last + 1, ack_policy=AckPolicy.NONE, inactive_threshold=10))
            events = await stream.pull_subscribe_bind(made.name, "EVENTS")
            while await events.consumer_info():  # An error when the broker has forgotten it.
                try:
                    messages = await events.fetch(100, timeout=10)
                except nats.errors.TimeoutError:
                    continue  # Nothing new.
                for message in messages:
                    kind, payload = message.headers["ce-type"], msgpack.unpackb(message.data)
                    print(message.metadata.sequence.stream, kind, payload, flush=True)
                    position.write_text(str(message.metadata.sequence.stream))
                    if kind in ENDS:
                        return await broker.close()
        except (nats.errors.Error, OSError) as error:  # The broker is away: the connection is made again by itself.
            print(f"again in a second: {error!r}", file=sys.stderr)
            await asyncio.sleep(1)

asyncio.run(follow())
