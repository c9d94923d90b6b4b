/* Calls with arguments that no program means, and many random ones: what each of them answers.
 * Run with a seed. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/statfs.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>
#define COUNT(a) (sizeof(a) / sizeof *(a))
#define PAGE 4096L
static unsigned long state;
static unsigned next(unsigned below) {
  state = state * 6364136223846793005ul + 1442695040888963407ul;
  return (unsigned)(state >> 33) % below;
}
static void say(const char *what, long a, long b, long result) {
  printf("%s %ld %ld %ld %d\n", what, a, b, result < 0 ? -1 : 0, result < 0 ? errno : 0);
}
static void show(const char *what, long a, long b, long result, const struct stat *s) {
  printf("%s %ld %ld %ld %d", what, a, b, result < 0 ? -1 : 0, result < 0 ? errno : 0);
  if (result >= 0)
    printf(" %o %d:%d %lx %ld", s->st_mode, s->st_uid, s->st_gid, (long)s->st_rdev,
           S_ISREG(s->st_mode) ? (long)s->st_size : 0);
  printf("\n");
}

static long texts[16];
static int text_count;
static void keep(const void *text) { texts[text_count++] = (long)text; }
static void make_texts(void) {
  char *map = mmap(0, 8 * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  munmap(map + PAGE, PAGE);
  munmap(map + 7 * PAGE, PAGE);
  keep(0);
  keep((void *)1);
  keep((void *)-1L);
  keep((void *)(long)0x8000000000000000ul);
  keep(map + PAGE);
  keep(strcpy(map + PAGE - 5, "/etc"));        /* ends with its page */
  keep(memset(map + PAGE - 512 - 8, 'a', 8));  /* zeros follow */
  char *open_end = map + 7 * PAGE - 3;         /* no zero before what is not there */
  memcpy(open_end, "/tm", 3);
  keep(open_end);
  memset(map + 2 * PAGE, '/', 2 * PAGE);       /* longer than a path */
  keep(map + 2 * PAGE);
  keep(map + 4 * PAGE - 4095);                 /* as long as a path can be */
  char *across = map + 5 * PAGE - 2;
  strcpy(across, "/etc/passwd");
  keep(across);
  keep("");
  keep("/etc/passwd");
}
static void hostile(void) {
  static const long fds[] = {AT_FDCWD, -1, 0, 9999, INT_MIN, 0x100000000L | 3, -1L << 40};
  static const long flags[] = {0, AT_SYMLINK_NOFOLLOW, AT_EMPTY_PATH, AT_EMPTY_PATH | 0x800, -1};
  struct stat s;
  char buffer[600];
  make_texts();
  for (int t = 0; t < text_count; t++)
    for (unsigned d = 0; d < COUNT(fds); d++) {
      long at = texts[t], fd = fds[d], tag = t * 10 + d;
      for (unsigned f = 0; f < COUNT(flags); f++) {
        show("fstatat", tag, f, syscall(SYS_newfstatat, fd, at, &s, flags[f]), &s);
        say("statx", tag, f, syscall(SYS_statx, fd, at, flags[f], 0x7ff, buffer));
        say("chownat", tag, f, syscall(SYS_fchownat, fd, at, -1, -1, flags[f]));
        say("unlinkat", tag, f, f == 1 ? 0 : syscall(SYS_unlinkat, fd, at, flags[f] & ~0x1000));
        say("access2", tag, f, syscall(SYS_faccessat2, fd, at, 4, flags[f]));
        say("utimes", tag, f, syscall(SYS_utimensat, fd, at, -1L, flags[f]));
      }
      say("buffer", tag, 0, syscall(SYS_newfstatat, fd, at, 1L, 0));
      say("open", tag, 0, syscall(SYS_openat, fd, at, O_RDONLY | O_CLOEXEC, 0));
      say("open", tag, 1, syscall(SYS_openat, fd, at, O_WRONLY | O_CREAT | O_EXCL, 0644));
      say("open", tag, 2, syscall(SYS_openat, fd, at, -1, -1));
      say("mkdir", tag, 0, syscall(SYS_mkdirat, fd, at, 0755));
      say("read", tag, 0, syscall(SYS_readlinkat, fd, at, buffer, 10));
      say("read", tag, 1, syscall(SYS_readlinkat, fd, at, -1L, 0x7fffffff));
      say("rename", tag, 0, syscall(SYS_renameat2, fd, at, fd, "/w/no", 0));
      say("rename", tag, 1, syscall(SYS_renameat2, AT_FDCWD, "/w/not", fd, at, -1L));
      say("link", tag, 0, syscall(SYS_linkat, fd, at, AT_FDCWD, "/w/no/where", 0));
      say("symlink", tag, 0, syscall(SYS_symlinkat, at, fd, texts[(t + 1) % text_count]));
      say("exec", tag, 0, syscall(SYS_execveat, fd, at, -1L, -1L, 0x1000));
      say("statfs", tag, 0, syscall(SYS_statfs, at, 1L));
      say("mode", tag, 0, syscall(SYS_fchmodat, fd, at, 02755));
      say("limit", tag, 0, syscall(SYS_prlimit64, fd, RLIMIT_MSGQUEUE, at, 0) * 0);
      say("fstat", tag, 0, syscall(SYS_fstat, fd, at));
      if (t != 12) unlink("/etc");
    }
}

static const char *parts[] = {"a", "b", "c", "d", "..", ".", "", "l", "l2", "proc", "etc", "w",
                              "passwd", "self", "dev", "null", "h", "n"};
static char *path(char *buffer) {
  int count = 1 + next(4), length = 0;
  if (next(2)) length += sprintf(buffer, "/w/");
  else if (!next(3)) length += sprintf(buffer, "/");
  buffer[length] = 0;
  for (int i = 0; i < count; i++)
    length += sprintf(buffer + length, i ? "/%s" : "%s", parts[next(COUNT(parts))]);
  if (!next(8)) strcpy(buffer + length, "/");
  return buffer;
}
static int inside(const char *p) { /* the rest is only looked at */
  return (*p != '/' || !strncmp(p, "/w/", 3)) && !strstr(p, "..") && !strchr(p, 'l');
}
static void walk(int steps) {
  char p[256], q[256], b[300];
  struct stat s;
  int dir = open("/w", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  for (int i = 0; i < steps; i++) {
    int what = next(20), at = next(3) ? AT_FDCWD : dir;
    path(p);
    path(q);
    errno = 0;
    long r = -2;
    if (what > 11 && !inside(p)) what %= 12;
    switch (what) {
    case 0: case 1: r = fstatat(at, p, &s, 0); break;
    case 2: case 3: r = fstatat(at, p, &s, AT_SYMLINK_NOFOLLOW); break;
    case 4: r = openat(at, p, O_RDONLY | O_NONBLOCK | (next(2) ? O_NOFOLLOW : 0)); break;
    case 5: r = openat(at, p, O_DIRECTORY | O_PATH | O_CLOEXEC); break;
    case 6: r = faccessat(at, p, next(8), 0); break;
    case 7: r = readlinkat(at, p, b, sizeof b); break;
    case 8: if (inside(p)) r = chdir(p); break;
    case 9: r = statfs(p, (struct statfs *)b); break;
    case 10: { unsigned char x[256]; r = syscall(SYS_statx, at, p, 0x100, 0xfff, x); break; }
    case 11: r = fstatat(dir, "", &s, AT_EMPTY_PATH); break;
    case 12: r = openat(at, p, O_CREAT | O_WRONLY | (next(2) ? O_TRUNC : O_APPEND), 0100 * next(8) + next(64)); break;
    case 13: r = mkdirat(at, p, 0700 | next(512) | (next(3) ? 0 : 02000)); break;
    case 14: r = next(2) ? unlinkat(at, p, 0) : unlinkat(at, p, AT_REMOVEDIR); break;
    case 15: if (inside(q)) r = syscall(SYS_renameat2, at, p, at, q, next(4) ? 0 : 1 << next(2)); break;
    case 16: if (inside(q)) r = linkat(at, p, at, q, 0); break;
    case 17: r = fchownat(at, p, next(2) ? 0 : (int)next(5) - 1, next(2) ? 0 : (int)next(5) - 1, AT_SYMLINK_NOFOLLOW); break;
    case 18: r = next(2) ? fchmodat(at, p, 0600 | next(4096), 0) : mknodat(at, p, (next(2) ? S_IFCHR : S_IFREG) | 0644, 0x103); break;
    case 19: r = next(2) ? symlinkat(path(b), at, p) : utimensat(at, p, NULL, 0); break;
    }
    int fd = -1;
    if (r >= 0 && (what == 4 || what == 5 || what == 12)) {
      fd = r;
      printf("%o ", what == 5 ? 0 : fcntl(fd, F_GETFL));
      r = fstat(fd, &s);
    }
    int e = errno;
    printf("%d %s %s ", what, p, q);
    errno = e;
    if (strstr(p, "proc") || strstr(p, "dev")) memset(&s, 0, sizeof s); /* processes differ */
    if (what < 4 || fd >= 0 || what == 11) show("", i, 0, r, &s);
    else say("", i, 0, r);
    if (fd >= 0) close(fd);
    if (next(40) == 0) {
      int child = fork(), status;
      if (!child) { execl("/bin/true", "true", NULL); _exit(9); }
      waitpid(child, &status, 0);
    }
  }
}
int main(int count, char **words) {
  state = count > 1 ? strtoul(words[1], 0, 10) : 1;
  setvbuf(stdout, NULL, _IOFBF, 1 << 20);
  mkdir("/w", 0755);
  chdir("/w");
  umask(state % 2 ? 022 : 0);
  symlink("/w/d", "/w/l");
  symlink("../proc/self", "/w/l2");
  struct rlimit fewer = {1000, 2000};
  say("limit", 1, 0, syscall(SYS_prlimit64, 0, RLIMIT_MSGQUEUE, &fewer, 0));
  say("limit", 2, 0, setrlimit(RLIMIT_MSGQUEUE, &fewer));
  hostile();
  walk(4000);
  if (!fork()) { /* as somebody */
    setgid(7);
    setuid(8);
    printf("somebody\n");
    walk(1000);
    fflush(stdout);
    _exit(0);
  }
  int status;
  wait(&status);
  return 0;
}
