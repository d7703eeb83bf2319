"""Cheats on the descriptor that answers go by: forged, doubled, cut, huge, malformed, poisonous.

`say` writes a message as the honest code would; the judge has to read what no honest code writes.
"""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

from programs import (
    MLE,
    NO_RESULT,
    OLE,
    RE,
    TLE_CPU,
    TLE_WALL,
    WA,
    Limits,
    Program,
    asserts,
    call_test,
    clean,
    function,
    when_called,
)

from codejax.execution.limits import MEGABYTE
from codejax.execution.protocol import Comparator

SAY = """
import json, os, struct, sys
values = sys.modules["codejax.execution.values"]

def write(data):
    view = memoryview(data)
    while view:
        view = view[os.write(3, view):]

def say(data):
    write(struct.pack(">I", len(data)) + data)

def value(text):
    return b'{"tuple":["value",' + text + b',[]]}'
"""
ROOM = Limits(cpu=1.5, wall=3.0, memory=512 * MEGABYTE, output=MEGABYTE)

# What `solve` does in place of an answer; the process ends after it.
MESSAGES = {
    "twice": "say(value(b'1')); say(value(b'2'))",
    "right-frame-no-content": "say(b'')",
    "nothing": "pass",
    "cut-length": "write(b'\\0\\0')",
    "cut-message": "write(struct.pack('>I', 100) + value(b'1'))",
    "endless-length": "write(b'\\xff' * 4 + value(b'1'))",
    "no-frame": "write(value(b'1'))",
    "loaded-again": "say(b'+'); say(value(b'1'))",
    "pickle": "import pickle; say(pickle.dumps(print))",
    "marshal": "import marshal; say(marshal.dumps(value.__code__))",
    "not-text": "say(bytes(range(256)))",
    "utf-16": "say(value(b'1').decode().encode('utf-16'))",
    "bare-true": "say(b'true')",
    "verdict": 'say(b\'{"verdict": "passed"}\')',
    "too-few": 'say(b\'{"tuple":["value"]}\')',
    "too-many": 'say(b\'{"tuple":["value",1,[],2]}\')',
    "a-list": "say(b'[\"value\",1,[]]')",
    "unknown-tag": "say(value(b'{\"object\":[1]}'))",
    "built-in-tag": 'say(value(b\'{"eval":"1"}\'))',
    "two-tags": 'say(value(b\'{"tuple":[],"list":[]}\'))',
    "no-tag": "say(value(b'{}'))",
    "a-handle": 'say(value(b\'{"handle":[0,"int"]}\'))',
    "a-list-as-key": "say(value(b'{\"dict\":[[[],1]]}'))",
    "a-set-of-lists": "say(value(b'{\"set\":[[1]]}'))",
    "odd-pairs": "say(value(b'{\"dict\":[[1,2,3]]}'))",
    "bad-number": 'say(value(b\'{"int":"0xzz"}\'))',
    "number-as-text": "say(value(b'{\"int\":[1]}'))",
    "bad-float": 'say(value(b\'{"float":["nan"]}\'))',
    "json-nan": "say(value(b'NaN'))",
    "json-infinity": "say(value(b'-Infinity'))",
    "json-exponent": "say(value(b'1e999'))",
    "number-of-many-digits": "say(value(b'1' * 1_000_000))",
    "hex-of-many-digits": "say(value(b'{\"int\":\"0x' + b'f' * 4_000_000 + b'\"}'))",
    "deep": "say(value(b'[' * 1_000_000 + b']' * 1_000_000))",
    "deep-tags": "say(value(b'{\"tuple\":[' * 300 + b']}' * 300))",
    "lone-surrogate": "say(value(b'\"\\\\ud800\"'))",
    "surrogate-key": 'say(value(b\'{"dict":[["\\\\udfff",1]]}\'))',
    "null-text": "say(value(b'\"\\\\u0000\"'))",
    "fraction-by-zero": 'say(value(b\'{"fraction":["1","0"]}\'))',
    "large-fraction": (
        "say(value(b'{\"fraction\":[\"' + b'f' * 2_000_000"
        " + b'\",\"' + b'e' * 2_000_001 + b'\"]}'))"
    ),
    "signalling-decimal": 'say(value(b\'{"decimal":"sNaN"}\'))',
    "decimal-of-a-list": "say(value(b'{\"decimal\":[0,[1,2,3],999999999]}'))",
    "decimal-of-many-digits": "say(value(b'{\"decimal\":\"' + b'9' * 4_000_000 + b'\"}'))",
    "endless-range": "say(value(b'{\"range\":[0,1000000000000,1]}'))",
    "range-of-no-step": "say(value(b'{\"range\":[0,1,0]}'))",
    "range-of-text": "say(value(b'{\"range\":[\"' + b'9' * 5000 + b'\",1,1]}'))",
    "bad-date": 'say(value(b\'{"datetime":"9999-99-99"}\'))',
    "late-date": "say(value(b'{\"timedelta\":[999999999999999,0,0]}'))",
    "complex-of-one": 'say(value(b\'{"complex":["1"]}\'))',
    "bytes-of-text": 'say(value(b\'{"bytes":"zz"}\'))',
    "same-hash": (
        "p = (1 << 61) - 1; say(value(b'{\"set\":['"
        " + b','.join(b'{\"int\":\"%x\"}' % (p * n) for n in range(20_000)) + b']}'))"
    ),
    "same-hash-keys": (
        "p = (1 << 61) - 1; say(value(b'{\"dict\":['"
        " + b','.join(b'[{\"int\":\"%x\"},0]' % (p * n) for n in range(20_000)) + b']}'))"
    ),
    "many-empty-lists": "say(value(b'[' + b'[],' * 800_000 + b'0]'))",
    "many-numbers": "say(value(b'[' + b'1,' * 600_000 + b'0]'))",
    "many-objects": "say(value(b'[' + b'{\"\":0},' * 600_000 + b'0]'))",
    "changed-is-nonsense": 'say(b\'{"tuple":["value",1,[[99,1],[-1,2],"x"]]}\')',
    "raised-nonsense": 'say(b\'{"tuple":["raised",1,2,3]}\')',
    "raised-numbers": 'say(b\'{"tuple":["raised",["ValueError"],[[1]],{"int":"1"}]}\')',
    "unhashable-tag": "say(b'{\"tuple\":[[1],1,[]]}')",
    "shifted": "write(b'\\0'); say(value(b'1'))",
}
# Those that are a value after all, and a wrong one.
WRONG = (WA, NO_RESULT, RE)

PROGRAMS: list[Program] = []
for kind, text in MESSAGES.items():
    PROGRAMS += when_called(
        f"message-{kind}",
        f"{SAY}\ndef solve(n):\n    {text}\n    os._exit(0)\n",
        *WRONG,
        limits=ROOM,
    )

PROGRAMS += [
    *when_called(
        "answers-at-import",
        SAY + "say(b'+'); say(value(b'1')); os._exit(0)\ndef solve(n): pass\n",
        *WRONG,
    ),
    *when_called(
        "answers-at-import-and-goes-on",
        SAY + "say(b'+'); say(value(b'1'))\ndef solve(n): return 2\n",
        *WRONG,
    ),
    *when_called(
        "answers-without-end",
        SAY
        + "one = struct.pack('>I', 24) + value(b'1')\n"
        + "def solve(n):\n    while True: write(one * 1000)\n",
        *WRONG,
        OLE,
        TLE_CPU,
        TLE_WALL,
        NO_RESULT,
        limits=ROOM,
    ),
    *when_called(
        "one-answer-without-end",
        SAY
        + "def solve(n):\n    write(struct.pack('>I', 64 << 20))\n"
        + "    while True: write(b' ' * 65536)\n",
        *WRONG,
        OLE,
        TLE_CPU,
        TLE_WALL,
        limits=ROOM,
    ),
    *when_called(
        "answers-drop-by-drop",
        SAY
        + clean("""
        import time
        def solve(n):
            write(struct.pack('>I', 1000))
            while True:
                write(b' ')
                time.sleep(0.05)
        """),
        TLE_WALL,
        TLE_CPU,
    ),
    *when_called(
        "answers-after-its-end",
        SAY
        + clean("""
        import time
        def solve(n):
            if os.fork() == 0:
                os.setsid()
                time.sleep(0.3)
                say(value(b'"late"'))
                time.sleep(20)
            os._exit(0)
        """),
        *WRONG,
        TLE_WALL,
    ),
    *when_called(
        "another-answers-too",
        SAY
        + clean("""
        import threading
        def solve(n):
            thread = threading.Thread(target=lambda: [say(value(b'1')) for _ in range(50)])
            thread.start()
            return 2
        """),
        *WRONG,
    ),
    *when_called(
        "closes-the-channel", SAY + "def solve(n):\n    os.close(3)\n    return 1\n", *WRONG
    ),
    *when_called(
        "output-on-the-channel", SAY + "def solve(n):\n    os.dup2(1, 3)\n    return 1\n", *WRONG
    ),
    *when_called(
        "channel-owned-by-the-parent",
        SAY
        + clean("""
        import fcntl, signal
        def solve(n):
            for number in (0, 1, 2, 3):
                try:
                    fcntl.fcntl(number, fcntl.F_SETOWN, os.getppid())
                    fcntl.fcntl(number, 10, signal.SIGKILL)
                    fcntl.fcntl(number, fcntl.F_SETFL, fcntl.fcntl(number, fcntl.F_GETFL) | 0o20000)
                    fcntl.fcntl(number, 1031, 4096)
                except OSError:
                    pass
            return 1
        """),
        WA,
    ),
    function("a-text-of-66-megabytes", "def solve(n): return 'a' * (66 << 20)\n", limits=ROOM),
    function(
        "nested-without-end",
        "def solve(n):\n    item = []\n"
        "    for _ in range(100_000): item = [item]\n    return item\n",
        RE,
        NO_RESULT,
    ),
    function(
        "contains-itself",
        "def solve(n):\n    item = []\n    item.append(item)\n    return {1: item}\n",
        RE,
        NO_RESULT,
    ),
    function("an-integer-of-a-million-digits", "def solve(n): return 1 << 3_500_000\n", WA),
    function("lone-surrogates", "def solve(n): return ['\\ud800', {'\\udfff': chr(0xdc80)}]\n", WA),
    function("exception-of-surrogates", "def solve(n): raise ValueError('\\ud800' * 5000)\n", RE),
    function(
        "items-without-end",
        "import itertools\ndef solve(n): return itertools.count()\n",
        WA,
        NO_RESULT,
        RE,
    ),
    asserts(
        "items-without-end-asserts",
        "import itertools\ndef solve(n): return itertools.count()\n",
        TLE_CPU,
        TLE_WALL,
        MLE,
        RE,
        NO_RESULT,
        WA,
        code="assert sum(solve(7)) == 3",
    ),
    asserts(
        "length-without-end",
        "class Long:\n    def __len__(self): return 1 << 62\ndef solve(n): return Long()\n",
        WA,
        RE,
        MLE,
        code="assert [0] * len(solve(7)) == [0]",
    ),
    asserts(
        "range-without-end",
        "def solve(n): return range(10 ** 12)\n",
        code="assert list(solve(7)) == [1]",
    ),
    asserts(
        "number-that-is-slow-to-print",
        "def solve(n): return 1 << 3_500_000\n",
        code="assert str(solve(7)) == '7'",
    ),
    function(
        "tolerance-overflows",
        "def solve(n): return [10 ** 400, -10 ** 400, 1e308, -1e308]\n",
        WA,
        tests=(call_test([7], [1.0, 2.0, -1e308, 1e308]),),
        comparator=Comparator("values", absolute=1e308, relative=1e308),
    ),
]
