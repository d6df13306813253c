/*
 * launch: starts a bundled program that cannot be started by its name alone.
 * It lies in BUNDLE/bin under the program's name (or is reached there through a
 * link in BUNDLE/bin/aux) and looks at that name:
 *
 *   nft     is Debian's, dynamically linked: run it by the bundled loader with
 *           the bundled libraries, so that it needs nothing of the host.
 *   containerd-shim-runc-v2
 *           lies in bin/shim: give it, and so every container, the precise
 *           timers that knarr itself does without (pkg/upstream/globals,
 *           CoalesceTimers) and that each process hands down to its children.
 *   mount   is busybox's, which lacks --no-canonicalize (the kubelet's subPath
 *           mounts pass it). busybox does not resolve symlinks in the source of
 *           a bind mount anyway: drop the option.
 *
 * The bundle is found by /proc/self/exe, so that it may lie anywhere.
 */
#include "sys.h"

enum { AT_FDCWD = -100, MAX_PATH = 4096, MAX_ARGS = 1024 };

/* prctl(2); the slack is what the kernel starts its first process with, in ns. */
enum { PR_SET_TIMERSLACK = 29, DEFAULT_SLACK = 50000 };

static char shim[MAX_PATH], nft_loader[MAX_PATH], nft_program[MAX_PATH], nft_libs[MAX_PATH], busybox[MAX_PATH];
static char *args[MAX_ARGS + 8];

static int equal(const char *a, const char *b)
{
	while (*a && *a == *b)
		a++, b++;
	return *a == *b;
}

static long length(const char *s)
{
	long n = 0;

	while (s[n])
		n++;
	return n;
}

__attribute__((noreturn)) static void fail(const char *what)
{
	static const char prefix[] = "knarr: launch: ";

	sys4(NR_write, 2, (long)prefix, sizeof prefix - 1, 0);
	sys4(NR_write, 2, (long)what, length(what), 0);
	sys4(NR_write, 2, (long)"\n", 1, 0);
	quit(127);
}

/* join writes dir/name to out. */
static void join(char *out, const char *dir, const char *name)
{
	long n = 0;

	for (; *dir; dir++)
		out[n++] = *dir;
	out[n++] = '/';
	do {
		if (n == MAX_PATH)
			fail("path too long");
		out[n++] = *name;
	} while (*name++);
}

/* cut removes the last element of path. */
static void cut(char *path)
{
	long n = length(path);

	while (n > 0 && path[n] != '/')
		n--;
	path[n] = 0;
}

void start(long *stack)
{
	long argc = stack[0];
	char **argv = (char **)(stack + 1), **envp = argv + argc + 1;
	static char root[MAX_PATH];
	const char *name;
	long i, n = 0, len;

	if (argc < 1 || argc > MAX_ARGS)
		fail("bad number of arguments");
	len = sys4(NR_readlinkat, AT_FDCWD, (long)"/proc/self/exe", (long)root, MAX_PATH - 64);
	if (len <= 0 || len >= MAX_PATH - 64)
		fail("cannot read /proc/self/exe: is /proc mounted?");
	cut(root); /* BUNDLE/bin */
	cut(root); /* BUNDLE */
	for (name = argv[0], i = 0; argv[0][i]; i++)
		if (argv[0][i] == '/')
			name = argv[0] + i + 1;

	if (equal(name, "containerd-shim-runc-v2")) {
		join(shim, root, "bin/shim/containerd-shim-runc-v2");
		sys4(NR_prctl, PR_SET_TIMERSLACK, DEFAULT_SLACK, 0, 0);
		sys4(NR_execve, (long)shim, (long)argv, (long)envp, 0);
		fail("cannot run the bundled shim");
	}
	if (equal(name, "nft")) {
		join(nft_loader, root, "lib/ld.so");
		join(nft_program, root, "lib/nft");
		join(nft_libs, root, "lib");
		args[n++] = nft_loader;
		args[n++] = "--inhibit-cache";
		args[n++] = "--library-path";
		args[n++] = nft_libs;
		args[n++] = nft_program;
		for (i = 1; i < argc; i++)
			args[n++] = argv[i];
		sys4(NR_execve, (long)nft_loader, (long)args, (long)envp, 0);
		fail("cannot run the bundled nft");
	}
	if (equal(name, "mount")) {
		join(busybox, root, "bin/aux/busybox");
		args[n++] = "mount";
		for (i = 1; i < argc; i++)
			if (!equal(argv[i], "--no-canonicalize"))
				args[n++] = argv[i];
		sys4(NR_execve, (long)busybox, (long)args, (long)envp, 0);
		fail("cannot run the bundled busybox");
	}
	fail("called by a name it does not know");
}
