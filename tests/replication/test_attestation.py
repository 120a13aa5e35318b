"""Signed statements about a comparison: what they say, and that no change of them goes unnoticed."""

from __future__ import annotations

import base64
import json
import random
import stat
import subprocess
from hashlib import sha256
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from replicator.errors import ConfigError
from replicator.replication.attestation import (
    PREDICATE_TYPE,
    STATEMENT_TYPE,
    AttestationFile,
    Compared,
    Facts,
    MerkleTree,
    State,
    check,
    is_whole,
)
from replicator.replication.report import Report, Row, RowOutcome
from replicator.replication.signing import (
    NotGenuine,
    VerifyingKey,
    open_signing_key,
    open_verifying_key,
    pre_authentication,
    public_file,
)
from tests.docs.pages import blocks

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

OURS, OTHER = f"sha256:{'a' * 64}", f"sha256:{'b' * 64}"
SOURCE, TARGET = "harbor.example.com/team/app:v1", "registry.example.com/mirror/app:v1"


def rows(number: int) -> list[Row]:
    return [
        Row(f"{SOURCE}{place}", f"{TARGET}{place}", RowOutcome.UP_TO_DATE, OURS, source_digest=OURS, present=OURS)
        for place in range(number)
    ]


def attested(directory: Path, number: int = 20, *, complete: bool = False) -> Path:
    file, facts = directory / "equal.jsonl", Facts("r", "verify", deep=True, complete=complete)
    output = AttestationFile("--attest", file, open_signing_key(directory / "a.key"), facts)
    output.check()
    for row in rows(number):
        output.row(row)
    output.end()
    return file


def naive_root(entries: Sequence[bytes]) -> bytes:
    """The definition of RFC 9162, 2.1.1, as it stands there."""
    if len(entries) < 2:
        return sha256(*(b"\0" + entry for entry in entries)).digest()
    half = 1 << (len(entries) - 1).bit_length() - 1
    return sha256(b"\1" + naive_root(entries[:half]) + naive_root(entries[half:])).digest()


def test_the_tree_is_that_of_rfc_9162() -> None:
    tree, entries = MerkleTree(), list[bytes]()
    for number in range(130):
        assert (tree.size, tree.root) == (number, naive_root(entries).hex())
        entries.append(str(number).encode())
        tree.add(entries[-1])


def test_what_is_signed_is_what_the_specification_of_dsse_signs() -> None:
    """The test vector of DSSE's protocol.md: the bytes that are signed, and ECDSA's signature over them."""
    signed = pre_authentication(b"hello world", "http://example.com/HelloWorld")
    assert signed == b"DSSEv1 29 http://example.com/HelloWorld 11 hello world"
    x = 46950820868899156662930047687818585632848591499744589407958293238635476079160
    y = 5640078356564379163099075877009565129882514886557779369047442380624545832820
    key = VerifyingKey.of(ec.EllipticCurvePublicNumbers(x, y, ec.SECP256R1()).public_key())
    raw = base64.b64decode("A3JqsQGtVsJ2O2xqrI5IcnXip5GToJ3F+FnZ+O88SjtR6rDAajabZKciJTfUiHqJPcIAriEGAHTVeCUjW2JIZA==")
    # The vector has the two numbers one after the other; cosign and we have them in DER.
    signature = encode_dss_signature(int.from_bytes(raw[:32]), int.from_bytes(raw[32:]))
    assert key.verifies(signature, signed)
    assert not key.verifies(signature, signed + b"!")


def test_the_last_line_is_an_envelope_and_a_statement_as_cosign_reads_them(tmp_path: Path) -> None:
    """What ``cosign verify-blob-attestation --signature`` asks of them, by its source (cosign 2.4)."""
    file = attested(tmp_path, complete=True)
    *lines, last = file.read_bytes().splitlines(keepends=True)
    document = json.loads(last)
    assert set(document) == {"payloadType", "payload", "signatures"}
    assert document["payloadType"] == "application/vnd.in-toto+json"
    (signature,) = document["signatures"]
    # It skips a signature whose hint at the key differs from its own, and makes that in a way of its own.
    assert signature["keyid"] == ""
    payload = base64.b64decode(document["payload"], validate=True)
    key = open_verifying_key(tmp_path / "a.pub")
    assert key.verifies(base64.b64decode(signature["sig"], validate=True), pre_authentication(payload))
    statement = json.loads(payload)
    assert set(statement) == {"_type", "subject", "predicateType", "predicate"}
    assert (statement["_type"], statement["predicateType"]) == (STATEMENT_TYPE, PREDICATE_TYPE)
    assert urlsplit(PREDICATE_TYPE).scheme == "urn", "it takes a URI for the type of a predicate"
    assert [each["digest"]["sha256"] for each in statement["subject"]] == [sha256(b"".join(lines)).hexdigest()]


@pytest.mark.parametrize(
    ("row", "state", "wanted"),
    [
        (Row("s", "d", RowOutcome.UP_TO_DATE, OURS, present=OURS), State.EQUAL, OURS),
        (Row("s", "d", RowOutcome.COPIED, OURS, present=OURS), State.EQUAL, OURS),
        (Row("s", "d", RowOutcome.WOULD_COPY, OURS, present=OTHER), State.DIFFERENT, OURS),
        (Row("s", "d", RowOutcome.WOULD_COPY, OURS), State.MISSING, OURS),
        (Row("s", "d", RowOutcome.WOULD_COPY), State.MISSING, None),
        (Row("s", "d", RowOutcome.WOULD_COPY, OURS, present=OURS), State.INCOMPLETE, OURS),
        (Row("s", "d", RowOutcome.SKIPPED), State.SKIPPED, None),
        (Row("s", "d", RowOutcome.SKIPPED, still_holds=OTHER, present=OTHER), State.DIFFERENT, None),
        (Row("s", "d", RowOutcome.SKIPPED, OTHER, present=OTHER), State.KEPT, None),
        (Row("s", "d", RowOutcome.SOURCE_GONE, still_holds=OTHER, present=OTHER), State.EXTRA, None),
        (Row("s", "d", RowOutcome.HELD), State.DIFFERENT, None),
        (Row("s", "d", RowOutcome.FAILED, error="no"), State.FAILED, None),
        (Row("s", "", RowOutcome.NOT_LISTED, error="no"), State.NOT_LISTED, None),
        *((Row("s", "d", RowOutcome(word)), State.UNKNOWN, None) for word in ("queued", "not begun", "cancelled")),
    ],
    ids=lambda value: str(value.outcome) if isinstance(value, Row) else "",
)
def test_a_row_says_what_is_at_the_destination_beside_what_is_wanted(
    row: Row, state: State, wanted: str | None
) -> None:
    compared = Compared.of(row)
    assert (compared.state, compared.wanted, compared.destination_digest) == (state, wanted, row.present)
    assert Compared.parse(compared.line) == compared
    assert list(json.loads(compared.line)) == sorted(json.loads(compared.line))


def test_a_statement_says_what_was_compared_and_whether_all_of_it_was(tmp_path: Path) -> None:
    file = attested(tmp_path, 20, complete=True)
    found = check(file, open_verifying_key(tmp_path / "a.pub"))
    assert (found.rows, found.is_equal, found.predicate["deep"]) == (20, True, True)
    assert found.predicate["counts"] == {"equal": 20}
    lines = [Compared.parse(line) for line in file.read_text().splitlines()[:-1]]
    assert lines == sorted(map(Compared.of, rows(20)), key=lambda row: row.destination)
    # Not all was compared.
    assert not check(attested(tmp_path, 20), open_verifying_key(tmp_path / "a.key")).is_equal
    assert is_whole(Report(complete=True))
    assert not any(map(is_whole, (Report(), Report(complete=True, interrupted=True))))


def test_without_rows_it_is_a_statement_too(tmp_path: Path) -> None:
    assert check(attested(tmp_path, 0), open_verifying_key(tmp_path / "a.pub")).rows == 0


def changes(chance: random.Random, lines: list[bytes]) -> list[bytes]:
    """Change, add, leave out or move one of the rows; the last line is the signature."""
    place = chance.randrange(len(lines) - 1)
    line, others = lines[place], [*lines[:place], *lines[place + 1 :]]
    match chance.randrange(6):
        case 0:
            byte = chance.randrange(len(line) - 1)
            changed = line[:byte] + bytes([line[byte] ^ 1 << chance.randrange(8)]) + line[byte + 1 :]
            return [*others[:place], changed, *others[place:]]
        case 1:
            return others
        case 2:
            return [*lines[:place], line, *lines[place:]]
        case 3:
            other = chance.choice([each for each in range(len(others)) if each != place])
            return [*others[:other], line, *others[other:]]
        case 4:
            made = Compared(SOURCE, f"{TARGET}-{chance.random()}", State.EQUAL, OURS, OURS, OURS).line.encode()
            return [*lines[:place], made + b"\n", *lines[place:]]
        case _:
            row = json.loads(line)
            name = chance.choice(sorted(row))
            return [*others[:place], json.dumps(row | {name: f"{row[name]}x"}).encode() + b"\n", *others[place:]]


def undetected(directory: Path, number: int) -> list[bytes]:
    file = attested(directory)
    key, lines = open_verifying_key(directory / "a.pub"), file.read_bytes().splitlines(keepends=True)
    chance, passed = random.Random(number), []
    for _ in range(number):
        content = b"".join(changes(chance, lines))
        file.write_bytes(content)
        try:
            check(file, key)
            passed.append(content)
        except NotGenuine:
            pass
    return passed


def test_every_row_that_is_changed_added_left_out_or_moved_is_found(tmp_path: Path) -> None:
    assert undetected(tmp_path, 200) == []


@pytest.mark.scale
def test_ten_thousand_of_ten_thousand_changes_are_found(tmp_path: Path) -> None:
    assert undetected(tmp_path, 10_000) == []


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (lambda content: content[:-1], "is incomplete"),
        (lambda content: b"", "is incomplete"),
        (lambda content: content + b"{}\n", "has no signature"),
        (lambda content: b"".join(content.splitlines(keepends=True)[:-1]), "has no signature"),
        (lambda content: content + content.splitlines(keepends=True)[-1], "are not the signed rows"),
        (lambda content: content.replace(b"\n", b"\r\n"), "are not the signed rows"),
        (lambda content: b"x" * 2_000_000, "is no attestation"),
        (lambda content: content.replace(b'"payload":"ey', b'"payload":"ez'), "does not fit"),
    ],
)
def test_a_damaged_file_is_refused_with_the_reason(tmp_path: Path, damage: Callable[[bytes], bytes], says: str) -> None:
    file = attested(tmp_path)
    file.write_bytes(damage(file.read_bytes()))
    with pytest.raises(NotGenuine, match=says):
        check(file, open_verifying_key(tmp_path / "a.pub"))


def test_a_signature_of_another_key_is_refused(tmp_path: Path) -> None:
    file = attested(tmp_path)
    open_signing_key(tmp_path / "b.key")
    with pytest.raises(NotGenuine, match="signed with another key"):
        check(file, open_verifying_key(tmp_path / "b.pub"))


def test_another_statement_of_the_same_key_is_refused(tmp_path: Path) -> None:
    from replicator.replication.signing import envelope

    file, key = tmp_path / "other.jsonl", open_signing_key(tmp_path / "a.key")
    for statement in (b'{"_type": "https://in-toto.io/Statement/v1"}', b"[]", b"no JSON"):
        file.write_text(f"{envelope(statement, key)}\n")
        with pytest.raises(NotGenuine, match=r"another kind of statement|no statement"):
            check(file, key.public)


def test_a_key_is_made_once_for_its_owner_alone(tmp_path: Path) -> None:
    file = tmp_path / "a.key"
    made, again = open_signing_key(file), open_signing_key(file)
    assert (made.is_new, again.is_new, made.public.id) == (True, False, again.public.id)
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    secret = base64.b64decode("".join(file.read_text().splitlines()[1:-1]))[-32:]
    assert secret.hex() not in repr(made)
    assert public_file(file).read_text() == made.public.pem
    with pytest.raises(ConfigError, match="can't be written"):
        open_signing_key(tmp_path / "absent" / "a.key")


@pytest.mark.parametrize("kind", [PrivateFormat.PKCS8, PrivateFormat.TraditionalOpenSSL])
def test_a_key_of_cosigns_kind_signs_too(tmp_path: Path, kind: PrivateFormat) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    (tmp_path / "a.key").write_bytes(key.private_bytes(Encoding.PEM, kind, NoEncryption()))
    assert check(attested(tmp_path), open_signing_key(tmp_path / "a.key").public).rows == 20


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"-----BEGIN ENCRYPTED SIGSTORE PRIVATE KEY-----\nZQ==\n", "encrypted.*cosign import-key-pair"),
        (b"-----BEGIN ENCRYPTED PRIVATE KEY-----\nZQ==\n", "encrypted"),
        (b"nonsense", "not a usable private key"),
        (None, "not a usable private key: give a PEM file with an Ed25519 key"),
    ],
    ids=["cosign", "pkcs8", "none", "rsa"],
)
def test_a_key_that_can_not_be_used_is_refused_with_what_to_do(
    tmp_path: Path, content: bytes | None, says: str
) -> None:
    file = tmp_path / "a.key"
    other = rsa.generate_private_key(65537, 2048) if content is None else None
    file.write_bytes(
        other.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()) if other else content or b""
    )
    with pytest.raises(ConfigError, match=says):
        open_signing_key(file)
    with pytest.raises(ConfigError, match=r"usable|can't be used"):
        open_verifying_key(file)


def test_others_can_check_it_with_the_commands_in_the_documentation(tmp_path: Path) -> None:
    """The same in the words of the page, with openssl and no line of ours."""
    (script,) = [block.text for block in blocks("sh") if block.page.name == "verify.md" and "openssl" in block.text]
    file = attested(tmp_path)
    (tmp_path / "a.pub").rename(tmp_path / "replicator.pub")
    said = subprocess.run(["sh", "-eu"], input=script, cwd=tmp_path, capture_output=True, text=True, timeout=30)
    assert (said.returncode, said.stderr) == (0, ""), said
    statement = json.loads((tmp_path / "statement.json").read_text())
    assert statement["subject"][0]["digest"]["sha256"] in said.stdout
    assert "Verified Successfully" in said.stdout
    changed = file.read_bytes().replace(b'"payload":"ey', b'"payload":"ez')
    file.write_bytes(changed)
    assert subprocess.run(["sh", "-eu"], input=script, cwd=tmp_path, capture_output=True, text=True).returncode != 0
