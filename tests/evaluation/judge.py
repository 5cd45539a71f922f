"""A small judge that speaks /v1/chat/completions, with the faults that real ones have."""

import json
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

KEY = "sk-test-0123456789abcdef"
# A reply's text; a status; or a fault: "cut", a connection that breaks off; "hang", none in time; or "garbage",
# "object" and "nested", which are JSON and no chat completions.
Behaviour = Callable[[str, int], str | int | tuple[str, str]]
BODIES: dict[object, dict | bytes] = {
    ("fault", "garbage"): {"choices": None},
    ("fault", "object"): {"choices": {}},
    ("fault", "nested"): b'{"choices": ' + b"[" * 100_000 + b"]" * 100_000 + b"}",
}


@dataclass
class Judge:
    """A judge at work: `asked` counts the requests for each prompt, `keys` are what came as their keys."""

    url: str
    asked: Counter[str] = field(default_factory=Counter)
    keys: set[str] = field(default_factory=set)
    bodies: list[dict] = field(default_factory=list)
    stop: threading.Event = field(default_factory=threading.Event)


@contextmanager
def judging(behave: Behaviour) -> Iterator[Judge]:
    """A judge on loopback that does as `behave` says, of a prompt and of how often it was asked."""
    lock = threading.Lock()

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            pass

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            prompt = body["messages"][-1]["content"]
            with lock:
                judge.asked[prompt] += 1
                judge.keys.add(self.headers["Authorization"])
                judge.bodies.append(body)
                times = judge.asked[prompt]
            what = behave(prompt, times)
            if what == ("fault", "cut"):
                self.send_response(200)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", "1000")
                self.end_headers()
                self.wfile.write(b'{"choices": [{"mess')
                self.close_connection = True
                return
            if what == ("fault", "hang"):
                judge.stop.wait(20)
                return
            if isinstance(what, int):
                # Some servers repeat the key they were given.
                self._send(what, {"error": {"message": f"no: {self.headers['Authorization']}"}})
            elif what in BODIES:
                self._send(200, BODIES[what])
            else:
                self._send(200, {"choices": [{"index": 0, "message": {"role": "assistant", "content": what}}]})

        def _send(self, status: int, content: dict | bytes) -> None:
            data = content if isinstance(content, bytes) else json.dumps(content).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(data)))
            if status == 429:
                self.send_header("Retry-After", "0.05")
            if status >= 500:
                self.send_header("Retry-After-Ms", "20")
            if 300 <= status < 400:
                self.send_header("Location", f"{judge.url}/elsewhere")
            self.end_headers()
            with suppress(BrokenPipeError):  # the one who asked was killed
                self.wfile.write(data)

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    judge = Judge(f"http://127.0.0.1:{server.server_port}/v1")
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield judge
    finally:
        judge.stop.set()
        server.shutdown()
        server.server_close()
        thread.join()
