"""Commands behind decorators: what may be passed is the wrapper's to say, which converts what is
the inner function's hints'.
"""

from __future__ import annotations

from ._callables import called, signature_of, unwrap
from ._hints import ConversionError, Plan
from ._hints_scalars import plain, too_deep
from ._names import nearest
from ._signatures import by_signature, refused, shown, split

TYPE_CHECKING = False
if TYPE_CHECKING:
    import inspect
    from typing import Any, Dict, List, Optional, Tuple

    from ._commands import Command


def is_wrapped(func: Any) -> bool:
    """Whether another function than the innermost one is entered first."""
    return called(func) is not unwrap(func)


def own_signature(func: Any) -> Optional[inspect.Signature]:
    """The parameters that Python checks when func is called; None where that cannot be seen: C
    code, or a proxy.
    """
    if getattr(func, "__signature__", None) is None and called(func) is None and hasattr(func, "__wrapped__"):
        return None
    entered = type(func).__call__
    if hasattr(func, "__get__") and hasattr(entered, "__code__") and called(func) is entered:
        signature = signature_of(entered, False)  # a descriptor is C code to inspect
        return signature and signature.replace(parameters=list(signature.parameters.values())[1:])
    return signature_of(func, not is_wrapped(func))


def adapter(entry: Command) -> Any:
    """entry.adapt. Values are converted where they are: whether by name or by position, a wrapper
    may tell the two apart.
    """
    func = entry.func
    own, inner = own_signature(func), signature_of(func)
    converters: Dict[str, Any] = {}
    plan, outer = Plan(func, inner), Plan(called(func) or func, own)
    entry.exact = plan.exact or outer.exact
    converters.update(plan.by_name(), **outer.by_name())
    known = plan.extra_but.union(converters, outer.extra_but)
    other = plain if entry.exact else None

    def adapt(args: Any) -> Tuple[Any, Any]:
        positional, keyword = split(entry, args)
        if own is not None:
            by_signature(entry, own, positional, keyword)
        if not converters and other is None and not plan:
            return positional, keyword
        given, name = keyword, ""
        more = {name: value for name, value in given.items() if plan.extra is not None and name not in known}
        try:
            keyword = dict(keyword)
            for name in keyword:
                convert = converters.get(name, other)
                if convert is not None and name not in more:
                    keyword[name] = convert(keyword[name])
            names, behind = _names(own, inner, positional, given)
            positional = list(positional)
            for index in range(len(positional)):
                name = names[index] if index < len(names) else ""
                convert = converters.get(name, None if behind else other)
                if convert is not None:
                    positional[index] = convert(positional[index])
            name = ""
            if behind:
                positional[len(names) :] = plan.others(positional[len(names) :])
            if more:
                keyword.update(plan.extra(more))  # type: ignore[misc]
        except ConversionError as error:
            raise refused(entry, error.under(name), given) from None
        except RecursionError as error:
            raise refused(entry, too_deep(args, error).under(name), given) from None
        return positional, keyword

    return adapt


def _names(
    own: Optional[inspect.Signature], inner: Optional[inspect.Signature], positional: Any, keyword: Any
) -> Tuple[List[str], bool]:
    """The parameters that take the positional arguments, as far as that is known: a wrapper may put
    others before them. And whether what is behind those is the inner function's *args.
    """
    for signature in (own, inner):
        if signature is None or not positional:
            continue
        try:
            signature.bind(*positional, **keyword)
        except TypeError:
            continue
        names = [p.name for p in signature.parameters.values() if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
        if names or signature is inner:
            return names[: len(positional)], signature == inner
    return [], False


def refused_inside(entry: Command, error: BaseException) -> str:
    """Why the function behind a wrapper was not entered, when that is what the wrapper has raised;
    else empty.
    """
    codes: List[Any] = []
    func = entry.func
    inner = unwrap(func)
    while func is not inner and len(codes) < 32:
        codes.append(getattr(called(func), "__code__", None))
        func = getattr(func, "__wrapped__", inner)
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    if trace is None or trace.tb_frame.f_code not in codes:
        return ""
    text = str(error)
    for name in (getattr(inner, "__qualname__", ""), getattr(inner, "__name__", "")):
        head, found, words = text.partition(name + "() ")
        if name and found and not head:
            reason = _reason(words, inner)
            return "%s: %s; signature: %s" % (entry.name, reason, shown(entry))
    return ""


def _reason(words: str, inner: Any) -> str:
    name = words.partition("'")[2].partition("'")[0]
    if words.startswith("got an unexpected keyword argument"):
        names = getattr(getattr(inner, "__code__", None), "co_varnames", ())
        return "unknown argument %r" % name + nearest(name, names)
    if words.startswith("missing ") and words.count("'") == 2:
        return "missing argument %r" % name
    return words
