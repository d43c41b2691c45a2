"""Saved data changes its fields only together with a new schema number.

Older versions wrote these structs into the store, into files or into rings, and newer
ones read them. If a test here fails after a change of fields: raise the schema number
of the struct, write the code that reads the previous schema (or refuses it with a clear
message), and replace the fingerprint by the printed one.
"""

from __future__ import annotations

import hashlib
from importlib import import_module
from typing import Any, Union, get_args, get_origin

import msgspec
import pytest

from gateway.detect.packed_baselines import SCHEMA
from gateway.limits.pending import SCHEMA as PENDING

# Struct -> its schema number and the fingerprint of its fields and types.
SCHEMAS = {
    # The detector: packed with the number ``SCHEMA`` of gateway/detect/packed_baselines.py.
    "gateway.detect.saved:Saved": (SCHEMA, "4d1b191e31bf"),
    "gateway.detect.responses:_Saved": (SCHEMA, "70a5a70fca05"),
    # The store: the number is part of every key (``tidegate:1:...``).
    "gateway.store.baselines:Manifest": (1, "e691f2c8ffae"),
    "gateway.core.model:Block": (1, "df6d82a07b7f"),
    "gateway.control.blocks:_Change": (1, "cc7dd69840c1"),
    "gateway.control.spending:GatewayDay": (1, "71536a6d6680"),
    "gateway.alerts.model:AlertMessage": (1, "ae33659a8d60"),
    "gateway.alerts.model:DeliveryState": (1, "3a6057d943d2"),
    "gateway.alerts.silences:Silence": (1, "a8d73a4d1ec8"),
    # Notes in the store: the number is their first field.
    "gateway.limits.pending:PendingWork": (PENDING, "e20a0e2e58c7"),
    # Files of one gateway: rings of workers, the queue of alerts, records.
    "gateway.core.model:RequestRecord": (4, "b8a60cf4e0ed"),
    "gateway.control.alert_queue:Waiting": (1, "6698d5e52c39"),
    "gateway.sinks.records:PublicRecord": (4, "800f90ae4a83"),
}


def described(kind: Any, open_: tuple[type, ...] = ()) -> str:
    """A type as it is encoded: names only where names are encoded."""
    if isinstance(kind, type) and issubclass(kind, msgspec.Struct):
        if kind in open_:
            return "^" * (len(open_) - open_.index(kind))
        config = kind.__struct_config__
        fields = [
            (field.encode_name, described(field.type, (*open_, kind)))
            for field in msgspec.structs.fields(kind)
        ]
        tag = f"{config.tag_field}={config.tag} " if config.tag is not None else ""
        if config.array_like:
            return f"[{tag}{', '.join(form for _, form in fields)}]"
        return f"{{{tag}{', '.join(f'{name}: {form}' for name, form in fields)}}}"
    origin, args = get_origin(kind), get_args(kind)
    if origin is None:
        return getattr(kind, "__name__", repr(kind))
    name = "Union" if origin in {Union, type(int | str)} else str(origin)
    inner = [
        described(one, open_) if not isinstance(one, str | int) else repr(one)
        for one in args
    ]
    return f"{name}({', '.join(inner)})"


def fingerprint(form: str) -> str:
    """Twelve hex digits of a description."""
    return hashlib.blake2b(form.encode(), digest_size=6).hexdigest()


@pytest.mark.parametrize("name", SCHEMAS)
def test_fields_change_only_with_the_schema_number(name):
    """The fields and types of a saved struct are those of its schema number."""
    module, _, attribute = name.partition(":")
    form = described(getattr(import_module(module), attribute))
    schema, known = SCHEMAS[name]
    found = fingerprint(f"{schema} {form}")
    assert found == known, f"{name} (schema {schema}) has {found}: {form}"


class Inner(msgspec.Struct, array_like=True):
    """A struct without encoded names."""

    number: int
    again: list[Inner] = []


class Outer(msgspec.Struct, rename={"kept": "k"}):
    """A struct with encoded names."""

    kept: Inner
    other: str | None = None


def test_a_description_has_encoded_names_and_types():
    """Renamed fields keep their description, changed types and names do not."""
    assert described(Outer) == (
        "{k: [int, <class 'list'>(^)], other: Union(str, NoneType)}"
    )
