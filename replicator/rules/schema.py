"""JSON schema of a rules file, for editors: the keys, their types and their meaning.

The keys and words come from the parser. The schema accepts everything that the parser accepts, and more: only the
parser finds a misspelt name or a collision of two rules.
"""

from __future__ import annotations

from typing import Any

from replicator.aliyun import Visibility
from replicator.copy.options import Overwrite, Public
from replicator.rules import auth, defaults, images, loading
from replicator.rules.auth import ALIYUN_KEYS, CREATE
from replicator.rules.defaults import ATTESTATIONS, CONTENT_KEYS

# The parser takes every scalar without quotes for a string; editors take 1.10 for a number.
_STRING = {"type": ["string", "number"]}
_BOOLEAN = {"type": "boolean"}
_VARIABLES = "${NAME} is replaced by that environment variable."
_DEFAULT = '"" means the default registry and namespace.'
_PLACEHOLDERS = (
    "{project}, {name}, {repository} and {flat} stand for parts of the source's repository, in a tag {tag} for its tag."
)

_ALIYUN = {
    "access_key_id": (_STRING, f"The access key; goes with access_key_secret. {_VARIABLES}"),
    "access_key_secret": (_STRING, f"The secret of the access key. {_VARIABLES}"),
    "security_token": (_STRING, f"The token of a temporary access key (STS). {_VARIABLES}"),
    "region": (_STRING, "The region, e.g. cn-beijing; the registry's by default."),
    "instance_id": (_STRING, "The id of an Enterprise instance, cri-...; the registry's by default."),
    "openapi_endpoint": (_STRING, "Replaces cr.<region>.aliyuncs.com."),
}
_CREATE = {
    "repositories": ({"enum": [*Visibility]}, "The visibility of created repositories."),
    "namespaces": (_BOOLEAN, "Whether a missing namespace is created too."),
}
_AUTH = {
    "username": (_STRING, f"The user name of the login; goes with password. {_VARIABLES}"),
    "password": (_STRING, f"The password of the login. {_VARIABLES}"),
    "insecure": (_BOOLEAN, "The TLS certificate is not verified, and plain HTTP is allowed."),
    "anonymous": (_BOOLEAN, "The registry is used without a login."),
    "ca_file": (_STRING, "A PEM file with certificates to trust, relative to the folder of the rules file."),
    "endpoint": (_STRING, "The address to connect to instead: host, host:port, http://host:port or https://host:port."),
    "proxy": (
        {"type": ["string", "number", "boolean"], "not": {"const": True}},
        f"The HTTP proxy for this registry: http://host:port, or off for none at all. {_VARIABLES}",
    ),
    "quiet_pulls": (_BOOLEAN, "Harbor does not count the replicator's pulls."),
}
_CONTENT = {
    "platforms": (None, "Copy only the images for these platforms, e.g. linux/amd64; all by default."),
    "attestations": ({"enum": [*ATTESTATIONS]}, "Whether BuildKit's attestations are copied."),
    "signatures": (
        {"enum": [True, False, "auto"]},
        (
            "Whether signatures and attestations are copied too: auto, the default, for those in Harbor's list; "
            "true for everything that refers to the image."
        ),
    ),
    "overwrite": (
        {"enum": [*Overwrite]},
        (
            "What may be replaced at the destination: always, the default, whatever a tag names; ours, what this "
            "installation wrote; never, nothing, so that only missing tags are filled."
        ),
    ),
    "public": (
        {"enum": [*Public]},
        "A private image at a destination that anyone may pull from: copied with a warning; or allow, or refuse.",
    ),
}
_DEFAULTS = {
    "registry": (_STRING, 'The registry that "" stands for.'),
    "namespace": (_STRING, 'The namespace that "" stands for.'),
}
_TAGS = {
    "include": (None, "A tag passes if one of these matches: tags, globs, /expressions/."),
    "exclude": (None, "A tag passes if none of these matches: tags, globs, /expressions/."),
    "semver": (_STRING, "A tag passes if it is a version in this range, e.g. ^1.4 or >=1.4,<2."),
    "labels": (None, "A tag passes if its artifact has all of these labels of Harbor."),
    "exclude_labels": (None, "A tag passes if its artifact has none of these labels of Harbor."),
    "latest": ({"type": "integer", "minimum": 1}, "A tag passes if it is among this number of the highest."),
}


def rules_schema() -> dict[str, Any]:
    """Return the schema, in draft 7 of JSON Schema (json-schema.org), which editors support.

    ``#/definitions/auth`` and ``#/definitions/images`` describe the files of ``--auth`` and ``--images``.
    """
    strings = {"oneOf": [_STRING, {"type": "array", "items": _STRING, "minItems": 1}]}

    def mapping(keys: tuple[str, ...], known: dict[str, Any], **more: Any) -> dict[str, Any]:
        # A key of the parser without a description raises a KeyError here.
        properties = {key: {**(known[key][0] or strings), "description": known[key][1]} for key in keys}
        return {"type": "object", "properties": properties, "additionalProperties": False, **more}

    create = mapping(CREATE, _CREATE, required=["repositories"])
    account = mapping(
        ALIYUN_KEYS,
        _ALIYUN | {"create": (create, "Create missing repositories through Alibaba Cloud's OpenAPI.")},
        dependencies={
            "access_key_id": ["access_key_secret"],
            "access_key_secret": ["access_key_id"],
            "security_token": ["access_key_id"],
        },
    )
    login = mapping(
        auth.AUTH_KEYS,
        _AUTH
        | {"aliyun": (account, "Temporary logins of Alibaba Cloud instead of username and password; {} is enough.")},
        dependencies={"username": ["password"], "password": ["username"]},
    )
    tags = mapping(images.TAGS, _TAGS)
    destination = mapping(
        images.DESTINATION,
        _CONTENT
        | {
            "to": (None, f"One destination or a list: host/namespace/repository. {_DEFAULT} {_PLACEHOLDERS}"),
            "tags": ({"$ref": "#/definitions/tags"}, "A filter for tags; a tag must pass every key of it."),
        },
        required=["to"],
    )
    one = {"oneOf": [_STRING, {"$ref": "#/definitions/destination"}]}
    definitions = {
        "auth": {
            "type": "object",
            "description": "Logins by registry or registry/path; the longest matching key wins.",
            "additionalProperties": login,
        },
        "defaults": mapping(
            (*defaults.NAMES, *CONTENT_KEYS), _DEFAULTS | _CONTENT, description="Defaults of all rules."
        ),
        "images": {
            "type": "object",
            "description": "Destinations by source: host/repository, with optional :tags, :/expression/ or @digest.",
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
        # A file of a directory may have nothing but logins.
        "anyOf": [{"required": ["images"]}, {"required": ["auth"]}],
        "additionalProperties": False,
        "definitions": definitions,
    }
