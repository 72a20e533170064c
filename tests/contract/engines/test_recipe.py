"""What every engine that we start owes: refusals with a next step, a clean recipe, an estimate, words for people."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from typing import Any

import pytest

from mooring.core.errors import Invalid, Unavailable
from mooring.core.replicas import ReplicaPlace

KINDS = frozenset({"chat", "completion", "embedding", "rerank", "vision", "image", "audio", "video", "other"})


def test_what_it_takes_passes_for_everybody(subject: Any) -> None:
    for administrator in (True, False):
        subject.module.check_args(list(subject.good_args), dict(subject.good_env), administrator=administrator)
    subject.module.check_args([], {})


@pytest.mark.parametrize("how", ["check_args", "launch_plan", "capabilities", "memory_need"])
def test_a_flag_it_does_not_take_is_refused_everywhere_with_those_it_takes(
    subject: Any, place: ReplicaPlace, how: str
) -> None:
    request = replace(subject.request, args=subject.bad_args)
    module = subject.module
    with pytest.raises(Invalid) as refusal:
        if how == "check_args":
            module.check_args(subject.bad_args, {})
        elif how == "launch_plan":
            module.launch_plan(request, place)
        else:
            getattr(module, how)(request)
    assert "--" in refusal.value.next_step
    assert refusal.value.param == "args"


@pytest.mark.parametrize(
    "name", ["LD_PRELOAD", "LD_LIBRARY_PATH", "PYTHONPATH", "PYTHONSTARTUP", "PATH", "HOME", "MOORING_X", "HF_TOKEN"]
)
def test_variables_that_could_run_code_or_leak_are_refused(subject: Any, place: ReplicaPlace, name: str) -> None:
    with pytest.raises(Invalid) as refusal:
        subject.module.check_args([], {name: "1"})
    assert refusal.value.param == "env"
    with pytest.raises(Invalid):
        subject.module.launch_plan(replace(subject.request, env={name: "1"}), place)


def test_a_recipe_can_be_executed_and_listens_where_it_was_told(subject: Any, place: ReplicaPlace) -> None:
    plan = subject.module.launch_plan(subject.request, place)
    assert plan.argv[0].startswith("/"), "a shim does not search"
    assert str(place.socket) in plan.argv
    assert plan.address == f"unix:{place.socket}"
    assert plan.served_model == subject.request.served_model
    assert plan.slots >= 1
    assert any(str(subject.request.model.path) in word for word in plan.argv)


def test_the_key_is_in_the_environment_and_never_in_the_arguments(subject: Any, place: ReplicaPlace) -> None:
    plan = subject.module.launch_plan(subject.request, place)
    assert place.key in plan.env.values()
    assert not any(place.key in word for word in plan.argv)


def test_the_environment_is_clean(subject: Any, place: ReplicaPlace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MOORING_DATABASE_URL", "postgresql://u:hunter2@db/x")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "hunter2")
    env = subject.module.launch_plan(replace(subject.request, env=subject.good_env), place).env
    assert not any("hunter2" in value for value in env.values())
    assert subject.good_env.items() <= env.items()
    assert str(place.directory) in env["HOME"]


def test_the_same_request_gives_the_same_recipe(subject: Any, place: ReplicaPlace) -> None:
    assert subject.module.launch_plan(subject.request, place) == subject.module.launch_plan(subject.request, place)


def test_a_model_in_another_format_is_refused(subject: Any, place: ReplicaPlace) -> None:
    with pytest.raises(Invalid, match="format"):
        subject.module.launch_plan(subject.other_format, place)
    with pytest.raises(Invalid, match="format"):
        subject.module.memory_need(subject.other_format)


def test_files_that_are_not_there_are_no_final_refusal(subject: Any) -> None:
    with pytest.raises(Unavailable) as refusal:
        subject.module.memory_need(subject.missing)
    assert refusal.value.next_step


def test_what_it_answers_is_among_what_it_knows_and_what_is_asked(subject: Any) -> None:
    module = subject.module
    assert module.CAPABILITIES <= KINDS
    usual = module.capabilities(subject.request)
    assert {"chat", "completion"} <= usual <= module.CAPABILITIES
    for kind in sorted(module.CAPABILITIES):
        assert module.capabilities(replace(subject.request, types=(kind,))) == {kind}
    for kind in sorted(KINDS - module.CAPABILITIES):
        with pytest.raises(Invalid) as refusal:
            module.capabilities(replace(subject.request, types=(kind,)))
        assert refusal.value.param == "types"


def test_an_estimate_has_parts_and_grows_with_the_context(subject: Any) -> None:
    module = subject.module
    need = module.memory_need(replace(subject.request, args=subject.good_args))
    assert all(size > 0 for _, size in need.parts)
    assert need.parts[0][0] == "weights"
    assert need.total == sum(size for _, size in need.parts)
    assert need.device == "memory"
    longer = module.memory_need(replace(subject.request, args=subject.longer_args))
    assert longer.total > need.total


def test_a_failure_is_told_in_one_line_and_silence_is_told_as_nothing(subject: Any) -> None:
    noise = "something\n" * 50
    told = subject.module.last_error(noise + subject.failure)
    assert told
    assert "\n" not in told
    assert told in subject.failure
    assert subject.module.last_error("") == ""
    assert subject.module.last_error(subject.loading) == ""


def test_the_progress_of_a_start_is_told_in_one_line(subject: Any) -> None:
    told = subject.module.progress(subject.loading + "something else\n")
    assert told.startswith("Loading")
    assert "\n" not in told
    assert subject.module.progress("") == ""


def test_no_damaged_log_breaks_the_reading(subject: Any) -> None:
    for text in ("\x00\ud800\r\r\n" * 3, "(" * 5000, "a: " * 5000, subject.failure[:10], subject.loading * 500):
        assert isinstance(subject.module.last_error(text), str)
        assert isinstance(subject.module.progress(text), str)


def test_importing_it_needs_no_engine(subject: Any) -> None:
    code = f"import sys, {subject.module.__name__}; print({{'vllm', 'xllamacpp', 'torch'}} & set(sys.modules))"
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ended.stdout == "set()\n"
