"""Verifies webhooks by the library of Standard Webhooks: reads lines of JSON with `secret`, `headers` and `body`; ends with 1 at the first
that it refuses."""

import json
import sys

from standardwebhooks import Webhook

for line in sys.stdin:
    sent = json.loads(line)
    event = Webhook(sent["secret"]).verify(sent["body"], sent["headers"])
    print(event["type"])
