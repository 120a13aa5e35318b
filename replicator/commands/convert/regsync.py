"""Files of regsync, as regclient documents them under "regsync", "Configuration File"."""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING, Any

from replicator.commands.convert.draft import Draft, known_fields
from replicator.commands.convert.patterns import NOT_PLAIN, PLAIN, of_regsync, translated
from replicator.commands.convert.regsync_logins import add_logins
from replicator.commands.convert.templates import Name, filled_in, is_template, name_of, repositories
from replicator.reference import Platform
from replicator.rules.node import Node
from replicator.schedule import parse_schedule

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from replicator.commands.convert.draft import Entry, Options

_RECONCILE = "one schedule is for all rules here, and pushes come by themselves: REPLICATOR_RECONCILE"
_ELSEWHERE = {
    "schedule": _RECONCILE,
    "interval": _RECONCILE,
    "backup": "has no equivalent: nothing is kept of what a tag named before; left out",
    "ratelimit": "has no equivalent: a registry that complains is asked more slowly by itself; left out",
    "referrerFilters": "has no equivalent: all that refers to an image is copied; left out",
    "referrerSource": "has no equivalent: what refers to an image is copied from beside it; left out",
    "referrerTarget": "has no equivalent: what refers to an image goes beside it; left out",
    "referrerSlow": "has no equivalent; left out",
    "fastCheck": "has no equivalent: what is there already is known by its digest; left out",
    "forceRecursive": "has no equivalent: replicator backfill --force writes again what is there; left out",
    "includeExternal": "has no equivalent; left out",
    "hooks": "has no equivalent; left out",
}
"""What an entry and the defaults can say that rules can't, and what there is instead."""
_GENERAL = {
    "parallel": "is no rule: copies at once are REPLICATOR_CONCURRENCY and REPLICATOR_BACKFILL_CONCURRENCY",
    "skipDockerConfig": "is no rule: REPLICATOR_DOCKER_CONFIG=off leaves the logins of Docker alone",
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
"""What regsync copies where ``mediaTypes`` says nothing."""
_CONTENT = ("digestTags", "referrers", "mediaTypes")
_ENTRY = (
    *("source", "target", "type", "tags", "tagSets", "repos", "platform", "platforms"),
    *(*_CONTENT, *_ELSEWHERE),
)


def drafted(sections: Mapping[str, Any], options: Options) -> Draft:
    """Return the rules that a file of regsync means.

    Args:
        sections: its top level.
        options: what the file does not say.
    """
    draft = Draft("regsync", options)
    if options.registry is not None or options.namespace is not None:
        draft.wrong("--to", "has no meaning here: a file of regsync names every target itself")
    if str(sections.get("version") or "1") != "1":
        draft.wrong("version", "only version 1 is known here")
    # Keys with x- are for what YAML's aliases repeat elsewhere.
    spoken = {name: value for name, value in sections.items() if not name.startswith("x-")}
    fields = known_fields(Node(spoken, "", draft.problems), ("version", "creds", "defaults", "sync"), draft.tell)
    defaults = known_fields(fields.get("defaults"), (*_ELSEWHERE, *_CONTENT, *_GENERAL), draft.tell)
    for name, place in defaults.items():
        if _says(place) and name in _ELSEWHERE | _GENERAL:
            draft.tell(place.path, _instead(name, place))
    for item in fields["sync"].items() if "sync" in fields else ():
        _Entry(item, defaults, draft).read()
    add_logins(fields.get("creds"), draft)
    return draft


def _instead(name: str, place: Node) -> str:
    """Return what there is instead of a key, with the value it would have if that is certain."""
    message = (_ELSEWHERE | _GENERAL)[name]
    if message is not _RECONCILE or not isinstance(place.value, str):
        return message
    try:
        parse_schedule(place.value)
    except ValueError:
        return message
    return f"{message}={shlex.quote(place.value)}"


def _says(place: Node | None) -> bool:
    return place is not None and place.value not in (None, False, "", [], {}, "0", "0s")


class _Entry:
    """One entry of ``sync``."""

    def __init__(self, place: Node, defaults: Mapping[str, Node], draft: Draft) -> None:
        self._place = place
        self._defaults = defaults
        self._draft = draft
        self._told: list[tuple[str, str]] = []
        self._unfit = False
        self._fields = known_fields(place, _ENTRY, self._note)

    def read(self) -> None:
        """Add what it means to the draft; what has no equivalent is told, and left out whole if it must be."""
        kind = self._fields["type"].choice(("registry", "repository", "image")) if "type" in self._fields else None
        if "type" not in self._fields:
            self._place.wrong('"type" is missing: registry, repository or image')
        source, target = self._name("source", {}), None
        if source is not None:
            target = self._name("target", {".Sync.Source": source})
        if source is None or target is None:
            return
        if kind is None:
            # Only to find what else is wrong.
            self._pairs("image", source, target)
            return
        self._tell_what_is_elsewhere()
        content = self._content()
        pairs = self._pairs(kind, source, target)
        filters = self._filters() if kind != "image" else [{}]
        if self._unfit:
            for path, message in self._told:
                self._draft.tell(path, message)
            self._draft.tell(self._place.path, "the rule is left out: what it means can't be said here")
            return
        entries: list[Entry] = []
        for key, end in pairs:
            for tags in filters:
                item: Any = {"to": end, **({"tags": tags} if tags else {}), **content}
                value = item if len(item) > 1 else end
                entries.append(self._draft.add_destination(key, value, self._place.path))
        for path, message in self._told if entries else ():
            self._draft.tell(path, message, entries[0])

    def _name(self, field: str, values: Mapping[str, str]) -> str | None:
        place = self._fields.get(field)
        if place is None:
            self._place.wrong(f'"{field}" is missing')
            return None
        text = place.text()
        try:
            if text is not None and is_template(text):
                written, text = text, filled_in(text, self._draft.options.environ, values)
                self._told.append((place.path, f"{written} is written out as it is now: {text}"))
        except ValueError as error:
            place.wrong(str(error))
            return None
        return text

    def _note(self, path: str, message: str) -> None:
        self._told.append((path, message))

    def _tell(self, place: Node, message: str, *, unfit: bool = False) -> None:
        self._note(place.path, message)
        self._unfit = self._unfit or unfit

    def _tell_what_is_elsewhere(self) -> None:
        for name, place in self._fields.items():
            if name in _ELSEWHERE and _says(place):
                self._tell(place, _instead(name, place))

    def _said(self, name: str) -> Node | None:
        return self._fields.get(name) or self._defaults.get(name)

    def _content(self) -> dict[str, Any]:
        found: dict[str, Any] = {}
        wanted = {name: place for name in ("digestTags", "referrers") if _is_true(place := self._said(name))}
        if wanted:
            found["signatures"] = True
            if len(wanted) == 1 and (place := next(iter(wanted.values()))) is not None:
                self._tell(place, "signatures: true copies both, digest tags and referrers")
        self._media_types()
        platforms = self._fields.get("platforms") or self._fields.get("platform")
        if platforms is None or not _says(platforms):
            return found
        words = [item.text() for item in platforms.items()]
        try:
            found["platforms"] = [str(Platform.parse(word)) for word in words if word is not None]
        except ValueError as error:
            self._tell(platforms, f"has no equivalent: {error}", unfit=True)
            return found
        if platforms is self._fields.get("platform"):
            self._tell(platforms, "there the image itself is copied, here an index with this platform alone")
        else:
            self._tell(platforms, "there the index stays as it is, here it is written anew with these alone")
        return found

    def _media_types(self) -> None:
        place = self._said("mediaTypes")
        if place is None or not _says(place):
            return
        given = {item.text() for item in place.items()}
        if missing := sorted(_COPIED_TYPES - given):
            self._tell(place, f"has no equivalent: {', '.join(missing)} is copied here too")
        if more := sorted(kind for kind in given - _COPIED_TYPES if kind):
            self._tell(place, f"has no equivalent for {', '.join(more)}; left out")

    def _pairs(self, kind: str, source: str, target: str) -> list[tuple[str, str]]:
        """Return sources and where each goes, in the words of the rules."""
        places = self._fields["source"], self._fields["target"]
        if kind == "registry":
            return self._registry(source, target)
        if "repos" in self._fields and _says(self._fields["repos"]):
            self._tell(self._fields["repos"], "has a meaning for a whole registry only; left out")
        names = [self._parsed(place, text) for place, text in zip(places, (source, target), strict=True)]
        begin, end = names
        if begin is None or end is None:
            return []
        if kind == "repository":
            for place, name in zip(places, names, strict=True):
                if name is not None and (name.tag or name.digest):
                    place.wrong("names a tag or a digest, and a repository is wanted")
            return [(begin.repository, end.repository)]
        for field in ("tags", "tagSets"):
            if _says(self._fields.get(field)):
                self._tell(self._fields[field], "has no meaning for a single image; left out")
        if end.digest:
            places[1].wrong("a target has no digest: it follows from what is copied")
            return []
        if begin.digest:
            return [(f"{begin.repository}@{begin.digest}", f"{end.repository}:{end.tag or 'latest'}")]
        tag, end_tag = begin.tag or "latest", end.tag or "latest"
        return [(f"{begin.repository}:{tag}", end.repository if tag == end_tag else f"{end.repository}:{end_tag}")]

    def _parsed(self, place: Node, text: str) -> Name | None:
        try:
            return name_of(text)
        except ValueError as error:
            place.wrong(str(error))
            return None

    def _registry(self, source: str, target: str) -> list[tuple[str, str]]:
        source, target = source.rstrip("/"), target.rstrip("/")
        globs = ["**"]
        fields = known_fields(self._fields.get("repos"), ("allow", "deny"), self._note)
        if _says(fields.get("deny")):
            self._tell(fields["deny"], "has no equivalent: name what is wanted instead", unfit=True)
        if _says(fields.get("allow")):
            globs = self._each(fields["allow"], repositories)
        return [(f"{source}/{glob}", f"{target}/{{repository}}") for glob in globs]

    def _filters(self) -> list[dict[str, Any]]:
        """Return the filters of which one must pass; one that says nothing lets all pass."""
        sets = self._fields["tagSets"].items() if _says(self._fields.get("tagSets")) else []
        found = [filter_ for place in sets for filter_ in self._filter(place)]
        if "tags" in self._fields:
            found += [filter_ for filter_ in self._filter(self._fields["tags"]) if filter_]
        return found or [{}]

    def _filter(self, place: Node) -> list[dict[str, Any]]:
        fields = known_fields(place, ("allow", "deny", "semverRange"), self._note)
        tags: dict[str, Any] = {}
        if _says(fields.get("allow")):
            tags["include"] = self._each(fields["allow"], _anchored)
        if _says(fields.get("deny")):
            tags["exclude"] = self._each(fields["deny"], _anchored)
        if not _says(fields.get("semverRange")):
            return [tags]
        ranges = self._each(fields["semverRange"], of_regsync)
        message = "there a version with a suffix, such as 1.2.0-alpine, can pass too; here numbers and dots alone"
        self._tell(fields["semverRange"], message)
        plain = {"exclude": [*tags.get("exclude", []), NOT_PLAIN]} if "include" in tags else {"include": [PLAIN]}
        return [{**tags, **plain, "semver": range_} for range_ in ranges]

    def _each(self, place: Node, convert: Callable[[str], str]) -> list[str]:
        found: dict[str, None] = {}
        for item in place.items():
            text = item.text()
            if text is None:
                continue
            try:
                found[convert(text)] = None
            except ValueError as error:
                self._tell(item, f"{text!r} {error}", unfit=True)
        return list(found)


def _anchored(text: str) -> str:
    return translated(text, anchored=True)


def _is_true(place: Node | None) -> bool:
    return place is not None and place.value is not None and place.boolean()
