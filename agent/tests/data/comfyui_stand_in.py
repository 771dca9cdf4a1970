"""Answers as ComfyUI's documented HTTP API does, without a model: `SaveText` saves a text, `Mirror` an upload backwards.

It prints its port, and at `/asked` it shows what it was told of queues and interrupts.
"""
import email.parser
import http.server
import json
import threading
import time
import urllib.parse

uploads, saved, history, told = {}, {}, {}, []


def run(number, prompt):
    outputs = {}
    for name, node in prompt.items():
        kind, inputs = node["class_type"], node["inputs"]
        if kind == "Fail":
            said = {"prompt_id": number, "node_id": name, "node_type": kind, "exception_message": "CUDA out of memory", "traceback": []}
            history[number] = {"prompt": [0, number, prompt], "outputs": {}, "status": {"status_str": "error", "completed": False, "messages": [["execution_error", said]]}}
            return
        if kind == "Sleep":
            time.sleep(inputs["seconds"])
        if kind in ("SaveText", "Mirror"):
            file = f"{number}_{name}.txt"
            saved[file] = uploads[inputs["image"]][::-1] if kind == "Mirror" else inputs["text"].encode()
            outputs[name] = {"images": [{"filename": file, "subfolder": "", "type": "output"}, {"filename": "x.png", "subfolder": "", "type": "temp"}]}
    history[number] = {"prompt": [0, number, prompt], "outputs": outputs, "status": {"status_str": "success", "completed": True, "messages": []}}


class Door(http.server.BaseHTTPRequestHandler):
    def log_message(self, *_):
        pass

    def answer(self, body, status=200):
        body = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_GET(self):
        url = urllib.parse.urlsplit(self.path)
        asked = dict(urllib.parse.parse_qsl(url.query))
        if url.path.startswith("/history/"):
            number = url.path.removeprefix("/history/")
            self.answer({number: history[number]} if number in history else {})
        elif url.path == "/view" and asked.get("type") == "output":
            self.answer(saved[asked["filename"]])
        elif url.path == "/asked":
            self.answer(told)
        else:
            self.answer(b"", 404)

    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if self.path == "/upload/image":
            head = f"Content-Type: {self.headers['Content-Type']}\r\n\r\n".encode()
            part = email.parser.BytesParser().parsebytes(head + body).get_payload()[0]
            uploads[part.get_filename()] = part.get_payload(decode=True)
            self.answer({"name": part.get_filename(), "subfolder": "", "type": "input"})
        elif self.path == "/prompt":
            asked = json.loads(body)
            unknown = [name for name, node in asked["prompt"].items() if node["class_type"] not in ("SaveText", "Mirror", "Sleep", "Fail")]
            if unknown:
                return self.answer({"error": {"type": "invalid_prompt", "message": "Cannot execute because a node is missing"}, "node_errors": {unknown[0]: {}}}, 400)
            number = f"p{len(told)}-{asked['client_id']}"
            told.append(["prompt", number])
            threading.Thread(target=run, args=(number, asked["prompt"]), daemon=True).start()
            self.answer({"prompt_id": number, "number": len(told), "node_errors": {}})
        elif self.path in ("/queue", "/interrupt"):
            told.append([self.path, json.loads(body or b"{}")])
            self.answer(b"")
        else:
            self.answer(b"", 404)


server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Door)
print(server.server_address[1], flush=True)
server.serve_forever()
