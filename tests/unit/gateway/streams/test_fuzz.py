"""A second of the fuzzer; `python -m tools.fuzz_normaliser` goes on for longer."""

from tools.fuzz_normaliser import fuzz


def test_a_second_of_broken_streams():
    assert fuzz(1.0, seed=7) > 20
