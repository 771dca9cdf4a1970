"""Somebody who is told what happens to jobs: checks each signature, prints one line of JSON for each call.

usage: jobs_webhook.py PORT SECRET_FILE REFUSED

The first REFUSED calls are answered with a redirect to a path that must never be called.
"""

import base64
import hashlib
import hmac
import http.server
import json
import sys

port, secret_file, refused = int(sys.argv[1]), sys.argv[2], int(sys.argv[3])


class Told(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self):
        global refused
        body = self.rfile.read(int(self.headers["content-length"]))
        with open(secret_file) as file:
            secret = base64.b64decode(file.read().strip().removeprefix("whsec_"))
        signed = f"{self.headers['webhook-id']}.{self.headers['webhook-timestamp']}.".encode() + body
        expected = "v1," + base64.b64encode(hmac.new(secret, signed, hashlib.sha256).digest()).decode()
        event = json.loads(body)
        print(
            json.dumps(
                {
                    "path": self.path,
                    "id": self.headers["webhook-id"],
                    "signed": hmac.compare_digest(expected, self.headers["webhook-signature"]),
                    "type": event["type"],
                    "job": event["data"]["job"]["id"],
                    "refused": refused > 0,
                }
            ),
            flush=True,
        )
        if refused > 0:
            refused -= 1
            self.send_response(302)
            self.send_header("location", "/elsewhere")
        else:
            self.send_response(200)
        self.send_header("content-length", "0")
        self.end_headers()

    do_GET = do_POST

    def log_message(self, *arguments):
        pass


server = http.server.ThreadingHTTPServer(("127.0.0.1", port), Told)
print(json.dumps({"ready": True}), flush=True)
server.serve_forever()
