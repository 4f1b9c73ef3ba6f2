/* SPDX-License-Identifier: GPL-3.0-or-later
   What a builder can do, told as error numbers: each test prints its name and 0 or errno. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <sys/xattr.h>
#include <unistd.h>

static void tell(const char *name, long result)
{
    printf("%s %d\n", name, result < 0 ? errno : 0);
}

static void tell_mode(const char *name, const char *path)
{
    struct stat st;
    int set = stat(path, &st) == 0 && (st.st_mode & 06000);
    printf("%s-bits %o\n", name, set ? st.st_mode & 06000 : 0);
}

static void modes(void)
{
    int fd = open("file", O_CREAT | O_RDWR, 0600);
    char how[24] = {0};
    *(unsigned long *)how = O_CREAT | O_RDWR;
    *(unsigned long *)(how + 8) = 04755;
    tell("plain-chmod", chmod("file", 0755));
    tell("sticky-chmod", chmod("file", 01755));
    tell("open-reading", syscall(SYS_openat, AT_FDCWD, "file", O_RDONLY, 04755));
#ifdef SYS_chmod
    tell("chmod", syscall(SYS_chmod, "file", 04755));
    tell("open", syscall(SYS_open, "a", O_CREAT | O_RDWR, 04755));
    tell("creat", syscall(SYS_creat, "b", 02755));
    tell("mknod", syscall(SYS_mknod, "c", S_IFREG | 04755, 0));
#endif
    tell("fchmod", fchmod(fd, 02755));
    tell("fchmodat", syscall(SYS_fchmodat, AT_FDCWD, "file", 06755));
    tell("fchmodat2", syscall(452, AT_FDCWD, "file", 04755, 0));
    tell("openat", syscall(SYS_openat, AT_FDCWD, "d", O_CREAT | O_RDWR, 04755));
    tell("tmpfile", syscall(SYS_openat, AT_FDCWD, ".", O_TMPFILE | O_RDWR, 04755));
    tell("openat2", syscall(437, AT_FDCWD, "e", how, sizeof how));
    tell("mknodat", syscall(SYS_mknodat, AT_FDCWD, "f", S_IFREG | 04755, 0));
    tell("high-bits", syscall(SYS_fchmodat, AT_FDCWD, "file", 0xffffffff00000000 | 04755));
    tell_mode("file", "file");
    tell("mkdir-set-id", mkdir("directory", 06755));
    tell_mode("directory", "directory");
}

static void attributes(void)
{
    int fd = open("attributed", O_CREAT | O_RDWR, 0600);
    char value[16];
    unsigned long arguments[2] = {(unsigned long)"x", 1};
    tell("setxattr", setxattr("attributed", "user.x", "x", 1, 0));
    tell("lsetxattr", lsetxattr("attributed", "user.x", "x", 1, 0));
    tell("fsetxattr", fsetxattr(fd, "user.x", "x", 1, 0));
    tell("setxattrat", syscall(463, AT_FDCWD, "attributed", 0, "user.x", arguments, 16));
    tell("getxattr", getxattr("attributed", "user.x", value, sizeof value));
    tell("listxattr", listxattr("attributed", value, sizeof value));
    tell("removexattr", removexattr("attributed", "user.x"));
    tell("acl", setxattr("attributed", "system.posix_acl_access", "x", 1, 0));
}

static void rings(void)
{
    char parameters[256] = {0};
    tell("io_uring_setup", syscall(425, 1, parameters));
    tell("io_uring_enter", syscall(426, 0, 1, 0, 0, 0, 0));
    tell("io_uring_register", syscall(427, 0, 0, 0, 0));
}

#ifdef __x86_64__
static long call_32(long number, long a, long b, long c, long d)
{
    long result;
    __asm__ volatile("int $0x80" : "=a"(result)
                     : "a"(number), "b"(a), "c"(b), "d"(c), "S"(d) : "memory", "r8", "r9", "r10", "r11");
    return result;
}

static void tell_32(const char *name, long result)
{
    printf("%s %d\n", name, result < 0 && result > -4096 ? (int)-result : 0);
}

static void other_abis(void)
{
    char *low = mmap((void *)0x10000000, 4096, PROT_READ | PROT_WRITE,
                     MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
    strcpy(low, "low");
    strcpy(low + 16, "user.x");
    close(open("low", O_CREAT | O_RDWR, 0600));
    long path = (long)low;
    tell_32("i386-getpid", call_32(20, 0, 0, 0, 0) > 0 ? 0 : -1);
    tell_32("i386-plain-chmod", call_32(15, path, 0755, 0, 0));
    tell_32("i386-chmod", call_32(15, path, 04755, 0, 0));
    tell_32("i386-fchmodat", call_32(306, AT_FDCWD, path, 02755, 0));
    tell_32("i386-open", call_32(5, path, O_CREAT | O_RDWR, 04755, 0));
    tell_32("i386-openat", call_32(295, AT_FDCWD, path, O_CREAT, 04755));
    tell_32("i386-setxattr", call_32(226, path, path + 16, path, 1));
    tell_32("i386-io_uring_setup", call_32(425, 1, path, 0, 0));
    tell_32("i386-openat2", call_32(437, AT_FDCWD, path, path, 24));
    tell("x32-chmod", syscall(0x40000000 | 90, "low", 04755));
    tell("x32-setxattr", syscall(0x40000000 | 188, "low", "user.x", "x", 1, 0));
    tell_mode("low", "low");
}
#else
static void other_abis(void) {}
#endif

static void privileges(void)
{
    tell("mount", mount("none", "/tmp", "tmpfs", 0, ""));
    tell("umount", umount("/proc"));
    tell("setuid", setuid(0));
    tell("setgroups", syscall(SYS_setgroups, 0, NULL));
    tell("mknod-device", mknod("device", S_IFCHR | 0600, 0x103));
    tell("sethostname", sethostname("x", 1));
    tell("chroot", chroot("/"));
    tell("kill-1", kill(1, 0));
    tell("kill-other", kill(2, 0));
}

static void network(const char *name)
{
    struct sockaddr_un address = {AF_UNIX};
    int s = socket(AF_UNIX, SOCK_STREAM, 0);
    strcpy(address.sun_path + 1, name);
    tell("abstract", connect(s, (void *)&address, sizeof(sa_family_t) + 1 + strlen(name)));
}

int main(int argc, char **argv)
{
    setbuf(stdout, NULL);
    for (int i = 1; i < argc; i++) {
        if (!strcmp(argv[i], "modes")) modes();
        if (!strcmp(argv[i], "attributes")) attributes();
        if (!strcmp(argv[i], "rings")) rings();
        if (!strcmp(argv[i], "abis")) other_abis();
        if (!strcmp(argv[i], "privileges")) privileges();
        if (!strncmp(argv[i], "abstract:", 9)) network(argv[i] + 9);
        if (!strcmp(argv[i], "signal")) tell("signal", kill(atoi(argv[++i]), 0));
        if (!strcmp(argv[i], "sleep")) { puts("ready"); pause(); }
    }
    return 0;
}
