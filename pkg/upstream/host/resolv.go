package host

import (
	"net/netip"
	"os"
	"strings"
)

// ResolvConf is the resolv.conf that pods can use: the host's own, or where that names only loopback resolvers, which
// pods cannot reach, the one that systemd-resolved keeps of the real servers. False when there is no usable one.
func ResolvConf() (string, bool) {
	for _, path := range []string{"/etc/resolv.conf", "/run/systemd/resolve/resolv.conf"} {
		if content, err := os.ReadFile(path); err == nil && reachableResolver(string(content)) {
			return path, true
		}
	}
	return "", false
}

func reachableResolver(content string) bool {
	for line := range strings.Lines(content) {
		fields := strings.Fields(line)
		if len(fields) < 2 || fields[0] != "nameserver" {
			continue
		}
		if a, err := netip.ParseAddr(fields[1]); err == nil && !a.IsLoopback() {
			return true
		}
	}
	return false
}
