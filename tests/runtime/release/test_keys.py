"""Keys and signatures: OpenSSL's files, the standard's vectors."""

import base64
import os
import shutil
import subprocess

import pytest

from vitsd_runtime import UsageError, VitsdError
from vitsd_runtime.release import envelope, keys

pytest.importorskip("nacl")


def test_signatures_are_those_of_the_standard():
    # RFC 8032, section 7.1, test 2.
    seed = bytes.fromhex("4ccd089b28ff96da9db6c346ec114e0f5b8a319f35aba624da8cf6ed4fb8a6fb")
    key = bytes.fromhex("3d4017c3e843895a92b70aa74d1b7ebc9c982ccf2ec4968cc0cd55f12af4660c")
    signature = bytes.fromhex(
        "92a009a9f0d4cab8720e820b5f642540a2b27b5416503f8fb3762223ebdb69da"
        "085ac1e43e15996e458f3613d0f11d8c387b2eaeb4302aeeb00d291612bb0c00"
    )
    assert keys.public_of(seed) == key
    assert keys.sign(seed, b"\x72") == signature
    assert keys.is_signed(key, b"\x72", signature)
    assert not keys.is_signed(key, b"\x73", signature)
    assert not keys.is_signed(key, b"\x72", signature[:-1])


def test_what_is_signed_is_encoded_as_the_standard_says():
    # From the specification of DSSE 1.0.
    assert envelope.encoding("http://example.com/HelloWorld", b"hello world") == (
        b"DSSEv1 29 http://example.com/HelloWorld 11 hello world"
    )


def test_a_new_pair_works_and_the_private_key_is_private(tmp_path):
    public = keys.generate(tmp_path / "key")
    assert (tmp_path / "key").stat().st_mode & 0o777 == 0o600
    (key,) = keys.read_public([public])
    assert keys.public_of(keys.read_private(tmp_path / "key")) == key


def test_keys_are_not_overwritten(tmp_path):
    keys.generate(tmp_path / "key")
    before = (tmp_path / "key").read_bytes()
    with pytest.raises(UsageError, match="there already"):
        keys.generate(tmp_path / "key")
    assert (tmp_path / "key").read_bytes() == before


@pytest.mark.skipif(not shutil.which("openssl"), reason="no openssl")
@pytest.mark.parametrize("name", ["", ".", "/"])
def test_a_key_needs_a_name(name):
    with pytest.raises(UsageError, match="no name of a file"):
        keys.generate(name)


def test_no_half_of_a_pair_is_left(tmp_path):
    with pytest.raises(OSError, match="too long"):
        keys.generate(tmp_path / ("k" * 253))  # .pub is one character too many
    assert not list(tmp_path.iterdir())


def test_openssl_reads_our_keys_and_we_read_its(tmp_path):
    ours, its = tmp_path / "ours", tmp_path / "its"
    public = keys.generate(ours)
    shown = subprocess.run(
        ["openssl", "pkey", "-in", ours, "-pubout"], capture_output=True, check=True
    )
    assert shown.stdout.decode() == public.read_text()
    subprocess.run(["openssl", "genpkey", "-algorithm", "ed25519", "-out", its], check=True)
    assert len(keys.read_private(its)) == 32


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "no public key"),
        ("-----BEGIN PUBLIC KEY-----\n!!\n-----END PUBLIC KEY-----", "damaged"),
        ("-----BEGIN PUBLIC KEY-----\nMFkw\n-----END PUBLIC KEY-----", "another kind than Ed25519"),
        ("-----BEGIN PRIVATE KEY-----\nMC4=\n-----END PRIVATE KEY-----", "belongs to the publish"),
    ],
)
def test_other_files_are_no_public_keys(tmp_path, text, message):
    (tmp_path / "key").write_text(text)
    with pytest.raises(UsageError, match=message):
        keys.read_public([tmp_path / "key"])


@pytest.mark.parametrize(
    "change",
    [
        lambda e: e.update(payloadType="application/vnd.vitsd.index+json"),
        lambda e: e.update(payload=e["payload"][:-4]),
        lambda e: e.update(payload=5),
        lambda e: e.pop("signatures"),
        lambda e: e.update(signatures=[]),
        lambda e: e.update(signatures=5),
        lambda e: e["signatures"][0].update(sig="AAAA"),
        lambda e: e["signatures"][0].update(sig="\x1b"),
        lambda e: e["signatures"][0].update(keyid="0" * 16),
        lambda e: e["signatures"].insert(0, 7),
    ],
)
def test_a_changed_envelope_is_refused(change):
    seed = os.urandom(32)
    sealed = envelope.seal("release", {"version": 1}, seed)
    key = keys.public_of(seed)
    assert envelope.unseal(sealed, "release", [os.urandom(32), key]) == {"version": 1}
    change(sealed)
    with pytest.raises(VitsdError):
        envelope.unseal(sealed, "release", [key])


def url_safe(envelope):
    for part, name in ((envelope, "payload"), (envelope["signatures"][0], "sig")):
        part[name] = base64.urlsafe_b64encode(base64.b64decode(part[name])).decode()


@pytest.mark.parametrize(
    "change",
    [
        url_safe,
        lambda e: e["signatures"][0].pop("keyid"),
        lambda e: e["signatures"][0].update(keyid=""),
        lambda e: e["signatures"].insert(0, {"sig": "AAAA"}),
    ],
)
def test_envelopes_of_other_programs_are_read(change):
    seed = os.urandom(32)
    content = {"text": "\u07ff???>>>" * 9}
    sealed = envelope.seal("release", content, seed)
    change(sealed)
    assert envelope.unseal(sealed, "release", [os.urandom(32), keys.public_of(seed)]) == content


@pytest.mark.parametrize("value", [None, [], "x", 5, {}])
def test_what_is_no_envelope_is_refused(value):
    with pytest.raises(VitsdError, match="no signed release"):
        envelope.unseal(value, "release", [])
