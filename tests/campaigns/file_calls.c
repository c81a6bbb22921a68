/* Counts the calls that change files below one folder, and has the n-th of them go wrong. Preloaded with LD_PRELOAD.

   Counted: open for writing, write, fsync, rename, link, symlink, mkdir, rmdir, unlink, chmod, truncate; not utime,
   and not what would change nothing (mkdir of a folder that is there, unlink of a file that is not). Nor live.json,
   which a thread writes every few seconds: the same number is to be the same call each time.

   calls_arm(folder, n, fault, trace): from now on the n-th call below the folder meets the fault; n = 0: none does.
   trace: a descriptor that gets a line per call, or -1. calls_count(): how many there were. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <unistd.h>

enum { KILL = -1, KILL_HALFWAY = -2, STOP = -3 }; /* Other faults are an errno: the call fails with it once. */

static char root[PATH_MAX];
static size_t root_length;
static long target, count;
static int fault, trace = -1;

void calls_arm(const char *folder, long n, int kind, int descriptor) {
  root_length = 0;
  strncpy(root, folder, sizeof root - 1);
  target = n, fault = kind, trace = descriptor, count = 0;
  root_length = strlen(root);
}

long calls_count(void) { return count; }

static int below(const char *path) {
  if (strstr(path, "live.json")) return 0;
  return !strncmp(path, root, root_length) && (path[root_length] == '/' || !path[root_length]);
}

static ssize_t of_descriptor(int fd, char *out) {
  char name[64];
  snprintf(name, sizeof name, "/proc/self/fd/%d", fd);
  ssize_t length = syscall(SYS_readlink, name, out, PATH_MAX - 1);
  if (length >= 0) out[length] = 0;
  return length;
}

/* Whether `path`, from the folder `at`, lies below the root; its whole name in `out`. */
static int place(int at, const char *path, char *out) {
  if (!root_length || !path) return 0;
  if (path[0] == '/') {
    snprintf(out, PATH_MAX, "%s", path);
  } else {
    char base[PATH_MAX];
    if (at == AT_FDCWD ? !getcwd(base, sizeof base) : of_descriptor(at, base) < 0) return 0;
    if (snprintf(out, PATH_MAX, "%s/%s", base, path) >= PATH_MAX) return 0;
  }
  return below(out);
}

static int is_there(int at, const char *path) {
  struct stat status;
  int before = errno, there = !fstatat(at, path, &status, AT_SYMLINK_NOFOLLOW);
  errno = before;
  return there;
}

/* Counts a call; 0 where it is to go on as it is, an errno where it is to fail, KILL_HALFWAY for a write. */
static int met(const char *call, const char *path, int is_write) {
  long number = __atomic_add_fetch(&count, 1, __ATOMIC_SEQ_CST);
  if (trace >= 0) {
    char line[PATH_MAX + 64];
    int length = snprintf(line, sizeof line, "%ld %s %s\n", number, call, path + root_length);
    syscall(SYS_write, trace, line, (size_t)length);
  }
  if (number != target) return 0;
  if (fault == STOP) {
    kill(getpid(), SIGSTOP);
    return 0;
  }
  if (fault == KILL || (fault == KILL_HALFWAY && !is_write)) {
    kill(getpid(), SIGKILL);
    for (;;) pause();
  }
  return fault;
}

#define REAL(name) ((typeof(&name))dlsym(RTLD_NEXT, #name))
#define FAILS(call, path)                       \
  do {                                          \
    int fails = met(call, path, 0);             \
    if (fails) {                                \
      errno = fails;                            \
      return -1;                                \
    }                                           \
  } while (0)

#define CHANGES(flags) ((flags) & (O_WRONLY | O_RDWR | O_CREAT | O_TRUNC))
#define MODE                                               \
  mode_t mode = 0;                                         \
  if (flags & (O_CREAT | __O_TMPFILE)) {                   \
    va_list rest;                                          \
    va_start(rest, flags);                                 \
    mode = va_arg(rest, mode_t);                           \
    va_end(rest);                                          \
  }

#define OPEN(name)                                                              \
  int name(const char *path, int flags, ...) {                                  \
    MODE char whole[PATH_MAX];                                                  \
    if (CHANGES(flags) && place(AT_FDCWD, path, whole)) FAILS("open", whole);   \
    return REAL(name)(path, flags, mode);                                       \
  }
OPEN(open)
OPEN(open64)
#define OPENAT(name)                                                    \
  int name(int at, const char *path, int flags, ...) {                  \
    MODE char whole[PATH_MAX];                                          \
    if (CHANGES(flags) && place(at, path, whole)) FAILS("open", whole); \
    return REAL(name)(at, path, flags, mode);                           \
  }
OPENAT(openat)
OPENAT(openat64)
#define FOPEN(name)                                                            \
  FILE *name(const char *path, const char *mode) {                             \
    char whole[PATH_MAX];                                                      \
    if (strpbrk(mode, "wa+") && place(AT_FDCWD, path, whole)) {                \
      int fails = met("open", whole, 0);                                       \
      if (fails) {                                                             \
        errno = fails;                                                         \
        return NULL;                                                           \
      }                                                                        \
    }                                                                          \
    return REAL(name)(path, mode);                                             \
  }
FOPEN(fopen)
FOPEN(fopen64)

static int of_write(int fd, char *whole) {
  if (!root_length) return 0;
  int before = errno;
  ssize_t length = of_descriptor(fd, whole);
  errno = before;
  return length >= 0 && below(whole);
}

ssize_t write(int fd, const void *bytes, size_t size) {
  char whole[PATH_MAX];
  if (of_write(fd, whole)) {
    int fails = met("write", whole, 1);
    if (fails == KILL_HALFWAY) {
      syscall(SYS_write, fd, bytes, size / 2);
      kill(getpid(), SIGKILL);
    }
    if (fails) {
      errno = fails;
      return -1;
    }
  }
  return syscall(SYS_write, fd, bytes, size);
}

#define PWRITE(name)                                                            \
  ssize_t name(int fd, const void *bytes, size_t size, off_t at) {              \
    char whole[PATH_MAX];                                                       \
    if (of_write(fd, whole)) {                                                  \
      int fails = met("write", whole, 1);                                       \
      if (fails == KILL_HALFWAY) {                                              \
        syscall(SYS_pwrite64, fd, bytes, size / 2, at);                         \
        kill(getpid(), SIGKILL);                                                \
      }                                                                         \
      if (fails) {                                                              \
        errno = fails;                                                          \
        return -1;                                                              \
      }                                                                         \
    }                                                                           \
    return syscall(SYS_pwrite64, fd, bytes, size, at);                          \
  }
PWRITE(pwrite)
PWRITE(pwrite64)

ssize_t writev(int fd, const struct iovec *parts, int number) {
  char whole[PATH_MAX];
  if (of_write(fd, whole)) {
    int fails = met("write", whole, 1);
    if (fails == KILL_HALFWAY) { /* The first part alone, or half of it where there is no other. */
      syscall(SYS_write, fd, parts[0].iov_base, number > 1 ? parts[0].iov_len : parts[0].iov_len / 2);
      kill(getpid(), SIGKILL);
    }
    if (fails) {
      errno = fails;
      return -1;
    }
  }
  return syscall(SYS_writev, fd, parts, number);
}

#define SYNC(name)                                       \
  int name(int fd) {                                     \
    char whole[PATH_MAX];                                \
    if (of_write(fd, whole)) FAILS("fsync", whole);      \
    return REAL(name)(fd);                               \
  }
SYNC(fsync)
SYNC(fdatasync)

int rename(const char *from, const char *to) {
  char whole[PATH_MAX];
  if (place(AT_FDCWD, to, whole)) FAILS("rename", whole);
  return REAL(rename)(from, to);
}
int renameat(int from_at, const char *from, int to_at, const char *to) {
  char whole[PATH_MAX];
  if (place(to_at, to, whole)) FAILS("rename", whole);
  return REAL(renameat)(from_at, from, to_at, to);
}
int link(const char *from, const char *to) {
  char whole[PATH_MAX];
  if (place(AT_FDCWD, to, whole)) FAILS("link", whole);
  return REAL(link)(from, to);
}
int linkat(int from_at, const char *from, int to_at, const char *to, int flags) {
  char whole[PATH_MAX];
  if (place(to_at, to, whole)) FAILS("link", whole);
  return REAL(linkat)(from_at, from, to_at, to, flags);
}
int symlink(const char *text, const char *path) {
  char whole[PATH_MAX];
  if (place(AT_FDCWD, path, whole)) FAILS("symlink", whole);
  return REAL(symlink)(text, path);
}
int mkdir(const char *path, mode_t mode) {
  char whole[PATH_MAX];
  if (place(AT_FDCWD, path, whole) && !is_there(AT_FDCWD, path)) FAILS("mkdir", whole);
  return REAL(mkdir)(path, mode);
}
int mkdirat(int at, const char *path, mode_t mode) {
  char whole[PATH_MAX];
  if (place(at, path, whole) && !is_there(at, path)) FAILS("mkdir", whole);
  return REAL(mkdirat)(at, path, mode);
}
int unlink(const char *path) {
  char whole[PATH_MAX];
  if (place(AT_FDCWD, path, whole) && is_there(AT_FDCWD, path)) FAILS("unlink", whole);
  return REAL(unlink)(path);
}
int unlinkat(int at, const char *path, int flags) {
  char whole[PATH_MAX];
  if (place(at, path, whole) && is_there(at, path)) FAILS(flags & AT_REMOVEDIR ? "rmdir" : "unlink", whole);
  return REAL(unlinkat)(at, path, flags);
}
int rmdir(const char *path) {
  char whole[PATH_MAX];
  if (place(AT_FDCWD, path, whole) && is_there(AT_FDCWD, path)) FAILS("rmdir", whole);
  return REAL(rmdir)(path);
}
int chmod(const char *path, mode_t mode) {
  char whole[PATH_MAX];
  if (place(AT_FDCWD, path, whole)) FAILS("chmod", whole);
  return REAL(chmod)(path, mode);
}
int fchmod(int fd, mode_t mode) {
  char whole[PATH_MAX];
  if (of_write(fd, whole)) FAILS("chmod", whole);
  return REAL(fchmod)(fd, mode);
}
int fchmodat(int at, const char *path, mode_t mode, int flags) {
  char whole[PATH_MAX];
  if (place(at, path, whole)) FAILS("chmod", whole);
  return REAL(fchmodat)(at, path, mode, flags);
}
#define TRUNCATE(name, descriptor_name)                           \
  int name(const char *path, off_t size) {                        \
    char whole[PATH_MAX];                                         \
    if (place(AT_FDCWD, path, whole)) FAILS("truncate", whole);   \
    return REAL(name)(path, size);                                \
  }                                                               \
  int descriptor_name(int fd, off_t size) {                       \
    char whole[PATH_MAX];                                         \
    if (of_write(fd, whole)) FAILS("truncate", whole);            \
    return REAL(descriptor_name)(fd, size);                       \
  }
TRUNCATE(truncate, ftruncate)
TRUNCATE(truncate64, ftruncate64)
