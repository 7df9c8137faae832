"""The run folder: whole or absent, and nothing edited is taken for whole."""

import os
from pathlib import Path

import pytest

from kdcli.errors import UsageError
from kdcli.pipeline.run_folder import RunFolder, StageRecord, stage_cache_key
from kdcli.safe_files import file_digests


def publish(run, content="weights", key="k"):
    build, _ = run.prepare_workdir("teacher", key)
    built = build / "teacher"
    built.mkdir()
    (built / "a.txt").write_text(content)
    record = StageRecord(key, {"seed": 1}, file_digests(built), {"parameters": 3}, 1.5)
    run.publish_artifact("teacher", "teacher", built, record)


def test_what_is_published_is_found_again(tmp_path):
    publish(RunFolder.open(tmp_path / "run"))
    again = RunFolder.open(tmp_path / "run")
    assert again.records["teacher"].key == "k"
    assert again.records["teacher"].result == {"parameters": 3}
    assert again.artifact_problem("teacher", "teacher") is None


def test_it_is_on_the_disk_before_it_has_its_name(tmp_path, monkeypatch):
    synced = []

    def sync(handle):
        synced.append(
            (str(Path(f"/proc/self/fd/{handle}").readlink()), (tmp_path / "teacher").exists())
        )

    monkeypatch.setattr(os, "fsync", sync)
    publish(RunFolder.open(tmp_path))
    build = tmp_path / ".work/teacher/build/teacher"
    assert {(str(build), False), (str(build / "a.txt"), False)} <= {*synced}
    folder, manifest = synced[-2:]
    assert folder == (str(tmp_path), True)
    assert Path(manifest[0]).parent == tmp_path
    assert manifest[1]


def test_a_new_artifact_takes_the_old_one_s_place(tmp_path):
    run = RunFolder.open(tmp_path)
    publish(run, "old")
    publish(run, "new", "k2")
    assert (tmp_path / "teacher/a.txt").read_text() == "new"
    assert not list((tmp_path / ".work").iterdir())


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (lambda p: p.write_text("weightZ"), "was changed"),
        (lambda p: p.write_text("weigh"), "was changed"),
        (lambda p: p.unlink(), "is missing"),
    ],
)
def test_a_spoilt_file_is_named(tmp_path, spoil, says):
    run = RunFolder.open(tmp_path)
    publish(run)
    spoil(tmp_path / "teacher/a.txt")
    assert run.artifact_problem("teacher", "teacher") == f"{tmp_path / 'teacher/a.txt'} {says}"


def test_opening_writes_nothing(tmp_path):
    RunFolder.open(tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_file_in_the_way_is_said(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(UsageError, match="file is a file, not a folder"):
        RunFolder.open(tmp_path / "file" / "run")


@pytest.mark.parametrize(
    "content", ["", "{", "null", "[]", '{"stages": []}', '{"stages": {"x": 5}}']
)
def test_a_damaged_manifest_is_said_with_the_way_out(tmp_path, content):
    (tmp_path / "run.json").write_text(content)
    with pytest.raises(UsageError, match=r"run.json is damaged: .* Delete it to start over"):
        RunFolder.open(tmp_path)


def test_keys_tell_apart_what_differs():
    assert stage_cache_key("a", 1, {"x": 1.0}) == stage_cache_key("a", 1, {"x": 1.0})
    assert stage_cache_key("a", 1, {"x": 1.0}) != stage_cache_key("a", 2, {"x": 1.0})
    assert stage_cache_key("a", 1, {"x": 1.0}) != stage_cache_key("a", 1, {"x": 2.0})
