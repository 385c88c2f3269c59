"""The same small service twice, in Python and in Node: what `rail402 proxy` is put in front of.

It prints its port, then a JSON line for every request: what it was asked, and with which headers. `GET /stream` sends
"one", waits until somebody asks for `/go`, and sends "two"; `/broken` is the same with a Content-Length.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

__all__ = ["LANGUAGES", "Service"]

PYTHON = """
import json, sys, threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

go = threading.Event()

class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        body = self.rfile.read(int(self.headers.get("content-length", 0))).decode()
        told = {name.lower(): value for name, value in self.headers.items()}
        print(json.dumps({"method": self.command, "path": self.path, "headers": told, "body": body}), flush=True)
        if self.path == "/go":
            go.set()
        if self.path in ("/stream", "/broken"):
            self.stream()
        else:
            self.answer(500 if self.path == "/fails" else 200, f"{self.path} {body}".strip().encode())

    do_POST = do_GET

    def answer(self, status, body):
        self.send_response(status)
        self.send_header("Content-Type", "text/plain")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def stream(self):
        chunked = self.path == "/stream"
        self.send_response(200)
        self.send_header(*("Transfer-Encoding", "chunked") if chunked else ("Content-Length", "6"))
        self.end_headers()
        self.wfile.write(b"3\\r\\none\\r\\n" if chunked else b"one")
        self.wfile.flush()
        go.wait(20)
        self.wfile.write(b"3\\r\\ntwo\\r\\n0\\r\\n\\r\\n" if chunked else b"two")

    def log_message(self, *_):
        pass

server = ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Handler)
print(server.server_port, flush=True)
server.serve_forever()
"""

NODE = """
const http = require('http');
let release;
const go = new Promise((resolve) => { release = resolve; });

const server = http.createServer(async (request, response) => {
  let body = '';
  for await (const part of request) body += part;
  const told = { method: request.method, path: request.url, headers: request.headers, body };
  process.stdout.write(JSON.stringify(told) + '\\n');
  if (request.url === '/go') release();
  if (request.url === '/stream' || request.url === '/broken') {
    response.writeHead(200, request.url === '/broken' ? { 'Content-Length': 6 } : {});
    response.write('one');
    await go;
    response.end('two');
  } else {
    response.writeHead(request.url === '/fails' ? 500 : 200, { 'Content-Type': 'text/plain' });
    response.end(`${request.url} ${body}`.trim());
  }
});
server.listen(Number(process.argv[2]), '127.0.0.1', () => console.log(server.address().port));
"""

LANGUAGES = {"python": ([sys.executable], "service.py", PYTHON), "node": (["node"], "service.js", NODE)}


class Service:
    """The service as a process.

    Args:
        home: where its program goes.
        language: one of `LANGUAGES`.
        port: where it listens; 0 takes a free one.
    """

    def __init__(self, home: Path, language: str, port: int = 0) -> None:
        command, name, text = LANGUAGES[language]
        (home / name).write_text(text)
        self._process = subprocess.Popen([*command, name, str(port)], cwd=home, stdout=subprocess.PIPE, text=True)
        assert self._process.stdout is not None
        self.port = int(self._process.stdout.readline())
        self.url = f"http://127.0.0.1:{self.port}"

    @staticmethod
    def is_there(language: str) -> bool:
        """Whether what it is written in is installed."""
        return shutil.which(LANGUAGES[language][0][0]) is not None

    def kill(self) -> list[dict[str, Any]]:
        """End it at once; return the requests that it got."""
        self._process.kill()
        said, _ = self._process.communicate()
        return [json.loads(line) for line in said.splitlines()]

    @property
    def ended(self) -> bool:
        """Whether it was ended."""
        return self._process.returncode is not None
