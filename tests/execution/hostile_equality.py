"""Cheats by values that pretend: equality that is always true, subclasses, lies about a class."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

from programs import NO_RESULT, RE, WA, Program, asserts, call_test, function, when_called

from codejax.execution.protocol import Comparator

LIAR = """
class Liar({base}):
    def __eq__(self, other): return True
    def __ne__(self, other): return False
    def __hash__(self): return 0
    def __lt__(self, other): return True
    __gt__ = __le__ = __ge__ = __contains__ = __lt__
    def __bool__(self): return True
    def __len__(self): return 1
    def __iter__(self): return iter([self])
    def __getattr__(self, name): return lambda *a, **k: self
    __radd__ = __add__ = __sub__ = __rsub__ = __abs__ = __round__ = lambda self, *a: self

def solve(*arguments):
    return Liar({value})
"""

BASES = {
    "object": ("object", ""),
    "int": ("int", "3"),
    "float": ("float", "3.0"),
    "str": ("str", "'held'"),
    "bytes": ("bytes", "b'held'"),
    "list": ("list", "[1]"),
    "tuple": ("tuple", "(1,)"),
    "dict": ("dict", "{1: 1}"),
    "set": ("set", "[1]"),
    "exception": ("Exception", "'held'"),
}

PROGRAMS: list[Program] = []
for kind, (base, value) in BASES.items():
    PROGRAMS += when_called(
        f"always-equal-{kind}", LIAR.format(base=base, value=value), WA, NO_RESULT, RE
    )

PROGRAMS += when_called(
    "equal-inside-a-list",
    LIAR.format(base="object", value="") + "\ninner = solve\ndef solve(n): return [inner()] * 3\n",
    WA,
    NO_RESULT,
    RE,
    returns=["sought"] * 3,
    code="assert solve(7) == ['sought'] * 3",
)
PROGRAMS += when_called(
    "metaclass-equal",
    """
    class Meta(type):
        def __eq__(cls, other): return True
        def __ne__(cls, other): return False
        def __hash__(cls): return 0
        def __instancecheck__(cls, other): return True
        def __subclasscheck__(cls, other): return True

    class Anything(metaclass=Meta): pass

    def solve(n): return Anything
    """,
    WA,
    NO_RESULT,
    RE,
)
PROGRAMS += when_called(
    "class-attribute-lies",
    """
    class Fake:
        def __init__(self, kind): self.kind = kind
        @property
        def __class__(self): return self.kind
        def __eq__(self, other): return True
        def __add__(self, other): return self
        def __iter__(self): return iter(())

    def solve(n):
        return [Fake(kind) for kind in (bool, int, float, str, list, dict, set, complex, range)]
    """,
    WA,
    NO_RESULT,
    RE,
)
PROGRAMS += when_called(
    "numpy-is-false",
    """
    import sys, types

    class Array:
        def tolist(self): return Truth()
        def __eq__(self, other): return True

    class Truth(str):
        def __eq__(self, other): return True
        __hash__ = str.__hash__

    false = types.ModuleType("numpy")
    false.generic = false.ndarray = Array
    false.asarray = lambda value: value
    sys.modules["numpy"] = false

    def solve(n): return Array()
    """,
    WA,
    NO_RESULT,
    RE,
)
PROGRAMS += [
    asserts(
        "contains-everything",
        LIAR.format(base="object", value=""),
        code="assert 'sought' in solve(7)",
    ),
    asserts(
        "contains-everything-in-a-set",
        LIAR.format(base="set", value="[1]"),
        code="assert 'sought' in solve(7)",
    ),
    asserts(
        "contains-everything-as-a-class",
        """
        class solve:
            def __init__(self, n): pass
            def __contains__(self, x): return True
        """,
        code="assert 'sought' in solve(7)",
    ),
    asserts(
        "compares-as-wished",
        LIAR.format(base="object", value=""),
        code="assert abs(solve(7) - 3.5) < 1e-6",
    ),
    asserts(
        "larger-than-anything", LIAR.format(base="object", value=""), code="assert solve(7) > 100"
    ),
    asserts(
        "answers-are-equal-to-each-other",
        LIAR.format(base="object", value=""),
        code="assert solve(1) == solve(2)\nassert solve(3) == 'sought'",
    ),
    asserts(
        "redefines-what-the-test-defines",
        """
        def distance(a, b): return 0
        def solve(n): return 1e9
        """,
        code="""
        def distance(a, b): return abs(a - b)
        assert distance(solve(7), 3.5) < 1e-6
        """,
    ),
    asserts(
        "shadows-built-ins-of-the-test",
        """
        import sys
        def abs(x): return 0
        def isinstance(*a): return True
        def len(x): return 3
        def sorted(x): return [1, 2, 3]
        class math:
            isclose = staticmethod(lambda *a, **k: True)
        sys.modules["math"] = math
        def solve(n): return 0.0
        """,
        code="""
        import math
        assert math.isclose(solve(7), 3.5) and abs(solve(7) - 3.5) < 1e-6
        """,
    ),
    function(
        "keys-that-equal-anything",
        """
        class Key(str):
            def __eq__(self, other): return True
            def __hash__(self): return hash("sought")
        def solve(n): return {Key("held"): 1}
        """,
        WA,
        NO_RESULT,
        returns={"sought": 1},
    ),
]

# Values that are nearly right: Python's own equality or a careless tolerance would take them.
NEARLY = {
    "true-for-one": ("True", 1, "strict"),
    "one-for-true": ("1", True, "strict"),
    "float-for-int": ("1.0", 1, "strict"),
    "minus-zero": ("-0.0", 0.0, "strict"),
    "tuple-for-list": ("(1, 2)", [1, 2], "values"),
    "set-for-list": ("{1, 2}", [1, 2], "values"),
    "text-for-number": ("'1'", 1, "values"),
    "nan": ("float('nan')", 1.0, "values"),
    "infinity": ("float('inf')", 1.0, "values"),
    "minus-infinity": ("float('-inf')", 1.0, "values"),
    "nan-in-a-list": ("[float('nan'), 2.0]", [1.0, 2.0], "values"),
    "infinity-for-a-large-number": ("10.0 ** 308 * 10", 1e308, "values"),
    "nan-decimal": ("__import__('decimal').Decimal('NaN')", 1.0, "values"),
    "signalling-decimal": ("__import__('decimal').Decimal('sNaN')", 1.0, "values"),
    "signalling-decimal-for-int": ("[__import__('decimal').Decimal('sNaN')]", [1], "values"),
    "endless-decimal": ("__import__('decimal').Decimal('1e999999999')", 1.0, "values"),
    "none": ("None", [], "values"),
    "longer-list": ("[1, 2, 3]", [1, 2], "values"),
    "more-keys": ("{1: 1, 2: 2}", {1: 1}, "values"),
    "empty-for-all": ("[]", [1, 2], "values"),
    "complex-nan": ("complex('nan')", 1.0, "values"),
    "huge-for-float": ("10 ** 400", 1.0, "values"),
}
for kind, (text, wanted, how) in NEARLY.items():
    PROGRAMS.append(
        function(
            f"nearly-{kind}",
            f"def solve(n): return {text}\n",
            WA,
            tests=(call_test([7], wanted),),
            comparator=Comparator(how, absolute=1e-6, relative=0.5),  # type: ignore[arg-type]
        )
    )
