"""Finds what can be broken in a CUDA kernel: barriers, waits, bounds, zeroes, ring slots.

Every mutation is a span of the text with another text in its place, named by file, line and
occurrence, not by a line number. `switchable` writes all of them into one source, each behind
DOM2_MUTANT(number), so that one build serves all mutants.
"""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass

COMMENT = re.compile(r"//[^\n]*|/\*.*?\*/|^[ \t]*#[^\n]*", re.S | re.M)
# Not checks, but choices: between kernels, at compile time or by the host; of the gradients that
# somebody wants.
CHOICE = re.compile(r"[pP]recision|\bs\.rows ==|kVector|f\.vector|\bs\.g_a\b|^step > 0")


@dataclass(frozen=True)
class Mutation:
    """Text [start, end) replaced. form: expression, statement, or after (keeps the text)."""

    file: str
    line: str
    what: str
    start: int
    end: int
    new: str
    form: str
    occurrence: int = 1

    @property
    def name(self) -> str:
        suffix = f" #{self.occurrence}" if self.occurrence > 1 else ""
        return f"{self.file} | {self.line} | {self.what}{suffix}"


def blank_comments(text: str) -> str:
    """The text with comments and preprocessor lines as spaces: offsets stay."""
    return COMMENT.sub(lambda m: re.sub(r"[^\n]", " ", m[0]), text)


def find(file: str, text: str) -> list[Mutation]:
    """All mutations of a source, in order."""
    code = blank_comments(text)
    found = [*_fixed(code), *_comparisons(code), *_zeroes(code)]
    found.sort(key=lambda f: (f[0], f[1]))
    seen: Counter[tuple] = Counter()
    result: list[Mutation] = []
    for start, end, what, new, form in found:
        line = " ".join(text[text.rfind("\n", 0, start) + 1 :].split("\n", 1)[0].split())
        seen[line, what] += 1
        last = result[-1] if result else None
        if last and (start, end) != (last.start, last.end) and start < last.end:
            continue  # part of what is mutated already
        result.append(Mutation(file, line, what, start, end, new, form, seen[line, what]))
    return result


# --- what has one fixed form --------------------------------------------------------------------

FIXED = [
    (r"__syncthreads\(\);", "statement", [("no barrier", ";")]),
    (r"__syncwarp\([^;]*\);", "statement", [("no barrier", ";")]),
    (
        r"cp_async_wait<(.+?)>\(\);",
        "statement",
        [("no wait", ";"), ("waits for one less", r"cp_async_wait<\1 + 1>();")],
    ),
    (r"cp_async_commit\(\);", "statement", [("no commit", ";")]),
    (
        r"__shfl_xor_sync\(0xffffffffu, (\w+), (\w+)\)",
        "expression",
        [("no exchange", r"\1"), ("half the mask", r"__shfl_xor_sync(0xffffu, \1, \2)")],
    ),
    (r"\bq % kStages\b", "expression", [("a ring shorter by one", "q % (kStages - 1)")]),
    (r"\bi % 2 \* 2\b", "expression", [("one stage", "0")]),
    (
        r"\bissue\((\w+) \+ (kStages - 1|1)\);",
        "statement",
        [("fetch too early", r"issue(\1 + \2 + 1);")],
    ),
    (r"q < kStages - 1;", "loop", [("fetch one more at first", "q < kStages;")]),
    (r"\bmin\((4), width - j\)", "expression", [("no limit", r"\1")]),
    (r"\bmin\(p\.rows - row, (int64_t\{R\})\)", "expression", [("no limit", r"\1")]),
    (r"\bp\.add(?= \?)", "expression", [("always adds", "true"), ("never adds", "false")]),
    (r"(?<=if \()set(?=\))", "expression", [("always stores", "true"), ("never stores", "false")]),
    (r"\bvalid(?=\);)", "expression", [("never zero", "true")]),
    (r"(?<=static_cast<uint64_t>\()t\.flat \+ r\b", "expression", [("another row", "t.flat")]),
]  # fmt: skip


def _fixed(code: str):
    for pattern, form, changes in FIXED:
        for m in re.finditer(pattern, code):
            for what, new in changes:
                text = m.expand(new)
                if form == "loop":  # the condition alone, without its semicolon
                    yield m.start(), m.end() - 1, what, text[:-1], "expression"
                else:
                    yield m.start(), m.end(), what, text, form


# --- comparisons --------------------------------------------------------------------------------

OPENING, CLOSING = "([{", ")]}"


def _extent(code: str, at: int, step: int) -> int:
    """Where the operand beside a comparison ends, going left (-1) or right (1) from `at`."""
    depth = 0
    i = at
    while 0 <= i < len(code):
        c = code[i]
        inner, outer = (CLOSING, OPENING) if step < 0 else (OPENING, CLOSING)
        if c in inner:
            depth += 1
        elif c in outer:
            if depth == 0:
                break
            depth -= 1
        elif depth == 0:
            if (
                c in ";,?!"
                or code[i : i + 2] in ("&&", "||")
                or code[i - 1 : i + 1] in ("&&", "||")
            ):
                break
            if c == ":" and ":" not in (code[i - 1], code[i + 1]):
                break
            if c == "=" and code[i - 1] == " " and code[i + 1] in " \n":
                break
            if step < 0 and re.match(r"return\b", code[i - 5 : i + 1] + " "):
                break
        i += step
    return i


def _enclosing(code: str, at: int) -> tuple[str, int]:
    """The word before the parentheses around `at` ("if", "while", ...), and where these end."""
    depth = 0
    for i in range(at, -1, -1):
        if code[i] in ")]":
            depth += 1
        elif code[i] in "([":
            if depth:
                depth -= 1
                continue
            before = re.search(r"(if constexpr|static_assert|\w+)\s*$", code[max(0, i - 40) : i])
            word = before[1] if before else ""
            if code[i] == "(" and word in ("if", "while", "for", "if constexpr", "static_assert"):
                return word, _matching(code, i)
        elif code[i] in "{};" and not depth:
            break
    return "", -1


def _matching(code: str, at: int) -> int:
    """Where the parenthesis that opens at `at` closes."""
    depth = 0
    for i in range(at, len(code)):
        depth += (code[i] == "(") - (code[i] == ")")
        if depth == 0:
            return i
    return len(code)


def _comparisons(code: str):
    for m in re.finditer(r"(?<= )(<|>|<=|>=|==)(?=[ \n])", code):
        start, end = _extent(code, m.start() - 1, -1) + 1, _extent(code, m.end(), 1)
        text = code[start:end]
        start += len(text) - len(text.lstrip())
        end -= len(text) - len(text.rstrip())
        text = " ".join(code[start:end].split())
        if m[1] == "==" and not re.search(r"\blane(_id\(\))? == 0$", text):
            continue
        word, close = _enclosing(code, start - 1)
        line = code[code.rfind("\n", 0, start) + 1 : code.find("\n", end)]
        if word in ("for", "if constexpr", "static_assert") or CHOICE.search(text):
            continue
        # A loop's condition: `for (...; HERE; ...)`, whose parenthesis lies before a semicolon.
        if re.search(r"\bfor \([^()]*(\([^()]*\)[^()]*)*$", code[max(0, start - 200) : start]):
            continue
        if re.match(r"\s*(static )?constexpr\b", line):
            continue
        # To break, or to meet at a barrier, changes the time alone: what follows checks, too.
        if word == "if" and re.match(r"\)\s*(break|__syncthreads)\b", code[close:]):
            continue
        leaves = word == "if" and re.match(r"\)\s*(continue|return)\b", code[close:])
        holds = not (leaves or word == "while")
        yield start, end, f"{text} taken for {str(holds).lower()}", str(holds).lower(), "expression"


# --- zeroes -------------------------------------------------------------------------------------


def _zeroes(code: str):
    for m in re.finditer(r"\b(?:Sums<M, R>|float) (\w+)(?:\[\w+\])? = \{(?:0\.f,? ?)*\};", code):
        yield m.start(), m.end(), f"{m[1]} starts as NaN", f"dom2_spoil({m[1]});", "after"
    for m in re.finditer(r"\b(?:float|double) (\w+ = 0\.(?:f|0)(?:, \w+ = 0\.(?:f|0))*);", code):
        for name in re.findall(r"(\w+) =", m[1]):
            yield m.start(), m.end(), f"{name} starts as NaN", f"dom2_spoil({name});", "after"
    for m in re.finditer(r"(?<=[{;] )[\w.]+\[[^;={}]*\] = 0\.(?:f|0);", code):
        yield m.start(), m.end(), "not cleared", ";", "statement"


# --- all in one source --------------------------------------------------------------------------

HEADER = """// Which mutant runs: the environment says.
#pragma once
#include <stdlib.h>
#include <string.h>
inline const int dom2_mutant_id = [] {
  const char* text = getenv("DOM2_MUTANT");
  return text ? atoi(text) : -1;
}();
#define DOM2_MUTANT(n) (dom2_mutant_id == (n))
template <class T>
inline void dom2_spoil(T& value) {
  memset(static_cast<void*>(&value), 0xff, sizeof value);
}
"""


def switchable(text: str, mutations: list[Mutation], first: int) -> str:
    """The text with all its mutations; the i-th happens where DOM2_MUTANT(first + i) holds."""
    groups: dict[tuple, list[tuple[int, Mutation]]] = {}
    for number, m in enumerate(mutations, first):
        groups.setdefault((m.start, m.end, m.form), []).append((number, m))
    for (start, end, form), members in sorted(groups.items(), reverse=True):
        old = text[start:end]
        if form == "after":
            new = old + "".join(f" if (DOM2_MUTANT({n})) {m.new}" for n, m in members)
        elif form == "statement":
            cases = "".join(f"if (DOM2_MUTANT({n})) {{ {m.new} }} else " for n, m in members)
            new = f"{{ {cases}{{ {old} }} }}"
        else:
            cases = "".join(f"DOM2_MUTANT({n}) ? ({m.new}) : " for n, m in members)
            new = f"({cases}({old}))"
        text = text[:start] + new + text[end:]
    return text
