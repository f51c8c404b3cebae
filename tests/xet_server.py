"""The content origin of a local Hub: large files, as Xet and as plain objects.

A *chunk* is up to 128 KiB of a file. A *xorb* is many chunks, uploaded together and named by a hash. A *file*
is a list of segments: chunks `start` to `end` of a xorb. A *shard* tells which segments make up which files.

Hashes travel as text and, inside shards, as bytes: four little-endian words.
"""

from __future__ import annotations

import hashlib
import struct
import time
from collections.abc import Iterator
from itertools import groupby
from typing import Any, NamedTuple

from hub_http import Answer, Refused, Request, Route, answer_bytes, answer_json

MAX_CHUNK = 64 * 1024  # bytes, of files that did not arrive as chunks
HEADER = 8  # bytes before each chunk: version, compressed size (3), compression, size (3)
ROW = 48  # bytes of every record in a shard, and of its header
TOKEN_SECONDS = 900
HAS_VERIFICATION, HAS_SHA256 = 1 << 31, 1 << 30  # flags of a file in a shard


class Segment(NamedTuple):
    """Chunks `start` to `end` (exclusive) of a xorb."""

    xorb: str
    start: int
    end: int


class ContentStore:
    """Xorbs as lists of chunks, files as lists of segments, and what is asked about them.

    Attributes:
        names: the Xet hash of a file by its sha256.
    """

    def __init__(self, url: str) -> None:
        self.url = url
        self.xorbs: dict[str, list[bytes]] = {}
        self.files: dict[str, list[Segment]] = {}
        self.names: dict[str, str] = {}

    def reset(self) -> None:
        """Forget what has been uploaded, but keep the chunks, which clients do not send again."""
        self.names.clear()

    def add(self, data: bytes) -> str:
        """Store a file that did not arrive as chunks; its Xet hash, for which its sha256 has to serve."""
        name = hashlib.sha256(data).hexdigest()
        if name not in self.names:
            self.xorbs[name] = [data[start : start + MAX_CHUNK] for start in range(0, len(data), MAX_CHUNK)]
            self.files[name] = [Segment(name, 0, len(self.xorbs[name]))]
            self.names[name] = name
        return self.names[name]

    def read(self, sha256: str) -> bytes:
        """The whole file.

        Raises:
            KeyError: if nobody has uploaded it.
        """
        return b"".join(chunk for _, _, chunk in self.chunks(self.names[sha256]))

    def chunks(self, name: str) -> Iterator[tuple[str, int, bytes]]:
        """A file as (xorb, index in it, chunk)."""
        for segment in self.files[name]:
            for index in range(segment.start, segment.end):
                yield segment.xorb, index, self.xorbs[segment.xorb][index]

    def routes(self) -> list[Route]:
        """What the content origin answers."""
        return [
            Route("lfs-put", "PUT", r"/objects/(?P<name>\w+)", self.put_object),
            Route("content", "GET", r"/objects/(?P<name>\w+)", self.get_object),
            Route("content", "GET", r"/xorbs/(?P<name>\w+)", self.get_xorb),
            Route("xorb", "POST", r"/v1/xorbs/default/(?P<name>\w+)", self.put_xorb),
            Route("shard", "POST", r"/v1/shards", self.put_shard),
            Route("reconstruction", "GET", r"/v1/reconstructions/(?P<name>\w+)", self.reconstruct),
        ]

    def connection(self, right: str) -> dict[str, str | int]:
        """How a client that may "read" or "write" reaches the Xet service."""
        return {"casUrl": self.url, "accessToken": f"xet_{right}", "exp": int(time.time()) + TOKEN_SECONDS}

    def put_object(self, request: Request) -> Answer:
        if hashlib.sha256(request.body).hexdigest() != request.args["name"]:
            raise Refused(400, "the content is not what its name says")
        self.add(request.body)
        return Answer()

    def get_object(self, request: Request) -> Answer:
        name = request.args["name"]
        if name not in self.names:
            raise Refused(404, "no such object")
        return answer_bytes(self.read(name), request, ETag=f'"{name}"')

    def put_xorb(self, request: Request) -> Answer:
        check_token(request, "write")
        name = request.args["name"]
        is_new = name not in self.xorbs
        self.xorbs[name] = list(unpack_xorb(request.body))
        return answer_json({"was_inserted": is_new})

    def get_xorb(self, request: Request) -> Answer:
        name = request.args["name"]
        if name not in self.xorbs:
            raise Refused(404, "no such xorb")
        return answer_bytes(pack_xorb(self.xorbs[name]), request)

    def put_shard(self, request: Request) -> Answer:
        """Register files, each made of chunks that are here and hash to what it claims."""
        check_token(request, "write")
        for name, sha256, segments in unpack_shard(request.body):
            if any(segment.end > len(self.xorbs.get(segment.xorb, ())) for segment in segments):
                raise Refused(400, f"chunks of file {name} are missing")
            self.files[name] = segments
            if hashlib.sha256(b"".join(chunk for _, _, chunk in self.chunks(name))).hexdigest() != sha256:
                raise Refused(400, f"the content of file {name} has not the sha256 {sha256}")
            self.names[sha256] = name
        return answer_json({"result": 1})

    def reconstruct(self, request: Request) -> Answer:
        """Where the bytes of a file, or of a range of it, are."""
        check_token(request, "read", "write")
        name = request.args["name"]
        if name not in self.files:
            raise Refused(404, "no such file")
        chunks = list(self.chunks(name))
        size = sum(len(chunk) for _, _, chunk in chunks)
        start, end = request.byte_range(size) or (0, size)
        needed, skipped, offset = [], 0, 0
        for xorb, index, chunk in chunks:
            if offset < end and offset + len(chunk) > start:
                skipped = skipped if needed else start - offset
                needed.append((xorb, index, len(chunk)))
            offset += len(chunk)
        terms: list[dict[str, Any]] = []
        places: dict[str, list[dict[str, Any]]] = {}
        for xorb, first, last, length in runs(needed):
            span = {"start": first, "end": last}
            bounds = {
                "start": packed_size(self.xorbs[xorb][:first]),
                "end": packed_size(self.xorbs[xorb][:last]) - 1,
            }
            terms.append({"hash": xorb, "unpacked_length": length, "range": span})
            place = {"range": span, "url": f"{self.url}/xorbs/{xorb}", "url_range": bounds}
            if place not in places.setdefault(xorb, []):
                places[xorb].append(place)
        return answer_json({"offset_into_first_range": skipped, "terms": terms, "fetch_info": places})


def check_token(request: Request, *rights: str) -> None:
    """Refuse requests without a Xet token of one of these rights."""
    if request.token not in [f"xet_{right}" for right in rights]:
        raise Refused(401, f"this needs a Xet token to {' or '.join(rights)}")


def runs(rows: list[tuple[str, int, int]]) -> Iterator[tuple[str, int, int, int]]:
    """Chunks (xorb, index, bytes) joined where they are neighbours in a xorb: (xorb, start, end, bytes)."""
    # Neighbours in a xorb share the difference between their place there and their place here.
    for (xorb, _), group in groupby(enumerate(rows), lambda row: (row[1][0], row[1][1] - row[0])):
        stretch = [row for _, row in group]
        yield xorb, stretch[0][1], stretch[-1][1] + 1, sum(row[2] for row in stretch)


def pack_xorb(chunks: list[bytes]) -> bytes:
    """A xorb as it is sent: every chunk behind its header, none of them compressed."""
    sized = ((len(chunk).to_bytes(3, "little"), chunk) for chunk in chunks)
    return b"".join(b"\0" + size + b"\0" + size + chunk for size, chunk in sized)


def packed_size(chunks: list[bytes]) -> int:
    return sum(HEADER + len(chunk) for chunk in chunks)


def hash_text(raw: bytes) -> str:
    """A hash of 32 bytes as text."""
    return "".join(f"{word:016x}" for word in struct.unpack("<4Q", raw))


def unpack_shard(body: bytes) -> Iterator[tuple[str, str, list[Segment]]]:
    """The files of a shard: hash, sha256, segments.

    After the shard's header, each file is a row (hash, flags, number of segments), then a row per segment
    (xorb, flags, bytes, start, end), possibly a row per segment to verify it, and a row with the sha256.
    """
    rows = (body[start : start + ROW] for start in range(ROW, len(body), ROW))
    for row in rows:
        if row.startswith(b"\xff" * 32):  # the end of the files; xorbs follow, which we have seen
            return
        flags, count = struct.unpack_from("<2I", row, 32)
        segments = []
        for _ in range(count):
            segment = next(rows)
            segments.append(Segment(hash_text(segment[:32]), *struct.unpack_from("<2I", segment, 40)))
        for _ in range(count if flags & HAS_VERIFICATION else 0):
            next(rows)
        sha256 = hash_text(next(rows)[:32]) if flags & HAS_SHA256 else ""
        yield hash_text(row[:32]), sha256, segments


def unpack_xorb(body: bytes) -> Iterator[bytes]:
    """The chunks of an uploaded xorb: each is compressed in its own way, and there may be a footer."""
    position = 0
    while position < len(body) and not body.startswith(b"XETBLOB", position):
        packed_size = int.from_bytes(body[position + 1 : position + 4], "little")
        scheme = body[position + 4]
        position += HEADER
        packed = body[position : position + packed_size]
        position += packed_size
        yield (bytes, unpack_lz4, lambda data: ungroup_bytes(unpack_lz4(data)))[scheme](packed)


def ungroup_bytes(data: bytes) -> bytes:
    """Undo a grouping by place: all first bytes of 4-byte words, then all second bytes, and so on."""
    output, position = bytearray(len(data)), 0
    for place in range(4):
        size = len(output[place::4])
        output[place::4] = data[position : position + size]
        position += size
    return bytes(output)


def unpack_lz4(data: bytes) -> bytes:
    """An LZ4 frame: blocks, each behind its size; checksums are skipped."""
    flags, output = data[4], bytearray()
    position = 7 + (8 if flags & 0x08 else 0) + (4 if flags & 0x01 else 0)  # content size, dictionary
    while word := int.from_bytes(data[position : position + 4], "little"):
        position += 4
        block = data[position : position + (word & 0x7FFFFFFF)]
        position += len(block) + (4 if flags & 0x10 else 0)
        if word >> 31:  # stored as it is
            output += block
        else:
            unpack_lz4_block(block, output)
    return bytes(output)


def unpack_lz4_block(block: bytes, output: bytearray) -> None:
    """Append what a block says: literals, then a copy of something earlier, and again."""
    position = 0

    def length(nibble: int) -> int:
        """A length of 15 or more goes on in the following bytes, until one is below 255."""
        nonlocal position
        total, more = nibble, nibble == 15
        while more:
            total += block[position]
            more = block[position] == 255
            position += 1
        return total

    while position < len(block):
        token = block[position]
        position += 1
        literals = length(token >> 4)
        output += block[position : position + literals]
        position += literals
        if position >= len(block):  # the last sequence copies nothing
            return
        distance = int.from_bytes(block[position : position + 2], "little")
        position += 2
        copied = length(token & 15) + 4
        output += (output[-distance:] * (copied // distance + 1))[:copied]  # it may overlap itself
