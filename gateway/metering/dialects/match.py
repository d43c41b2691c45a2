"""The dialect that answers a path, together with what the path says."""

from __future__ import annotations

from gateway.metering.dialects.base import PathMatch
from gateway.metering.dialects.dialect import Dialect


class Match(PathMatch):
    """What method and path say about a request, and the dialect to read it with."""

    __slots__ = ("dialect",)

    def __init__(
        self,
        dialect: Dialect,
        endpoint: str,
        *,
        metered: bool = False,
        billable: bool = True,
        counted: bool = False,
        model: str = "",
        stream: bool | None = None,
        model_required: bool = False,
        work: str = "",
        polled: str = "",
    ) -> None:
        super().__init__(
            endpoint,
            metered=metered,
            billable=billable,
            counted=counted,
            model=model,
            stream=stream,
            model_required=model_required,
            work=work,
            polled=polled,
        )
        self.dialect = dialect

    def __repr__(self) -> str:
        return f"Match({self.dialect.name}, {self.endpoint}, model={self.model!r})"
