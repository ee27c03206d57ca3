"""The standard library's web server, with keep-alive."""

import json
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from peer import listening


class Handler(BaseHTTPRequestHandler):
    """POST a message, get it back."""

    protocol_version = "HTTP/1.1"  # keep-alive
    wbufsize = -1  # head and body in one packet: without it each answer may wait for an acknowledgement

    def do_POST(self) -> None:
        """Answer one request."""
        request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        body = json.dumps({"text": request["text"]}).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args: object) -> None:
        """Write no log."""


server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
listening(server.server_port)
server.serve_forever()
