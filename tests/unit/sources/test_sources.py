"""The registry, what a hub's words turn into, names that a hub may not use, and how long a retry waits."""

from __future__ import annotations

import pytest

from mooring.core.errors import Invalid
from mooring.core.models import FetchOrder
from mooring.settings import network_environment
from mooring.sources import REGISTRY, hub, load_source
from mooring.sources.fetch.transfer import Again, pause_s
from mooring.sources.folders import is_safe_path
from mooring.sources.hub import FetchFailed

ORDER = FetchOrder("huggingface", "org/model")


def test_every_registered_hub_can_be_loaded_and_asked() -> None:
    for name in REGISTRY:
        assert callable(load_source(name).list_files) and name in hub.TITLES
    with pytest.raises(Invalid) as refusal:
        load_source("elsewhere")
    assert "huggingface, modelscope" in refusal.value.next_step


def test_a_mirror_must_be_a_url() -> None:
    assert hub.base_url(ORDER, "https://hub") == "https://hub"
    assert hub.base_url(FetchOrder("huggingface", "a/b", mirror="http://m:8/x/"), "https://hub") == "http://m:8/x"
    for mirror in ("hf-mirror.com", "ftp://m", "http://", "http://m:no", "http://a b", "file:///etc"):
        with pytest.raises(FetchFailed) as refusal:
            hub.base_url(FetchOrder("huggingface", "a/b", mirror=mirror), "https://hub")
        assert refusal.value.code == "bad_mirror" and refusal.value.final and mirror in refusal.value.message


def test_only_trouble_that_may_pass_is_not_final() -> None:
    assert not hub.refused_status(ORDER, 503).final and not hub.refused_status(ORDER, 429).final
    assert not hub.unreachable(ORDER, "no route").final
    for failure in (hub.refused_status(ORDER, 400), hub.gated(ORDER), hub.credential_refused(ORDER)):
        assert failure.final and failure.next_step and failure.reason.startswith(failure.message)


def test_a_hub_can_not_name_a_file_outside_of_its_folder() -> None:
    for path in ("model.gguf", "a/b/c.json", "中文.txt", ".gitattributes", "a..b"):
        assert is_safe_path(path)
    for path in ("", "/etc/passwd", "../x", "a/../b", "a//b", "a/", "./a", "a\0b", "a\nb", "a\\b", "x" * 300):
        assert not is_safe_path(path)


def test_retries_wait_longer_each_time_but_not_for_ever() -> None:
    for tries in range(40):
        assert 0.1 <= pause_s(Again("x"), tries) <= 60
    assert pause_s(Again("x"), 30) >= 30 > 0.25 >= pause_s(Again("x"), 0)
    assert pause_s(Again("x", 7.0), 0) == 7.0
    assert pause_s(Again("x", 1e9), 0) == 300.0


def test_a_fetch_process_knows_the_network_and_no_secret() -> None:
    given = {"https_proxy": "http://p:3128", "NO_PROXY": "intranet", "MOORING_DATABASE_URL": "x", "HF_TOKEN": "y"}
    told = network_environment(given)
    assert told["https_proxy"] == "http://p:3128"
    assert told["NO_PROXY"] == told["no_proxy"] == "intranet,127.0.0.1,localhost,::1"
    assert not {"MOORING_DATABASE_URL", "HF_TOKEN"} & set(told)
