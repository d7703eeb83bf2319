"""The language of a source file, from its name or its first line; one table, no statistics.

Names are lower case, as GitHub's Linguist has them. Where several languages share an extension the
most common one has it here.
"""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import re

# Language: extensions (with their dot) and whole file names.
FILES: dict[str, str] = {
    "ada": ".adb .ads",
    "agda": ".agda",
    "antlr": ".g4",
    "apex": ".cls .trigger",
    "applescript": ".applescript .scpt",
    "asciidoc": ".adoc .asciidoc",
    "assembly": ".asm .s .nasm",
    "awk": ".awk .gawk",
    "batchfile": ".bat .cmd",
    "bibtex": ".bib",
    "c": ".c .h",
    "c#": ".cs .csx",
    "c++": ".cc .cpp .cxx .c++ .hh .hpp .hxx .h++ .ino .ipp .tpp .inl",
    "clojure": ".clj .cljs .cljc .edn",
    "cmake": ".cmake CMakeLists.txt",
    "cobol": ".cob .cbl",
    "coffeescript": ".coffee",
    "common lisp": ".lisp .lsp .cl .asd",
    "coq": ".coq",
    "crystal": ".cr",
    "css": ".css",
    "cuda": ".cu .cuh",
    "cython": ".pyx .pxd .pxi",
    "d": ".d .di",
    "dart": ".dart",
    "dockerfile": ".dockerfile Dockerfile Containerfile",
    "elixir": ".ex .exs",
    "elm": ".elm",
    "emacs lisp": ".el",
    "erlang": ".erl .hrl .escript",
    "f#": ".fs .fsi .fsx",
    "fortran": ".f .for .f77 .f90 .f95 .f03 .f08",
    "gdscript": ".gd",
    "glsl": ".glsl .vert .frag .geom .comp",
    "go": ".go",
    "graphql": ".graphql .gql",
    "groovy": ".groovy .gradle Jenkinsfile",
    "hack": ".hack",
    "haskell": ".hs .lhs",
    "haxe": ".hx",
    "hcl": ".hcl .tf .tfvars",
    "hlsl": ".hlsl",
    "html": ".html .htm .xhtml",
    "idris": ".idr",
    "ini": ".ini .cfg .properties .editorconfig",
    "isabelle": ".thy",
    "java": ".java",
    "javascript": ".js .jsx .mjs .cjs",
    "json": ".json .jsonc .json5 .geojson",
    "julia": ".jl",
    "jupyter notebook": ".ipynb",
    "kotlin": ".kt .kts",
    "lean": ".lean",
    "less": ".less",
    "lua": ".lua",
    "makefile": ".mk .mak Makefile GNUmakefile makefile",
    "markdown": ".md .markdown .mdx",
    "mathematica": ".wl .nb",
    "matlab": ".matlab",
    "meson": "meson.build meson_options.txt",
    "mojo": ".mojo",
    "nim": ".nim .nims",
    "nix": ".nix",
    "objective-c": ".m",
    "objective-c++": ".mm",
    "ocaml": ".ml .mli .mll .mly",
    "pascal": ".pas .pp .dpr .lpr",
    "perl": ".pl .pm .t",
    "php": ".php .phtml .php3 .php4 .php5",
    "powershell": ".ps1 .psm1 .psd1",
    "prolog": ".pro .prolog",
    "protocol buffer": ".proto",
    "puppet": ".epp",
    "purescript": ".purs",
    "python": ".py .pyi .pyw .gyp SConstruct SConscript",
    "r": ".r .rmd",
    "racket": ".rkt",
    "raku": ".raku .rakumod .p6",
    "rescript": ".res .resi",
    "restructuredtext": ".rst",
    "ruby": ".rb .rake .gemspec .ru Rakefile Gemfile Vagrantfile",
    "rust": ".rs",
    "sas": ".sas",
    "scala": ".scala .sbt .sc",
    "scheme": ".scm .ss .sld",
    "scss": ".scss .sass",
    "shell": ".sh .bash .zsh .ksh .fish",
    "smalltalk": ".st",
    "solidity": ".sol",
    "sparql": ".sparql .rq",
    "sql": ".sql",
    "stan": ".stan",
    "standard ml": ".sml .sig .fun",
    "starlark": ".bzl .bazel .star BUILD WORKSPACE",
    "stata": ".do .ado",
    "svelte": ".svelte",
    "swift": ".swift",
    "systemverilog": ".sv .svh",
    "tcl": ".tcl .tk",
    "tex": ".tex .sty .ltx",
    "text": ".txt",
    "thrift": ".thrift",
    "toml": ".toml",
    "typescript": ".ts .tsx .mts .cts",
    "verilog": ".v .vh",
    "vhdl": ".vhd .vhdl",
    "vim script": ".vim .vimrc",
    "visual basic": ".vb .vbs .bas",
    "vue": ".vue",
    "webassembly": ".wat .wast",
    "xml": ".xml .xsd .xsl .xslt .svg",
    "yacc": ".y .yy",
    "yaml": ".yaml .yml",
    "zig": ".zig .zon",
}

# What a first line `#!/usr/bin/env NAME` runs, its version removed.
INTERPRETERS: dict[str, str] = {
    "python": "python",
    "pypy": "python",
    "sh": "shell",
    "bash": "shell",
    "dash": "shell",
    "ksh": "shell",
    "zsh": "shell",
    "fish": "shell",
    "node": "javascript",
    "nodejs": "javascript",
    "deno": "typescript",
    "bun": "typescript",
    "ts-node": "typescript",
    "ruby": "ruby",
    "perl": "perl",
    "raku": "raku",
    "php": "php",
    "lua": "lua",
    "luajit": "lua",
    "awk": "awk",
    "gawk": "awk",
    "mawk": "awk",
    "tclsh": "tcl",
    "wish": "tcl",
    "expect": "tcl",
    "rscript": "r",
    "julia": "julia",
    "groovy": "groovy",
    "scala": "scala",
    "escript": "erlang",
    "elixir": "elixir",
    "runhaskell": "haskell",
    "ocaml": "ocaml",
    "make": "makefile",
    "pwsh": "powershell",
    "swipl": "prolog",
    "racket": "racket",
    "guile": "scheme",
    "sbcl": "common lisp",
    "crystal": "crystal",
}

# Other names for the same language, as data sets have them.
ALIASES: dict[str, str] = {
    "bash": "shell",
    "c-sharp": "c#",
    "csharp": "c#",
    "cpp": "c++",
    "f-sharp": "f#",
    "fsharp": "f#",
    "golang": "go",
    "js": "javascript",
    "literate haskell": "haskell",
    "objectivec": "objective-c",
    "proto": "protocol buffer",
    "protobuf": "protocol buffer",
    "py": "python",
    "rmarkdown": "r",
    "ts": "typescript",
    "tsx": "typescript",
    "jsx": "javascript",
    "viml": "vim script",
    "vue.js": "vue",
}

LANGUAGES = tuple(FILES)
BY_NAME = {name: language for language, names in FILES.items() for name in names.split()}
VERSION = re.compile(r"[\d.]+$")


def language_of_name(path: str) -> str:
    """By the file's name or extension alone; "" where it says nothing."""
    name = basename(path)
    if name in BY_NAME:
        return BY_NAME[name]
    _, dot, extension = name.rpartition(".")
    return BY_NAME.get(dot + extension.lower(), "") if dot else ""


def language_of_content(content: bytes) -> str:
    """By the interpreter that a first line `#!` names; "" where there is none that is known."""
    line = content[:256].partition(b"\n")[0].decode(errors="replace")
    words = line.removeprefix("#!").split()
    if not line.startswith("#!") or not words:
        return ""
    program = basename(words[0])
    if program == "env":  # its options and assignments come before the program
        named = [word for word in words[1:] if not word.startswith("-") and "=" not in word]
        program = basename(named[0]) if named else ""
    return INTERPRETERS.get(VERSION.sub("", program.lower()), "")


def basename(path: str) -> str:
    """What follows the last slash."""
    return path.rsplit("/", 1)[-1]


def language_of(path: str, content: bytes) -> str:
    """By name and, where that says nothing, by the first line."""
    return language_of_name(path) or language_of_content(content)


def language_named(name: str) -> str:
    """Our name for a language that a data set calls `name`; an unknown one stays, in lower case."""
    lower = name.strip().lower()
    for candidate in (lower, lower.replace("-", " "), lower.replace("_", " ")):
        if candidate in FILES:
            return candidate
        if candidate in ALIASES:
            return ALIASES[candidate]
    return lower
