"""Languages as data: how a program is compiled and run, and what must be installed for it.

Out: a `Toolbox` of the languages found on this machine, with a fingerprint of their versions. The
jail sees the folders a toolchain names and nothing else beside the system's. `{box}` stands for the
jail's own folder.
"""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
import logging
import os
import pathlib
import shutil
import stat
import subprocess
import sys
import tempfile
from collections.abc import Mapping

from codejax.execution.limits import MEGABYTE, Limits

log = logging.getLogger(__name__)

COMPILING = Limits(
    cpu=60.0,
    wall=120.0,
    memory=2048 * MEGABYTE,
    output=MEGABYTE,
    disk=256 * MEGABYTE,
    processes=256,
    descriptors=1024,
)
HEADER = "bits/stdc++.h"


@dataclasses.dataclass(frozen=True, slots=True)
class Language:
    """A way to compile and run programs.

    main: the name of the source file. needs: programs that must be found. version: a command that
    prints one. compile: a command in the job's folder, or none. run: the command of a test; none
    for Python, which the zygote itself runs. reserves: the runtime reserves more addresses than a
    limit would bear, so only what is resident counts. start: processor seconds its start may take
    beyond a test's limit. processes: that the runtime needs for itself.
    """

    name: str
    main: str
    needs: tuple[str, ...] = ()
    version: tuple[str, ...] = ()
    compile: tuple[str, ...] = ()
    run: tuple[str, ...] = ()
    environment: Mapping[str, str] = dataclasses.field(default_factory=dict)
    reserves: bool = False
    start: float = 0.0
    processes: int = 0
    memory: int = 0


GXX = ("g++", "-std=c++20", "-O2", "-pipe", "-I{headers}", "-o", "{box}/job/main", "main.cpp")
LANGUAGES = (
    Language("python", "main.py", version=(sys.executable, "--version")),
    Language(
        "cpp",
        "main.cpp",
        needs=("g++",),
        version=("g++", "--version"),
        compile=GXX,
        run=("{box}/job/main",),
    ),
    Language(
        "c",
        "main.c",
        needs=("gcc",),
        version=("gcc", "--version"),
        compile=("gcc", "-std=c17", "-O2", "-pipe", "-o", "{box}/job/main", "main.c", "-lm"),
        run=("{box}/job/main",),
    ),
    Language(
        "javascript",
        "main.js",
        needs=("node",),
        version=("node", "--version"),
        run=("node", "--stack-size=3900", "{box}/job/main.js"),
        reserves=True,
        start=0.3,
        processes=16,
        memory=128 * MEGABYTE,
    ),
    Language(
        "typescript",
        "main.ts",
        needs=("node", "tsc"),
        version=("tsc", "--version"),
        compile=("tsc", "--target", "es2022", "--module", "commonjs", "--skipLibCheck", "main.ts"),
        run=("node", "--stack-size=3900", "{box}/job/main.js"),
        reserves=True,
        start=0.3,
        processes=16,
        memory=128 * MEGABYTE,
    ),
    Language(
        "java",
        "Main.java",
        needs=("javac", "java"),
        version=("javac", "-version"),
        compile=("javac", "-J-Xshare:auto", "-J-XX:+UseSerialGC", "-d", "{box}/job", "Main.java"),
        run=(
            *("java", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-Xshare:auto", "-Xss64m"),
            *("-XX:-UsePerfData", "-cp", "{box}/job", "Main"),
        ),
        reserves=True,
        start=1.0,
        processes=32,
        memory=128 * MEGABYTE,
    ),
    Language(
        "go",
        "main.go",
        needs=("go",),
        version=("go", "version"),
        compile=("go", "build", "-o", "{box}/job/main", "main.go"),
        run=("{box}/job/main",),
        environment={
            "GOCACHE": "{box}/tmp/go",
            "GOPATH": "{box}/tmp/gopath",
            "GOFLAGS": "-mod=mod",
        },
        reserves=True,
        processes=16,
    ),
    Language(
        "rust",
        "main.rs",
        needs=("rustc",),
        version=("rustc", "--version"),
        compile=("rustc", "--edition=2021", "-O", "-o", "{box}/job/main", "main.rs"),
        run=("{box}/job/main",),
    ),
    Language(
        "csharp",
        "main.cs",
        needs=("mcs", "mono"),
        version=("mcs", "--version"),
        compile=("mcs", "-optimize+", "-out:{box}/job/main.exe", "main.cs"),
        run=("mono", "{box}/job/main.exe"),
        reserves=True,
        start=0.5,
        processes=16,
        memory=64 * MEGABYTE,
    ),
    Language(
        "bash",
        "main.sh",
        needs=("bash",),
        version=("bash", "--version"),
        run=("bash", "{box}/job/main.sh"),
        processes=8,
    ),
)


@dataclasses.dataclass(frozen=True)
class Toolbox:
    """The languages of this machine: those present with their versions, and why others are not.

    readable: folders that the jail must show. headers: of the precompiled C++ header.
    """

    present: Mapping[str, Language]
    versions: Mapping[str, str]
    absent: Mapping[str, str]
    readable: tuple[str, ...]

    @functools.cached_property
    def fingerprint(self) -> str:
        """Changes with any version."""
        text = json.dumps(dict(sorted(self.versions.items())))
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def report(self) -> dict[str, str]:
        """Language -> version, or "absent: why"."""
        return dict(self.versions) | {name: f"absent: {why}" for name, why in self.absent.items()}


def find_toolbox(languages: tuple[Language, ...] = LANGUAGES) -> Toolbox:
    """Look for the toolchains of these languages; builds the C++ header once per version."""
    present: dict[str, Language] = {}
    versions: dict[str, str] = {}
    absent: dict[str, str] = {}
    readable: set[str] = set()
    for language in languages:
        missing = [name for name in language.needs if shutil.which(name) is None]
        if missing:
            absent[language.name] = f"{' and '.join(missing)} not found"
            continue
        try:
            made, folders = _settle(language)
            versions[language.name] = _version(language)
        except (OSError, subprocess.SubprocessError) as error:
            absent[language.name] = f"{' '.join(language.version)} failed: {error}"
            continue
        present[language.name] = made
        readable |= folders
    shown = tuple(sorted(path for path in readable if not path.startswith(("/usr/", "/bin/"))))
    return Toolbox(present, versions, absent, shown)


def _version(language: Language) -> str:
    done = subprocess.run(
        language.version, capture_output=True, text=True, timeout=30, check=True, errors="replace"
    )
    return (done.stdout or done.stderr).strip().splitlines()[0]


def _settle(language: Language) -> tuple[Language, set[str]]:
    """The language with full paths of its programs, and the folders it needs to see."""
    folders: set[str] = set()
    paths = {name: str(pathlib.Path(shutil.which(name) or name)) for name in language.needs}
    if language.name == "rust":  # rustup's stand-in would look for its settings
        root = _output("rustc", "--print", "sysroot")
        paths["rustc"] = f"{root}/bin/rustc"
        folders.add(root)
    elif language.name == "go":
        folders.add(_output("go", "env", "GOROOT"))
    elif language.name == "csharp":
        folders.add("/etc/mono")
    elif language.name == "java":
        real = pathlib.Path(paths["javac"]).resolve()
        folders |= {str(real.parent.parent), f"/etc/java-{_java_number(real)}-openjdk"}
    for name, path in paths.items():
        real = pathlib.Path(path).resolve()
        if name in ("node", "tsc") and real.is_relative_to("/usr/local") is False:
            folders |= {str(real.parent.parent), str(pathlib.Path(path).parent)}
    headers = find_headers() if language.name == "cpp" else ""
    folders |= {headers} if headers else set()

    def settle(command: tuple[str, ...]) -> tuple[str, ...]:
        parts = [part for part in command if headers or "{headers}" not in part]
        return tuple(paths.get(part, part).replace("{headers}", headers) for part in parts)

    made = dataclasses.replace(language, compile=settle(language.compile), run=settle(language.run))
    return made, folders


def _java_number(javac: pathlib.Path) -> str:
    """The 17 of /usr/lib/jvm/java-17-openjdk-amd64, as Debian names its settings."""
    digits = [part for part in javac.parts if part.startswith("java-")]
    return digits[0].split("-")[1] if digits else ""


def _output(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=True)
    return done.stdout.strip()


def find_headers() -> str:
    """`precompiled_headers`; "" where g++ works but there is no place for them: compiling takes
    longer then, and comes to the same. Raises where g++ does not work.
    """
    try:
        return precompiled_headers()
    except (OSError, subprocess.SubprocessError) as error:
        command = ["g++", GXX[1], "-x", "c++", "-fsyntax-only", "-"]
        source = f"#include <{HEADER}>\n".encode()
        if subprocess.run(command, input=source, capture_output=True, timeout=120).returncode:
            raise
        log.warning("C++ is compiled without a precompiled header, which is slower: %s", error)
        return ""


def precompiled_headers() -> str:
    """A folder with bits/stdc++.h precompiled for the options of C++ jobs; made once a version."""
    options = [part for part in GXX[1:5] if not part.startswith("-I")]
    mark = hashlib.sha256(f"{_output('g++', '--version')}{options}".encode()).hexdigest()[:16]
    cache = pathlib.Path(os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache")
    folder = cache / "codejax" / f"headers-{mark}"
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
    except OSError:
        folder = pathlib.Path(tempfile.gettempdir()) / f"codejax-{os.getuid()}" / folder.name
        folder.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
        _check_is_ours(folder.parent)
    if (folder / f"{HEADER}.gch").exists():
        return str(folder)
    with tempfile.TemporaryDirectory(dir=folder.parent) as name:
        made = pathlib.Path(name, "made")
        (made / "bits").mkdir(parents=True)
        source = made / HEADER
        source.write_text(f"#include_next <{HEADER}>\n")
        command = ["g++", *options, "-x", "c++-header", "-o", f"{source}.gch", str(source)]
        subprocess.run(command, check=True, capture_output=True, timeout=120)
        for path in (made, made / "bits", *made.glob("bits/*")):
            path.chmod(0o755)
        try:
            made.rename(folder)
        except OSError:  # another worker was faster
            if not (folder / f"{HEADER}.gch").exists():
                raise
    return str(folder)


def _check_is_ours(folder: pathlib.Path) -> None:
    """PermissionError for a folder that others could have put headers into."""
    found = folder.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid() or found.st_mode & 0o022:
        raise PermissionError(f"{folder} is not this user's alone")
