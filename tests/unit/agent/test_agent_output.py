"""The output of children on its way to the member's log."""

from __future__ import annotations

import asyncio
import json
import os
import threading
from typing import Any

import pytest

from processhub.agent import logs
from processhub.agent.children.output import LINE_MAX, PipeReader, tagged
from processhub.agent.logs import BUFFER_BYTES, LogSink


class Reader:
    """Reads the container's log."""

    def __init__(self) -> None:
        self.fd, self.write_end = os.pipe()
        self.text = b""
        self._thread = threading.Thread(target=self._read, daemon=True)

    def begin(self) -> None:
        self._thread.start()

    def _read(self) -> None:
        while data := os.read(self.fd, 65536):
            self.text += data

    def records(self, sink: LogSink) -> list[dict[str, Any]]:
        sink.close(20)
        os.close(self.write_end)
        self._thread.join(20)
        return [json.loads(line) for line in self.text.splitlines()]


@pytest.fixture
def reader() -> Reader:
    return Reader()


async def put(reader: PipeReader, data: bytes) -> None:
    """Write a child's output and close its end; the tree has ended."""
    await asyncio.to_thread(_write, reader.write_end, data)
    reader.finish()


def _write(fd: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]
    os.close(fd)


async def test_lines_carry_their_fields_and_any_bytes(reader: Reader) -> None:
    reader.begin()
    sink = LogSink(reader.write_end)
    pipe = PipeReader(asyncio.get_running_loop(), sink, tagged({"child": 'tenant/"42"', "epoch": 3}))

    await put(pipe, 'plain\n\nü "quoted" \\ \x00\n'.encode() + b"\xff\xfe\nwithout an end")

    records = reader.records(sink)
    assert [record["message"] for record in records] == [
        "plain",
        "",
        'ü "quoted" \\ \x00',
        "\ufffd\ufffd",
        "without an end",
    ]
    assert {(record["child"], record["epoch"]) for record in records} == {('tenant/"42"', 3)}
    assert all(record["time"].endswith("Z") for record in records)


async def test_a_long_line_is_written_in_parts_that_make_it_up(reader: Reader) -> None:
    reader.begin()
    sink = LogSink(reader.write_end)
    pipe = PipeReader(asyncio.get_running_loop(), sink, tagged({}))
    line = "".join(f"{number};" for number in range(30_000))

    await put(pipe, f"{line}\nnext\n".encode())

    messages = [record["message"] for record in reader.records(sink)]
    assert messages[-1] == "next"
    assert "".join(messages[:-1]) == line
    assert all(len(message) <= LINE_MAX for message in messages)


async def test_a_flood_neither_stalls_the_child_nor_blocks_and_is_counted(reader: Reader) -> None:
    sink = LogSink(reader.write_end)  # nothing reads the log
    loop = asyncio.get_running_loop()
    pipe = PipeReader(loop, sink, tagged({}))
    count = 500_000
    writing = loop.create_task(asyncio.to_thread(_write, pipe.write_end, b"0123456789\n" * count))

    turns = 0
    while not writing.done():
        await asyncio.sleep(0)
        turns += 1
    pipe.finish()
    reader.begin()

    written = len(reader.records(sink))
    assert written + sink.dropped == pytest.approx(count, abs=200)  # a line that is cut by a drop may count or not
    assert sink.dropped > count / 2
    assert written * 50 < 3 * BUFFER_BYTES
    assert turns > 50


def numbers(records: list[dict[str, Any]], child: str) -> list[int]:
    """Return the numbers that a child has written, in the order of arrival."""
    return [int(record["message"]) for record in records if record.get("child") == child]


@pytest.mark.parametrize("log_is_read", [True, False], ids=["read", "not read meanwhile"])
async def test_a_flood_of_one_child_drops_no_line_of_another(
    reader: Reader, log_is_read: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logs, "BYTES_PER_SECOND", 64 * 1024)
    monkeypatch.setattr(logs, "BUFFER_BYTES", 256 * 1024)
    sink, loop = LogSink(reader.write_end), asyncio.get_running_loop()
    if log_is_read:
        reader.begin()
    loud, quiet = (PipeReader(loop, sink, tagged({"child": name})) for name in ("loud", "quiet"))
    flood = loop.create_task(asyncio.to_thread(_write, loud.write_end, b"0123456789\n" * 500_000))

    written = 0
    while not flood.done():
        os.write(quiet.write_end, b"%d\n" % written)
        written += 1
        await asyncio.sleep(0.005)
    os.close(quiet.write_end)
    loud.finish()
    quiet.finish()
    if not log_is_read:
        reader.begin()

    records = reader.records(sink)
    assert sink.dropped > 0
    assert numbers(records, "quiet") == list(range(written))


async def test_a_long_line_is_cut_between_characters(reader: Reader) -> None:
    reader.begin()
    sink = LogSink(reader.write_end)
    pipe = PipeReader(asyncio.get_running_loop(), sink, tagged({}))
    lines = ["x" * shift + "ü東🐙" * 8_000 for shift in range(9)]

    await put(pipe, "\n".join(lines).encode())

    messages = [record["message"] for record in reader.records(sink)]
    assert "".join(messages) == "".join(lines)
    assert all(len(message.encode()) <= LINE_MAX for message in messages)


async def test_bytes_that_are_no_text_are_cut_anywhere(reader: Reader) -> None:
    reader.begin()
    sink = LogSink(reader.write_end)
    pipe = PipeReader(asyncio.get_running_loop(), sink, tagged({}))

    await put(pipe, b"\x80" * (3 * LINE_MAX))

    assert sum(len(record["message"]) for record in reader.records(sink)) == 3 * LINE_MAX
