/* What the kernel itself takes for a container's lifecycle: a process in new namespaces of every kind that runs a static program and
 * ends. No root, network, limits or filter are set up. Used by `benches/containers`: floor COUNT PROGRAM. */
#define _GNU_SOURCE
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

int main(int count, char **words) {
  if (count < 3) return 2;
  long lifecycles = atol(words[1]);
  struct timespec begun, ended;
  clock_gettime(CLOCK_MONOTONIC, &begun);
  for (long n = 0; n < lifecycles; n++) {
    long flags = CLONE_NEWNS | CLONE_NEWPID | CLONE_NEWNET | CLONE_NEWIPC | CLONE_NEWUTS | CLONE_NEWCGROUP | CLONE_NEWUSER;
    pid_t child = syscall(SYS_clone, flags | SIGCHLD, 0, 0, 0, 0);
    if (child == 0) {
      execl(words[2], "true", (char *)0);
      _exit(127);
    }
    int status = 0;
    if (child < 0 || waitpid(child, &status, 0) < 0 || status) return 1;
  }
  clock_gettime(CLOCK_MONOTONIC, &ended);
  printf("%8.1f lifecycles/s, 1 at once, %ld lifecycles\n", lifecycles / (ended.tv_sec - begun.tv_sec + (ended.tv_nsec - begun.tv_nsec) / 1e9), lifecycles);
}
