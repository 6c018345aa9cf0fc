"""A web server over a folder that plays faults: refusals, drops, stalls, trickles, wrong lengths and wrong bytes."""

import contextlib
import dataclasses
import re
import threading
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

BLOCK = 1 << 16


@dataclasses.dataclass(frozen=True)
class Fault:
    """What is wrong with one answer.

    Attributes:
        status: the answer instead of the file.
        retry_after: seconds that it asks to wait.
        drop: share of the body after which the connection ends.
        stall: share of the body after which nothing more comes.
        rate: bytes a second.
        length: what is added to Content-Length.
        wrong: whether a byte in the middle is another.
    """

    status: int = 0
    retry_after: float | None = None
    drop: float | None = None
    stall: float | None = None
    rate: float | None = None
    length: int = 0
    wrong: bool = False


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        server, path = self.server, self.path.partition("?")[0]
        with server.lock:
            number = server.counts[path]
            server.counts[path] += 1
            server.asked.append((path, self.headers.get("Range")))
        fault = server.play(path, number) or Fault()
        place = Path(server.folder, path.lstrip("/"))
        if fault.status or not place.is_file():
            self.send_response(fault.status or 404)
            if fault.retry_after is not None:
                self.send_header("Retry-After", str(fault.retry_after))
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        data = place.read_bytes()
        first, last = 0, len(data) - 1
        found = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range") or "") if server.ranges else None
        if found:
            first, last = int(found[1]), min(int(found[2] or last), last)
        body = bytearray(data[first : last + 1])
        if fault.wrong:
            body[len(body) // 2] ^= 255
        self.send_response(206 if found else 200)
        if found:
            self.send_header("Content-Range", f"bytes {first}-{last}/{len(data)}")
        self.send_header("Content-Length", str(len(body) + fault.length))
        if server.versions:
            self.send_header("ETag", f'"{hash(data):x}"')
        self.end_headers()
        with contextlib.suppress(ConnectionError):
            self.send(bytes(body), fault)
        self.close_connection = True

    def send(self, body, fault):
        share = 1.0 if fault.drop is None else fault.drop
        share = share if fault.stall is None else fault.stall
        body = body[: int(share * len(body))]
        if fault.length < 0:
            body = body[: fault.length]
        if fault.rate is not None:
            for first in range(0, len(body), 100):
                self.wfile.write(body[first : first + 100])
                if self.server.ended.wait(100 / fault.rate):
                    return
        else:
            self.wfile.write(body)
        if fault.stall is not None:
            self.wfile.flush()
            self.server.ended.wait(60)

    def log_message(self, *_):
        pass


class Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    request_queue_size = 128

    def handle_error(self, request, client_address):
        """A client that gives up is nothing to report."""


@contextlib.contextmanager
def fault_server(folder):
    """A web server over a folder.

    Yields it, with `address`, `asked` (path and Range of each request), `counts` (requests by path), `ranges` (False:
    it ignores Range), `versions` (False: no ETag), and `play`, a function of the path and how many requests of it there
    were before, which returns a `Fault` or None.
    """
    server = Server(("127.0.0.1", 0), Handler)
    server.folder, server.asked, server.counts, server.lock = str(folder), [], Counter(), threading.Lock()
    server.ranges, server.versions, server.play, server.ended = True, True, lambda path, number: None, threading.Event()
    server.address = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.ended.set()
        server.shutdown()
        server.server_close()
        thread.join()


def first(count, fault):
    """Plays a fault in the first `count` requests of each path."""
    return lambda path, number: fault if number < count else None


def always(fault):
    """Plays a fault in every request."""
    return lambda path, number: fault
