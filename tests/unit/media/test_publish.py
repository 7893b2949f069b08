"""What appears in the output folder: nothing replaced, leftovers of killed processes swept, live ones kept."""
from __future__ import annotations

import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import av
import pytest
import torch

from ltx23_core.atomic import DAY, publish_free, publish_new, sweep, temporary_beside
from ltx23_core.errors import MediaError
from ltx23_core.media import Audio, VideoWriter
from ltx23_core.media.sound_file import write_sound

FRAMES = torch.zeros(3, 32, 32, 3)


def part(folder: Path, content: str) -> Path:
    path = temporary_beside(folder / "x.mp4", ".part")
    path.write_text(content)
    return path


def numbered(folder: Path) -> list[Path]:
    return sorted(folder.glob("clip_*.mp4"))


def test_publishing_never_replaces(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("first")
    mine = part(tmp_path, "second")
    with pytest.raises(FileExistsError):
        publish_new(mine, tmp_path / "a")
    assert (tmp_path / "a").read_text() == "first" and mine.exists()
    names = iter([tmp_path / "b", tmp_path / "c"])
    (tmp_path / "b").write_text("taken too")
    assert publish_free(mine, tmp_path / "a", lambda: next(names)) == tmp_path / "c"
    assert (tmp_path / "c").read_text() == "second" and not mine.exists()


@pytest.mark.skipif(os.name != "posix", reason="Windows renames exclusively without links")
def test_without_hard_links_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_links(*_: object) -> None:
        raise PermissionError("this file system has no links")

    monkeypatch.setattr(os, "link", no_links)
    publish_new(part(tmp_path, "a"), tmp_path / "new")
    assert (tmp_path / "new").read_text() == "a"
    with pytest.raises(FileExistsError):
        publish_new(part(tmp_path, "b"), tmp_path / "new")


def test_sixteen_writers_of_one_name_leave_sixteen_files(tmp_path: Path) -> None:
    def write(number: int) -> Path:
        def free() -> Path:
            return tmp_path / f"clip_{len(numbered(tmp_path)) + 1:05}_.mp4"

        return publish_free(part(tmp_path, str(number)), tmp_path / "clip_00001_.mp4", free)

    with ThreadPoolExecutor(8) as pool:
        paths = list(pool.map(write, range(16)))
    assert len(set(paths)) == 16 and {path.read_text() for path in paths} == set(map(str, range(16)))


def test_two_videos_of_one_number_are_both_kept(tmp_path: Path) -> None:
    """The number is chosen before decoding: whoever ends second takes the next one."""
    def writer() -> VideoWriter:
        return VideoWriter(tmp_path / "clip_00001_.mp4", 24,
                           next_path=lambda: tmp_path / f"clip_{len(numbered(tmp_path)) + 1:05}_.mp4")

    with writer() as first, writer() as second:
        first.write(FRAMES)
        second.write(FRAMES[:1])
    assert [path.name for path in numbered(tmp_path)] == ["clip_00001_.mp4", "clip_00002_.mp4"]
    assert {first.path.name, second.path.name} == {"clip_00001_.mp4", "clip_00002_.mp4"}
    with av.open(str(first.path)) as file:
        assert file.streams.video[0].frames == 3
    assert not list(tmp_path.glob(".*"))


def aged(path: Path, seconds: float) -> Path:
    path.write_bytes(b"")
    os.utime(path, (time.time() - seconds,) * 2)
    return path


def test_old_leftovers_go_at_the_next_use_and_live_ones_stay(tmp_path: Path) -> None:
    ended = subprocess.run([sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True, text=True)
    dead = aged(tmp_path / f".clip_00001_.mp4.{int(ended.stdout)}-0a1b2c3d.part", 2 * DAY)
    young = aged(tmp_path / f".clip_00002_.mp4.{int(ended.stdout)}-0a1b2c3d.part", DAY / 2)
    live = aged(tmp_path / f".clip_00003_.mp4.{os.getppid()}-0a1b2c3d.part", 9 * DAY)
    foreign = aged(tmp_path / "notes.part", 9 * DAY)
    with VideoWriter(tmp_path / "new.mp4", 24) as writer:
        writer.write(FRAMES)
    assert not dead.exists() and young.exists() and foreign.exists()
    assert live.exists() == (os.name == "posix"), "Windows refuses to delete what another process has open"


def test_a_sweep_of_nothing_says_nothing(tmp_path: Path) -> None:
    assert sweep(tmp_path / "absent", "*.tmp") == []
    old = aged(tmp_path / "map.json0a.tmp", 2 * DAY)
    assert sweep(tmp_path, "map.json*.tmp") == [old]


@pytest.mark.parametrize(("channels", "rate"), [(1, 16_000), (2, 48_000), (6, 44_056)])
def test_sound_alone_goes_to_a_file(tmp_path: Path, channels: int, rate: int) -> None:
    sound = Audio(0.1 * torch.randn(1, channels, rate), rate)
    path = write_sound(tmp_path / "a.m4a", sound, metadata={"prompt": "rain"})
    with av.open(str(path)) as file:
        assert not file.streams.video and file.metadata["prompt"] == "rain"
        assert abs(float(file.duration) / av.time_base - 1) < 0.1
    assert write_sound(path, sound, next_path=lambda: tmp_path / "b.m4a").name == "b.m4a"
    with pytest.raises(MediaError, match=r"ends in \.m4a"):
        write_sound(tmp_path / "a.wav", sound)
    assert not list(tmp_path.glob(".*"))
