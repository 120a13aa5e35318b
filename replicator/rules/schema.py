"""The JSON schema of the rules file, for completion and validation in an editor."""

from __future__ import annotations

from typing import Any

from replicator.aliyun import Visibility
from replicator.copy.options import Overwrite, Public
from replicator.registry.kinds import KINDS
from replicator.rules import auth, defaults, images, loading
from replicator.rules.auth import ALIYUN_KEYS, CREATE
from replicator.rules.defaults import ATTESTATIONS, CONTENT_KEYS, REPOSITORIES

SCHEMA_ID = ""
"""The address at which the schema is published; empty until there is one (CONTRIBUTING.md, "To fill in")."""


# The parser takes every scalar without quotes for a string; editors take 1.10 for a number. A list of types would be
# shorter, but validators in strict mode refuse it.
def _any_of(*types: str) -> dict[str, Any]:
    return {"anyOf": [{"type": each} for each in types]}


_STRING = _any_of("string", "number")
_STRINGS = {"anyOf": [*_STRING["anyOf"], {"type": "array", "items": _STRING, "minItems": 1}]}
_BOOLEAN = {"type": "boolean"}
_VARIABLES = "${NAME} is replaced by that environment variable."
_DEFAULT = '"" means the default registry and namespace.'
_PLACEHOLDERS = (
    "{project}, {name}, {repository} and {flat} stand for parts of the source's repository, in a tag {tag} for its tag."
)

# By key: the type, the description, and examples.
_Keys = dict[str, tuple[dict[str, Any], str, list[Any]]]
_CREATE: _Keys = {
    "repositories": ({"enum": [*Visibility]}, "The visibility of created repositories.", ["private"]),
    "namespaces": (_BOOLEAN, "true creates a missing namespace, too. The default is false.", [True]),
}
_ALIYUN: _Keys = {
    "access_key_id": (_STRING, f"The access key; goes with access_key_secret. {_VARIABLES}", ["${ALIYUN_KEY_ID}"]),
    "access_key_secret": (_STRING, f"The secret of the access key. {_VARIABLES}", ["${ALIYUN_KEY_SECRET}"]),
    "security_token": (_STRING, f"The token of a temporary access key (STS). {_VARIABLES}", ["${ALIYUN_STS_TOKEN}"]),
    "region": (_STRING, "The region. The default is taken from the registry's name.", ["cn-beijing"]),
    "instance_id": (
        _STRING,
        "The id of an Enterprise Edition instance. The default is found by the registry's name.",
        ["cri-8qbl1fpzwzzf0i2h"],
    ),
    "openapi_endpoint": (
        _STRING,
        "The host of Alibaba Cloud's OpenAPI, instead of cr.<region>.aliyuncs.com.",
        ["cr-vpc.cn-beijing.aliyuncs.com"],
    ),
}
_AUTH: _Keys = {
    "username": (_STRING, f"The user name of the login; goes with password. {_VARIABLES}", ["robot$replicator"]),
    "password": (_STRING, f"The password of the login. {_VARIABLES}", ["${HARBOR_PASSWORD}"]),
    "insecure": (_BOOLEAN, "true allows an unverified TLS certificate, and plain HTTP.", [True]),
    "anonymous": (_BOOLEAN, "true uses the registry without a login.", [True]),
    "ca_file": (
        _STRING,
        "A PEM file of certificates to trust, relative to the directory of the rules file.",
        ["harbor-ca.pem"],
    ),
    "endpoint": (
        _STRING,
        "The address to connect to instead: host, host:port, http://host:port or https://host:port.",
        ["harbor.internal:8443"],
    ),
    "proxy": (
        {**_any_of("string", "number", "boolean"), "not": {"const": True}},
        f"The HTTP proxy for this registry: http://host:port, or off for none. {_VARIABLES}",
        ["http://proxy.example.com:3128", "off"],
    ),
    "quiet_pulls": (_BOOLEAN, "true keeps Harbor from counting the replicator's pulls.", [True]),
}
_CONTENT: _Keys = {
    "types": (
        _STRINGS,
        (
            f"The kinds of artifacts to copy: {', '.join(KINDS)}, or media types. By default every kind that the "
            "destination accepts. With all, a kind that it refuses is a failure."
        ),
        ["image", ["image", "chart"]],
    ),
    "platforms": (
        _STRINGS,
        "The platforms to copy of an image for several. The default is all.",
        ["linux/amd64", ["linux/amd64", "linux/arm64"]],
    ),
    "attestations": (
        {"enum": [*ATTESTATIONS]},
        (
            "What to do with BuildKit's attestations: keep them, strip them, or fail. auto, the default, keeps them, "
            "but strips those that ACR refuses."
        ),
        ["strip"],
    ),
    "signatures": (
        {"enum": [True, False, "auto"]},
        (
            "Also copy signatures and attestations: auto, the default, copies those that Harbor lists; true copies "
            "everything that refers to the image; false copies none."
        ),
        [True],
    ),
    "overwrite": (
        {"enum": [*Overwrite]},
        (
            "Which tags may be replaced at the destination: always, the default, replaces every tag; ours replaces "
            "those that this installation wrote; never replaces none, and copies only missing tags."
        ),
        ["ours"],
    ),
    "public": (
        {"enum": [*Public]},
        (
            "What to do with a private image if anyone may pull from the destination: allow copies it, refuse does "
            "not. The default is a copy with a warning."
        ),
        ["refuse"],
    ),
}
_DEFAULTS: _Keys = {
    "registry": (_STRING, 'The registry of the destination "".', ["registry.cn-beijing.aliyuncs.com"]),
    "namespace": (_STRING, 'The namespace of the destination "".', ["team-mirror"]),
}
_REPOSITORIES: _Keys = {
    "exclude": (_STRINGS, "Repositories that are not copied: whole names or globs.", [["team/cache/**"]]),
}
_TAGS: _Keys = {
    "include": (_STRINGS, "Copy only tags that match one of these: tags, globs or /expressions/.", ["v*"]),
    "exclude": (_STRINGS, "Copy no tag that matches one of these: tags, globs or /expressions/.", [["*-rc*", "dev"]]),
    "semver": (_STRING, "Copy only tags that are a version in this range.", ["^1.4", ">=1.4,<2"]),
    "labels": (_STRINGS, "Copy only tags whose artifact has all of these labels in Harbor.", ["release"]),
    "exclude_labels": (_STRINGS, "Copy no tag whose artifact has one of these labels in Harbor.", [["broken"]]),
    "latest": ({"type": "integer", "minimum": 1}, "Copy only this number of the highest tags that pass.", [20]),
}
_EXAMPLE = {
    "auth": {
        "harbor.example.com": {"username": "robot$replicator", "password": "${HARBOR_PASSWORD}"},
        "registry.cn-beijing.aliyuncs.com": {"username": "pusher@1234567890", "password": "${ACR_PASSWORD}"},
    },
    "images": {"harbor.example.com/team/**": "registry.cn-beijing.aliyuncs.com/team-mirror/{flat}"},
}


def rules_schema() -> dict[str, Any]:
    """Return the schema, in draft 7 of JSON Schema (json-schema.org), which editors support.

    ``#/definitions/auth`` and ``#/definitions/images`` describe the files of ``--auth`` and ``--images``. Validators in
    strict mode, such as that of SchemaStore (schemastore.org), accept it.
    """

    def mapping(keys: tuple[str, ...], known: _Keys, **more: Any) -> dict[str, Any]:
        # A key of the parser without a description raises a KeyError here.
        properties = {key: {**known[key][0], "description": known[key][1], "examples": known[key][2]} for key in keys}
        return {"type": "object", "properties": properties, "additionalProperties": False, **more}

    create = mapping(CREATE, _CREATE, required=["repositories"])
    creating = "Create missing repositories at the first push, by Alibaba Cloud's OpenAPI."
    account = mapping(
        ALIYUN_KEYS,
        _ALIYUN | {"create": (create, creating, [{"repositories": "private"}])},
        dependencies={
            "access_key_id": ["access_key_secret"],
            "access_key_secret": ["access_key_id"],
            "security_token": ["access_key_id"],
        },
    )
    temporary = "Temporary logins of Alibaba Cloud, instead of username and password; {} is enough."
    login = mapping(
        auth.AUTH_KEYS,
        _AUTH | {"aliyun": (account, temporary, [{}])},
        dependencies={"username": ["password"], "password": ["username"]},
        description="How to log in to this registry, and how to connect to it.",
    )
    to = f"One destination or a list: host/namespace/repository. {_DEFAULT} {_PLACEHOLDERS}"
    excluding = mapping(REPOSITORIES, _REPOSITORIES, minProperties=1)
    destination = mapping(
        images.DESTINATION,
        _CONTENT
        | {
            "to": (_STRINGS, to, ["registry.cn-beijing.aliyuncs.com/team-mirror/{flat}"]),
            "repositories": (
                excluding,
                "A filter for the repositories that the pattern of the rule matches.",
                [{"exclude": "team/cache/**"}],
            ),
            "tags": (
                {"allOf": [{"$ref": "#/definitions/tags"}]},
                "A filter for tags; a tag must pass every key of it.",
                [{"include": "v*", "latest": 20}],
            ),
        },
        required=["to"],
        description="A destination, and the parts of an image that are copied there.",
    )
    one = [*_STRING["anyOf"], {"$ref": "#/definitions/destination"}]
    definitions = {
        "auth": {
            "type": "object",
            "description": "Logins by registry or registry/path; the longest matching key wins.",
            "additionalProperties": login,
            "examples": [_EXAMPLE["auth"]],
        },
        "defaults": mapping(
            (*defaults.NAMES, *CONTENT_KEYS), _DEFAULTS | _CONTENT, description="Defaults of all rules of this file."
        ),
        "images": {
            "type": "object",
            "description": "Destinations by source: host/repository, with optional :tags, :/expression/ or @digest.",
            "minProperties": 1,
            "additionalProperties": {
                "description": f"host/namespace/repository, a list, or a mapping with to. {_DEFAULT} {_PLACEHOLDERS}",
                "anyOf": [*one, {"type": "array", "items": {"anyOf": one}, "minItems": 1}],
            },
            "examples": [_EXAMPLE["images"]],
        },
        "destination": destination,
        "tags": mapping(images.TAGS, _TAGS, description="A filter for tags."),
    }
    return {
        "$schema": "http://json-schema.org/draft-07/schema#",
        **({"$id": SCHEMA_ID} if SCHEMA_ID else {}),
        "title": "Rules file of replicator",
        "description": "Which images replicator copies from Harbor to which registries, and with which logins.",
        "type": "object",
        "properties": {section: {"$ref": f"#/definitions/{section}"} for section in loading.SECTIONS},
        # A file of a directory may have nothing but logins.
        "anyOf": [{"required": [section], "properties": {section: True}} for section in ("images", "auth")],
        "additionalProperties": False,
        "examples": [_EXAMPLE],
        "definitions": definitions,
    }
