"""Converters for files that map registries or repositories to images: those of image-syncer and skopeo.

image-syncer has ``auth`` and ``images``, in one file or in two. The format of ``skopeo sync --src yaml`` is documented
in skopeo-sync(1).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from replicator.commands.convert.draft import Draft, Entry, known_fields
from replicator.commands.convert.patterns import PLAIN_OF_THREE, name_of, of_skopeo, translated
from replicator.commands.convert.regsync_logins import ANONYMOUS, add_missing
from replicator.reference import full_host, full_name, is_digest, is_tag
from replicator.rules.node import VARIABLE, Node, join, named_variable, with_braces
from replicator.rules.patterns import shorten

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from replicator.commands.convert.draft import Options

IMAGES = ("images", "images-by-tag-regex", "images-by-semver")
"""Keys of a registry's entry that select images; an entry needs at least one."""
FIELDS = (*IMAGES, "credentials", "tls-verify", "cert-dir")
"""All keys of a registry's entry."""


def skopeo_draft(sections: Mapping[str, Any], options: Options) -> Draft:
    """Return a draft from a file of skopeo.

    Args:
        sections: its top level, whose keys are registries.
        options: settings that the file does not have: the destination.
    """
    draft = Draft("skopeo sync", options)
    if not options.registry:
        message = "a file of skopeo contains no destination; pass the DESTINATION of skopeo sync as --to HOST/NAMESPACE"
        draft.wrong("--to", message)
    draft.remark("", "skopeo sync without --all copies only its own platform; replicator copies all platforms")
    for registry, node in (Node(dict(sections), "", draft.problems).mapping() or {}).items():
        _Registry(registry, node, draft).read()
    add_missing(draft, "")
    return draft


class _Registry:
    """One registry's entry."""

    def __init__(self, registry: str, node: Node, draft: Draft) -> None:
        self._registry = full_host(registry)
        self._draft = draft
        self._login = Entry({}, node.path)
        self._fields = known_fields(node, FIELDS, self._remark)
        self._end = "/".join(filter(None, (draft.options.registry, draft.options.namespace)))

    def _remark(self, path: str, message: str) -> None:
        self._draft.remark(path, message, self._login)

    def read(self) -> None:
        """Add its rules and its login to the draft."""
        if not any(name in self._fields for name in IMAGES):
            self._remark(self._login.origin, "names no images")
        for name, read in (
            ("images", self._listed),
            ("images-by-tag-regex", self._by_tag),
            ("images-by-semver", self._by_version),
        ):
            for repository, node in (self._fields[name].mapping() or {} if name in self._fields else {}).items():
                self._rule(repository, node, read)
        self._way()

    def _rule(self, repository: str, node: Node, read: Callable[[str, str, Node], None]) -> None:
        try:
            name = name_of(f"{self._registry}/{repository}")
        except ValueError as error:
            node.wrong(str(error))
            return
        if name.tag or name.digest:
            node.wrong("must be a repository without tag and digest")
            return
        read(name.repository, f"{self._end}/{name.repository.rpartition('/')[2]}", node)

    def _listed(self, repository: str, end: str, node: Node) -> None:
        items = node.items() if node.value is not None else []
        texts = [item.text() for item in items]
        names = [text for text in texts if text is not None]
        for item, text in zip(items, texts, strict=True):
            if text is not None and not is_tag(text) and not is_digest(text):
                item.wrong("is neither a tag nor a digest")
        tags = [text for text in names if not is_digest(text)]
        if tags or not texts:
            self._draft.add_destination(f"{repository}:{','.join(tags)}" if tags else repository, end, node.path)
        for digest in filter(is_digest, names):
            self._draft.add_destination(f"{repository}@{digest}", end, node.path)

    def _by_tag(self, repository: str, end: str, node: Node) -> None:
        text = node.text()
        if text is None:
            return
        try:
            item = {"to": end, "tags": {"include": translated(text, anchored=False)}}
        except ValueError as error:
            self._draft.remark(node.path, f"{shorten(text)} {error}; the rule is left out")
            return
        self._draft.add_destination(repository, item, node.path)

    def _by_version(self, repository: str, end: str, node: Node) -> None:
        text = node.text()
        if text is None:
            return
        try:
            ranges = of_skopeo(text)
        except ValueError as error:
            self._draft.remark(node.path, f"{shorten(text)} {error}; the rule is left out")
            return
        # One alternative is enough for a tag to pass, so each becomes a destination of its own.
        for range_ in ranges:
            item = {"to": end, "tags": {"include": PLAIN_OF_THREE, "semver": range_}}
            self._draft.add_destination(repository, item, node.path)

    def _way(self) -> None:
        """Add the login and the way to reach the registry."""
        fields = known_fields(self._fields.get("credentials"), ("username", "password", "identitytoken"), self._remark)
        login = self._login.value
        username, password = (fields[name].text() if name in fields else None for name in ("username", "password"))
        if "identitytoken" in fields:
            self._remark(
                fields["identitytoken"].path, "has no equivalent: a login has a username and a password; left out"
            )
        if username or password:
            login["username"] = self._secret(fields, "username", username or "")
            login["password"] = self._secret(fields, "password", password or "")
        elif "identitytoken" in fields:
            login["username"] = self._draft.variable("USERNAME", self._registry)
            login["password"] = self._draft.variable("PASSWORD", self._registry)
        else:
            login["anonymous"] = True
            self._remark(self._login.origin, ANONYMOUS)
        if "tls-verify" in self._fields and not self._fields["tls-verify"].boolean():
            login["insecure"] = True
        if "cert-dir" in self._fields:
            message = "has no equivalent: name a file of trusted certificates as ca_file; left out"
            self._remark(self._fields["cert-dir"].path, message)
        self._draft.auth[self._registry] = self._login

    def _secret(self, fields: Mapping[str, Node], field: str, value: str) -> str:
        if "${" in value:
            self._remark(
                fields[field].path, "contains ${, which would start a variable here; the value is moved to a variable"
            )
            return self._draft.variable(field.upper(), self._registry)
        return value if field == "username" else self._draft.secret(value, "PASSWORD", self._registry)


_LOGIN = ("username", "password", "insecure")


def image_syncer_draft(sections: Mapping[str, Any], options: Options) -> Draft:
    """Return a draft from image-syncer's files.

    Args:
        sections: the top level of the file, or the contents of both files as ``auth`` and ``images``; one of the two is
            enough.
        options: settings that the files don't have.
    """
    draft = Draft("image-syncer", options)
    for key in sections:
        if key not in ("auth", "images"):
            draft.remark(key, "has no equivalent; left out")
    names = {"registry": options.registry, "namespace": options.namespace}
    draft.defaults = {name: given for name, given in names.items() if given is not None}
    _read_auth(sections.get("auth") or {}, draft)
    images = sections.get("images")
    if isinstance(images, dict):
        for source, destinations in images.items():
            path = join("images", source)
            entry = draft.images.setdefault(_name(source, path, draft), Entry([], path))
            for item in destinations if isinstance(destinations, list) else [destinations]:
                name = _name(item, path, draft) if isinstance(item, str) else item
                if name not in entry.value:
                    entry.value.append(name)
    elif images is None and draft.auth:
        draft.defaults = {}
        draft.has_logins_only = True
        draft.remark("", "has logins only; to get rules, convert it together with the file of images")
    elif images is None:
        draft.wrong("images", "is missing; it maps sources to destinations, here or in a file of its own")
    else:
        draft.wrong("images", "must be a mapping of sources to destinations")
    add_missing(draft, "auth")
    return draft


def _name(text: str, path: str, draft: Draft) -> str:
    """Return a source or a destination with its host, and with braces around the names of variables."""
    braced = with_braces(text)
    for variable in VARIABLE.findall(braced.partition("/")[0]):
        if not draft.options.environ.get(variable):
            message = f"the environment variable {variable} is not set; it names a registry, so set it to convert"
            draft.wrong(path, message)
    return full_name(braced) if "/" in braced or path == join("images", text) else braced


def _read_auth(entries: Any, draft: Draft) -> None:
    if not isinstance(entries, dict):
        draft.wrong("auth", "must be a mapping of registries to logins")
        return
    names: set[str] = set()
    for written, given in entries.items():
        path = join("auth", written)
        registry, slash, rest = written.removesuffix("/").partition("/")
        host, key = registry.lower(), f"{full_host(registry)}{slash}{rest}"
        if f"{host}{slash}{rest}" in names:
            draft.wrong(path, f"duplicate key: {key} is in the file already, in another spelling")
        names.add(f"{host}{slash}{rest}")
        if full_host(registry) != host and (key in entries or key in draft.auth):
            # As in the rules, where the file of image-syncer may stay as it is.
            draft.remark(path, f"is another name of {key}, which has an entry already; left out")
            continue
        if not isinstance(given, dict):
            draft.wrong(path, "must be a mapping with username and password")
            continue
        entry = draft.auth[key] = Entry({name: given[name] for name in _LOGIN if name in given}, path)
        kept = entry.value
        if not kept.get("username") and not kept.get("password"):
            entry.value = {"anonymous": True} | ({"insecure": kept["insecure"]} if "insecure" in kept else {})
        for name in ("username", "password"):
            variable = named_variable(kept[name]) if isinstance(kept.get(name), str) else None
            if variable and (variable.isupper() or draft.options.environ.get(variable)):
                kept[name] = f"${{{variable}}}"
                draft.remark(join(path, name), f"is taken as the variable {variable}; set it in the environment", entry)
        if isinstance(kept.get("password"), str):
            kept["password"] = draft.secret(kept["password"], "PASSWORD", key)
        for name in given:
            if name not in _LOGIN:
                draft.remark(join(path, name), "has no equivalent; left out", entry)
