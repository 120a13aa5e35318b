"""How the program is set up: ``REPLICATOR_…`` variables, a ``.env`` file and secret files.

What the command line says wins over the environment, that over ``.env`` (in the working directory), and that over
files named like the variables (any case) in the secrets directory, as Docker and Kubernetes mount them.
"""

from __future__ import annotations

import difflib
import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field, SecretStr, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict, SettingsError

from replicator.env_file import Variables, read_dotenv, resolve, secret_files, secrets_directory
from replicator.errors import ConfigError, Problem
from replicator.networks import check_address, check_api_url, check_networks, check_webhook_url
from replicator.receivers import EventReceiver, Receiver, parse_event_receivers, parse_receivers
from replicator.schedule import Schedule, parse_interval, parse_schedule
from replicator.timetable import HostTimetables, parse_bandwidth, parse_request_rates

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

PREFIX = "REPLICATOR_"
_KUBERNETES = re.compile(r"REPLICATOR_(?:[A-Z0-9_]+_)?(?:SERVICE_HOST|SERVICE_PORT(?:_\w+)?|PORT(?:_\d+_\w+)?)")
"""What Kubernetes puts into every pod beside a service named ``replicator``; none of our names may match."""
_OPTIONS = {"backfill_concurrency": "--proc", "webhook_url": "--url", "api_url": "--url"}
"""Options that are not named like their setting."""
_MOST_DIGITS = 12
_SHORTEST_TOKEN = 16


def _state_home() -> Path:
    home = os.environ.get("XDG_STATE_HOME")
    try:
        return (Path(home) if home else Path.home() / ".local" / "state") / "replicator"
    except RuntimeError:
        # A user the machine has no name for, as containers have them.
        return Path("/var/lib/replicator")


def _stripped(secret: SecretStr) -> SecretStr:
    """Without the line end that editors and ``echo`` leave in secret files."""
    return SecretStr(secret.get_secret_value().strip())


def _text(secret: SecretStr | None) -> str:
    return secret.get_secret_value() if secret is not None else ""


def _schedule(parse: Callable[[str], Any]) -> BeforeValidator:
    """Check a value as a parser reads it; ``off`` is one for each."""

    def check(value: Any) -> Any:
        # The words into which YAML, and so Helm, turns a bare ``off``.
        value = "off" if str(value).strip().lower() in ("false", "no") else value
        parse(str(value))
        return value

    return BeforeValidator(check)


def _is_off(value: Any) -> bool:
    return str(value).strip().lower() in ("off", "0", "0.0", "false", "no", "none")


def _replaces(value: Any) -> Any:
    """Check a number of tags, or the word for any number."""
    text = str(value).strip().lower()
    if text == "unlimited":
        return None
    if not (text.isascii() and text.isdecimal()) or len(text) > _MOST_DIGITS:
        raise ValueError("write a number of tags, e.g. 100, or unlimited")
    return int(text)


def _limits(parse: Callable[[str], Any]) -> BeforeValidator:
    """Check limits as a parser of `replicator.timetable` reads them; every word for "off" is ``unlimited``."""

    def check(value: Any) -> Any:
        if _is_off(value):
            return "unlimited"
        parse(str(value))
        return str(value)

    return BeforeValidator(check)


def _parsed(parse: Callable[[str], Any]) -> AfterValidator:
    """Check a secret as a parser reads it; an empty secret file counts as not set."""

    def check(secret: SecretStr) -> SecretStr:
        if secret.get_secret_value():
            parse(secret.get_secret_value())
        return secret

    return AfterValidator(check)


def _scoped(text: str) -> list[tuple[str, str]]:
    """Read the tokens of the API, each behind its scope."""
    found = [(scope, token) for scope, _, token in (each.partition(":") for each in text.split())]
    if any(scope not in ("read", "operate") or len(token) < _SHORTEST_TOKEN for scope, token in found):
        raise ValueError(f"write read:TOKEN or operate:TOKEN, with tokens of {_SHORTEST_TOKEN} characters or more")
    return found


_Secret = Annotated[SecretStr, AfterValidator(_stripped)]
_Seconds = Annotated[float, Field(gt=0, le=7 * 24 * 3600)]
_Slots = Annotated[int, Field(ge=1, le=1000)]
_Addresses = Annotated[str, BeforeValidator(check_networks)]


class Settings(BaseSettings):
    """Every setting; the variable of each is its name in capitals behind ``REPLICATOR_``. Times are in seconds."""

    model_config = SettingsConfigDict(
        env_prefix=PREFIX, env_ignore_empty=True, extra="ignore", hide_input_in_errors=True, frozen=True
    )

    config: Path | None = Field(None, description="rules file, JSON or YAML; or a directory of rules files")
    auth: Path | None = Field(None, description="separate file for the `auth` part of the rules")
    images: Path | None = Field(None, description="separate file for the `images` part of the rules")
    docker_config: Annotated[str, _schedule(str)] | None = Field(
        None,
        description="Docker's `config.json`, for logins to registries that are not in the rules' `auth`: a path, or "
        "`off`; default `$DOCKER_CONFIG/config.json`, else `~/.docker/config.json`",
    )
    redis_url: _Secret | None = Field(
        None, description="Redis for the queue; if unset, an embedded server keeps the queue in the state directory"
    )
    redis_prefix: str = Field(
        "replicator",
        pattern=r"^([A-Za-z0-9._-]{1,64}|\{[A-Za-z0-9._-]{1,62}\})$",
        description="prefix of all keys in Redis; with braces, `{replicator}`, for a Redis Cluster or a proxy to one",
    )
    redis_replicas: int | None = Field(
        None,
        ge=0,
        le=10,
        description="number of Redis replicas that must hold an event before it is accepted, otherwise the answer is "
        "503; if unset, 1 while there are replicas",
    )
    state_dir: Path = Field(default_factory=_state_home, description="directory of the embedded queue's data")
    queue_server: Path | None = Field(
        None, description="server program of the embedded queue; if unset, the bundled Valkey, else a server on `PATH`"
    )
    listen: Annotated[str, BeforeValidator(check_address)] = Field(
        "0.0.0.0:8080",
        description="address of the webhook, as host:port; `:8080` or `[::]:8080` for IPv4 and IPv6",
    )
    metrics_listen: Annotated[str, BeforeValidator(check_address)] | None = Field(
        None,
        description="second address for `/metrics`, `/healthz` and `/readyz`, as host:port; `worker` serves them "
        "only there, and with it `serve` serves `/metrics` only there",
    )
    webhook_token: _Secret | None = Field(
        None, description="token in the `Authorization` header of Harbor's webhooks (the policy's auth header)"
    )
    webhook_former_tokens: _Secret | None = Field(
        None,
        description="old tokens that are still accepted, separated by spaces or newlines; for a rotation of "
        "`REPLICATOR_WEBHOOK_TOKEN` without losing an event",
    )
    webhook_sources: _Addresses | None = Field(
        None, description="addresses and networks that may send webhooks, e.g. `10.0.0.0/8, 192.0.2.7`; if unset, any"
    )
    trusted_proxies: _Addresses | None = Field(
        None, description="addresses and networks of reverse proxies whose `X-Forwarded-For` is trusted; if unset, none"
    )
    tls_certificate: Path | None = Field(
        None, description="PEM file with the webhook's TLS certificate and its chain; if set, the webhook serves HTTPS"
    )
    tls_key: Path | None = Field(
        None,
        description="PEM file with the certificate's private key; if unset, it is read from the certificate's file",
    )
    webhook_url: Annotated[str, BeforeValidator(check_webhook_url)] | None = Field(
        None,
        description="URL of the webhook as Harbor reaches it, for `replicator webhook` and policies that a reconcile "
        "creates",
    )
    webhook_register: bool = Field(
        default=False,
        description="each reconcile creates or corrects the webhook policy in every project of the rules, like "
        "`replicator webhook register`, with the logins of the rules",
    )
    webhook_anonymous: bool = Field(default=False, description="accept webhooks without a token, from anyone")
    status_token: _Secret | None = Field(
        None,
        description="password of the status page of `serve` at `/`, with any user name; if unset, there is no page",
    )
    api_tokens: Annotated[_Secret, _parsed(_scoped)] | None = Field(
        None,
        description="tokens of the HTTP API, as `read:TOKEN` or `operate:TOKEN`, separated by spaces or newlines; for "
        "a rotation list the old and the new one",
    )
    api_url: Annotated[str, BeforeValidator(check_api_url)] | None = Field(
        None, description="address of a running `serve`, for `replicator wait`; if unset, it asks the registries"
    )
    api_token: _Secret | None = Field(
        None, description="API token of `replicator wait`; if unset, the first of `REPLICATOR_API_TOKENS`"
    )
    concurrency: _Slots = Field(16, description="concurrent copies for events, per process")
    backfill_concurrency: _Slots = Field(32, description="concurrent copies for backfills, per process")
    transfers: _Slots = Field(
        24,
        description="limit of concurrent uploads of blobs over 64 KiB, per registry and process; replicator uses fewer "
        "if more are not faster; pushes may exceed it beside a backfill",
    )
    in_flight: _Slots = Field(
        32,
        description="concurrent requests and transfers, per registry and process; lowered while the registry limits "
        "the rate",
    )
    bandwidth: Annotated[str, _limits(parse_bandwidth)] = Field(
        "unlimited",
        description="limit of uploads to each registry, for all processes together: `40Mbit/s`, `5MB/s`, `512KiB/s` or "
        "a timetable such as `08:00-20:00 Asia/Shanghai 20Mbit/s, else unlimited`",
    )
    requests_per_second: Annotated[str, _limits(parse_request_rates)] = Field(
        "unlimited",
        description="limit of requests to each registry, for all processes together: a number, or a timetable of "
        "numbers",
    )
    connect_timeout: _Seconds = Field(10.0, description="timeout for a connection to a registry")
    read_timeout: _Seconds = Field(
        60.0,
        description="time in which a registry must transfer 64 KiB of a blob, or start its answer; the whole transfer "
        "has no time limit",
    )
    copy_timeout: Annotated[_Seconds | None, BeforeValidator(lambda value: None if _is_off(value) else value)] = Field(
        None,
        description="longest standstill of a copy attempt: no byte moves and no answer arrives; a wait for a slot or a "
        "lock does not count; `off` for no limit (at most 604800)",
    )
    drain_timeout: _Seconds = Field(30.0, description="time that running copies have to finish after SIGTERM")
    lease: Annotated[float, Field(ge=10, le=600)] = Field(
        30.0, description="time after which another worker takes over the copies of a dead one"
    )
    retry_for: _Seconds = Field(
        24 * 3600.0, description="how long a failing copy is retried before it becomes a dead letter"
    )
    reconcile: Annotated[str, _schedule(parse_schedule)] = Field(
        "24h",
        description="schedule of the full comparison (reconcile) by `serve` and `worker`: `off`, an interval (`90s`, "
        "`30m`, `6h`, `1d`) or a cron expression (`17 3 * * *`)",
    )
    reconcile_replaces: Annotated[int | None, BeforeValidator(_replaces)] = Field(
        100,
        description="number of existing tags that a reconcile may replace with other images without an approval; more "
        "only if they are at most a tenth of the compared tags; `unlimited` for no limit",
    )
    sweep: Annotated[str, _schedule(parse_interval)] = Field(
        "60s",
        description="interval at which `serve` and `worker` search Harbor for tags that changed without an event "
        "(`10s` to `1h`), or `off`",
    )
    notify_url: Annotated[_Secret, _parsed(parse_receivers)] | None = Field(
        None,
        description="receivers of notifications: URLs of DingTalk, Feishu or WeCom robots, of Slack webhooks, or of "
        "anything that accepts JSON, separated by spaces or newlines; a signing secret follows `#`",
    )
    events_url: Annotated[_Secret, _parsed(parse_event_receivers)] | None = Field(
        None,
        description="receivers of CloudEvents, as `URL#whsec_SECRET`, separated by spaces or newlines; the prefix "
        "`up_to_date+` adds events of images that were already up to date",
    )
    notify_lag: _Seconds = Field(900.0, description="age at which waiting or failing copies are reported as late")
    watch: bool = Field(
        default=True,
        description="reload changed rules, logins, tokens, limits and certificates within seconds, without a restart; "
        "SIGHUP always reloads them",
    )
    strict: bool = Field(
        default=False,
        description="end with exit code 2 if a rules file has a mistake at the start, instead of starting with its "
        "last accepted version or without its rules",
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field("info", description="lowest level that is logged")
    log_format: Literal["auto", "console", "json"] = Field(
        "auto", description="format of log lines; `auto`: console on a terminal, else JSON"
    )
    access_log: bool = Field(default=False, description="log every HTTP request")

    @property
    def receivers(self) -> tuple[Receiver, ...]:
        """The receivers of notifications; empty if none is set."""
        return parse_receivers(text) if (text := _text(self.notify_url)) else ()

    @property
    def event_receivers(self) -> tuple[EventReceiver, ...]:
        """The receivers of CloudEvents; none where none is named."""
        return parse_event_receivers(text) if (text := _text(self.events_url)) else ()

    @property
    def token(self) -> str | None:
        """The token that Harbor must send; None without one."""
        return _text(self.webhook_token) or None

    @property
    def former_tokens(self) -> tuple[str, ...]:
        """What is taken beside `token`."""
        return tuple(_text(self.webhook_former_tokens).split())

    @property
    def scoped_tokens(self) -> list[tuple[str, str]]:
        """Tokens of the API, each behind its scope."""
        return _scoped(_text(self.api_tokens))

    @property
    def upload_limits(self) -> HostTimetables:
        """Bytes a second that may be sent to each registry."""
        return parse_bandwidth(self.bandwidth)

    @property
    def request_limits(self) -> HostTimetables:
        """Requests a second that may be sent to each registry."""
        return parse_request_rates(self.requests_per_second)

    @property
    def schedule(self) -> Schedule | None:
        """When a reconcile is due; None for never."""
        return parse_schedule(self.reconcile)


def load_settings(**options: Any) -> Settings:
    """Read the settings.

    Args:
        options: what the command line says, by setting; None means that it says nothing.

    Raises:
        ConfigError: with every setting that can't be used; a secret is never in it.
    """
    given = {name: value for name, value in options.items() if value is not None}
    directory = secrets_directory()
    try:
        # The settings library compares each line of .env with each setting: 20,000 lines took half a minute.
        return Settings(
            _secrets_dir=directory if directory.is_dir() else None,
            **{**_dotenv_settings(), **given},
        )
    except ValidationError as error:
        problems = [Problem(_name(str(item["loc"][0]), given), _words(item["msg"])) for item in error.errors()]
        raise ConfigError("settings", problems) from None
    except SettingsError as error:
        # The settings library's words name the setting, and nothing that is in the file.
        cause = error.__cause__
        reason = cause.strerror if isinstance(cause, OSError) else "it is not UTF-8"
        raise ConfigError("settings", [Problem(str(directory), f"a file can't be read: {reason}: {error}")]) from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(
            "settings", [Problem(".env", f"can't be read: {getattr(error, 'strerror', None) or error}")]
        ) from None


def unknown_variables() -> list[Problem]:
    """Find variables with our prefix that are no setting, most likely misspelled."""
    known = {PREFIX + name.upper() for name in Settings.model_fields} | {"REPLICATOR_SECRETS_DIR"}
    problems = []
    for name in sorted({*os.environ, *_dotenv()}):
        if name.upper().startswith(PREFIX) and name.upper() not in known and not _KUBERNETES.fullmatch(name.upper()):
            near = difflib.get_close_matches(name.upper(), known, n=1)
            problems.append(Problem(name, "no such setting" + (f"; did you mean {near[0]}?" if near else "")))
    return problems


def variables() -> Variables:
    """Return what ``${NAME}`` in the rules can stand for: the environment, ``.env`` and the secret files."""
    return Variables({**secret_files(), **_dotenv(), **os.environ})


def _dotenv_settings() -> dict[str, str]:
    """Return the settings in ``.env`` that no variable of the environment overrides."""
    overridden = {name.upper() for name, value in os.environ.items() if value}
    fields = {PREFIX + name.upper(): name for name in Settings.model_fields}
    named = {name.upper(): value for name, value in resolve(read_dotenv()).items() if value}
    return {fields[name]: value for name, value in named.items() if name in fields and name not in overridden}


def _dotenv() -> Mapping[str, str]:
    try:
        return read_dotenv()
    except (OSError, UnicodeDecodeError):
        return {}  # load_settings has said so


def _name(field: str, options: Mapping[str, Any]) -> str:
    return _OPTIONS.get(field, "--" + field.replace("_", "-")) if field in options else PREFIX + field.upper()


def _words(message: str) -> str:
    return message.removeprefix("Value error, ").removeprefix("Input should be ").strip()
