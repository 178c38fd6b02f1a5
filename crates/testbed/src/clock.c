// Preloaded into the server, the agent and the router of a test: their wall clock is the machine's and the milliseconds in the file that
// GANTRY_TEST_CLOCK names. The machine's own clock is never touched.
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

static volatile long long *shift;

__attribute__((constructor)) static void open_shift(void) {
    const char *path = getenv("GANTRY_TEST_CLOCK");
    int file = path ? open(path, O_RDONLY | O_CLOEXEC) : -1;
    if (file < 0) return;
    void *mapped = mmap(NULL, sizeof *shift, PROT_READ, MAP_SHARED, file, 0);
    if (mapped != MAP_FAILED) shift = mapped;
    close(file);
}

int clock_gettime(clockid_t clock, struct timespec *time) {
    int result = syscall(SYS_clock_gettime, clock, time);
    if (result == 0 && shift && (clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE)) {
        long long nanos = time->tv_nsec + *shift % 1000 * 1000000;
        time->tv_sec += *shift / 1000;
        if (nanos < 0) { nanos += 1000000000; time->tv_sec--; }
        if (nanos >= 1000000000) { nanos -= 1000000000; time->tv_sec++; }
        time->tv_nsec = nanos;
    }
    return result;
}

int gettimeofday(struct timeval *restrict time, void *restrict zone) {
    struct timespec now;
    (void)zone;
    int result = clock_gettime(CLOCK_REALTIME, &now);
    if (result == 0 && time) { time->tv_sec = now.tv_sec; time->tv_usec = now.tv_nsec / 1000; }
    return result;
}

time_t time(time_t *out) {
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    if (out) *out = now.tv_sec;
    return now.tv_sec;
}
