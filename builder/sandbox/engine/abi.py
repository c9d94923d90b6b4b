"""System call numbers of the calls the engine knows, per machine; data only.

Rows are `name:x86_64:aarch64`, empty where a machine has no such call.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from builder.errors import HostUnsupportedError
from cache.value import value

if TYPE_CHECKING:
    from collections.abc import Mapping

_ROWS = """
open:2: creat:85: openat:257:56 openat2:437:437 stat:4: lstat:6: fstat:5:80 newfstatat:262:79
statx:332:291 access:21: faccessat:269:48 faccessat2:439:439 readlink:89: readlinkat:267:78
mkdir:83: mkdirat:258:34 rmdir:84: unlink:87: unlinkat:263:35 rename:82: renameat:264:38
renameat2:316:276 link:86: linkat:265:37 symlink:88: symlinkat:266:36 chmod:90: fchmod:91:52
fchmodat:268:53 fchmodat2:452:452 chown:92: lchown:94: fchown:93:55 fchownat:260:54 mknod:133:
mknodat:259:33 utime:132: utimes:235: futimesat:261: utimensat:280:88 truncate:76:45 statfs:137:43
getcwd:79:17 chdir:80:49 chroot:161:51 umask:95:166 execve:59:221 execveat:322:281
setxattr:188:5 lsetxattr:189:6 fsetxattr:190:7 getxattr:191:8 lgetxattr:192:9 fgetxattr:193:10
listxattr:194:11 llistxattr:195:12 flistxattr:196:13 removexattr:197:14 lremovexattr:198:15
fremovexattr:199:16 setxattrat:463:463 getxattrat:464:464 listxattrat:465:465
removexattrat:466:466 inotify_add_watch:254:27 fanotify_mark:301:263 name_to_handle_at:303:264
open_by_handle_at:304:265 connect:42:203 socket:41:198 bind:49:200 sendto:44:206 sendmsg:46:211 sendmmsg:307:269
listmount:458:458 statmount:457:457 open_tree_attr:467:467 file_getattr:468:468
file_setattr:469:469 quotactl_fd:443:443 getdents64:217:61 mount:165:40 umount2:166:39 pivot_root:155:41 swapon:167:224 swapoff:168:225
acct:163:89 uselib:134: quotactl:179:60 move_mount:429:429 open_tree:428:428 fsopen:430:430
fspick:433:433 mount_setattr:442:442 unshare:272:97 setns:308:268
getuid:102:174 geteuid:107:175 getgid:104:176 getegid:108:177 setuid:105:146 setgid:106:144
setreuid:113:145 setregid:114:143 getgroups:115:158 setgroups:116:159 setresuid:117:147
getresuid:118:148 setresgid:119:149 getresgid:120:150 setfsuid:122:151 setfsgid:123:152
capget:125:90 capset:126:91 prctl:157:167 kill:62:129 tkill:200:130 tgkill:234:131 rt_sigqueueinfo:129:138
rt_tgsigqueueinfo:297:240 pidfd_open:434:434 ptrace:101:117 process_vm_readv:310:270
process_vm_writev:311:271 prlimit64:302:261 setrlimit:160:164 uname:63:160 mmap:9:222
fchdir:81:50 close:3:57 setpriority:141:140 ioprio_set:251:30 sched_setaffinity:203:122
sched_setscheduler:144:119 sched_setparam:142:118 sched_setattr:314:274
"""
_AUDIT = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
_COLUMNS = {"x86_64": 0, "aarch64": 1}


@value
class Abi:
    """One machine: its audit architecture, and numbers by name of the calls it has."""

    machine: str
    audit: int
    numbers: Mapping[str, int]

    def names(self) -> dict[int, str]:
        """Names by number."""
        return {number: name for name, number in self.numbers.items()}


def abi_of(machine: str) -> Abi:
    """The table of a machine.

    Raises:
        HostUnsupportedError: there is none.
    """
    if machine not in _AUDIT:
        raise HostUnsupportedError(
            f'system calls of machine "{machine}" cannot be emulated',
            hint="build on x86_64 or aarch64",
        )
    numbers = {}
    for row in _ROWS.split():
        name, *columns = row.split(":")
        if columns[_COLUMNS[machine]]:
            numbers[name] = int(columns[_COLUMNS[machine]])
    return Abi(machine, _AUDIT[machine], numbers)
