"""A setting that can't be read is refused at the start, not when somebody needs it."""

from __future__ import annotations

import pytest

from mooring.settings import SettingError, load


def test_the_command_of_vllm_is_taken_apart_as_a_shell_would() -> None:
    assert load({}).vllm_program == ("vllm", "serve")
    assert load({"MOORING_VLLM_COMMAND": "'/opt/my vllm' serve"}).vllm_program == ("/opt/my vllm", "serve")
    assert load({}, vllm_command="").vllm_program == ("vllm", "serve")
    with pytest.raises(SettingError, match="MOORING_VLLM_COMMAND"):
        load({"MOORING_VLLM_COMMAND": "'/opt/vllm serve"})
