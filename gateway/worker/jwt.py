"""Verifies JSON Web Tokens (RFC 7519) against key sets (RFC 7517).

Key sets are read from files or received from control: workers never fetch keys, control
downloads the sets of ``jwks_url`` and sends them. A signature costs 30 to 100 µs, so results are
cached by the token's hash: claims until they expire, failures for a few seconds.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import jwt as pyjwt
import msgspec

from gateway.core.lru import Lru
from gateway.core.model import JwtRule

# Allowed difference between the clock of an issuer and ours.
LEEWAY_S: Final = 30.0
# Short, because the missing keys may be about to arrive.
FAILURE_TTL_S: Final = 5.0
# Real key sets hold two to ten keys; a token without ``kid`` is checked against each.
MAX_KEYS: Final = 64
# Keys that one token is checked against.
MAX_TRIES: Final = 16
# Most servers limit a header to this.
_MAX_TOKEN_CHARS: Final = 16_384
_DEFAULT_CAPACITY: Final = 10_000
_MAX_JWKS_BYTES: Final = 1_048_576
_RSA_FAMILY: Final = ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512")

Claims = Mapping[str, object]


class KeySetError(ValueError):
    """A key set cannot be used; the message says which one and why."""


class _KeySet:
    """The public signature keys of one issuer."""

    __slots__ = ("_all",)

    def __init__(self, keys: Iterable[pyjwt.PyJWK]) -> None:
        self._all = list(keys)

    def candidates(self, kid: object, algorithm: str) -> list[pyjwt.PyJWK]:
        """The keys of the algorithm to try; with a ``kid``, those with this id or none."""
        fitting = [key for key in self._all if key.algorithm_name == algorithm]
        if not isinstance(kid, str):
            return fitting
        # A key without an id may belong to any ``kid``.
        return [key for key in fitting if not key.key_id or key.key_id == kid]


class JwtVerifier:
    """Verifies tokens; ``identity.identify`` calls ``verify``.

    Only the asymmetric algorithms of the rule are accepted: a public key must never be
    used as an HMAC secret, and ``none`` signs nothing (RFC 8725, section 3). ``exp`` is
    required; ``nbf``, issuer and audience are checked where given, times with 30 s of
    leeway.
    """

    def __init__(
        self, rules: Iterable[JwtRule] = (), *, capacity: int = _DEFAULT_CAPACITY
    ) -> None:
        """Read the files that ``rules`` name. Raises KeySetError."""
        self._sets: dict[str, _KeySet] = {}
        # (hash of the token, checks of the rule) -> (claims or None, cached until).
        self._seen: Lru[object, tuple[Claims | None, float]] = Lru(capacity)
        # The same of tokens that failed: forged ones do not displace valid ones.
        self._failed: Lru[object, tuple[Claims | None, float]] = Lru(capacity)
        for rule in rules:
            if rule.jwks_file is not None:
                self._sets[rule.jwks_file] = _read_file(rule.jwks_file)

    def set_keys(self, url: str, jwks: bytes | str | Mapping[str, Any]) -> None:
        """Replace the key set of ``url``. Raises KeySetError and keeps the old one."""
        self._sets[url] = _parse_jwks(url, jwks)
        self._seen.clear()
        self._failed.clear()

    def verify(self, token: str, rule: JwtRule, now: float) -> Claims | None:
        """The claims of a valid token, else None; ``now`` in epoch seconds."""
        if len(token) > _MAX_TOKEN_CHARS:
            return None
        digest = hashlib.sha256(token.encode("utf-8", "surrogatepass")).digest()
        source = rule.jwks_file or rule.jwks_url or ""
        key = (digest, source, rule.issuer, rule.audience, rule.algorithms)
        seen = self._seen.get(key) or self._failed.get(key)
        if seen is not None and now < seen[1]:
            return seen[0]
        claims = self._check(token, rule, self._sets.get(source), now)
        until = now + FAILURE_TTL_S if claims is None else _ends_at(claims)
        if claims is None:
            self._seen.pop(key)  # expired
            self._failed.put(key, (None, until))
        else:
            self._seen.put(key, (claims, until))
        return claims

    def _check(
        self, token: str, rule: JwtRule, keys: _KeySet | None, now: float
    ) -> Claims | None:
        try:
            header = pyjwt.get_unverified_header(token)
        except (pyjwt.PyJWTError, ValueError, RecursionError):
            return None
        algorithm = header.get("alg")
        if keys is None or algorithm not in _safe_algorithms(rule.algorithms):
            return None
        if rule.issuer is not None and _issuer(token) != rule.issuer:
            return None  # without a signature's cost
        for key in keys.candidates(header.get("kid"), algorithm)[:MAX_TRIES]:
            claims = _decode(token, key, algorithm, rule)
            if claims is not None and _in_time(claims, now):
                return claims
        return None


def _issuer(token: str) -> object:
    """What a token that is not verified states as its issuer."""
    try:
        claims = pyjwt.decode(token, options={"verify_signature": False})
    except (pyjwt.PyJWTError, ValueError, TypeError, RecursionError):
        return None
    return claims.get("iss")


def _decode(
    token: str, key: pyjwt.PyJWK, algorithm: str, rule: JwtRule
) -> Claims | None:
    """The claims if signature, issuer and audience are valid and ``exp`` is present, else
    None. ``_in_time`` checks the times.
    """
    try:
        return pyjwt.decode(
            token,
            key,
            algorithms=[algorithm],
            issuer=rule.issuer,
            audience=rule.audience,
            options={
                "require": ["exp"],
                "verify_exp": False,
                "verify_nbf": False,
                "verify_iat": False,
                "verify_sub": False,
                "verify_jti": False,
                "verify_aud": rule.audience is not None,
            },
        )
    except (pyjwt.PyJWTError, ValueError, TypeError, RecursionError):
        # PyJWT does not wrap the errors of its JSON and key layers.
        return None


def _safe_algorithms(allowed: Sequence[str]) -> set[str]:
    return {name for name in allowed if name != "none" and not name.startswith("HS")}


def _ends_at(claims: Claims) -> float:
    exp = claims.get("exp")
    return exp + LEEWAY_S if _is_number(exp) else 0.0  # type: ignore[operator]


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _in_time(claims: Claims, now: float) -> bool:
    nbf = claims.get("nbf", now)
    if not _is_number(claims.get("exp")) or not _is_number(nbf):
        return False
    return now < _ends_at(claims) and now + LEEWAY_S >= nbf  # type: ignore[operator]


def _read_file(path: str) -> _KeySet:
    try:
        raw = Path(path).read_bytes()
    except OSError as error:
        raise KeySetError(f"{path}: {error.strerror}") from error
    return _parse_jwks(path, raw)


def _parse_jwks(source: str, jwks: bytes | str | Mapping[str, Any]) -> _KeySet:
    if not isinstance(jwks, Mapping):
        if len(jwks) > _MAX_JWKS_BYTES:
            raise KeySetError(f"{source}: larger than a key set can be")
        try:
            jwks = msgspec.json.decode(jwks, type=dict[str, Any])
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise KeySetError(f"{source}: not a JSON object: {error}") from error
    listed = jwks.get("keys")
    if not isinstance(listed, list):
        raise KeySetError(f'{source}: no list "keys"')
    keys = [key for entry in listed[:MAX_KEYS] for key in _usable(entry)]
    if not keys:
        raise KeySetError(f"{source}: no public signature key that can be used")
    return _KeySet(keys)


def _usable(entry: object) -> list[pyjwt.PyJWK]:
    """The key (once per algorithm), unless it is secret, for encryption or unknown."""
    if not isinstance(entry, dict) or entry.get("kty") == "oct":
        return []
    if entry.get("use", "sig") != "sig":
        return []
    # An RSA key that names no algorithm may be used with any RSA algorithm.
    any_rsa = entry.get("kty") == "RSA" and not entry.get("alg")
    try:
        return [
            pyjwt.PyJWK.from_dict(entry, algorithm)
            for algorithm in (_RSA_FAMILY if any_rsa else (None,))
        ]
    except (pyjwt.PyJWTError, ValueError, TypeError, KeyError):
        return []
