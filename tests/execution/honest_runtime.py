"""Correct programs that ask much of the interpreter or of the system, and end cleanly."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

from programs import AC, AMPLE, ANSWER, Limits, Program, script, sections

from codejax.execution.limits import MEGABYTE

# Sources whose very characters are unusual. Each prints 42.
ODD = {
    "a-quine": "s = 's = %r\\nprint(42 if open(__file__).read().strip() == s %% s else 0)'\n"
    "print(42 if open(__file__).read().strip() == s % s else 0)\n",
    "form-feed": "\x0c\nprint(42)\n",
    "byte-order-mark": "\ufeffprint(42)\n",
    "windows-lines": "if True:\r\n    print(42)\r\n",
    "no-last-newline": "print(42)",
    "tabs": "if True:\n\tprint(42)\n",
    "a-docstring-first": '"""What it does."""\nfrom __future__ import annotations\nprint(42)\n',
    "many-lines": "x = 0\n" + "x += 1\n" * 20_000 + "print(x - 19_958)\n",
}

PROGRAMS: list[Program] = [
    script(f"python-{name}", text, AC, wanted=ANSWER, limits=AMPLE)
    for name, text in (sections("runtime") | ODD).items()
]
PROGRAMS += [
    script(
        "python-modules-beside-it",
        "from helper import value\nfrom package.inner import more\nprint(value + more)\n",
        AC,
        wanted=ANSWER,
        limits=AMPLE,
        files={"helper.py": b"value = 40\n", "package/inner.py": b"more = 2\n"},
    ),
    script(
        "python-data-beside-it",
        "import os\nprint(open(os.path.join(os.path.dirname(__file__), 'data.txt')).read())\n",
        AC,
        wanted=ANSWER,
        limits=AMPLE,
        files={"data.txt": b"42"},
    ),
    script(
        "python-as-much-time-as-it-has",
        "import time\nwhile time.process_time() < 0.5: pass\nprint(42)\n",
        AC,
        wanted=ANSWER,
        limits=Limits(cpu=1.0, wall=10.0),
    ),
    script(
        "python-as-many-processes-as-it-has",
        "import os, time\n"
        "pids = []\n"
        "for _ in range(14):\n"
        "    pid = os.fork()\n"
        "    if pid == 0:\n        time.sleep(0.1)\n        os._exit(3)\n"
        "    pids.append(pid)\n"
        "print(sum(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in pids))\n",
        AC,
        wanted=ANSWER,
        limits=Limits(cpu=10.0, wall=30.0, processes=16),
    ),
    script(
        "python-as-many-files-as-it-has",
        "held = [open('/dev/null') for _ in range(24)]\nprint(len(held) + 18)\n",
        AC,
        wanted=ANSWER,
        limits=Limits(descriptors=32),
    ),
    script(
        "python-as-much-disk-as-it-has",
        "with open('file', 'wb') as file: file.write(bytes(15 << 20))\nprint(42)\n",
        AC,
        wanted=ANSWER,
        limits=Limits(disk=16 * MEGABYTE, cpu=10.0, wall=30.0),
    ),
]
