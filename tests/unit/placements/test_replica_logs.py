"""Following what an engine writes: whole lines, over rotations, to the end."""

import asyncio
import shutil

from mooring.placements import replica_logs


async def until(condition):
    async with asyncio.timeout(10):
        while not condition():
            await asyncio.sleep(0.01)


async def test_a_follower_sees_the_newest_lines_then_what_comes_over_a_rotation_until_the_folder_goes(tmp_path):
    folder = tmp_path / "r1"
    folder.mkdir()
    log = folder / "stderr.log"
    log.write_text("one\ntwo\nthree\n")
    seen: list[str] = []

    async def follow():
        async for text in replica_logs.follow(folder, 2):
            seen.append(text)

    task = asyncio.create_task(follow())
    await until(lambda: "".join(seen) == "two\nthree\n")
    with log.open("a") as file:
        file.write("half ")
        file.flush()
        file.write("a line\nand more\n")
    await until(lambda: "".join(seen).endswith("half a line\nand more\n"))
    with log.open("a") as file:
        file.write("last before the rotation\n")
    log.rename(folder / "stderr.log.1")
    log.write_text("first after it\nunfinished")
    await until(lambda: "first after it" in "".join(seen))
    assert "".join(seen) == "two\nthree\nhalf a line\nand more\nlast before the rotation\nfirst after it\n"
    shutil.rmtree(folder)
    await asyncio.wait_for(task, 10)
    assert "".join(seen).endswith("first after it\nunfinished")


async def test_a_log_that_does_not_exist_yet_is_followed_from_its_first_line(tmp_path):
    seen: list[str] = []

    async def follow():
        async for text in replica_logs.follow(tmp_path, 10):
            seen.append(text)

    task = asyncio.create_task(follow())
    await asyncio.sleep(0)
    (tmp_path / "stderr.log").write_text("hello\n")
    await until(lambda: seen == ["hello\n"])
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


def test_the_tail_goes_on_in_the_rotated_file(tmp_path):
    (tmp_path / "stderr.log.1").write_text("a\nb\nc\n")
    (tmp_path / "stderr.log").write_text("d\ne\n")
    assert replica_logs.tail(tmp_path, 4) == "b\nc\nd\ne"
    assert replica_logs.tail(tmp_path, 0) == ""
    assert replica_logs.tail(tmp_path / "nowhere", 4) == ""
