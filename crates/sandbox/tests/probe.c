/* Probes the kernel. Inside a container, the program shows which calls are refused there; run by root outside, the
 * program shows that the calls themselves work. Each call is made in a process of its own and does no harm.
 *
 *   probe calls        one line each: name, then "ok", "refused" (EPERM, EACCES), "absent" (the kernel has none) or the error
 *   probe spin MILLIS  processor time in milliseconds that a busy loop of MILLIS got
 *   probe fork         how many processes there may be
 *   probe write FILE   how many bytes go into a file, at most 256 MiB
 *   probe newer        calls that newer programs make, and some that no kernel has: name, then "ok" or the error
 *   probe echo         whether an ICMP echo to this machine is answered: "answered" or the error
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/bpf.h>
#include <linux/perf_event.h>
#include <netinet/in.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/ptrace.h>
#include <sys/stat.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

typedef long call(void);

static long mount_tmpfs(void) { return mount("x", "/", "no-such-type", 0, 0); }
static long remount(void) { return mount(0, "/no-such-place", 0, MS_REMOUNT | MS_BIND, 0); }
static long new_mount_api(void) { return syscall(SYS_fsopen, "no-such-type", 0); }
static long copy_tree(void) { return syscall(428, AT_FDCWD, "/", 1 /* OPEN_TREE_CLONE */); }
static long pivot(void) { return syscall(SYS_pivot_root, "/no-such-place", "/no-such-place"); }
static long new_user(void) { return unshare(CLONE_NEWUSER); }
static long new_mounts(void) { return unshare(CLONE_NEWNS); }
static long new_network(void) { return unshare(CLONE_NEWNET); }
static long clone_user(void) { return syscall(SYS_clone, CLONE_NEWUSER | SIGCHLD, 0, 0, 0, 0); }
static long join(void) { return setns(-1, 0); }
static long keyring(void) { return syscall(SYS_keyctl, 0, -3, 1); }
static long add_key(void) { return syscall(SYS_add_key, "user", "gantry-probe", "x", 1, -2); }
static long request_key(void) { return syscall(SYS_request_key, "user", "gantry-no-such", 0, 0); }
static long bpf(void) {
  union bpf_attr attr = {.map_type = BPF_MAP_TYPE_ARRAY, .key_size = 4, .value_size = 4, .max_entries = 1};
  return syscall(SYS_bpf, BPF_MAP_CREATE, &attr, sizeof attr);
}
static long perf(void) {
  struct perf_event_attr attr = {.type = PERF_TYPE_SOFTWARE, .size = sizeof attr, .config = PERF_COUNT_SW_CPU_CLOCK};
  return syscall(SYS_perf_event_open, &attr, 0, -1, -1, 0);
}
static long trace_pid_1(void) { return ptrace(PTRACE_SEIZE, 1, 0, 0); }
static long read_pid_1(void) {
  char byte;
  struct iovec here = {&byte, 1}, there = {(void *)0x400000, 1};
  long read = process_vm_readv(1, &here, 1, &there, 1, 0);
  return read < 0 && errno == EFAULT ? 0 : read;
}
static long take_fd_of_pid_1(void) {
  int process = syscall(SYS_pidfd_open, 1, 0);
  return process < 0 ? -1 : syscall(SYS_pidfd_getfd, process, 0, 0);
}
static long af_alg(void) { return socket(38, SOCK_SEQPACKET, 0); }
static long af_vsock(void) { return socket(40, SOCK_STREAM, 0); }
static long af_packet(void) { return socket(AF_PACKET, SOCK_RAW, 0); }
static long raw_icmp(void) { return socket(AF_INET, SOCK_RAW, 1); }
static long raw_ipv6(void) { return socket(AF_INET6, SOCK_RAW, 58); }
static long by_handle(void) {
  struct { struct file_handle head; char more[128]; } handle = {.head.handle_bytes = 128};
  int id, folder = open("/", O_RDONLY | O_DIRECTORY);
  if (syscall(SYS_name_to_handle_at, AT_FDCWD, "/", &handle, &id, 0) < 0) handle.head.handle_bytes = 8;
  long fd = syscall(SYS_open_by_handle_at, folder, &handle, O_RDONLY);
  return fd < 0 && (errno == ESTALE || errno == EINVAL) ? 0 : fd;
}
static long kexec(void) { return syscall(SYS_kexec_load, 0, 1UL << 20, 0, 0); }
static long module(void) { return syscall(SYS_init_module, "x", 1, ""); }
static long io_ports(void) { return syscall(SYS_iopl, 3); }
static long swap_on(void) { return syscall(SYS_swapon, "/no-such-place", 0); }
static long set_clock(void) { return syscall(SYS_clock_settime, CLOCK_REALTIME, 0); }
static long host_name(void) { return syscall(SYS_sethostname, "", -1L); }
static long device(void) { return mknod("/tmp/gantry-probe-device", S_IFCHR | 0600, 1 << 8 | 1) ? -1 : unlink("/tmp/gantry-probe-device"); }
static long change_root(void) { return chroot("/"); }
static long kernel_log(void) { return syscall(SYS_syslog, 10, 0, 0); }
static long account(void) { return syscall(SYS_acct, "/no-such-place"); }
static long quota(void) { return syscall(SYS_quotactl, 0x80000100 | 0x800007 << 8, "/no-such-place", 0, 0); }
static long page_faults(void) { return syscall(SYS_userfaultfd, 0); }
static long rings(void) { char p[256] = {0}; return syscall(SYS_io_uring_setup, 1, p); }
static long old_clone(void) { return syscall(435, 0, 0) < 0 && errno == EINVAL ? 0 : -1; }
static long watch_all(void) { return syscall(SYS_fanotify_init, 0, 0); }
static long move_pages(void) { return syscall(SYS_move_pages, 1, 0, 0, 0, 0, 0); }
static long entry_32_bit(void) {
#ifdef __x86_64__
  long answer;
  __asm__ volatile("int $0x80" : "=a"(answer) : "a"(20L /* getpid */) : "memory");
  if (answer > 0) return 0;
  errno = -answer;
#endif
  return -1;
}
static long x32(void) { return syscall(0x40000000 | SYS_getpid); }

static const struct { const char *name; call *call; } calls[] = {
  {"mount", mount_tmpfs}, {"remount", remount}, {"fsopen", new_mount_api}, {"open_tree", copy_tree}, {"pivot_root", pivot},
  {"unshare-user", new_user}, {"unshare-mount", new_mounts}, {"unshare-net", new_network}, {"clone-user", clone_user},
  {"setns", join}, {"keyctl", keyring}, {"add_key", add_key}, {"request_key", request_key}, {"bpf", bpf},
  {"perf_event_open", perf}, {"ptrace-1", trace_pid_1}, {"process_vm_readv-1", read_pid_1},
  {"pidfd_getfd-1", take_fd_of_pid_1}, {"af_alg", af_alg}, {"af_vsock", af_vsock}, {"af_packet", af_packet},
  {"raw-icmp", raw_icmp}, {"raw-ipv6", raw_ipv6}, {"open_by_handle_at", by_handle}, {"kexec_load", kexec},
  {"init_module", module}, {"iopl", io_ports}, {"swapon", swap_on}, {"clock_settime", set_clock},
  {"sethostname", host_name}, {"mknod", device}, {"chroot", change_root}, {"syslog", kernel_log}, {"acct", account},
  {"quotactl", quota}, {"userfaultfd", page_faults}, {"io_uring_setup", rings}, {"clone3", old_clone},
  {"fanotify_init", watch_all}, {"move_pages-1", move_pages}, {"32-bit", entry_32_bit}, {"x32", x32},
};

static long change_mode(void) { return syscall(452, AT_FDCWD, "/tmp", 01777, AT_SYMLINK_NOFOLLOW); }
static long wake(void) { static unsigned word; return syscall(454, &word, -1UL, 1, 2 /* 32 bits */); }
static long seal(void) { return syscall(462, sysconf(_SC_PAGESIZE) * 16, 0L, 0L); }
static long list_attributes(void) { return syscall(465, AT_FDCWD, "/", 0, 0L, 0L); }
static long stat_cache(void) { return syscall(451, -1, 0L, 0L, 0); }
static long handle_of(void) {
  struct { struct file_handle head; char more[128]; } handle = {.head.handle_bytes = 128};
  int id;
  return syscall(SYS_name_to_handle_at, AT_FDCWD, "/proc", &handle, &id, 0);
}
static long unknown_high(void) { return syscall(600); }
static long unknown_far(void) { return syscall(100000); }
static long clone_3(void) { return syscall(435, 0, 0); }
static long open_attribute_tree(void) { return syscall(467, AT_FDCWD, "/", 0, 0L, 0L); }

static const struct { const char *name; call *call; } newer[] = {
  {"fchmodat2", change_mode}, {"futex_wake", wake}, {"mseal", seal}, {"listxattrat", list_attributes},
  {"cachestat", stat_cache}, {"name_to_handle_at", handle_of}, {"600", unknown_high}, {"100000", unknown_far},
  {"clone3", clone_3}, {"open_tree_attr", open_attribute_tree}, {"mount", mount_tmpfs}, {"clone-user", clone_user},
  {"af_vsock", af_vsock}, {"raw-icmp", raw_icmp}, {"ptrace-1", trace_pid_1},
};

/* One echo by a socket that needs no right: the kernel writes the identifier and the checksum. */
static const char *echo(void) {
  struct sockaddr_in here = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
  struct timeval timeout = {.tv_sec = 5};
  unsigned char asked[16] = {8 /* echo request */}, answer[64];
  int ends = socket(AF_INET, SOCK_DGRAM, 1 /* ICMP */);
  if (ends < 0) return strerrorname_np(errno);
  setsockopt(ends, SOL_SOCKET, SO_RCVTIMEO, &timeout, sizeof timeout);
  if (sendto(ends, asked, sizeof asked, 0, (struct sockaddr *)&here, sizeof here) < 0) return strerrorname_np(errno);
  if (recv(ends, answer, sizeof answer, 0) < 0) return strerrorname_np(errno);
  return answer[0] == 0 ? "answered" : "another message";
}

static void report(const char *name, call *call, int exact) {
  int pipe_ends[2], status;
  if (pipe(pipe_ends)) exit(2);
  pid_t child = fork();
  if (child == 0) {
    errno = 0;
    long answer = call();
    int error = answer < 0 ? errno : 0;
    _exit(write(pipe_ends[1], &error, sizeof error) != sizeof error);
  }
  close(pipe_ends[1]);
  int error = -1;
  long size = read(pipe_ends[0], &error, sizeof error);
  close(pipe_ends[0]);
  waitpid(child, &status, 0);
  if (size != sizeof error) printf("%s killed\n", name);
  else if (error == 0) printf("%s ok\n", name);
  else if (exact) printf("%s %s\n", name, strerrorname_np(error));
  else if (error == EPERM || error == EACCES) printf("%s refused\n", name);
  else if (error == ENOSYS || error == EAFNOSUPPORT || error == EPROTONOSUPPORT || error == ENODEV) printf("%s absent\n", name);
  else printf("%s %s\n", name, strerrorname_np(error));
}

static long millis(clockid_t clock) {
  struct timespec now;
  clock_gettime(clock, &now);
  return now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

int main(int count, char **words) {
  setvbuf(stdout, 0, _IOLBF, 0);
  const char *what = count > 1 ? words[1] : "calls";
  if (!strcmp(what, "calls")) {
    for (size_t n = 0; n < sizeof calls / sizeof *calls; n++) report(calls[n].name, calls[n].call, 0);
  } else if (!strcmp(what, "newer")) {
    for (size_t n = 0; n < sizeof newer / sizeof *newer; n++) report(newer[n].name, newer[n].call, 1);
  } else if (!strcmp(what, "echo")) {
    printf("%s\n", echo());
  } else if (!strcmp(what, "spin")) {
    long until = millis(CLOCK_MONOTONIC) + atol(words[2]);
    while (millis(CLOCK_MONOTONIC) < until) {}
    printf("%ld\n", millis(CLOCK_PROCESS_CPUTIME_ID));
  } else if (!strcmp(what, "fork")) {
    int made = 0;
    pid_t child;
    while (made < 100000 && (child = fork()) >= 0) {
      if (child == 0) pause();
      made++;
    }
    printf("%d\nholding\n", made);
    pause();
  } else if (!strcmp(what, "write")) {
    static char block[1 << 16];
    signal(SIGXFSZ, SIG_IGN);
    int file = open(words[2], O_WRONLY | O_CREAT | O_TRUNC, 0600);
    long written = 0, size = 1;
    while (written < 1L << 28 && (size = write(file, block, sizeof block)) > 0) written += size;
    printf("%ld %s\n", written, size < 0 ? strerrorname_np(errno) : "ok");
  }
  return 0;
}
