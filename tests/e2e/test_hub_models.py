"""Models from a hub: fetched through kills, shared, refused with reasons, and served."""

from __future__ import annotations

import hashlib
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.e2e.conftest import MakePlatform
from tests.e2e.running import Platform, until

import mooring
from mooring.testing.hub import FakeHub

MODEL = (Path(mooring.__file__).parent / "assets" / "mooring-demo.gguf").read_bytes()
SLOW = 200_000  # bytes per second: about twenty seconds for the model
BRISK = 500_000  # on the way to the next kill
TRICKLE = 50_000  # while something is killed and comes back: the model is not there before


@pytest.fixture
def hub() -> Iterator[FakeHub]:
    with FakeHub() as hub:
        hub.add("org/tiny-GGUF", {"tiny-q8_0.gguf": MODEL, "README.md": b"# tiny"})
        yield hub


def deploy(platform: Platform, hub: FakeHub, service: str = "tiny", **model: Any) -> dict[str, Any]:
    source = {"source": "huggingface", "name": "org/tiny-GGUF", "mirror": hub.url, **model}
    return platform.create("services", service, {"model": source})


def status(platform: Platform, name: str = "tiny") -> dict[str, Any]:
    return platform.manage("GET", f"services/{name}")["status"]


def fetchers(platform: Platform) -> list[int]:
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            line = (folder / "cmdline").read_bytes()
        except OSError:
            continue
        if b"mooring.sources.fetch" in line and str(platform.data_dir).encode() in line:
            found.append(int(folder.name))
    return found


class Progress:
    """What the platform said of the bytes: never less than before, never more than there is."""

    def __init__(self, platform: Platform) -> None:
        self.platform = platform
        self.seen = [0]

    def reaches(self, share: float) -> bool:
        told = status(self.platform)
        done, total = (told["progress"].get(name, 0) for name in ("doneBytes", "totalBytes"))
        if told["state"] == "downloading" and total:
            assert done >= self.seen[-1], "progress shrank"
            assert done <= total == len(MODEL)
            assert done <= self._on_disk()
            self.seen.append(done)
        return done >= share * len(MODEL) or told["state"] in ("starting", "healthy")

    def _on_disk(self) -> int:
        files = (
            path for path in self.platform.data_dir.glob("models/**/*") if path.is_file() and not path.is_symlink()
        )
        return sum(path.stat().st_blocks * 512 for path in files)


def test_a_fetch_goes_on_through_kills_of_fetcher_control_and_everything_and_the_model_serves(
    make_platform: MakePlatform, hub: FakeHub
) -> None:
    platform = make_platform("--no-demo").start()
    hub.bytes_per_s = BRISK
    deploy(platform, hub)
    progress = Progress(platform)

    until(lambda: progress.reaches(0.2), "a fifth of the model", 30)
    hub.bytes_per_s = TRICKLE
    (first,) = fetchers(platform)
    os.kill(first, signal.SIGKILL)
    until(lambda: fetchers(platform) not in ([], [first]), "another fetcher")

    hub.bytes_per_s = BRISK
    until(lambda: progress.reaches(0.4), "two fifths", 30)
    hub.bytes_per_s = TRICKLE
    (second,) = fetchers(platform)
    platform.kill("control")
    until(lambda: platform.call("GET", "/manage/v1/version").status == 200, "control again")
    assert fetchers(platform) == [second], "a fetch outlives control"

    hub.bytes_per_s = BRISK
    until(lambda: progress.reaches(0.6), "three fifths", 30)
    hub.bytes_per_s = TRICKLE
    platform.kill("supervisor")
    for pid in fetchers(platform):
        os.kill(pid, signal.SIGKILL)
    until(lambda: not platform.pids("control"), "the end of control")
    assert platform.process
    platform.process.wait()
    platform.start()

    hub.bytes_per_s = 0
    until(lambda: progress.reaches(1.0), "the rest", 30)
    until(lambda: status(platform)["state"] == "healthy", "a healthy service", 60)
    told = platform.manage("GET", "services/tiny")["status"]
    assert (told["engine"], told["detail"]["model"]["bytes"]) == ("llamacpp", len(MODEL))
    blobs = [path for path in platform.data_dir.glob("models/blobs/*") if path.stat().st_size == len(MODEL)]
    assert [hashlib.sha256(path.read_bytes()).digest() for path in blobs] == [hashlib.sha256(MODEL).digest()]
    assert hub.sent("tiny-q8_0.gguf") < 1.6 * len(MODEL), "what was there was not fetched again"
    assert platform.chat("Hello", model="tiny").json["choices"][0]["message"]["content"].startswith("Hello")
    assert platform.stop() == 0
    assert fetchers(platform) == []


REFUSED = {
    "no-name": ({"name": "org/none"}, "There is no model 'org/none'"),
    "no-leave": ({"name": "org/gated"}, "is gated: its authors must let you in."),
    "no-revision": ({"revision": "v9"}, "has no revision 'v9'."),
    "no-file": ({"file": "*q2_k.gguf"}, "q2_k"),
    "no-token": ({"tokenSecret": "wrong"}, "refused the token of the secret."),
}


@pytest.fixture(scope="module")
def refused(hub_platform: Platform) -> Iterator[None]:
    """Deploy all that is refused at once: each is looked at in a test of its own."""
    with FakeHub() as hub:
        hub.add("org/tiny-GGUF", {"tiny-q8_0.gguf": MODEL, "README.md": b"# tiny"})
        hub.add("org/gated", {"a.gguf": MODEL}, gated=True)
        for name, (model, _) in REFUSED.items():
            deploy(hub_platform, hub, name, **model)
        yield


@pytest.mark.usefixtures("refused")
@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_fetched_has_failed_with_the_reason_and_what_to_do(hub_platform: Platform, name: str) -> None:
    until(lambda: status(hub_platform, name)["state"] == "failed", "the refusal", 30)
    reason = status(hub_platform, name)["reason"]
    assert REFUSED[name][1] in reason
    assert "spec.model" in reason
    hub_platform.manage("DELETE", f"services/{name}")


@pytest.fixture(scope="module")
def hub_platform(make_module_platform: MakePlatform) -> Platform:
    platform = make_module_platform("--no-demo").start()
    secret = {"type": "Opaque", "stringData": {"token": "hf_wrong"}}
    platform.create("secrets", "wrong", secret)
    return platform


def test_a_gated_model_is_fetched_as_soon_as_the_secret_holds_the_right_token(
    hub_platform: Platform, hub: FakeHub
) -> None:
    hub.add("org/gated", {"a.gguf": MODEL}, gated=True)
    hub.tokens.add("hf_right")
    hub_platform.create("secrets", "later", {"type": "Opaque", "stringData": {"token": "hf_nearly"}})
    deploy(hub_platform, hub, "gated", name="org/gated", tokenSecret="later")
    until(lambda: status(hub_platform, "gated")["state"] == "failed", "the refusal", 30)
    hub_platform.manage("PATCH", "secrets/later", {"spec": {"stringData": {"token": "hf_right"}}})
    until(lambda: status(hub_platform, "gated")["state"] == "healthy", "the model", 60)
    on_disk = b"".join(path.read_bytes() for path in hub_platform.data_dir.rglob("*.json"))
    assert b"hf_right" not in on_disk, "the token is in no file"


def test_two_services_share_what_they_have_in_common_and_pruning_takes_only_what_nobody_uses(
    hub_platform: Platform, hub: FakeHub
) -> None:
    hub.add("org/two", {"two-q8_0.gguf": MODEL[:-1] + b"x"})
    for name, model in (("one", {}), ("other", {"file": "*q8_0.gguf"})):
        deploy(hub_platform, hub, name, name="org/two", **model)
    for name in ("one", "other"):
        until(lambda name=name: status(hub_platform, name)["state"] in ("healthy", "failed"), "both", 60)
    assert hub.sent("two-q8_0.gguf") <= len(MODEL) + 1, "once, and a byte to ask for leave"
    hub_platform.manage("DELETE", "services/one")
    hub_platform.manage("POST", "cache/prune", {})
    cached = hub_platform.manage("GET", "cache")["items"]
    assert [item["usedBy"][0]["name"] for item in cached if item["name"] == "org/two"] == ["other"]
    until(lambda: hub_platform.chat(model="other").status == 200, "the other service still answers")
    hub_platform.manage("DELETE", "services/other")
    hub_platform.manage("POST", "cache/prune", {})
    assert [item for item in hub_platform.manage("GET", "cache")["items"] if item["name"] == "org/two"] == []


def test_what_may_be_had_with_a_token_is_not_given_to_who_has_none(hub_platform: Platform, hub: FakeHub) -> None:
    hub.tokens.add("hf_ours")
    hub.add("org/private", {"p-q8_0.gguf": MODEL[:-1] + b"p"}, private=True)
    hub.add("org/gated-too", {"g-q8_0.gguf": MODEL[:-1] + b"p"}, gated=True)
    hub_platform.create("secrets", "ours", {"type": "Opaque", "stringData": {"token": "hf_ours"}})
    deploy(hub_platform, hub, "mine", name="org/private", tokenSecret="ours")
    until(lambda: status(hub_platform, "mine")["state"] in ("healthy", "failed"), "the model", 60)
    assert "can't be fetched" not in status(hub_platform, "mine")["reason"]
    for service, name in (("private-too", "org/private"), ("gated-too", "org/gated-too")):
        deploy(hub_platform, hub, service, name=name)  # the bytes lie in the cache already
        until(lambda service=service: status(hub_platform, service)["state"] == "failed", "the refusal", 30)
        assert "can't be fetched" in status(hub_platform, service)["reason"]


def test_a_failed_fetch_is_no_verdict_on_the_next_one(hub_platform: Platform, hub: FakeHub) -> None:
    hub.add("org/later", {"l-q8_0.gguf": MODEL[:-1] + b"l"})
    hub.corrupt["l-q8_0.gguf"] = -1
    deploy(hub_platform, hub, "early", name="org/later")
    until(lambda: status(hub_platform, "early")["state"] == "failed", "the refusal", 30)
    hub.corrupt.clear()
    deploy(hub_platform, hub, "late", name="org/later")
    until(lambda: status(hub_platform, "late")["state"] in ("healthy", "failed"), "the end of the other try", 60)
    told = status(hub_platform, "late")
    assert "can't be fetched" not in told["reason"], "what failed for another service was tried again for this one"
    assert told["detail"]["model"]["bytes"] == len(MODEL)


def test_a_deleted_service_is_not_downloaded_any_more(hub_platform: Platform, hub: FakeHub) -> None:
    hub.add("org/unwanted", {"u-q8_0.gguf": MODEL[:-1] + b"u"})
    hub.bytes_per_s = SLOW
    deploy(hub_platform, hub, "unwanted", name="org/unwanted")
    until(lambda: fetchers(hub_platform), "the fetch")
    hub_platform.manage("DELETE", "services/unwanted")
    until(lambda: not fetchers(hub_platform), "its end")
    hub_platform.manage("POST", "cache/prune", {})
    assert "org/unwanted" not in [item["name"] for item in hub_platform.manage("GET", "cache")["items"]]


def test_a_model_for_vllm_is_refused_before_it_is_downloaded_where_there_is_no_vllm(
    hub_platform: Platform, hub: FakeHub
) -> None:
    config = b'{"architectures": ["Qwen3ForCausalLM"]}'
    hub.add("org/safe", {"config.json": config, "tokenizer.json": b"{}", "model.safetensors": MODEL})
    hub.bytes_per_s = SLOW
    deploy(hub_platform, hub, "safe", name="org/safe")
    until(lambda: status(hub_platform, "safe")["state"] == "failed", "the refusal", 30)
    assert "needs vLLM" in status(hub_platform, "safe")["reason"]
    assert hub.sent("model.safetensors") < len(MODEL)
    until(lambda: not fetchers(hub_platform), "the end of the fetch")
