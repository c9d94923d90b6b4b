/* What a task meets that asked not to be dumpable. Run without arguments, as /hidden. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>
static void t(const char *name, long result) {
  printf("%s %ld %s\n", name, result, result < 0 ? strerror(errno) : "");
}
static void look(void) {
  t("is", prctl(PR_GET_DUMPABLE, 0, 0, 0, 0));
  t("passwd", open("/etc/passwd", O_RDONLY) < 0 ? -1 : 0);
  t("null", open("/dev/null", O_RDWR) < 0 ? -1 : 0);
  t("self", readlink("/proc/self/exe", (char[99]){0}, 98));
  fflush(stdout);
}
int main(int argc, char **argv) {
  if (argc > 1) {
    look();
    return 0;
  }
  look();
  t("bad", prctl(PR_SET_DUMPABLE, 7, 0, 0, 0));
  t("hide", prctl(PR_SET_DUMPABLE, 0, 0, 0, 0));
  look();
  if (!fork()) {
    look();
    execl("/hidden", "/hidden", "again", NULL);
    t("exec", -1);
    _exit(1);
  }
  wait(NULL);
  look();
  t("show", prctl(PR_SET_DUMPABLE, 1, 0, 0, 0));
  look();
  return 0;
}
