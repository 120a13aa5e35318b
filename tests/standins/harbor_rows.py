"""The rows of Harbor's lists, and the pages that they come in."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from urllib.parse import quote, unquote_plus, urlencode

from tests.standins.harbor_content import NEVER, moment
from tests.standins.tokens import ApiError, answer

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from aiohttp import web

    from tests.standins.harbor_content import Artifact, Content
    from tests.standins.harbor_projects import Project

MAX_PAGE_SIZE = 100
_ICON = "sha256:0048162a053eef4d4ce3fe7518615bef084403614f8bca43b40ae2e762e11e06"
_SIGNATURE_ICON = "sha256:20401d5b3a0f6dbc607c8d732eb08471af4ae6b19811a4efce8c6a724aed2882"


async def page_of_artifacts(
    request: web.BaseRequest, project: Project, artifacts: Sequence[Artifact], content: Content
) -> web.Response:
    """Answer a page of artifacts."""
    with_tag = request.query.get("with_tag", "true").lower() == "true"
    with_accessory = request.query.get("with_accessory", "false").lower() == "true"
    with_label = request.query.get("with_label", "false").lower() == "true"
    if (query := request.query.get("q", "")).startswith("tags="):
        # Of what "q" can ask for, the exact match of a tag.
        artifacts = [each for each in artifacts if query.removeprefix("tags=") in each.tags]

    async def shown(row: dict[str, Any]) -> dict[str, Any]:
        accessories = (_shown_accessories(row["artifact"], content) or None) if with_accessory else None
        labels = content.labels.get((row["artifact"].repository, row["artifact"].stored.digest)) if with_label else None
        about = {"accessories": accessories, "labels": labels or None}
        return {**shown_artifact(project, row["artifact"], content, with_tag=with_tag), **about}

    # What lists are sorted by; the rest is made for the rows of the page only.
    rows = [{"id": each.id, "size": each.size, "push_time": each.pushed, "artifact": each} for each in artifacts]
    return await page_with(request, rows, shown)


def shown_label(number: int, name: str, project: Project | None) -> dict[str, Any]:
    """Show a label of a project, or a global one."""
    scope = {"scope": "g"} if project is None else {"scope": "p", "project_id": project.id}
    times = dict.fromkeys(("creation_time", "update_time"), moment(0))
    return {"id": number, "name": name, "color": "#0065AB", **scope, **times}


def _shown_accessories(artifact: Artifact, content: Content) -> list[dict[str, Any]]:
    about = {
        "subject_artifact_id": artifact.id,
        "subject_artifact_digest": artifact.stored.digest,
        "subject_artifact_repo": artifact.repository,
        "icon": _SIGNATURE_ICON,
    }
    return [
        {
            "id": number,
            "artifact_id": number,
            **about,
            "creation_time": moment(content.pushed(artifact.repository, stored.digest)[1]),
            "digest": stored.digest,
            "size": stored.size,
            "type": kind,
        }
        for number, stored, kind in artifact.accessories
    ]


def shown_artifact(project: Project, artifact: Artifact, content: Content, *, with_tag: bool) -> dict[str, Any]:
    """Show an artifact, without what is attached to it."""
    stored = artifact.stored
    kind, media_type = stored.shown_type
    repository_id, _ = content.repository(artifact.repository)
    tags = [
        {
            "id": content.tag_number(artifact.repository, tag),
            "name": tag,
            "artifact_id": artifact.id,
            "repository_id": repository_id,
            "push_time": moment(content.tagged(artifact.repository, tag, stored.digest)),
            "pull_time": NEVER,
            "immutable": False,
        }
        for tag in artifact.tags
    ]
    children = [
        {
            "child_digest": child["digest"],
            "child_id": content.pushed(artifact.repository, child["digest"])[0],
            "parent_id": artifact.id,
            "platform": {"OsFeatures": None, "architecture": "", "os": "", **child.get("platform", {})},
            "urls": None,
        }
        for child in stored.document.get("manifests", ())
    ]
    _, _, name = artifact.repository.partition("/")
    path = f"/api/v2.0/projects/{project.name}/repositories/{quote(quote(name, safe=''), safe='')}/artifacts"
    # Without the digest of a report there is, so far, nothing in the path of an SBOM.
    links = {"sboms": f"{path}//additions/sbom", "vulnerabilities": f"{path}/{stored.digest}/additions/vulnerabilities"}
    of_image: dict[str, Any] = {}
    if not children:
        links["build_history"] = f"{path}/{stored.digest}/additions/build_history"
        extra: dict[str, Any] = {"architecture": "amd64", "author": "", "config": {}, "created": None, "os": "linux"}
        of_image = {"extra_attrs": extra}
    annotations = stored.document.get("annotations")
    return {
        "addition_links": {addition: {"absolute": False, "href": href} for addition, href in links.items()},
        **({"annotations": annotations} if annotations else {}),
        **({"artifact_type": stored.artifact_type} if stored.artifact_type else {}),
        **of_image,
        "icon": _ICON,
        "id": artifact.id,
        "labels": None,
        "type": kind,
        "media_type": media_type,
        "manifest_media_type": stored.media_type,
        "digest": stored.digest,
        "size": artifact.size,
        "push_time": moment(artifact.pushed),
        "pull_time": NEVER,
        "project_id": project.id,
        "repository_id": repository_id,
        "repository_name": artifact.repository,
        "tags": (tags or None) if with_tag else None,
        "references": children or None,
    }


def _window(request: web.BaseRequest) -> tuple[int, int]:
    numbers = []
    for name, unsaid in (("page", "1"), ("page_size", "10")):
        text = request.query.get(name, unsaid)
        problem = None
        if not text.removeprefix("-").isdigit():
            problem = f'{name} in query must be of type int64: "{text}"'
        elif name == "page_size" and int(text) > MAX_PAGE_SIZE:
            problem = f"{name} in query should be less than or equal to {MAX_PAGE_SIZE}"
        if problem is not None:
            raise ApiError(422, "UNPROCESSABLE_ENTITY", f"validation failure list:\n{problem}")
        numbers.append(int(text))
    return numbers[0], numbers[1]


def _slice(
    request: web.BaseRequest, rows: Sequence[dict[str, Any]], default: str, key: str
) -> tuple[list[dict[str, Any]], dict[str, str]]:
    """Return the rows of the page asked for, and the headers that tell of the others.

    A page below the first is the first, and a size below 1 is no limit; the links go on counting all the same.
    """
    page, size = _window(request)
    ordered = list(rows)
    if rows:
        # A sort by what is no column of the table is passed over.
        columns = {name: name for name in rows[0] if name != "id"} | {key: "id" if "id" in rows[0] else key}
        wanted = request.query.get("sort", default)
        wanted = wanted if wanted.removeprefix("-") in columns else default
        column = columns[wanted.removeprefix("-")]
        ordered.sort(key=lambda row: row[column], reverse=wanted.startswith("-"))
    following = []
    if size and page > 1 and (page - 1) * size < len(rows):
        following.append((page - 1, "prev"))
    if size and page * size < len(rows):
        following.append((page + 1, "next"))
    links = []
    for number, relation in following:
        query = unquote_plus(urlencode(sorted({**request.query, "page": number, "page_size": size}.items())))
        links.append(f'<{request.raw_path.partition("?")[0]}?{query}>; rel="{relation}"')
    headers = {"X-Total-Count": str(len(rows))} | ({"Link": " , ".join(links)} if links else {})
    begin = max(0, page - 1) * max(0, size)
    return ordered[begin : begin + size if size > 0 else None], headers


def page_of(request: web.BaseRequest, rows: Sequence[dict[str, Any]], *, default: str, key: str = "id") -> web.Response:
    """Answer a page."""
    shown, headers = _slice(request, rows, default, key)
    return answer(shown, headers=headers)


async def page_with(
    request: web.BaseRequest,
    rows: Sequence[dict[str, Any]],
    complete: Callable[[dict[str, Any]], Awaitable[dict[str, Any]]],
    *,
    key: str = "id",
) -> web.Response:
    """Answer a page whose rows alone are worth completing."""
    shown, headers = _slice(request, rows, f"-{key}", key)
    return answer([await complete(row) for row in shown], headers=headers)
