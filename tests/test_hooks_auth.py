"""Who may call: tokens of CDS Clients, attacked."""

from __future__ import annotations

import base64
import json
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from jwt.algorithms import ECAlgorithm, RSAAlgorithm

from kbtool.hooks import auth

ISSUER, JKU = "https://ehr.example.org/", "https://ehr.example.org/jwks"
URL = "https://cds.example.org/cds-services/dialysis-order-sign"
NOW = datetime(2026, 2, 10, 12, tzinfo=UTC)
AT = int(NOW.timestamp())
EC, OTHER = ec.generate_private_key(ec.SECP384R1()), ec.generate_private_key(ec.SECP384R1())
RSA = rsa.generate_private_key(65537, 2048)
AUDIENCES = [f"{URL}/", f"{URL}?x=1", URL.replace("sign", "select"), URL.replace("https", "http"), "", None, [], 5]
SMALL = rsa.generate_private_key(65537, 1024)  # noqa: S505


def public(key: Any, kid: str, **more: str) -> dict[str, Any]:
    algorithm = ECAlgorithm if isinstance(key, ec.EllipticCurvePrivateKey) else RSAAlgorithm
    made: dict[str, Any] = json.loads(algorithm.to_jwk(key.public_key()))
    return made | {"kid": kid} | more


def configured(folder: Path, document: Any) -> auth.Clients:
    file = folder / "clients.json"
    file.write_text(document if isinstance(document, str) else json.dumps(document), encoding="utf-8")
    return auth.read_clients(file)


@pytest.fixture
def clients(tmp_path: Path) -> auth.Clients:
    keys = [public(EC, "ec-1", alg="ES384", use="sig"), public(RSA, "rsa-1")]
    other = {"jwks": {"keys": [public(OTHER, "ec-1")]}}
    return configured(tmp_path, {ISSUER: {"jwks": {"keys": keys}, "jku": JKU}, "https://other.example.org/": other})


def signed(key: Any = EC, algorithm: str = "ES384", head: dict[str, Any] | None = None, **claims: Any) -> str:
    content = {"iss": ISSUER, "aud": URL, "iat": AT, "exp": AT + 300, "jti": "one"} | claims
    content = {name: value for name, value in content.items() if value is not None}
    heading = {"kid": "rsa-1" if key is RSA else "ec-1", "typ": "JWT"} | (head or {})
    return "Bearer " + jwt.encode(content, key, algorithm=algorithm, headers={k: v for k, v in heading.items() if v is not None})


def raw(head: Any, claims: Any, signature: bytes = b"x") -> str:
    parts = [json.dumps(head).encode(), json.dumps(claims).encode(), signature]
    return "Bearer " + ".".join(base64.urlsafe_b64encode(part).rstrip(b"=").decode() for part in parts)


def refused(clients: auth.Clients, header: str | None, url: str = URL, now: datetime = NOW) -> str:
    with pytest.raises(auth.Unauthorised) as caught:
        auth.check(header, clients, url, now)
    reason = caught.value.reason
    assert reason
    for part in (header or "").split()[-1:] if len(header or "") > 30 else []:
        assert part not in reason
        assert all(piece not in reason for piece in part.split(".") if len(piece) > 10)
    return reason


@pytest.mark.parametrize(("key", "algorithm"), [(EC, "ES384"), (RSA, "RS384")])
def test_a_good_token(clients: auth.Clients, key: Any, algorithm: str) -> None:
    assert auth.check(signed(key, algorithm), clients, URL, NOW) == ISSUER


def test_the_audience_may_be_a_list_and_the_scheme_in_small_letters(clients: auth.Clients) -> None:
    assert auth.check(signed(aud=[URL]), clients, URL, NOW) == ISSUER
    assert auth.check(signed(jti="two").replace("Bearer", "bearer"), clients, URL, NOW) == ISSUER
    assert auth.check(signed(jti="three", head={"jku": JKU}), clients, URL, NOW) == ISSUER


@pytest.mark.parametrize(
    "header", [None, "", "Bearer", "Bearer ", "Basic dXNlcjpwdw==", "Bearer x", "Bearer a.b.c", "Bearer " + "a" * 9000]
)
def test_no_token(clients: auth.Clients, header: str | None) -> None:
    refused(clients, header)


@pytest.mark.parametrize(
    "algorithm", ["none", "HS256", "HS384", "HS512", "ES256", "RS256", "PS384", "EdDSA", "es384", "", None, 5]
)
def test_other_algorithms(clients: auth.Clients, algorithm: Any) -> None:
    claims = {"iss": ISSUER, "aud": URL, "iat": AT, "exp": AT + 300, "jti": "x"}
    refused(clients, raw({"alg": algorithm, "kid": "ec-1", "typ": "JWT"}, claims, b""))


def test_a_public_key_is_no_shared_secret(clients: auth.Clients) -> None:
    """The old confusion: a token signed by HMAC with the public key as its secret."""
    import hashlib
    import hmac

    secret = RSA.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    head = {"alg": "HS384", "kid": "rsa-1", "typ": "JWT"}
    claims = {"iss": ISSUER, "aud": URL, "iat": AT, "exp": AT + 300, "jti": "x"}
    body = raw(head, claims).removeprefix("Bearer ").rpartition(".")[0]
    signature = hmac.new(secret, body.encode(), hashlib.sha384).digest()
    assert "signed with" in refused(clients, raw(head, claims, signature))


def test_an_algorithm_of_another_key(clients: auth.Clients) -> None:
    assert "key" in refused(clients, signed(RSA, "RS384", head={"kid": "ec-1"}))
    assert "key" in refused(clients, signed(EC, head={"kid": "rsa-1"}))


def test_signatures(clients: auth.Clients) -> None:
    assert "signature" in refused(clients, signed(OTHER))
    good = signed()
    changed = good[:-8] + ("A" * 8 if not good.endswith("A" * 8) else "B" * 8)
    assert "signature" in refused(clients, changed)
    head, claims, signature = good.removeprefix("Bearer ").split(".")
    other = json.loads(base64.urlsafe_b64decode(claims + "==")) | {"jti": "changed"}
    swapped = base64.urlsafe_b64encode(json.dumps(other).encode()).rstrip(b"=").decode()
    assert "signature" in refused(clients, f"Bearer {head}.{swapped}.{signature}")


def test_a_key_of_another_client_is_no_key_of_this_one(clients: auth.Clients) -> None:
    """Both clients have a key called ec-1."""
    assert auth.check(signed(OTHER, iss="https://other.example.org/"), clients, URL, NOW) == "https://other.example.org/"
    refused(clients, signed(OTHER))


@pytest.mark.parametrize("issuer", ["https://evil.example.org/", "https://ehr.example.org", "", None, 5, [ISSUER]])
def test_issuers_that_are_not_trusted(clients: auth.Clients, issuer: Any) -> None:
    claims = {"iss": issuer, "aud": URL, "iat": AT, "exp": AT + 300, "jti": "x"}
    refused(clients, raw({"alg": "ES384", "kid": "ec-1", "typ": "JWT"}, claims))


@pytest.mark.parametrize("kid", ["ec-2", "", None])
def test_unknown_keys(clients: auth.Clients, kid: Any) -> None:
    refused(clients, signed(head={"kid": kid}))


def test_a_jku_is_compared_and_never_fetched(clients: auth.Clients, monkeypatch: pytest.MonkeyPatch) -> None:
    import socket

    def no(*_: Any, **__: Any) -> None:
        raise AssertionError("the network was used")

    monkeypatch.setattr(socket.socket, "connect", no)
    monkeypatch.setattr(socket, "getaddrinfo", no)
    assert auth.check(signed(head={"jku": JKU}), clients, URL, NOW) == ISSUER
    assert "jku" in refused(clients, signed(jti="2", head={"jku": "https://evil.example.org/jwks"}))
    assert "jku" in refused(clients, signed(OTHER, jti="3", iss="https://other.example.org/", head={"jku": JKU}))


@pytest.mark.parametrize("audience", AUDIENCES)
def test_audiences(clients: auth.Clients, audience: Any) -> None:
    claims = {"iss": ISSUER, "iat": AT, "exp": AT + 300, "jti": "x"} | ({} if audience is None else {"aud": audience})
    token = jwt.api_jws.encode(json.dumps(claims).encode(), EC, algorithm="ES384", headers={"kid": "ec-1", "typ": "JWT"})
    refused(clients, f"Bearer {token}")


@pytest.mark.parametrize(
    "claims",
    [
        {"exp": None}, {"iat": None}, {"jti": None}, {"jti": ""}, {"jti": 5}, {"exp": "soon"}, {"iat": "now"}, {"exp": True},
        {"exp": AT - 31}, {"exp": AT - 30, "iat": AT - 60}, {"iat": AT + 31}, {"iat": AT + 10, "exp": AT + 5},
        {"exp": AT + 3601}, {"exp": 1e13}, {"iat": -1e13},
    ],
)  # fmt: skip
def test_times_and_token_ids(clients: auth.Clients, claims: dict[str, Any]) -> None:
    content = {"iss": ISSUER, "aud": URL, "iat": AT, "exp": AT + 300, "jti": "x"} | claims
    content = {name: value for name, value in content.items() if value is not None}
    token = jwt.api_jws.encode(json.dumps(content).encode(), EC, algorithm="ES384", headers={"kid": "ec-1", "typ": "JWT"})
    refused(clients, f"Bearer {token}")


@pytest.mark.parametrize("claims", [{"exp": AT - 29, "iat": AT - 60}, {"iat": AT + 30}, {"exp": AT + 3600}, {"exp": AT + 300.5}])
def test_the_other_side_of_the_limits(clients: auth.Clients, claims: dict[str, Any]) -> None:
    assert auth.check(signed(**claims), clients, URL, NOW) == ISSUER


def test_nan_is_no_time(clients: auth.Clients) -> None:
    content = json.dumps({"iss": ISSUER, "aud": URL, "iat": AT, "exp": float("nan"), "jti": "x"})
    token = jwt.api_jws.encode(content.encode(), EC, algorithm="ES384", headers={"kid": "ec-1", "typ": "JWT"})
    refused(clients, f"Bearer {token}")


@pytest.mark.parametrize("head", [{"typ": None}, {"typ": "at+jwt"}, {"crit": ["b64"], "b64": False}, {"crit": ["x"], "x": 1}])
def test_headers(clients: auth.Clients, head: dict[str, Any]) -> None:
    content = {"iss": ISSUER, "aud": URL, "iat": AT, "exp": AT + 300, "jti": "x"}
    heading = {k: v for k, v in ({"alg": "ES384", "kid": "ec-1", "typ": "JWT"} | head).items() if v is not None}
    refused(clients, raw(heading, content))


def test_a_token_is_good_once(clients: auth.Clients) -> None:
    token = signed()
    auth.check(token, clients, URL, NOW)
    assert "used before" in refused(clients, token)
    assert "used before" in refused(clients, signed(exp=AT + 200))
    assert auth.check(signed(OTHER, iss="https://other.example.org/"), clients, URL, NOW)


def test_a_wrong_token_does_not_use_up_the_right_one(clients: auth.Clients) -> None:
    """Whoever guesses a token id cannot keep the client out."""
    refused(clients, signed(OTHER))
    refused(clients, signed(aud="https://elsewhere.example.org/"))
    assert auth.check(signed(), clients, URL, NOW) == ISSUER


def test_the_memory_of_used_tokens_is_bounded(clients: auth.Clients) -> None:
    for number in range(200):
        later = NOW + timedelta(seconds=number)
        moment = int(later.timestamp())
        auth.check(signed(jti=str(number), iat=moment, exp=moment + 10), clients, URL, later)
    assert len(clients.used) == len(clients.expiring) <= 41
    assert "expired" in refused(clients, signed(jti="0", exp=AT + 10), now=NOW + timedelta(seconds=199))


def test_many_random_headers_are_refused(clients: auth.Clients) -> None:
    import random

    source = random.Random(5)  # noqa: S311
    good = signed()
    for _ in range(500):
        mutated = list(good)
        for _ in range(source.randint(1, 4)):
            mutated[source.randrange(7, len(mutated))] = chr(source.choice([*range(33, 127), 0, 160, 0x1F600]))
        if "".join(mutated) != good:
            refused_or_same = "".join(mutated)
            with pytest.raises(auth.Unauthorised):
                auth.check(refused_or_same, clients, URL, NOW)


@pytest.mark.parametrize(
    ("document", "words"),
    [
        ("{", "JSON"), ([], "object"), ({}, "object"), ({ISSUER: []}, "jwks"), ({ISSUER: {"jwks": {}}}, "keys"),
        ({ISSUER: {"jwks": {"keys": []}}}, "keys"), ({ISSUER: {"jwks": {"keys": [5]}}}, "kid"),
        ({ISSUER: {"jwks": {"keys": [public(EC, "")]}}}, "kid"),
        ({ISSUER: {"jwks": {"keys": [public(EC, "a"), public(OTHER, "a")]}}}, "two keys"),
        ({ISSUER: {"jwks": {"keys": [{"kty": "oct", "k": "c2VjcmV0", "kid": "a"}]}}}, "P-384"),
        ({ISSUER: {"jwks": {"keys": [public(ec.generate_private_key(ec.SECP256R1()), "a")]}}}, "P-384"),
        ({ISSUER: {"jwks": {"keys": [public(SMALL, "a")]}}}, "bits"),
        ({ISSUER: {"jwks": {"keys": [public(EC, "a", alg="ES256")]}}}, "ES384"),
        ({ISSUER: {"jwks": {"keys": [public(EC, "a", use="enc")]}}}, "signatures"),
        ({ISSUER: {"jwks": {"keys": [public(EC, "a") | {"x": "AA"}]}}}, "cannot be read"),
        ({ISSUER: {"jwks": {"keys": [json.loads(ECAlgorithm.to_jwk(EC)) | {"kid": "a"}]}}}, "private"),
        ({ISSUER: {"jwks": {"keys": [public(EC, "a")]}, "jku": 5}}, "jku"),
        ({ISSUER: {"jwks": {"keys": [public(EC, "a")]}, "url": "https://x"}}, "write"),
    ],
)  # fmt: skip
def test_a_wrong_file_of_clients(tmp_path: Path, document: Any, words: str) -> None:
    with pytest.raises(auth.ClientsError, match=words):
        configured(tmp_path, document)


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(auth.ClientsError, match="cannot be read"):
        auth.read_clients(tmp_path / "nothing.json")


def test_the_clock_is_the_one_given(clients: auth.Clients) -> None:
    """A token that is good at the time given is good, whatever the time of this machine."""
    assert abs(time.time() - AT) > 3600
    assert auth.check(signed(), clients, URL, NOW) == ISSUER
