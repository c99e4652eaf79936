"""The mutation tool's own work, on a toy kernel: what it finds, names, writes and concludes."""

import re

import mutate_cuda
import pytest
from cuda_mutations import Mutation, blank_comments, find, switchable

TOY = """// A comment with __syncthreads(); and a < b
#include <toy.h>
template <int kStages>
__global__ void toy(const float* from, float* to, int n, bool aligned) {
  static_assert(kStages >= 2);
  constexpr bool few = kStages < 4;
  if constexpr (kStages > 2) prepare();
  float sum = 0.f;
  float z[2] = {};
  for (int i = 0; i < n; ++i) {
    if (i >= n || threadIdx.x > i) continue;
    if (i > 100) break;
    const bool wide = aligned && i + 4 <= n;
    sum += wide ? from[i] : i < 7 ? from[0] : 0.f;
  }
  __syncthreads();
  cp_async_wait<kStages - 2>();
  if (n > 3) __syncthreads();
  __syncthreads();
  slot(q % kStages);
  each([&](int j) { to[j] = 0.f; });
  for (int mask = 16; mask > 0; mask /= 2) sum += __shfl_xor_sync(0xffffffffu, sum, mask);
}
"""


@pytest.fixture
def found():
    return find("toy.h", TOY)


def test_what_is_found(found):
    assert [m.what for m in found] == [
        "sum starts as NaN",
        "z starts as NaN",
        "i >= n taken for false",
        "threadIdx.x > i taken for false",
        "i + 4 <= n taken for true",
        "i < 7 taken for true",
        "no barrier",
        "no wait",
        "waits for one less",
        "no barrier",
        "no barrier",
        "a ring shorter by one",
        "not cleared",
        "no exchange",
        "half the mask",
    ]


def test_what_only_saves_time_is_none(found):
    assert "break" in TOY and "if (n > 3) __sync" in TOY
    assert not any("100" in m.what or "n > 3" in m.what for m in found)


def test_names_are_stable(found):
    names = [m.name for m in found]
    assert len(set(names)) == len(names)
    assert "toy.h | __syncthreads(); | no barrier" in names
    assert "toy.h | __syncthreads(); | no barrier #2" in names
    moved = find("toy.h", "// one more line\n\n" + TOY.replace("  __sync", "    __sync"))
    assert [m.name for m in moved] == names


def test_comments_keep_their_place():
    assert len(blank_comments(TOY)) == len(TOY)
    assert "comment" not in blank_comments(TOY) and "#include" not in blank_comments(TOY)
    assert blank_comments("a /* b\nc */ d") == "a     \n     d"


def choose(text: str, number: int) -> str:
    """What a compiler would make of the switches when `number` is set."""
    switch = re.compile(r"DOM2_MUTANT\((\d+)\)")
    return switch.sub(lambda m: str(int(m[1]) == number).lower(), text)


def test_all_mutants_in_one_source(found):
    text = switchable(TOY, found, first=40)
    assert sorted(map(int, re.findall(r"DOM2_MUTANT\((\d+)\)", text))) == list(range(40, 55))
    at = {m.name: n for n, m in enumerate(found, 40)}
    n = at["toy.h | __syncthreads(); | no barrier #2"]
    assert text.count(f"{{ if (DOM2_MUTANT({n})) {{ ; }} else {{ __syncthreads(); }} }}") == 1
    n = at["toy.h | const bool wide = aligned && i + 4 <= n; | i + 4 <= n taken for true"]
    assert f"aligned && (DOM2_MUTANT({n}) ? (true) : (i + 4 <= n));" in text
    n = at["toy.h | cp_async_wait<kStages - 2>(); | no wait"]
    assert (
        f"{{ if (DOM2_MUTANT({n})) {{ ; }} else if (DOM2_MUTANT({n + 1})) "
        "{ cp_async_wait<kStages - 2 + 1>(); } else { cp_async_wait<kStages - 2>(); } }"
    ) in text
    assert f"float z[2] = {{}}; if (DOM2_MUTANT({at[found[1].name]})) dom2_spoil(z);" in text
    assert choose(text, 42).count("true") == 1 + choose(text, -1).count("true")


def test_sources_without_mutants_stay():
    assert switchable("int x;", [], 0) == "int x;"
    assert find("empty.h", "int x;  // a < b\n") == []


def test_the_kernels_have_mutants():
    for name in mutate_cuda.FILES:
        assert find(name, (mutate_cuda.CUDA / name).read_text()), name
    names = [m.name for m in mutate_cuda.enumerate_all()]
    assert len(set(names)) == len(names)


def test_every_kernel_file_is_looked_at():
    kernels = {p.name for p in mutate_cuda.CUDA.iterdir() if p.suffix == ".cu"}
    assert kernels - set(mutate_cuda.FILES) == {"device.cu"}  # asks the driver, runs nothing


def test_explanations_belong_to_mutants_that_exist():
    reasons = mutate_cuda.read_survivors(mutate_cuda.SURVIVORS.read_text())
    assert set(reasons) <= {m.name for m in mutate_cuda.enumerate_all()}
    assert all(reasons.values())


def mutation(line):
    return Mutation("gemm.h", line, "no barrier", 0, 1, ";", "statement")


@pytest.mark.parametrize(
    ("killed", "explained", "code", "words"),
    [
        ([True, True], [], 0, "100.0 %"),
        ([True, False], [], 1, "NOT EXPLAINED"),
        ([True, False], ["b"], 0, "survived: gemm.h | b | no barrier\n    because"),
        ([True, False], ["a", "b"], 1, "killed or gone: gemm.h | a"),
        ([True, True], ["c"], 1, "killed or gone: gemm.h | c"),
    ],
)
def test_report(capsys, killed, explained, code, words):
    mutations = [mutation("a"), mutation("b")]
    result = {n: "values: FAIL" if k else "" for n, k in enumerate(killed)}
    reasons = {f"gemm.h | {line} | no barrier": "because" for line in explained}
    assert mutate_cuda.report(mutations, result, reasons) == code
    out = capsys.readouterr().out
    assert words in out
    assert f"{sum(killed):6}      2" in out


def test_reasons_are_read():
    text = "# a comment\n\ngemm.h | x; | no barrier\n    two\n    lines\ny\n    one\n"
    assert mutate_cuda.read_survivors(text) == {"gemm.h | x; | no barrier": "two lines", "y": "one"}
