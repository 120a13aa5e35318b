"""The table in ``docs/limits.md``, generated from the constants; ``make docs`` writes it."""

from __future__ import annotations

import importlib
from dataclasses import dataclass

from replicator.registry.limits import Timing
from tests.docs.pages import ROOT

PAGE = ROOT / "docs" / "limits.md"
BEGIN, END = "<!-- limits: begin -->\n", "<!-- limits: end -->\n"
_MIB, _KIB = 1024 * 1024, 1024


@dataclass(frozen=True, slots=True)
class Limit:
    """A row.

    Attributes:
        what: is limited.
        place: ``module.CONSTANT`` below ``replicator``.
        unit: ``bytes``, ``s``, or what is counted.
        beyond: what happens to what is more.
    """

    what: str
    place: str
    unit: str
    beyond: str


LIMITS = {
    "Webhook": (
        Limit("body of an event", "server.app.MAX_BODY", "bytes", "413"),
        Limit("time for the body", "server.http._BODY_SECONDS", "s", "408"),
        Limit("of a larger body, read and discarded", "server.http._DISCARDED", "times as much", "it is closed"),
        Limit("request line, headers and chunk sizes", "server.connections.MAX_HEAD", "bytes", "400"),
        Limit("headers", "server.connections.MAX_HEADERS", "", "400"),
        Limit("requests that wait for the answer of an earlier one", "server.connections.MAX_PIPELINE", "", "400"),
        Limit(
            "time for a request to arrive, and for its answer to be taken",
            "server.connections.REQUEST_SECONDS",
            "s",
            "the connection is closed",
        ),
        Limit("of a body, read after the answer", "server.connections.MAX_UNREAD", "bytes", "the connection is closed"),
        Limit("time for a TLS handshake", "server.http.HANDSHAKE_SECONDS", "s", "the connection is closed"),
        Limit(
            "connections that have shown no token or password",
            "server.http.MOST_STRANGERS",
            "",
            "the longest idle one is closed",
        ),
        Limit("the same over TLS", "server.http.MOST_TLS_STRANGERS", "", "the longest idle one is closed"),
        Limit("log lines about the mistakes of one address", "logs._LIMIT_SECONDS", "s apart", "counted"),
        Limit("addresses that have log lines of their own", "logs._MOST_CLIENTS", "", "they share one"),
        Limit("path of a request in the log", "server.http.MAX_PATH", "characters", "cut off"),
        Limit("answer to the sample of `webhook test`", "harbor.events._MAX_ANSWER", "bytes", "not read"),
        Limit("projects whose last event is known", "queue.traffic.MOST_HEARD", "", "the oldest is forgotten"),
        Limit(
            "repositories named for what no event had announced", "queue.traffic.MOST_LOST", "", "the oldest is dropped"
        ),
        Limit("images in one event", "harbor.events._MAX_RESOURCES", "", "400"),
        Limit("waiting copies looked at after a scan", "queue.waits._MAX_HASTENED", "", "they wait for their back-off"),
    ),
    "API": (
        Limit("body of a request", "server.api.MAX_BODY", "bytes", "413"),
        Limit("requests a second", "server.api.RATE", "", "429"),
        Limit("requests at once after a pause", "server.api.BURST", "", "429"),
        Limit("requests that a process answers at a time", "server.api.MOST_AT_ONCE", "", "429"),
        Limit("destinations in a request", "server.api.models.MAX_NAMES", "", "400"),
        Limit("ends, and failed attempts, of one copy on its page", "server.page.copies.MOST_ATTEMPTS", "", "left out"),
        Limit("rules without a match that the page names", "server.page.copies.MOST_EXPLAINED", "", "counted"),
        Limit("entries of a page", "server.api.models.MAX_PAGE", "", "400"),
        Limit("a reference", "server.api.models.MAX_REFERENCE", "characters", "400"),
        Limit("images compared at registries at a time", "server.api.images.ASKED_AT_ONCE", "", "the next one waits"),
        Limit("images that wait for that", "server.api.images.MOST_WAITING", "", "429"),
        Limit("time for that", "server.api.images.ASK_SECONDS", "s", "504"),
        Limit("age of an answer to an equal question", "server.api.images.SAME_SECONDS", "s", "compared again"),
        Limit("age of what was seen in place", "server.api.images.KNOWN_SECONDS", "s", "compared again"),
        Limit("images that one `wait` waits for", "commands.wait.MOST_REFERENCES", "", "refused"),
        Limit("questions of one `wait` at a time", "commands.wait.ASKED_AT_ONCE", "", "the next one waits"),
        Limit("time for an answer to it", "server.api.client.ANSWER_SECONDS", "s", "asked again"),
        Limit("an answer to it", "server.api.client.MAX_ANSWER", "bytes", "asked again"),
    ),
    "Status page": (
        Limit("causes of failures", "server.page.rendering._MAX_CAUSES", "", "counted"),
        Limit(
            "dead letters searched for those of a cause", "server.page.facts.MAX_SEARCHED", "", "`replicator failures`"
        ),
        Limit("time for grouping dead letters", "server.page.facts._GROUPING_SECONDS", "s", "the next reading goes on"),
        Limit("copies in a list", "server.page.facts.ROWS", "", "on the next page"),
    ),
    "CloudEvents": (
        Limit("receivers", "receivers.MAX_RECEIVERS", "", "refused"),
        Limit("events that wait for a receiver", "queue.outbox.MOST_WAITING", "", "the oldest is dropped"),
        Limit("age of an event", "server.cloudevents.delivery.PATIENCE", "s", "it is dropped"),
        Limit("requests to one receiver", "server.cloudevents.delivery.MOST_IN_FLIGHT", "", "the next one waits"),
        Limit(
            "oldest events of a receiver, among which those of failing images hold up no others",
            "server.cloudevents.delivery.WINDOW",
            "",
            "the next one waits",
        ),
        Limit("between two attempts at an event", "server.cloudevents.delivery.MAX_PAUSE", "s", "it is tried"),
        Limit("silence of the process that sends", "server.cloudevents.delivery.LEASE", "s", "another one sends"),
        Limit(
            "since a process named a receiver last", "queue.outbox.KEPT_SECONDS", "s", "nothing is kept for it any more"
        ),
        Limit("time for a request, of notifications too", "server.posting.SECONDS", "s", "tried again"),
        Limit("of an answer, the same", "server.posting._MAX_ANSWER", "bytes", "not read"),
    ),
    "Rules in force": (
        Limit(
            "time for which a copy waits for a process with its rules",
            "queue.configurations.AWAY_SECONDS",
            "s",
            "skipped",
        ),
        Limit("digests of its rules that a process announces", "rules.ruleset._MOST_PARTS", "", "the lowest digests"),
        Limit(
            "other sets of rules to which one copy is offered",
            "queue.configurations._MOST_ASKED",
            "",
            "it waits, then ends",
        ),
    ),
    "Names": (
        Limit("a repository's name", "reference.MAX_NAME_LENGTH", "characters", "refused"),
        Limit("a job's id: the destination", "queue.job.MAX_ID_BYTES", "bytes", "refused"),
        Limit("a pattern of `queue pause`, `cancel` or `list`", "queue.waits.MAX_PATTERN", "characters", "refused"),
        Limit("wildcards in it", "queue.waits.MAX_WILDCARDS", "", "refused"),
        Limit("pauses at the same time", "queue.waits.MAX_PAUSES", "", "refused"),
        Limit("failed attempts that are kept", "queue.destinations.MOST_ATTEMPTS", "", "the oldest is dropped"),
        Limit("numbers of results by hour that are kept", "queue.traffic.MOST_RATES", "", "not counted"),
        Limit("actions of people that are kept", "queue.history.MOST_ACTIONS", "", "the oldest is dropped"),
    ),
    "Rules and files": (
        Limit("a rules file", "rules.document.MAX_BYTES", "bytes", "refused"),
        Limit("values in it, those an alias repeats too", "rules.document.MAX_VALUES", "", "refused"),
        Limit("levels of nesting", "rules.document.MAX_DEPTH", "", "refused"),
        Limit("rules files in a directory", "rules.document.MAX_FILES", "", "refused"),
        Limit("a pattern", "rules.patterns.MAX_PATTERN_LENGTH", "characters", "refused"),
        Limit("types of artifacts in a rule", "rules.defaults._MOST_TYPES", "", "refused"),
        Limit("memory of a regular expression", "rules.patterns.MAX_MEMORY", "bytes", "Python's `re`, with a warning"),
        Limit("a range of node-semver", "rules.tags.MAX_RANGE_LENGTH", "characters", "refused"),
        Limit("limits of bandwidth or requests", "timetable._MAX_CHARACTERS", "characters", "refused"),
        Limit("windows of a timetable", "timetable._MAX_WINDOWS", "", "refused"),
        Limit("Docker's `config.json`", "registry.docker_logins._MAX_BYTES", "bytes", "refused"),
        Limit("a secret file", "env_file._MAX_SECRET_BYTES", "bytes", "refused"),
        Limit("answer of a credential helper", "registry.docker_logins._MAX_OUTPUT", "bytes", "it is killed"),
        Limit("time for it", "registry.docker_logins.SECONDS", "s", "it is killed"),
    ),
    "Answers of registries": (
        Limit("a manifest; a config that is looked into", "registry.manifest.MAX_MANIFEST_BYTES", "bytes", "refused"),
        Limit("layers of an image, or entries of an index", "registry.manifest._MAX_ENTRIES", "", "refused"),
        Limit("indexes within indexes", "copy.selection.MAX_DEPTH", "levels", "refused"),
        Limit("nested indexes held while one is looked through", "copy.selection.MAX_NESTED_BYTES", "bytes", "refused"),
        Limit("referrers of referrers", "copy.signatures._MAX_REFERRER_DEPTH", "levels", "left out"),
        Limit("referrers of one image", "registry.manifests.MAX_REFERRERS", "", "left out"),
        Limit("signatures of one image that Harbor's list shows", "copy.options.MAX_ACCESSORIES", "", "left out"),
        Limit("refused kinds that a process remembers", "copy.ledger.MAX_REFUSED", "", "the first are forgotten"),
        Limit("registries whose edition is known", "aliyun.acr.MAX_KNOWN", "", "the first are asked again"),
        Limit("refusal of a kind", "copy.ledger.REFUSED_SECONDS", "s", "tried again"),
        Limit(
            "repositories that wait for a check of anonymous pulls",
            "replication.publicity.MOST_WAITING",
            "",
            "asked after a later copy",
        ),
        Limit("trust in signatures that were seen", "replication.compare.SETTLED_SECONDS", "s", "looked for again"),
        Limit("pages of referrers", "registry.manifests._MAX_REFERRER_PAGES", "", "left out"),
        Limit("a header of an answer", "registry.connector.MAX_HEADER", "bytes", "the answer is no HTTP"),
        Limit("interim answers (1xx) before an answer", "registry.connector.MAX_INTERIM", "", "the answer is no HTTP"),
        Limit("a page of tags", "registry.manifests._MAX_PAGE_BYTES", "bytes", "the list fails"),
        Limit("pages of tags", "registry.manifests._MAX_TAG_PAGES", "", "the list fails"),
        Limit("tags of a repository", "registry.manifests.MAX_TAGS", "", "the list fails"),
        Limit("a page of Harbor's API", "harbor.api._MAX_PAGE_BYTES", "bytes", "the list fails"),
        Limit("requests for one list of Harbor's", "harbor.lists._MAX_REQUESTS", "", "the list fails"),
        Limit("an error's body that is read", "registry.transport._MAX_ERROR_BODY", "bytes", "not read"),
        Limit("an error's words that are shown", "registry.connection_errors._MAX_QUOTED", "characters", "cut off"),
        Limit("title of a page that is no answer", "registry.connection_errors._MAX_TITLE", "characters", "cut off"),
        Limit("name of a user in a refusal", "registry.token_endpoint._MAX_USER", "characters", "cut off"),
        Limit("answer of a token endpoint", "registry.token_endpoint._MAX_ANSWER", "bytes", "not read"),
        Limit("a token", "registry.token_endpoint._MAX_TOKEN", "characters", "refused"),
        Limit("a token's life that is believed", "registry.token_endpoint._MAX_LIFE", "s", "requested again"),
        Limit(
            "refusals of one login in half an hour",
            "registry.ladder.REFUSALS",
            "",
            "it is not sent; copies are given up",
        ),
        Limit("time in which they count", "registry.ladder.WINDOW", "s", "it is sent again"),
        Limit(
            "logins sent last that are cut from texts of others", "errors._MOST_SECRETS", "", "the first are forgotten"
        ),
        Limit("tokens held for a login", "registry.auth._MAX_CACHED", "", "the least recently used is forgotten"),
        Limit("redirects of a request", "registry.transport._MAX_REDIRECTS", "", "refused"),
        Limit(
            "attempts at a copy whose blobs or manifests meet an answer that is not the registry's",
            "retry.COSTLY_ATTEMPTS",
            "",
            "the copy fails",
        ),
        Limit("`Retry-After` that a request waits for", "retry.MAX_PAUSE", "s", "the job waits in the queue"),
        Limit("breaks of a blob without a byte between them", "registry.blob_stream._MAX_STALLS", "", "the copy fails"),
        Limit("breaks of an upload without 64 KiB between them", "registry.blobs._MAX_STALLS", "", "it begins again"),
        Limit("uploads of a blob that get no further", "copy.blobs._MAX_ATTEMPTS", "", "the copy fails"),
        Limit(
            "blobs up to 64 KiB in memory, from one registry to another",
            "copy.blobs._SMALL_AT_ONCE",
            "",
            "the next one waits",
        ),
    ),
    "Search for blobs to mount": (
        Limit("bytes to send that justify a request", "copy.ledger.BYTES_A_REQUEST", "bytes", "the blob is sent"),
        Limit("requests for one image, at least", "copy.ledger.FEWEST_REQUESTS", "", "the blob is sent"),
        Limit("requests for one image, at the most", "copy.ledger.MOST_REQUESTS", "", "the blob is sent"),
        Limit("time for one blob, at least", "copy.survey.LEAST_SECONDS", "s", "the blob is sent"),
        Limit("time for one blob, at the most", "copy.survey.MOST_SECONDS", "s", "the blob is sent"),
        Limit("images read of one repository a week, by one process", "copy.ledger.MOST_MANIFESTS", "", "left out"),
        Limit(
            "of one registry, beyond one of each and those that comparisons see",
            "copy.survey.ALL_MANIFESTS",
            "",
            "left out",
        ),
        Limit("images read of one index", "copy.survey._MOST_CHILDREN", "", "left out"),
        Limit("rest of a repository that could not be read", "copy.survey._FAILED_SECONDS", "s", "read again"),
        Limit(
            "repositories closed to mounts of one login, remembered",
            "registry.limits._MOST_CLOSED",
            "",
            "the first are forgotten",
        ),
        Limit(
            "repositories of one registry, a process", "copy.survey.MOST_REPOSITORIES", "", "the first are forgotten"
        ),
    ),
    "Time for a registry": (
        Limit("to connect (`REPLICATOR_CONNECT_TIMEOUT`)", "registry.limits.Timing.connect", "s", "tried again"),
        Limit(
            "for the next 64 KiB of a blob, sent or taken, and to begin an answer (`REPLICATOR_READ_TIMEOUT`)",
            "registry.limits.Timing.read",
            "s",
            "resumed, or tried again",
        ),
        Limit(
            "for a short request in all, and for the answer after a blob",
            "registry.limits.Timing.commit",
            "s",
            "tried again",
        ),
        Limit("for one try to write a tag, at the most", "registry.limits.Timing.tag", "s", "tried again"),
        Limit(
            "silences in a row until only probes are sent", "registry.circuit._SILENCES", "", "copies wait in the queue"
        ),
        Limit("between two probes of a silent registry", "registry.circuit._LONGEST_PAUSE", "s", "it is probed"),
        Limit(
            "concurrent requests to a registry that has not answered yet",
            "registry.circuit._UNPROVEN",
            "",
            "more requests wait; then the copy returns to the queue",
        ),
        Limit("hosts of one registry whose silence is remembered", "registry.limits._CIRCUITS", "", "not remembered"),
        Limit(
            "longest wait of a held-back upload for its next 64 KiB",
            "registry.flow.FLOOR_SECONDS",
            "s",
            "64 KiB are sent",
        ),
        Limit("attempts of a request", "registry.limits.Timing.attempts", "", "the copy fails, and is tried again"),
    ),
    "Memory": (
        Limit("read ahead of a transfer, times three", "registry.connector.READ_BUFFER", "bytes", "the sender waits"),
        Limit(
            "states of a blob's hash, to verify bytes that are read twice",
            "registry.blob_checks._MAX_MARKS",
            "",
            "the older become sparse",
        ),
        Limit("threads that move large blobs", "tasks.MOST_THREADS", "", "the event loop moves the blob"),
        Limit("buffer of such a thread; over TLS one more", "registry.pump.CHUNK", "bytes", "the sender waits"),
        Limit("given to a connection before it can be sent", "registry.addresses._UNSENT_BYTES", "bytes", "it waits"),
        Limit("tags that a backfill lists ahead", "replication.backfill._LISTED_AHEAD", "", "the list waits"),
        Limit("copies that a backfill has queued", "replication.backfill._QUEUED_AT_ONCE", "", "the backfill waits"),
        Limit(
            "blobs and manifests that a forecast tells apart", "replication.forecast.MOST_PARTS", "", "counted as new"
        ),
        Limit("failures that a report is told of at its end", "replication.report.MAX_FAILURES", "", "counted"),
        Limit("failures of a reconcile that are shown", "replication.reconciler._NAMED_FAILURES", "", "counted"),
        Limit("images remembered, a process", "copy.selection._MAX_ENTRIES", "", "the oldest are forgotten"),
        Limit(
            "dead letters that `status` and a notification group by cause",
            "queue.cause_reader.SAMPLE",
            "",
            "the newest are only counted",
        ),
        Limit(
            "dead letters that one backfill or reconcile checks",
            "queue.dead_letters.MOST_WATCHED",
            "",
            "the newest are left to a later run",
        ),
        Limit(
            "unlisted sources of dead letters that it looks up",
            "replication.backfill._LOOKS",
            "",
            "the others are left to a later run",
        ),
        Limit(
            "destinations remembered in Redis, in each of three parts",
            "queue.observations.MOST_DESTINATIONS",
            "",
            "the oldest part is forgotten",
        ),
        Limit(
            "destinations with owner and last writes remembered in Redis, in each of two halves",
            "queue.observations.MOST_OWNED",
            "",
            "the older half is forgotten",
        ),
        Limit(
            "pairs of repositories in Redis with a recent check of anonymous pulls, in each of two halves",
            "queue.memory.MAX_ASKED",
            "",
            "the older half is forgotten",
        ),
        Limit(
            "sources whose jobs wait behind that of another source for the same destination",
            "queue.records.MOST_RIVALS",
            "",
            "the last one gives way",
        ),
        Limit(
            "listed private images that are public at their destination", "queue.memory.MOST_PUBLIC", "", "not listed"
        ),
        Limit(
            "slots lent while a registry is silent, for each slot of a lane", "queue.lane._LENT_SLOTS", "", "jobs wait"
        ),
        Limit("what, why and do of an error, each", "errors.MAX_PART", "characters", "cut off"),
    ),
    "Verify": (
        Limit("line of an attestation that is checked", "replication.attestation.MAX_LINE", "bytes", "refused"),
        Limit("signatures of its envelope that are tried", "replication.signing._MAX_SIGNATURES", "", "not tried"),
        Limit("of a key's file", "replication.signing._MAX_FILE", "bytes", "refused"),
        Limit("rows that are printed", "commands.verify._MOST_KEPT", "", "counted, and in the attestation"),
        Limit("images looked at closely at once", "replication.verification._IMAGES_AT_ONCE", "", "more wait"),
        Limit(
            "manifests and blobs whose presence is remembered",
            "replication.verification._MAX_KNOWN",
            "",
            "asked for again",
        ),
        Limit("missing parts of an image that are named", "replication.verification._MAX_NAMED", "", "counted"),
    ),
    "Redis": (
        Limit("to connect", "queue.connection.CONNECT_TIMEOUT", "s", "503, or tried again"),
        Limit("for an answer", "queue.connection.SOCKET_TIMEOUT", "s", "503, or tried again"),
        Limit(
            "life of a share of `REPLICATOR_BANDWIDTH`",
            "queue.shares.SHARE_SECONDS",
            "s",
            "each process takes an equal part",
        ),
        Limit("questions of `/readyz`", "server.app._READY_SECONDS", "s apart", "the last answer is given again"),
        Limit(
            "without a connected replica, where there have been some",
            "queue.scripts.ABSENT_SECONDS",
            "s",
            "503 until then; then events are accepted without one",
        ),
        Limit("nodes of a cluster that a command is sent on to", "queue.connection._REDIRECTS", "", "it fails"),
        Limit("connections of a process", "queue.client._CONNECTIONS", "", "who comes next waits"),
        Limit(
            "share of the container's memory for the embedded queue",
            "queue.state_directory._MEMORY_SHARE",
            "",
            "what only saves requests is dropped, then 503",
        ),
        Limit("free bytes under the embedded queue, at least", "queue.state_directory.LEAST_ROOM", "bytes", "503"),
        Limit(
            "copies of damaged ends of the embedded queue's file",
            "queue.state_directory._MOST_KEPT",
            "",
            "the oldest is deleted",
        ),
        Limit(
            "after a write of a tag that was not answered",
            "queue.lease.COMPARE_AGAIN_SECONDS",
            "s",
            "the destination is compared again",
        ),
    ),
}


def table() -> str:
    """Build the table: a row a limit, in groups."""
    rows = ["| what | limit | beyond it |", "|---|---|---|"]
    for group, limits in LIMITS.items():
        rows.append(f"| **{group}** | | |")
        rows += [f"| {limit.what} | {_shown(_value(limit.place), limit.unit)} | {limit.beyond} |" for limit in limits]
    return "\n".join(rows) + "\n"


def page() -> str:
    """Return the page with the table as it should be."""
    text = PAGE.read_text()
    before, rest = text.split(BEGIN)
    return before + BEGIN + table() + END + rest.split(END)[1]


def _value(place: str) -> float:
    module, _, name = place.rpartition(".")
    if module == "registry.limits.Timing":
        return float(getattr(Timing(), name))
    value = getattr(importlib.import_module(f"replicator.{module}"), name)
    assert isinstance(value, int | float), place
    return value


def _shown(value: float, unit: str) -> str:
    if unit != "bytes":
        return f"{value:,.10g} {unit}".rstrip()
    for size, name in ((_MIB, "MiB"), (_KIB, "KiB")):
        if value >= size and value % size == 0:
            return f"{value // size:,} {name}"
    return f"{value:,} bytes"


if __name__ == "__main__":
    PAGE.write_text(page())
