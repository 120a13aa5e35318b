"""Converter for regsync, whose format regclient documents under "regsync", "Configuration File"."""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING, Any

from replicator.commands.convert.draft import Draft, known_fields
from replicator.commands.convert.patterns import (
    NOT_PLAIN,
    PLAIN,
    Name,
    name_of,
    of_regsync,
    repositories,
    translated,
)
from replicator.commands.convert.regsync_logins import add_logins, filled_in, is_template
from replicator.reference import Platform
from replicator.rules.node import Node
from replicator.schedule import parse_schedule

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from replicator.commands.convert.draft import Entry, Options

_RECONCILE = "pushes are copied at once; the schedule of the full comparison, for all rules, is REPLICATOR_RECONCILE"
_ELSEWHERE = {
    "schedule": _RECONCILE,
    "interval": _RECONCILE,
    "backup": "has no equivalent: the previous image of a tag is not kept; left out",
    "ratelimit": "has no equivalent: requests slow down by themselves at a registry's rate limit; left out",
    "referrerFilters": "has no equivalent: all referrers of an image are copied; left out",
    "referrerSource": "has no equivalent: referrers are copied from the image's repository; left out",
    "referrerTarget": "has no equivalent: referrers are copied to the image's repository; left out",
    "referrerSlow": "has no equivalent; left out",
    "fastCheck": "has no equivalent: existing images are recognized by digest; left out",
    "forceRecursive": "has no equivalent: replicator backfill --force copies existing images again; left out",
    "includeExternal": "has no equivalent; left out",
    "hooks": "has no equivalent; left out",
}
"""Keys of an entry and of the defaults without an equivalent in rules, and what to use instead."""
_GENERAL = {
    "parallel": "is not part of rules; set REPLICATOR_CONCURRENCY and REPLICATOR_BACKFILL_CONCURRENCY",
    "skipDockerConfig": "is not part of rules; set REPLICATOR_DOCKER_CONFIG=off",
    "blobLimit": "has no equivalent; left out",
    "cacheCount": "has no equivalent; left out",
    "cacheTime": "has no equivalent; left out",
    "userAgent": "has no equivalent; left out",
}
_COPIED_TYPES = frozenset(
    {
        "application/vnd.docker.distribution.manifest.v2+json",
        "application/vnd.docker.distribution.manifest.list.v2+json",
        "application/vnd.oci.image.manifest.v1+json",
        "application/vnd.oci.image.index.v1+json",
    }
)
"""What regsync copies without ``mediaTypes``."""
_CONTENT = ("digestTags", "referrers", "mediaTypes")
_ENTRY = (
    *("source", "target", "type", "tags", "tagSets", "repos", "platform", "platforms"),
    *(*_CONTENT, *_ELSEWHERE),
)


def drafted(sections: Mapping[str, Any], options: Options) -> Draft:
    """Return a draft from a file of regsync.

    Args:
        sections: its top level.
        options: settings that the file does not have.
    """
    draft = Draft("regsync", options)
    if options.registry is not None or options.namespace is not None:
        draft.wrong("--to", "can't be used: a file of regsync contains every target")
    if str(sections.get("version") or "1") != "1":
        draft.wrong("version", "must be 1, the only supported version")
    # Keys that begin with x- hold anchors, which aliases repeat elsewhere.
    used = {name: value for name, value in sections.items() if not name.startswith("x-")}
    fields = known_fields(Node(used, "", draft.problems), ("version", "creds", "defaults", "sync"), draft.remark)
    defaults = known_fields(fields.get("defaults"), (*_ELSEWHERE, *_CONTENT, *_GENERAL), draft.remark)
    for name, node in defaults.items():
        if _is_set(node) and name in _ELSEWHERE | _GENERAL:
            draft.remark(node.path, _instead(name, node))
    for item in fields["sync"].items() if "sync" in fields else ():
        _SyncEntry(item, defaults, draft).read()
    add_logins(fields.get("creds"), draft)
    return draft


def _instead(name: str, node: Node) -> str:
    """Return what to use instead of a key, with its value if that can be converted."""
    message = (_ELSEWHERE | _GENERAL)[name]
    if message is not _RECONCILE or not isinstance(node.value, str):
        return message
    try:
        parse_schedule(node.value)
    except ValueError:
        return message
    return f"{message}={shlex.quote(node.value)}"


def _is_set(node: Node | None) -> bool:
    return node is not None and node.value not in (None, False, "", [], {}, "0", "0s")


class _SyncEntry:
    """One entry of ``sync``."""

    def __init__(self, node: Node, defaults: Mapping[str, Node], draft: Draft) -> None:
        self._node = node
        self._defaults = defaults
        self._draft = draft
        self._remarks: list[tuple[str, str]] = []
        self._left_out = False
        self._fields = known_fields(node, _ENTRY, self._note)

    def read(self) -> None:
        """Add its rules to the draft, or only remarks if a part that matters has no equivalent."""
        kind = self._fields["type"].choice(("registry", "repository", "image")) if "type" in self._fields else None
        if "type" not in self._fields:
            self._node.wrong('"type" is missing: registry, repository or image')
        source, target = self._name("source", {}), None
        if source is not None:
            target = self._name("target", {".Sync.Source": source})
        if source is None or target is None:
            return
        if kind is None:
            # Only to find further mistakes.
            self._pairs("image", source, target)
            return
        self._remark_on_elsewhere()
        content = self._content()
        pairs = self._pairs(kind, source, target)
        filters = self._filters() if kind != "image" else [{}]
        if self._left_out:
            for path, message in self._remarks:
                self._draft.remark(path, message)
            self._draft.remark(self._node.path, "the rule is left out: it has no equivalent")
            return
        entries: list[Entry] = []
        for key, end in pairs:
            for tags in filters:
                item: Any = {"to": end, **({"tags": tags} if tags else {}), **content}
                value = item if len(item) > 1 else end
                entries.append(self._draft.add_destination(key, value, self._node.path))
        for path, message in self._remarks if entries else ():
            self._draft.remark(path, message, entries[0])

    def _name(self, field: str, values: Mapping[str, str]) -> str | None:
        node = self._fields.get(field)
        if node is None:
            self._node.wrong(f'"{field}" is missing')
            return None
        text = node.text()
        try:
            if text is not None and is_template(text):
                written, text = text, filled_in(text, self._draft.options.environ, values)
                self._remarks.append((node.path, f"{written} is replaced by its current value, {text}"))
        except ValueError as error:
            node.wrong(str(error))
            return None
        return text

    def _note(self, path: str, message: str) -> None:
        self._remarks.append((path, message))

    def _remark(self, node: Node, message: str, *, leave_out: bool = False) -> None:
        self._note(node.path, message)
        self._left_out = self._left_out or leave_out

    def _remark_on_elsewhere(self) -> None:
        for name, node in self._fields.items():
            if name in _ELSEWHERE and _is_set(node):
                self._remark(node, _instead(name, node))

    def _own_or_default(self, name: str) -> Node | None:
        return self._fields.get(name) or self._defaults.get(name)

    def _content(self) -> dict[str, Any]:
        found: dict[str, Any] = {}
        wanted = {name: node for name in ("digestTags", "referrers") if _is_true(node := self._own_or_default(name))}
        if wanted:
            found["signatures"] = True
            if len(wanted) == 1 and (node := next(iter(wanted.values()))) is not None:
                self._remark(node, "signatures: true copies both digest tags and referrers")
        self._media_types()
        platforms = self._fields.get("platforms") or self._fields.get("platform")
        if platforms is None or not _is_set(platforms):
            return found
        words = [item.text() for item in platforms.items()]
        try:
            found["platforms"] = [str(Platform.parse(word)) for word in words if word is not None]
        except ValueError as error:
            self._remark(platforms, f"has no equivalent: {error}", leave_out=True)
            return found
        if platforms is self._fields.get("platform"):
            self._remark(platforms, "regsync copies the image itself, replicator an index with only this platform")
        else:
            self._remark(
                platforms, "regsync keeps the index as it is, replicator writes an index with only these platforms"
            )
        return found

    def _media_types(self) -> None:
        node = self._own_or_default("mediaTypes")
        if node is None or not _is_set(node):
            return
        given = {item.text() for item in node.items()}
        if missing := sorted(_COPIED_TYPES - given):
            self._remark(node, f"has no equivalent: {', '.join(missing)} will be copied too")
        if more := sorted(kind for kind in given - _COPIED_TYPES if kind):
            self._remark(node, f"has no equivalent for {', '.join(more)}; left out")

    def _pairs(self, kind: str, source: str, target: str) -> list[tuple[str, str]]:
        """Return pairs of a source and a destination, as in rules."""
        nodes = self._fields["source"], self._fields["target"]
        if kind == "registry":
            return self._registry(source, target)
        if "repos" in self._fields and _is_set(self._fields["repos"]):
            self._remark(self._fields["repos"], "applies only to a whole registry; left out")
        names = [self._parsed(node, text) for node, text in zip(nodes, (source, target), strict=True)]
        begin, end = names
        if begin is None or end is None:
            return []
        if kind == "repository":
            for node, name in zip(nodes, names, strict=True):
                if name is not None and (name.tag or name.digest):
                    node.wrong("must be a repository without tag and digest")
            return [(begin.repository, end.repository)]
        for field in ("tags", "tagSets"):
            if _is_set(self._fields.get(field)):
                self._remark(self._fields[field], "does not apply to a single image; left out")
        if end.digest:
            nodes[1].wrong("a target can't have a digest; it results from what is copied")
            return []
        if begin.digest:
            return [(f"{begin.repository}@{begin.digest}", f"{end.repository}:{end.tag or 'latest'}")]
        tag, end_tag = begin.tag or "latest", end.tag or "latest"
        return [(f"{begin.repository}:{tag}", end.repository if tag == end_tag else f"{end.repository}:{end_tag}")]

    def _parsed(self, node: Node, text: str) -> Name | None:
        try:
            return name_of(text)
        except ValueError as error:
            node.wrong(str(error))
            return None

    def _registry(self, source: str, target: str) -> list[tuple[str, str]]:
        source, target = source.rstrip("/"), target.rstrip("/")
        globs = ["**"]
        fields = known_fields(self._fields.get("repos"), ("allow", "deny"), self._note)
        if _is_set(fields.get("deny")):
            self._remark(
                fields["deny"], "has no equivalent: list the wanted repositories under allow instead", leave_out=True
            )
        if _is_set(fields.get("allow")):
            globs = self._each(fields["allow"], repositories)
        return [(f"{source}/{glob}", f"{target}/{{repository}}") for glob in globs]

    def _filters(self) -> list[dict[str, Any]]:
        """Return alternative filters; an empty one lets every tag pass."""
        sets = self._fields["tagSets"].items() if _is_set(self._fields.get("tagSets")) else []
        found = [filter_ for node in sets for filter_ in self._filter(node)]
        if "tags" in self._fields:
            found += [filter_ for filter_ in self._filter(self._fields["tags"]) if filter_]
        return found or [{}]

    def _filter(self, node: Node) -> list[dict[str, Any]]:
        fields = known_fields(node, ("allow", "deny", "semverRange"), self._note)
        tags: dict[str, Any] = {}
        if _is_set(fields.get("allow")):
            tags["include"] = self._each(fields["allow"], _anchored)
        if _is_set(fields.get("deny")):
            tags["exclude"] = self._each(fields["deny"], _anchored)
        if not _is_set(fields.get("semverRange")):
            return [tags]
        ranges = self._each(fields["semverRange"], of_regsync)
        message = (
            "regsync may also copy versions with a suffix, such as 1.2.0-alpine; replicator copies plain versions only"
        )
        self._remark(fields["semverRange"], message)
        # A tag needs to match only one pattern of include, so beside other patterns the exclusion has to do it.
        plain = {"exclude": [*tags.get("exclude", []), NOT_PLAIN]} if "include" in tags else {"include": [PLAIN]}
        return [{**tags, **plain, "semver": range_} for range_ in ranges]

    def _each(self, node: Node, convert: Callable[[str], str]) -> list[str]:
        found: dict[str, None] = {}
        for item in node.items():
            text = item.text()
            if text is None:
                continue
            try:
                found[convert(text)] = None
            except ValueError as error:
                self._remark(item, f"{text!r} {error}", leave_out=True)
        return list(found)


def _anchored(text: str) -> str:
    return translated(text, anchored=True)


def _is_true(node: Node | None) -> bool:
    return node is not None and node.value is not None and node.boolean()
