/*
 * pause: the first process of every pod. It holds the pod's namespaces open,
 * reaps what is orphaned to it when the pod shares its process namespace, and
 * ends at once on SIGTERM or SIGINT.
 *
 * The signals are blocked and waited for, never handled: a blocked signal
 * reaches even process 1 of a namespace, which would ignore an unhandled one.
 */
#include "sys.h"

enum { SIG_BLOCK = 0, SIGINT = 2, SIGTERM = 15, SIGCHLD = 17, WNOHANG = 1 };

#define BIT(sig) (1ull << ((sig) - 1))

void start(long *stack)
{
	/* The kernel's sigset_t: 64 bits on every architecture supported. */
	unsigned long long set = BIT(SIGINT) | BIT(SIGTERM) | BIT(SIGCHLD);

	(void)stack;
	if (sys4(NR_rt_sigprocmask, SIG_BLOCK, (long)&set, 0, sizeof set) < 0)
		quit(1);
	for (;;) {
		long sig = sys4(NR_rt_sigtimedwait, (long)&set, 0, 0, sizeof set);

		if (sig == SIGINT || sig == SIGTERM)
			quit(0);
		/* One SIGCHLD may stand for several children. */
		while (sys4(NR_wait4, -1, 0, WNOHANG, 0) > 0)
			;
	}
}
