"""Uploads a file, waits for it, lists it and opens its playback, by the client that openapi-python-client makes of the description.

python3 client.py URL KEY FILE; the client is the package `streamgate_client`. Prints the address of the playlist.
"""
import sys
import time

from streamgate_client import AuthenticatedClient
from streamgate_client.api.events import follow_events
from streamgate_client.api.gate import set_gate
from streamgate_client.api.metadata import list_media, read_media
from streamgate_client.api.streaming import open_playback
from streamgate_client.api.upload import create_media
from streamgate_client.models import MediaCreated, MediaDocument, MediaItemPage, MediaStatus, Playback, Problem, RulePublic, RulePublicKind
from streamgate_client.types import File

PAUSE_S = 0.2
WAIT_S = 120


def expect(kind, answer):
    assert isinstance(answer, kind), answer
    return answer


url, key, path = sys.argv[1:]
client = AuthenticatedClient(base_url=url, token=key)
assert callable(follow_events.sync_detailed)

refused = create_media.sync(client=AuthenticatedClient(base_url=url, token="sg_wrong"), body=File(payload=open(path, "rb")))
assert expect(Problem, refused).code == "unauthorized", refused

made = expect(MediaCreated, create_media.sync(client=client, body=File(payload=open(path, "rb")), upload_metadata="title R2VuZXJhdGVk"))
media_id = made.media_id
deadline = time.monotonic() + WAIT_S
while (medium := expect(MediaDocument, read_media.sync(media_id, client=client))).status != MediaStatus.READY:
    assert medium.status in (MediaStatus.UPLOADING, MediaStatus.STORED, MediaStatus.PLAYABLE), medium
    assert time.monotonic() < deadline, medium
    time.sleep(PAUSE_S)
assert (medium.title, medium.source.size_bytes) == ("Generated", len(open(path, "rb").read())), medium

page = expect(MediaItemPage, list_media.sync(client=client, status=MediaStatus.READY))
assert media_id in [item.media_id for item in page.items], page
gated = set_gate.sync_detailed(media_id, client=client, body=RulePublic(kind=RulePublicKind.PUBLIC), if_match="*")
assert gated.status_code == 200, gated
playback = expect(Playback, open_playback.sync(media_id, client=client))
print(playback.hls_url)
