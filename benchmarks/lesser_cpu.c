/* Loaded before a program: CPUID tells it of AVX2 and of nothing newer.
 *
 * Linux lets a thread ask that CPUID faults (arch_prctl, ARCH_SET_CPUID; Intel CPUs have it, and the threads that it starts ask
 * the same). The handler below answers in CPUID's place. What the dynamic loader asked before is not undone: glibc's own memcpy
 * may be a newer one. The bits are those of the Intel 64 manual, volume 2A, CPUID, leaf 7. */
#define _GNU_SOURCE
#include <cpuid.h>
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <ucontext.h>
#include <unistd.h>

#define ARCH_SET_CPUID 0x1012
#define BIT(n) (1u << (n))

/* AVX-512 F, DQ, IFMA, PF, ER, CD, BW, VL */
static const unsigned NEWER_EBX = BIT(16) | BIT(17) | BIT(21) | BIT(26) | BIT(27) | BIT(28) | BIT(30) | BIT(31);
/* AVX-512 VBMI, VBMI2; GFNI, VAES, VPCLMULQDQ; AVX-512 VNNI, BITALG, VPOPCNTDQ */
static const unsigned NEWER_ECX = BIT(1) | BIT(6) | BIT(8) | BIT(9) | BIT(10) | BIT(11) | BIT(12) | BIT(14);
/* AVX-512 4VNNIW, 4FMAPS, VP2INTERSECT; AMX-BF16, AVX-512 FP16, AMX-TILE, AMX-INT8 */
static const unsigned NEWER_EDX = BIT(2) | BIT(3) | BIT(8) | BIT(22) | BIT(23) | BIT(24) | BIT(25);

static long allow_cpuid(int allowed) { return syscall(SYS_arch_prctl, ARCH_SET_CPUID, allowed); }

static void answer(int number, siginfo_t *info, void *context) {
  (void)number;
  (void)info;
  greg_t *registers = ((ucontext_t *)context)->uc_mcontext.gregs;
  const unsigned char *instruction = (const unsigned char *)registers[REG_RIP];
  if (instruction[0] != 0x0f || instruction[1] != 0xa2) { /* not CPUID: the fault comes again, and ends the program */
    signal(SIGSEGV, SIG_DFL);
    return;
  }
  int before = errno;
  unsigned leaf = (unsigned)registers[REG_RAX], part = (unsigned)registers[REG_RCX], a, b, c, d;
  allow_cpuid(1);
  __cpuid_count(leaf, part, a, b, c, d);
  allow_cpuid(0);
  if (leaf == 7 && part == 0) {
    a = 0; /* no further parts, which hold AVX-VNNI and AVX-512 BF16 */
    b &= ~NEWER_EBX;
    c &= ~NEWER_ECX;
    d &= ~NEWER_EDX;
  } else if (leaf == 7 || leaf == 0x1d || leaf == 0x1e || leaf == 0x24) { /* its further parts, AMX's tiles, AVX10 */
    a = b = c = d = 0;
  }
  registers[REG_RAX] = a;
  registers[REG_RBX] = b;
  registers[REG_RCX] = c;
  registers[REG_RDX] = d;
  registers[REG_RIP] += 2;
  errno = before;
}

__attribute__((constructor)) static void begin(void) {
  struct sigaction action = {.sa_sigaction = answer, .sa_flags = SA_SIGINFO};
  if (sigaction(SIGSEGV, &action, NULL) || allow_cpuid(0)) {
    fputs("lesser_cpu: CPUID does not fault on this CPU or this kernel\n", stderr);
    _exit(77);
  }
}
