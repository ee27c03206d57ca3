"""OpenTelemetry's context, where a script has loaded its API: the caller's span is the parent of
what a handler does, and the handler's span that of the functions of the host that it calls.

A context lives in a context variable, and each call has its own of those: nothing has to be
detached.
"""

from __future__ import annotations

from ._call import RUNNING
from ._life import note

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import ModuleType
    from typing import Any, Optional, Sequence


def install(api: ModuleType) -> None:
    """`api` is opentelemetry.trace, which somebody has just imported."""
    from opentelemetry import context  # the API has it

    RUNNING.telemetry = _Telemetry(api, context.attach)


class _Telemetry:
    def __init__(self, api: Any, attach: Any) -> None:
        self._api = api
        self._attach = attach

    def enter(self, trace: Optional[str]) -> None:
        """Make the caller's span the current one; none where the call has no trace."""
        try:
            api = self._api
            self._attach(api.set_span_in_context(api.INVALID_SPAN if trace is None else api.NonRecordingSpan(self._of(trace))))
        except Exception as error:
            self._failed(error)

    def _of(self, trace: str) -> Any:
        """The host has checked its form."""
        api = self._api
        return api.SpanContext(int(trace[3:35], 16), int(trace[36:52], 16), True, api.TraceFlags(int(trace[53:55], 16)))

    def enter_batch(self, name: str, traces: Sequence[Optional[str]]) -> Any:
        """The same for the calls of a batch. Where these are of several spans, a span of the batch's
        own, which is returned, has links to them.
        """
        distinct = list(dict.fromkeys([trace for trace in traces if trace is not None]))
        if len(distinct) < 2:
            if distinct:
                self.enter(distinct[0])
            return None
        try:
            api = self._api
            span = api.get_tracer("pypool").start_span(
                "batch " + name,
                links=[api.Link(self._of(trace)) for trace in distinct],
                attributes={"pypool.batch.size": len(traces)},
            )
            self._attach(api.set_span_in_context(span))
            return span
        except Exception as error:
            self._failed(error)
            return None

    def leave_batch(self, span: Any, failure: Optional[BaseException]) -> None:
        try:
            if failure is not None:
                span.record_exception(failure)
                span.set_status(self._api.Status(self._api.StatusCode.ERROR, type(failure).__name__))
            span.end()
        except Exception as error:
            self._failed(error)

    def outgoing(self) -> str:
        """What a call of the host's functions says of the current span."""
        try:
            span = self._api.get_current_span().get_span_context()
            if not span.is_valid:
                return ""
            return ',"trace":"00-%032x-%016x-%02x"' % (span.trace_id, span.span_id, span.trace_flags)
        except Exception as error:
            self._failed(error)
            return ""

    def _failed(self, error: Exception) -> None:
        """Do without: what OpenTelemetry cannot do is no failure of a call's."""
        RUNNING.telemetry = None
        note("OpenTelemetry's context is not set any more: %s: %s" % (type(error).__name__, error))
