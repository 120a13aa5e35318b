"""Converter for Harbor's replication policies, as ``GET /api/v2.0/replication/policies`` answers them.

A policy copies what its filters name from its own Harbor to an endpoint, or from an endpoint into it; the second kind
has no equivalent here. What filters and flattening mean is in Harbor's ``src/pkg/reg/filter`` and
``src/controller/replication/flow/stage.go``.
"""

from __future__ import annotations

import math
import re
import shlex
from itertools import product
from typing import TYPE_CHECKING, Any

from yarl import URL

from replicator.aliyun import INSTALL, is_installed
from replicator.aliyun.acr import is_acr
from replicator.commands.convert.draft import Draft, Entry, known_fields
from replicator.commands.convert.patterns import globs_of_harbor, tags_of_harbor
from replicator.reference import HUB, is_registry
from replicator.registry.kinds import KINDS
from replicator.rules.node import Node
from replicator.rules.patterns import is_glob, shorten
from replicator.schedule import parse_schedule
from replicator.timetable import parse_bandwidth

if TYPE_CHECKING:
    from collections.abc import Mapping

    from replicator.commands.convert.draft import Options

POLICIES = "policies"
"""The key of the policies in what `drafted` takes."""
SIGNS = frozenset({"src_registry", "dest_registry", "dest_namespace", "replicate_deletion", "filters", "trigger"})
"""A policy has at least two of these keys."""
_KNOWN = (
    *("id", "name", "description", "creator", "creation_time", "update_time", "enabled"),
    *("src_registry", "dest_registry", "dest_namespace", "dest_namespace_replace_count"),
    *("filters", "trigger", "override", "speed"),
    *("replicate_deletion", "deletion", "copy_by_chunk", "single_active_replication"),
)
_REGISTRY = (
    *("id", "name", "description", "type", "url", "credential", "insecure", "ca_certificate"),
    *("status", "creation_time", "update_time", "token_service_url"),
)
_CREDENTIAL = ("type", "access_key", "access_secret")
_MAX_EXCLUDED = 20
"""The maximum of filters for labels that are excluded together."""
_ACR_SERVICE = re.compile(r"cr\.([\w-]+)\.aliyuncs\.com\Z")
_ROBOT = (
    "a policy reads its own Harbor without a login; the replicator needs a robot account with repository:list, "
    "repository:pull and artifact:list"
)


def drafted(sections: Mapping[str, Any], options: Options) -> Draft:
    """Return a draft from replication policies.

    Args:
        sections: the policies under `POLICIES`: a list of them, or one.
        options: settings that the policies do not have: the Harbor's host.
    """
    draft = Draft("Harbor's replication policies", options)
    if options.registry is not None or options.namespace is not None:
        draft.wrong("--to", "can't be used: each policy has its own destination")
    if options.harbor is None:
        draft.wrong(
            "--harbor",
            "is missing: the policies do not contain the name of their own Harbor; give its public host with --harbor",
        )
    for item in Node(sections[POLICIES], "", draft.problems).items():
        _Policy(item, draft).read()
    if not draft.images and not draft.problems:
        # The remarks would be lost with the file that can't be written.
        draft.problems += draft.remarks
        draft.wrong("", "no policy can be converted")
    return draft


class _Policy:
    """One policy."""

    def __init__(self, node: Node, draft: Draft) -> None:
        self._node = node
        self._draft = draft
        self._remarks: list[tuple[str, str]] = []
        self._left_out = False
        self._types: list[str] = []
        self._fields = known_fields(node, _KNOWN, self._note)

    def read(self) -> None:
        """Add its rules to the draft, or only remarks if a part that matters has no equivalent."""
        if not isinstance(self._node.value, dict):
            return
        if "enabled" in self._fields and not self._fields["enabled"].boolean():
            self._draft.remark(self._fields["enabled"].path, f"the policy {self._name()} is disabled; left out")
            return
        source = known_fields(self._fields.get("src_registry"), _REGISTRY, self._note)
        end = known_fields(self._fields.get("dest_registry"), _REGISTRY, self._note)
        if _number(source.get("id")):
            message = (
                f"the policy {self._name()} pulls images into this Harbor, which has no equivalent: the replicator "
                "copies from the Harbor that sends it events; left out"
            )
            self._draft.remark(self._fields["src_registry"].path, message)
            return
        host = self._host(end)
        patterns = self._filters()
        rules = [(pattern, name) for pattern in patterns[0] if (name := self._destination(pattern)) is not None]
        if host is None:
            return
        self._others(host)
        if self._left_out or not rules:
            for path, message in self._remarks:
                self._draft.remark(path, message)
            self._draft.remark(self._node.path, f"the policy {self._name()} is left out: it has no equivalent")
            return
        self._logins(host, end)
        more = ({"types": self._types} if self._types else {}) | self._overwrite()
        entries: list[Entry] = []
        for (pattern, name), tags in product(rules, patterns[1]):
            item: dict[str, Any] = {"to": f"{host}/{name}", **({"tags": tags} if tags else {}), **more}
            key = f"{self._draft.options.harbor}/{pattern}"
            entries.append(self._draft.add_destination(key, item if len(item) > 1 else item["to"], self._node.path))
        comment = f"Policy {self._name()}"
        if comment not in entries[0].comments:
            entries[0].comments.append(comment)
        for path, message in self._remarks:
            self._draft.remark(path, message, entries[0])

    def _name(self) -> str:
        return shorten(str(self._fields["name"].value)) if "name" in self._fields else "without a name"

    def _note(self, path: str, message: str) -> None:
        self._remarks.append((path, message))

    def _leave_out(self, node: Node, message: str) -> None:
        self._note(node.path, message)
        self._left_out = True

    def _host(self, end: dict[str, Node]) -> str | None:
        """Return the host of the destination's registry."""
        text = end["url"].text() if "url" in end else None
        if text is None:
            if "url" not in end:
                self._node.wrong("dest_registry has no url, so the policy has no destination")
            return None
        if _kind(end) == "docker-hub":
            return HUB
        try:
            url = URL(text if "://" in text else f"https://{text}")
            default = url.port == URL.build(scheme=url.scheme, host="x").port
            host = f"{url.host_subcomponent}" if default else f"{url.host_subcomponent}:{url.port}"
        except ValueError:
            host = ""
        if match := _ACR_SERVICE.match(host):
            host = f"registry.{match[1]}.aliyuncs.com"
        if not is_registry(host):
            end["url"].wrong(f"{shorten(text)} is not the address of a registry")
            return None
        return host

    def _logins(self, host: str, end: dict[str, Node]) -> None:
        """Add the logins of the Harbor and of the destination."""
        harbor = str(self._draft.options.harbor)
        for one, login in ((harbor, None), (host, end)):
            if self._draft.has_login(one):
                continue
            path = self._node.path if login is None else self._fields["dest_registry"].path
            entry = self._draft.auth.setdefault(one, Entry({}, path))
            credential = known_fields((login or {}).get("credential"), _CREDENTIAL, self._note)
            user = credential["access_key"].text() if "access_key" in credential else None
            if user and is_acr(one) and is_installed():
                secret = self._draft.variable("ACCESS_KEY_SECRET", one)
                entry.value["aliyun"] = {"access_key_id": user.replace("${", "$"), "access_key_secret": secret}
            else:
                written = user if user and "${" not in user else self._draft.variable("USERNAME", one)
                entry.value |= {"username": written, "password": self._draft.variable("PASSWORD", one)}
            if login is None:
                self._draft.remark(path, _ROBOT, entry)
            elif user and is_acr(one) and not is_installed():
                message = (
                    f"is an AccessKey: use it under aliyun, which needs {INSTALL}, or set the registry's own login"
                )
                self._draft.remark(credential["access_key"].path, message, entry)
            self._way(one, login or {}, entry)

    def _way(self, host: str, end: dict[str, Node], entry: Entry) -> None:
        """Add the way to reach a registry."""
        if host != HUB and "url" in end and str(end["url"].value).startswith("http://"):
            entry.value |= {"insecure": True, "endpoint": f"http://{host}"}
        elif "insecure" in end and end["insecure"].boolean():
            entry.value["insecure"] = True
        if "ca_certificate" in end and end["ca_certificate"].value:
            message = "left out: write the certificate to a file, and name the file as ca_file"
            self._draft.remark(end["ca_certificate"].path, message, entry)

    def _filters(self) -> tuple[list[str], list[dict[str, Any]]]:
        """Return the patterns of repositories, and filters for tags, one of which a tag must pass."""
        names, tags, excluded = ["**"], dict[str, Any](), list[list[str]]()
        for item in self._fields["filters"].items() if "filters" in self._fields else ():
            fields = known_fields(item, ("type", "value", "decoration"), self._note)
            kind = fields["type"].choice(("name", "tag", "label", "resource")) if "type" in fields else None
            excludes = "decoration" in fields and fields["decoration"].value == "excludes"
            value = fields.get("value")
            if kind is None or value is None or value.value in ("", []):
                continue
            if kind == "name":
                names = self._names(value)
            elif kind == "tag":
                self._tags(value, tags, "exclude" if excludes else "include")
            elif kind == "label":
                labels = [text for one in value.items() if (text := one.text()) is not None]
                if not excludes:
                    tags.setdefault("labels", []).extend(labels)
                elif labels:
                    # Harbor leaves out what has all of them, exclude_labels what has one: so one of these is enough.
                    excluded.append(labels)
            else:
                self._resource(value)
        if math.prod(map(len, excluded)) > _MAX_EXCLUDED:
            self._leave_out(self._fields["filters"], "has no equivalent: too many labels that are excluded together")
            return names, [tags]
        choices = [list(dict.fromkeys(choice)) for choice in product(*excluded)]
        return names, [{**tags, **({"exclude_labels": choice} if choice else {})} for choice in choices]

    def _names(self, node: Node) -> list[str]:
        text = node.text()
        if text is None:
            return []
        try:
            found = globs_of_harbor(text)
        except ValueError as error:
            self._leave_out(node, f"{shorten(text)} {error}")
            return []
        if not found:
            self._leave_out(node, f"{shorten(text)} matches no repository: each is in a project")
        return found

    def _tags(self, node: Node, tags: dict[str, Any], key: str) -> None:
        text = node.text()
        if text is None or set(text) == {"*"}:
            if text is not None and key == "exclude":
                self._leave_out(node, f"{shorten(text)} leaves out every tag")
            return
        if key == "include" and key in tags:
            self._leave_out(node, "has no equivalent beside another filter that tags must match")
            return
        try:
            tags.setdefault(key, []).extend(tags_of_harbor(text))
        except ValueError as error:
            self._leave_out(node, f"{shorten(text)} {error}")

    def _resource(self, node: Node) -> None:
        """Note the type of artifacts that a filter names; ``artifact`` means every type."""
        kind = node.text()
        if kind in KINDS:
            self._types.append(kind)
        elif kind is not None and kind != "artifact":
            self._leave_out(node, f"has no equivalent: {shorten(kind)} is not a type of artifact")

    def _destination(self, pattern: str) -> str | None:
        """Return the destination's repository for a pattern, with Harbor's flattening."""
        namespace = self._fields["dest_namespace"].text() if "dest_namespace" in self._fields else ""
        if namespace is None:
            return None
        node = self._fields.get("dest_namespace_replace_count", self._node)
        count = _number(self._fields.get("dest_namespace_replace_count"), -1)
        parts = pattern.split("/")
        if not is_glob(pattern):
            if count > len(parts) - 1 and namespace:
                self._note(node.path, f"{pattern} has fewer than {count} segments in front; left out, as Harbor does")
                return None
            kept = parts[-1:] if count < 0 else parts[count:]
            return "/".join([namespace, *kept] if namespace else parts)
        if not namespace or count == 0:
            return f"{namespace}/{{repository}}" if namespace else "{repository}"
        if is_glob(parts[0]):
            message = (
                f"repositories of several projects would share {namespace}/…, where the last copy wins: name the "
                f"projects, or flatten no level; {pattern} is left out"
            )
            self._note(node.path, message)
            return None
        if count == 1 or (count < 0 and (len(parts) == 2 or "**" in pattern)):
            if count < 0 and "**" in pattern:
                message = (
                    f"flattens all levels: Harbor sends a/b/c to {namespace}/c. Here {{name}} keeps what follows the "
                    "project, b/c; where that is not wanted, name the repositories or use {flat}"
                )
                self._note(node.path, message)
            return f"{namespace}/{{name}}"
        self._note(node.path, f"this flattening of {pattern} has no equivalent: name its repositories; left out")
        return None

    def _overwrite(self) -> dict[str, str]:
        node = self._fields.get("override")
        return {"overwrite": "never"} if node is not None and not node.boolean() else {}

    def _others(self, host: str) -> None:
        """Remark on settings of a policy that rules do not have."""
        self._trigger()
        speed = _number(self._fields.get("speed"))
        if speed > 0:
            # Harbor counts 1024 bits (src/lib/iothrottler.go).
            limit = f"{host}={round(speed * 1.024)}kbit/s"
            advice = f"REPLICATOR_BANDWIDTH={limit}" if _is_bandwidth(limit) else "REPLICATOR_BANDWIDTH"
            message = f"limits each task in Harbor; here {advice} limits all uploads to this registry together"
            self._note(self._fields["speed"].path, message)
        for name in ("replicate_deletion", "deletion"):
            if name in self._fields and self._fields[name].boolean():
                self._note(self._fields[name].path, "has no equivalent: nothing is deleted at a destination")
                break
        if "copy_by_chunk" in self._fields and self._fields["copy_by_chunk"].boolean():
            message = "is not needed: an interrupted upload resumes at the byte where it stopped"
            self._note(self._fields["copy_by_chunk"].path, message)
        if "single_active_replication" in self._fields and self._fields["single_active_replication"].boolean():
            message = "is not needed: two copies to one destination never run at the same time"
            self._note(self._fields["single_active_replication"].path, message)

    def _trigger(self) -> None:
        fields = known_fields(self._fields.get("trigger"), ("type", "trigger_settings"), self._note)
        kind = fields["type"].text() if "type" in fields else None
        if kind == "manual":
            message = (
                "is manual, but replicator serve copies each push. To copy only by hand, run replicator backfill alone"
            )
            self._note(fields["type"].path, message)
        if kind != "scheduled":
            return
        settings = known_fields(fields.get("trigger_settings"), ("cron",), self._note)
        cron = settings["cron"].text() if "cron" in settings else None
        # The first of six fields is for seconds, and always 0.
        words = (cron or "").replace("?", "*").split()
        schedule = " ".join(words[1:] if len(words) == 6 else words)
        try:
            parse_schedule(schedule)
            advice = f"REPLICATOR_RECONCILE={shlex.quote(schedule)}, in this machine's time zone; Harbor's is UTC"
        except ValueError:
            advice = "REPLICATOR_RECONCILE"
        message = f"pushes are copied at once; the schedule of the full comparison, for all rules, is {advice}"
        self._note(fields["type"].path, message)


def _kind(end: Mapping[str, Node]) -> str:
    return str(end["type"].value) if "type" in end else ""


def _number(node: Node | None, default: int = 0) -> int:
    """Return a small number of the file; numbers are read as text there."""
    text = str(node.value) if node is not None else ""
    return int(text) if re.fullmatch(r"-?[0-9]{1,9}", text) else default


def _is_bandwidth(text: str) -> bool:
    try:
        parse_bandwidth(text)
    except ValueError:
        return False
    return True
