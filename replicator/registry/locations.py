"""Where an answer points to: the Location of a redirect or of an upload, the target of a Link."""

from __future__ import annotations

from typing import TYPE_CHECKING

from yarl import URL

from replicator.registry.errors import ProtocolViolated

if TYPE_CHECKING:
    from replicator.registry.access import Access
    from replicator.registry.reply import Reply


def resolve(base: URL, location: str, *, registry: str, request: str) -> URL:
    """Resolve a Location, as it is, since a presigned URL breaks when it is quoted anew.

    Args:
        base: what was asked.
        location: absolute or relative.
        registry: the host the rules name, for the error.
        request: method and path, for the error.

    Raises:
        ProtocolViolated: it is no HTTP URL.
    """
    try:
        target = base.join(URL(location, encoded=True))
        usable = target.scheme in ("http", "https") and bool(target.host)
    except ValueError:
        usable = False
    if not usable:
        raise ProtocolViolated(registry, request, "the Location in the answer is not an HTTP URL")
    return target


def follow(reply: Reply, target: str, *, registry: str, access: Access, request: str) -> URL:
    """Return the URL that an answer points to for the next request at the same registry, its query kept.

    Args:
        reply: the answer.
        target: its Location, or the target of its Link; absolute or relative.
        registry: the host the rules name.
        access: how it is reached.
        request: method and path, for the error.

    Raises:
        ProtocolViolated: it is not at this registry.
    """
    url = resolve(reply.url, target, registry=registry, request=request)
    if url.origin() == reply.url.origin():
        return url
    # Behind a proxy, or reached at another address, a registry names itself by its public name and scheme; the
    # request still goes where this registry is reached.
    own_names = {reply.url.host, URL(f"//{registry}").host}
    if url.host not in own_names and access.endpoint is None:
        raise ProtocolViolated(registry, request, f"the answer leads to another host, {url.host}: refused")
    return URL(f"{reply.url.origin()}{url.raw_path_qs}", encoded=True)
