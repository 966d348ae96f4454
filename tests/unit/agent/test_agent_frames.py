"""Messages and file descriptors over a stream socket."""

from __future__ import annotations

import errno
import os
import resource
import socket

import pytest

from processhub.agent.frames import Inbox, Outbox


@pytest.fixture
def pair():
    left, right = socket.socketpair()
    left.setblocking(False)
    right.setblocking(False)
    yield left, right
    left.close()
    right.close()


def read_all(inbox: Inbox, outbox: Outbox) -> list[dict]:
    messages = inbox.read()
    while outbox.pending:
        outbox.flush()
        messages += inbox.read()
    return messages


def test_messages_larger_than_the_sockets_buffer_arrive_complete_and_in_order(pair) -> None:
    outbox, inbox = Outbox(pair[0]), Inbox(pair[1])
    sent = [{"n": number, "text": "ü" * size} for number, size in enumerate((1, 3_000_000, 0, 200_000))]

    for message in sent:
        outbox.send(message)

    assert outbox.pending  # nothing has been read yet, and nothing blocked
    assert read_all(inbox, outbox) == sent


def test_descriptors_stay_with_their_message(pair) -> None:
    outbox, inbox = Outbox(pair[0]), Inbox(pair[1])
    for number in range(100):
        read_end, write_end = os.pipe()
        os.write(write_end, b"%d" % number)
        os.close(write_end)
        outbox.send({"n": number, "pad": "x" * (number * 1000)}, (read_end,))
        outbox.send({"n": -1})

    numbers = [message["n"] for message in read_all(inbox, outbox) if message["n"] >= 0]
    assert numbers == list(range(100))
    for number in numbers:
        (fd,) = inbox.take_fds(1)
        assert os.read(fd, 10) == b"%d" % number
        os.close(fd)


def test_a_connection_is_given_up_when_descriptors_are_lost(pair) -> None:
    """What came next had those of another message, or the process ended by an error that named none of this."""
    outbox, inbox = Outbox(pair[0]), Inbox(pair[1])
    outbox.send({"n": 1}, (os.open(os.devnull, os.O_RDONLY),))
    outbox.send({"n": 2}, (os.open(os.devnull, os.O_RDONLY),))
    free = os.dup(pair[0].fileno())
    os.close(free)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (free, hard))
    try:
        messages = inbox.read()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))

    assert messages == []
    assert inbox.closed


def test_the_peers_end_is_seen_after_its_last_message(pair) -> None:
    outbox, inbox = Outbox(pair[0]), Inbox(pair[1])
    outbox.send({"last": True})
    pair[0].close()

    assert inbox.read() == [{"last": True}]
    inbox.read()
    assert inbox.closed


def test_sending_to_a_closed_peer_is_no_error_and_closes_descriptors(pair) -> None:
    outbox = Outbox(pair[0])
    pair[1].close()
    read_end, write_end = os.pipe()

    outbox.send({"n": 1}, (read_end,))

    assert outbox.closed
    with pytest.raises(OSError, match="Bad file"):
        os.fstat(read_end)
    os.close(write_end)


class ShortOfMemory:
    """A socket for which the kernel has no memory at the first attempt to use it."""

    def __init__(self, sock: socket.socket, number: int) -> None:
        self._sock, self._numbers = sock, [number]

    def send(self, data):
        self._check()
        return self._sock.send(data)

    def sendmsg(self, data, rights):
        self._check()
        return self._sock.sendmsg(data, rights)

    def recvmsg(self, *sizes):
        self._check()
        return self._sock.recvmsg(*sizes)

    def _check(self) -> None:
        if self._numbers:
            raise OSError(self._numbers.pop(), "none left")


@pytest.mark.parametrize("number", [errno.ENOBUFS, errno.ENOMEM, errno.ETOOMANYREFS])
@pytest.mark.parametrize("with_descriptor", [False, True])
def test_a_message_for_which_the_kernel_has_no_memory_is_sent_later(
    pair, number: int, *, with_descriptor: bool
) -> None:
    outbox, inbox = Outbox(ShortOfMemory(pair[0], number)), Inbox(ShortOfMemory(pair[1], number))

    outbox.send({"n": 1}, (os.open(os.devnull, os.O_RDONLY),) if with_descriptor else ())

    assert (outbox.pending, outbox.closed) == (True, False)
    outbox.flush()
    assert (inbox.read(), inbox.closed) == ([], False)
    assert inbox.read() == [{"n": 1}]
    for fd in inbox.take_fds(int(with_descriptor)):
        os.close(fd)
