"""Servers of a test: a web server over a folder, and an S3 server in this process."""

import contextlib
import os
import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote

from mimsuite.data.stores import address

KEYS = {"AWS_ACCESS_KEY_ID": "testing", "AWS_SECRET_ACCESS_KEY": "testing", "AWS_DEFAULT_REGION": "us-east-1"}


class Web(BaseHTTPRequestHandler):
    """Serves `server.folder`, with ranges unless `server.ranges` is False; each request is kept in `server.asked`.

    `server.answers` gives paths another answer: a status, or where the file is instead.
    """

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def do_GET(self):
        server = self.server
        path, _, query = self.path.partition("?")
        server.asked.append((path, self.headers.get("Range"), query, self.headers.get("Authorization")))
        place = Path(server.folder, unquote(path).lstrip("/"))
        status = server.answers.get(path)
        if status or not place.is_file():
            self.send_response(302 if isinstance(status, str) else status or 404)
            if isinstance(status, str):
                self.send_header("Location", status)
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        data = place.read_bytes()
        first, last, total = 0, len(data) - 1, len(data)
        found = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range") or "") if server.ranges else None
        if found:
            first, last = int(found[1]), min(int(found[2] or last), last)
        if found and first >= total:
            self.send_response(416)
            self.send_header("Content-Range", f"bytes */{total}")
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        body = data[first : last + 1]
        self.send_response(206 if found else 200)
        if found:
            self.send_header("Content-Range", f"bytes {first + server.shift}-{last + server.shift}/{total}")
        self.send_header("Content-Length", str(len(body) + server.missing))
        self.send_header("ETag", f'"{hash((path, data)):x}"')
        self.end_headers()
        with contextlib.suppress(ConnectionError):
            self.wfile.write(body)
        if server.missing:
            self.close_connection = True

    def log_message(self, *_):
        pass


@contextlib.contextmanager
def web_server(folder):
    """A web server over a folder; yields it, with `address`, `asked`, and faults that a test may set."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Web)
    server.daemon_threads = True
    server.folder, server.asked, server.answers = str(folder), [], {}
    server.ranges, server.shift, server.missing = True, 0, 0
    server.address = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@contextlib.contextmanager
def s3_server(bucket="pictures"):
    """An S3 server with one bucket; the environment names it and its keys. Yields a boto3 client."""
    import boto3
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    before = dict(os.environ)
    address._remote.clear()  # those of another server
    os.environ.update(KEYS | {"AWS_ENDPOINT_URL": f"http://{host}:{port}"})
    try:
        client = boto3.client("s3")
        client.create_bucket(Bucket=bucket)
        yield client
    finally:
        for name in (*KEYS, "AWS_ENDPOINT_URL"):
            os.environ.pop(name, None)
            if name in before:
                os.environ[name] = before[name]
        address._remote.clear()
        server.stop()


def upload(client, folder, prefix="", bucket="pictures"):
    """Puts all files of a folder into a bucket."""
    for path in sorted(Path(folder).rglob("*")):
        if path.is_file():
            client.upload_file(str(path), bucket, f"{prefix}{path.relative_to(folder)}")
