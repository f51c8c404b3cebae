"""HTTP origins on loopback, with tables of routes, a log of requests and faults on demand.

`LocalServer` is the part of a local service that knows nothing of what is served.
"""

from __future__ import annotations

import json
import os
import re
import socket
import struct
import threading
import traceback
from collections import defaultdict, deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from email.message import Message
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from math import inf
from typing import Any, NamedTuple
from urllib.parse import parse_qs, unquote

FAULTS = ("reset", "cut", "stall", "lost", "lie")


@dataclass(frozen=True)
class Request:
    """What a client asks for."""

    method: str
    path: str
    query: Mapping[str, list[str]]
    headers: Message
    body: bytes
    args: Mapping[str, str]  # from the route's pattern, "" for what is absent

    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def token(self) -> str:
        return self.headers.get("Authorization", "").removeprefix("Bearer ")

    def flag(self, name: str) -> bool:
        return self.query.get(name, [""])[0].lower() in ("1", "true")

    def byte_range(self, size: int) -> tuple[int, int] | None:
        """Start and end (exclusive) that are asked for, if any, of something this long."""
        match = re.fullmatch(r"bytes=(\d*)-(\d*)", self.headers.get("Range", ""))
        if match is None:
            return None
        first, last = match.groups()
        start = int(first) if first else max(size - int(last), 0)
        if start >= size:
            raise Refused(416, "the range begins behind the end", **{"Content-Range": f"bytes */{size}"})
        return start, min(int(last) + 1, size) if first and last else size


@dataclass
class Answer:
    """What it gets."""

    status: int = 200
    body: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)

    def head(self) -> bytes:
        """Everything before the body, as it is sent."""
        headers = {"Content-Length": str(len(self.body)), **self.headers}
        lines = [f"HTTP/1.1 {self.status} {HTTPStatus(self.status).phrase}"]
        lines += [f"{name}: {value}" for name, value in headers.items()]
        return "\r\n".join([*lines, "\r\n"]).encode()


def answer_json(value: Any, status: int = 200, **headers: str) -> Answer:
    return Answer(
        status, json.dumps(value, default=str).encode(), {"Content-Type": "application/json", **headers}
    )


def answer_bytes(data: bytes, request: Request, **headers: str) -> Answer:
    """Data, or the range of it that is asked for."""
    headers |= {"Accept-Ranges": "bytes", "Content-Type": "application/octet-stream"}
    span = request.byte_range(len(data))
    if span is None:
        return Answer(200, data, headers)
    headers["Content-Range"] = f"bytes {span[0]}-{span[1] - 1}/{len(data)}"
    return Answer(206, data[slice(*span)], headers)


class Refused(Exception):  # noqa: N818
    """An answer other than success; clients of the Hub tell reasons apart by `code`."""

    def __init__(self, status: int, message: str, code: str = "", **headers: str) -> None:
        super().__init__(message)
        headers |= {"X-Error-Message": message} | ({"X-Error-Code": code} if code else {})
        self.answer = answer_json({"error": message}, status, **headers)


class Route(NamedTuple):
    """Requests of one kind: they are logged and broken by name, several routes may share one."""

    name: str
    method: str
    pattern: str  # a regular expression of the whole path; its named groups are the request's args
    handle: Callable[[Request], Answer]


class Seen(NamedTuple):
    """A request in the log."""

    method: str
    path: str
    route: str  # "" if there is none
    outcome: int | str  # the status, or the kind of fault


@dataclass
class Fault:
    """Breaks `count` requests of a route, after `skip` that pass."""

    kind: int | str
    count: float
    skip: int
    seconds: float


class LocalServer:
    """One or more origins; their ports are bound at once, `start` makes them answer.

    Attributes:
        requests: everything that was asked, in order.
    """

    def __init__(self, num_origins: int) -> None:
        self._origins = [_Origin(self) for _ in range(num_origins)]
        self.ports = [origin.server_address[1] for origin in self._origins]
        self.lock = threading.RLock()  # one request is handled at a time
        self._wake = threading.Event()
        self._faults: dict[str, deque[Fault]] = defaultdict(deque)
        self.requests: list[Seen] = []

    def route(self, *tables: Iterable[Route]) -> None:
        """Say what each origin answers."""
        for origin, table in zip(self._origins, tables, strict=True):
            origin.routes = [(route, re.compile(route.pattern)) for route in table]

    def start(self) -> None:
        for origin in self._origins:
            threading.Thread(target=origin.serve_forever, args=(0.05,), daemon=True).start()

    def close(self) -> None:
        self._wake.set()
        for origin in self._origins:
            origin.shutdown()
            origin.server_close()

    def reset(self) -> None:
        """Forget requests and faults."""
        with self.lock:
            self.heal()
            self.requests = []

    def heal(self) -> None:
        """Forget faults; requests that stall end at once."""
        with self.lock:
            self._wake.set()
            self._wake = threading.Event()
            self._faults = defaultdict(deque)

    def fail(
        self, route: str, kind: int | str, count: int | None = 1, skip: int = 0, seconds: float = 60
    ) -> None:
        """Break requests of a route: its faults come one after the other, and then those of "*".

        Args:
            route: a route's name, or "*" for all.
            kind: an HTTP status; "reset", the connection is reset and nothing was done; "lost", all was done
                and then it is reset; "cut", all was done and it is closed halfway through the answer;
                "stall", silence, then it is closed; "lie", all was done, one byte of the answer is wrong.
            count: so many requests, None for ever.
            skip: requests that pass before.
            seconds: how long "stall" lasts, unless `reset` ends it.
        """
        known = {route.name for origin in self._origins for route, _ in origin.routes}
        if route not in {"*", *known}:
            raise ValueError(f"no route is called {route!r}; there are {sorted(known)}")
        if kind not in FAULTS and kind not in set(HTTPStatus):
            raise ValueError(f"{kind!r} is neither an HTTP status nor one of {FAULTS}")
        with self.lock:
            self._faults[route].append(Fault(kind, inf if count is None else count, skip, seconds))

    def tries(self, route: str) -> int:
        """How many requests of a route have arrived, broken ones too."""
        return sum(seen.route == route for seen in self.requests)

    def check(self, request: Request, origin: int) -> None:
        """Refuse a request for reasons that do not depend on its route."""

    def stall(self, seconds: float) -> None:
        self._wake.wait(seconds)

    def answer(self, origin: _Origin, request: Request) -> tuple[Answer, Fault | None]:
        """Handle a request, unless a fault prevents it, and log it."""
        route, request = origin.find(request)
        with self.lock:
            fault = self._next_fault(route.name)
            kind = fault.kind if fault else None
            try:
                self.check(request, self._origins.index(origin))
                if isinstance(kind, int):
                    raise Refused(kind, f"{HTTPStatus(kind).phrase}, on purpose")
                answer = Answer() if kind in ("reset", "stall") else route.handle(request)
            except Refused as refused:
                answer = refused.answer
            except Exception:  # a mistake of the handler's, which the client reports
                answer = answer_json({"error": traceback.format_exc()}, 500)
            self.requests.append(Seen(request.method, request.path, route.name, kind or answer.status))
        return answer, fault

    def _next_fault(self, route: str) -> Fault | None:
        """The fault that meets the next request of a route, if any."""
        for queue in (self._faults[route], self._faults["*"]):
            while queue and not queue[0].count:
                queue.popleft()
            if queue and queue[0].skip:
                queue[0].skip -= 1
                return None
            if queue:
                queue[0].count -= 1
                return queue[0]
        return None


class _Origin(ThreadingHTTPServer):
    """A port and its routes."""

    daemon_threads = True
    request_queue_size = 64

    def __init__(self, owner: LocalServer) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.owner = owner
        self.routes: list[tuple[Route, re.Pattern[str]]] = []

    def find(self, request: Request) -> tuple[Route, Request]:
        """The route of a request, and the request with its args."""
        method = "GET" if request.method == "HEAD" else request.method
        for route, pattern in self.routes:
            match = pattern.fullmatch(request.path)
            if match and method == route.method:
                args = {name: unquote(value or "") for name, value in match.groupdict().items()}
                return route, replace(request, args=args)
        return Route("", "", "", _nowhere), request

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Clients that hang up are part of the tests."""


def _nowhere(request: Request) -> Answer:
    raise Refused(404, f"no route for {request.method} {request.path}")


class _Handler(BaseHTTPRequestHandler):
    """Reads requests from a connection and writes answers, or what a fault makes of them."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: _Origin

    def respond(self) -> None:
        path, _, query = self.path.partition("?")
        fields = parse_qs(query, keep_blank_values=True)
        request = Request(self.command, path, fields, self.headers, self.read_body(), {})
        answer, fault = self.server.owner.answer(self.server, request)
        head, body = answer.head(), b"" if self.command == "HEAD" else answer.body
        match fault.kind if fault else None:
            case "reset" | "lost":
                self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                os.close(self.connection.detach())  # without the polite end that the server would send first
                self.close_connection = True
                return
            case "stall":
                self.server.owner.stall(fault.seconds)
                head = body = b""
                self.close_connection = True
            case "cut":
                head, body = (head, body[: len(body) // 2]) if body else (head[: len(head) // 2], b"")
                self.close_connection = True
            case "lie" if body:
                middle = len(body) // 2
                body = body[:middle] + bytes([body[middle] ^ 0xFF]) + body[middle + 1 :]
        self.wfile.write(head + body)

    do_GET = do_HEAD = do_POST = do_PUT = do_DELETE = respond  # noqa: N815

    def read_body(self) -> bytes:
        if self.headers.get("Transfer-Encoding", "").lower() != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))
        parts = []
        while size := int(self.rfile.readline().split(b";")[0], 16):
            parts.append(self.rfile.read(size))
            self.rfile.readline()
        while self.rfile.readline().strip():  # trailers
            pass
        return b"".join(parts)

    def log_message(self, format: str, *args: Any) -> None:
        """Be quiet."""
