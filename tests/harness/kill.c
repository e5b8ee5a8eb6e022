/* Loaded with LD_PRELOAD: kills its own process at the Nth call that changes a file system.
 *
 * hvdtrain_kill_arm(n, how): n counts from 1; how 0 kills instead of the call, 1 after half of a write's bytes reached
 * the file (0 for other calls), 2 right after the call. Until it is called nothing is counted. Standard streams are
 * left alone.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <unistd.h>

enum { BEFORE, HALF, AFTER };
static long left = -1, passed = 0;
static int how = BEFORE;

void hvdtrain_kill_arm(long n, int kind) { left = n; how = kind; passed = 0; }
long hvdtrain_kill_passed(void) { return passed; }

static void die(void) { kill(getpid(), SIGKILL); for (;;) pause(); }
static int due(void) {
    if (left < 0) return 0;
    passed++;
    return --left == 0;
}

#define REAL(type, name) static type (*real)() = NULL; if (!real) real = dlsym(RTLD_NEXT, name)
#define CALL(type, name, call) do { \
    REAL(type, name); \
    int now = due(); \
    if (now && how != AFTER) die(); \
    type result = call; \
    if (now) die(); \
    return result; } while (0)
#define WRITE(name, fd, call, half) do { \
    REAL(ssize_t, name); \
    int now = fd > 2 && due(); \
    if (now && how == HALF) half; \
    if (now && how != AFTER) die(); \
    ssize_t result = call; \
    if (now) die(); \
    return result; } while (0)

ssize_t write(int fd, const void *data, size_t n) {
    WRITE("write", fd, real(fd, data, n), real(fd, data, n / 2));
}
ssize_t pwrite(int fd, const void *data, size_t n, off_t at) {
    WRITE("pwrite", fd, real(fd, data, n, at), real(fd, data, n / 2, at));
}
ssize_t pwrite64(int fd, const void *data, size_t n, off64_t at) {
    WRITE("pwrite64", fd, real(fd, data, n, at), real(fd, data, n / 2, at));
}
ssize_t writev(int fd, const struct iovec *parts, int n) {
    WRITE("writev", fd, real(fd, parts, n), real(fd, parts, n / 2));
}

int fsync(int fd) { CALL(int, "fsync", real(fd)); }
int fdatasync(int fd) { CALL(int, "fdatasync", real(fd)); }
int ftruncate(int fd, off_t n) { CALL(int, "ftruncate", real(fd, n)); }
int ftruncate64(int fd, off64_t n) { CALL(int, "ftruncate64", real(fd, n)); }
int rename(const char *a, const char *b) { CALL(int, "rename", real(a, b)); }
int renameat(int i, const char *a, int j, const char *b) { CALL(int, "renameat", real(i, a, j, b)); }
int mkdir(const char *path, mode_t mode) { CALL(int, "mkdir", real(path, mode)); }
int mkdirat(int i, const char *path, mode_t mode) { CALL(int, "mkdirat", real(i, path, mode)); }
int rmdir(const char *path) { CALL(int, "rmdir", real(path)); }
int unlink(const char *path) { CALL(int, "unlink", real(path)); }
int unlinkat(int i, const char *path, int flags) { CALL(int, "unlinkat", real(i, path, flags)); }

#define OPEN(name, flags, call) do { \
    REAL(int, name); \
    mode_t mode = 0; \
    if (flags & O_CREAT) { va_list rest; va_start(rest, flags); mode = va_arg(rest, mode_t); va_end(rest); } \
    int now = (flags & (O_CREAT | O_TRUNC)) && due(); \
    if (now && how != AFTER) die(); \
    int result = call; \
    if (now) die(); \
    return result; } while (0)

int open(const char *path, int flags, ...) { OPEN("open", flags, real(path, flags, mode)); }
int open64(const char *path, int flags, ...) { OPEN("open64", flags, real(path, flags, mode)); }
int openat(int i, const char *path, int flags, ...) { OPEN("openat", flags, real(i, path, flags, mode)); }
int openat64(int i, const char *path, int flags, ...) { OPEN("openat64", flags, real(i, path, flags, mode)); }
