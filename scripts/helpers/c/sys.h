/*
 * The few system calls that knarr's C helpers make, without a C library: the
 * helpers stay at one or two pages each, and building them for another
 * architecture needs a compiler and nothing else.
 */
#ifndef KNARR_SYS_H
#define KNARR_SYS_H

#if defined(__x86_64__)
enum { NR_write = 1, NR_rt_sigprocmask = 14, NR_execve = 59, NR_exit = 60,
       NR_wait4 = 61, NR_rt_sigtimedwait = 128, NR_prctl = 157, NR_readlinkat = 267 };

static long sys4(long n, long a, long b, long c, long d)
{
	long r;
	register long r10 __asm__("r10") = d;

	__asm__ volatile("syscall" : "=a"(r)
			 : "a"(n), "D"(a), "S"(b), "d"(c), "r"(r10)
			 : "rcx", "r11", "memory");
	return r;
}

/* The kernel enters with argc at the top of the stack; hand its address on. */
__asm__(".globl _start\n_start:\n\txor %ebp,%ebp\n\tmov %rsp,%rdi\n"
	"\tand $-16,%rsp\n\tcall start\n\thlt\n");

#elif defined(__aarch64__)
enum { NR_readlinkat = 78, NR_write = 64, NR_exit = 93, NR_rt_sigprocmask = 135,
       NR_rt_sigtimedwait = 137, NR_prctl = 167, NR_execve = 221, NR_wait4 = 260 };

static long sys4(long n, long a, long b, long c, long d)
{
	register long x8 __asm__("x8") = n;
	register long x0 __asm__("x0") = a;
	register long x1 __asm__("x1") = b;
	register long x2 __asm__("x2") = c;
	register long x3 __asm__("x3") = d;

	__asm__ volatile("svc #0" : "+r"(x0)
			 : "r"(x8), "r"(x1), "r"(x2), "r"(x3) : "memory");
	return x0;
}

__asm__(".globl _start\n_start:\n\tmov x29,#0\n\tmov x30,#0\n\tmov x0,sp\n"
	"\tb start\n");

#elif defined(__arm__)
enum { NR_exit = 1, NR_write = 4, NR_execve = 11, NR_wait4 = 114,
       NR_prctl = 172, NR_rt_sigprocmask = 175, NR_rt_sigtimedwait = 177, NR_readlinkat = 332 };

static long sys4(long n, long a, long b, long c, long d)
{
	/* r7 is the frame pointer in Thumb: build with -marm. */
	register long r7 __asm__("r7") = n;
	register long r0 __asm__("r0") = a;
	register long r1 __asm__("r1") = b;
	register long r2 __asm__("r2") = c;
	register long r3 __asm__("r3") = d;

	__asm__ volatile("svc #0" : "+r"(r0)
			 : "r"(r7), "r"(r1), "r"(r2), "r"(r3) : "memory");
	return r0;
}

__asm__(".globl _start\n_start:\n\tmov fp,#0\n\tmov lr,#0\n\tmov r0,sp\n"
	"\tbic sp,sp,#7\n\tb start\n");

#else
#error "no system calls known for this architecture"
#endif

/* Called by _start with the address of argc; argv and envp follow it. */
__attribute__((noreturn, used)) void start(long *stack);

__attribute__((noreturn)) static void quit(int code)
{
	for (;;)
		sys4(NR_exit, code, 0, 0, 0);
}

#endif
