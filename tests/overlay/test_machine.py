from __future__ import annotations

import pathlib

from overlay import machine

UUID = "4C4C4544-0042-3510-8052-B4C04F564433\n"
CPUINFO = "processor\t: 0\nmodel name\t: ARMv8\n\nHardware\t: BCM2835\nSerial\t\t: 10000000a1b2c3d4\n"


def write(path: pathlib.Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def read(base: pathlib.Path) -> str | None:
    return machine.read_machine(base / "sys", base / "proc")


def test_firmware_s_uuid_names_the_machine_and_is_not_kept_as_it_is(tmp_path: pathlib.Path) -> None:
    write(tmp_path / "sys/class/dmi/id/product_uuid", UUID)
    write(tmp_path / "proc/cpuinfo", CPUINFO)
    named = read(tmp_path)
    assert named is not None
    assert len(named) == 32
    write(tmp_path / "sys/class/dmi/id/product_uuid", UUID.lower())
    assert read(tmp_path) == named
    write(tmp_path / "sys/class/dmi/id/product_uuid", UUID.replace("4433", "4434"))
    assert read(tmp_path) != named


def test_a_board_without_firmware_is_named_by_its_processor(tmp_path: pathlib.Path) -> None:
    write(tmp_path / "proc/cpuinfo", CPUINFO)
    named = read(tmp_path)
    assert named is not None
    write(tmp_path / "proc/cpuinfo", CPUINFO.replace("c3d4", "c3d5"))
    assert read(tmp_path) not in (None, named)


def test_a_machine_may_have_no_name(tmp_path: pathlib.Path) -> None:
    write(tmp_path / "proc/cpuinfo", "processor\t: 0\n")
    assert read(tmp_path) is None
    assert machine.read_machine(tmp_path / "none", tmp_path / "none") is None
