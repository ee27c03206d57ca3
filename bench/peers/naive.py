"""The loop that everybody writes first."""

import json
import sys

for line in sys.stdin:
    request = json.loads(line)
    print(json.dumps({"id": request["id"], "result": {"text": request["args"]["text"]}}), flush=True)
