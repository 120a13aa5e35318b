"""Files of ``skopeo sync --src yaml``, as skopeo-sync(1) documents them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from replicator.commands.convert.draft import Draft, Entry, known_fields
from replicator.commands.convert.patterns import PLAIN_OF_THREE, of_skopeo, translated
from replicator.commands.convert.regsync_logins import ANONYMOUS, HUB_ENDPOINT, add_missing
from replicator.commands.convert.templates import HUB, name_of, registry_of
from replicator.reference import is_digest, is_tag
from replicator.rules.node import Node
from replicator.rules.patterns import shorten

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from replicator.commands.convert.draft import Options

IMAGES = ("images", "images-by-tag-regex", "images-by-semver")
"""What a registry's entry has; one at least, to be of use."""
FIELDS = (*IMAGES, "credentials", "tls-verify", "cert-dir")
"""All that it can have."""


def drafted(sections: Mapping[str, Any], options: Options) -> Draft:
    """Return the rules that a file of skopeo means.

    Args:
        sections: its top level, a registry a key.
        options: what the file does not say: where images go.
    """
    draft = Draft("skopeo sync", options)
    if not options.registry:
        message = "a file of skopeo names no destination: say --to HOST/NAMESPACE, what skopeo sync has as DESTINATION"
        draft.wrong("--to", message)
    draft.tell("", "skopeo sync copies the image for its own platform alone, unless it has --all; here all are copied")
    for registry, place in (Node(dict(sections), "", draft.problems).mapping() or {}).items():
        _Registry(registry, place, draft).read()
    add_missing(draft, "")
    return draft


class _Registry:
    """What stands under one registry."""

    def __init__(self, registry: str, place: Node, draft: Draft) -> None:
        self._registry = registry_of(registry)
        self._draft = draft
        self._login = Entry({}, place.path)
        self._fields = known_fields(place, FIELDS, self._tell)
        self._end = "/".join(filter(None, (draft.options.registry, draft.options.namespace)))

    def _tell(self, path: str, message: str) -> None:
        self._draft.tell(path, message, self._login)

    def read(self) -> None:
        """Add what it means to the draft; what has no equivalent is told."""
        if not any(name in self._fields for name in IMAGES):
            self._tell(self._login.place, "names no images")
        for name, read in (
            ("images", self._listed),
            ("images-by-tag-regex", self._by_tag),
            ("images-by-semver", self._by_version),
        ):
            for repository, place in (self._fields[name].mapping() or {} if name in self._fields else {}).items():
                self._rule(repository, place, read)
        self._way()

    def _rule(self, repository: str, place: Node, read: Callable[[str, str, Node], None]) -> None:
        try:
            name = name_of(f"{self._registry}/{repository}")
        except ValueError as error:
            place.wrong(str(error))
            return
        if name.tag or name.digest:
            place.wrong("names a tag or a digest, and a repository is wanted")
            return
        read(name.repository, f"{self._end}/{name.repository.rpartition('/')[2]}", place)

    def _listed(self, repository: str, end: str, place: Node) -> None:
        texts = [item.text() for item in place.items()] if place.value is not None else []
        names = [text for text in texts if text is not None]
        for text in names:
            if not is_tag(text) and not is_digest(text):
                place.wrong(f"{shorten(text)} is no tag and no digest")
        tags = [text for text in names if not is_digest(text)]
        if tags or not texts:
            self._draft.add_destination(f"{repository}:{','.join(tags)}" if tags else repository, end, place.path)
        for digest in filter(is_digest, names):
            self._draft.add_destination(f"{repository}@{digest}", end, place.path)

    def _by_tag(self, repository: str, end: str, place: Node) -> None:
        text = place.text()
        if text is None:
            return
        try:
            item = {"to": end, "tags": {"include": translated(text, anchored=False)}}
        except ValueError as error:
            self._draft.tell(place.path, f"{shorten(text)} {error}; the rule is left out")
            return
        self._draft.add_destination(repository, item, place.path)

    def _by_version(self, repository: str, end: str, place: Node) -> None:
        text = place.text()
        if text is None:
            return
        try:
            ranges = of_skopeo(text)
        except ValueError as error:
            self._draft.tell(place.path, f"{shorten(text)} {error}; the rule is left out")
            return
        for range_ in ranges:
            item = {"to": end, "tags": {"include": PLAIN_OF_THREE, "semver": range_}}
            self._draft.add_destination(repository, item, place.path)

    def _way(self) -> None:
        """Add the login, and how the registry is reached."""
        fields = known_fields(self._fields.get("credentials"), ("username", "password", "identitytoken"), self._tell)
        login = self._login.value
        username, password = (fields[name].text() if name in fields else None for name in ("username", "password"))
        if "identitytoken" in fields:
            self._tell(fields["identitytoken"].path, "has no equivalent: a login is a user and a password; left out")
        if username or password:
            login["username"] = self._secret(fields, "username", username or "")
            login["password"] = self._secret(fields, "password", password or "")
        elif "identitytoken" in fields:
            login["username"] = self._draft.variable("USERNAME", self._registry)
            login["password"] = self._draft.variable("PASSWORD", self._registry)
        else:
            login["anonymous"] = True
            self._tell(self._login.place, ANONYMOUS)
        if "tls-verify" in self._fields and not self._fields["tls-verify"].boolean():
            login["insecure"] = True
        if "cert-dir" in self._fields:
            message = "has no equivalent: name one file with the certificates to trust as ca_file; left out"
            self._tell(self._fields["cert-dir"].path, message)
        if self._registry == HUB:
            login["endpoint"] = HUB_ENDPOINT
        self._draft.auth[self._registry] = self._login

    def _secret(self, fields: Mapping[str, Node], field: str, value: str) -> str:
        if "${" in value:
            self._tell(fields[field].path, "has ${ in it, which would be a variable here, so it is put in one")
            return self._draft.variable(field.upper(), self._registry)
        return value if field == "username" else self._draft.secret(value, "PASSWORD", self._registry)
