"""The language of a document: by file name, then extension, then shebang.

Flows in: paths and texts. Flows out: lower-case names as GitHub's Linguist spells them, null where unknown.
The tables of names, extensions and interpreters are those of `identify`; its tags become Linguist names by
`_RENAMED`, and `_MORE_EXTENSIONS` fills its gaps. A few extensions belong to several languages; `_BY_CONTENT`
says which text decides. Paths are looked up by Arrow kernels; only distinct shebang lines are parsed in
Python.
"""

from __future__ import annotations

import io
from collections.abc import Iterable

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from identify.extensions import EXTENSIONS, EXTENSIONS_NEED_BINARY_CHECK, NAMES
from identify.identify import parse_shebang, tags_from_interpreter

from codemill.pipeline.text_statistics import text_heads

_HEAD_BYTES = 16_384  # of a text with an ambiguous extension that are looked at
_SHEBANG_BYTES = 256  # Linux reads no more (BINPRM_BUF_SIZE)

# identify's tag -> Linguist's name. A file may have several tags; the first of `_NAME_OF_TAG` that it has
# counts, so the special ones (a notebook is JSON too) stand before the general ones.
_RENAMED = {
    "jupyter": "jupyter notebook", "pyi": "python", "scons": "python", "objective-c++": "objective-c++",
    "xhtml": "html", "svg": "svg", "xsl": "xslt", "geojson": "json", "json5": "json5", "jsonld": "jsonld",
    "jsx": "javascript", "ts": "typescript", "edn": "edn", "c2hs": "c2hs haskell",
    "literate-haskell": "literate haskell", "csh": "tcsh", "tcsh": "tcsh", "asm": "assembly",
    "avro-schema": "json", "batch": "batchfile", "bazel": "starlark", "tiltfile": "starlark", "bib": "bibtex",
    "coffee": "coffeescript", "cuda": "cuda", "dtd": "xml", "erb": "html+erb", "gemfile-lock": "gemfile.lock",
    "gitattributes": "git attributes", "gitconfig": "git config", "gitignore": "ignore list",
    "dockerignore": "ignore list", "npmignore": "ignore list", "go-mod": "go module",
    "go-sum": "go checksums", "jade": "pug", "java-properties": "java properties", "lazarus": "pascal",
    "plist": "xml property list", "pofile": "gettext catalog", "proto": "protocol buffer",
    "robot": "robotframework", "rst": "restructuredtext", "salt": "saltstack", "spec": "rpm spec",
    "system-verilog": "systemverilog", "terraform": "hcl", "textproto": "protocol buffer text format",
    "vb": "visual basic .net", "vim": "vim script", "vtl": "velocity template language",
    "sln": "microsoft visual studio solution", "dotenv": "dotenv",
}  # fmt: skip
_SAME = (
    "asciidoc", "aspectj", "astro", "awk", "beancount", "bitbake", "c", "c#", "c++", "clojure", "cmake",
    "crystal", "cson", "css", "csv", "cue", "cython", "dart", "diff", "dockerfile", "editorconfig", "ejs",
    "elixir", "elm", "erlang", "f#", "fish", "fortran", "gdscript", "gherkin", "gleam", "go", "graphql",
    "groovy", "handlebars", "haskell", "hcl", "hlsl", "html", "idl", "idris", "ini", "java", "javascript",
    "jinja", "jsonnet", "julia", "kotlin", "lean", "less", "liquid", "lua", "luau", "m4", "makefile",
    "markdown", "mdx", "meson", "metal", "mustache", "nim", "nix", "nunjucks", "nushell", "objective-c",
    "ocaml", "pascal", "perl", "php", "plantuml", "powershell", "prisma", "pug", "puppet", "purescript",
    "python", "qml", "r", "ruby", "rust", "sas", "sass", "scala", "scheme", "scss", "shell", "solidity",
    "sql", "stylus", "svelte", "swift", "templ", "tex", "thrift", "toml", "tsv", "tsx", "twig", "vala",
    "verilog", "vhdl", "vue", "xquery", "yaml", "yang", "zig", "json", "xml",
)  # fmt: skip
_NAME_OF_TAG = {**_RENAMED, **{tag: tag for tag in _SAME}, "plain-text": "text"}

_MORE_EXTENSIONS = {
    "abap": "abap", "ada": "ada", "adb": "ada", "ads": "ada", "agda": "agda", "applescript": "applescript",
    "as": "actionscript", "aspx": "asp.net", "awk": "awk", "bicep": "bicep", "cbl": "cobol", "cfg": "ini",
    "cnf": "ini", "cob": "cobol", "cts": "typescript", "d": "d", "dfm": "pascal", "dockerfile": "dockerfile",
    "dot": "graphviz (dot)", "dpr": "pascal", "eex": "html+eex", "el": "emacs lisp", "es6": "javascript",
    "f": "fortran", "f77": "fortran", "for": "fortran", "frag": "glsl", "fsi": "f#", "fth": "forth",
    "glsl": "glsl", "gv": "graphviz (dot)", "h++": "c++", "hack": "hack", "heex": "html+eex", "hx": "haxe",
    "jsm": "javascript", "ksh": "shell", "l": "lex", "lex": "lex", "lisp": "common lisp", "ll": "llvm",
    "lsp": "common lisp", "m": "matlab", "mlir": "mlir", "mojo": "mojo", "mts": "typescript",
    "nasm": "assembly", "nsi": "nsis", "odin": "odin", "org": "org", "p6": "raku", "pde": "processing",
    "pgsql": "plpgsql", "pkb": "plsql", "pks": "plsql", "plsql": "plsql", "prolog": "prolog",
    "ps": "postscript", "raku": "raku", "rkt": "racket", "rmd": "rmarkdown", "scad": "openscad",
    "scd": "supercollider", "sml": "standard ml", "sparql": "sparql", "st": "smalltalk", "stan": "stan",
    "tcl": "tcl", "tk": "tcl", "ttl": "turtle", "vbs": "vbscript", "vert": "glsl", "vy": "vyper",
    "wast": "webassembly", "wat": "webassembly", "wl": "wolfram language", "y": "yacc", "yacc": "yacc",
}  # fmt: skip
_MORE_NAMES = {
    ".emacs": "emacs lisp", ".vimrc": "vim script", "BUILD.bazel": "starlark", "Capfile": "ruby",
    "Guardfile": "ruby", "Justfile": "just", "Kbuild": "makefile", "LICENCE": "text",
    "Makefile.am": "makefile", "Makefile.in": "makefile", "Podfile": "ruby", "WORKSPACE.bazel": "starlark",
    "composer.lock": "json", "justfile": "just", "requirements.txt": "pip requirements",
}  # fmt: skip
_MORE_INTERPRETERS = {
    "bun": "javascript", "deno": "typescript", "dtrace": "dtrace", "fish": "fish", "gawk": "awk",
    "groovy": "groovy", "guile": "scheme", "julia": "julia", "lua": "lua", "luajit": "lua",
    "make": "makefile", "mawk": "awk", "ocaml": "ocaml", "osascript": "applescript", "pwsh": "powershell",
    "pypy": "python", "pypy3": "python", "racket": "racket", "rscript": "r", "runhaskell": "haskell",
    "sbcl": "common lisp", "scala": "scala", "sed": "sed", "swift": "swift", "tclsh": "tcl",
    "ts-node": "typescript", "tsx": "typescript", "wish": "tcl",
}  # fmt: skip

_OBJECTIVE_C = r"(?m)^\s*(?:@(?:interface|implementation|protocol|class|property|end)\b|#import\s)"
_CPP = (
    r"(?m)^\s*(?:template\s*<|(?:inline\s+)?namespace(?:\s+[\w:]+)?\s*\{|class\s+\w+(?:\s+\w+)?\s*[:{;]|using\s+namespace\b"
    r"|using\s+\w+\s*=|(?:public|private|protected)\s*:\s*$|constexpr\b|#\s*include\s*<[a-z_]+>)|\bstd::\w"
)
# extension -> (pattern, language) in order; the first pattern found in a text's head decides, else the tables
# above. So `.h` is C unless it shows Objective-C or C++, `.m` MATLAB unless Objective-C, `.pl` Perl unless a
# Prolog clause starts a line, `.v` Verilog unless Coq, `.ts` TypeScript unless the XML of Qt Linguist.
_BY_CONTENT = {
    "h": ((_OBJECTIVE_C, "objective-c"), (_CPP, "c++")),
    "m": ((_OBJECTIVE_C, "objective-c"),),
    "pl": ((r"(?m)^(?::-|[a-z]\w*\([^()#;]*\)\s*:-)", "prolog"),),
    "v": ((r"(?m)^\s*(?:Require\b|Theorem\b|Lemma\b|Proof\b|Definition\b|Inductive\b)", "coq"),),
    "ts": ((r"^\s*<(?:\?xml|!DOCTYPE TS|TS\b)", "xml"),),
}


def _linguist_name(tags: Iterable[str]) -> str | None:
    """The Linguist name for a set of identify's tags; null where they name no language."""
    present = set(tags)
    return next((name for tag, name in _NAME_OF_TAG.items() if tag in present), None)


def _table(tags_of: dict[str, set[str]], more: dict[str, str]) -> tuple[pa.Array, pa.Array]:
    """(keys, names): one of identify's tables in Linguist names, with our additions, which win."""
    named = {key: _linguist_name(tags) for key, tags in tags_of.items()}
    pairs = sorted({key: name for key, name in {**named, **more}.items() if name is not None}.items())
    return pa.array([key for key, _ in pairs], pa.string()), pa.array([name for _, name in pairs], pa.string())


_BY_NAME = _table(NAMES, _MORE_NAMES)
_BY_EXTENSION = _table({**EXTENSIONS_NEED_BINARY_CHECK, **EXTENSIONS}, _MORE_EXTENSIONS)


def _look_up(keys: pa.Array, table: tuple[pa.Array, pa.Array]) -> pa.Array:
    return table[1].take(pc.index_in(keys, table[0]))


def detect_languages(paths: pa.Array, texts: pa.Array) -> pa.Array:
    """string[n]: the lower-case Linguist name of each document, null = unknown.

    paths: string[n], `/` separates; texts: large_string[n]. The whole file name decides first (`Makefile`),
    then the extension, then the part before the first dot (`Dockerfile.alpine`), then the shebang.
    """
    names = pc.replace_substring_regex(paths.cast(pa.string()), r"(?s)^.*/", "")
    extensions = pc.utf8_lower(pc.struct_field(pc.extract_regex(names, r"(?s)\.(?P<ext>[^.]*)$"), "ext"))
    stems = pc.replace_substring_regex(names, r"(?s)\..*$", "")
    languages = pc.coalesce(_look_up(names, _BY_NAME), _look_up(extensions, _BY_EXTENSION), _look_up(stems, _BY_NAME))
    languages = _settle_by_content(languages, extensions, texts)
    return _settle_by_shebang(languages, texts)


def _settle_by_content(languages: pa.Array, extensions: pa.Array, texts: pa.Array) -> pa.Array:
    """Decide the extensions that belong to several languages by the head of the text."""
    for extension, choices in _BY_CONTENT.items():
        rows = np.flatnonzero(pc.fill_null(pc.equal(extensions, extension), False).to_numpy(zero_copy_only=False))
        if not len(rows):
            continue
        heads = text_heads(texts.take(pa.array(rows)), _HEAD_BYTES)
        settled = pa.nulls(len(rows), pa.string())
        for pattern, language in choices:
            found = pc.if_else(pc.match_substring_regex(heads, pattern), language, pa.scalar(None, pa.string()))
            settled = pc.coalesce(settled, found)
        languages = _replace(languages, rows, settled)
    return languages


def _settle_by_shebang(languages: pa.Array, texts: pa.Array) -> pa.Array:
    """Name what is still unknown and starts with `#!`."""
    heads = text_heads(texts, 2)
    open_rows = pc.and_(
        pc.is_null(languages), pc.fill_null(pc.equal(heads, pa.scalar(b"#!", pa.large_binary())), False)
    )
    rows = np.flatnonzero(open_rows.to_numpy(zero_copy_only=False))
    if not len(rows):
        return languages
    lines = pc.replace_substring_regex(text_heads(texts.take(pa.array(rows)), _SHEBANG_BYTES), r"(?s)[\r\n].*$", "")
    encoded = lines.dictionary_encode()
    interpreted = pa.array([_shebang_language(line) for line in encoded.dictionary.to_pylist()], pa.string())
    return _replace(languages, rows, interpreted.take(encoded.indices))


def _shebang_language(line: bytes) -> str | None:
    command = [word for word in parse_shebang(io.BytesIO(line)) if "=" not in word]  # env's variables
    if not command:
        return None
    interpreter = command[0].rpartition("/")[2].lower()
    return _linguist_name(tags_from_interpreter(interpreter)) or _MORE_INTERPRETERS.get(
        interpreter.rstrip("0123456789.-")
    )


def _replace(languages: pa.Array, rows: np.ndarray, names: pa.Array) -> pa.Array:
    """`languages` with `names` at `rows` (ascending) where they are not null."""
    mask = np.zeros(len(languages), bool)
    mask[rows] = True
    return pc.replace_with_mask(languages, pa.array(mask), pc.coalesce(names, languages.take(pa.array(rows))))
