package bed

import (
	"net"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// Listen listens on the loopback until the test ends, without Multipath TCP, whose sockets cannot be made deaf.
func Listen(t testing.TB) *net.TCPListener {
	t.Helper()
	var plain net.ListenConfig
	plain.SetMultipathTCP(false)
	l, err := plain.Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() }) // the test may have closed it
	tcp, ok := l.(*net.TCPListener)
	if !ok {
		t.Fatalf("a listener is a %T", l)
	}
	return tcp
}

// Deaf has the kernel drop all that comes for a socket, as if it were lost on the way, until it is told otherwise.
func Deaf(t testing.TB, socket syscall.Conn, on bool) {
	t.Helper()
	raw, err := socket.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	var optErr error
	err = raw.Control(func(fd uintptr) {
		if on {
			nothing := unix.SockFilter{Code: unix.BPF_RET | unix.BPF_K, K: 0}
			optErr = unix.SetsockoptSockFprog(int(fd), unix.SOL_SOCKET, unix.SO_ATTACH_FILTER, &unix.SockFprog{Len: 1, Filter: &nothing})
		} else {
			optErr = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_DETACH_FILTER, 0)
		}
	})
	if err != nil || optErr != nil {
		t.Fatal(err, optErr)
	}
}
