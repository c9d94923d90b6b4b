"""What calls on files answer in emulated steps: what the kernel answers with namespaces (C5, F2-F4)."""

from __future__ import annotations

import io
import tarfile

from support.emulated_steps import compiled, outcome
from support.pybuild_cli import REPOSITORY

ANSWERS = REPOSITORY / "testdata" / "engine" / "answers.c"
HIDDEN = REPOSITORY / "testdata" / "engine" / "hidden.c"
FOREIGN = 3000  # files of as many owners


def test_calls_answer_as_the_kernel_does(pybuild, busybox, tmp_path):
    """Some three hundred: /proc/self/exe, execveat, FIFOs, O_TMPFILE, renameat2, linkat, attributes, chroot."""
    text = f"FROM {busybox}\nCOPY --chmod=755 answers /answers\nRUN /answers > /log 2>&1\n"
    program = compiled(tmp_path, "answers", ANSWERS.read_text(), "-w")
    context = pybuild.context("answers", text, {"answers": program})
    layers, log = outcome(pybuild, context, "userns")
    emulated, emulated_log = outcome(pybuild, context, "emulate")
    assert len(log) > 240
    assert emulated_log == log
    named = ("w/", "w")
    known = {name: entry for name, entry in layers[-1].items() if name.startswith(named)}
    found = {name: entry for name, entry in emulated[-1].items() if name.startswith(named)}
    assert known.keys() == found.keys()
    for name, entry in known.items():
        assert found[name][:4] == entry[:4], name


def test_who_hides_its_memory_is_answered(pybuild, busybox, tmp_path):
    """PR_SET_DUMPABLE as sudo and ssh-agent do: told, handed down, gone with exec, in no one's way (I06)."""
    text = f"FROM {busybox}\nCOPY --chmod=755 hidden /hidden\nRUN /hidden > /log 2>&1\n"
    context = pybuild.context(
        "hidden", text, {"hidden": compiled(tmp_path, "hidden", HIDDEN.read_text())}
    )
    _, log = outcome(pybuild, context, "userns")
    assert log.count("is 0 ") == 3
    assert outcome(pybuild, context, "emulate")[1] == log


def test_directories_list_devices_as_such(pybuild, busybox):
    """What a directory says of its entries, without asking each: recorded devices, of earlier steps, too (C5)."""
    text = f"""\
FROM {busybox}
RUN mkdir /d && mknod /d/c c 1 3 && mknod /d/b b 7 8 && touch /d/f && find /d -type c -o -type b \\
 | sort > /o && mv /d/c /d/moved && ln /d/b /d/b2 && rm /d/b && cp -a /d/moved /d/copy
RUN find /d -type c -o -type b | sort > /log; find /d -type f >> /log; ls -l /d | wc -l >> /log; \\
 rm -r /d; ls / | grep d$ >> /log; cat /o >> /log
"""
    _, log = outcome(pybuild, pybuild.context("listed", text), "emulate")
    assert log == ["/d/b2", "/d/copy", "/d/moved", "/d/f", "5", "/d/b", "/d/c"]


def test_dev_lists_what_can_be_opened(pybuild, busybox):
    """The host's devices are neither there nor listed; what is listed has a status (C4)."""
    text = f"FROM {busybox}\nRUN ls -l /dev > /log 2>&1; cd /dev; ls -a >> /log; echo * >> /log\n"
    _, log = outcome(pybuild, pybuild.context("dev", text), "emulate")
    assert not [line for line in log if "No such" in line]
    names = log[-1].split()
    assert {"null", "fd", "tty", "urandom"} <= set(names)
    assert len(names) == len(set(names)) < 14
    assert {".", "..", *names} == set(log[-len(names) - 3 : -1])


def test_an_archive_of_many_owners_is_unpacked(pybuild, busybox):
    """Each file of thousands has its own, in the layer and in the next step (F4)."""
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w") as archive:
        for number in range(FOREIGN):
            member = tarfile.TarInfo(f"many/{number}")
            member.uid = member.gid = 1000 + number
            archive.addfile(member)
    text = f"""\
FROM {busybox}
COPY many /many.tar
RUN tar -xf /many.tar && rm /many.tar
RUN stat -c %u:%g /many/7 /many/{FOREIGN - 1} > /log
"""
    context = pybuild.context("owners", text, {"many": data.getvalue()})
    layers, log = outcome(pybuild, context, "emulate")
    assert log == ["1007:1007", f"{FOREIGN + 999}:{FOREIGN + 999}"]
    for number in range(FOREIGN):
        assert layers[-2][f"many/{number}"][2:4] == (1000 + number, 1000 + number)
