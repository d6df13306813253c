package dns

import (
	"cmp"
	"slices"

	corev1 "k8s.io/api/core/v1"
)

const (
	controlPlane = "node-role.kubernetes.io/control-plane"
	// placeLabel on a node has the name server run there too, or with the value false, not there. Ours is auto.
	placeLabel = "knarr.io/dns"
	auto       = "auto"
	// places is how many nodes run the name server where no server can.
	places = 2
)

// place says which nodes to label (true) and which to take our label from (false), so that the name server has a place
// where no server runs pods (--disable-agent).
func place(nodes []*corev1.Node) map[string]bool {
	var candidates []*corev1.Node
	ours := make(map[string]bool)
	elsewhere := false
	for _, n := range nodes {
		value, labelled := n.Labels[placeLabel]
		_, server := n.Labels[controlPlane]
		switch {
		case value == auto:
			ours[n.Name] = true
			candidates = append(candidates, n)
		case value == "false":
		case server || labelled:
			elsewhere = true
		default:
			candidates = append(candidates, n)
		}
	}
	change := make(map[string]bool)
	if elsewhere {
		for name := range ours {
			change[name] = false
		}
		return change
	}
	// Where it is, it stays; else the oldest, which are the ones to stay.
	slices.SortFunc(candidates, func(a, b *corev1.Node) int {
		if ours[a.Name] != ours[b.Name] {
			return map[bool]int{true: -1, false: 1}[ours[a.Name]]
		}
		return cmp.Or(a.CreationTimestamp.Compare(b.CreationTimestamp.Time), cmp.Compare(a.Name, b.Name))
	})
	for i, n := range candidates {
		if wanted := i < places; wanted != ours[n.Name] {
			change[n.Name] = wanted
		}
	}
	return change
}
