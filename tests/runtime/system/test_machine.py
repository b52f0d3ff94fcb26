"""What a board says about itself, read from a copy of its files; elsewhere, silence."""

import json
import os

import pytest

from vitsd_runtime.system import machine as hardware
from vitsd_runtime.system.cores import cpu_quota, usable_cores

CPU_INFO = """processor\t: 0
BogoMIPS\t: 108.00
CPU implementer\t: 0x41
CPU part\t: {part}

processor\t: 1
CPU implementer\t: 0x41
CPU part\t: {part}

Revision\t: c03114
Model\t\t: Raspberry Pi 4 Model B Rev 1.4
"""


def write(root, path, text):
    (root / path).parent.mkdir(parents=True, exist_ok=True)
    (root / path).write_text(text)


@pytest.fixture
def board(tmp_path):
    """The files of a Raspberry Pi 4."""
    write(tmp_path, "proc/cpuinfo", CPU_INFO.format(part="0xd08"))
    write(tmp_path, "proc/device-tree/model", "Raspberry Pi 4 Model B Rev 1.4\0")
    write(tmp_path, "sys/devices/system/cpu/cpu0/cpufreq/scaling_governor", "ondemand\n")
    write(tmp_path, "sys/devices/system/cpu/cpu0/cpufreq/cpuinfo_max_freq", "1800000\n")
    write(tmp_path, "sys/devices/system/cpu/cpu0/cpufreq/scaling_cur_freq", "600000\n")
    write(tmp_path, "sys/class/thermal/thermal_zone0/type", "cpu-thermal\n")
    write(tmp_path, "sys/class/thermal/thermal_zone0/temp", "61342\n")
    write(tmp_path, "sys/class/thermal/thermal_zone1/type", "battery\n")
    write(tmp_path, "sys/class/thermal/thermal_zone1/temp", "90000\n")
    write(tmp_path, "sys/devices/platform/soc/soc:firmware/get_throttled", "50005\n")
    return tmp_path


def test_a_board_is_described(board):
    machine = hardware.describe_machine(board)
    assert machine["board"] == "Raspberry Pi 4 Model B Rev 1.4"
    assert machine["cpu"] == "Cortex-A72"
    assert machine["governor"] == "ondemand"
    assert machine["max_mhz"] == 1800
    assert "emulated" not in machine
    assert hardware.format_machine(machine).startswith(
        "Raspberry Pi 4 Model B Rev 1.4, Cortex-A72, "
    )


def test_heat_and_throttling_are_read(board):
    state = hardware.thermal_state(board)
    assert state["temperature_c"] == pytest.approx(61.342)  # not the battery's
    assert state["clock_mhz"] == 600
    assert state["throttled"] == [
        "under-voltage",
        "throttled",
        "under-voltage since boot",
        "throttled since boot",
    ]
    assert hardware.format_thermal(state).startswith("61 °C, 600 MHz, under-voltage, throttled")


def test_nothing_to_complain_about_is_said_too(board):
    write(board, "sys/devices/platform/soc/soc:firmware/get_throttled", "0\n")
    state = hardware.thermal_state(board)
    assert state["throttled"] == []
    assert hardware.format_thermal(state).endswith("not throttled")


@pytest.mark.parametrize(
    ("states", "expected"),
    [
        ({"Processor": "0", "Fan": "1"}, []),
        ({"cpufreq-cpu0": "0", "thermal-cpufreq-1": "2"}, ["clock lowered for heat"]),
        ({"Fan": "1", "Processor": "what"}, None),
    ],
)
def test_other_machines_are_asked_for_what_cools_their_cpu(tmp_path, monkeypatch, states, expected):
    monkeypatch.setenv("PATH", str(tmp_path))
    for number, (kind, state) in enumerate(states.items()):
        write(tmp_path, f"sys/class/thermal/cooling_device{number}/type", f"{kind}\n")
        write(tmp_path, f"sys/class/thermal/cooling_device{number}/cur_state", f"{state}\n")
    assert hardware.thermal_state(tmp_path).get("throttled") == expected


def test_slowing_for_heat_is_counted_over_the_cores(tmp_path):
    for core, count in enumerate((3, 4)):
        path = f"sys/devices/system/cpu/cpu{core}/thermal_throttle/core_throttle_count"
        write(tmp_path, path, f"{count}\n")
    state = hardware.thermal_state(tmp_path)
    assert state["throttle_events"] == 7
    assert "7 times" in hardware.format_thermal(state)


def test_the_raspberry_pis_own_tool_is_asked_where_the_kernel_is_silent(board, monkeypatch):
    (board / "sys/devices/platform/soc/soc:firmware/get_throttled").unlink()
    write(board, "bin/vcgencmd", "#!/bin/sh\n[ $1 = get_throttled ] && echo throttled=0x8\n")
    (board / "bin/vcgencmd").chmod(0o755)
    monkeypatch.setenv("PATH", f"{board / 'bin'}:{os.environ['PATH']}")
    assert hardware.thermal_state(board)["throttled"] == ["soft temperature limit"]


@pytest.mark.parametrize("answer", ["echo error=1", "exit 1", "echo throttled=what"])
def test_a_tool_that_does_not_answer_is_no_noise(tmp_path, monkeypatch, capfd, answer):
    write(tmp_path, "bin/vcgencmd", f"#!/bin/sh\n{answer}\n")
    (tmp_path / "bin/vcgencmd").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    assert hardware.thermal_state(tmp_path) == {}
    assert capfd.readouterr() == ("", "")


def test_a_machine_that_says_nothing_is_described_without_it(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    machine = hardware.describe_machine(tmp_path)
    assert not {"board", "governor", "max_mhz", "emulated"} & set(machine)
    assert machine["cores"] == machine["physical_cores"] >= 1
    assert hardware.thermal_state(tmp_path) == {}
    assert hardware.format_thermal({}) == ""
    json.dumps(machine)


def test_an_unknown_arm_core_goes_by_its_number(board):
    write(board, "proc/cpuinfo", CPU_INFO.format(part="0xabc"))
    assert hardware.describe_machine(board)["cpu"] == "Arm CPU part 0xabc"


def test_an_emulator_that_shows_the_hosts_cpu_is_recognised(board, monkeypatch):
    write(
        board,
        "proc/cpuinfo",
        "processor\t: 0\nvendor_id\t: GenuineIntel\nmodel name\t: Intel Xeon\n",
    )
    monkeypatch.setattr(hardware.platform, "machine", lambda: "aarch64")
    assert hardware.describe_machine(board)["emulated"] is True


def test_an_emulator_that_makes_up_an_arm_cpu_is_recognised(board, monkeypatch):
    text = (
        "processor\t: 0\nmodel name\t: ARMv8 Processor rev 3 (v8l)\n"
        "BogoMIPS\t: 100.00\nCPU implementer\t: 0x41\n"
    )
    write(board, "proc/cpuinfo", text)
    monkeypatch.setattr(hardware.platform, "machine", lambda: "aarch64")
    assert hardware.describe_machine(board)["emulated"] is True


def test_an_emulator_that_says_so_is_recognised(board, monkeypatch):
    write(
        board,
        "proc/cpuinfo",
        CPU_INFO.format(part="0xd0b").replace("Raspberry Pi 4 Model B Rev 1.4", "QEMU user mode"),
    )
    monkeypatch.setattr(hardware.platform, "machine", lambda: "aarch64")
    machine = hardware.describe_machine(board)
    assert machine["emulated"] is True
    assert machine["cpu"] == "Cortex-A76"


def test_hyper_threads_count_once(tmp_path, monkeypatch):
    monkeypatch.setattr(hardware.os, "sched_getaffinity", lambda pid: {0, 1, 2, 3}, raising=False)
    for cpu in range(4):
        siblings = f"{cpu % 2},{cpu % 2 + 2}\n"
        write(tmp_path, f"sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list", siblings)
    assert hardware.physical_cores(tmp_path) == 2
    assert hardware.available_cores() == 4


MANY = {f"sys/devices/system/cpu/cpu{i}/topology/thread_siblings_list": f"{i}\n" for i in range(8)}
V2, V1 = "sys/fs/cgroup", "sys/fs/cgroup/cpu,cpuacct"


@pytest.mark.parametrize(
    ("groups", "limits", "quota", "cores"),
    [
        ("0::/\n", {f"{V2}/cpu.max": "200000 100000\n"}, 2, 2),  # in a container
        ("0::/\n", {f"{V2}/cpu.max": "150000 100000\n"}, 1.5, 2),
        ("0::/\n", {f"{V2}/cpu.max": "5000 100000\n"}, 0.05, 1),
        ("0::/\n", {f"{V2}/cpu.max": "max 100000\n"}, None, 8),
        ("0::/\n", {f"{V2}/cpu.max": "9900000 100000\n"}, 99, 8),
        ("0::/a.slice/b.scope\n", {f"{V2}/a.slice/b.scope/cpu.max": "300000 100000\n"}, 3, 3),
        (  # the group above allows less
            "0::/a.slice/b.scope\n",
            {
                f"{V2}/a.slice/cpu.max": "100000 50000\n",
                f"{V2}/a.slice/b.scope/cpu.max": "300000 100000\n",
            },
            2,
            2,
        ),
        ("0::/../other\n", {f"{V2}/cpu.max": "200000 100000\n"}, 2, 2),
        (
            "5:memory:/x\n4:cpu,cpuacct:/docker/0123\n",
            {f"{V1}/cpu.cfs_quota_us": "250000\n", f"{V1}/cpu.cfs_period_us": "100000\n"},
            2.5,
            3,
        ),
        (
            "4:cpuacct,cpu:/y\n0::/y\n",  # both versions; the folder is a link in reality
            {
                "sys/fs/cgroup/cpu/y/cpu.cfs_quota_us": "100000\n",
                "sys/fs/cgroup/cpu/y/cpu.cfs_period_us": "100000\n",
            },
            1,
            1,
        ),
        (
            "4:cpu,cpuacct:/\n",
            {f"{V1}/cpu.cfs_quota_us": "-1\n", f"{V1}/cpu.cfs_period_us": "100000\n"},
            None,
            8,
        ),
        ("4:memory:/\n", {f"{V2}/memory/cpu.max": "100000 100000\n"}, None, 8),  # another's
        ("0::/\n", {f"{V2}/cpu.max": "0 0\n"}, None, 8),
        ("0::/\n", {f"{V2}/cpu.max": "much of it\n"}, None, 8),
        ("nonsense", {}, None, 8),
    ],
)
def test_a_containers_share_of_the_cpu_counts(tmp_path, monkeypatch, groups, limits, quota, cores):
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(8)), raising=False)
    for path, text in {**MANY, "proc/self/cgroup": groups, **limits}.items():
        write(tmp_path, path, text)
    assert cpu_quota(tmp_path) == quota
    assert usable_cores(tmp_path) == cores
    machine = hardware.describe_machine(tmp_path)
    assert machine.get("cpu_quota") == quota
    assert (f"may use {quota}" in hardware.format_machine(machine)) == (quota is not None)
