"""How long anything may take, and how often it is tried."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Timing:
    """Deadlines and tries, in seconds.

    Attributes:
        connect: until a connection stands, TLS included.
        read: without a byte from the other side, and for the answer to a short request.
        write: without a byte taken by the other side while a body is sent.
        commit: for the answer once a body has been sent, since a registry may first move it to its object storage;
            and for a short request in all, answer read.
        tag: for one try to write a tag, login, sending and answer in all. Whoever guards a tag by a lease needs it
            well below the lease's time.
        tries: how often a request without a streamed body is sent in all.
    """

    connect: float = 10.0
    read: float = 60.0
    write: float = 60.0
    commit: float = 300.0
    tag: float = 20.0
    tries: int = 4
