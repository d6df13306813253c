package dns

import (
	"cmp"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
)

// nodeHosts is a hosts file with the names and internal addresses of all nodes, in an order that does not depend on
// that of nodes: one line an address.
func nodeHosts(nodes []*corev1.Node) string {
	nodes = slices.SortedFunc(slices.Values(nodes), func(a, b *corev1.Node) int { return cmp.Compare(a.Name, b.Name) })
	var b strings.Builder
	for _, n := range nodes {
		names := names(n)
		for _, ip := range addresses(n, corev1.NodeInternalIP) {
			b.WriteString(ip + " " + strings.Join(names, " ") + "\n")
		}
	}
	return b.String()
}

// names are what a node is called, each once.
func names(n *corev1.Node) []string {
	found := []string{n.Name}
	for _, kind := range []corev1.NodeAddressType{corev1.NodeHostName, corev1.NodeInternalDNS} {
		for _, name := range addresses(n, kind) {
			// A kubelet may set these; what is not a name would be a line of its own.
			if !slices.Contains(found, name) && len(strings.Fields(name)) == 1 && !strings.ContainsAny(name, "# \t\n") {
				found = append(found, name)
			}
		}
	}
	return found
}

func addresses(n *corev1.Node, kind corev1.NodeAddressType) (found []string) {
	for _, a := range n.Status.Addresses {
		if a.Type == kind {
			found = append(found, a.Address)
		}
	}
	return found
}
