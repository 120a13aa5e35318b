"""Logging setup: one line per event, to stderr or a file, for people or as JSON, including the lines of libraries."""

from __future__ import annotations

import asyncio
import json
import logging
import logging.handlers
import sys
from enum import Enum
from typing import TYPE_CHECKING, Any, Literal, TextIO

import structlog

from replicator.errors import ConfigError, ErrorText, Problem

if TYPE_CHECKING:
    from collections.abc import MutableMapping
    from pathlib import Path

    from structlog.typing import Processor

_LIMIT_SECONDS = 1.0
_MOST_CLIENTS = 1000
"""Addresses of a `LogLimit`; further ones share a line."""

Format = Literal["auto", "console", "json"]


class _File(logging.handlers.WatchedFileHandler):
    """Appends to a file. If it can't be reopened after a rotation, lines are lost, but no work stops."""

    def emit(self, record: logging.LogRecord) -> None:
        try:
            super().emit(record)
        except OSError:
            self.handleError(record)


class _Stderr(logging.StreamHandler[TextIO]):
    """Writes to the present ``sys.stderr``: a progress display replaces it while it is shown."""

    @property
    def stream(self) -> TextIO:
        return sys.stderr

    @stream.setter
    def stream(self, _: TextIO) -> None:
        return


class LogLimit:
    """A warning that strangers can cause: at most one line a second and address, with the number of those left out.

    Args:
        logger: the logger's name.
        event: the event to log.
    """

    def __init__(self, logger: str, event: str) -> None:
        self._log: structlog.stdlib.BoundLogger = structlog.get_logger(logger)
        self._event = event
        self._left_out: dict[str | None, int] = {}

    def warning(self, client: str | None, **values: Any) -> None:
        """Log it, unless it was logged less than a second ago; then it counts in the next line.

        Args:
            client: the address that caused it; None for an unknown one.
            values: of the line.
        """
        if client not in self._left_out and len(self._left_out) >= _MOST_CLIENTS:
            client = None
        if client in self._left_out:
            self._left_out[client] += 1
            return
        self._write(client, values)

    def _write(self, client: str | None, values: dict[str, Any]) -> None:
        self._log.warning(self._event, client=client, **values)
        self._left_out[client] = 0
        asyncio.get_running_loop().call_later(_LIMIT_SECONDS, self._end, client, values)

    def _end(self, client: str | None, values: dict[str, Any]) -> None:
        more = self._left_out.pop(client)
        if more:
            self._write(client, values | {"more": more})


def configure_logs(level: str = "info", form: Format = "auto", file: Path | None = None) -> None:
    """Set up logging for this process.

    Args:
        level: the minimum level: debug, info, warning or error.
        form: console, json, or auto: console on a terminal, json elsewhere.
        file: appended to instead of stderr, and reopened after a rotation.

    Raises:
        ConfigError: the file can't be written.
    """
    handler: logging.Handler
    if file is None:
        handler = _Stderr()
    else:
        try:
            handler = _File(file, encoding="utf-8", errors="backslashreplace")
        except OSError as error:
            raise ConfigError("command line", [Problem("--log", f"{file}: {error.strerror or error}")]) from None
    terminal = file is None and sys.stderr.isatty()
    shared: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                *_rendering(form == "console" or (form == "auto" and terminal), colors=terminal),
            ],
        )
    )
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            *shared,
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=True,
    )
    root = logging.getLogger()
    for old in root.handlers[:]:
        root.removeHandler(old)
        old.close()
    root.addHandler(handler)
    # A line that can't be written, because the disk is full or the terminal closed, is dropped without a traceback.
    logging.raiseExceptions = False
    root.setLevel(level.upper())
    # Below a warning they only log their own internals.
    for noisy in ("arq", "asyncio", "uvicorn", "aiohttp", "redis"):
        logging.getLogger(noisy).setLevel(logging.WARNING)


def _with_error_fields(_: object, __: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """Put ``what``, ``why`` and ``do`` beside the ``error`` of a line, or beside a ``reason`` that is an exception.

    The value is an exception, or a text in the form of `replicator.errors.ErrorText.stored`.
    """
    for key in ("error", "reason"):
        error = event.get(key)
        if error in (None, "") or not (key == "error" or isinstance(error, BaseException)):
            continue
        text = ErrorText.of(error) if isinstance(error, BaseException) else ErrorText.parse(str(error))
        event[key] = str(text)
        for name, words in text.to_json().items():
            event.setdefault(name, words)
    return event


def _without_repetition(_: object, __: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """Leave out repetitions (the joined text, and ``why`` beside its list) and empty parts."""
    if "what" in event and ("error" in event or "reason" in event):
        # Beside an error, a reason is a word of its own, such as ``denied``.
        event.pop("error" if "error" in event else "reason")
        if event.get("problems"):
            event.pop("why", None)
        for name in ("why", "do"):
            if event.get(name) == "":
                del event[name]
    return event


class _Plain:
    """A value whose ``repr``, which the console renderer prints, is its text."""

    def __init__(self, text: str) -> None:
        self._text = text

    def __repr__(self) -> str:
        return self._text


def _without_python(_: object, __: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """Leave out what is not there, and write all values but texts as in the JSON log, not as Python would."""
    for key, value in list(event.items()):
        if key == "exc_info":
            continue
        if value is None:
            del event[key]
        elif isinstance(value, str) or not isinstance(
            value, bool | int | float | list | tuple | dict | set | frozenset
        ):
            event[key] = str(_as_json(value))
        else:
            text = json.dumps(value, ensure_ascii=False, default=_as_json)
            # JSON escapes none of the characters above ASCII, some of which steer a terminal.
            event[key] = _Plain("".join(c if c.isprintable() else ascii(c)[1:-1] for c in text))
    return event


def _as_json(value: object) -> object:
    """Return what JSON has for a value that it does not know: a list for a set, and text for the rest."""
    if isinstance(value, set | frozenset):
        return sorted(value, key=str)
    if isinstance(value, BaseException):
        return str(ErrorText.of(value))
    if isinstance(value, Enum):
        return value.value
    return value.decode(errors="backslashreplace") if isinstance(value, bytes) else str(value)


def _rendering(console: bool, *, colors: bool) -> list[Any]:
    if console:
        # The default formatter prints the local variables of every frame, passwords among them.
        plain = structlog.dev.plain_traceback
        return [
            _with_error_fields,
            _without_repetition,
            _without_python,
            structlog.dev.ConsoleRenderer(colors=colors, sort_keys=False, exception_formatter=plain),
        ]
    return [
        _with_error_fields,
        structlog.processors.format_exc_info,
        structlog.processors.JSONRenderer(ensure_ascii=False, default=_as_json),
    ]
