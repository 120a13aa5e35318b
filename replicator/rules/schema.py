"""The JSON schema of a rules file, for editors: which keys there are, what may stand under them, what they mean.

Its keys and words are those that the parser reads. It is wider than the parser, never narrower: a name with a mistake
in it, or two rules that clash, only the parser sees.
"""

from __future__ import annotations

from typing import Any

from replicator.aliyun import Visibility
from replicator.rules import auth, defaults, images, loading
from replicator.rules.auth import ALIYUN_KEYS, CREATE
from replicator.rules.defaults import ATTESTATIONS, CONTENT_KEYS

# A scalar without quotes is a text here, whatever it looks like; editors take 1.10 for a number.
_TEXT = {"type": ["string", "number"]}
_TRUTH = {"type": "boolean"}
_VARIABLES = "${NAME} is replaced by that environment variable."
_DEFAULT = '"" means the default registry and namespace.'
_PLACEHOLDERS = "{project}, {name}, {repository} and {flat} stand for parts of the source's repository."

_ALIYUN = {
    "access_key_id": (_TEXT, f"The access key to ask with; goes with access_key_secret. {_VARIABLES}"),
    "access_key_secret": (_TEXT, f"Its secret. {_VARIABLES}"),
    "security_token": (_TEXT, f"The token that belongs to a key of STS. {_VARIABLES}"),
    "region": (_TEXT, "The region's id, e.g. cn-beijing; by default the registry's."),
    "instance_id": (_TEXT, "The id of an Enterprise instance, cri-...; by default the registry's."),
    "openapi_endpoint": (_TEXT, "Stands in for cr.<region>.aliyuncs.com."),
}
_CREATE = {
    "repositories": ({"enum": [*Visibility]}, "What the repositories that are created are."),
    "namespaces": (_TRUTH, "Whether a namespace that is not there is created too."),
}
_AUTH = {
    "username": (_TEXT, f"The login's name; goes with password. {_VARIABLES}"),
    "password": (_TEXT, f"The login's password. {_VARIABLES}"),
    "insecure": (_TRUTH, "The TLS certificate is not verified, and plain HTTP is allowed."),
    "anonymous": (_TRUTH, "There is no login, and that is meant."),
    "ca_file": (_TEXT, "A PEM file with certificates to trust, relative to the folder of the rules file."),
    "endpoint": (_TEXT, "Connect there instead: host, host:port, http://host:port or https://host:port."),
    "quiet_pulls": (_TRUTH, "This Harbor does not count the replicator's pulls."),
}
_CONTENT = {
    "platforms": (None, "Only images for these, e.g. linux/amd64; all without it."),
    "attestations": ({"enum": [*ATTESTATIONS]}, "What becomes of BuildKit's attestations."),
    "signatures": (_TRUTH, "Whether signatures, and whatever else refers to the image, are copied too."),
}
_DEFAULTS = {
    "registry": (_TEXT, 'The registry that "" goes to.'),
    "namespace": (_TEXT, 'The namespace there that "" goes to.'),
}
_TAGS = {
    "include": (None, "A tag passes if one of these matches: tags, globs, /expressions/."),
    "exclude": (None, "A tag passes if none of these matches: tags, globs, /expressions/."),
    "semver": (_TEXT, "A tag passes if it is a version in this range, e.g. >=1.4,<2."),
    "latest": ({"type": "integer", "minimum": 1}, "A tag passes if it is among this many of the highest."),
}


def rules_schema() -> dict[str, Any]:
    """Return the schema, of draft 7 of JSON Schema (json-schema.org), which editors know.

    ``#/definitions/auth`` and ``#/definitions/images`` are those of the two files of ``--auth`` and ``--images``.
    """
    texts = {"oneOf": [_TEXT, {"type": "array", "items": _TEXT, "minItems": 1}]}

    def mapping(keys: tuple[str, ...], known: dict[str, Any], **more: Any) -> dict[str, Any]:
        # What the parser reads and nobody described is a KeyError here.
        properties = {key: {**(known[key][0] or texts), "description": known[key][1]} for key in keys}
        return {"type": "object", "properties": properties, "additionalProperties": False, **more}

    create = mapping(CREATE, _CREATE, required=["repositories"])
    account = mapping(
        ALIYUN_KEYS,
        _ALIYUN | {"create": (create, "What a push lacks is created, through Alibaba Cloud's OpenAPI.")},
        dependencies={
            "access_key_id": ["access_key_secret"],
            "access_key_secret": ["access_key_id"],
            "security_token": ["access_key_id"],
        },
    )
    login = mapping(
        auth.AUTH_KEYS,
        _AUTH
        | {"aliyun": (account, "In place of a login at ACR: temporary logins of Alibaba Cloud; {} asks for them.")},
        dependencies={"username": ["password"], "password": ["username"]},
    )
    tags = mapping(images.TAGS, _TAGS)
    destination = mapping(
        images.DESTINATION,
        _CONTENT
        | {
            "to": (None, f"One destination or a list: host/namespace/repository. {_DEFAULT} {_PLACEHOLDERS}"),
            "tags": ({"$ref": "#/definitions/tags"}, "Which tags; all that is given must hold."),
        },
        required=["to"],
    )
    one = {"oneOf": [_TEXT, {"$ref": "#/definitions/destination"}]}
    definitions = {
        "auth": {
            "type": "object",
            "description": "Who we are at which registry: by registry, or registry/path, of which the longest counts.",
            "additionalProperties": login,
        },
        "defaults": mapping(
            (*defaults.NAMES, *CONTENT_KEYS), _DEFAULTS | _CONTENT, description="What rules mean that don't say it."
        ),
        "images": {
            "type": "object",
            "description": "What is copied where: host/repository, perhaps with :tags, :/expression/ or @digest.",
            "minProperties": 1,
            "additionalProperties": {
                "description": f"host/namespace/repository, a list, or a mapping with to. {_DEFAULT} {_PLACEHOLDERS}",
                "oneOf": [*one["oneOf"], {"type": "array", "items": one, "minItems": 1}],
            },
        },
        "destination": destination,
        "tags": tags,
    }
    return {
        "$schema": "http://json-schema.org/draft-07/schema#",
        "title": "Rules file of replicator",
        "type": "object",
        "properties": {section: {"$ref": f"#/definitions/{section}"} for section in loading.SECTIONS},
        "required": ["images"],
        "additionalProperties": False,
        "definitions": definitions,
    }
