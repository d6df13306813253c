package flannel

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/flannel-io/flannel/pkg/subnet"
)

// These are the kernel's switches, below /proc/sys, that have it pass packets on.
const (
	forwardIPv4 = "net/ipv4/ip_forward"
	forwardIPv6 = "net/ipv6/conf/all/forwarding"
)

// forward has the kernel pass packets on. The bridge plugin does so too, but only with the first pod of a node: without
// any, a node would not pass on what comes for Services with pods elsewhere.
func forward(root string, n *subnet.Config) error {
	for name, wanted := range map[string]bool{forwardIPv4: n.EnableIPv4, forwardIPv6: n.EnableIPv6} {
		if !wanted {
			continue
		}
		file := filepath.Join(root, name)
		if now, err := os.ReadFile(file); err == nil && strings.TrimSpace(string(now)) != "0" {
			continue // also where it may not be written
		}
		if err := os.WriteFile(file, []byte("1"), 0o644); err != nil {
			return fmt.Errorf("turn on forwarding, which Services on several nodes need (`sysctl -w %s=1`): %w", strings.ReplaceAll(name, "/", "."), err)
		}
	}
	return nil
}
