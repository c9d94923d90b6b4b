/* What calls on files answer: with namespaces and emulated alike. Run without arguments. */
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <linux/capability.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <sys/xattr.h>
#include <unistd.h>
#ifndef AT_EMPTY_PATH
#define AT_EMPTY_PATH 0x1000
#endif
static void t(const char *n, long r) {
  int e = errno;
  printf("%s %s%s%ld\n", n, r < 0 ? strerror(e) : "", r<0?" ":"", r < 0 ? -1 : r);
  fflush(stdout);
  errno = 0;
}
#define T(n, c) t(n, (long)(c))
#define Z(n, c) do { long r_ = (long)(c); t(n, r_ < 0 ? -1 : 0); } while (0)
static void list(const char *p) {
  struct dirent *e;
  DIR *d = opendir(p);
  char l[64][64];
  int n = 0;
  if (!d) {
    T("opendir", -1);
    return;
  }
  while ((e = readdir(d))) if (e->d_name[0] != '.') snprintf(l[n++], 64, "%s:%d", e->d_name, e->d_type);
  closedir(d);
  qsort(l, n, 64, (int (*)(const void *, const void *))strcmp);
  for (int i = 0; i < n; i++) printf("list %s\n", l[i]);
}
int main(int c, char **v, char **env) {
  struct stat st;
  char b[8192];
  int fd, f2, p;
  ssize_t n;
  setbuf(stdout, NULL);
  if (c > 1) {
    printf("exec %s %s\n", v[1], v[0]);
    return 0;
  }
  mkdir("/w", 0755);
  chdir("/w");
  fd = open("/proc/self/exe", O_RDONLY);
  n = read(fd, b, 4);
  fstat(fd, &st);
  int size = st.st_size;
  stat("/answers", &st);
  printf("exe %d %d\n", (int)n, size == st.st_size);
  Z("stat exe", stat("/proc/self/exe", &st));
  printf("same %d\n", size == st.st_size);
  Z("lstat exe", lstat("/proc/self/exe", &st));
  printf("link %d\n", S_ISLNK(st.st_mode));
  close(fd);
  T("mknod p", mknod("p", S_IFIFO | 0644, 0));
  T("mknod f", mknod("f", S_IFREG | 0600, 0));
  T("mknod 0", mknod("g", 0644, 0));
  T("mknod s", mknod("s", S_IFSOCK | 0600, 0));
  T("mknod d", mknod("d", S_IFDIR | 0700, 0));
  T("mknod l", mknod("l", S_IFLNK | 0700, 0));
  T("mkdir", mkdir("dir/", 0700));
  T("symlink", symlink("f", "sl"));
  list("/w");
  list(".");
  fd = open("/answers", O_RDONLY | O_CLOEXEC);
  char *av[] = {"argv0", "one", NULL};
  if (!(p = fork())) {
    syscall(SYS_execveat, fd, "", av, env, AT_EMPTY_PATH);
    T("execveat", -1);
    _exit(1);
  }
  waitpid(p, 0, 0);
  f2 = open("/", O_RDONLY | O_DIRECTORY);
  if (!(p = fork())) {
    av[1] = "two";
    syscall(SYS_execveat, f2, "answers", av, env, 0);
    T("execveat", -1);
    _exit(1);
  }
  waitpid(p, 0, 0);
  symlink("/answers", "/w/lfid");
  if (!(p = fork())) {
    av[1] = "three";
    T("execveat nofollow", syscall(SYS_execveat, AT_FDCWD, "lfid", av, env, AT_SYMLINK_NOFOLLOW));
    _exit(1);
  }
  waitpid(p, 0, 0);
  if (!(p = fork())) {
    T("execveat bad", syscall(SYS_execveat, 77, "answers", av, env, 0));
    T("execveat empty", syscall(SYS_execveat, f2, "", av, env, 0));
    _exit(1);
  }
  waitpid(p, 0, 0);
  if (!(p = fork())) {
    av[1] = "four";
    execve("/proc/self/exe", av, env);
    T("execve", -1);
    _exit(1);
  }
  waitpid(p, 0, 0);
  if (!(p = fork())) {
    T("exec dir", execve("/w", av, env));
    T("exec f", execve("f", av, env));
    T("exec none", execve("none", av, env));
    T("exec f/x", execve("f/x", av, env));
    T("exec empty", execve("", av, env));
    T("exec null", execve(NULL, av, env));
    _exit(1);
  }
  waitpid(p, 0, 0);
  Z("fifo nonblock", fd = open("p", O_RDONLY | O_NONBLOCK));
  close(fd);
  T("fifo nobody", open("p", O_WRONLY | O_NONBLOCK));
  Z("fifo rw", fd = open("p", O_RDWR));
  close(fd);
  if (!(p = fork())) {
    fd = open("p", O_WRONLY);
    write(fd, "hey", 3);
    _exit(0);
  }
  fd = open("p", O_RDONLY);
  n = read(fd, b, 10);
  printf("fifo got %zd\n", n);
  close(fd);
  waitpid(p, 0, 0);
  if (!(p = fork())) {
    usleep(50000);
    fd = open("p", O_RDONLY);
    n = read(fd, b, 10);
    _exit(n);
  }
  fd = open("p", O_WRONLY);
  T("fifo flags", fcntl(fd, F_GETFL) & (O_NONBLOCK|O_ACCMODE));
  write(fd, "hey", 3);
  close(fd);
  int s;
  waitpid(p, &s, 0);
  printf("fifo child %d\n", WEXITSTATUS(s));
  Z("tmpfile", fd = open("/w", O_TMPFILE | O_RDWR, 0640));
  write(fd, "x", 1);
  fstat(fd, &st);
  printf("tmp %o %d\n", st.st_mode, (int)st.st_nlink);
  sprintf(b, "/proc/self/fd/%d", fd);
  T("link tmp", linkat(AT_FDCWD, b, AT_FDCWD, "/w/tmp1", AT_SYMLINK_FOLLOW));
  T("link tmp2", linkat(fd, "", AT_FDCWD, "/w/tmp2", AT_EMPTY_PATH));
  stat("/w/tmp1", &st);
  printf("tmp1 %o %d %d\n", st.st_mode, (int)st.st_nlink, (int)st.st_size);
  close(fd);
  fd = open("/w", O_TMPFILE | O_RDWR | O_EXCL, 0640);
  sprintf(b, "/proc/self/fd/%d", fd);
  T("link excl", linkat(AT_FDCWD, b, AT_FDCWD, "/w/tmp3", AT_SYMLINK_FOLLOW));
  close(fd);
  T("tmpfile ro", open("/w", O_TMPFILE | O_RDONLY, 0640));
  T("tmpfile f", open("/w/f", O_TMPFILE | O_RDWR, 0640));
  creat("/w/r1", 0644);
  creat("/w/r2", 0644);
  T("noreplace", syscall(SYS_renameat2, AT_FDCWD, "r1", AT_FDCWD, "r2", 1));
  T("exchange", syscall(SYS_renameat2, AT_FDCWD, "r1", AT_FDCWD, "r2", 2));
  T("exchange none", syscall(SYS_renameat2, AT_FDCWD, "r1", AT_FDCWD, "r9", 2));
  T("both", syscall(SYS_renameat2, AT_FDCWD, "r1", AT_FDCWD, "r2", 3));
  T("bad", syscall(SYS_renameat2, AT_FDCWD, "r1", AT_FDCWD, "r2", 8));
  T("link sym", link("sl", "sl2"));
  lstat("sl2", &st);
  printf("sl2 %o %d\n", st.st_mode & S_IFMT, (int)st.st_nlink);
  T("link follow", linkat(AT_FDCWD, "sl", AT_FDCWD, "sl3", AT_SYMLINK_FOLLOW));
  lstat("sl3", &st);
  printf("sl3 %o\n", st.st_mode & S_IFMT);
  T("link dir", link("dir", "dir2"));
  T("link exist", link("f", "g"));
  T("link none", link("none", "h"));
  T("link badflag", linkat(AT_FDCWD, "f", AT_FDCWD, "h", 0x4000));
  fd = open("f", O_RDWR);
  write(fd, "data", 4);
  sprintf(b, "/dev/fd/%d", fd);
  Z("dev fd", f2 = open(b, O_RDONLY));
  n = read(f2, b, 10);
  printf("dev fd read %zd\n", n);
  close(f2);
  close(fd);
  T("stdin", open("/dev/stdin", O_RDONLY) < 0);
  T("devfd none", open("/dev/fd/99", O_RDONLY));
  T("setcap", setxattr("f", "security.capability", "\1\0\0\2\0\4\0\0\0\0\0\0\0\0\0\0\0\0\0\0", 20, 0));
  T("getcap", getxattr("f", "security.capability", b, 100));
  T("list", listxattr("f", b, 100));
  T("size", getxattr("f", "security.capability", NULL, 0));
  T("small", getxattr("f", "security.capability", b, 5));
  T("create", setxattr("f", "security.capability", "\1\0\0\2\0\4\0\0\0\0\0\0\0\0\0\0\0\0\0\0", 20, XATTR_CREATE));
  T("remove", removexattr("f", "security.capability"));
  T("remove2", removexattr("f", "security.capability"));
  T("badcap", setxattr("f", "security.capability", "xx", 2, 0));
  T("cap dir", setxattr("dir", "security.capability", "\1\0\0\2\0\4\0\0\0\0\0\0\0\0\0\0\0\0\0\0", 20, 0));
  T("user", setxattr("f", "user.a", "b", 1, 0));
  T("user get", getxattr("f", "user.a", b, 10));
  T("user l", lsetxattr("sl", "user.a", "b", 1, 0));
  T("odd", setxattr("f", "odd.a", "b", 1, 0));
  T("noname", setxattr("f", "", "b", 1, 0));
  T("acl", getxattr("f", "system.posix_acl_access", b, 10));
  T("lget", lgetxattr("sl", "security.capability", b, 10));
  T("trusted", setxattr("f", "trusted.a", "b", 1, 0));
  T("rm user", removexattr("f", "user.a"));
  T("cap2", setxattr("f", "security.capability", "\1\0\0\2\0\4\0\0\0\0\0\0\0\0\0\0\0\0\0\0", 20, 0));
  T("chown", chown("f", 3, 4));
  T("gone", getxattr("f", "security.capability", b, 100));
  T("suid", chmod("f", 06755));
  T("chown2", chown("f", 5, 6));
  stat("f", &st);
  printf("f %o %d %d\n", st.st_mode, st.st_uid, st.st_gid);
  T("chown -1", chown("f", -1, 9));
  stat("f", &st);
  printf("f %o %d %d\n", st.st_mode, st.st_uid, st.st_gid);
  T("lchown", lchown("sl", 8, 8));
  lstat("sl", &st);
  printf("sl %d\n", st.st_uid);
  stat("sl", &st);
  printf("f %d\n", st.st_uid);
  T("stat f/", stat("f/", &st));
  T("stat dir/", stat("dir/", &st));
  T("open f/", open("f/", O_RDONLY));
  T("unlink f/", unlink("f/"));
  T("unlink dir", unlink("dir"));
  T("rmdir f", rmdir("f"));
  T("rmdir .", rmdir("."));
  T("rmdir ..", rmdir("dir/.."));
  T("rmdir /", rmdir("/"));
  T("mkdir .", mkdir(".", 0700));
  T("mkdir /", mkdir("/", 0700));
  T("mkdir x/y", mkdir("x/y", 0700));
  T("mkdir f/y", mkdir("f/y", 0700));
  T("rename .", rename(".", "q"));
  T("rename ..", rename("dir", ".."));
  T("rename into", rename("dir", "dir/sub"));
  T("rename f dir", rename("f", "dir"));
  T("rename dir f", rename("dir", "f"));
  T("rename f f", rename("f", "f"));
  T("rename none", rename("none", "q"));
  T("rename f/", rename("f/", "q"));
  T("rename dir new/", rename("dir", "dirn/"));
  T("rename back", rename("dirn/", "dir"));
  T("rename f new/", rename("f", "newf/"));
  T("symlink f/", symlink("a", "f/"));
  T("symlink new/", symlink("a", "news/"));
  T("symlink empty", symlink("", "e"));
  T("symlink ex", symlink("a", "f"));
  T("creat new/", creat("newc/", 0600));
  T("mknod new/", mknod("newm/", S_IFREG | 0600, 0));
  T("open empty", open("", O_RDONLY));
  T("stat empty", stat("", &st));
  T("readlink empty", readlink("", b, 10));
  T("readlink f", readlink("f", b, 10));
  T("readlink 0", readlink("sl", b, 0));
  T("readlink sl/", readlink("sl/", b, 10));
  memset(b, 'a', 300);
  b[300] = 0;
  T("long", open(b, O_RDONLY));
  T("long mk", mkdir(b, 0700));
  memset(b, 'a', 5000);
  b[5000] = 0;
  T("longer", open(b, O_RDONLY));
  T("dir excl", open("sl", O_CREAT | O_EXCL | O_WRONLY, 0600));
  T("creat dir", open("dir", O_CREAT | O_RDONLY, 0600));
  T("wr dir", open("dir", O_WRONLY));
  T("odirf", open("f", O_DIRECTORY));
  T("nofollow", open("sl", O_NOFOLLOW));
  Z("path nofollow", fd = open("sl", O_PATH | O_NOFOLLOW));
  T("readlinkat fd", readlinkat(fd, "", b, 10));
  T("fstat", fstat(fd, &st));
  printf("%o\n", st.st_mode);
  T("fchownat", fchownat(fd, "", 2, 2, AT_EMPTY_PATH));
  T("read path", read(fd, b, 1));
  close(fd);
  Z("path f", fd = open("f", O_PATH));
  close(fd);
  symlink("made", "dang");
  Z("creat dang", fd = open("dang", O_CREAT | O_WRONLY, 0604));
  close(fd);
  stat("made", &st);
  printf("made %o\n", st.st_mode);
  symlink("/w/dang2", "dang2");
  T("loop", open("dang2", O_RDONLY));
  T("loop creat", open("dang2", O_CREAT | O_RDWR, 0600));
  T("loop stat", stat("dang2", &st));
  T("loop l", lstat("dang2", &st));
  T("nul", open(NULL, O_RDONLY));
  T("badfd", openat(99, "x", O_RDONLY));
  T("filefd", openat(open("f", O_RDONLY), "x", O_RDONLY));
  T("statnull", syscall(SYS_stat, "f", NULL));
  T("badbuf", syscall(SYS_stat, "f", 8));
  T("accmode3", open("f", 3) < 0);
  T("truncate", truncate("f", 10));
  T("truncate neg", truncate("f", -1));
  T("truncate dir", truncate("dir", 0));
  T("truncate none", truncate("none", 0));
  T("access", access("f", R_OK));
  T("access x", access("made", X_OK));
  T("access 8", access("f", 8));
  T("access none", access("none", 0));
  T("faccessat", syscall(439, AT_FDCWD, "f", 4, AT_EACCESS));
  T("faccessat bad", syscall(439, AT_FDCWD, "f", 4, 0x10000));
  struct timespec ts[2] = {{5, 6}, {7, UTIME_OMIT}};
  T("utimens", utimensat(AT_FDCWD, "f", ts, 0));
  stat("f", &st);
  printf("at %ld.%ld\n", st.st_atim.tv_sec, st.st_atim.tv_nsec);
  ts[1].tv_nsec = 9;
  T("utimens l", utimensat(AT_FDCWD, "sl", ts, AT_SYMLINK_NOFOLLOW));
  lstat("sl", &st);
  printf("mt %ld.%ld\n", st.st_mtim.tv_sec, st.st_mtim.tv_nsec);
  ts[1].tv_nsec = 2000000000;
  T("utimens bad", utimensat(AT_FDCWD, "f", ts, 0));
  T("utimens null", utimensat(AT_FDCWD, NULL, ts, 0));
  T("utimens flag", utimensat(AT_FDCWD, "f", NULL, 0x10));
  T("futimens", futimens(open("f", O_RDONLY), NULL));
  T("dir times", utimensat(AT_FDCWD, "dir", NULL, 0));
  T("fchmodat sl", syscall(452, AT_FDCWD, "sl", 0600, AT_SYMLINK_NOFOLLOW));
  T("unlinkat flag", unlinkat(AT_FDCWD, "f", 1));
  T("fstatat flag", syscall(SYS_newfstatat, AT_FDCWD, "f", &st, 1));
  T("fchownat flag", fchownat(AT_FDCWD, "f", 1, 1, 1));
  T("sticky", chmod("dir", 01777));
  T("mode", stat("dir", &st));
  printf("%o\n", st.st_mode);
  T("mkdir mode", mkdir("dm", 07777));
  stat("dm", &st);
  printf("%o\n", st.st_mode);
  Z("creat mode", fd = open("cm", O_CREAT | O_WRONLY, 07777));
  fstat(fd, &st);
  printf("%o\n", st.st_mode);
  T("umask", umask(027));
  T("umask", umask(022));
  Z("ro mode", fd = open("romode", O_CREAT | O_RDWR, 0400));
  T("wr", write(fd, "x", 1));
  Z("again", open("romode", O_RDWR));
  fstat(fd, &st);
  printf("%o\n", st.st_mode);
  T("zero", chmod("dir", 0));
  Z("in zero", creat("dir/x", 0));
  Z("ls zero", open("dir", O_RDONLY));
  T("chmod back", chmod("dir", 0755));
  struct __user_cap_header_struct h = {_LINUX_CAPABILITY_VERSION_3, 0};
  struct __user_cap_data_struct d[2];
  T("capget", syscall(SYS_capget, &h, d));
  printf("caps %x %x %x\n", d[0].effective, d[0].permitted, d[0].inheritable);
  T("capset", syscall(SYS_capset, &h, d));
  h.version = 1;
  T("capget v", syscall(SYS_capget, &h, NULL));
  printf("v %x\n", h.version);
  mkdir("/w/j", 0755);
  mkdir("/w/j/k", 0755);
  creat("/w/j/inj", 0600);
  creat("/w/j/k/ink", 0600);
  f2 = open("/", O_RDONLY | O_DIRECTORY);
  if (!(p = fork())) {
    T("chroot", chroot("j"));
    T("cwd", getcwd(b, 4000) ? 0 : -1);
    printf("%s\n", b);
    T("chdir", chdir("/"));
    T("access", access("/inj", 0));
    T("up", access("../../../inj", 0));
    T("chroot2", chroot("k"));
    T("ink", access("/ink", 0));
    T("chdir", chdir("/"));
    T("..", access("../ink", 0));
    T("proc", access("/proc/self", 0));
    T("fchdir", fchdir(f2));
    T("abs", access("/ink", 0));
    T("chroot f", chroot("/ink"));
    T("chroot none", chroot("/none"));
    _exit(0);
  }
  waitpid(p, 0, 0);
  mkdir("/w/gone", 0700);
  chdir("/w/gone");
  rmdir("/w/gone");
  T("gone cwd", getcwd(b, 100) ? 0 : -1);
  T("gone open", open("x", O_CREAT, 0600));
  chdir("/w");
  T("getcwd small", syscall(SYS_getcwd, b, 2));
  T("getcwd 0", syscall(SYS_getcwd, b, 0));
  T("chdir f", chdir("f"));
  T("chdir none", chdir("none"));
  T("chdir empty", chdir(""));
  fd = open("f", O_RDWR);
  unlink("f");
  T("nlink", fstat(fd, &st));
  printf("nlink %d uid %d\n", (int)st.st_nlink, st.st_uid);
  T("fchown gone", fchown(fd, 7, 7));
  fstat(fd, &st);
  printf("uid %d\n", st.st_uid);
  sprintf(b, "/proc/self/fd/%d", fd);
  Z("reopen", open(b, O_RDONLY));
  T("stat reopen", stat(b, &st));
  T("link gone", linkat(AT_FDCWD, b, AT_FDCWD, "revived", AT_SYMLINK_FOLLOW));
  T("rl", readlink(b, b, 100) > 0);
  int pp[2];
  pipe(pp);
  T("fstat pipe", fstat(pp[0], &st));
  printf("%o %d\n", st.st_mode, st.st_uid);
  T("fchmod pipe", fchmod(pp[0], 0600));
  T("fchown pipe", fchown(pp[0], 0, 0));
  sprintf(b, "/proc/self/fd/%d", pp[1]);
  Z("reopen pipe", open(b, O_WRONLY));
  T("stat pipe", stat(b, &st));
  fd = socket(AF_UNIX, SOCK_STREAM, 0);
  T("fstat sock", fstat(fd, &st));
  printf("%o\n", st.st_mode);
  sprintf(b, "/proc/self/fd/%d", fd);
  T("reopen sock", open(b, O_RDWR));
  fd = memfd_create("m", 0);
  T("memfd", fstat(fd, &st));
  printf("%o %d\n", st.st_mode, st.st_uid);
  T("fchmod memfd", fchmod(fd, 0700));
  sprintf(b, "/proc/self/fd/%d", fd);
  Z("reopen memfd", open(b, O_RDWR));
  if (!(p = fork())) {
    int m = memfd_create("prog", 0);
    int src = open("/answers", O_RDONLY);
    while ((n = read(src, b, 8192)) > 0) write(m, b, n);
    close(src);
    av[1] = "memory";
    sprintf(b, "/proc/self/fd/%d", m);
    execve(b, av, env);
    T("exec memfd", -1);
    fexecve(m, av, env);
    T("fexecve memfd", -1);
    _exit(1);
  }
  waitpid(p, 0, 0);
  p = fork();
  if (!p) {
    h.version = _LINUX_CAPABILITY_VERSION_3;
    T("bounding", prctl(PR_CAPBSET_READ, 7, 0, 0, 0));
    T("bounding admin", prctl(PR_CAPBSET_READ, 21, 0, 0, 0));
    T("bounding none", prctl(PR_CAPBSET_READ, 99, 0, 0, 0));
    T("drop", prctl(PR_CAPBSET_DROP, 5, 0, 0, 0));
    T("keep", prctl(PR_SET_KEEPCAPS, 1, 0, 0, 0));
    T("kept", prctl(PR_GET_KEEPCAPS, 0, 0, 0, 0));
    T("uid", syscall(SYS_setresuid, 5, 5, 5));
    T("caps", syscall(SYS_capget, &h, d));
    printf("caps %x %x\n", d[0].effective, d[0].permitted);
    d[0].effective = d[0].permitted;
    T("raise", syscall(SYS_capset, &h, d));
    T("groups", syscall(SYS_setgroups, 0, NULL));
    T("gid", syscall(SYS_setresgid, 6, 6, 6));
    T("ids", getuid() * 100 + getgid());
    _exit(0);
  }
  waitpid(p, 0, 0);
  p = fork();
  if (!p) {
    T("uid", syscall(SYS_setresuid, 5, 5, 5));
    T("caps", syscall(SYS_capget, &h, d));
    printf("caps %x %x\n", d[0].effective, d[0].permitted);
    T("groups", syscall(SYS_setgroups, 0, NULL));
    T("drop", prctl(PR_CAPBSET_DROP, 5, 0, 0, 0));
    _exit(0);
  }
  waitpid(p, 0, 0);
  return 0;
}
