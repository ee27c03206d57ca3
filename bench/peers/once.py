"""One call, one process: the request on stdin, the answer on stdout."""

import json
import sys

json.dump({"text": json.load(sys.stdin)["text"]}, sys.stdout)
