"""Who calls: the JSON web token of a CDS Client (CDS Hooks 2.0, section "Trusting CDS Clients").

Public keys come from a local file and nowhere else: the `jku` of a token is compared with the configured one and never
fetched. Tokens are signed with ES384 or RS384, the algorithms that the specification recommends; unsigned and symmetric
ones are refused. A token is good for one call. No message repeats anything of a token.

The file is a JSON object: {issuer: {"jwks": {"keys": [...]}, "jku": "https://..." (optional)}}.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from datetime import datetime
from heapq import heappop, heappush
from pathlib import Path
from typing import Any

Json = dict[str, Any]

KEYS = {"ES384": ("EC", "P-384"), "RS384": ("RSA", None)}
"""The algorithms that are accepted, and the type and curve of their keys."""

MAX_LIFETIME = 3600
"""Seconds from issue to expiry that a token may have. It is good for one call, and is remembered until it expires."""

LEEWAY = 30
"""Seconds by which the clocks of client and service may differ."""

_MIN_RSA_BITS = 2048
_MAX_TOKEN = 8192
_END_OF_TIME = 1e12


class ClientsError(Exception):
    """The file of clients cannot be used. The message says where it is wrong."""


class Unauthorised(Exception):  # noqa: N818
    """The caller is not a client that is trusted. reason: what is wrong, fit for the response; nothing of the token."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


@dataclass
class Clients:
    """Trusted clients. keys: the algorithm and public key by issuer and key id. jku: the address of a client's keys, where
    one is configured. used: the tokens that were accepted and have not expired, by issuer and token id; expiring: the same
    as a heap, the first to expire on top."""

    keys: dict[tuple[str, str], tuple[str, Any]] = field(default_factory=dict)
    jku: dict[str, str | None] = field(default_factory=dict)
    used: set[tuple[str, str]] = field(default_factory=set)
    expiring: list[tuple[float, tuple[str, str]]] = field(default_factory=list)


def read_clients(path: str | Path) -> Clients:
    """Read the file of trusted clients. Raises ClientsError."""
    try:
        document = json.loads(Path(path).read_bytes())
    except OSError as error:
        raise ClientsError(f"{path}: cannot be read: {error.strerror}") from None
    except (ValueError, RecursionError):
        raise ClientsError(f"{path}: not a JSON file") from None
    if not isinstance(document, dict) or not document:
        raise ClientsError(f"{path}: not a JSON object with an entry for each issuer")
    clients = Clients()
    for issuer, entry in document.items():
        where = f"{path}: {issuer}"
        if not isinstance(entry, dict) or not isinstance(entry.get("jwks"), dict) or entry.keys() - {"jwks", "jku"}:
            raise ClientsError(f'{where}: write {{"jwks": {{"keys": [...]}}}}, and "jku" where the client has one')
        jku, keys = entry.get("jku"), entry["jwks"].get("keys")
        if jku is not None and not isinstance(jku, str):
            raise ClientsError(f"{where}: jku is not a text")
        if not isinstance(keys, list) or not keys:
            raise ClientsError(f"{where}: jwks.keys is missing, empty or not a list")
        clients.jku[issuer] = jku
        for number, key in enumerate(keys):
            identifier, algorithm, public = _public_key(key, f"{where}: jwks.keys[{number}]")
            if (issuer, identifier) in clients.keys:
                raise ClientsError(f"{where}: two keys have the kid {identifier}")
            clients.keys[issuer, identifier] = (algorithm, public)
    return clients


def check(header: str | None, clients: Clients, audience: str, now: datetime) -> str:
    """Check the value of an Authorization header, and remember the token as used.

    audience: the URL of the endpoint that is called. now: the time of the call, with a zone. Gives the issuer. Raises
    Unauthorised.
    """
    import jwt

    token = _bearer(header)
    try:
        head, claims = jwt.get_unverified_header(token), jwt.decode(token, options={"verify_signature": False})
    except jwt.PyJWTError:
        raise Unauthorised("the bearer token is not a JSON web token") from None
    except (ValueError, RecursionError):
        raise Unauthorised("the bearer token is not a JSON web token") from None
    algorithm, issuer, identifier = head.get("alg"), claims.get("iss"), head.get("kid")
    if algorithm not in KEYS:
        raise Unauthorised(f"the token must be signed with {' or '.join(KEYS)}")
    if head.get("typ") != "JWT" or "crit" in head:
        raise Unauthorised("the header of the token must say typ JWT, and no crit")
    if not isinstance(issuer, str) or issuer not in clients.jku:
        raise Unauthorised("the issuer of the token is not a trusted client")
    if "jku" in head and head["jku"] != clients.jku[issuer]:
        raise Unauthorised("the jku of the token is not the one that is configured for the client")
    known = clients.keys.get((issuer, identifier)) if isinstance(identifier, str) else None
    if known is None or known[0] != algorithm:
        raise Unauthorised("the key of the token (kid, alg) is not one of the client")
    try:
        options: Any = {"verify_exp": False, "verify_iat": False, "verify_nbf": False, "verify_jti": False, "verify_sub": False}
        jwt.decode(token, known[1], algorithms=[algorithm], audience=audience, issuer=issuer, options=options)
    except jwt.InvalidSignatureError:
        raise Unauthorised("the signature of the token is wrong") from None
    except (jwt.InvalidAudienceError, jwt.MissingRequiredClaimError):
        raise Unauthorised("the aud of the token is not the URL of the service that is called") from None
    except (jwt.PyJWTError, ValueError):
        raise Unauthorised("the token is not valid") from None
    _remember(clients, issuer, claims, now.timestamp())
    return issuer


def _bearer(header: str | None) -> str:
    scheme, _, token = (header or "").partition(" ")
    if scheme.lower() != "bearer" or not token.strip():
        raise Unauthorised("an Authorization header with a bearer token is required")
    if len(token) > _MAX_TOKEN:
        raise Unauthorised("the bearer token is too long")
    return token.strip()


def _remember(clients: Clients, issuer: str, claims: Json, now: float) -> None:
    """Check when the token was issued and expires, and that it was not used before."""
    issued, expires, identifier = _seconds(claims, "iat"), _seconds(claims, "exp"), claims.get("jti")
    if not isinstance(identifier, str) or not identifier:
        raise Unauthorised("the token has no jti")
    if issued > now + LEEWAY or expires <= issued:
        raise Unauthorised("the token says that it was issued in the future, or after it expires")
    if expires <= now - LEEWAY:
        raise Unauthorised("the token has expired")
    if expires - issued > MAX_LIFETIME:
        raise Unauthorised(f"the token is good for longer than {MAX_LIFETIME} seconds")
    while clients.expiring and clients.expiring[0][0] <= now - LEEWAY:
        clients.used.discard(heappop(clients.expiring)[1])
    if (issuer, identifier) in clients.used:
        raise Unauthorised("the token was used before")
    clients.used.add((issuer, identifier))
    heappush(clients.expiring, (expires, (issuer, identifier)))


def _seconds(claims: Json, name: str) -> float:
    moment = claims.get(name)
    if isinstance(moment, bool) or not isinstance(moment, int | float) or not abs(moment) < _END_OF_TIME:
        raise Unauthorised(f"the token has no {name} that is a number of seconds")
    return moment


def _public_key(key: Any, where: str) -> tuple[str, str, Any]:
    """Key id, algorithm and key of a JSON Web Key. Raises ClientsError."""
    try:
        import jwt
        from jwt.algorithms import ECAlgorithm, RSAAlgorithm
    except ImportError:
        raise ClientsError("to check tokens, install PyJWT with its cryptography: pip install 'kbtool[serve]'") from None
    if not isinstance(key, dict) or not isinstance(key.get("kid"), str) or not key["kid"]:
        raise ClientsError(f"{where}: not a JSON Web Key with a kid")
    if "d" in key:
        raise ClientsError(f"{where}: this is a private key; give the public one, and replace the pair, because it was told")
    shape = (key.get("kty"), key.get("crv"))
    algorithm = next((name for name, wanted in KEYS.items() if wanted == shape and key.get("alg", name) == name), None)
    if algorithm is None or key.get("use", "sig") != "sig":
        raise ClientsError(f"{where}: use an EC key on P-384 (ES384) or an RSA key (RS384), for signatures")
    try:
        public: Any = (ECAlgorithm if algorithm == "ES384" else RSAAlgorithm).from_jwk(key)
    except (jwt.PyJWTError, ValueError, TypeError):
        raise ClientsError(f"{where}: the key cannot be read") from None
    if algorithm == "RS384" and public.key_size < _MIN_RSA_BITS:
        raise ClientsError(f"{where}: an RSA key of fewer than {_MIN_RSA_BITS} bits is not safe")
    return key["kid"], algorithm, public
