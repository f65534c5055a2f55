"""A ConfigMap's mount, swapped exactly as the kubelet does it (atomic_writer.go)."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest

from reconciler.edges.configmaps import (
    MountNeverUpdated,
    MountSwapped,
    read_mounted,
)
from reconciler.edges.folder import read_folder
from reconciler.edges.folder_watch import watching
from reconciler.spec.documents import Documents
from tests.local_home import wait_for


def swap(mount: Path, stamp: str, **files: str) -> None:
    """Write a new state and make it the mount's, as the kubelet's atomic writer does."""
    state = mount / f"..{stamp}"
    state.mkdir()
    for name, text in files.items():
        (state / f"{name}.yaml").write_text(text)
    link = mount / "..data_tmp"
    link.symlink_to(state.name)
    os.rename(link, mount / "..data")
    for name in files:
        visible = mount / f"{name}.yaml"
        if not visible.is_symlink():
            visible.symlink_to(f"..data/{name}.yaml")


def texts(documents: Documents) -> set[bytes]:
    return {file.data for file in documents.files}


def test_a_mount_is_read_whole_from_one_state(tmp_path: Path) -> None:
    swap(tmp_path, "1", a="# one", b="# one")
    swapped: list[int] = []

    def read(path: str) -> Documents:
        found = read_folder(path)
        if not swapped:  # the kubelet comes in between
            swapped.append(1)
            swap(tmp_path, "2", a="# two", b="# two")
        return found

    assert texts(read_mounted(str(tmp_path), read)) == {b"# two"}


def test_a_mount_that_is_swapped_over_and_over_is_said_to_be(tmp_path: Path) -> None:
    swap(tmp_path, "0", a="# 0")
    count = iter(range(1, 100))

    def read(path: str) -> Documents:
        found = read_folder(path)
        swap(tmp_path, f"n{next(count)}", a="# other")
        return found

    with pytest.raises(MountSwapped):
        read_mounted(str(tmp_path), read)


def test_a_sub_path_mount_is_said_to_be_one(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("# a copy")
    with pytest.raises(MountNeverUpdated, match=r"no \.\.data link"):
        read_mounted(str(tmp_path), read_folder)


def test_a_swap_is_heard(tmp_path: Path) -> None:
    swap(tmp_path, "1", a="# one")
    heard = threading.Event()
    with watching(str(tmp_path), heard.set) as watch:
        assert watch.renew()
        swap(tmp_path, "2", a="# two")
        wait_for(heard.is_set, "the swap is heard")


def test_a_folder_that_comes_later_goes_and_comes_again_is_heard(tmp_path: Path) -> None:
    folder = tmp_path / "mnt" / "specs"
    heard = threading.Event()

    def hears(what: str) -> None:
        wait_for(heard.is_set, f"{what} is heard", 20)
        heard.clear()
        assert watch.renew()

    with watching(str(folder), heard.set) as watch:
        assert watch.renew()
        (tmp_path / "other").mkdir()
        folder.parent.mkdir()
        hears("the folder above it")
        folder.mkdir()
        hears("the folder")
        (folder / "a.yaml").write_text("# one")
        hears("a file in it")
        folder.rename(tmp_path / "gone")
        hears("its going")
        (tmp_path / "new").mkdir()
        (tmp_path / "new").rename(folder)
        hears("another in its place")
        (folder / "b.yaml").write_text("# two")
        hears("a file in the other")
